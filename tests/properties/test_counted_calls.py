"""Counters of any pipeline are what callers and the dependency have counted, whatever is cancelled, late or closed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    registry,
)
from resilient.core.policy import Policy
from resilient.events import CallEnded
from resilient.observe.metrics import record_durations
from resilient.testing import run

CALLS = 60

POLICIES: tuple[Callable[[], Policy], ...] = (
    lambda: Retry(attempts=3, wait=0.1),
    lambda: Retry(attempts=2, wait=0),
    lambda: Timeout(0.3),
    lambda: Timeout(2),
    lambda: Bulkhead(2, queue=2, queue_timeout=0.5),
    lambda: CircuitBreaker(fail_max=3, break_duration=1),
    lambda: CircuitBreaker(fail_max=1, shadow=True),
    lambda: RateLimit(20, burst=3, max_wait=0.5),
    lambda: Hedge(0.05),
    lambda: Fallback("instead"),
    lambda: Keyed(lambda: Bulkhead(1, queue=1), key=lambda number: number % 2),
    lambda: Keyed(CircuitBreaker, key=lambda number: 1 // (number % 7)),
)


def total(metric: str, pipeline: str) -> Counter[str]:
    """The values of a metric of a pipeline, by the ending."""
    found: Counter[str] = Counter()
    for series in registry.metrics()[f"resilient.{metric}"]["series"]:
        if series["labels"]["pipeline"] == pipeline:
            found[series["labels"].get("ending", "")] += series["value"]
    return +found


def ending_of(result: Any, error: BaseException | None, *, judged: bool) -> str:
    """How a call ended for its caller."""
    if error is None:
        return "failure" if judged and result == -1 else "success"
    if isinstance(error, Rejected):
        return "rejected"
    if isinstance(error, TimedOut):
        return "timeout"
    return "failure" if isinstance(error, Exception) else "cancelled"


@pytest.mark.filterwarnings("ignore::UserWarning")  # orders of policies that lint advises against
@pytest.mark.parametrize("seed", range(25))
def test_counts_are_those_of_callers_and_dependency(seed: int) -> None:
    """With one to four policies and perhaps a nested pipeline, judged results, listeners, recorded durations; calls are
    cancelled at random, some twice; the last ones meet a closed pipeline."""
    chance = random.Random(seed)
    judged = chance.random() < 0.3
    classify = Classifier(results=lambda result: result == -1) if judged else None
    policies: list[Policy] = [chance.choice(POLICIES)() for _ in range(chance.randint(1, 4))]
    if chance.random() < 0.3:
        policies.append(Pipeline(chance.choice(POLICIES)(), name="nested"))
    pipeline = Pipeline(*policies, name="any", classify=classify)
    stop = record_durations(attempts=True) if chance.random() < 0.4 else None
    events: list[CallEnded] | None = [] if chance.random() < 0.5 else None
    if events is not None:
        pipeline.listen(events.append, CallEnded)  # type: ignore[arg-type]
    ends: Counter[str] = Counter()
    attempts = 0

    async def dependency(number: int) -> int:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(chance.choice([0, 0, 0.1, 0.5, 3]))
        outcome = chance.choice([ConnectionError(), ValueError(), TimeoutError(), -1, number, number, number, number])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    guarded = pipeline(dependency)

    async def caller(number: int) -> None:
        result, error = None, None
        try:
            if chance.random() < 0.3:
                with resilient.deadline(0.4):
                    result = await guarded(number)
            else:
                result = await guarded(number)
        except BaseException as raised:
            error = raised
        ends[ending_of(result, error, judged=judged)] += 1

    async def main() -> None:
        tasks = []
        for number in range(CALLS):
            tasks.append(asyncio.create_task(caller(number)))
            await asyncio.sleep(chance.choice([0, 0.01, 0.1, 0.3]))
            for _ in range(chance.choice([0, 0, 1, 2])):
                chance.choice(tasks[-3:]).cancel()
        closing = asyncio.create_task(pipeline.aclose())
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(caller(number)) for number in range(2)]
        await asyncio.wait([*tasks, closing])
        await asyncio.sleep(20)  # the losers of hedges have ended

    run(main())
    if stop is not None:
        stop()
    assert total("calls", "any") == ends
    assert total("attempts", "any").total() == attempts
    assert total("calls.in_flight", "any") == {}
    if events is not None:
        assert Counter(event.ending for event in events) == ends
