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
from itertools import count
from sys import get_asyncgen_hooks
from typing import TYPE_CHECKING, Any, Protocol

from resilient.clock import monotonic
from resilient.forks import in_forked_child
from resilient.groups import is_cut

if TYPE_CHECKING:
    from resilient.runtime import Limit, Timed, Woken, Work

__all__ = ["AsyncioRuntime", "Timer", "running"]


LENGTHS = 100
"""Lengths that have a timer of their own on each event loop. More are rare, unless they are computed for each call."""


class _Entry:
    """One running timeout. Entries, not tasks, are the keys: a task may be inside several of one length."""

    __slots__ = ("at", "fired", "task")

    task: Task[Any] | None
    at: float
    fired: bool

    def fire(self) -> None:
        """Its time has come."""
        self.fired = True
        assert self.task is not None
        self.task.cancel()


class _Asking(_Entry):
    """The timeout of a limit that wants to be asked, and may have been moved to a later moment meanwhile."""

    __slots__ = ("limit",)

    limit: Any

    def fire(self) -> None:
        if self.limit.strikes():
            super().fire()


class Timer(Protocol):
    """Whoever wants to be told when a while is over: `at` is when, as `after` has set it."""

    at: float

    def fire(self) -> None:
        """It is over."""


class _Timers:
    """All running timeouts of one length on one event loop; first to expire first."""

    __slots__ = ("armed", "entries", "key", "runtime")

    def __init__(self, runtime: AsyncioRuntime, key: Any) -> None:
        self.runtime = runtime
        self.key = key
        self.entries: dict[Timer, None] = {}
        self.armed: asyncio.TimerHandle | None = None

    def arm(self, delay: float) -> None:
        loop = self.runtime.loop
        self.armed = loop.call_at(loop.time() + delay, self._fire)

    def tell(self, timer: Timer) -> None:
        """Its time is over. What goes wrong then is its own affair: the timer is shared with others."""
        try:
            timer.fire()
        except Exception as error:
            context = {"message": "resilient: a timer failed", "exception": error}
            self.runtime.loop.call_exception_handler(context)

    def disarm(self) -> None:
        """Drop a timer for which nobody waits."""
        if self.armed is not None:
            self.armed.cancel()
        self.armed = None
        self.runtime.timers.pop(self.key, None)

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
        if not self.entries:
            self.disarm()
            return
        delay = next(iter(self.entries)).at - now
        # Nobody was due: the loop's clock is coarser than ours (uvloop counts milliseconds and rounds a shorter wait
        # to none), so wait for a whole tick of it instead of spinning.
        self.arm(delay if due or self.runtime.exact else max(delay, 0.001))


class _Deadlines(_Timers):
    """All running calls under a deadline. These expire in any order, so a heap says who is next; who has ended in time
    stays in it until it is his turn, or until most of it is such, unless he is the last one in it."""

    __slots__ = ("heap", "next", "number")

    def __init__(self, runtime: AsyncioRuntime) -> None:
        super().__init__(runtime, _Deadlines)
        self.heap: list[tuple[float, int, Timer]] = []
        self.next = math.inf
        self.number = count().__next__  # those of one moment expire in the order in which they came

    def join(self, entry: Timer, now: float) -> None:
        if len(self.heap) > 2 * len(self.entries) + 100:
            self.heap[:] = [each for each in self.heap if each[2] in self.entries]
            heapify(self.heap)
        self.entries[entry] = None
        heappush(self.heap, (entry.at, self.number(), entry))
        if self.armed is None or entry.at < self.next:
            if self.armed is not None:
                self.armed.cancel()
            self.next = entry.at
            self.arm(entry.at - now)

    def _fire(self) -> None:
        now, due = self.runtime.now(), False
        while self.heap and (self.heap[0][0] <= now or self.heap[0][2] not in self.entries):
            entry = heappop(self.heap)[2]
            if entry in self.entries:
                del self.entries[entry]
                self.tell(entry)
                due = True
                if isinstance(entry, _Asking) and not entry.fired and now < entry.limit.at < math.inf:
                    entry.at = entry.limit.at
                    self.join(entry, now)
        if not self.heap:
            self.disarm()
            return
        self.next = self.heap[0][0]
        delay = self.next - now
        self.arm(delay if due or self.runtime.exact else max(delay, 0.001))


class AsyncioRuntime:
    """The runtime of one event loop."""

    cancelled: type[BaseException] = CancelledError
    exact = False
    now = staticmethod(monotonic)

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.timers: dict[Any, _Timers] = {}  # by length in seconds; and one for all deadlines

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

    def after(self, seconds: float, timer: Timer) -> dict[Timer, None]:
        """Call `timer.fire()` from the event loop after `seconds`, unless taken out of what is returned before."""
        timers = self.timers.get(seconds)
        if timers is None and len(self.timers) < LENGTHS:
            timers = self.timers[seconds] = _Timers(self, seconds)
        now = self.now()
        timer.at = now + seconds
        if timers is None:
            deadlines = self.deadlines
            deadlines.join(timer, now)
            return deadlines.entries
        if timers.armed is None:
            timers.arm(seconds)
        timers.entries[timer] = None
        return timers.entries

    @property
    def deadlines(self) -> _Deadlines:
        """The timers of all deadlines, and of what has a length of its own when there are too many."""
        deadlines = self.timers.get(_Deadlines)
        if deadlines is None:
            deadlines = self.timers[_Deadlines] = _Deadlines(self)
        assert isinstance(deadlines, _Deadlines)
        return deadlines

    async def within(self, call: Any, inner: Callable[[Any], Awaitable[Any]], limit: Limit) -> Any:
        task = current_task(self.loop)
        assert task is not None, "a timeout needs a task"
        base = task.cancelling()
        now, at = self.now(), limit.at
        timers: _Timers | None
        asking = False
        heap: list[tuple[float, int, Timer]] | None = None
        if at is None:
            entry = _Entry()  # without an `__init__`, which would cost more than all else here
            key = limit.seconds
            entry.at = at = now + key
            timers = self.timers.get(key)
            if timers is None and len(self.timers) < LENGTHS:
                timers = self.timers[key] = _Timers(self, key)
            if timers is None:
                timers = self.deadlines
                timers.join(entry, now)
                heap = timers.heap
            else:
                timers.entries[entry] = None
                if timers.armed is None:
                    timers.arm(key)
        else:
            asking = hasattr(limit, "strikes")
            if asking:
                entry = _Asking()
                entry.limit = limit
            else:
                entry = _Entry()
            entry.at = at
            timers = self.deadlines
            timers.join(entry, now)
            heap = timers.heap
        entry.task = task
        entry.fired = False
        outer, waited = call.deadline, call.waited
        if outer is None or at < outer:
            call.deadline = at
        try:
            result = await inner(call)
        except BaseException as error:
            # `uncancel` on every exit, and only once; the cancellation is ours if it brings the count back to where
            # it was. A caller's cancel in the same tick leaves it higher, and goes first.
            if entry.fired:
                if task.uncancel() <= base and is_cut(error, CancelledError):
                    raise limit.expired(call, call.waited - waited) from call.error
            else:
                timers.entries.pop(entry, None)
            raise
        else:
            if entry.fired:
                task.uncancel()  # the callee swallowed the cancel and has a result all the same
            else:
                timers.entries.pop(entry, None)
            return result
        finally:
            call.deadline = outer
            if heap is not None:
                if heap and heap[-1][2] is entry:
                    heap.pop()
                entry.task = None  # it may stay in there for long
                if asking:
                    entry.limit = None  # type: ignore[attr-defined]


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
