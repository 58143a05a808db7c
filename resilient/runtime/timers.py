"""The timers of an asyncio event loop: one for all timeouts of one length, and one for all deadlines.

Arming `loop.call_later` for each call costs 20 times a bare await. Timeouts of one length expire in the order in which
they began, so each event loop has one queue and one timer for each length, which calls only join and leave. Deadlines,
and timeouts of rare lengths, expire in any order: they share one timer and a heap. A timer is armed for the first entry
of its queue. It stays armed if that entry leaves in time; when it fires, it is armed again for the entry that is first
then.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import Task, TimerHandle
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count, takewhile
from typing import Any, Protocol, TypeVar

from resilient.runtime.inherited_deadline import Deadline

__all__ = ["LENGTHS", "DeadlineEntry", "Deadlines", "Entries", "Entry", "Timer", "Timers"]

T = TypeVar("T")


class TimedLoop(Protocol):
    """The part of an event loop's runtime that timers use (`resilient.runtime.asyncio.AsyncioRuntime`).

    Attributes:
        exact: whether the loop's timers fire no earlier than asked (uvloop rounds to milliseconds).
        timers: the queue of each length that has one.
    """

    loop: asyncio.AbstractEventLoop
    exact: bool
    timers: dict[Any, Any]

    def now(self) -> float:
        """Return the time in seconds on the runtime's clock."""
        ...


LENGTHS = 100
"""The most lengths that have a timer of their own on each event loop; further lengths share the timer of deadlines."""


class Entry(Deadline):
    """One running timeout, in the queue of its length. A total Timeout's entry is also the deadline of all that is
    called inside it. Entries, not tasks, are the keys: a task can be inside several timeouts of one length."""

    __slots__ = ("fired", "task")

    task: Task[Any] | None
    fired: bool

    __init__: Any = object.__init__  # `within` sets the attributes: an `__init__` would cost more than all else

    def fire(self) -> None:
        """Cancel the task: the timeout has expired."""
        self.fired = True
        assert self.task is not None
        self.task.cancel()

    def forget(self) -> None:
        """Drop the references to a call that has ended, because the entry may stay in a heap for long."""
        self.task = None


class DeadlineEntry(Entry):
    """One running deadline. Its `limit` can move to a later moment, and its method `strikes()` can prevent the
    cancellation."""

    __slots__ = ("limit",)

    limit: Any

    def fire(self) -> None:
        strikes: Callable[[], bool] | None = getattr(self.limit, "strikes", None)
        if strikes is None or strikes():
            super().fire()

    def forget(self) -> None:
        self.task = self.limit = None


class Timer(Protocol):
    """An entry of a timer queue: the event loop calls `fire` at the time `at`."""

    at: float

    def fire(self) -> None:
        """Called once, at the time `at`; never after the timer has left the queue."""


def _leading(iterate: Callable[[], Iterator[T]], wanted: Callable[[T], bool]) -> list[T]:
    """Return the first items of an iterable, up to one that is not `wanted`. Starts again if an entry leaves during
    the iteration: a finalizer may close the coroutine of a call."""
    while True:
        try:
            return list(takewhile(wanted, iterate()))
        except RuntimeError:
            pass


Entries = dict[Timer, bool | None]
"""Waiting entries, as keys, in the order in which they joined. The value is True for an entry that is in the heap, too.
"""


class Timers:
    """All running timeouts of one length on one event loop, in the order in which they expire.

    A call joins by putting its entry into `entries`, and calls `arm` if the timer fires too late for that entry: `next`
    is the time at which the timer fires.
    """

    __slots__ = ("armed", "entries", "key", "next", "runtime")

    def __init__(self, runtime: TimedLoop, key: Any) -> None:
        self.runtime = runtime
        self.key = key
        self.entries: Entries = {}
        self.armed: TimerHandle | None = None
        self.next = math.inf

    def arm(self, at: float, delay: float) -> None:
        """Set the timer to fire at the time `at`, which is `delay` seconds from now."""
        if self.armed is not None:
            self.armed.cancel()
        loop = self.runtime.loop
        self.armed = loop.call_at(loop.time() + delay, self._fire)
        self.next = at

    def disarm(self) -> None:
        """Cancel the timer, and remove this empty queue from the runtime."""
        if self.armed is not None:
            self.armed.cancel()
        self.armed = None
        self.runtime.timers.pop(self.key, None)

    def fire(self, timer: Timer) -> None:
        """Call `timer.fire()`. An error goes to the loop's exception handler, because others share this timer."""
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
                self.fire(entry)
        self.rearm(next(iter(self.entries), None), now, fired=bool(due))

    def rearm(self, first: Timer | None, now: float, *, fired: bool) -> None:
        """Arm the timer, which has fired, for the next entry to expire; None: there is no entry."""
        if first is None:
            self.disarm()
            return
        delay = first.at - now
        # If no entry was due, the loop's clock is coarser than ours: uvloop counts milliseconds and rounds a shorter
        # wait to none. Then wait for a whole tick of it instead of spinning.
        self.arm(first.at, delay if fired or self.runtime.exact else max(delay, 0.001))


class Deadlines(Timers):
    """All running deadlines on one event loop, which expire in any order.

    Most calls end long before the timer fires. So entries join without a heap, and only those that are still there when
    it fires are pushed into one. They stay in the heap until their turn, or until most of its entries have left.
    """

    __slots__ = ("_heap", "_number")

    def __init__(self, runtime: TimedLoop) -> None:
        super().__init__(runtime, Deadlines)
        self._heap: list[tuple[float, int, Timer]] = []
        self._number = count().__next__  # orders entries with equal times

    def _fire(self) -> None:
        now, fired = self.runtime.now(), False
        if len(self._heap) > 2 * len(self.entries) + 100:
            self._heap[:] = filter(self._waits, self._heap)
            heapify(self._heap)
        while (entry := self._first()) is not None and entry.at <= now:
            del self.entries[entry]
            self.fire(entry)
            fired = True
            if isinstance(entry, DeadlineEntry) and not entry.fired and entry.at < entry.limit.at < math.inf:
                entry.at = entry.limit.at
                self.entries[entry] = None
        self.rearm(entry, now, fired=fired)

    def _first(self) -> Timer | None:
        """Return the next entry to expire, or None. Pushes entries that joined since the last call into the heap."""
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
        """Whether a heap item is still valid: its entry has neither ended nor been pushed again with a new time."""
        at, _, timer = place
        return timer.at == at and self.entries.get(timer) is True
