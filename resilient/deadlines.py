"""Deadline: one moment by which everything beneath has to be done.

    with deadline(2):
        user = await get_user(7)        # every guarded call in here sees the least of all limits
        await get_orders(user)

A deadline is a context variable, so it reaches the guarded calls of called functions, of tasks begun inside, and of
threads that are given a copy of the context (`asyncio.to_thread`). It bounds their queues, rate-limit waits, pauses
between attempts, attempts and hedges; it does not end code that no pipeline guards. A total `Timeout` (one with other
policies inside it) sets one too.

Whoever inherited a deadline is cut short for a reason of the caller's: it is never evidence about the dependency.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from sys import modules
from time import monotonic
from types import TracebackType
from typing import Any

from resilient import arguments
from resilient.errors import TimedOut
from resilient.runtime import TRIO, VIRTUAL, current

__all__ = ["Deadline", "deadline", "inherited", "remaining", "seen", "total"]

_current: ContextVar[Deadline | None] = ContextVar("resilient_deadline", default=None)

_PLAIN = frozenset((float, int))
_new, _set, _reset = object.__new__, _current.set, _current.reset

inherited = _current.get
"""The deadline that holds here, or None."""


class _Seen:
    """Whether there ever was a deadline in this process: until then guarded calls need not look for one."""

    __slots__ = ("any",)

    def __init__(self) -> None:
        self.any = False


seen = _Seen()


class Deadline:
    """A moment, as a runtime's limit: `at` on its clock, set `seconds` before."""

    __slots__ = ("at", "seconds")

    name = "deadline"

    def __init__(self, at: float, seconds: float) -> None:
        self.at = at
        self.seconds = seconds

    def expired(self, call: Any, waited: float) -> TimedOut:
        """The error of a call that it ended."""
        return TimedOut(
            f"the deadline of {self.seconds:g} s, set by the caller, has passed",
            policy=self.name,
            seconds=self.seconds,
            evidence=False,
        )


class deadline:
    """`with deadline(seconds):` everything guarded in the block is done in `seconds`, or ends with `TimedOut`.

    An outer deadline that comes earlier still holds. Each object serves one `with` at a time.
    """

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        if type(seconds) in _PLAIN and 0 < seconds < 1e9:  # else every `with` would cost a third more
            self._seconds = seconds
        else:
            self._seconds = arguments.seconds("seconds", seconds)

    def __enter__(self) -> None:
        now = current().now() if TRIO in modules or VIRTUAL in modules else monotonic()
        at = now + self._seconds
        limit = inherited()
        if limit is None or at < limit.at:
            limit = _new(Deadline)  # without its `__init__`, which would cost as much as a call
            limit.at = at
            limit.seconds = self._seconds
        if not seen.any:
            seen.any = True
        self._token = _set(limit)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _reset(self._token)
        except ValueError:
            pass  # as in `total`


def total(inner: Callable[[Any], Awaitable[Any]], seconds: float) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    """`inner` under a total Timeout: the deadline of its call holds for all that its function calls, too."""

    async def bounded(call: Any) -> Any:
        limit = inherited()
        at = call.deadline
        if limit is None or at < limit.at:
            limit = _new(Deadline)
            limit.at = at
            limit.seconds = seconds
        if not seen.any:
            seen.any = True
        token = _set(limit)
        try:
            return await inner(call)
        finally:
            try:
                _reset(token)
            except ValueError:
                pass  # a coroutine that was dropped is closed in another context, where it never held

    return bounded


def remaining() -> float | None:
    """Seconds until the deadline that holds here (0 when it has passed), or None without one."""
    limit = _current.get()
    return None if limit is None else max(0.0, limit.at - current().now())
