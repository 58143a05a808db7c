"""Surrounds: listeners that also run code around each call and each attempt, in its context. Spans need that.

An event says what has happened; it cannot make a span current while an attempt runs, nor restore the context before the
body of a streamed response is read. So a `ScopedSurround` opens a `Scope` where a call or an attempt begins. The scope
is closed where that leaves (also when it is cancelled, or its coroutine is closed), and gets the outcome when it is
known: at once, or, for a result that is still open, when that has ended.

Without surrounds none of this runs (`channel.wants.surrounds` is empty).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from resilient.core.call import Call
from resilient.core.callbacks import CallbackError
from resilient.core.classify import IGNORED
from resilient.core.context import PipelineContext
from resilient.core.endings import ending_of, verdict_on_error, verdict_on_result
from resilient.errors import bare
from resilient.events.channel import Surround
from resilient.events.records import CallEnding, VerdictKind

__all__ = ["Part", "Scope", "ScopedSurround", "SuspendedSurrounds"]

Part = Literal["call", "nested", "attempt"]
"""The code that a scope surrounds: a call, the part of a call in a nested pipeline, or an attempt."""


class Scope(Protocol):
    """The surroundings of one call or attempt. Each of the methods is called once; none may raise an `Exception`."""

    def leave(self, error: BaseException | None) -> None:
        """The call or attempt runs no further. Called in the task or thread in which it ran; if `error` is a
        `GeneratorExit`, perhaps elsewhere."""

    def end(self, ending: CallEnding, verdict: VerdictKind, error: BaseException | None, result: Any) -> None:
        """The outcome is known. Called before `leave`; for a result that is still open after that, at its end."""


class ScopedSurround(Surround):
    """A listener that opens a `Scope` around each call and each attempt."""

    def enter(self, call: Call, context: PipelineContext, part: Part) -> Scope | None:
        """Open a scope for a call or attempt that begins now, in this task or thread; None: it has none. Must not raise
        an `Exception`."""
        raise NotImplementedError

    async def around_call(self, call: Call, context: PipelineContext, rest: Awaitable[Any], *, nested: bool) -> Any:
        if not nested:
            call.requests = 0
        if context.channel.later:
            context.channel.catch_up()  # scopes of results that the garbage collector has found
        scope = self.enter(call, context, "nested" if nested else "call")
        try:
            result = await rest
        except BaseException as error:
            if scope is not None:
                _failed(scope, call, context, error)
            if not nested and (scope is not None or len(context.channel.wants.surrounds) < 2):
                call.verdict = None  # it refers to the error
            raise
        if scope is not None:
            _returned(scope, call, context, result, substituted=call.is_substituted)
        return result

    async def around_attempt(self, call: Call, context: PipelineContext, rest: Awaitable[Any]) -> Any:
        scope = self.enter(call, context, "attempt")
        if scope is None:
            return await rest
        try:
            result = await rest
        except BaseException as error:
            _failed(scope, call, context, error)
            raise
        _returned(scope, call, context, result)
        return result

    def run_attempt(self, call: Call, context: PipelineContext, attempt: Callable[[], Any]) -> Any:
        scope = self.enter(call, context, "attempt")
        if scope is None:
            return attempt()
        try:
            result = attempt()
        except BaseException as error:
            _failed(scope, call, context, error)
            raise
        _returned(scope, call, context, result)
        return result


def _failed(scope: Scope, call: Call, context: PipelineContext, error: BaseException) -> None:
    """Close the scope of a call or an attempt that has raised `error`."""
    judged = verdict_on_error(call, context, error)
    shown = error.error if type(error) is CallbackError else error
    shown = bare(shown) if isinstance(shown, Exception) else shown
    scope.end(ending_of(error, judged), judged.kind, shown, None)
    scope.leave(error)


def _returned(scope: Scope, call: Call, context: PipelineContext, result: Any, *, substituted: bool = False) -> None:
    """Close the scope of a call or an attempt that has returned `result`. `substituted`: a policy answered in place of
    the dependency."""
    verdict = verdict_on_result(call, context, result).kind
    ending: CallEnding = "failure" if verdict == "failure" else "success"
    lifecycle = context.lifecycle
    if lifecycle.may_be_open and ending == "success" and lifecycle.is_open(result):
        lifecycle.follow(result, _EndLater(scope, context, result))
    else:
        scope.end(ending, "nothing" if substituted else verdict, None, result)
    scope.leave(None)


class _EndLater:
    """Gives a scope its outcome when an open result has ended."""

    __slots__ = ("context", "result", "scope")

    def __init__(self, scope: Scope, context: PipelineContext, result: Any) -> None:
        self.scope = scope
        self.context = context
        self.result = result

    def learn(self, error: Exception | None) -> None:
        result, self.result = self.result, None
        if error is None:
            self.scope.end("success", "success", None, result)
        else:
            self.scope.end(ending_of(error, IGNORED), "failure", error, result)

    def drop(self, *, collected: bool = False) -> None:
        scope, self.result = self.scope, None
        if collected:
            self.context.channel.later.append(lambda: scope.end("cancelled", "nothing", None, None))
        else:
            scope.end("cancelled", "nothing", None, None)


class SuspendedSurrounds:
    """The contexts of the surrounds of a pipeline that is suspended while other code of its task runs (`exchange`)."""

    __slots__ = ("_saved", "_surrounds")

    def __init__(self, surrounds: tuple[Surround, ...]) -> None:
        self._surrounds = surrounds
        self._saved = [surround.exchange(None) for surround in surrounds]

    def exchange(self) -> None:
        """Restore the contexts that were current at the last `exchange` (at first: when this object was made), and keep
        those that are current now."""
        self._saved = [surround.exchange(saved) for surround, saved in zip(self._surrounds, self._saved, strict=True)]
