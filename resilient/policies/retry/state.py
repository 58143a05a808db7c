"""The attempts of one call that a Retry makes.

After each failure it goes on in tenacity's order: predicate (is it worth repeating?), `after`, wait, stop,
`before_sleep`, sleep, `before`, the next attempt. Each decision is a plain function. Only what may be a coroutine
function is awaited: tenacity's strategies and hooks, and the closing of a result that a later attempt supersedes.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Any

import tenacity

from resilient.core.background import close_beside, discard, is_own
from resilient.core.call import Call
from resilient.core.callbacks import CallbackError, ask
from resilient.core.classify import Verdict
from resilient.core.current_call import enclosing
from resilient.core.deadline import remaining
from resilient.core.layer import BoundLayer
from resilient.core.policy import PipelineContext
from resilient.core.result import is_awaitable
from resilient.errors import Rejected, TimedOut, bare, reason_of
from resilient.events import BudgetExhausted, GaveUp, Retrying, Waited
from resilient.policies.retry.error_notes import behind, forget_before, note
from resilient.policies.retry.tenacity import State, Strategy, controller
from resilient.runtime.inherited_deadline import seen
from resilient.runtime.threads import THREADS

if TYPE_CHECKING:
    from resilient.policies.retry import Retry

__all__ = ["RetryState"]


class RetryState:
    """A Retry around one layer. A call enters by one of three methods; each hands a failure to `go_on`.

        recover          the first attempt has failed in a frame outside (`Policy.failure_only`)
        judge_results    results can be worth repeating, so it makes the first attempt itself
        run              the same, where tenacity's strategies and hooks are told of each attempt

    Attributes:
        retry: the policy.
        inner: the layer that is repeated.
        plainly: its plain form, or None.
        scope: of the pipeline.
        looks: whether results can be worth repeating.
    """

    __slots__ = ("context", "inner", "looks", "plainly", "retry")

    def __init__(self, retry: Retry, inner: BoundLayer, context: PipelineContext) -> None:
        self.retry = retry
        self.inner = inner.run
        self.plainly = inner.plainly
        self.context = context
        self.looks = retry.looks_at_results(context)

    def recover(self, call: Call, error: Exception) -> Coroutine[Any, Any, Any] | None:
        """A `Recovery`: the further attempts after this error, or None if it is not worth repeating."""
        verdict = self.context.on_error(call, error)
        again = self.retry.repeats(error, verdict)
        return self.go_on(call, error, None, verdict, again) if again else None

    async def judge_results(self, call: Call) -> Any:
        """A layer that makes all attempts, and judges the result of each."""
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
            rest = self.go_on(call, None, result, verdict, self.retry.repeats(None, verdict))
        return await rest  # outside the clause, so that what it raises has no false context

    async def run(self, call: Call) -> Any:
        """A layer that makes all attempts, and tells tenacity's strategies and hooks of each."""
        retry, runtime = self.retry, call.begin()
        state = State(
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
        state.start_time = runtime.now()
        if "before" in retry.hooks:
            await _answer(retry.hooks["before"], state)
        try:
            result = await self.inner(call)
        except Exception as error:
            verdict = self.context.on_error(call, error)
            rest = self.go_on(call, error, None, verdict, retry.repeats(error, verdict), state)
        else:
            if not self.looks:
                return result
            verdict = self.context.on_result(call, result)
            rest = self.go_on(call, None, result, verdict, retry.repeats(None, verdict), state)
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
            error, result, verdict: how the first attempt ended.
            again: the answer of `Retry.repeats` to that.
            state: given to tenacity's strategies and hooks; None: there are none.

        Returns the last result, or raises the last error that was an answer of the dependency.
        """
        retry, context, looks, plainly = self.retry, self.context, self.looks, self.plainly
        classifier, channel, hooks = context.classifier, context.channel, retry.hooks
        attempt = 1  # `call.attempt` counts those of all Retries around the call
        answered = False  # whether there was an answer of the dependency, rather than a rejection
        last_error: Exception | None = None  # what comes back at the end, or else `last_result`
        last_result: Any = None
        known: Any = None  # `call.verdict` for what comes back
        trace: TracebackType | None = None  # the traceback of `last_error` right after its attempt
        if looks:
            call.begin()  # results are closed by its runtime
        try:
            while True:
                if state is not None:
                    state.ended(result if error is None else bare(error), error is not None, call.runtime.now())
                    if again is None:
                        again = bool(await _answer(retry.strategy, state))

                # What comes back if this was the last attempt.
                if not (verdict.refused and answered):
                    if error is not None and error is last_error:
                        forget_before(error, trace)
                    trace = None if error is None else error.__traceback__
                    last_error, answered, known = error, not verdict.refused, call.verdict
                    if looks:
                        superseded, last_result = last_result, result
                        if superseded is not result and is_own(superseded, call, classifier):
                            await discard(superseded, call.runtime, retry.closing)
                if not again:
                    reason = "" if attempt == 1 else self._hopeless(attempt, error, verdict)
                    break

                # How long to wait, and whether it has been enough.
                if state is not None and "after" in hooks:
                    await _answer(hooks["after"], state)
                if retry.backoff is not None:
                    wait = retry.backoff(attempt)
                else:
                    wait = ask(float, await _answer(retry.wait, state))
                if verdict.retry_after is not None:
                    wait += verdict.retry_after  # the pause that was asked for, plus the usual wait as jitter
                if context.mode == "instant":
                    wait = 0.0
                if state is not None:
                    state.upcoming_sleep = wait
                most = context.options.attempts(call) or retry.attempts
                if context.mode == "once":
                    reason = "the pipeline is switched to one attempt"
                elif most is not None and attempt >= most:
                    reason = "attempts spent"
                elif retry.stop is not None and await _answer(retry.stop, state):
                    reason = "the stop strategy said so"
                else:
                    reason = self._held_back(call, attempt, wait, verdict, error)
                if reason:
                    break

                # There is another attempt.
                retry.retried += 1
                if channel.wants[Retrying]:
                    self._tell_of_retry(call, attempt, wait, error)
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
                    await call.begin().sleep(wait)
                    if channel.wants[Waited]:
                        channel.emit(Waited(context.name, call.runtime.now(), retry.name, "backoff", wait))
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
                try:
                    result = await self.inner(call) if plainly is None else plainly(call)
                except Exception as caught:
                    error, result = caught, None
                    verdict = context.on_error(call, error)
                else:
                    if not looks:
                        call.error = None
                        return result
                    verdict = context.on_result(call, result)
                again = retry.repeats(error, verdict)

            call.verdict, call.error = known, None
            if reason:
                self._give_up(call, attempt, reason, last_error)
            if last_error is None:
                return last_result
            raise _meant(last_error)
        except BaseException as ended:
            if looks:
                self._drop(call, result, last_result, ended)
            raise
        finally:
            error = last_error = trace = known = None  # else a traceback that leads here would keep them alive
            result = last_result = state = None

    def _hopeless(self, attempt: int, error: Exception | None, verdict: Verdict) -> str:
        """The reason to give up after an attempt, not the first one, that is not worth repeating."""
        if verdict.refused:
            return f"attempt {attempt} was rejected: {_told(error, self.context)}"
        return "" if error is None else "not worth repeating"

    def _held_back(self, call: Call, attempt: int, wait: float, verdict: Verdict, error: Exception | None) -> str:
        """The reason why there is no further attempt after this wait, although attempts are left; "" if there is one.
        Then the budget has paid for it."""
        retry, context = self.retry, self.context
        options = context.options
        if verdict.retry_after is not None and verdict.retry_after > retry.max_retry_after:
            return f"asked to wait {verdict.retry_after:g} s, longer than {retry.max_retry_after:g} s"
        if (call.deadline is not None or seen.limits) and wait >= _left(call, wait):
            return f"a wait of {wait:.3g} s would outlive the deadline"
        if retry.nested == "once" and any(outer.repeats and other is not call for other, outer in enclosing()):
            return "the call that this one is part of is repeated as a whole"
        if options.is_repeated(call):
            return "its caller repeats it"
        if retry.shadow:
            retry.would_have_retried += 1
            if context.channel.wants[Retrying]:
                self._tell_of_retry(call, attempt, wait, error, shadow=True)
            return "in shadow mode nothing is repeated"
        if retry.budget is not None and not retry.budget.of(options.dependency(call)).spend(call.begin().now()):
            if context.channel.wants[BudgetExhausted]:
                context.channel.emit(BudgetExhausted(context.name, call.runtime.now(), retry.name, "retry"))
            return "the budget for extra requests is exhausted"
        return ""

    def _give_up(self, call: Call, attempt: int, reason: str, error: Exception | None) -> None:
        """Emit `GaveUp` with the reason, and add it as a note to the error that comes back."""
        context, name = self.context, self.retry.name
        if context.channel.wants[GaveUp]:
            context.channel.emit(GaveUp(context.name, call.begin().now(), name, attempt, reason, error))
        if error is not None:
            where = f"pipeline {context.name!r}" if context.name else name
            note(bare(_meant(error)), f"{where} gave up after {attempt} attempt{'s'[: attempt != 1]}: {reason}")

    def _tell_of_retry(
        self, call: Call, attempt: int, wait: float, error: Exception | None, *, shadow: bool = False
    ) -> None:
        context = self.context
        shown = None if error is None else bare(error)
        at = call.begin().now()
        context.channel.emit(Retrying(context.name, at, self.retry.name, attempt, wait, shown, shadow))

    def _drop(self, call: Call, newest: Any, kept: Any, ended: BaseException) -> None:
        """Close the newest result and the one that was kept before it, in the background. The result that a
        `CallbackError`
        is about is closed where that is raised to the caller (`in_flight.raise_callback_error`)."""
        about = ended.about if type(ended) is CallbackError else None
        for result in (newest,) if kept is newest else (newest, kept):
            if result is not about:
                close_beside(result, call, self.context, self.retry.closing)


_PLAIN = frozenset((float, int, bool, NoneType))


async def _answer(strategy: Strategy | None, state: State | None) -> Any:
    """Ask one of tenacity's strategies or hooks, and await its answer if need be. An error of it is a
    `CallbackError`."""
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

    A deadline around the call counts, too, if the call would sleep, or is a plain `def`, which nothing else ends.
    """
    left = math.inf if call.deadline is None else call.deadline - call.begin().now()
    if seen.limits and (wait > 0 or call.runtime is THREADS) and (around := remaining()) is not None:
        return min(left, around)
    return left


def _meant(error: Exception) -> Exception:
    """The error to raise to the caller: the one behind a `tenacity.TryAgain`, else the error itself."""
    return behind(error) if issubclass(type(error), tenacity.TryAgain) else error  # type: ignore[arg-type]


def _told(error: Exception | None, context: PipelineContext) -> str:
    """The text of a rejection, without the pipeline's name where the sentence has it already."""
    if not isinstance(error, Rejected):
        return type(error).__name__
    return reason_of(error) if error.pipeline == context.name else str(error)
