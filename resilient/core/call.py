"""One guarded call: what is called, where it runs, and how far it has got."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from resilient.runtime import current_async

if TYPE_CHECKING:
    from resilient.core.callbacks import CallbackError
    from resilient.core.classify import Verdict
    from resilient.runtime import Runtime

__all__ = ["Call", "Fork", "name_of"]


class Call:
    """Travels inward through the policies of a pipeline, one object for all attempts of a logical call.

    Attributes:
        fn, args, kwargs: the user's function and arguments.
        runtime: the only thing that may wait. Where nothing needs it while all goes well (`Policy.timed`), it is None
            until `begin()`: finding it costs as much as two bare awaits.
        attempt: number of the current attempt, from 1. deadline: when the innermost surrounding Timeout expires
        (seconds on `runtime.now()`), or None. waited: seconds spent in local queues so far. They are no evidence about
        the dependency. error: the last failure of an earlier attempt, for the one who must report why there was
        another. queued_at: since when it stands in a local queue, or None. Known of forks only, which others look at.
        requests: how often the function was called, hedges included; counted while somebody listens. identity: its id,
        once somebody has asked. stood_in: the attempt for which a policy answered in the dependency's place
        (`Policy.substitutes`); unset before.
        verdict: the latest judgement of an outcome of this call: the classifier that was asked, the outcome, and its
            `Verdict` (or what it raised); or None. `PipelineContext.on_error` and `on_result` keep it, so that each
            outcome is judged once. A policy that runs the rest again sets it to None first.
    """

    __slots__ = (
        "args",
        "attempt",
        "deadline",
        "error",
        "fn",
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
    queued_at: float | None
    identity: str
    requests: int
    substituted_at: int
    verdict: tuple[object, object, Verdict | CallbackError] | None

    def begin(self) -> Runtime:
        """Set `runtime` if it is not, and return it: whatever acts only after a failure or in a queue begins so."""
        if self.runtime is None:
            self.runtime = current_async()
        return self.runtime

    @property
    def origin(self) -> Call:
        """The call that this is, or is a fork of."""
        return self

    def again(self) -> Awaitable[None] | None:
        """What to wait for before a further attempt begins (that the next block is entered, say); None: nothing."""
        return None

    def fork(self) -> Fork:
        """A copy that goes its own way from here (another thread, another copy of a request)."""
        fork = Fork()  # as `new_call`, without its frame
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
        return fork

    def join(self, fork: Call) -> None:
        """Take over from a fork whose outcome is this call's."""
        self.waited = max(self.waited, fork.waited)
        self.substituted_at = self.attempt if fork.substituted_at == fork.attempt else 0
        self.verdict, fork.verdict = fork.verdict, None

    @property
    def is_substituted(self) -> bool:
        """Whether the answer is not the dependency's."""
        return getattr(self, "substituted_at", 0) == self.attempt


class Fork(Call):
    """A call that runs beside the one that it was forked from."""

    __slots__ = ("origin",)  # pyright: ignore[reportIncompatibleMethodOverride]

    origin: Call


def new_call(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    runtime: Runtime | None,
    kind: type[Call] = Call,
) -> Call:
    """A call that begins. (`Pipeline` writes this out where every nanosecond counts.)"""
    call = kind()
    call.fn, call.args, call.kwargs = fn, args, kwargs
    call.runtime = runtime  # type: ignore[assignment]
    call.attempt, call.deadline, call.waited, call.error, call.verdict = 1, None, 0.0, None, None
    return call


def name_of(fn: Callable[..., Any]) -> str:
    """What to call a callable in events and messages."""
    if type(fn) is FunctionType:
        return fn.__qualname__
    inner = getattr(fn, "func", fn)  # a partial is known by its function
    return getattr(inner, "__qualname__", None) or type(inner).__qualname__
