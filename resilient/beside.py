"""Calls that run beside their caller, as copies of a hedge do, and work that must not be cancelled.

Each has a context of its own; whose result is taken has its context merged back into the caller's. What nobody waits
for any more is a straggler: counted, capped, and waited for when its pipeline is closed.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any

from resilient.call import Call
from resilient.current import beside, enclosing
from resilient.policy import Layer
from resilient.runtime import Parking, Runtime
from resilient.runtime.threads import AWAITED, THREADS

__all__ = ["Beside", "Stragglers", "close_beside", "discard"]

_log = logging.getLogger("resilient")


class Stragglers:
    """How many calls run on for which nobody waits any more; at most `cap` are let be so."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.count = 0
        self._lock = threading.Lock()
        self._waiting: list[Parking] = []

    @property
    def full(self) -> bool:
        """Whether no more may be left behind."""
        return self.count >= self.cap

    def add(self) -> None:
        """One more is left behind."""
        with self._lock:
            self.count += 1

    def remove(self) -> None:
        """One has ended."""
        with self._lock:
            self.count -= 1
            waiting = tuple(self._waiting) if self.count == 0 else ()
        for parking in waiting:
            parking.wake()

    async def drain(self, runtime: Runtime) -> None:
        """Wait until there are none."""
        while self.count:
            parking = runtime.park()
            with self._lock:
                self._waiting.append(parking)
            try:
                if self.count:
                    await parking.wait(None, _NO_DEADLINE)
            finally:
                with self._lock:
                    self._waiting.remove(parking)


class _NoDeadline:
    deadline: float | None = None
    waited: float = 0.0


_NO_DEADLINE = _NoDeadline()


class Beside:
    """One call of `inner` that runs beside its caller, from now on.

    `ended` is told, once, in its own task or thread. It answers whether nobody waits for this any more: then its result
    is closed, and it is one straggler less (whoever stopped waiting has counted it).

    Attributes:
        call: the fork that it works on.
        done: whether it has ended; then `error`, or else `result`, says how.
    """

    def __init__(
        self, call: Call, inner: Layer, stragglers: Stragglers, ended: Callable[[Beside], bool], number: int = 1
    ) -> None:
        self.call = call.fork()
        self._caller = call
        self.number = number
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._inner = inner
        self._stragglers = stragglers
        self._ended = ended
        self._context = contextvars.copy_context()
        calls = enclosing()
        if calls:
            (_, scope), *outer = calls
            self._context.run(beside.set, ((self.call, scope), *outer))
        runtime = call.runtime
        self.began = runtime.now()
        if runtime is THREADS:
            self.call.queued_at = self.began  # until the thread has begun
        self.cancel = runtime.spawn(self._work, self._never_ran, self._context)

    async def _work(self) -> None:
        self.call.queued_at = None
        try:
            self.result = await self._inner(self.call)
        except GeneratorExit:
            self.error = RuntimeError(AWAITED)  # see `drive`
            raise
        except BaseException as error:  # whoever waits for it raises it
            self.error = error
        finally:
            self.done = True
            if self._ended(self):
                await close_unwanted(self.error, self.result, self.call.runtime, self._stragglers)

    def _never_ran(self) -> None:
        """It was cancelled before it began."""
        self.error = asyncio.CancelledError()  # read on asyncio only, when its loop ends
        self.done = True
        if self._ended(self):
            self._stragglers.remove()

    def waited(self) -> float:
        """Seconds it has spent in local queues so far, with what its caller had before."""
        since = self.call.queued_at  # first: it may leave the queue meanwhile, in its thread
        return self.call.waited + (0.0 if since is None else self.call.runtime.now() - since)

    def close(self) -> None:
        """Close its result, which nobody takes, beside the caller; it has been counted as a straggler."""
        close_beside(self.error, self.result, self.call.runtime, self._stragglers)

    def take(self) -> Any:
        """Return its result, or raise its error, as if it had run here: what it set in its context is set here."""
        self._caller.waited = max(self._caller.waited, self.call.waited)
        for variable, value in self._context.items():
            if variable is not beside and variable.get(_UNSET) is not value:
                variable.set(value)
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            del error  # its traceback leads to this frame


_UNSET = object()


def close_beside(error: BaseException | None, result: Any, runtime: Runtime, stragglers: Stragglers) -> None:
    """The end of a straggler, beside the caller."""
    runtime.spawn(
        lambda: close_unwanted(error, result, runtime, stragglers), stragglers.remove, contextvars.copy_context()
    )


async def close_unwanted(error: BaseException | None, result: Any, runtime: Runtime, stragglers: Stragglers) -> None:
    """The end of a straggler. It raises nothing: nobody waits for it."""
    try:
        if error is None:
            await discard(result, runtime)
    except runtime.cancelled:
        pass  # its event loop ends
    finally:
        stragglers.remove()


async def discard(result: Any, runtime: Runtime) -> None:
    """Close a result that nobody gets, if it can be closed (`aclose`, else `close`). Never raises an `Exception`."""
    close = getattr(result, "aclose", None) if runtime is not THREADS else None
    close = close or getattr(result, "close", None)
    if not callable(close):
        return
    try:
        closing = close()
        if inspect.isawaitable(closing):
            await closing
    except Exception:
        _log.debug("resilient: closing a result that nobody gets failed", exc_info=True)
