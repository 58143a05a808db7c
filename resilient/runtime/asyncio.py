"""The asyncio runtime: timeouts on shared timers (`resilient.runtime.timers`), and waits that any thread can end."""

from __future__ import annotations

import asyncio
import sys
from asyncio import AbstractEventLoop, CancelledError, Task, _get_running_loop, current_task
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from sys import get_asyncgen_hooks
from typing import Any

from resilient._atomic import in_forked_child
from resilient.errors import is_cancellation
from resilient.runtime.clock import monotonic
from resilient.runtime.inherited_deadline import inherit, inherited, restore
from resilient.runtime.protocol import Limit, Timed, Woken, Work
from resilient.runtime.timers import LENGTHS, DeadlineEntry, Deadlines, Entries, Entry, Timer, Timers

__all__ = ["AsyncioRuntime", "current_task", "running"]

if sys.version_info < (3, 12):  # where `current_task` is written in Python, and costs as much as a bare await
    current_task = asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]


_forks = 0
"""The number of forks between the first process and this one. An event loop runs only in the process that made it."""


class AsyncioRuntime:
    """The runtime of one asyncio event loop. `running()` finds it, and makes it at the first guarded call."""

    cancelled: type[BaseException] = CancelledError
    exact = False

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.now: Callable[[], float] = monotonic
        self.timers: dict[Any, Timers] = {}
        """Queues of timeouts, by their length in seconds. The key `Deadlines` has the queue of deadlines and rare
        lengths."""
        self._forks = _forks

    @property
    def is_closed(self) -> bool:
        """Whether the event loop is closed, or runs in the parent of this forked process only."""
        return self.loop.is_closed() or self._forks != _forks

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def park(self) -> _Parking:
        return _Parking(self)

    def spawn(self, work: Work, context: Context) -> Task[None]:
        coroutine = work()
        try:
            return self.loop.create_task(coroutine, context=context)
        except BaseException:  # raised by a task factory
            coroutine.close()
            raise

    def cancel(self, spawned: Task[None], never_ran: Callable[[], None]) -> None:
        def done(task: Task[None]) -> None:
            if task.cancelled():  # before its first step: work that has begun ends without an error
                never_ran()

        try:
            spawned.add_done_callback(done)
            spawned.cancel()
        except RuntimeError:  # the event loop is closed, and never runs the task
            never_ran()

    def caller(self) -> Task[Any] | None:
        return current_task(self.loop)

    def tasks(self) -> set[Task[Any]]:
        return asyncio.all_tasks(self.loop)

    def after(self, seconds: float, timer: Timer) -> Entries:
        """Call `timer.fire()` from the event loop after `seconds`. To cancel that, remove the timer from the returned
        entries."""
        timer.at = at = self.now() + seconds
        timers = self.timers.get(seconds) or self._new_timers(seconds)
        timers.entries[timer] = None
        if at < timers.next:
            timers.arm(at, seconds)
        return timers.entries

    def _new_timers(self, key: Any) -> Timers:
        """Make the queue of timeouts of one length, or of `Deadlines`. After `LENGTHS` queues, further lengths share
        that of `Deadlines`."""
        if key is Deadlines:
            self.timers[key] = Deadlines(self)
        elif len(self.timers) < LENGTHS:
            self.timers[key] = Timers(self, key)
        else:
            return self.timers.get(Deadlines) or self._new_timers(Deadlines)
        return self.timers[key]

    def until(self, timer: Timer) -> Entries:
        """Call `timer.fire()` from the event loop at `timer.at`. To cancel that, remove the timer from the returned
        entries."""
        timers, at = self.timers.get(Deadlines) or self._new_timers(Deadlines), timer.at
        timers.entries[timer] = None
        if at < timers.next:
            timers.arm(at, at - self.now())
        return timers.entries

    async def within(self, call: Any, inner: Callable[[Any], Awaitable[Any]], limit: Limit) -> Any:
        task = current_task(self.loop)
        assert task is not None, "a timeout needs a task"
        base, clock, at = task.cancelling(), self.now, limit.at
        key: Any
        if at is None:
            key = limit.seconds
            at = clock() + key
            entry = Entry()
            entry.seconds = key
        else:
            key = Deadlines
            entry = DeadlineEntry()
            entry.limit = limit
        try:
            timers = self.timers[key]
        except KeyError:
            timers = self._new_timers(key)
        entry.at = at
        entry.task = task
        entry.fired = False
        entries = timers.entries
        entries[entry] = None
        if at < timers.next:
            timers.arm(at, at - clock())
        outer, waited, held = call.deadline, call.waited, None
        mine = outer is None or at < outer
        if mine:
            call.deadline = at
        try:
            if limit.total and (mine or (around := inherited()) is None or at < around.at):
                held = inherit(entry)
            result = await inner(call)
        except BaseException as error:
            # `uncancel` on every exit, and only once. The cancellation is ours if that brings the count back to its
            # former value. A caller's cancel in the same tick leaves the count higher, and takes precedence.
            if entry.fired:
                if task.uncancel() <= base and is_cancellation(error, CancelledError):
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
    """The wait of one call: a future of its event loop."""

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
            return "gone"  # the loop of the call is closed
        return "may run" if self.is_running else "stands still"

    def _end(self, woken: bool = True) -> None:
        if not self._future.done():
            self._future.set_result(woken)

    def fire(self) -> None:
        """End the wait because its time is over: `wait` returns False."""
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
    """Return the runtime of the event loop that runs in this thread, or None. The loop keeps it: both end together."""
    loop = _get_running_loop()
    if loop is None:
        return None
    try:
        return loop.resilient_runtime  # type: ignore[attr-defined, no-any-return]
    except AttributeError:
        return _begin(loop)


if sys.version_info < (3, 12):
    _by_system_call = running

    def running() -> AsyncioRuntime | None:
        """Return the runtime of the event loop that runs in this thread, or None. The loop keeps it: both end together.

        Before Python 3.12 `get_running_loop` makes a system call, which costs as much as two bare awaits. Each running
        loop, nested ones too, installs its hooks for async generators; so the hooks in force lead to the loop.
        (`get_running_loop` serves loops without hooks.)
        """
        try:
            return get_asyncgen_hooks()[0].__self__.resilient_runtime  # type: ignore[union-attr, no-any-return]
        except AttributeError:
            return _by_system_call()


def _begin(loop: AbstractEventLoop) -> AsyncioRuntime:
    """Make the runtime of a loop, and store it on the loop. No lock is needed: two threads cannot run one loop."""
    runtime = loop.resilient_runtime = AsyncioRuntime(loop)  # type: ignore[attr-defined]
    return runtime


@in_forked_child
def _drop_parents_runtime() -> None:
    """In a forked child: drop the runtime of the parent's loop, to which the hooks still lead, though no loop runs
    here. Coroutines of the parent's calls that are collected in the child never end there, and count as closed."""
    global _forks
    _forks += 1
    hook = get_asyncgen_hooks()[0]
    with suppress(AttributeError):
        del hook.__self__.resilient_runtime  # type: ignore[union-attr]
