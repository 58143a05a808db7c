"""A cumulative histogram of durations: counts that only grow, from which exporters of metrics compute rates.

The bounds of its buckets are the powers of 2**(1/32), which is scale 5 of OpenTelemetry's exponential histogram: bucket
`i` counts durations in `(2**(i/32), 2**((i+1)/32)]` seconds. So a quantile is exact to 2.2%, and any power of two is a
bound. Its buckets are a list of 1,601 counts (13 KB), from a nanosecond to twelve days.

(The counts of `resilient.stats.histogram` decay, because it follows a dependency that changes. A rate computed from
them would be wrong.)
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from math import log2

from resilient._atomic import GIL, module_lock

__all__ = [
    "BUCKETS_PER_OCTAVE",
    "FROM",
    "LONGEST",
    "PER_OCTAVE",
    "SHORTEST",
    "DurationHistogram",
    "index_of",
    "middle_of",
    "place_of",
    "quantile",
]

BUCKETS_PER_OCTAVE = 32
"""Buckets for each doubling of the duration."""

SHORTEST = 2.0**-30
"""Seconds (a nanosecond). Shorter durations, and negative ones of a clock that was set back, count as this long."""

LONGEST = 2.0**20
"""Seconds (twelve days). Longer durations are in the last bucket."""

PLACES = 50 * BUCKETS_PER_OCTAVE + 1
LAST = 20 * BUCKETS_PER_OCTAVE
"""The place of the bucket that begins at 1 s, plus 1. Places count downwards, because `int(LAST - x)` rounds `x` up:
the upper bound of a bucket belongs to it."""

PER_OCTAVE, FROM = float(BUCKETS_PER_OCTAVE), float(LAST)
"""`BUCKETS_PER_OCTAVE` and `LAST` as floats: arithmetic of a float and an int takes twice as long."""


_lock = module_lock()


class DurationHistogram:
    """Counts durations. Threads may record at the same time: where there is a GIL, each update is one bytecode after
    the last call; elsewhere it takes a lock.

    Attributes:
        places: the count of each bucket, by its place: bucket `i` is at `LAST - 1 - i`.
        seconds: the sum of all durations.
        exemplars: for a bucket: the labels, the seconds and the wall-clock time of the latest call that was noted as an
            example.
    """

    __slots__ = ("exemplars", "places", "seconds")

    def __init__(self) -> None:
        self.places = [0] * PLACES
        self.seconds = 0.0
        self.exemplars: dict[int, tuple[dict[str, str], float, float]] = {}

    if GIL:

        def record(self, seconds: float) -> None:
            """Count one duration."""
            self.places[place_of(seconds)] += 1
            self.seconds += seconds

    else:

        def record(self, seconds: float) -> None:
            """Count one duration."""
            with _lock:
                self.places[place_of(seconds)] += 1
                self.seconds += seconds

    def note(self, labels: dict[str, str], seconds: float, at: float) -> None:
        """Keep a duration as the example of its bucket, in place of the one before."""
        self.exemplars[index_of(seconds)] = labels, seconds, at

    @property
    def buckets(self) -> dict[int, int]:
        """The counts of the buckets that are not empty, by index."""
        places = self.places.copy()
        used = [*compress(range(PLACES), places)]
        return {LAST - 1 - place: places[place] for place in reversed(used)}

    def state(self) -> tuple[dict[int, int], float, dict[int, tuple[dict[str, str], float, float]]]:
        """The buckets, the sum, and the exemplars."""
        return self.buckets, self.seconds, self.exemplars.copy()


def index_of(seconds: float) -> int:
    """The index of the bucket of a duration."""
    return LAST - 1 - place_of(seconds)


def place_of(seconds: float) -> int:
    """The place of a duration in `DurationHistogram.places`."""
    if SHORTEST < seconds < LONGEST:
        return int(FROM - log2(seconds) * PER_OCTAVE)
    return PLACES - 1 if seconds < LONGEST else 0


def middle_of(index: int) -> float:
    """The middle of a bucket in seconds. No duration in it is more than 1.1% off."""
    return float(2.0 ** ((index + 0.5) / BUCKETS_PER_OCTAVE))


def quantile(buckets: Mapping[int, int], share: float) -> float:
    """Return the seconds that this share of the durations in `buckets` (counts above 0, by index) does not exceed, with
    an error of at most 1.1%. Raises `ValueError` if there are none."""
    rank = share * sum(buckets.values())
    seen = 0
    for index in sorted(buckets):
        seen += buckets[index]
        if seen >= rank:
            return middle_of(index)
    raise ValueError("a quantile of no durations")
