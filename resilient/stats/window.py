"""Sliding windows over the recent calls of a dependency: fixed memory, constant work for each call.

A breaker needs to know how many of the last calls failed, or were slow. `CountWindow` counts the last N calls,
`TimeWindow` those of the last N seconds, in slices, so that old calls leave a tenth of the window at a time.

Neither reads a clock. On builds with a GIL, `record` makes no call between reading and writing its sums while it stays
in the ring or slice, and `clear` none while it writes them, so that threads cannot tear them; one thread begins a new
slice under the window's lock. On free-threaded builds the circuit records under its own lock.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from resilient._atomic import rare_lock

__all__ = ["CLOCK_CHANGE", "CountWindow", "TimeWindow", "Window"]

CLOCK_CHANGE = 1.0
"""Seconds. A time that is earlier than a previous one by more than this comes from a different clock (virtual time
starts at 0), and times of the old clock are replaced. Two threads that read one clock may differ by less."""


class Window(Protocol):
    """Sums over the remembered calls: `calls`, of which `failures` failed and `slows` were slow."""

    failures: int
    slows: int
    steady: bool
    """Whether the window is full of good calls, so that one more would change nothing."""

    @property
    def calls(self) -> int:
        """The number of calls that are remembered now."""
        ...

    def record(self, failed: bool, slow: bool, now: Any) -> None:
        """Count one call that ended at `now` (seconds; a `CountWindow` ignores it)."""

    def clear(self) -> None:
        """Forget all calls, and count from 0."""

    def renew(self) -> None:
        """In a forked child: take a new lock."""


class CountWindow:
    """The last `size` calls, in a ring of one byte each, which is allocated at the first bad call."""

    __slots__ = ("_at", "_ring", "calls", "failures", "size", "slows", "steady")

    def __init__(self, size: int) -> None:
        self.size = size
        self._ring: bytearray | None = None  # bit 0: failed, bit 1: slow
        self.clear()

    def renew(self) -> None:
        """Do nothing in a forked child: this window has no lock to renew."""

    def clear(self) -> None:
        ring = None if self._ring is None else bytearray(self.size)
        self._ring = ring
        self._at = 0
        self.calls = self.failures = self.slows = 0
        self.steady = False

    def record(self, failed: bool, slow: bool, now: Any) -> None:
        if self.failures or self.slows or failed or slow:
            if self._ring is None:
                self._make_ring()
            ring, at = self._ring, self._at
            assert ring is not None
            old = ring[at]
            self.failures += failed - (old & 1)
            self.slows += slow - (old >> 1)
            ring[at] = failed | slow << 1
            at += 1
            self._at = 0 if at == self.size else at
        # else all calls are good, before and after: the ring need not change
        if self.calls < self.size:
            self.calls += 1
        self.steady = self.calls == self.size and not (self.failures or self.slows)

    def _make_ring(self) -> None:
        ring = bytearray(self.size)
        if self._ring is None:  # no call between the check and this
            self._ring = ring


class _Slice:
    __slots__ = ("calls", "failures", "slows")

    def __init__(self) -> None:
        self.calls = self.failures = self.slows = 0


class TimeWindow:
    """The last `seconds`, in `slices` equal parts: a call leaves the window when its whole slice is too old."""

    __slots__ = ("_begin", "_current", "_earlier", "_end", "_lock", "failures", "seconds", "slows", "steady")

    SLICES = 10  # as resilience4j, Hystrix and failsafe-go cut theirs

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.steady = False  # a good call counts, in its slice
        self._lock = rare_lock()
        self.clear()

    def renew(self) -> None:
        """Take a new lock, and add up the slices: another thread may have been updating the sums at the fork."""
        self._lock = rare_lock()
        slices = (*self._earlier, self._current)
        self.failures = sum(each.failures for each in slices)
        self.slows = sum(each.slows for each in slices)

    def clear(self) -> None:
        with self._lock:
            current, end = _Slice(), -math.inf
            self._begin = end
            self._earlier: tuple[_Slice, ...] = ()  # oldest first; at most SLICES - 1
            self._current = current
            self._end = end  # when the current slice is full
            self.failures = self.slows = 0

    @property
    def calls(self) -> int:
        """The number of calls in the window: a sum over the slices, read only after failures. So a good call
        updates one counter."""
        return sum(each.calls for each in self._earlier) + self._current.calls

    def record(self, failed: bool, slow: bool, now: Any) -> None:
        if now >= self._end or now < self._begin:
            self._turn(now)
        current = self._current
        current.calls += 1
        if failed:
            self.failures += 1
            current.failures += 1
        if slow:
            self.slows += 1
            current.slows += 1

    def _turn(self, now: float) -> None:
        """Begin the slice that holds `now`, and remove the slices that have left the window."""
        with self._lock:
            if now < self._begin - CLOCK_CHANGE:
                self.clear()
            elif now < self._end:
                return  # another thread was first, or has read the clock later
            width = self.seconds / self.SLICES
            passed = (now - self._end) // width + 1
            if not passed < self.SLICES:  # all of it is old; or this is the first call, and `passed` is NaN
                self.clear()
                self._begin, self._end = now, now + width
                return
            slices = (*self._earlier, self._current, *(_Slice() for _ in range(int(passed))))
            gone, self._earlier, self._current = slices[: -self.SLICES], slices[-self.SLICES : -1], slices[-1]
            self._end += passed * width
            self._begin = self._end - width
            for each in gone:
                self.failures -= each.failures
                self.slows -= each.slows
