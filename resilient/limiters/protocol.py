"""The protocol of a limiter, and the window of evidence that it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["Limiter", "Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """The evidence between two updates of a limit.

    Attributes:
        seconds: the length of the window.
        successes: calls that succeeded.
        failures: calls that ended as a failure of the dependency, or at their own time limit.
        mean, deviation: mean and standard deviation of the successful calls' durations in seconds; 0 without any.
        peak: the largest number of calls that were inside at a time.
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
    """The rule by which one `AdaptiveLimit` changes its limit after each window of calls."""

    window: float = 1.0
    """The least number of seconds that the next window lasts."""
    samples: int = 10
    """The least number of calls that end in a window. A window also lasts until twice as many calls have ended as were
    inside, so that most of them arrived under the current limit."""
    unloaded: float | None = None
    """Seconds that a call takes when no call waits at the dependency, for snapshots; None: not known."""

    def update(self, limit: float, window: Window) -> float:
        """Return the next limit, given the one that held during `window`. `AdaptiveLimit` applies its bounds to it."""
        ...
