"""asyncio: timeouts that share one timer, and turns that can be called from any thread.

Arming `loop.call_later` for each call costs 20 times a bare await. Timeouts of one length expire in the order in which
they began, so each event loop keeps one queue and one timer per length (and one for all further lengths, and all
deadlines, with a heap); a call only joins and leaves it. The timer is
armed for the first in the queue and left alone when that one ends in time: when it fires, it is set for whoever is
first by then.
"""

from __future__ import annotations

import asyncio
import math
import sys
from asyncio import AbstractEventLoop, CancelledError, Task, _get_running_loop, current_task
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from heapq import heapify, heappop, heappush
from itertools import count, takewhile
from sys import get_asyncgen_hooks
from typing import TYPE_CHECKING, Any, Protocol

from resilient.clock import monotonic
from resilient.forks import in_forked_child
from resilient.groups import is_cut
from resilient.moment import Deadline, inherit, inherited, restore

if TYPE_CHECKING:
    from resilient.runtime import Limit, Timed, Woken, Work

__all__ = ["AsyncioRuntime", "Timer", "running"]


if sys.version_info < (3, 12):  # where `current_task` is written in Python, and costs as much as a bare await
    current_task = asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]

LENGTHS = 100
"""Lengths that have a timer of their own on each event loop. More are rare, unless they are computed for each call."""


class _Entry(Deadline):
    """One running timeout; a total one is the deadline of what is inside it. Entries, not tasks, are the keys: a task
    may be inside several of one length."""

    __slots__ = ("fired", "task")

    task: Task[Any] | None
    fired: bool

    __init__ = object.__init__  # one in Python would cost more than all else here

    def fire(self) -> None:
        """Its time has come."""
        self.fired = True
        assert self.task is not None
        self.task.cancel()

    def forget(self) -> None:
        """Let go of a call that has ended: the entry may stay in a heap for long."""
        self.task = None


class _DeadlineEntry(_Entry):
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


Entries = dict[Timer, bool | None]
"""Those that wait, as keys; True: it is in a heap, too."""


class _Timers:
    """All running timeouts of one length on one event loop; first to expire first.

    To join means: be put into `entries`, and `arm` the timer where it would fire too late, at `next`.
    """

    __slots__ = ("armed", "entries", "key", "next", "runtime")

    def __init__(self, runtime: AsyncioRuntime, key: Any) -> None:
        self.runtime = runtime
        self.key = key
        self.entries: Entries = {}
        self.armed: asyncio.TimerHandle | None = None
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
        due = []
        for entry in self.entries:
            if entry.at > now:
                break
            due.append(entry)
        for entry in due:
            del self.entries[entry]
            self.tell(entry)
        self.wait_for(next(iter(self.entries), None), now, fired=bool(due))

    def wait_for(self, first: Timer | None, now: float, *, fired: bool) -> None:
        """Arm the timer, which has fired, for the next to expire."""
        self.armed = None
        if first is None:
            self.disarm()
            return
        delay = first.at - now
        # Nobody was due: the loop's clock is coarser than ours (uvloop counts milliseconds and rounds a shorter wait
        # to none), so wait for a whole tick of it instead of spinning.
        self.arm(first.at, delay if fired or self.runtime.exact else max(delay, 0.001))


class _Deadlines(_Timers):
    """All running calls under a deadline. These expire in any order, so a heap says who is next. Most calls end long
    before the timer fires, and only those that run when it does come into the heap. They stay in it until it is their
    turn, or until most of it are calls that have ended."""

    __slots__ = ("_heap", "_number")

    def __init__(self, runtime: AsyncioRuntime) -> None:
        super().__init__(runtime, _Deadlines)
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
            if isinstance(entry, _DeadlineEntry) and not entry.fired and entry.at < entry.limit.at < math.inf:
                entry.at = entry.limit.at
                self.entries[entry] = None
        self.wait_for(entry, now, fired=fired)

    def _first(self) -> Timer | None:
        """Who is the next to expire, of all that have joined and not left."""
        entries, heap = self.entries, self._heap
        new = list(takewhile(lambda entry: not entries[entry], reversed(entries)))
        for entry in reversed(new):
            entries[entry] = True
            heappush(heap, (entry.at, self._number(), entry))
        while heap and not self._waits(heap[0]):
            heappop(heap)
        return heap[0][2] if heap else None

    def _waits(self, place: tuple[float, int, Timer]) -> bool:
        """Whether a place in the heap is that of one who has neither left nor come again with another moment."""
        at, _, timer = place
        return timer.at == at and self.entries.get(timer) is True


class _ByLength(dict[Any, _Timers]):
    """The timers of one event loop by their length in seconds, made when they are asked for; and those of all deadlines
    and further lengths."""

    def __init__(self, runtime: AsyncioRuntime) -> None:
        self._runtime = runtime

    def __missing__(self, key: Any) -> _Timers:
        if key is _Deadlines:
            self[key] = _Deadlines(self._runtime)
        elif len(self) < LENGTHS:
            self[key] = _Timers(self._runtime, key)
        else:
            return self[_Deadlines]
        return self[key]


