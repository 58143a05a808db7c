"""Bounds of classic histogram buckets, on the grid on which durations are recorded.

The recorded histogram has 32 buckets for each factor of two (`resilient.observe.metrics.Histogram`). A classic bucket
is exact only if it ends where one of these ends: at 2**(n/32) seconds, for a whole number n, the *edge*.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise

from prometheus_client.utils import floatToGoString

from resilient._validation import seconds
from resilient.observe.metrics import Histogram
from resilient.stats.durations import BUCKETS_PER_OCTAVE

__all__ = ["DEFAULT_BOUNDS", "Buckets"]

DEFAULT_BOUNDS = tuple(2.0**power for power in range(-10, 7))
"""Seconds: 17 bounds, from 0.0009765625 to 64."""

NEAR = 1e-3
"""A bound less than this share of the grid's step above an edge (0.002% of the bound) is that edge: so is the text of
an edge, which has six digits."""


class Buckets:
    """Classic buckets, the last of which is unbounded.

    Args:
        bounds: seconds, in ascending order; each is moved up to the next edge, and bounds that reach the same edge
            become one. An infinite bound at the end is allowed and changes nothing. None: `DEFAULT_BOUNDS`.

    Attributes:
        edges: the bounds as numbers n of the grid.
        texts: the values of the label `le`, "+Inf" included. An edge that is no power of two has six digits.
    """

    def __init__(self, bounds: Iterable[float] | None = None) -> None:
        self.edges = tuple(dict.fromkeys(map(_edge, _checked(DEFAULT_BOUNDS if bounds is None else bounds))))
        self.texts = (*map(_text, self.edges), "+Inf")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Buckets) and self.edges == other.edges

    def __hash__(self) -> int:
        return hash(self.edges)

    def __repr__(self) -> str:
        return f"Buckets([{', '.join(self.texts[:-1])}])"

    def position(self, index: int) -> int:
        """Return the number of the classic bucket that contains the recorded bucket `index`."""
        return bisect_left(self.edges, index + 1)

    def counts(self, histogram: Histogram) -> list[int]:
        """Return the calls in each classic bucket, not cumulated. Their sum is that of all calls."""
        counts = [0] * len(self.texts)
        for index, count in histogram.buckets.items():
            counts[self.position(index)] += count
        return counts


def _checked(bounds: Iterable[float]) -> list[float]:
    if isinstance(bounds, str) or not isinstance(bounds, Iterable):
        raise TypeError(f"buckets must be numbers of seconds in ascending order, got {bounds!r}")
    given = list(bounds)
    if given and isinstance(given[-1], float) and given[-1] == math.inf:
        given.pop()
    if not given:
        raise ValueError(f"buckets must be at least one finite number of seconds > 0, got {bounds!r}")
    found = [seconds("each of buckets", bound) for bound in given]
    for below, above in pairwise(found):
        if not below < above:
            raise ValueError(f"buckets must be in ascending order, got {above!r} after {below!r}")
    return found


def _edge(bound: float) -> int:
    return math.ceil(math.log2(bound) * BUCKETS_PER_OCTAVE - NEAR)


def _text(edge: int) -> str:
    power, rest = divmod(edge, BUCKETS_PER_OCTAVE)
    bound = 2.0**power if rest == 0 else float(f"{2.0 ** (edge / BUCKETS_PER_OCTAVE):.6g}")
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # as the client writes bounds of its own
