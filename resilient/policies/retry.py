"""Retry: most failures of a remote call are gone a moment later; the art is not to make the others worse.

Nothing happens here until an attempt has failed. Then, in tenacity's order: is it worth repeating (predicate), `after`,
how long to wait, has it been enough (stop), `before_sleep`, sleep, `before`, and again. tenacity's strategies are
understood wherever one is due and get a real `RetryCallState`; our own defaults need none and are 40 times cheaper.

What comes back when retries end, for whatever reason, is the last real error (the very object the function raised,
with one note of what happened) or the last result: never a wrapper, and never a rejection that only ended the trying.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, get_args

import tenacity

from resilient import arguments
from resilient.backoff import Fixed, FullJitter
from resilient.beside import Stragglers, close_beside, discard, is_own
from resilient.budget import Budget
from resilient.call import Call
from resilient.current import enclosing
from resilient.deadlines import remaining, seen
from resilient.errors import Rejected, TimedOut, reason_of
from resilient.events import BudgetExhausted, GaveUp, Retrying, Waited
from resilient.foresight import NOTHING, Discard, End, Inside, Meeting, View, Worst
from resilient.groups import is_group, leaves
from resilient.mistakes import Mistake, ask
from resilient.notes import behind, forget_before, note
from resilient.outcome import REFUSALS, ErrorFilter, Verdict, bare, error_filter, error_types, is_refusal
from resilient.policy import Layer, Recovery, Scope, Wrap
from resilient.result import is_awaitable
from resilient.runtime import Runtime
from resilient.runtime.threads import THREADS
from resilient.schedule import Schedule
from resilient.strategies import (
    Strategy,
    answer_to,
    awaits,
    controller,
    looks_at_errors_only,
)

__all__ = ["Retry"]

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
        self.attempts = None if attempts is None else arguments.count("attempts", attempts)
        self._stop = None if stop is None else arguments.strategy("stop", stop)
        self._backoff: FullJitter | Fixed | None = None
        self._wait: Strategy | None = None
        if wait is None:
            self._backoff = FullJitter()
        elif isinstance(wait, FullJitter):
            self._backoff = wait
        elif callable(wait):
            self._wait = arguments.strategy("wait", wait)
        else:
            self._backoff = Fixed(wait)
        self._on: Callable[[Exception], bool] | None = None
        self._strategy: Strategy | None = None
        self._named: tuple[type[BaseException], ...] = ()
        if isinstance(on, tenacity.retry_base):
            self._strategy = on
        elif on is not None:
            self._on = error_filter("on", on)  # type: ignore[arg-type]
            self._named = error_types(on) or ()
        self.max_retry_after = arguments.seconds("max_retry_after", max_retry_after, zero=True)
        hooks = {"before": before, "after": after, "before_sleep": before_sleep}
        self._hooks = {
            key: self.effect(key, arguments.strategy(key, hook)) for key, hook in hooks.items() if hook is not None
        }
        self._asks_results = self._strategy is not None and not looks_at_errors_only(self._strategy)
        self._speaks_tenacity = bool(self._hooks) or any((self._stop, self._wait, self._strategy))
        self.schedule = Schedule(self.attempts, self._stop, self._backoff if self._wait is None else self._wait)
        self.runs, self.ends_after = self.schedule.runs, self.schedule.stop.horizon
        pause = math.inf if self.runs is None else self.schedule.waits(self.runs)
        self.pause = pause if math.isfinite(pause) else None
        self.least_pause = self.schedule.pause(1).least
        self.budget = arguments.instance("budget", budget, Budget)
        if nested not in get_args(Nested):
            raise ValueError(f"nested must be one of {', '.join(get_args(Nested))}, got {nested!r}")
        self.nested = nested
        self.shadow = arguments.flag("shadow", shadow)
        self.retried = self.would_have_retried = 0
        self.closing = Stragglers(sys.maxsize)  # results that nobody gets

    def repeats_rejection(self, error: BaseException) -> bool:
        """Whether `on` names the type of a rejection: the very type, or one that is of rejections only."""
        kind = type(error)
        return any(each is kind or (issubclass(kind, each) and issubclass(each, REFUSALS)) for each in self._named)

    def mends(self, scope: Scope) -> bool:
        # What tenacity is told begins before the first attempt, and results have to be looked at.
        return not (self._speaks_tenacity or scope.judge.judges_results)

    def recovery(self, inner: Layer, scope: Scope) -> Recovery:
        return lambda call, error: self._go_on(_Story(self, call, scope), inner, error, None)

    def bind(self, inner: Layer, scope: Scope) -> Layer:
        if self.mends(scope) or self._speaks_tenacity:
            return super().bind(inner, scope)
        verdict_on = scope.on_result
        plainly: Callable[[Call], Any] | None = getattr(inner, "plainly", None)

        async def watch(call: Call) -> Any:
            """There is no story before a failure."""
            try:
                result = await inner(call) if plainly is None else plainly(call)
            except Exception as error:
                recovery = self._go_on(_Story(self, call, scope), inner, error, None)
            else:
                if verdict_on(call, result).kind == "success":
                    return result
                recovery = self._go_on(_Story(self, call, scope), inner, None, result)
            return await recovery

        return watch

    async def run(self, call: Call, inner: Layer, scope: Scope) -> Any:
        story = _Story(self, call, scope)
        await story.ask("before")
        try:
            result = await inner(call)
        except Exception as error:
            recovery = self._go_on(story, inner, error, None)
        else:
            if not self._looks_at_results(scope):
                return result
            recovery = self._go_on(story, inner, None, result)
        return await recovery

    async def _go_on(self, story: _Story, inner: Layer, error: Exception | None, result: Any) -> Any:
        """From the end of the first attempt on."""
        call = story.call
        try:
            while True:
                try:
                    wait = await story.next_wait(error, result)
                    if wait is None:
                        return story.end()
                    if error is not None and issubclass(type(error), TimedOut):
                        error.__cause__ = None  # the attempt before it: else a long retry drags along all its attempts
                    call.error = error if error is not None else call.error
                finally:
                    error = None  # or its traceback, which leads to this frame, keeps both alive
                await story.pause(wait)
                call.attempt += 1
                call.verdict = None
                ready = call.again()
                if ready is not None:
                    await ready
                await story.ask("before")
                try:
                    result = await inner(call)
                    if not self._looks_at_results(story.scope):
                        story.forget()
                        return result
                except Exception as caught:
                    error, result = caught, None
        except BaseException as ended:
            story.drop(result, ended)
            raise

    def _looks_at_results(self, scope: Scope) -> bool:
        return self._asks_results or scope.judge.judges_results

    def takes(self, each: float) -> float:
        timed = self.schedule.stop.timed and self.schedule.knows_its_waits
        return self.schedule.takes(each) if timed else super().takes(each)

    def worst(self, inner: Inside, view: View) -> Worst:
        if self.inactive or (view.repeated and (view.once or self.nested == "once")):
            return inner(view)
        judge, discard = view.judge, NOTHING
        if view.is_async and (judge.judges_results or self._asks_results):
            discard = Discard(judge.aside_seconds, judge.closing_seconds, judge.results_ask)
        return self.schedule.worst(inner, view, self.max_retry_after, discard, str(self))

    @property
    def assumes(self) -> tuple[str, ...]:
        return self.schedule.unknown

    def meets(self, end: End) -> Meeting | None:
        if self.inactive or end.verdict is None:
            return None
        again = "repeats the call; passes the last one on when attempts, time or budget are spent"
        if end.verdict.refused and end.error is not None:
            if self.repeats_rejection(end.error):
                return Meeting(again)
            return Meeting("does not repeat a rejection; after other attempts, their last failure comes back instead")
        if self._strategy is not None and end.error is not None and not end.verdict.final:
            answer = answer_to(self._strategy, end.error)
            if answer is None:
                return Meeting(f"asks the predicate of {type(self._strategy).__name__} whether to repeat it")
            repeats = answer
        elif isinstance(end.error, Exception) and self._on is not None and not end.verdict.final:
            repeats = self._on(end.error)
        else:
            repeats = end.helps_to_repeat and not end.verdict.final
        return Meeting(again) if repeats else Meeting("does not repeat it")

    @property
    def inactive(self) -> str | None:
        if self.shadow:
            return "in shadow mode nothing is repeated"
        return "one attempt is all it makes" if self.runs == 1 else None

    def unfit(self, *, is_async: bool, block: bool) -> str | None:
        if is_async:
            return None
        given = {"stop": self._stop, "wait": self._wait, "on": self._strategy, **self._hooks}
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


class _Story:
    """What happened to one call since its first failure.

    Attributes:
        attempt: number of the attempt, from 1. (`call.attempt` counts those of all Retries around the call.)
        answered: whether an attempt has had an answer of the dependency, rather than a rejection.
        last_error, last_result: what comes back at the end.
        known: the `verdict` of the call on that.
        trace: the traceback of `last_error` as it was after its attempt.
    """

    __slots__ = (
        "answered",
        "attempt",
        "call",
        "known",
        "last_error",
        "last_result",
        "reason",
        "retry",
        "scope",
        "state",
        "trace",
    )

    def __init__(self, retry: Retry, call: Call, scope: Scope) -> None:
        self.retry = retry
        call.begin()
        self.call = call
        self.scope = scope
        self.attempt = 1
        self.answered = False
        self.known: Any = None
        self.trace: TracebackType | None = None
        self.last_error: Exception | None = None
        self.last_result: Any = None
        self.reason = ""
        self.state: tenacity.RetryCallState | None = None
        if retry._speaks_tenacity:
            self.state = tenacity.RetryCallState(
                controller(
                    is_async=call.runtime is not THREADS,
                    retry=retry._strategy,
                    wait=retry._wait,
                    stop=retry._stop,
                    attempts=retry.attempts,
                    hooks=retry._hooks,
                ),
                call.fn,
                call.args,
                call.kwargs,
            )
            self.state.start_time = call.runtime.now()

    async def next_wait(self, error: Exception | None, result: Any) -> float | None:
        """Seconds to wait before the next attempt, or None when there is none."""
        retry, call, scope, state = self.retry, self.call, self.scope, self.state
        verdict = scope.on_error(call, error) if error is not None else scope.on_result(call, result)
        if state is not None:
            state.outcome = tenacity.Future.construct(
                self.attempt, bare(error) if error is not None else result, error is not None
            )
            state.outcome_timestamp = call.runtime.now()
        again = await self._worth_repeating(error, verdict)
        rejected = verdict.refused
        if not (rejected and self.answered):
            if error is not None and error is self.last_error:
                forget_before(error, self.trace)
            superseded, self.last_result = self.last_result, result
            self.last_error, self.answered, self.known = error, not rejected, call.verdict
            if superseded is not result and is_own(superseded, call, scope.judge):
                await discard(superseded, call.runtime, retry.closing)
            self.trace = None if error is None else error.__traceback__
        if not again:
            if rejected and self.attempt > 1:
                self.reason = f"attempt {self.attempt} was rejected: {_told(error, scope)}"
            elif error is not None and self.attempt > 1:
                self.reason = "not worth repeating"
            return None
        if state is not None:
            await self.ask("after")
        wait = await self._wait(verdict)
        if await self._enough(wait, verdict, error):
            return None
        retry.retried += 1
        self.tell_of_retry(wait, error)
        if error is None:
            await scope.judge.set_aside(result, call.runtime)
        if state is not None:
            state.next_action = tenacity.RetryAction(wait)
            state.idle_for += wait
            await self.ask("before_sleep")
        return wait

    async def _worth_repeating(self, error: Exception | None, verdict: Verdict) -> bool:
        retry = self.retry
        if verdict.final:
            return False
        if error is not None and (verdict.refused or is_group(type(error))):
            refusals = [error] if verdict.refused else [each for each in leaves(error) if is_refusal(each)]
            if refusals and not all(retry.repeats_rejection(each) for leaf in refusals for each in leaves(leaf)):
                return False
            if verdict.refused:
                return True
        if issubclass(type(error), tenacity.TryAgain):
            return True
        if retry._strategy is not None and (error is not None or retry._asks_results):
            if error is None and verdict.kind == "failure" and verdict.retryable:
                return True
            return bool(await self._answer(retry._strategy))
        if error is not None and retry._on is not None:
            return ask(retry._on, bare(error))
        return verdict.retryable and verdict.kind != "success"

    async def _wait(self, verdict: Verdict) -> float:
        retry = self.retry
        if retry._backoff is not None:
            wait = retry._backoff(self.attempt)
        else:
            assert retry._wait is not None
            wait = ask(float, await self._answer(retry._wait))
        if verdict.retry_after is not None:
            wait += verdict.retry_after  # what was asked for, and the usual jitter upon it
        if self.scope.mode == "instant":
            wait = 0.0
        if self.state is not None:
            self.state.upcoming_sleep = wait
        return wait

    async def _enough(self, wait: float, verdict: Verdict, error: Exception | None) -> bool:
        retry, call = self.retry, self.call
        scope = self.scope
        attempts = scope.judge.attempts(call) or retry.attempts
        if scope.mode == "once":
            self.reason = "the pipeline is switched to one attempt"
        elif attempts is not None and self.attempt >= attempts:
            self.reason = "attempts spent"
        elif retry._stop is not None and await self._answer(retry._stop):
            self.reason = "the stop strategy said so"
        elif verdict.retry_after is not None and verdict.retry_after > retry.max_retry_after:
            self.reason = f"asked to wait {verdict.retry_after:g} s, longer than {retry.max_retry_after:g} s"
        elif wait >= self._left(wait):
            self.reason = f"a wait of {wait:.3g} s would outlive the deadline"
        elif retry.nested == "once" and any(outer.repeats and other is not call for other, outer in enclosing()):
            self.reason = "the call that this one is part of is repeated as a whole"
        elif scope.judge.repeated(call):
            self.reason = "its caller repeats it"
        elif retry.shadow:
            self.reason = "in shadow mode nothing is repeated"
            retry.would_have_retried += 1
            self.tell_of_retry(wait, error, shadow=True)
        elif retry.budget is not None and not retry.budget.of(scope.judge.dependency(call)).spend(call.runtime.now()):
            self.reason = "the budget for extra requests is exhausted"
            if scope.channel.wants[BudgetExhausted]:
                scope.channel.emit(BudgetExhausted(scope.name, call.runtime.now(), retry.name, "retry"))
        else:
            return False
        return True

    def _left(self, wait: float) -> float:
        """Seconds until the deadline of the call; or of one that it is part of, where it would sleep beyond that, or is
        a plain `def`, which nothing else ends."""
        call = self.call
        left = math.inf if call.deadline is None else call.deadline - call.runtime.now()
        if seen.limits and (wait > 0 or call.runtime is THREADS) and (around := remaining()) is not None:
            return min(left, around)
        return left

    def tell_of_retry(self, wait: float, error: Exception | None, *, shadow: bool = False) -> None:
        scope = self.scope
        if scope.channel.wants[Retrying]:
            shown = None if error is None else bare(error)
            at = self.call.runtime.now()
            scope.channel.emit(Retrying(scope.name, at, self.retry.name, self.attempt, wait, shown, shadow))

    async def pause(self, wait: float) -> None:
        call, scope = self.call, self.scope
        self.attempt += 1
        if wait > 0:
            await call.runtime.sleep(wait)
            if scope.channel.wants[Waited]:
                scope.channel.emit(Waited(scope.name, call.runtime.now(), self.retry.name, "backoff", wait))
        if self.state is not None:
            self.state.prepare_for_next_attempt()

    def drop(self, newest: Any, ended: BaseException) -> None:
        """Close the newest result, and the one that was kept until there was a newer one, beside the caller; but not
        the one that a mistake was about, which is closed where that comes out."""
        kept, about = self.last_result, ended.about if type(ended) is Mistake else None
        for result in (newest,) if kept is newest else (newest, kept):
            if result is not about:
                close_beside(result, self.call, self.scope, self.retry.closing)

    def forget(self) -> None:
        """Let go of what happened: an error leads by its traceback to this very object."""
        self.last_error = self.last_result = self.call.error = self.state = self.trace = self.known = None

    def end(self) -> Any:
        """Return the last result, or raise the last real error."""
        error, result = self.last_error, self.last_result
        self.call.verdict = self.known
        self.forget()
        attempts, reason, scope = self.attempt, self.reason, self.scope
        try:
            if reason and scope.channel.wants[GaveUp]:
                at = self.call.runtime.now()
                scope.channel.emit(GaveUp(scope.name, at, self.retry.name, attempts, reason, error))
            if error is None:
                return result
            if issubclass(type(error), tenacity.TryAgain):
                error = behind(error)  # type: ignore[arg-type]
            if reason:
                where = f"pipeline {scope.name!r}" if scope.name else self.retry.name
                note(bare(error), f"{where} gave up after {attempts} attempt{'s'[: attempts != 1]}: {reason}")
            raise error
        finally:
            del error, result

    async def ask(self, hook: str) -> None:
        """Call one of tenacity's hooks, if it is given."""
        fn = self.retry._hooks.get(hook)
        if fn is not None:
            await self._answer(fn)

    async def _answer(self, strategy: Strategy) -> Any:
        assert self.state is not None
        try:
            answer = strategy(self.state)
            return await answer if is_awaitable(answer) else answer
        except Exception as raised:
            outcome = self.state.outcome
            about = None if outcome is None else outcome.exception() if outcome.failed else outcome.result()
            raise Mistake(raised, about) from None


def _told(error: Exception | None, scope: Scope) -> str:
    """A rejection, for a sentence about its pipeline."""
    if not isinstance(error, Rejected):
        return type(error).__name__
    return reason_of(error) if error.pipeline == scope.name else str(error)
