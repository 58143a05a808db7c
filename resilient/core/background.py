"""Background calls: calls that run in a task or thread of their own, such as copies of a hedge and abandoned work.

Each runs in a context of its own. When the caller takes its result, that context is merged back into the caller's.
A call that no caller waits for any more is a straggler: counted, limited in number, and awaited when its pipeline is
closed.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from resilient._atomic import members, renew_in_forked_child
from resilient.core.call import Call
from resilient.core.callbacks import CallbackError
from resilient.core.classify import Classifier
from resilient.core.context import PipelineContext
from resilient.core.current_call import Enclosing, enclosing, register_background, waiting
from resilient.core.layer import Layer
from resilient.core.result import CLOSING_SECONDS, closing_of, is_awaitable
from resilient.errors import Deadlock, is_cancellation
from resilient.runtime import Parking, Runtime, current
from resilient.runtime.threads import AWAITED, THREADS

__all__ = ["BackgroundCall", "Stragglers", "close_in_background", "discard", "is_own"]

_log = logging.getLogger("resilient")


class Straggler(Protocol):
    """A background call or the closing of a result, for which no caller waits any more."""

    @property
    def runtime(self) -> Runtime:
        """The runtime on which the straggler runs."""
        ...


class Stragglers:
    """The stragglers of one policy that have not ended yet.

    Attributes:
        cap: the most stragglers that there may be. The policy checks it (`full`) before it starts another one.
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.renew()

    def renew(self) -> None:
        """In a forked child: forget the stragglers, which run in the parent only, and take a new lock."""
        self._running: set[Straggler] = set()  # an event loop keeps only weak references to its tasks
        self._lock = threading.RLock()
        self._waiting: set[Parking] = set()

    @property
    def count(self) -> int:
        """The number of stragglers that have not ended yet; those of a closed event loop, which cannot end, do not
        count."""
        if not self._running:
            return 0
        with self._lock:
            self._running -= {who for who in members(self._running) if who.runtime.is_closed}
            return len(self._running)

    @property
    def full(self) -> bool:
        """Whether there are as many stragglers as there may be."""
        return self.count >= self.cap

    def add(self, who: Straggler) -> None:
        """Count a call or a closing as a straggler, until `remove`."""
        with self._lock:
            self._running.add(who)

    def remove(self, who: Straggler) -> None:
        """Remove a straggler that has ended. The last one wakes the callers of `drain`."""
        with self._lock:
            self._running.discard(who)
            waiting = () if self._running else tuple(self._waiting)
        for parking in waiting:
            parking.wake()

    async def drain(self, runtime: Runtime) -> None:
        """Wait until all stragglers have ended. Raises `Deadlock` in plain code that would block the event loop of
        one of them."""
        while self.count:
            if runtime is THREADS:
                self._refuse_to_block(current())
            parking = runtime.park()
            with self._lock:
                self._waiting.add(parking)
            try:
                if self._running:
                    await parking.wait(None, _NO_DEADLINE)
            finally:
                with self._lock:
                    self._waiting.discard(parking)

    def _refuse_to_block(self, here: Runtime) -> None:
        if here is not THREADS and any(who.runtime is here for who in members(self._running)):
            raise Deadlock("close() would block the event loop on which work goes on: await aclose() instead")


class _NoDeadline:
    deadline: float | None = None
    waited: float = 0.0


_NO_DEADLINE = _NoDeadline()


