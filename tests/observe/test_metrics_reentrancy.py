"""Metrics may be read, and pipelines made, dropped and called, by signal handlers and finalizers in the midst of it."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable

import pytest

from resilient import Bulkhead, Pipeline
from resilient.observe.metrics import Histogram, read, record_durations
from tests.core.test_reentrancy import Interrupted, within_time

NAME = "in the midst"


def made() -> Pipeline:
    """A new pipeline of the name."""
    return Pipeline(Bulkhead(9), name=NAME)


def fails() -> None:
    raise OSError


def record_and_stop() -> None:
    record_durations()()


def call(pipeline: Pipeline) -> None:
    """One call that succeeds, and one that fails."""
    pipeline.call(lambda: None)
    with pytest.raises(OSError):
        pipeline.call(fails)
    COUNTED["success"] += 1
    COUNTED["failure"] += 1


COUNTED: Counter[str] = Counter()
"""The calls of a test, by their endings."""


@pytest.fixture(autouse=True)
def count_from_zero() -> None:
    COUNTED.clear()


def shown(metric: str) -> Counter[str]:
    """The values of a metric of the pipelines of the name, by the ending."""
    return Counter(
        {
            series.labels[1]: series.value.count if isinstance(series.value, Histogram) else int(series.value)
            for each, found in read().items()
            for series in found
            if each.name == metric and series.labels[0] == NAME and series.value
        }
    )


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(read, id="read"),
        pytest.param(lambda: call(made()), id="make, call and drop"),
        pytest.param(record_and_stop, id="record durations"),
    ],
)
def test_counters_are_whole_whatever_interrupts_them(function: Callable[[], object]) -> None:
    """None falls, and nothing is lost or counted twice. The interrupted pipelines share their name and the new ones of
    the handler, which are gone when it ends."""
    kept = made()

    def handler() -> None:
        before = shown("resilient.calls")
        call(kept)
        call(made())
        gc.collect(0)
        after = shown("resilient.calls")
        assert all(after[ending] == before[ending] + 2 for ending in ("success", "failure"))

    def main() -> None:
        for _ in Interrupted(handler).everywhere(function):
            pass

    within_time(main)
    assert shown("resilient.calls") == shown("resilient.attempts") == COUNTED


def test_first_durations_are_whole_in_the_midst_of_another_first() -> None:
    """The histogram of an ending is made with the first duration."""
    stop = record_durations(attempts=True)
    try:
        interrupted = Interrupted(lambda: call(made()))
        before = shown("resilient.call.duration").total()
        calls = COUNTED.total()
        within_time(lambda: [None for _ in interrupted.everywhere(lambda: call(made()))])
        assert shown("resilient.call.duration").total() - before == COUNTED.total() - calls
    finally:
        stop()
