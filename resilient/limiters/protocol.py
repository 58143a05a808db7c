"""The protocol of a limiter, and the window of evidence that it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["Limiter", "Window"]


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
