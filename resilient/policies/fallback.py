"""Fallback: another answer for a call that failed.

A stale price, an empty list, the answer of another service: any answer that is of use to the caller. A Fallback belongs
outermost, so that it answers for every failure inside. Each substitute is reported by an event, `FellBack`, so that an
outage behind it does not go unnoticed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Self

from resilient import _validation
from resilient.core.background import discard, is_own
from resilient.core.call import Call, name_of
from resilient.core.callbacks import ask
from resilient.core.classify import ErrorFilter, error_filter
from resilient.core.context import PipelineContext
from resilient.core.facts import Facts
from resilient.core.history import fell_back, publish
from resilient.core.layer import BoundLayer, Layer, Recovery
from resilient.core.policy import Wrap
from resilient.core.result import CLOSING_SECONDS, is_awaitable
from resilient.core.worst_case import Bound, Ending, InnerCost, Reaction, Surroundings, WorstCase
from resilient.errors import Stopped, bare
from resilient.events import FellBack

__all__ = ["Fallback"]

_UNSET: Any = object()


class Fallback(Wrap, judgements=("on",), effects=("call",)):
    """Answers in place of a call that failed.

    Args:
        value: the answer: the same object for each caller. (Under our HTTP transports each caller gets a copy of the
            response.) Give either `value` or `call`.
        call: a function (around an `async def` also a coroutine function) that returns the answer. It is called as
            `call(error, *args, **kwargs)`: the error (None where a result was classified as a failure), and the
            arguments of the call. If it raises, the caller gets its error.
        on: for which failures: exception types, or a predicate of an exception. Default: errors and results that the
            pipeline's classifier calls failures, every rejection, and a `TimedOut` whose time was spent in a queue.
            Programming errors and errors that the classifier ignores (a "not found") pass.
        name: for events; default "Fallback".
    """

    facts = Facts(timed=False, substitutes=True)

    def __init__(
        self,
        value: Any = _UNSET,
        *,
        call: Callable[..., Any] | None = None,
        on: ErrorFilter | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if (value is _UNSET) == (call is None):
            raise TypeError("Fallback needs a value, or call=, a function to ask instead: one of the two")
        if inspect.isroutine(value) or inspect.isclass(value):
            raise TypeError(f"Fallback would return {value!r} itself: to ask it instead, write Fallback(call=...)")
        self._value = value
        self._call = None if call is None else self._effect("call", _validation.strategy("call", call))
        self._on = None if on is None else error_filter("on", on)
        self._prepare: Callable[[Any, bool], Any] | None = None

    def _answering(self, prepare: Callable[[Any, bool], Any]) -> Self:
        """A Fallback with the same settings that returns `prepare(answer, shared)`, for our HTTP transports. `prepare`
        may copy an answer, and raises for an object that cannot be one; `shared` says that the answer is `value`, which
        all callers get."""
        if self._call is None:
            prepare(self._value, True)
        derived = self._derived()
        derived._prepare = prepare
        return derived

    def _failure_only(self, context: PipelineContext) -> bool:
        return self._on is not None or not context.classifier.judges_results

    def _recovery(self, inner: BoundLayer, context: PipelineContext) -> Recovery:
        def fall_back(call: Call, error: Exception) -> Coroutine[Any, Any, Any] | None:
            return self._answer(call, error, context) if self._answers_for(call, error, context) else None

        return fall_back

    async def run(self, call: Call, inner: Layer, context: PipelineContext) -> Any:
        """Run the call, where results can be failures, too."""
        try:
            result = await inner(call)
        except Exception as error:
            if not self._answers_for(call, error, context):
                raise
            answer = self._answer(call, error, context)
        else:
            if context.on_result(call, result).kind != "failure":
                return result
            answer = self._answer(call, None, context, result)
        return await answer

    def _answers_for(self, call: Call, error: Exception, context: PipelineContext) -> bool:
        if self._on is not None:
            return ask(self._on, bare(error))
        return context.on_error(call, error).unanswered

    async def _answer(self, call: Call, error: Exception | None, context: PipelineContext, result: Any = None) -> Any:
        call.substituted_at = call.attempt
        call.verdict = None
        shown = None if error is None else bare(error)
        context.counters.count("fallbacks", self.name)
        if context.channel.wants[FellBack]:
            context.channel.emit(FellBack(context.name, call.begin().now(), self.name, shown))
        if error is None and result is not self._value and is_own(result, call, context.classifier):
            await discard(result, call.begin())
        fell_back(call, context, self.name, error, result)
        if self._call is None:
            answer = self._value if self._prepare is None else self._prepare(self._value, True)
            publish(call, context, answer)
            return answer
        try:
            answer = self._call(shown, *call.args, **call.kwargs)
            if is_awaitable(answer):
                answer = await answer
            answer = answer if self._prepare is None else self._prepare(answer, False)
            publish(call, context, answer)
            return answer
        except StopIteration as stop:
            raise Stopped(stop) from None
        except Exception as failure:
            if failure.__context__ is None and failure is not shown:
                failure.__context__ = shown  # as if raised while `shown` was handled
            raise

    def _unfit(self, *, is_async: bool, block: bool) -> str | None:
        if block:
            return "a block has no result that could be replaced; guard a function"
        if not is_async and self._call is not None and _validation.is_async(self._call):
            return "its call= is an async def, which a plain def cannot await"
        return None

    def describe(self) -> str:
        return f"Fallback({'a value' if self._call is None else name_of(self._call)})"

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        inside = inner(around)
        rest = replace(inside, fails=False)
        if (
            around.is_async and self._on is None and around.classifier.judges_results
        ):  # then it closes a result that it replaces
            seconds, late = rest.seconds, CLOSING_SECONDS if inside.fails and inside.asks else 0.0
            rest = replace(rest, seconds=Bound(seconds.sure + late, seconds.most + CLOSING_SECONDS))
        if self._call is None:
            return rest
        why = f"nothing ends {name_of(self._call)}, which answers instead"
        return replace(rest, seconds=Bound(math.inf if inside.fails else rest.seconds.sure, math.inf), why=why)

    def meets(self, end: Ending) -> Reaction | None:
        error, verdict = end.error, end.verdict
        if error is None:
            answers = self._on is None and end.failed
        elif isinstance(error, Exception) and verdict is not None:
            answers = verdict.unanswered if self._on is None else self._on(error)
        else:
            answers = False
        does = "answers with a value" if self._call is None else f"asks {name_of(self._call)}"
        return Reaction(does, stops=True) if answers else None
