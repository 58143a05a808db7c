"""Counters of calls that end in rare ways are what the caller got."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import resilient
from resilient import Bulkhead, CircuitBreaker, Keyed, Pipeline, PipelineClosed, Retry, TimedOut, Timeout, registry
from resilient.events import CallEnded
from resilient.testing import run


def counted(metric: str, pipeline: str) -> dict[tuple[str, ...], Any]:
    """The values of a metric of one pipeline, by the values of the labels after the pipeline; of a counter those that
    are not 0."""
    found = registry.metrics()[f"resilient.{metric}"]
    return {
        tuple(series["labels"].values())[1:]: series["value"]
        for series in found["series"]
        if series["labels"].get("pipeline") == pipeline and (found["kind"] != "counter" or series["value"])
    }


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_call_of_a_closed_pipeline_is_rejected() -> None:
    """Also of a closed one inside an open one."""
    inner = Pipeline(Bulkhead(1), name="closed inside")
    outer = Pipeline(Timeout(5), inner, name="open outside")
    inner.close()
    for pipeline in (inner, outer):
        with pytest.raises(PipelineClosed):
            pipeline.call(lambda: None)
    assert counted("calls", "closed inside") == {("rejected", "nothing"): 2}
    assert counted("calls", "open outside") == {("rejected", "nothing"): 1}
    assert counted("calls.in_flight", "closed inside") == {(): 0}


@pytest.mark.parametrize("listens", [False, True])
def test_call_that_the_callers_deadline_ends_has_timed_out(listens: bool) -> None:
    """As `CallEnded` says: one is cut short, the next one does not begin, and has no attempt."""
    name = f"inherited {listens}"
    pipeline = Pipeline(Retry(), Bulkhead(3), name=name)
    ends: list[CallEnded] = []
    if listens:
        pipeline.listen(ends.append, CallEnded)  # type: ignore[arg-type]
    guarded = pipeline(sleep)

    async def main() -> None:
        with resilient.deadline(1):
            for _ in range(2):
                with pytest.raises(TimedOut):
                    await guarded(5)

    run(main())
    assert counted("calls", name) == {("timeout", "nothing"): 2}
    assert counted("attempts", name) == {("cancelled", "nothing"): 1}
    assert counted("timeouts", name) == {("deadline",): 2}
    assert counted("calls.in_flight", name) == {(): 0}
    assert [(end.ending, end.verdict) for end in ends] == [("timeout", "nothing")] * 2 * listens


def test_error_of_a_key_function_is_a_failure_of_the_inner_pipeline_too() -> None:
    """It was counted as a cancellation."""
    inner = Pipeline(Keyed(CircuitBreaker, key=lambda number: 1 / number), name="bad key inside")
    outer = Pipeline(Timeout(5), inner, name="bad key outside")
    with pytest.raises(ZeroDivisionError):
        outer.call(lambda number: None, 0)
    for name in ("bad key inside", "bad key outside"):
        assert counted("calls", name) == {("failure", "nothing"): 1}
