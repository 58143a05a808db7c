"""One guarded call: its function, its runtime, and its progress."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from resilient.runtime import current_async

if TYPE_CHECKING:
    from resilient.core.callbacks import CallbackError
    from resilient.core.classify import Verdict
    from resilient.runtime import Runtime

__all__ = ["Call", "Fork", "name_of", "new_call"]


class Call:
    """One logical call: one object for all its attempts, which the policies of a pipeline pass inward.

    Attributes:
        fn, args, kwargs: the user's function and arguments.
        runtime: does all waiting. If no policy needs it while the call succeeds (`Facts.timed`), it is None until
            `begin()`: finding it costs as much as two bare awaits.
        attempt: the number of the current attempt, from 1.
        deadline: the time at which the innermost surrounding Timeout expires (seconds on `runtime.now()`), or None.
        waited: seconds spent in local queues so far. They are no evidence about the dependency.
        error: the last failure of an earlier attempt, or None. A later error names it as its cause.
        verdict: the latest verdict on an outcome of this call: the classifier, the outcome, and its `Verdict` (or the
            error that the classifier raised); or None. `PipelineContext.on_error` and `on_result` set it, so that each
            outcome is classified once. A policy that runs the rest again sets it to None first.

    These are unset until they are needed:

        queued_at: the time since which the call waits in a local queue; None: it waits in none. Set from the start on
            forks, because only these are read from outside.
        requests: how often the function was called, hedges included. Counted only while there are listeners.
        identity: the id of the call, made when it is first read.
        elapsed: seconds that the dependency took in the first attempt, if that failed and gates have measured it.
        history: of a call of which something has failed (`resilient.core.history`). Forks have none of their own.
        substituted_at: the attempt for which a policy answered in the dependency's place (`Facts.substitutes`).
    """

    __slots__ = (
        "args",
        "attempt",
        "deadline",
        "elapsed",
        "error",
        "fn",
        "history",
        "identity",
        "kwargs",
        "queued_at",
        "requests",
        "runtime",
        "substituted_at",
        "verdict",
        "waited",
    )

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    runtime: Runtime
    attempt: int
    deadline: float | None
    waited: float
    error: Exception | None
    elapsed: float
    history: Any
    queued_at: float | None
    identity: str
    requests: int
    substituted_at: int
    verdict: tuple[object, object, Verdict | CallbackError] | None

    def begin(self) -> Runtime:
        """Set `runtime` if it is None, and return it. Code that needs the runtime, where it may be None, calls it."""
        if self.runtime is None:
            self.runtime = current_async()
        return self.runtime

    @property
    def origin(self) -> Call:
        """For a fork: the call from which it was made. For any other call: the call itself."""
        return self

    def again(self) -> Awaitable[None] | None:
        """An awaitable to await before a further attempt begins; None: nothing to await. For a block: it ends when the
        caller enters the next attempt."""
        return None

    def fork(self) -> Fork:
        """A copy for concurrent work on the same call: in another thread, or for another copy of a request."""
        fork = Fork()
        fork.fn = self.fn
        fork.args = self.args
        fork.kwargs = self.kwargs
        fork.runtime = self.runtime
        fork.attempt = self.attempt
        fork.deadline = self.deadline
        fork.waited = self.waited
        fork.error = None
        fork.verdict = None
        fork.queued_at = None
        fork.substituted_at = 0
        fork.origin = self.origin
        fork.copy = 1
        return fork

    def join(self, fork: Call) -> None:
        """Take over the records of a fork; the outcome of `fork` becomes the outcome of this call."""
        self.waited = max(self.waited, fork.waited)
        self.substituted_at = self.attempt if fork.substituted_at == fork.attempt else 0
        self.verdict, fork.verdict = fork.verdict, None

    @property
    def is_substituted(self) -> bool:
        """Whether a policy answered in the dependency's place, in the current attempt."""
        return getattr(self, "substituted_at", 0) == self.attempt


class Fork(Call):
    """A call that runs concurrently with the one that it was forked from.

    Attributes:
        copy: for a copy of a hedge: its number, from 1 (the first request).
    """

    __slots__ = ("copy", "origin")  # pyright: ignore[reportIncompatibleMethodOverride]

    origin: Call
    copy: int


def new_call(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    runtime: Runtime | None,
    kind: type[Call] = Call,
) -> Call:
    """A new call, of class `kind`. (Generated gate layers inline this function.)"""
    call = kind()
    call.fn, call.args, call.kwargs = fn, args, kwargs
    call.runtime = runtime  # type: ignore[assignment]
    call.attempt, call.deadline, call.waited, call.error, call.verdict = 1, None, 0.0, None, None
    return call


def name_of(fn: Callable[..., Any]) -> str:
    """The name of a callable in events and messages."""
    if type(fn) is FunctionType:
        return fn.__qualname__
    inner = getattr(fn, "func", fn)  # a partial is known by its function
    return getattr(inner, "__qualname__", None) or type(inner).__qualname__
