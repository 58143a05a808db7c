"""Arithmetic on histograms of durations: nothing is lost, and what is estimated is within the stated error."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from resilient.observe.metrics import Exemplar, Histogram
from resilient.observe.opentelemetry.buckets import added, dense, difference, explicit

BUCKETS = st.dictionaries(st.integers(-700, 400), st.integers(1, 1000), max_size=20)


def histogram(buckets: dict[int, int], total: float = 0.0) -> Histogram:
    """Return a histogram with these buckets."""
    return Histogram(sum(buckets.values()), total, buckets, {})


def bounds(index: int, scale: int) -> tuple[float, float]:
    """Return the bounds of a bucket in seconds, as the data model of OpenTelemetry defines them."""
    return 2 ** (index * 2.0**-scale), 2 ** ((index + 1) * 2.0**-scale)


@given(BUCKETS, BUCKETS)
def test_difference_and_what_was_before_are_what_is_now(before: dict[int, int], more: dict[int, int]) -> None:
    """A reader with delta temporality gets each duration once."""
    now = added([histogram(before, 1.5), histogram(more, 2.5)])
    recent = difference(now, histogram(before, 1.5))
    assert recent.buckets == more
    assert (recent.count, recent.sum) == (sum(more.values()), 2.5)


def test_difference_to_a_histogram_that_began_anew_is_all_of_it() -> None:
    """In a forked child, durations count from 0 again, and a count is never negative."""
    now = histogram({3: 1}, 1.0)
    assert difference(now, histogram({3: 5}, 6.0)) is now


@given(BUCKETS, st.integers(2, 200), st.integers(-4, 20))
def test_dense_buckets_have_every_count_within_its_bounds(buckets: dict[int, int], size: int, scale: int) -> None:
    """At a lower scale, each bucket lies within one that is wider, and holds its count."""
    found, first, counts = dense(buckets, size=size, scale=scale)
    assert sum(counts) == sum(buckets.values())
    assert len(counts) <= size
    assert found <= min(5, scale)
    for index, count in buckets.items():
        low, high = bounds(index, 5)
        at = math.floor(index * 2.0 ** (found - 5))
        wide_low, wide_high = bounds(at, found)
        assert wide_low <= low * (1 + 1e-12)
        assert wide_high >= high * (1 - 1e-12)
        assert counts[at - first] >= count


@given(BUCKETS.filter(bool), st.integers(2, 200))
def test_scale_is_the_highest_one_with_so_few_buckets(buckets: dict[int, int], size: int) -> None:
    """No resolution is given away: at the next higher scale there would be more buckets than may be."""
    scale, _, counts = dense(buckets, size=size, scale=20)
    assert counts[0]
    assert counts[-1]
    finer = 5 - (scale + 1)
    assert scale == 5 or (max(buckets) >> finer) - (min(buckets) >> finer) >= size


def test_no_buckets_are_dense_buckets_without_counts() -> None:
    """The scale is that of the library's buckets."""
    assert dense({}, size=160, scale=20) == (5, 0, [])


@given(BUCKETS)
def test_classic_buckets_have_every_duration_once(buckets: dict[int, int]) -> None:
    """Each bucket counts in the classic one that its middle belongs to."""
    boundaries = (0.01, 0.1, 1.0, 10.0)
    counts = explicit(buckets, boundaries)
    assert sum(counts) == sum(buckets.values())
    for place, boundary in enumerate(boundaries):
        assert sum(counts[: place + 1]) <= sum(n for i, n in buckets.items() if bounds(i, 5)[0] < boundary)
        assert sum(counts[: place + 1]) >= sum(n for i, n in buckets.items() if bounds(i, 5)[1] <= boundary)


def test_sum_of_histograms_keeps_the_latest_exemplar_of_a_bucket() -> None:
    """Where a view joins series, counts add up, and one example of each bucket stays."""
    old, new = Exemplar({}, 0.5, 100.0), Exemplar({}, 0.501, 200.0)
    one = Histogram(2, 1.0, {-32: 2}, {-32: new})
    other = Histogram(3, 2.0, {-32: 1, 0: 2}, {-32: old, 0: old})
    assert added([one, other]) == Histogram(5, 3.0, {-32: 3, 0: 2}, {-32: new, 0: old})