class BackgroundCall:
    """One call of `inner` in a task or thread of its own, which begins with `run`.

    Args:
        call: the caller's; the background call works on a fork of it.
        inner: the layer to call.
        context: of the pipeline.
        stragglers: where it counts from `leave` until its end.
        ended: called once at its end, with this object, in its own task or thread. Returns whether the caller has
            stopped waiting: then the result is closed here, if it `is_own`, and this is no straggler any more.
        number: its place among the copies of a hedge, from 1.

    Attributes:
        call: the fork.
        sets_aside: whether a result that is not taken is set aside before it is closed (`ResultLifecycle.set_aside`).
        done: whether it has ended; then `error`, or else `result`, says how.
    """

    __slots__ = (
        "_caller",
        "_context",
        "_ended",
        "_from",
        "_inner",
        "_outer",
        "_stragglers",
        "call",
        "context",
        "done",
        "error",
        "number",
        "pause",
        "result",
        "sets_aside",
        "spawned",
    )

    def __init__(
        self,
        call: Call,
        inner: Layer,
        context: PipelineContext,
        stragglers: Stragglers,
        ended: Callable[[Any], bool],
        number: int = 1,
    ) -> None:
        self.call = call.fork()
        self.call.copy = number
        self.context = context
        self.number = number
        self.pause = 0.0
        self.sets_aside = False
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._from = call
        self._inner = inner
        self._stragglers = stragglers
        self._ended = ended
        self._outer: Enclosing | None = None

    def run(self, caller: Any = None, context_vars: Context | None = None) -> None:
        """Begin, on behalf of `caller` (a task or thread) and in a copy of `context_vars`. Default: the current task or
        thread, and its context. Raises if no task or thread can be started."""
        runtime = self.call.runtime
        if runtime is THREADS:
            self.call.queued_at = runtime.now()  # until the thread has begun
        self._caller = runtime.caller() if caller is None else caller
        self._context = contextvars.copy_context() if context_vars is None else context_vars.copy()
        self.spawned = runtime.spawn(self._work, self._context)

    async def _work(self) -> None:
        self.call.queued_at = None
        try:
            self.result = await self._inner(self.call)
        except GeneratorExit:
            self.error = RuntimeError(AWAITED)  # see `drive`
            raise
        except BaseException as error:  # raised again by `take`
            self.error = error
            if type(error) is CallbackError:
                self.result = error.about  # to be closed if the outcome is not taken
        finally:
            self.done = True
            if self._ended(self):
                result = self.result
                self.forget()
                await _close_unwanted(self, result, self.call, self.context, self._stragglers, self.sets_aside)

    def forget(self) -> None:
        """Drop the references to the outcome of the background call. (The traceback of an error refers back to this
        object.)"""
        self.result = self.error = self.call.verdict = None

    @property
    def runtime(self) -> Runtime:
        """The runtime on which the background call runs."""
        return self.call.runtime

    def outer(self) -> Enclosing:
        """The guarded calls that this one is part of, from the inside out."""
        return self._beyond(waiting(self._caller)) if self._outer is None else self._outer

    def _beyond(self, calls: Enclosing) -> Enclosing:
        """The part of `calls` outside the call from which this background call was forked."""
        for at, (call, _) in enumerate(calls):
            if call.origin is self.call.origin:
                return calls[at + 1 :]
        return calls

    def leave(self) -> None:
        """Make the background call a straggler: the caller stops waiting. To be called in the caller's task or
        thread."""
        self._outer = self._beyond(enclosing())
        self._stragglers.add(self)

    def stay(self) -> None:
        """Take `leave` back: it had ended before."""
        self._stragglers.remove(self)

    def cancel(self) -> None:
        """Cancel the background call. `ended` is called even if the call has not begun to run. Has no effect on a
        thread."""
        self.call.runtime.cancel(self.spawned, self._never_ran)

    def _never_ran(self) -> None:
        self.error = asyncio.CancelledError()  # read on asyncio only, when its loop ends
        self.done = True
        if self._ended(self):
            self._stragglers.remove(self)

    def waited(self) -> float:
        """Seconds that the background call has spent in local queues so far, including those of its caller before it
        began."""
        since = self.call.queued_at  # first: it may leave the queue meanwhile, in its thread
        return self.call.waited + (0.0 if since is None else self.call.runtime.now() - since)

    def close(self) -> None:
        """Close the result of the background call, if it has one and `is_own`, in the background: the caller does not
        take it."""
        result = self.result
        self.forget()
        close_in_background(result, self.call, self.context, self._stragglers, self.sets_aside)

    def take(self) -> Any:
        """Return the result of the background call, or raise its error, as if the call had run in the caller: context
        variables that it has set are set in the current context."""
        self._from.join(self.call)
        for variable, value in self._context.items():
            if variable.get(_UNSET) is not value:
                variable.set(value)
        error = self.error
        if error is None:
            return self.result
        self.error = None
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame


