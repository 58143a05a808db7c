"""Retry: most failures of a remote call are gone a moment later; the art is not to make the others worse.

Nothing happens here until an attempt has failed; then there is a series of attempts (`resilient.policies.retry.state`).
tenacity's strategies are understood wherever one is due and get a real `RetryCallState`; our own defaults need none and
cost half.

What comes back when retries end, for whatever reason, is the last real error (the very object the function raised,
with one note of what happened) or the last result: never a wrapper, and never a rejection that only ended the trying.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import tenacity

from resilient import _validation
from resilient.core.background import Stragglers
from resilient.core.budget import Budget
from resilient.core.callbacks import ask
from resilient.core.classify import REFUSALS, ErrorFilter, Verdict, error_filter, error_types, is_refusal
from resilient.core.layer import BoundLayer, Recovery
from resilient.core.policy import PipelineContext, Wrap
from resilient.core.worst_case import NOTHING, Discard, Ending, InnerCost, Reaction, Surroundings, WorstCase
from resilient.errors import bare, leaves
from resilient.policies.retry.backoff import Fixed, FullJitter
from resilient.policies.retry.schedule import Schedule
from resilient.policies.retry.state import RetryState
from resilient.policies.retry.tenacity import Strategy, answer_to, awaits, looks_at_errors_only
from resilient.runtime import Runtime

__all__ = ["Retry"]

_RARE = (BaseExceptionGroup, tenacity.TryAgain)
"""Errors that may contain others, or stand for others: each error behind them is looked at."""

Nested = Literal["multiply", "once"]


class Retry(Wrap):
    """Repeats a call that failed.

    Args:
        attempts: calls at the most, the first one included. Default 3 (AWS standard mode), unless `stop` is given.
        stop: a tenacity stop strategy, instead of or besides `attempts`.
        wait: seconds, a `FullJitter`, or a tenacity wait strategy. Default `FullJitter()`.
        on: what to repeat: exception types, a predicate of an exception, or a tenacity retry strategy (which may look
            at results too). Default: what the pipeline's classifier calls retryable. Rejections are repeated only
            where their type is named here: an open circuit is not retried against the same endpoint.
        max_retry_after: when the dependency asks (an exception's `retry_after`, or the classifier's) for a longer
            pause than this many seconds, give up at once. Default 60. A shorter one is kept, plus the usual wait.
        budget: what pays for further attempts, shared with the other retries and hedges of the dependency. Without a
            token, retries end. Default None: nobody counts (the standard pipelines have one).
        nested: "multiply" (the default), or "once": when the call is part of another guarded call that retries, leave
            the repeating to that one.
        before, after, before_sleep: tenacity's hooks. These and the strategies may be coroutine functions where an
            `async def` is guarded; around a plain `def` they are refused when it is decorated.
        shadow: decide and count, but repeat nothing.
        name: for events and errors; default "Retry".
    """

    above = ""
    timed = False
    judgements = frozenset(("stop", "wait", "on"))
    effects = frozenset(("before", "after", "before_sleep"))

    def __init__(
        self,
        attempts: int | None = None,
        *,
        stop: Strategy | None = None,
        wait: float | FullJitter | Strategy | None = None,
        on: ErrorFilter | Strategy | None = None,
        max_retry_after: float = 60.0,
        budget: Budget | None = None,
        nested: Nested = "multiply",
        before: Strategy | None = None,
        after: Strategy | None = None,
        before_sleep: Strategy | None = None,
        shadow: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if attempts is None and stop is None:
            attempts = 3
        if callable(attempts):
            raise TypeError(f"attempts must be a whole number >= 1, got {attempts!r}: write stop=...")
        self.attempts = None if attempts is None else _validation.count("attempts", attempts)
        self.stop = None if stop is None else _validation.strategy("stop", stop)
        self.backoff: FullJitter | Fixed | None = None
        self.wait: Strategy | None = None
        if wait is None:
            self.backoff = FullJitter()
        elif isinstance(wait, FullJitter):
            self.backoff = wait
        elif callable(wait):
            self.wait = _validation.strategy("wait", wait)
        else:
            self.backoff = Fixed(wait)
        self._on: Callable[[Exception], bool] | None = None
        self.strategy: Strategy | None = None
        self._named: tuple[type[BaseException], ...] = ()
        if isinstance(on, tenacity.retry_base):
            self.strategy = on
        elif on is not None:
            self._on = error_filter("on", on)  # type: ignore[arg-type]
            self._named = error_types(on) or ()
        self.max_retry_after = _validation.seconds("max_retry_after", max_retry_after, zero=True)
        hooks = {"before": before, "after": after, "before_sleep": before_sleep}
        self.hooks = {
            key: self.effect(key, _validation.strategy(key, hook)) for key, hook in hooks.items() if hook is not None
        }
        self._asks_results = self.strategy is not None and not looks_at_errors_only(self.strategy)
        self._speaks_tenacity = bool(self.hooks) or any((self.stop, self.wait, self.strategy))
        self.schedule = Schedule(self.attempts, self.stop, self.backoff if self.wait is None else self.wait)
        self.runs, self.ends_after = self.schedule.runs, self.schedule.stop.horizon
        pause = math.inf if self.runs is None else self.schedule.waits(self.runs)
        self.pause = pause if math.isfinite(pause) else None
        self.least_pause = self.schedule.pause(1).least
        self.budget = _validation.instance("budget", budget, Budget)
        if nested not in get_args(Nested):
            raise ValueError(f"nested must be one of {', '.join(get_args(Nested))}, got {nested!r}")
        self.nested = nested
        self.shadow = _validation.flag("shadow", shadow)
        self.retried = self.would_have_retried = 0
        self.closing = Stragglers(sys.maxsize)  # results that nobody gets

    def repeats_rejection(self, error: BaseException) -> bool:
        """Whether `on` names the type of a rejection: the very type, or one that is of rejections only."""
        kind = type(error)
        return any(each is kind or (issubclass(kind, each) and issubclass(each, REFUSALS)) for each in self._named)

    def failure_only(self, context: PipelineContext) -> bool:
        # What tenacity is told begins before the first attempt, and results have to be looked at.
        return not (self._speaks_tenacity or context.classifier.judges_results)

    def recovery(self, inner: BoundLayer, context: PipelineContext) -> Recovery:
        return RetryState(self, inner, context).recover

    def bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        if self.failure_only(context):
            return super().bind(inner, context)
        series = RetryState(self, inner, context)
        return BoundLayer(series.run if self._speaks_tenacity else series.judge_results)

    def repeats(self, error: Exception | None, verdict: Verdict) -> bool | None:
        """Whether an attempt that ended with this error (None: with a result) is worth repeating; None: tenacity's
        strategy must be asked."""
        if verdict.final:
            return False
        if error is None:
            if self._asks_results and not (verdict.retryable and verdict.kind == "failure"):
                return None
            return verdict.retryable and verdict.kind != "success"
        if verdict.refused:
            return bool(self._named) and self._names_all(leaves(error))
        if issubclass(type(error), _RARE):
            refusals = [each for each in leaves(error) if is_refusal(each)]
            if refusals and not self._names_all(refusals):
                return False
            if issubclass(type(error), tenacity.TryAgain):
                return True
        if self.strategy is not None:
            return None
        if self._on is not None:
            return ask(self._on, bare(error))
        return verdict.retryable and verdict.kind != "success"

    def _names_all(self, refusals: Iterable[BaseException]) -> bool:
        return all(map(self.repeats_rejection, refusals))

    def looks_at_results(self, context: PipelineContext) -> bool:
        """Whether a call that returned can be repeated for its result: by the classifier, or by tenacity's strategy."""
        return self._asks_results or context.classifier.judges_results

    def takes(self, each: float) -> float:
        timed = self.schedule.stop.timed and self.schedule.knows_its_waits
        return self.schedule.takes(each) if timed else super().takes(each)

    def worst(self, inner: InnerCost, view: Surroundings) -> WorstCase:
        if self.inactive or (view.repeated and (view.once or self.nested == "once")):
            return inner(view)
        lifecycle, discard = view.lifecycle, NOTHING
        if view.is_async and (view.classifier.judges_results or self._asks_results):
            discard = Discard(lifecycle.aside_seconds, lifecycle.closing_seconds, lifecycle.may_ask_to_wait)
        return self.schedule.worst(inner, view, self.max_retry_after, discard, str(self))

    @property
    def assumes(self) -> tuple[str, ...]:
        return self.schedule.unknown

    def meets(self, end: Ending) -> Reaction | None:
        if self.inactive or end.verdict is None:
            return None
        again = "repeats the call; passes the last one on when attempts, time or budget are spent"
        if end.verdict.refused and end.error is not None:
            if self.repeats_rejection(end.error):
                return Reaction(again)
            return Reaction("does not repeat a rejection; after other attempts, their last failure comes back instead")
        if self.strategy is not None and end.error is not None and not end.verdict.final:
            answer = answer_to(self.strategy, end.error)
            if answer is None:
                return Reaction(f"asks the predicate of {type(self.strategy).__name__} whether to repeat it")
            repeats = answer
        elif isinstance(end.error, Exception) and self._on is not None and not end.verdict.final:
            repeats = self._on(end.error)
        else:
            repeats = end.helps_to_repeat and not end.verdict.final
        return Reaction(again) if repeats else Reaction("does not repeat it")

    @property
    def inactive(self) -> str | None:
        if self.shadow:
            return "in shadow mode nothing is repeated"
        return "one attempt is all it makes" if self.runs == 1 else None

    def unfit(self, *, is_async: bool, block: bool) -> str | None:
        if is_async:
            return None
        given = {"stop": self.stop, "wait": self.wait, "on": self.strategy, **self.hooks}
        found = (name for name, strategy in given.items() if strategy is not None and awaits(strategy))
        name = next(found, None)
        return None if name is None else f"its {name}= is an async def, which a plain def cannot await"

    async def drain(self, runtime: Runtime) -> None:
        await self.closing.drain(runtime)

    def snapshot(self) -> dict[str, Any]:
        """Attempts `retried`, those that shadow would have, and the budget."""
        return {
            "retried": self.retried,
            **({"would_have_retried": self.would_have_retried} if self.shadow else {}),
            **({} if self.budget is None else {"budget": self.budget.snapshot()}),
        }

    def describe(self) -> str:
        flags = ("" if self.nested == "multiply" else ", once") + (", shadow" if self.shadow else "")
        return f"Retry({self.schedule.describe()}{flags})"
