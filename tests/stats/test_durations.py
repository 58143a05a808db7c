"""Quantiles of the cumulative histogram of durations."""

from __future__ import annotations

import importlib.util
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.stats.durations import DurationHistogram, quantile


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_quantile_is_within_its_error(durations: list[float], share: float) -> None:
    """The quantile of the buckets is at most 1.1% beside that of the durations themselves."""
    histogram = DurationHistogram()
    for seconds in durations:
        histogram.record(seconds)
    exact = sorted(durations)[math.ceil(share * len(durations)) - 1]
    assert quantile(histogram.buckets, share) == pytest.approx(exact, rel=0.0111)


def test_quantile_of_no_durations_is_refused() -> None:
    """There is no number that would be right."""
    with pytest.raises(ValueError, match="no durations"):
        quantile({}, 0.5)


def test_threads_record_at_the_same_time_without_a_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update is under a lock there."""
    monkeypatch.setattr("resilient._atomic.GIL", False)
    spec = importlib.util.find_spec("resilient.stats.durations")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lock, taken = module._lock, []

    class Spy:
        def __enter__(self) -> None:
            taken.append("taken")
            lock.__enter__()

        def __exit__(self, *exc_info: object) -> None:
            lock.__exit__(*exc_info)

    module._lock = Spy()
    histogram = module.DurationHistogram()
    for _ in range(3):
        histogram.record(0.5)
    assert (histogram.buckets, histogram.seconds, taken) == ({-33: 3}, 1.5, ["taken"] * 3)
