"""The trio runtime: timeouts by cancel scopes. It is imported only after trio itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import trio

from resilient.runtime.clock import monotonic
from resilient.runtime.inherited_deadline import hold_total, let_go
from resilient.runtime.protocol import Limit, Timed, Woken, Work

__all__ = ["TrioRuntime", "running"]


class TrioRuntime:
    """The runtime of trio. Runs on the real clock share one instance; a run with a mock clock has its own."""

    cancelled: type[BaseException] = trio.Cancelled
    is_closed = False  # `trio.run` ends all calls before it returns

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def park(self) -> _Parking:
        return _Parking()

    def spawn(self, work: Work, context: Context) -> _Spawned:
        spawned = _Spawned()

        async def scoped() -> None:
            if spawned.never_ran is not None:
                spawned.never_ran()
                return
            with spawned.scope:
                await work()
            spawned.never_ran = None  # breaks a reference cycle: it refers to the work, and the work to `spawned`

        trio.lowlevel.spawn_system_task(scoped, context=context)
        return spawned

    def cancel(self, spawned: _Spawned, never_ran: Callable[[], None]) -> None:
        spawned.never_ran = never_ran
        spawned.scope.cancel()

    def caller(self) -> trio.lowlevel.Task:
        return trio.lowlevel.current_task()

    def tasks(self) -> list[trio.lowlevel.Task]:
        root = trio.lowlevel.current_root_task()
        tasks = [] if root is None else [root]
        for task in tasks:  # the loop appends to this list
            tasks += (child for nursery in task.child_nurseries for child in nursery.child_tasks)
        return tasks

    async def within(self, call: Any, inner: Callable[[Any], Awaitable[Any]], limit: Limit) -> Any:
        outer, waited = call.deadline, call.waited
        now = self.now()
        at = now + limit.seconds if limit.at is None else limit.at
        if outer is None or at < outer:
            call.deadline = at
        held = hold_total(at, limit.seconds) if limit.total else None
        try:
            with trio.move_on_after(max(0.0, at - now)) as scope:
                return await inner(call)
        finally:
            call.deadline = outer
            let_go(held)
        assert scope.cancelled_caught
        raise limit.expired(call, call.waited - waited) from call.error


class _Spawned:
    """A system task, in a cancel scope of its own."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.never_ran: Callable[[], None] | None = None


class _Parking:
    """The wait of one call: an event that other threads set through trio's token."""

    __slots__ = ("_event", "home")

    def __init__(self) -> None:
        self._event = trio.Event()
        self.home = trio.lowlevel.current_trio_token()

    is_running = True  # `trio.run` ends all calls before it returns

    def wake(self) -> Woken:
        try:
            self.home.run_sync_soon(self._event.set)
        except trio.RunFinishedError:
            return "gone"
        try:
            return "runs" if trio.lowlevel.current_trio_token() is self.home else "may run"
        except RuntimeError:
            return "may run"

    async def wait(self, seconds: float | None, call: Timed, *, often: bool = False) -> bool:
        with trio.move_on_after(float("inf") if seconds is None else seconds):
            await self._event.wait()
        return self._event.is_set()


_real = TrioRuntime(monotonic)


def running() -> TrioRuntime | None:
    """Return the runtime of the trio run in this thread, or None. A mock clock is the clock of its own run only."""
    try:
        clock = trio.lowlevel.current_clock()
    except RuntimeError:
        return None
    if isinstance(clock, trio.abc.Clock) and type(clock).__name__ != "SystemClock":
        return TrioRuntime(clock.current_time)
    return _real
