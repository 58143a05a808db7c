"""How many calls a dependency can do with at a time: rules that find it out from how long calls take.

`AdaptiveLimit` counts the calls inside, sums up each window of time, and asks a `Limiter` for the next limit. It is
asked under a lock, and needs no clock, no lock and no I/O of its own. `Vegas` is the default. Another is a few lines:

    class Halving(Limiter):
        def update(self, limit: float, window: Window) -> float:
            return limit / 2 if window.failures else limit + 1 if 2 * window.peak >= limit else limit
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from resilient import arguments

__all__ = ["Limiter", "Vegas", "Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen between two updates.

    Attributes:
        seconds: how long it lasted.
        successes: calls that ended well; `mean` and `deviation` (standard): of the seconds they took; 0 without any.
        failures: calls that ended as a failure of the dependency, or at their own time limit.
        peak: the most calls that were inside at a time.
    """

    seconds: float
    successes: int
    failures: int
    mean: float
    deviation: float
    peak: int

    def __str__(self) -> str:
        mean = f" in {self.mean * 1000:.3g} ms on average" if self.successes else ""
        return f"{self.successes} ended well{mean}, {self.failures} failed, up to {self.peak} inside"


@runtime_checkable
class Limiter(Protocol):
    """Finds a limit. One instance for one dependency."""

    window: float = 1.0
    """Seconds that the next window lasts at the least."""
    samples: int = 10
    """Calls that must have ended in it. It also waits for twice as many as were inside: what is seen is then of calls
    that came under this limit."""
    unloaded: float | None = None
    """Seconds that a call takes when none waits, if it knows."""

    def update(self, limit: float, window: Window) -> float:
        """The next limit. `limit`: the one that held during `window`."""
        ...


class Vegas(Limiter):
    """Keeps a few calls waiting at the dependency: enough that it never idles, too few to be felt.

    Args:
        window: seconds that a window lasts. Default 1.
        failures: when a larger share of a window's calls has failed, the limit falls by a tenth. Default 0.1. (Netflix'
            falls at the first one: a dependency that fails a little all the time would end with a limit of 1.)
        probe_every: seconds. Default 30.

    After TCP Vegas and Netflix' concurrency-limits. By Little's law `rate * unloaded` calls are being worked on, and
    `rate * (mean - unloaded)` wait. There is room for 2 to wait, and one more for ten in work. Fewer than half of that:
    the limit grows by that room, then by twice, by four times as much, until more wait. More than one and a half of it,
    two windows in a row (one may be a hiccup): the limit falls at once to what is being worked on and the room. What
    chance alone makes of a mean (1.4 times its standard error) counts neither way. While not even half of the limit is
    in use, it stays.

    All depends on `unloaded`, and while calls wait nothing tells it. So before the limit falls far, and every
    `probe_every` seconds (half of it to all of it, at random), the limit is halved until what waits has gone, and some
    calls are timed; then halved again, if calls took so much less time that those, too, seem to have waited.
    """

    def __init__(self, *, window: float = 1.0, failures: float = 0.1, probe_every: float = 30.0) -> None:
        self.window = self._whole = arguments.seconds("window", window)
        self.failures = arguments.share("failures", failures, zero=True)
        self.probe_every = arguments.seconds("probe_every", probe_every)
        self._stage: Literal["steady", "draining", "probing"] = "steady"
        self._weight = 0  # calls that `unloaded` is the mean of
        self._strides = 1
        self._until_probe = 0.0
        self._verified = 0.0  # the limit after the last probe, or the highest since
        self._crowded = False  # more waited in the last window than there is room for
        self._before = (0.0, 0.0, 0.0)  # limit, rate and mean before a probe

    def update(self, limit: float, window: Window) -> float:
        if self._stage == "draining":
            self._stage, self.window, self.samples = "probing", self._whole / 2, PROBED
            return limit
        if self._stage == "probing":
            return self._probed(limit, window)
        self._until_probe -= window.seconds
        self._verified = max(self._verified, limit)
        strides, self._strides = self._strides, 1
        again, self._crowded = self._crowded, False
        if not window.successes or window.failures > self.failures * (window.successes + window.failures):
            return limit * 0.9
        if 2 * window.peak < limit:
            self._average(window)
            self._plan()
            return limit
        error = 1.4 * window.deviation / math.sqrt(window.successes)
        if self.unloaded is None or window.mean < self.unloaded - error:
            self.unloaded, self._weight = window.mean, window.successes
        rate = window.successes / window.seconds
        waiting, noise, room = rate * (window.mean - self.unloaded), rate * error, _room(rate * self.unloaded)
        if 2 * waiting <= room + noise:
            self._strides = 2 * strides
            return limit + strides * room
        self._crowded = waiting > 1.5 * room + noise
        fitting = _fitting(rate * self.unloaded) if again and self._crowded else limit
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
        if self.unloaded is not None:
            before = min(before, max(limit, _fitting(rate * self.unloaded)))
        self._verified = before
        return before

    def _average(self, window: Window) -> None:
        """Nobody waited in this window: weigh it in, or take it alone if it is far from what was known."""
        count = window.successes
        weight = min(self._weight, 3 * count) if self._agrees(window.mean, FAR) else 0
        self._weight = weight + count
        self.unloaded = ((self.unloaded or 0.0) * weight + window.mean * count) / self._weight

    def _agrees(self, mean: float, share: float) -> bool:
        """Whether a mean is as near as that to what was known."""
        return self.unloaded is not None and share * self.unloaded < mean < self.unloaded / share


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