register_background(BackgroundCall._work.__code__)

_UNSET = object()


def is_own(result: Any, call: Call, classifier: Classifier) -> bool:
    """Whether a result belongs to `call` alone, so that it must be closed if no caller gets it: it can be closed, the
    classifier `closes` its kind, and it is no argument of the call."""
    if closing_of(result, awaits=True) is None or not classifier.closes(result):
        return False
    return not any(result is each for each in (*call.args, *call.kwargs.values()))


async def _close_unwanted(
    who: Straggler, result: Any, call: Call, context: PipelineContext, stragglers: Stragglers, sets_aside: bool
) -> None:
    """Close the result of the straggler `who` if it `is_own`, and remove `who` from the stragglers. With `sets_aside`,
    set the result aside first. Raises no `Exception`."""
    try:
        if is_own(result, call, context.classifier):
            if sets_aside:
                await context.lifecycle.set_aside(result, call.runtime)
            await _close(result, call.runtime)
    except Exception as error:  # of the user's classifier
        _log.debug("resilient: a result that no caller gets could not be closed: %s", type(error).__name__)
    except BaseException as error:
        if not is_cancellation(error, call.runtime.cancelled):
            raise
        # else its event loop ends
    finally:
        stragglers.remove(who)


class _Closing:
    """The closing of a result in the background, as a straggler."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.spawned: object = None


def close_in_background(
    result: Any, call: Call, context: PipelineContext, stragglers: Stragglers, sets_aside: bool = False
) -> None:
    """Close a result that no caller gets, if it `is_own`, in the background."""
    if closing_of(result, awaits=True) is None:
        return  # most results
    closing = _Closing(call.runtime)
    stragglers.add(closing)
    try:
        closing.spawned = call.runtime.spawn(
            lambda: _close_unwanted(closing, result, call, context, stragglers, sets_aside), contextvars.copy_context()
        )
    except Exception as error:  # a task factory that refuses, no more threads
        stragglers.remove(closing)
        _log.debug("resilient: closing a result that no caller gets could not begin: %s", type(error).__name__)


_discarding = Stragglers(sys.maxsize)
renew_in_forked_child(_discarding)


async def discard(
    result: Any, runtime: Runtime, stragglers: Stragglers = _discarding, *, patience: float = CLOSING_SECONDS
) -> None:
    """Close a result that no caller gets, if it can be closed (`aclose`, else `close`). Never raises an `Exception`.

    The caller waits for the closing for up to `patience` seconds: 0 where it has been cancelled, or where no Timeout
    would end its wait. The closing goes on after that, and when the caller is cancelled: httpcore loses a connection
    for ever if its closing is cut short. In plain code the result is closed at once.
    """
    if runtime is THREADS:
        await _close(result, runtime)
        return
    if closing_of(result, awaits=True) is None:
        return
    closing, parking = _Closing(runtime), runtime.park()

    async def work() -> None:
        try:
            await _close(result, runtime)
        finally:
            stragglers.remove(closing)
            parking.wake()

    stragglers.add(closing)
    try:
        closing.spawned = runtime.spawn(work, contextvars.copy_context())
    except Exception:  # a task factory that refuses
        stragglers.remove(closing)
        await _close(result, runtime)
    else:
        if patience:
            await parking.wait(patience, _NO_DEADLINE)


async def _close(result: Any, runtime: Runtime) -> None:
    close = closing_of(result, awaits=runtime is not THREADS)
    if close is None:
        return
    try:
        closing = close()
        if is_awaitable(closing):
            await closing
    except Exception as error:  # whose message may quote what was sent
        _log.debug("resilient: closing a result that no caller gets failed with %s", type(error).__name__)
