"""The standard pipelines: their documented figures, and what they do before, in and after an outage."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    Budget,
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Hedge,
    Pipeline,
    PipelineWarning,
    Retry,
    TimedOut,
    Timeout,
    registry,
    standard,
    standard_hedged,
)
from resilient.runtime import virtual
from tests.properties.cancellation_driver import assert_idle
from tests.worlds import World

BOTH = pytest.mark.parametrize("make", [standard, standard_hedged])
Make = Callable[..., Pipeline]


# -- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "tree"),
    [
        (
            standard,
            [
                "users",
                "├─ Timeout(30 s)",
                "├─ Retry(3 attempts, full jitter 0.1 s to 20 s)",
                "├─ Bulkhead(1000)",
                "├─ " + repr(CircuitBreaker(failure_rate=0.5, window_seconds=10, min_calls=20, break_duration=5)),
                "└─ Timeout(9 s)",
            ],
        ),
        (
            standard_hedged,
            [
                "users",
                "├─ Timeout(30 s)",
                "├─ Retry(3 attempts, full jitter 0.1 s to 20 s)",
                "├─ Hedge(2 copies, after the observed p95 (0.001 to 1.5 s))",
                "├─ Bulkhead(1000)",
                "├─ " + repr(CircuitBreaker(failure_rate=0.5, window_seconds=10, min_calls=20, break_duration=5)),
                "└─ Timeout(8 s)",
            ],
        ),
    ],
)
def test_figures_are_as_documented(make: Make, tree: list[str]) -> None:
    """The policies of a preset have the documented figures, outermost first."""
    assert make("users").describe().splitlines() == tree


@BOTH
@pytest.mark.parametrize("total", [0.01, 0.2, 1, 5, 12, 30, 300])
@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_plan_fits_its_total_whatever_it_is(make: Make, total: float, attempts: int) -> None:
    """Without a word: there is nothing to warn of, and no attempt is longer than it usually is."""
    pipeline = make(total=total, attempts=attempts)
    assert pipeline.findings == []
    *_, attempt = (policy.facts.time_limit for policy in pipeline.policies if policy.facts.time_limit is not None)
    assert min(8, total / (5 * attempts)) <= attempt <= 9


@BOTH
def test_attempt_that_is_given_is_kept(make: Make) -> None:
    """A given `attempt` is kept, with a warning if it does not fit."""
    with pytest.warns(PipelineWarning, match="does not fit into 5 s"):
        pipeline = make(total=5, attempt=2)
    assert [policy.facts.time_limit for policy in pipeline.policies if policy.facts.time_limit is not None] == [5, 2]


@BOTH
def test_budget_is_as_documented(make: Make) -> None:
    """A tenth of successes, one in reserve, ten at the most; one for retries and hedges."""
    budgets = {policy.facts.budget for policy in make().policies if policy.facts.budget is not None}
    (budget,) = budgets
    assert (budget.ratio, budget.reserve, budget.cap) == (0.1, 1.0, 10.0)


@BOTH
def test_nothing_is_wrong_with_the_plan(make: Make) -> None:
    """No warning, and none with `strict=True` either."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = make()
        assert pipeline.findings == []
        assert Pipeline(*pipeline.policies, strict=True).findings == []


@BOTH
def test_plan_that_no_longer_fits_is_found(make: Make) -> None:
    """A changed figure that cannot work raises a warning."""
    with pytest.warns(PipelineWarning, match="does not fit into 20 s"):
        make(total=20, attempt=9)


@BOTH
def test_name_and_classifier_are_the_pipelines(make: Make) -> None:
    """The pipeline has the given name and classifier, and the registry knows it."""
    judge = Classifier(ignore=KeyError)
    pipeline = make("users", classify=judge)
    assert registry.pipeline("users") is pipeline
    assert pipeline.classify is judge
    assert make().name == ""


@BOTH
def test_figures_can_be_changed(make: Make) -> None:
    """Each figure can be changed by an argument."""
    budget = Budget(0.2)
    pipeline = make(total=10, attempt=2, attempts=2, max_concurrent=5, budget=budget)
    total, attempt = (policy for policy in pipeline.policies if isinstance(policy, Timeout))
    (retry,) = (policy for policy in pipeline.policies if isinstance(policy, Retry))
    (bulkhead,) = (policy for policy in pipeline.policies if isinstance(policy, Bulkhead))
    assert (total.seconds, attempt.seconds, retry.attempts, bulkhead.max_concurrent) == (10, 2, 2, 5)
    assert {policy.facts.budget for policy in pipeline.policies if policy.facts.budget is not None} == {budget}


def test_hedge_can_be_changed() -> None:
    """The delay and the copies of the hedge, and where the first one runs, can be changed."""
    (hedge,) = (
        policy for policy in standard_hedged(delay=0.2, copies=3, inline=True).policies if isinstance(policy, Hedge)
    )
    assert (hedge.delays, hedge.copies, hedge.inline) == ((0.2, 0.2), 3, True)


@BOTH
def test_one_policy_can_be_replaced(make: Make) -> None:
    """One policy can be replaced, also one of the two Timeouts, by its name."""
    pipeline = make().with_(Timeout(3, name="attempt"))
    assert [policy.seconds for policy in pipeline.policies if isinstance(policy, Timeout)] == [30, 3]


@BOTH
def test_each_has_state_of_its_own(make: Make) -> None:
    """An outage of one dependency has no effect on the pipeline of another."""
    one, other = make(), make()
    assert not {id(policy) for policy in one.policies} & {id(policy) for policy in other.policies}
    assert not {id(policy.facts.budget) for policy in one.policies if policy.facts.budget} & {
        id(policy.facts.budget) for policy in other.policies if policy.facts.budget
    }


