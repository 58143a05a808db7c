"""Arithmetic on histograms of durations: differences, sums, and other buckets. It needs no OpenTelemetry.

The buckets of `resilient.observe.metrics.Histogram` are those of an exponential histogram of scale 5: index i covers
the seconds in (2**(i/32), 2**((i+1)/32)], which is 2.2% wide. A scale that is lower by 1 joins neighbours in pairs, so
index i becomes i >> 1, and nothing is estimated.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from resilient.observe.metrics import Exemplar, Histogram
from resilient.stats.durations import BUCKETS_PER_OCTAVE, middle_of

__all__ = ["SCALE", "added", "dense", "difference", "explicit"]

SCALE = BUCKETS_PER_OCTAVE.bit_length() - 1
"""The scale of these buckets, as OpenTelemetry counts it: 2**SCALE for each doubling of the duration."""


def difference(now: Histogram, before: Histogram) -> Histogram:
    """Return what came to a histogram since `before`, an earlier state of it. If it has been counted from 0 since (in a
    forked child), that is all of it. The exemplars are those of `now`."""
    if any(now.buckets.get(index, 0) < count for index, count in before.buckets.items()):
        return now
    buckets = {
        index: count - before.buckets.get(index, 0)
        for index, count in now.buckets.items()
        if count != before.buckets.get(index, 0)
    }
    return Histogram(sum(buckets.values()), max(0.0, now.sum - before.sum), buckets, now.exemplars)


def added(histograms: Iterable[Histogram]) -> Histogram:
    """Return the sum of histograms. Of exemplars of one bucket, the latest stays."""
    total, buckets = 0.0, Counter[int]()
    exemplars: dict[int, Exemplar] = {}
    for each in histograms:
        total += each.sum
        buckets.update(each.buckets)
        for index, exemplar in each.exemplars.items():
            if index not in exemplars or exemplars[index].at < exemplar.at:
                exemplars[index] = exemplar
    return Histogram(buckets.total(), total, dict(buckets), exemplars)


def dense(buckets: Mapping[int, int], *, size: int, scale: int) -> tuple[int, int, list[int]]:
    """Return buckets as the data model of OpenTelemetry has them: the scale, the index of the first bucket, and the
    counts from there on.

    The scale is the highest one that is at most `scale`, at most 5, and needs at most `size` buckets.
    """
    shift = max(0, SCALE - scale)
    if not buckets:
        return SCALE - shift, 0, []
    low, high = min(buckets), max(buckets)
    while (high >> shift) - (low >> shift) >= size:
        shift += 1
    first = low >> shift
    counts = [0] * ((high >> shift) - first + 1)
    for index, count in buckets.items():
        counts[(index >> shift) - first] += count
    return SCALE - shift, first, counts


def explicit(buckets: Mapping[int, int], boundaries: Sequence[float]) -> list[int]:
    """Return the counts of classic buckets with these upper bounds in seconds, ascending; the last count is of what is
    above all. A bucket that a boundary divides counts where its middle is: an error of at most 1.1% in the boundary."""
    counts = [0] * (len(boundaries) + 1)
    for index, count in buckets.items():
        counts[bisect_left(boundaries, middle_of(index))] += count
    return counts
