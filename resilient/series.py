"""A series: the attempts of one call, from its first failure on.

In tenacity's order: is it worth repeating (predicate), `after`, how long to wait, has it been enough (stop),
`before_sleep`, sleep, `before`, and again. Each decision is a plain function. Only what may be a coroutine function is
awaited: tenacity's strategies and hooks, and the closing of a result that a later attempt supersedes.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import TYPE_CHECKING, Any

import tenacity

from resilient.beside import close_beside, discard, is_own
from resilient.call import Call
from resilient.current import enclosing
from resilient.deadlines import remaining, seen
from resilient.errors import Rejected, TimedOut, reason_of
from resilient.events import BudgetExhausted, GaveUp, Retrying, Waited
from resilient.mistakes import Mistake, ask
from resilient.notes import behind, forget_before, note
from resilient.outcome import Verdict, bare
from resilient.policy import Layer, Scope
from resilient.result import is_awaitable
from resilient.runtime.threads import THREADS
from resilient.strategies import State, Strategy, controller

if TYPE_CHECKING:
    from resilient.policies.retry import Retry

__all__ = ["Series"]


class Series:
    """The attempts of one call.

    Attributes:
        attempt: number of the attempt, from 1. (`call.attempt` counts those of all Retries around the call.)
        answered: whether an attempt has had an answer of the dependency, rather than a rejection.
        error, result: what comes back at the end.
        known: the `verdict` of the call on that.
        trace: the traceback of `error` as it was after its attempt.
        reason: why there is no further attempt; "": because there was no need to decide.
        state: what tenacity's strategies and hooks are told; None: there are none.
    """

    __slots__ = (
        "answered",
        "attempt",
        "call",
        "error",
        "inner",
        "known",
        "reason",
        "result",
        "retry",
        "scope",
        "state",
        "trace",
    )

    def __init__(self, retry: Retry, call: Call, inner: Layer, scope: Scope) -> None:
        self.retry = retry
        self.call = call
        self.inner = inner
        self.scope = scope
        self.attempt = 1
        self.answered = False
        self.error: Exception | None = None
        self.result: Any = None
        self.known: Any = None
        self.trace: TracebackType | None = None
        self.reason = ""
        self.state: State | None = None

    async def begin(self) -> Any:
        """All attempts, where tenacity's strategies or hooks take part."""
        retry, call = self.retry, self.call
        runtime = call.begin()
        self.state = State(
            lambda: controller(
                is_async=runtime is not THREADS,
                retry=retry.strategy,
                wait=retry.wait,
                stop=retry.stop,
                attempts=retry.attempts,
                hooks=retry.hooks,
            ),
            call.fn,
            call.args,
            call.kwargs,
        )
        self.state.start_time = runtime.now()
        await self.ask("before")
        try:
            result = await self.inner(call)
        except Exception as error:
            verdict = self.scope.on_error(call, error)
            rest = self.go_on(error, None, verdict, retry.repeats(error, verdict))
        else:
            if not retry.looks_at_results(self.scope):
                return result
            verdict = self.scope.on_result(call, result)
            rest = self.go_on(None, result, verdict, retry.repeats(None, verdict))
        return await rest

    async def go_on(self, error: Exception | None, result: Any, verdict: Verdict, again: bool | None) -> Any:
        """The attempts after the first, which ended so. `again`: what `Retry.repeats` says of that."""
        retry, call, scope, state = self.retry, self.call, self.scope, self.state
        inner, looks = self.inner, retry.looks_at_results(scope)
        plainly = getattr(inner, "plainly", None)
        if looks:
            call.begin()  # results are closed by it
        try:
            while True:
                if state is not None:
                    state.ended(result if error is None else bare(error), error is not None, call.runtime.now())
                if again is None:
                    again = bool(await self.answer(retry.strategy))
                superseded = self.keep(error, result, verdict)
                if superseded is not None and is_own(superseded, call, scope.judge):
                    await discard(superseded, call.runtime, retry.closing)
                if not again:
                    self.reason = self.hopeless(error, verdict)
                    return self.end()
                if state is not None:
                    await self.ask("after")
                if retry.backoff is not None:
                    wait = retry.backoff(self.attempt)
                else:
                    wait = ask(float, await self.answer(retry.wait))
                if verdict.retry_after is not None:
                    wait += verdict.retry_after  # what was asked for, and the usual jitter upon it
                if scope.mode == "instant":
                    wait = 0.0
                if state is not None:
                    state.upcoming_sleep = wait
                self.reason = self.spent()
                if not self.reason and retry.stop is not None and await self.answer(retry.stop):
                    self.reason = "the stop strategy said so"
                if self.reason or self.held_back(wait, verdict, error):
                    return self.end()
                retry.retried += 1
                if scope.channel.wants[Retrying]:
                    self.tell_of_retry(wait, error)
                if error is None:
                    await scope.judge.set_aside(result, call.runtime)
                if state is not None:
                    state.next_action = tenacity.RetryAction(wait)
                    state.idle_for += wait
                    await self.ask("before_sleep")
                if error is not None:
                    if issubclass(type(error), TimedOut):
                        error.__cause__ = None  # the attempt before it: else a long retry drags along all its attempts
                    call.error = error
                    error = None  # while it waits: its traceback, which leads to this frame, keeps both alive
                self.attempt += 1
                if wait > 0:
                    await call.begin().sleep(wait)
                    if scope.channel.wants[Waited]:
                        scope.channel.emit(Waited(scope.name, call.runtime.now(), retry.name, "backoff", wait))
                call.attempt += 1
                call.verdict = None
                ready = call.again()
                if ready is not None:
                    await ready
                if state is not None:
                    state.prepare_for_next_attempt()
                    await self.ask("before")
                try:
                    result = await inner(call) if plainly is None else plainly(call)
                except Exception as caught:
                    error, result = caught, None
                    verdict = scope.on_error(call, error)
                else:
                    if not looks:
                        self.forget()
                        return result
                    verdict = scope.on_result(call, result)
                again = retry.repeats(error, verdict)
        except BaseException as ended:
            if looks:
                self.drop(result, ended)
            raise
        finally:
            error = None

    def keep(self, error: Exception | None, result: Any, verdict: Verdict) -> Any:
        """Have this outcome come back at the end, unless it is a rejection and there was an answer before. Returns the
        result whose place it takes."""
        if verdict.refused and self.answered:
            return None
        if error is not None and error is self.error:
            forget_before(error, self.trace)
        self.trace = None if error is None else error.__traceback__
        superseded, self.result = self.result, result
        self.error, self.answered, self.known = error, not verdict.refused, self.call.verdict
        return None if superseded is result else superseded

    def hopeless(self, error: Exception | None, verdict: Verdict) -> str:
        """Why an attempt after the first was not worth repeating."""
        if verdict.refused and self.attempt > 1:
            return f"attempt {self.attempt} was rejected: {_told(error, self.scope)}"
        return "not worth repeating" if error is not None and self.attempt > 1 else ""

    def spent(self) -> str:
        """Why the number of attempts allows no further one; "": it does."""
        if self.scope.mode == "once":
            return "the pipeline is switched to one attempt"
        attempts = self.scope.judge.attempts(self.call) or self.retry.attempts
        return "attempts spent" if attempts is not None and self.attempt >= attempts else ""

    def held_back(self, wait: float, verdict: Verdict, error: Exception | None) -> bool:
        """Whether something else allows no further attempt after this wait; `reason` says what. (A budget has paid for
        the attempt when nothing does.)"""
        retry, call, scope = self.retry, self.call, self.scope
        judge = scope.judge
        if verdict.retry_after is not None and verdict.retry_after > retry.max_retry_after:
            self.reason = f"asked to wait {verdict.retry_after:g} s, longer than {retry.max_retry_after:g} s"
        elif (call.deadline is not None or seen.limits) and wait >= self.left(wait):
            self.reason = f"a wait of {wait:.3g} s would outlive the deadline"
        elif retry.nested == "once" and any(outer.repeats and other is not call for other, outer in enclosing()):
            self.reason = "the call that this one is part of is repeated as a whole"
        elif judge.repeated(call):
            self.reason = "its caller repeats it"
        elif retry.shadow:
            self.reason = "in shadow mode nothing is repeated"
            retry.would_have_retried += 1
            if scope.channel.wants[Retrying]:
                self.tell_of_retry(wait, error, shadow=True)
        elif retry.budget is not None and not retry.budget.of(judge.dependency(call)).spend(call.begin().now()):
            self.reason = "the budget for extra requests is exhausted"
            if scope.channel.wants[BudgetExhausted]:
                scope.channel.emit(BudgetExhausted(scope.name, call.runtime.now(), retry.name, "retry"))
        else:
            return False
        return True

    def left(self, wait: float) -> float:
        """Seconds until the deadline of the call; or of one that it is part of, where it would sleep beyond that, or is
        a plain `def`, which nothing else ends."""
        call = self.call
        left = math.inf if call.deadline is None else call.deadline - call.begin().now()
        if seen.limits and (wait > 0 or call.runtime is THREADS) and (around := remaining()) is not None:
            return min(left, around)
        return left

    def tell_of_retry(self, wait: float, error: Exception | None, *, shadow: bool = False) -> None:
        """Tell listeners that there is another attempt, or would be one."""
        scope = self.scope
        shown = None if error is None else bare(error)
        at = self.call.begin().now()
        scope.channel.emit(Retrying(scope.name, at, self.retry.name, self.attempt, wait, shown, shadow))

    def drop(self, newest: Any, ended: BaseException) -> None:
        """Close the newest result, and the one that was kept until there was a newer one, beside the caller; but not
        the one that a mistake was about, which is closed where that comes out."""
        kept, about = self.result, ended.about if type(ended) is Mistake else None
        for result in (newest,) if kept is newest else (newest, kept):
            if result is not about:
                close_beside(result, self.call, self.scope, self.retry.closing)

    def forget(self) -> None:
        """Let go of what happened: an error leads by its traceback to this very object."""
        self.error = self.result = self.call.error = self.state = self.trace = self.known = None

    def end(self) -> Any:
        """Return the last result, or raise the last real error."""
        error, result = self.error, self.result
        self.call.verdict = self.known
        self.forget()
        attempts, reason, scope = self.attempt, self.reason, self.scope
        try:
            if reason and scope.channel.wants[GaveUp]:
                at = self.call.begin().now()
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
        fn = self.retry.hooks.get(hook)
        if fn is not None:
            await self.answer(fn)

    async def answer(self, strategy: Strategy | None) -> Any:
        """What one of tenacity's strategies says."""
        assert self.state is not None
        assert strategy is not None
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
