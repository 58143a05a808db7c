"""The timers of an asyncio event loop: one for all timeouts of a length, and one for all deadlines.

Arming `loop.call_later` for each call costs 20 times a bare await. Timeouts of one length expire in the order in which
they began, so each event loop keeps one queue and one timer per length (and one for all further lengths, and all
deadlines, with a heap); a call only joins and leaves it. The timer is armed for the first in the queue and left alone
when that one ends in time: when it fires, it is set for whoever is first by then.
"""

from __future__ import annotations

import math
from asyncio import Task, TimerHandle
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from resilient.moment import Deadline

if TYPE_CHECKING:
    from resilient.runtime.asyncio import AsyncioRuntime

__all__ = ["LENGTHS", "DeadlineEntry", "Deadlines", "Entries", "Entry", "Timer", "Timers"]

T = TypeVar("T")

LENGTHS = 100
"""Lengths that have a timer of their own on each event loop. More are rare, unless they are computed for each call."""


class Entry(Deadline):
    """One running timeout; a total one is the deadline of what is inside it. Entries, not tasks, are the keys: a task
    may be inside several of one length."""

    __slots__ = ("fired", "task")

    task: Task[Any] | None
    fired: bool

    __init__: Any = object.__init__  # one in Python would cost more than all else here

    def fire(self) -> None:
        """Its time has come."""
        self.fired = True
        assert self.task is not None
        self.task.cancel()

    def forget(self) -> None:
        """Let go of a call that has ended: the entry may stay in a heap for long."""
        self.task = None


class DeadlineEntry(Entry):
    """A running call whose limit is a moment: one that may want to be asked, and may have been moved meanwhile."""

    __slots__ = ("limit",)

    limit: Any

    def fire(self) -> None:
        strikes: Callable[[], bool] | None = getattr(self.limit, "strikes", None)
        if strikes is None or strikes():
            super().fire()

    def forget(self) -> None:
        self.task = self.limit = None


class Timer(Protocol):
    """Whoever wants to be told when a while is over: `at` is when, as `after` has set it."""

    at: float

    def fire(self) -> None:
        """It is over."""


def _leading(them: Callable[[], Iterator[T]], wanted: Callable[[T], bool]) -> list[T]:
    """The first of them, up to one that is not wanted. It begins again if one leaves meanwhile: a finalizer may close
    the coroutine of a call."""
    while True:
        try:
            return list(takewhile(wanted, them()))
        except RuntimeError:
            pass


Entries = dict[Timer, bool | None]
"""Those that wait, as keys; True: it is in a heap, too."""


class Timers:
    """All running timeouts of one length on one event loop; first to expire first.

    To join means: be put into `entries`, and `arm` the timer where it would fire too late, at `next`.
    """

    __slots__ = ("armed", "entries", "key", "next", "runtime")

    def __init__(self, runtime: AsyncioRuntime, key: Any) -> None:
        self.runtime = runtime
        self.key = key
        self.entries: Entries = {}
        self.armed: TimerHandle | None = None
        self.next = math.inf

    def arm(self, at: float, delay: float) -> None:
        """Have the timer fire at this moment, which is `delay` seconds from now."""
        if self.armed is not None:
            self.armed.cancel()
        loop = self.runtime.loop
        self.armed = loop.call_at(loop.time() + delay, self._fire)
        self.next = at

    def disarm(self) -> None:
        """Drop a timer for which nobody waits."""
        if self.armed is not None:
            self.armed.cancel()
        self.armed = None
        self.runtime.timers.pop(self.key, None)

    def tell(self, timer: Timer) -> None:
        """Its time is over. What goes wrong then is its own affair: the timer is shared with others."""
        try:
            timer.fire()
        except Exception as error:
            context = {"message": "resilient: a timer failed", "exception": error}
            self.runtime.loop.call_exception_handler(context)

    def _fire(self) -> None:
        now = self.runtime.now()
        due = _leading(lambda: iter(self.entries), lambda entry: entry.at <= now)
        for entry in due:
            if entry in self.entries:
                del self.entries[entry]
                self.tell(entry)
        self.wait_for(next(iter(self.entries), None), now, fired=bool(due))

    def wait_for(self, first: Timer | None, now: float, *, fired: bool) -> None:
        """Arm the timer, which has fired, for the next to expire."""
        if first is None:
            self.disarm()
            return
        delay = first.at - now
        # Nobody was due: the loop's clock is coarser than ours (uvloop counts milliseconds and rounds a shorter wait
        # to none), so wait for a whole tick of it instead of spinning.
        self.arm(first.at, delay if fired or self.runtime.exact else max(delay, 0.001))


class Deadlines(Timers):
    """All running calls under a deadline. These expire in any order, so a heap says who is next. Most calls end long
    before the timer fires, and only those that run when it does come into the heap. They stay in it until it is their
    turn, or until most of it are calls that have ended."""

    __slots__ = ("_heap", "_number")

    def __init__(self, runtime: AsyncioRuntime) -> None:
        super().__init__(runtime, Deadlines)
        self._heap: list[tuple[float, int, Timer]] = []
        self._number = count().__next__  # those of one moment expire in the order in which they came

    def _fire(self) -> None:
        now, fired = self.runtime.now(), False
        if len(self._heap) > 2 * len(self.entries) + 100:
            self._heap[:] = filter(self._waits, self._heap)
            heapify(self._heap)
        while (entry := self._first()) is not None and entry.at <= now:
            del self.entries[entry]
            self.tell(entry)
            fired = True
            if isinstance(entry, DeadlineEntry) and not entry.fired and entry.at < entry.limit.at < math.inf:
                entry.at = entry.limit.at
                self.entries[entry] = None
        self.wait_for(entry, now, fired=fired)

    def _first(self) -> Timer | None:
        """Who is the next to expire, of all that have joined and not left."""
        entries, heap = self.entries, self._heap
        new = _leading(lambda: reversed(entries.items()), lambda item: not item[1])
        for entry, _ in reversed(new):
            if entry in entries:
                entries[entry] = True
                heappush(heap, (entry.at, self._number(), entry))
        while heap and not self._waits(heap[0]):
            heappop(heap)
        return heap[0][2] if heap else None

    def _waits(self, place: tuple[float, int, Timer]) -> bool:
        """Whether a place in the heap is that of one who has neither left nor come again with another moment."""
        at, _, timer = place
        return timer.at == at and self.entries.get(timer) is True