@BOTH
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"total": 0}, "seconds must be"),
        ({"attempts": 0}, "attempts must be"),
        ({"max_concurrent": -1}, "max_concurrent must be"),
        ({"name": " "}, "name must not be"),
    ],
)
def test_impossible_figures_are_refused(make: Make, options: Any, words: str) -> None:
    """Impossible figures are refused, as by the policies themselves."""
    with pytest.raises(ValueError, match=words):
        make(**options)


# -- in good times --------------------------------------------------------------------------------------------------


def test_standard_guards_functions_of_every_world(world: World) -> None:
    """A failure is repeated, a result comes back, and nothing is held."""
    pipeline = standard()
    with pipeline.switch("instant"):
        assert world.call(pipeline(world.dependency(OSError(), 7).fn)) == 7
    assert_idle(pipeline.snapshot())


def test_standard_hedged_guards_coroutine_functions(world: World) -> None:
    """A plain `def` is refused: a copy of it would need a thread."""
    pipeline = standard_hedged()
    dependency = world.dependency(OSError(), 7)
    if not world.is_async:
        with pytest.raises(TypeError, match="copies of a plain def need threads"):
            pipeline(dependency.fn)
        return
    with pipeline.switch("instant"):
        assert world.call(pipeline(dependency.fn)) == 7
    assert_idle(pipeline.snapshot())


@pytest.mark.virtual_time
@pytest.mark.parametrize("inline", [False, True])
async def test_standard_hedged_takes_the_second_copy_when_the_first_is_late(inline: bool) -> None:
    """After one second; it pays for it."""
    pipeline = standard_hedged(inline=inline)
    times = iter([60.0, 0.25])

    @pipeline
    async def fetch() -> float:
        seconds = next(times)
        await asyncio.sleep(seconds)
        return seconds

    assert await fetch() == 0.25
    assert asyncio.get_running_loop().time() == 1.25
    hedge = pipeline.snapshot()["policies"][2]
    assert (hedge["started"], hedge["won"], hedge["budget"]["spent"]) == (1, 1, 1)
    await pipeline.aclose()
    assert_idle(pipeline.snapshot())


@BOTH
@pytest.mark.virtual_time
async def test_more_calls_than_permits_are_refused(make: Make) -> None:
    """Calls beyond the permits are refused at once, and not repeated."""
    pipeline = make(max_concurrent=2)

    @pipeline
    async def fetch() -> None:
        await asyncio.sleep(0.5)

    outcomes = await asyncio.gather(*(fetch() for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), BulkheadFull]


@BOTH
@pytest.mark.virtual_time
async def test_call_that_hangs_ends_within_the_total(make: Make) -> None:
    """With one retry, for which the reserve pays; the attempts are ended each."""
    pipeline = make()

    @pipeline
    async def fetch() -> None:
        await asyncio.sleep(3600)

    with pytest.raises(TimedOut) as caught:
        await fetch()
    assert caught.value.policy == "attempt"
    assert asyncio.get_running_loop().time() <= 30


@BOTH
@pytest.mark.virtual_time
async def test_all_three_attempts_fit_the_total(make: Make) -> None:
    """All three attempts fit into the total, whatever they take, if the budget has enough."""
    pipeline = make(budget=Budget(reserve=10))
    begun: list[float] = []

    @pipeline
    async def fetch() -> None:
        begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(3600)

    with pytest.raises(TimedOut) as caught:
        await fetch()
    assert caught.value.policy == "attempt"
    assert len(begun) == 3 * (1 if make is standard else 2)
    assert asyncio.get_running_loop().time() <= 27.3


# -- in an outage ---------------------------------------------------------------------------------------------------


async def outage(make: Make, *, seconds: int, rate: int) -> tuple[Pipeline, list[int], list[int]]:
    """Run 20 good seconds, `seconds` bad ones, and 100 good ones; return the pipeline, and its calls and requests in
    each second."""
    pipeline = make()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    calls, requests = [0] * (seconds + 130), [0] * (seconds + 130)

    def now() -> int:
        return int(loop.time() - begin + 1e-9)

    @pipeline
    async def fetch() -> None:
        requests[now()] += 1
        await asyncio.sleep(0.01)
        if 20 <= now() < 20 + seconds:
            raise OSError

    async def call() -> None:
        calls[now()] += 1
        try:
            await fetch()
        except (OSError, CircuitOpen):
            pass

    tasks = []
    for _ in range((seconds + 120) * rate):
        tasks.append(asyncio.create_task(call()))
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*tasks)
    await pipeline.aclose()
    return pipeline, calls, requests


@BOTH
def test_outage_is_not_multiplied_and_ends_by_itself(make: Make) -> None:
    """What was saved up is spent once, the breaker opens, a handful of probes go out; then all is as before."""
    pipeline, calls, requests = virtual.run(outage(make, seconds=60, rate=20))
    assert sum(requests[:20]) == sum(calls[:20])
    assert sum(requests[20:80]) < 0.25 * sum(calls[20:80])
    assert max(requests[20:80]) <= 20 * 1.5  # in no second more than half as much again
    assert sum(requests[30:80]) <= 50  # after the breaker has opened: probes
    assert sum(requests[160:180]) == sum(calls[160:180])  # breaks double, to a minute at the most
    assert pipeline.snapshot()["policies"][-2]["state"] == "closed"
    assert_idle(pipeline.snapshot())


@BOTH
def test_requests_per_call_stay_near_one_where_the_breaker_never_opens(make: Make) -> None:
    """A small client, below the breaker's twenty calls in ten seconds: the reserve, what was saved, and no more."""
    _, calls, requests = virtual.run(outage(make, seconds=100, rate=1))
    assert sum(requests[20:120]) <= sum(calls[20:120]) + 3
