"""Vegas: finds a limit by the calls that wait at the dependency, from the seconds that calls take."""

from __future__ import annotations

import math
import random
from typing import Literal

from resilient import _validation
from resilient.limiters.protocol import Limiter, Window

__all__ = ["Vegas"]


class Vegas(Limiter):
    """Keeps a few calls waiting at the dependency: enough that it never idles, too few to be felt.

    Args:
        window: seconds that a window lasts. Default 1.
        failures: when a larger share of a window's calls has failed, the limit falls by a tenth. Default 0.1. (Netflix'
            falls at the first one: a dependency that fails a little all the time would end with a limit of 1.)
        probe_every: seconds. Default 30. Where calls are slow, ten times as long as the last probe took.

    After TCP Vegas and Netflix' concurrency-limits. By Little's law `rate * unloaded` calls are being worked on, and
    `rate * (mean - unloaded)` wait. There is room for 2 to wait, and one more for ten in work. Fewer than half of that:
    the limit grows by that room, then by twice, by four times as much, until more wait. More than one and a half of it,
    two windows in a row in which calls take about as long: the limit falls at once to what is being worked on and the
    room. (One may be a hiccup, and what comes after it is being made good while it takes less and less.) What chance
    alone makes of the difference of two means (1.2 times its standard error) counts neither way. While not even half of
    the limit is in use, it stays. The first window counts for nothing: what ends first is what was quick.

    All depends on `unloaded`, and while calls wait nothing tells it. So before the limit falls far, and every
    `probe_every` seconds (half of it to all of it, at random), the limit is halved until what waits has gone, and some
    calls are timed; then halved again, if calls took so much less time that those, too, seem to have waited.
    """

    def __init__(self, *, window: float = 1.0, failures: float = 0.1, probe_every: float = 30.0) -> None:
        self.window = self._whole = _validation.seconds("window", window)
        self.failures = _validation.share("failures", failures, zero=True)
        self.probe_every = _validation.seconds("probe_every", probe_every)
        self._stage: Literal["starting", "steady", "draining", "probing"] = "starting"
        self._weight = 0  # calls that `unloaded` is the mean of
        self._strides = 1
        self._until_probe = 0.0
        self._probing = 0.0  # seconds that a probe has taken so far
        self._verified = 0.0  # the limit after the last probe, or the highest since
        self._crowded = 0.0  # the last window's mean, if more waited than there is room for
        self._before = (0.0, 0.0, 0.0)  # limit, rate and mean before a probe

    def update(self, limit: float, window: Window) -> float:
        if self._stage == "steady":
            return self._steady(limit, window)
        if self._stage == "starting":
            self._stage = "steady"
            return limit
        self._probing += window.seconds
        if self._stage == "draining":
            self._stage, self.window, self.samples = "probing", self._whole / 2, PROBED
            return limit
        return self._probed(limit, window)

    def _steady(self, limit: float, window: Window) -> float:
        self._until_probe -= window.seconds
        self._verified = max(self._verified, limit)
        strides, self._strides = self._strides, 1
        crowded, self._crowded = self._crowded, 0.0
        if not window.successes or window.failures > self.failures * (window.successes + window.failures):
            return limit * 0.9
        if 2 * window.peak < limit:
            self._average(window)
            self._plan()
            return limit
        error = 1.2 * window.deviation * math.sqrt(1 / window.successes + 1 / (self._weight or window.successes))
        unloaded = self.unloaded
        if unloaded is None or window.mean < unloaded - error:
            unloaded = self._average(window)
        rate = window.successes / window.seconds
        waiting, noise, room = rate * (window.mean - unloaded), rate * error, _room(rate * unloaded)
        if 2 * waiting <= room + noise:
            self._strides = 2 * strides
            return limit + strides * room
        fitting = limit
        if waiting > 1.5 * room + noise:
            self._crowded = window.mean
            if not NEAR * crowded < window.mean < crowded / NEAR:
                return limit
            fitting = _fitting(rate * unloaded)
        if self._until_probe <= 0 or fitting < FAR * self._verified:
            self._before = limit, rate, window.mean
            return self._drain(limit, window)
        return fitting

    # -- how long a call takes when none waits -----------------------------------------------------------------------

    def _plan(self) -> None:
        """When to probe next."""
        self._until_probe = self.probe_every * random.uniform(0.5, 1.0)

    def _drain(self, limit: float, window: Window) -> float:
        self._stage, self.window, self.samples = "draining", min(self._whole, 2 * window.mean), Limiter.samples
        return limit / 2

    def _probed(self, limit: float, window: Window) -> float:
        """The limit after a probe, or the lower one to probe under."""
        before, rate, mean = self._before
        if window.successes:
            expected = self._until_probe > 0 and self._agrees(window.mean, NEAR)
            self._average(window)
            if window.mean < FAR * mean and limit >= 4 and not expected:
                self._before = before, rate, window.mean
                return self._drain(limit, window)
        self._stage, self.window, self.samples = "steady", self._whole, Limiter.samples
        if self._until_probe <= 0:
            self._plan()
        self._until_probe, self._probing = max(self._until_probe, 10 * self._probing), 0.0
        if self.unloaded is not None:
            before = min(before, max(limit, _fitting(rate * self.unloaded)))
        self._verified = before
        return before

    def _average(self, window: Window) -> float:
        """Nobody waited in this window: weigh it in, or take it alone where what was known cannot be true any more."""
        count = window.successes
        chance = 3 * window.deviation / (window.mean or 1.0) / math.sqrt(count)
        weight = min(self._weight, 3 * count) if self._agrees(window.mean, min(FAR, 1 - chance)) else 0
        self._weight = weight + count
        self.unloaded = ((self.unloaded or 0.0) * weight + window.mean * count) / self._weight
        return self.unloaded

    def _agrees(self, mean: float, share: float) -> bool:
        """Whether a mean is as near as that to what was known."""
        known = self.unloaded
        return known is not None and share * known < mean and share * mean < known


PROBED = 50
"""Calls that are timed in a probe: of exponential times, their mean is within 14% for two in three."""

NEAR, FAR = 0.8, 0.6
"""What is more than this share of a thing is near it; less than that, far from it."""


def _room(busy: float) -> float:
    """How many may wait when so many are being worked on."""
    return 2 + 0.1 * busy


def _fitting(busy: float) -> float:
    """The limit that fits so many in work."""
    return busy + _room(busy)
