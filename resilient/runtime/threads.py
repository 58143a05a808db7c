"""Threads: a plain `def` runs in its caller's thread, and waiting blocks that thread.

The policies are coroutines all the same. Here nothing in them ever suspends, so one `send(None)` runs a whole call to
its end (`drive`). Python cannot stop a running thread; so a Timeout around a `def` is a *cooperative* deadline: it
bounds what waits (queues, backoff, further attempts), but a function that has begun is not interrupted and its late
result is returned. `Timeout(thread=True)` runs the inner layers in a thread of their own instead, and stops *waiting*
for it at the limit; the function itself runs on to its end there, holding its permits until then.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from resilient.errors import Stopped
from resilient.runtime.clock import monotonic
from resilient.runtime.inherited_deadline import hold_total, let_go
from resilient.runtime.protocol import Limit, Timed, Woken, Work

__all__ = ["AWAITED", "THREADS", "ThreadRuntime", "drive", "finish"]

T = TypeVar("T")


AWAITED = "a policy or a strategy around a plain def awaited something that suspends; decorate an async def instead"


class _Expired(BaseException):
    """Raised by a wait when the call's deadline has passed. The Timeout that set the deadline converts it to its
    `TimedOut`."""


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result. Raises `RuntimeError` if it suspends."""
    try:
        return finish(coroutine)
    except Stopped as carried:
        raise carried.error from None


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, inside a guarded call. A `StopIteration` of its function is raised as
    `Stopped`, because it may have to pass through coroutines of the caller."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError(AWAITED)


class ThreadRuntime:
    """The runtime of all plain functions: `THREADS` serves every thread."""

    cancelled: type[BaseException] = _Expired
    is_closed = False
    now = staticmethod(monotonic)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  (no event loop runs this coroutine)

    def park(self) -> _Parking:
        return _Parking()

    def spawn(self, work: Work, context: Context) -> None:
        def target() -> None:
            with contextlib.suppress(RuntimeError):  # raised by `drive`, which has closed the coroutine of `work`
                context.run(drive, work())

        threading.Thread(target=target, name="resilient-background", daemon=True).start()

    def cancel(self, spawned: None, never_ran: Callable[[], None]) -> None:
        pass

    def caller(self) -> int:
        return threading.get_ident()

    def tasks(self) -> tuple[()]:
        return ()

    async def within(self, call: Any, inner: Callable[[Any], Awaitable[Any]], limit: Limit) -> Any:
        outer, waited = call.deadline, call.waited
        at = monotonic() + limit.seconds if limit.at is None else limit.at
        mine = outer is None or at < outer
        if mine:
            call.deadline = at
        held = hold_total(at, limit.seconds) if limit.total else None
        try:
            return await inner(call)
        except _Expired:
            if not mine:
                raise  # the deadline of an outer Timeout came first
            raise limit.expired(call, call.waited - waited) from call.error
        finally:
            call.deadline = outer
            let_go(held)

    def plainly_within(self, inner: Callable[[Any], T], limit: Limit) -> Callable[[Any], T]:
        """Return a plain function that runs the plain function `inner` under a limit in seconds: `within` without a
        coroutine."""
        seconds, total = limit.seconds, limit.total

        def within(call: Any) -> T:
            outer, waited = call.deadline, call.waited
            at = monotonic() + seconds
            mine = outer is None or at < outer
            if mine:
                call.deadline = at
            held = hold_total(at, seconds) if total else None
            try:
                return inner(call)
            except _Expired:
                if not mine:
                    raise
                raise limit.expired(call, call.waited - waited) from call.error
            finally:
                call.deadline = outer
                if held is not None:
                    let_go(held)

        return within


class _Parking:
    """The wait of one call: a lock that stays taken until `wake` releases it."""

    __slots__ = ("_lock",)

    home = "threads"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    is_running = True

    def wake(self) -> Woken:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # `wake` was called before
        return "runs"

    async def wait(self, seconds: float | None, call: Timed, *, often: bool = False) -> bool:
        limits = [threading.TIMEOUT_MAX]
        if seconds is not None:
            limits.append(seconds)
        if call.deadline is not None:
            limits.append(max(0.0, call.deadline - monotonic()))
        if self._lock.acquire(timeout=min(limits)):
            return True
        if seconds is None or (call.deadline is not None and monotonic() >= call.deadline):
            raise _Expired
        return False


THREADS = ThreadRuntime()
