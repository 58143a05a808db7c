"""A cumulative histogram of durations: counts that only grow, from which exporters of metrics compute rates.

The bounds of its buckets are the powers of 2**(1/32), which is scale 5 of OpenTelemetry's exponential histogram: bucket
`i` counts durations in `(2**(i/32), 2**((i+1)/32)]` seconds. So a quantile is exact to 2.2%, and any power of two is a
bound. Only buckets that are not empty take memory; durations from a nanosecond to an hour fall into 1,340 of them.

(The histogram of `resilient.stats.histogram` forgets: it follows a dependency that changes. The increase of such counts
over time would be wrong.)
"""

from __future__ import annotations

from math import log2
from typing import Any

__all__ = ["SCALE", "DurationHistogram"]

SCALE = 32
"""Buckets for each doubling of the duration."""

_SHORTEST = 2.0**-30
"""Seconds (a nanosecond). Shorter durations, and negative ones of a clock that was set back, count as this long."""

_OFFSET = 1 << 20
"""Added before rounding, because `int` rounds toward 0."""


class DurationHistogram:
    """Counts durations. Where there is a GIL, threads may record at the same time: each update is one bytecode after
    the last call.

    Attributes:
        seconds: the sum of all durations.
        exemplars: for a bucket: the labels, the seconds and the wall-clock time of the latest call that was noted as an
            example.
    """

    __slots__ = ("_buckets", "exemplars", "seconds")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.seconds = 0.0
        self.exemplars: dict[int, tuple[dict[str, str], float, float]] = {}

    def record(self, seconds: float) -> None:
        """Count one duration."""
        # `index_of`, inlined; negated, because the upper bound belongs to the bucket
        place = int(_OFFSET - log2(seconds if seconds > _SHORTEST else _SHORTEST) * SCALE)
        try:
            self._buckets[place] += 1
        except KeyError:
            self._buckets.setdefault(place, 0)
            self._buckets[place] += 1
        self.seconds += seconds

    def note(self, labels: dict[str, str], seconds: float, at: float) -> None:
        """Keep a duration as the example of its bucket, in place of the one before."""
        self.exemplars[index_of(seconds)] = labels, seconds, at

    @property
    def buckets(self) -> dict[int, int]:
        """The count of each bucket that is not empty, by its index."""
        return {_OFFSET - 1 - place: count for place, count in sorted(self._buckets.copy().items(), reverse=True)}

    def state(self) -> tuple[dict[int, int], float, dict[int, Any]]:
        """The buckets, the sum and the exemplars now."""
        return self.buckets, self.seconds, self.exemplars.copy()


def index_of(seconds: float) -> int:
    """The index of the bucket of a duration."""
    return _OFFSET - 1 - int(_OFFSET - log2(seconds if seconds > _SHORTEST else _SHORTEST) * SCALE)
