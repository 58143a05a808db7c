"""One quantile of the recent latencies of a stream: fixed memory, constant work for each sample.

For each call, a hedge needs the time within which 95% of the calls end, of a dependency that changes. So each sample is
counted in a bucket, and the width of a bucket grows with its latency: bucket i holds latencies from gamma^(i-1) to
gamma^i, with gamma = (1 + a) / (1 - a). One value represents the bucket, and each of its latencies is within a = 1% of
it (DDSketch: C. Masson, J. Rim, H. Lee, VLDB 2019). From 10 µs to 10,000 s that makes 1,037 buckets, 8 KB.

*Old samples fade.* Each new one weighs more than the one before, by 1/2,000, so that old weights need not shrink; only
once in 55,000 samples all weights are divided by the latest, before they grow too large (forward decay: G. Cormode et
al., ICDE 2009). A sample's weight has fallen to 1/e after `MEMORY` = 2,000 others. The estimate is as exact as one from
the last 4,000 samples, evenly weighted: the share of calls that take longer than the estimate has a standard error of
sqrt(q (1 - q) / 4,000), 0.34% around the 5% of a p95, 0.22% around the 2% of a p98. When a dependency becomes slow, its
p95 moves after some 100 samples (5% of the weight is new then); when it becomes fast again, after up to
2,000 ln 20 = 6,000.

*A pointer marks the quantile's bucket*, with the weight of all buckets below it, and each sample moves it by one bucket
at most. When the latencies change suddenly, it moves bucket by bucket: ten times slower is 115 buckets away.

On builds with a GIL, `record` makes no call between reading and writing its sums, so that threads cannot tear them; a
new scale is computed in a copy, which replaces the old one at once, and samples that other threads record meanwhile are
lost. On free-threaded builds all of it runs under the histogram's lock.
"""

from __future__ import annotations

import math
import threading
from array import array
from itertools import accumulate

from resilient._atomic import atomic

__all__ = ["ERROR", "LEAST", "MEMORY", "MOST", "Histogram"]

ERROR = 0.01
"""The greatest relative error of a value, from `LEAST` to `MOST`."""

LEAST, MOST = 1e-5, 1e4
"""Seconds. Shorter latencies count as `LEAST`, longer ones as `MOST`."""

MEMORY = 2000
"""Samples after which a sample's weight has fallen to 1/e."""

HEAVY = 1e12
"""The weight at which all weights are divided: far below the weight at which rounding the sum would lose a sample of
weight 1."""

_GROWTH = MEMORY / (MEMORY - 1)
_LOG_GAMMA = math.log((1 + ERROR) / (1 - ERROR))
_PER_LOG = 1 / _LOG_GAMMA
_FIRST = 1 - math.floor(math.log(LEAST) / _LOG_GAMMA)  # so that `LEAST` is in bucket 1, and shorter ones in bucket 0
_LAST = int(math.log(MOST) * _PER_LOG + _FIRST)
_VALUES = tuple(
    min(MOST, max(LEAST, (1 - ERROR) * math.exp((number - _FIRST + 1) * _LOG_GAMMA))) for number in range(_LAST + 1)
)
"""The value of each bucket: within `ERROR` of both its ends."""

_log = math.log


class Histogram:
    """Latencies, and a quantile of them.

    Args:
        share: the share of the samples that are not above the quantile: 0.95 for the p95.
        warm_up: samples before the quantile has a value: with fewer it would be a matter of chance.

    Attributes:
        count: samples so far.
        at: the number of the quantile's bucket; below 0 during the warm-up.
    """

    __slots__ = ("_below", "_lock", "_reached", "_total", "_weight", "_weights", "at", "count", "share", "warm_up")

    def __init__(self, share: float, warm_up: int) -> None:
        self.share = share
        self.warm_up = warm_up
        self.count = 0
        self._weights = array("d", bytes(8 * (_LAST + 1)))
        self._weight = 1.0  # of the latest sample
        self._total = 0.0
        self.at = -1  # the bucket of the quantile, from the end of the warm-up on ...
        self._below = 0.0  # ... the weight of those below it ...
        self._reached = 0.0  # ... and with its own
        self.renew()

    def renew(self) -> None:
        """Take a new lock, also in a forked child."""
        self._lock = threading.RLock()

    @property
    def value(self) -> float | None:
        """The quantile in seconds, or None during the warm-up. It has one of some 1,000 values, so it often stays the
        same."""
        at = self.at
        return None if at < 0 else _VALUES[at]

    @atomic
    def record(self, seconds: float) -> None:
        """Count a sample of this many seconds; NaN is ignored."""
        if seconds >= LEAST:
            number = int(_log(seconds) * _PER_LOG + _FIRST) if seconds < MOST else _LAST
        elif seconds < LEAST:
            number = 0
        else:
            return  # not a number
        self._weight = weight = self._weight * _GROWTH  # no call from here on
        self._weights[number] += weight
        self._total = total = self._total + weight
        self.count += 1
        if number <= self.at:
            self._reached += weight
            if number < self.at:
                self._below += weight
        if not self._below < total * self.share <= self._reached or weight >= HEAVY:
            self._move()

    def _move(self) -> None:
        """Move the pointer one bucket towards the quantile. At the end of the warm-up, and when the weights have become
        too large, search its bucket."""
        at, below, reached, weights = self.at, self._below, self._reached, self._weights
        wanted = self._total * self.share
        if below >= wanted and at > 0:
            at, reached = at - 1, below
            below -= weights[at]
        elif reached < wanted and 0 <= at < _LAST:
            at, below = at + 1, reached
            reached += weights[at]
        if at != self.at:
            self.at, self._below, self._reached = at, below, reached
            self.moved()
        if self._weight >= HEAVY if at >= 0 else self.count >= self.warm_up:
            self._settle()

    def _settle(self) -> None:
        """Divide all weights by the latest, and search the bucket of the quantile."""
        with self._lock:
            if self.at >= 0 and self._weight < HEAVY:
                return  # another thread was first
            weights, weight = self._weights[:], self._weight
            weights = array("d", [each / weight for each in weights])
            sums = list(accumulate(weights))
            total = sums[-1]
            at = next(number for number, reached in enumerate(sums) if reached >= total * self.share)
            reached = sums[at]
            below = reached - weights[at]
            self._weights = weights  # no call from here on
            self._weight = 1.0
            self._total = total
            self.at = at
            self._below = below
            self._reached = reached
            self.moved()

    def moved(self) -> None:
        """Called after each change of `at`, for subclasses that keep values computed from the quantile."""
