"""How many calls a dependency can do with at a time: rules that find it out from how long calls take.

`AdaptiveLimit` counts the calls inside, sums up each window of time, and asks a `Limiter` for the next limit. A limiter
is pure: no clock, no lock, no I/O. `Vegas` is the default. Another is a few lines:

    class Halving(Limiter):
        def update(self, limit: float, window: Window) -> float:
            return limit / 2 if window.failures else limit + 1 if 2 * window.peak >= limit else limit

**Vegas**, after TCP Vegas and Netflix' concurrency-limits: by Little's law `peak * (1 - unloaded / mean)` of the calls
inside only wait. Few that wait: the limit grows; many: it falls; else it stays.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from resilient import arguments

__all__ = ["Limiter", "Vegas", "Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen between two updates.

    Attributes:
        seconds: how long it lasted.
        successes: calls that ended well; `mean` and `least`: the seconds they took (infinite when there were none).
        failures: calls that ended as a failure of the dependency, or at their own time limit.
        peak: the most calls that were inside at a time.
    """

    seconds: float
    successes: int
    failures: int
    mean: float
    least: float
    peak: int

    def __str__(self) -> str:
        mean = f" in {self.mean * 1000:.3g} ms on average" if self.successes else ""
        return f"{self.successes} ended well{mean}, {self.failures} failed, up to {self.peak} inside"


@runtime_checkable
class Limiter(Protocol):
    """Finds a limit. One instance for one dependency."""

    window: float = 1.0
    """Seconds that the next window lasts at the least; it also waits until as many calls have ended as were inside."""
    unloaded: float | None = None
    """Seconds that a call takes when none waits, if it knows."""

    def update(self, limit: float, window: Window) -> float:
        """The next limit. `limit`: the one that held during `window`."""
        ...


class Vegas(Limiter):
    """Keeps a few calls waiting at the dependency: enough that it never idles, too few to be felt.

    Args:
        window: seconds that a window lasts. Default 1.
        failures: from this share of failures in a window on, the limit falls. Default 0.1. (Netflix' falls at the first
            one: a dependency that fails a little all the time would end with a limit of 1.)
        probe_every: under steady load nothing else shows how long a call takes when none waits. So every so many
            seconds (half of them to all, at random) the limit is halved, until what waits is gone and a few calls have
            been timed. Default 30. Not while fewer than half of the limit are inside: such a window says it, too.
    """

    def __init__(self, *, window: float = 1.0, failures: float = 0.1, probe_every: float = 30.0) -> None:
        self.window = self._whole = arguments.seconds("window", window)
        self.failures = arguments.share("failures", failures, zero=True)
        self.probe_every = arguments.seconds("probe_every", probe_every)
        self._stage = "steady"
        self._before = 0.0
        self._plan()

    def _plan(self) -> None:
        """When to probe next."""
        self._passed, self._due = 0.0, self.probe_every * random.uniform(0.5, 1.0)

    def update(self, limit: float, window: Window) -> float:
        if self._stage == "draining":
            self._stage = "probing"
            self.window = min(self._whole, 4 * window.mean)
            return limit
        if self._stage == "probing":
            self._stage, self.window = "steady", self._whole
            self._plan()
            if window.successes:
                self.unloaded = window.mean
            return self._before
        self._passed += window.seconds
        step = max(1, int(math.log10(limit)))
        if not window.successes or window.failures > self.failures * (window.successes + window.failures):
            return limit - step
        if 2 * window.peak < limit:
            self.unloaded = window.mean
            self._plan()
            return limit
        if self.unloaded is None or window.mean < self.unloaded:
            self.unloaded = window.mean
        if self._passed >= self._due:
            self._stage, self._before = "draining", limit
            self.window = min(self._whole, 2 * window.mean)
            return limit / 2
        waiting = window.peak * (1 - self.unloaded / window.mean)
        if waiting <= step:
            return limit + 6 * step
        if waiting < 3 * step:
            return limit + step
        return limit - step if waiting > 6 * step else limit
