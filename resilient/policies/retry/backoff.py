"""Our own waits between attempts: with full jitter, or the same each time."""

from __future__ import annotations

import random

from resilient import _validation

__all__ = ["Fixed", "FullJitter"]


class FullJitter:
    """Waits U(0, min(cap, base * 2**n)) seconds after failure n = 0, 1, ...

    Args:
        base: seconds, default 0.1.
        cap: seconds, default 20 (AWS standard mode).

    Source: M. Brooker, Exponential Backoff and Jitter (AWS, 2015): of the variants compared there, it needs the least
    work, in about the least time. Draws from the global `random`, as tenacity's strategies do.
    """

    def __init__(self, base: float = 0.1, cap: float = 20.0) -> None:
        self.base = _validation.seconds("base", base)
        self.cap = _validation.seconds("cap", cap)

    def most(self, attempt: int) -> float:
        """The longest wait after attempt number `attempt` (from 1)."""
        return min(self.cap, self.base * 2.0 ** min(attempt - 1, 1000))

    def __call__(self, attempt: int) -> float:
        """The wait after attempt number `attempt` (from 1)."""
        return random.uniform(0.0, self.most(attempt))

    def __repr__(self) -> str:
        return f"full jitter {self.base:g} s to {self.cap:g} s"


class Fixed:
    """Waits the same number of seconds after each attempt."""

    def __init__(self, seconds: float) -> None:
        self.seconds = _validation.seconds("wait", seconds, zero=True)

    def most(self, attempt: int) -> float:
        return self.seconds

    __call__ = most

    def __repr__(self) -> str:
        return f"{self.seconds:g} s"