class AsyncioRuntime:
    """The runtime of one event loop."""

    cancelled: type[BaseException] = CancelledError
    exact = False

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.now: Callable[[], float] = monotonic
        self.timers = _ByLength(self)

    @property
    def is_closed(self) -> bool:
        return self.loop.is_closed()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def park(self) -> _Parking:
        return _Parking(self)

    def spawn(self, work: Work, context: Context) -> Task[None]:
        coroutine = work()
        try:
            return self.loop.create_task(coroutine, context=context)
        except BaseException:  # of a task factory
            coroutine.close()
            raise

    def cancel(self, spawned: Task[None], never_ran: Callable[[], None]) -> None:
        def done(task: Task[None]) -> None:
            if task.cancelled():  # before its first step: it lets no cancellation out
                never_ran()

        try:
            spawned.add_done_callback(done)
            spawned.cancel()
        except RuntimeError:  # its event loop is closed, and it is dropped
            never_ran()

    def caller(self) -> Task[Any] | None:
        return current_task(self.loop)

    def tasks(self) -> set[Task[Any]]:
        return asyncio.all_tasks(self.loop)

    def after(self, seconds: float, timer: Timer) -> Entries:
        """Call `timer.fire()` from the event loop after `seconds`, unless taken out of what is returned before."""
        timer.at = at = self.now() + seconds
        timers = self.timers[seconds]
        timers.entries[timer] = None
        if at < timers.next:
            timers.arm(at, seconds)
        return timers.entries

    async def within(self, call: Any, inner: Callable[[Any], Awaitable[Any]], limit: Limit) -> Any:
        task = current_task(self.loop)
        assert task is not None, "a timeout needs a task"
        base, clock, at = task.cancelling(), self.now, limit.at
        now = clock()
        if at is None:
            seconds = limit.seconds
            at = now + seconds
            timers = self.timers[seconds]
            entry = _Entry()
            entry.seconds = seconds
        else:
            timers = self.timers[_Deadlines]
            entry = _DeadlineEntry()
            entry.limit = limit
        entry.at = at
        entry.task = task
        entry.fired = False
        entries = timers.entries
        entries[entry] = None
        if at < timers.next:
            timers.arm(at, at - now)
        outer, waited, held = call.deadline, call.waited, None
        mine = outer is None or at < outer
        if mine:
            call.deadline = at
        try:
            if limit.total and (mine or (around := inherited()) is None or at < around.at):
                held = inherit(entry)
            result = await inner(call)
        except BaseException as error:
            # `uncancel` on every exit, and only once; the cancellation is ours if it brings the count back to where
            # it was. A caller's cancel in the same tick leaves it higher, and goes first.
            if entry.fired:
                if task.uncancel() <= base and is_cut(error, CancelledError):
                    raise limit.expired(call, call.waited - waited) from call.error
            elif entries.pop(entry, None):
                entry.forget()
            raise
        else:
            if entry.fired:
                task.uncancel()  # the callee swallowed the cancel and has a result all the same
            elif entries.pop(entry, None):
                entry.forget()
            return result
        finally:
            call.deadline = outer
            if held is not None:
                entry.task = None
                try:
                    restore(held)
                except ValueError:
                    pass  # as in `let_go`


class _Parking:
    """A future of the waiting call's event loop."""

    __slots__ = ("_future", "_runtime", "at", "home")

    at: float

    def __init__(self, runtime: AsyncioRuntime) -> None:
        self._runtime = runtime
        self.home = runtime.loop
        self._future: asyncio.Future[bool] = runtime.loop.create_future()

    @property
    def is_running(self) -> bool:
        return self.home.is_running()

    def wake(self) -> Woken:
        if running() is self._runtime:
            self._end()
            return "runs"
        try:
            self.home.call_soon_threadsafe(self._end)
        except RuntimeError:
            return "gone"  # that loop is closed, and its call gone with it
        return "may run" if self.is_running else "stands still"

    def _end(self, woken: bool = True) -> None:
        if not self._future.done():
            self._future.set_result(woken)

    def fire(self) -> None:
        """Its time is over."""
        self._end(False)

    async def wait(self, seconds: float | None, call: Timed, *, often: bool = False) -> bool:
        if seconds is None:
            return await self._future
        if often:
            entries = self._runtime.after(seconds, self)
            try:
                return await self._future
            finally:
                entries.pop(self, None)
        loop = self._runtime.loop
        timer = loop.call_at(loop.time() + seconds, self.fire)
        try:
            return await self._future
        finally:
            timer.cancel()


def running() -> AsyncioRuntime | None:
    """The runtime of the event loop that runs in this thread, or None. It is the loop's own, and ends with it."""
    loop = _get_running_loop()
    if loop is None:
        return None
    try:
        return loop.resilient_runtime  # type: ignore[attr-defined, no-any-return]
    except AttributeError:
        return _begin(loop)


if sys.version_info < (3, 12):
    _ask = running

    def running() -> AsyncioRuntime | None:
        """The runtime of the event loop that runs in this thread, or None. It is the loop's own, and ends with it.

        `get_running_loop` makes a system call here, which costs as much as two bare awaits; so whose hooks for async
        generators are in force says which loop runs, nested ones too. (A loop without hooks is asked for all the same.)
        """
        try:
            return get_asyncgen_hooks()[0].__self__.resilient_runtime  # type: ignore[union-attr, no-any-return]
        except AttributeError:
            return _ask()


def _begin(loop: AbstractEventLoop) -> AsyncioRuntime:
    """Give a loop its runtime. (Two threads cannot run one loop.)"""
    runtime = loop.resilient_runtime = AsyncioRuntime(loop)  # type: ignore[attr-defined]
    return runtime


@in_forked_child
def _forget_the_parents() -> None:
    """In a forked child: no loop runs, whatever the hooks say."""
    hook = get_asyncgen_hooks()[0]
    with suppress(AttributeError):
        del hook.__self__.resilient_runtime  # type: ignore[union-attr]
