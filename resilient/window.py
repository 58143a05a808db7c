"""Sliding windows over what a dependency did lately: fixed memory, constant work a call.

A breaker asks "how many of the last calls failed, or were slow?". `CountWindow` answers for the last N calls,
`TimeWindow` for the last N seconds, in slices, so that old news leaves a tenth of the window at a time.

Neither reads a clock. On builds with a GIL, `record` makes no call between reading and writing its sums while it stays
in the ring or slice, and `clear` none while it writes them, so that threads cannot tear them; turning to a new slice is
done by one thread under the window's lock. On free-threaded builds the circuit records under its own lock.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

from resilient.clock import ANOTHER

__all__ = ["CountWindow", "TimeWindow", "Window"]


class Window(Protocol):
    """Sums over the remembered calls: `calls`, of which `failures` failed and `slows` were slow."""

    calls: int
    failures: int
    slows: int

    def record(self, failed: bool, slow: bool, now: Any) -> None:
        """Remember one call that ended at `now` (seconds; a CountWindow takes anything)."""

    def clear(self) -> None:
        """Forget everything."""

    def renew(self) -> None:
        """In a forked child: take a new lock."""


class CountWindow:
    """The last `size` calls, in a ring of one byte each."""

    __slots__ = ("_at", "_ring", "calls", "failures", "size", "slows")

    def __init__(self, size: int) -> None:
        self.size = size
        self.clear()

    def renew(self) -> None:
        """It has no lock."""

    def clear(self) -> None:
        ring = bytearray(self.size)  # bit 0: failed, bit 1: slow
        self._ring = ring
        self._at = 0
        self.calls = self.failures = self.slows = 0

    def record(self, failed: bool, slow: bool, now: Any) -> None:
        if self.failures or self.slows or failed or slow:
            ring, at = self._ring, self._at
            old = ring[at]
            self.failures += failed - (old & 1)
            self.slows += slow - (old >> 1)
            ring[at] = failed | slow << 1
            at += 1
            self._at = 0 if at == self.size else at
        # else there are only good calls, before and after: which place of the ring is whose does not matter
        if self.calls < self.size:
            self.calls += 1


class _Slice:
    __slots__ = ("calls", "failures", "slows")

    def __init__(self) -> None:
        self.calls = self.failures = self.slows = 0


class TimeWindow:
    """The last `seconds`, in `slices` equal parts: a call is forgotten when its whole slice is too old."""

    __slots__ = ("_begin", "_current", "_end", "_lock", "_ring", "_width", "calls", "failures", "seconds", "slows")

    SLICES = 10  # as resilience4j, Hystrix and failsafe-go cut theirs

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._width = seconds / self.SLICES
        self._lock = threading.RLock()
        self.clear()

    def renew(self) -> None:
        """Take a new lock, and sum up again: another thread may have been at it when the process was forked."""
        self._lock = threading.RLock()
        self.calls = sum(each.calls for each in self._ring)
        self.failures = sum(each.failures for each in self._ring)
        self.slows = sum(each.slows for each in self._ring)

    def clear(self) -> None:
        with self._lock:
            current, end = _Slice(), float("-inf")
            self._begin = end
            self._ring: list[_Slice] = []  # oldest first; at most SLICES
            self._current = current
            self._end = end  # when the current slice is full
            self.calls = self.failures = self.slows = 0

    def record(self, failed: bool, slow: bool, now: Any) -> None:
        if not self._begin <= now < self._end:
            self._turn(now)
        current = self._current
        self.calls += 1
        current.calls += 1
        if failed:
            self.failures += 1
            current.failures += 1
        if slow:
            self.slows += 1
            current.slows += 1

    def _turn(self, now: float) -> None:
        """Begin the slice that holds `now`, and forget those that have left the window."""
        with self._lock:
            if now < self._begin - ANOTHER:
                self.clear()
            elif now < self._end:
                return  # another thread was first, or has read the clock later
            passed = (now - self._end) // self._width + 1 if self._ring else self.SLICES
            if passed >= self.SLICES:  # all of it is old, or this is the first call
                self.clear()
                self._end = now + self._width
                passed = 1
            else:
                self._end += passed * self._width
            for _ in range(int(passed)):
                self._current = _Slice()
                self._ring.append(self._current)
            self._begin = self._end - self._width
            while len(self._ring) > self.SLICES:
                gone = self._ring.pop(0)
                self.calls -= gone.calls
                self.failures -= gone.failures
                self.slows -= gone.slows
