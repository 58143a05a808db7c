"""The attempts that a Retry makes of one call.

After each failure, the steps follow in tenacity's order: predicate (is it worth repeating?), `after`, wait, stop,
`before_sleep`, sleep, `before`, the next attempt. Each decision is a plain function. Only what may be a coroutine
function is awaited: tenacity's strategies and hooks, and the closing of a result that a later attempt supersedes.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine
from types import NoneType, TracebackType
from typing import Any

import tenacity

from resilient.core import history
from resilient.core.background import close_in_background, discard, is_own
from resilient.core.call import Call
from resilient.core.call_key import key_of
from resilient.core.callbacks import CallbackError, ask
from resilient.core.classify import Verdict
from resilient.core.context import PipelineContext
from resilient.core.current_call import enclosing
from resilient.core.deadline import remaining
from resilient.core.layer import BoundLayer
from resilient.core.result import is_awaitable
from resilient.errors import NONE, Reason, TimedOut, bare
from resilient.events import BudgetExhausted, GaveUp, Retrying, Waited
from resilient.policies.retry.error_notes import error_to_raise, forget_before, note, text_of_rejection
from resilient.policies.retry.settings import Settings
from resilient.policies.retry.tenacity import State, Strategy, controller
from resilient.runtime.inherited_deadline import seen
from resilient.runtime.threads import THREADS

__all__ = ["RetryState"]


class RetryState:
    """A Retry in one pipeline: makes the attempts of each call. The state of one call is local to `go_on`.

    A call enters by one of three methods; each of them leaves the further attempts to `go_on`.

        recover          the first attempt has failed in the layer outside (`Policy._failure_only`)
        judge_results    makes the first attempt, too: its result may be worth repeating
        run              the same, with a tenacity state for strategies and hooks

    Attributes:
        settings: of the Retry.
        inner: the layer that is repeated.
        plainly: its plain form, or None.
        context: of the pipeline.
        repeats_results: whether a call can be repeated for its result.
    """

    __slots__ = ("context", "inner", "plainly", "repeats_results", "settings")

    def __init__(self, settings: Settings, inner: BoundLayer, context: PipelineContext) -> None:
        self.settings = settings
        self.inner = inner.run
        self.plainly = inner.plainly
        self.context = context
        self.repeats_results = settings.predicate.asks_results or context.classifier.judges_results

    def recover(self, call: Call, error: Exception) -> Coroutine[Any, Any, Any] | None:
        """A `Recovery`: returns a coroutine of the further attempts after this error, or None if it is not worth
        repeating."""
        verdict = self.context.on_error(call, error)
        again = self.settings.predicate.repeats(error, verdict)
        return self.go_on(call, error, None, verdict, again) if again else None

    async def judge_results(self, call: Call) -> Any:
        """A layer that makes all attempts of a call, where a result can be a failure."""
        try:
            result = await self.inner(call) if self.plainly is None else self.plainly(call)
        except Exception as error:
            rest = self.recover(call, error)
            if rest is None:
                raise
        else:
            verdict = self.context.on_result(call, result)
            if verdict.kind == "success":
                return result
            rest = self.go_on(call, None, result, verdict, self.settings.predicate.repeats(None, verdict))
        return await rest  # outside the clause, so that what it raises has no false context

    async def run(self, call: Call) -> Any:
        """A layer that makes all attempts of a call, where tenacity's strategies or hooks are given."""
        settings, runtime = self.settings, call.begin()
        predicate = settings.predicate
        state = State(
            lambda: controller(
                is_async=runtime is not THREADS,
                retry=predicate.strategy,
                wait=settings.wait,
                stop=settings.stop,
                attempts=settings.attempts,
                hooks=settings.hooks,
            ),
            call.fn,
            call.args,
            call.kwargs,
        )
        state.start_time = runtime.now()
        if "before" in settings.hooks:
            await _answer(settings.hooks["before"], state)
        try:
            result = await self.inner(call)
        except Exception as error:
            verdict = self.context.on_error(call, error)
            rest = self.go_on(call, error, None, verdict, predicate.repeats(error, verdict), state)
        else:
            if not self.repeats_results:
                return result
            verdict = self.context.on_result(call, result)
            rest = self.go_on(call, None, result, verdict, predicate.repeats(None, verdict), state)
        return await rest

    async def go_on(
        self,
        call: Call,
        error: Exception | None,
        result: Any,
        verdict: Verdict,
        again: bool | None,
        state: State | None = None,
    ) -> Any:
        """Make the attempts after the first one.

        Args:
            error, result, verdict: of the first attempt.
            again: the answer of `Predicate.repeats` to these.
            state: given to tenacity's strategies and hooks; None: there are none.

        Returns the last result, or raises the last error that was an answer of the dependency.
        """
        settings, context, repeats_results, plainly = self.settings, self.context, self.repeats_results, self.plainly
        predicate = settings.predicate
        classifier, channel, hooks = context.classifier, context.channel, settings.hooks
        attempt = 1  # `call.attempt` counts those of all Retries around the call
        answered = False  # whether there was an answer of the dependency, rather than a rejection
        last_error: Exception | None = None  # what the caller gets at the end, or else `last_result`
        last_result: Any = None
        known: Any = None  # `call.verdict` for what the caller gets
        trace: TracebackType | None = None  # the traceback of `last_error` right after its attempt
        begin: float | None = None  # when the attempt began, if it is not the first one
        steps: list[Any] = []  # for `resilient.core.history`
        at = 0.0  # when the last attempt failed
        if repeats_results:
            call.begin()  # results are closed by its runtime
        try:
            while True:
                if state is not None:
                    state.ended(result if error is None else bare(error), error is not None, call.runtime.now())
                    if again is None:
                        again = bool(await _answer(predicate.strategy, state))

                if again or error is not None or verdict.kind == "failure":
                    at = history.attempt_failed(steps, call, error, result, verdict.retry_after, begin)

                # What the caller gets if this was the last attempt.
                if not (verdict.refused and answered):
                    if error is not None and error is last_error:
                        forget_before(error, trace)
                    trace = None if error is None else error.__traceback__
                    last_error, answered = error, not verdict.refused
                    known = classifier, result if error is None else error, verdict
                    if repeats_results:
                        superseded, last_result = last_result, result
                        if superseded is not result and is_own(superseded, call, classifier):
                            await discard(superseded, call.runtime, settings.closing)
                if not again:
                    reason = NONE if attempt == 1 else self._why_not_repeated(attempt, error, verdict)
                    break

                # How long to wait, and whether it has been enough.
                if state is not None and "after" in hooks:
                    await _answer(hooks["after"], state)
                if settings.backoff is not None:
                    wait = settings.backoff(attempt)
                else:
                    wait = ask(float, await _answer(settings.wait, state))
                if verdict.retry_after is not None:
                    wait += verdict.retry_after  # the pause that was asked for, plus the usual wait as jitter
                if context.mode == "instant":
                    wait = 0.0
                if state is not None:
                    state.upcoming_sleep = wait
                most = context.call_options.attempts(call) or settings.attempts
                if context.mode == "once":
                    reason = Reason("the pipeline is switched to one attempt", "switched")
                elif most is not None and attempt >= most:
                    reason = Reason("attempts spent", "attempts")
                elif settings.stop is not None and await _answer(settings.stop, state):
                    reason = Reason("the stop strategy ended the attempts", "stop-strategy")
                else:
                    reason = self._why_no_further_attempt(call, attempt, wait, verdict, error)
                if reason:
                    break

                # There is another attempt.
                settings.counts.retried += 1
                context.counters.count("retries", settings.name)
                if channel.wants[Retrying]:
                    self._emit_retrying(call, attempt, wait, error)
                if error is None:
                    await context.lifecycle.set_aside(result, call.runtime)
                if state is not None:
                    state.idle_for += wait
                    if "before_sleep" in hooks:
                        state.next_action = tenacity.RetryAction(wait)
                        await _answer(hooks["before_sleep"], state)
                if error is not None:
                    if issubclass(type(error), TimedOut):
                        error.__cause__ = None  # the attempt before: the chain would keep all attempts alive
                    call.error = error
                    error = None
                if wait > 0:
                    history.paused(steps, at, settings.name, wait, verdict.retry_after)
                    await call.begin().sleep(wait)
                    context.counters.count("waits", settings.name, "backoff")
                    context.counters.add_seconds(wait, "wait.time", settings.name, "backoff")
                    if channel.wants[Waited]:
                        channel.emit(Waited(context.name, call.runtime.now(), settings.name, "backoff", wait))
                attempt += 1
                call.attempt += 1
                call.verdict = None
                ready = call.again()
                if ready is not None:
                    await ready
                if state is not None:
                    state.prepare_for_next_attempt()
                    if "before" in hooks:
                        await _answer(hooks["before"], state)
                begin = call.begin().now() if wait > 0 or repeats_results or ready or state else at
                try:
                    result = await self.inner(call) if plainly is None else plainly(call)
                except Exception as caught:
                    error, result = caught, None
                    verdict = context.on_error(call, error)
                else:
                    if not repeats_results:
                        call.error = None
                        if history.recorders.any:  # else plain results have no place for it
                            history.publish(call, context, result, steps, begin)
                        return result
                    verdict = context.on_result(call, result)
                again = predicate.repeats(error, verdict)

            call.verdict, call.error = known, None
            if reason or verdict.kind == "failure":
                history.retries_ended(steps, call, settings.name, reason or (UNSAFE if verdict.final else FATAL))
            if reason:
                self._give_up(call, attempt, reason, last_error)
            if last_error is None:
                history.publish(call, context, last_result, steps, None if verdict.kind == "failure" else begin)
                return last_result
            raise error_to_raise(last_error)
        except BaseException as ended:
            history.keep(steps, call)
            if repeats_results:
                self._close_results(call, result, last_result, ended)
            raise
        finally:
            error = last_error = trace = known = None  # else a traceback that leads here would keep them alive
            result = last_result = state = None

    def _why_not_repeated(self, attempt: int, error: Exception | None, verdict: Verdict) -> Reason:
        """The reason to give up after an attempt (not the first one) that is not worth repeating; "" after a result."""
        if verdict.refused:
            text = f"attempt {attempt} was rejected: {text_of_rejection(error, self.context.name)}"
            return Reason(text, "rejected")
        return NONE if error is None else FATAL

    def _why_no_further_attempt(
        self, call: Call, attempt: int, wait: float, verdict: Verdict, error: Exception | None
    ) -> Reason:
        """The reason to give up before this wait, although attempts are left; "" if there is none. If the function
        returns "", a token of the budget (if there is one) has been spent."""
        settings, context = self.settings, self.context
        options = context.call_options
        if verdict.retry_after is not None and verdict.retry_after > settings.max_retry_after:
            text = f"asked to wait {verdict.retry_after:g} s, longer than {settings.max_retry_after:g} s"
            return Reason(text, "retry-after")
        if (call.deadline is not None or seen.limits) and wait >= _left(call, wait):
            return Reason(f"a wait of {wait:.3g} s would outlive the deadline", "deadline")
        if settings.once and any(outer.repeats and other is not call for other, outer in enclosing()):
            return Reason("the call that this one is part of is repeated as a whole", "nested")
        if options.is_repeated(call):
            return Reason("its caller repeats it", "nested")
        if settings.shadow:
            settings.counts.would_have_retried += 1
            context.counters.count("shadow.actions", settings.name, "retry")
            if context.channel.wants[Retrying]:
                self._emit_retrying(call, attempt, wait, error, shadow=True)
            return Reason("in shadow mode nothing is repeated", "shadow")
        budget = settings.budget
        if budget is not None and not budget.of(options.dependency(call)).spend(call.begin().now()):
            context.counters.count("budget.exhausted", settings.name, "retry")
            if context.channel.wants[BudgetExhausted]:
                context.channel.emit(BudgetExhausted(context.name, call.runtime.now(), settings.name, "retry"))
            return Reason("the budget for extra requests is exhausted", "budget")
        return NONE

    def _give_up(self, call: Call, attempt: int, reason: Reason, error: Exception | None) -> None:
        """Count the reason, emit `GaveUp` with it, and add it as a note to the error that the caller gets."""
        context, name = self.context, self.settings.name
        context.counters.count("retries.ended", name, reason.code)
        if context.channel.wants[GaveUp]:
            context.channel.emit(GaveUp(context.name, call.begin().now(), name, attempt, reason, error))
        if error is not None:
            where, key = f"pipeline {context.name!r}" if context.name else name, key_of(call, context)
            on = f" on {key}" if key else ""
            text = f"{where} gave up{on} after {attempt} attempt{'s'[: attempt != 1]}: {reason}"
            note(bare(error_to_raise(error)), text)

    def _emit_retrying(
        self, call: Call, attempt: int, wait: float, error: Exception | None, *, shadow: bool = False
    ) -> None:
        context = self.context
        shown = None if error is None else bare(error)
        at = call.begin().now()
        context.channel.emit(Retrying(context.name, at, self.settings.name, attempt, wait, shown, shadow))

    def _close_results(self, call: Call, newest: Any, kept: Any, ended: BaseException) -> None:
        """Close the newest result and the one that was kept before it, in the background. The result that a
        `CallbackError` is about stays: it is closed where that error is raised to the caller
        (`resilient.pipeline.call_path.raise_callback_error`)."""
        about = ended.about if type(ended) is CallbackError else None
        for result in (newest,) if kept is newest else (newest, kept):
            if result is not about:
                close_in_background(result, call, self.context, self.settings.closing)


FATAL = Reason("not worth repeating", "fatal")
UNSAFE = Reason("it must not be sent again", "unsafe")

_PLAIN = frozenset((float, int, bool, NoneType))


async def _answer(strategy: Strategy | None, state: State | None) -> Any:
    """Call one of tenacity's strategies or hooks, and await an awaitable answer. Its error is a `CallbackError`."""
    assert strategy is not None
    assert state is not None
    try:
        answer = strategy(state)
        return answer if type(answer) in _PLAIN or not is_awaitable(answer) else await answer
    except Exception as raised:
        outcome = state.outcome
        about = None if outcome is None else outcome.exception() if outcome.failed else outcome.result()
        raise CallbackError(raised, about) from None


def _left(call: Call, wait: float) -> float:
    """Seconds until the deadline of the call.

    An inherited deadline counts, too, if the call would sleep, or if it is a `def`: no event loop can cancel it.
    """
    left = math.inf if call.deadline is None else call.deadline - call.begin().now()
    if seen.limits and (wait > 0 or call.runtime is THREADS) and (around := remaining()) is not None:
        return min(left, around)
    return left
