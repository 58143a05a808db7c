"""Retry: repeats a call that failed.

Most failures of a remote call are gone a moment later. The others get worse if every caller repeats its call at once:
so pauses are random, attempts are few, and a budget limits them for all callers together.

A call that succeeds runs no code of this policy; the attempts after a failure are made in
`resilient.policies.retry.state`. tenacity's strategies are accepted for `stop`, `wait` and `on`, and get a real
`RetryCallState`; our own defaults need none and cost half.

When retries end, for whatever reason, the caller gets the last real error or the last result: the same exception object
that the function raised, with one note about the retries; never a wrapper, and never a rejection that only ended the
attempts.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from resilient import _validation
from resilient.core.budget import Budget
from resilient.core.classify import ErrorFilter
from resilient.core.context import PipelineContext
from resilient.core.facts import Facts
from resilient.core.layer import BoundLayer, Recovery
from resilient.core.policy import Wrap
from resilient.core.worst_case import NOTHING, Discard, Ending, InnerCost, Reaction, Surroundings, WorstCase
from resilient.policies.retry.backoff import Fixed, FullJitter
from resilient.policies.retry.predicate import Predicate
from resilient.policies.retry.schedule import Schedule
from resilient.policies.retry.settings import Settings
from resilient.policies.retry.state import RetryState
from resilient.policies.retry.tenacity import Strategy, answer_to, awaits
from resilient.runtime import Runtime

__all__ = ["Nested", "Retry"]

Nested = Literal["multiply", "once"]
"""The behaviour of a Retry inside a call that another Retry repeats: its attempts multiply with those of the other, or
it makes one."""


class Retry(
    Wrap,
    example="",
    judgements=("stop", "wait", "on"),
    effects=("before", "after", "before_sleep"),
):
    """Repeats a call that failed.

    Args:
        attempts: calls at the most, the first one included. Default 3 (AWS standard mode), unless `stop` is given.
        stop: a tenacity stop strategy, instead of `attempts` or in addition to it.
        wait: seconds, a `FullJitter`, or a tenacity wait strategy. Default `FullJitter()`.
        on: what to repeat: exception types, a predicate of an exception, or a tenacity retry strategy (which may look
            at results too). Default: what the pipeline's classifier calls retryable. Rejections are repeated only
            where their type is named here: an open circuit is not retried against the same endpoint.
        max_retry_after: the longest pause, in seconds, that the dependency may ask for (by `retry_after` of an
            exception, or of the classifier's verdict). If it asks for a longer one, retries end at once; otherwise the
            pause is that plus the usual wait. Default 60.
        budget: the `Budget` that pays for further attempts, shared with the other retries and hedges of the dependency.
            Without a token, retries end. Default None: no limit (the standard pipelines have one).
        nested: "multiply" (the default), or "once": repeat nothing where the call is part of another guarded call that
            retries.
        before, after, before_sleep: tenacity's hooks. These and the strategies may be coroutine functions where an
            `async def` is guarded; around a plain `def` they are refused when it is decorated.
        shadow: decide and count, but repeat nothing.
        name: for events and errors; default "Retry".
    """

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
        stop = None if stop is None else _validation.strategy("stop", stop)
        backoff: FullJitter | Fixed | None = None
        strategy: Strategy | None = None
        if wait is None:
            backoff = FullJitter()
        elif isinstance(wait, FullJitter):
            backoff = wait
        elif callable(wait):
            strategy = _validation.strategy("wait", wait)
        else:
            backoff = Fixed(wait)
        predicate = Predicate(on)
        self.max_retry_after = _validation.seconds("max_retry_after", max_retry_after, zero=True)
        given = {"before": before, "after": after, "before_sleep": before_sleep}
        hooks = {
            key: self._effect(key, _validation.strategy(key, hook)) for key, hook in given.items() if hook is not None
        }
        self._schedule = Schedule(self.attempts, stop, backoff if strategy is None else strategy)
        self.budget = _validation.instance("budget", budget, Budget)
        if nested not in get_args(Nested):
            raise ValueError(f"nested must be one of {', '.join(get_args(Nested))}, got {nested!r}")
        self.nested = nested
        self.shadow = _validation.flag("shadow", shadow)
        self._settings = Settings(
            name=self.name,
            attempts=self.attempts,
            stop=stop,
            wait=strategy,
            backoff=backoff,
            predicate=predicate,
            hooks=hooks,
            max_retry_after=self.max_retry_after,
            budget=self.budget,
            once=nested == "once",
            shadow=self.shadow,
        )
        self.facts = self._facts()

    def _facts(self) -> Facts:
        schedule, runs = self._schedule, self._schedule.runs
        pause = math.inf if runs is None else schedule.waits(runs)
        inactive = "one attempt is all it makes" if runs == 1 else None
        return Facts(
            timed=False,
            runs=runs,
            ends_after=schedule.stop.horizon,
            pause=pause if math.isfinite(pause) else None,
            least_pause=schedule.pause(1).least,
            budget=self.budget,
            leaves_repeating=self.nested == "once",
            inactive="in shadow mode nothing is repeated" if self.shadow else inactive,
            assumes=schedule.unknown,
        )

    def _failure_only(self, context: PipelineContext) -> bool:
        # Strategies and hooks of tenacity's need a state from the first attempt on, and results have to be judged.
        return not (self._settings.speaks_tenacity or context.classifier.judges_results)

    def _recovery(self, inner: BoundLayer, context: PipelineContext) -> Recovery:
        return RetryState(self._settings, inner, context).recover

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        if self._failure_only(context):
            return super()._bind(inner, context)
        state = RetryState(self._settings, inner, context)
        return BoundLayer(state.run if self._settings.speaks_tenacity else state.judge_results)

    def _takes(self, each: float) -> float:
        timed = self._schedule.stop.timed and self._schedule.knows_its_waits
        return self._schedule.takes(each) if timed else super()._takes(each)

    def _unfit(self, *, is_async: bool, block: bool) -> str | None:
        if is_async:
            return None
        settings = self._settings
        given = {"stop": settings.stop, "wait": settings.wait, "on": settings.predicate.strategy, **settings.hooks}
        found = (name for name, strategy in given.items() if strategy is not None and awaits(strategy))
        name = next(found, None)
        return None if name is None else f"its {name}= is an async def, which a plain def cannot await"

    async def _drain(self, runtime: Runtime) -> None:
        await self._settings.closing.drain(runtime)

    def _renew(self) -> None:
        super()._renew()
        self._settings.closing.renew()

    def snapshot(self) -> dict[str, Any]:
        """The counters of the policy as plain data: attempts `retried`, in shadow mode those that it
        `would_have_retried`, and the `budget`."""
        counts = self._settings.counts
        return {
            "retried": counts.retried,
            **({"would_have_retried": counts.would_have_retried} if self.shadow else {}),
            **({} if self.budget is None else {"budget": self.budget.snapshot()}),
        }

    def describe(self) -> str:
        flags = (", once" if self._settings.once else "") + (", shadow" if self.shadow else "")
        return f"Retry({self._schedule.describe()}{flags})"

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        if self.facts.inactive or (around.repeated and (around.once or self._settings.once)):
            return inner(around)
        lifecycle, discard = around.lifecycle, NOTHING
        if around.is_async and (around.classifier.judges_results or self._settings.predicate.asks_results):
            discard = Discard(lifecycle.aside_seconds, lifecycle.closing_seconds, lifecycle.may_ask_to_wait)
        return self._schedule.worst(inner, around, self.max_retry_after, discard, str(self))

    def meets(self, end: Ending) -> Reaction | None:
        if self.facts.inactive or end.verdict is None:
            return None
        predicate = self._settings.predicate
        again = "repeats the call; passes the last one on when attempts, time or budget are spent"
        if end.verdict.refused and end.error is not None:
            if predicate.names(end.error):
                return Reaction(again)
            return Reaction("does not repeat a rejection; after other attempts, their last failure comes back instead")
        if predicate.strategy is not None and end.error is not None and not end.verdict.final:
            answer = answer_to(predicate.strategy, end.error)
            if answer is None:
                return Reaction(f"asks the predicate of {type(predicate.strategy).__name__} whether to repeat it")
            repeats = answer
        elif isinstance(end.error, Exception) and predicate.on is not None and not end.verdict.final:
            repeats = predicate.on(end.error)
        else:
            repeats = end.worth_repeating and not end.verdict.final
        return Reaction(again) if repeats else Reaction("does not repeat it")
