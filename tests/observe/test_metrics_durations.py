"""Durations of calls and attempts: their buckets, when they are recorded, and examples."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from resilient import Bulkhead, Pipeline, Retry, Timeout
from resilient.observe.metrics import Exemplar, Histogram, read, record_durations
from resilient.stats.durations import BUCKETS_PER_OCTAVE, DurationHistogram
from resilient.testing import run
from tests.observe.metric_values import attempt, fails, values


@pytest.mark.parametrize("seconds", [1e-9, 0.0099, 0.5, 1.0, 1.0000001, 64.0, 3600.0])
def test_bucket_of_a_duration_contains_it(seconds: float) -> None:
    """The upper bound belongs to the bucket."""
    histogram = DurationHistogram()
    histogram.record(seconds)
    (index,) = histogram.state()[0]
    low, high = 2 ** (index / BUCKETS_PER_OCTAVE), 2 ** ((index + 1) / BUCKETS_PER_OCTAVE)
    assert low < seconds <= high * (1 + 1e-12)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e99, math.inf, 2.0**20])
def test_durations_out_of_range_are_in_the_last_bucket(seconds: float) -> None:
    histogram = DurationHistogram()
    histogram.record(seconds)
    assert list(histogram.state()[0].values()) == [1]


def test_durations_are_recorded_while_anyone_wants_them() -> None:
    pipeline = Pipeline(Bulkhead(1), Timeout(5), name="durations")

    @pipeline
    async def call(seconds: float) -> None:
        await asyncio.sleep(seconds)

    def count() -> int:
        return sum(values("call.duration", "durations").values())

    run(call(1))
    assert count() == 0
    first, second = record_durations(), record_durations(attempts=True)
    run(call(1))
    first()
    first()
    run(call(2))
    second()
    run(call(3))
    assert count() == 2
    found = {
        metric.name: series.value
        for metric, each in read().items()
        for series in each
        if series.labels[:1] == ("durations",)
    }
    durations = found["resilient.call.duration"]
    assert isinstance(durations, Histogram)
    assert durations.sum == pytest.approx(3)
    assert list(durations.buckets) == [-1, 31]
    assert found["resilient.attempt.duration"] == durations


def test_failures_have_their_own_durations() -> None:
    stop = record_durations(attempts=True)
    pipeline = Pipeline(Retry(attempts=2, wait=0), name="failing durations")
    attempt(pipeline.call, fails(ConnectionError()))
    stop()
    assert values("call.duration", "failing durations") == {("failure",): 1}
    assert values("attempt.duration", "failing durations") == {("failure",): 2}


def test_nested_pipelines_have_durations_of_their_own() -> None:
    """A call of the outer one is a call of the inner one, for as long as it is inside."""
    stop = record_durations()
    inner = Pipeline(Retry(attempts=2, wait=0), name="durations inside")
    outer = Pipeline(Timeout(5), inner, name="durations outside")

    @outer
    async def call(fails: bool) -> None:
        await asyncio.sleep(1)
        if fails:
            raise ConnectionError

    async def main() -> None:
        await call(False)
        with pytest.raises(ConnectionError):
            await call(True)

    run(main())
    stop()
    for name in ("durations inside", "durations outside"):
        assert values("call.duration", name) == {("success",): 1, ("failure",): 1}


def test_failed_and_slow_calls_are_examples() -> None:
    """The labels come from a function that is called in the context of the call."""
    stop = record_durations(exemplar=lambda: {"trace_id": "7"}, slow=1.0)
    pipeline = Pipeline(Bulkhead(5), name="examples")

    @pipeline
    async def call(seconds: float, error: Exception | None = None) -> None:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error

    async def main() -> None:
        await call(0.5)
        await call(2.0)
        with pytest.raises(ConnectionError):
            await call(0.25, ConnectionError())

    run(main())
    stop()
    (metric,) = [metric for metric in read() if metric.name == "resilient.call.duration"]
    found = {series.labels: series.value for series in read()[metric] if series.labels[0] == "examples"}
    good, bad = found["examples", "success"], found["examples", "failure"]
    assert isinstance(good, Histogram)
    assert isinstance(bad, Histogram)
    (example,) = good.exemplars.values()
    assert example == Exemplar({"trace_id": "7"}, pytest.approx(2.0), example.at)
    assert abs(example.at - time.time()) < 60
    assert [each.seconds for each in bad.exemplars.values()] == [pytest.approx(0.25)]


def test_exemplar_that_raises_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    stop = record_durations(exemplar=lambda: {}["broken"], slow=0)
    assert Pipeline(Bulkhead(5), name="bad example").call(lambda: 7) == 7
    stop()
    assert "which returns the labels of an exemplar" in caplog.text


def test_arguments_of_recording_are_checked() -> None:
    with pytest.raises(TypeError, match="exemplar"):
        record_durations(exemplar=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="slow"):
        record_durations(slow=-1)
    with pytest.raises(TypeError, match="attempts"):
        record_durations(attempts="yes")  # type: ignore[arg-type]
