"""The race of a hedged call's copies: which are running, when the next one starts, and whose outcome counts."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resilient._atomic import GIL, atomic
from resilient.core.background import BackgroundCall, close_beside
from resilient.core.call import Call
from resilient.core.callbacks import CallbackError, ask
from resilient.core.classify import IGNORED, WAITED, Verdict
from resilient.core.layer import Layer
from resilient.core.policy import PipelineContext
from resilient.errors import TimedOut, is_cut
from resilient.events import BudgetExhausted, HedgeWon, Hedging
from resilient.runtime import Parking
from resilient.runtime.asyncio import AsyncioRuntime
from resilient.runtime.timers import Entries

if TYPE_CHECKING:
    from resilient.policies.hedge import Hedge
    from resilient.policies.hedge.delay import Observed

__all__ = ["LatencySample", "Race", "goes_on", "judged", "wants_another"]

_log = logging.getLogger("resilient")


def goes_on(verdict: Verdict) -> bool:
    """Whether an outcome leaves the race open: another copy may do better. (A refused one may be sent elsewhere.)"""
    return verdict.refused or (verdict.retryable and verdict.kind != "success")


def wants_another(verdict: Verdict) -> bool:
    """Whether the next copy begins at once: unless the dependency asks to be left alone."""
    return goes_on(verdict) and not verdict.retry_after


def judged(context: PipelineContext, call: Call, accept: Callable[[Any], bool] | None, result: Any) -> Verdict:
    """The verdict on a result: also a failure when it is not accepted."""
    verdict = context.on_result(call, result)
    if accept is None or goes_on(verdict) or verdict.final or ask(accept, result):
        return verdict
    return replace(verdict, kind="failure", retryable=True)


ROUNDING = 1 - 1e-9
"""A timer of a second is over after a second, but for the rounding of sums."""


class LatencySample:
    """Measures the first copy of a call for the observed latencies.

    Attributes:
        observed: the latencies to add to; None: they are not wanted, or the copy has been recorded.
    """

    __slots__ = ("_late", "_now", "_waited", "began", "observed")

    observed: Observed | None

    def observe(self, call: Call, observed: Observed | None) -> None:
        """Begin to measure the copy for `observed`; None: do not measure it."""
        self.observed = observed
        if observed is None:
            return
        self._late = observed.delays[0]
        self._waited = call.waited
        self._now = now = call.runtime.now
        call.substituted_at = 0
        self.began = now()

    def age(self, call: Call) -> float:
        """Seconds so far, without those in local queues."""
        now, since = self._now(), getattr(call, "queued_at", None)
        return now - self.began - (call.waited - self._waited) - (0.0 if since is None else now - since)

    def answered(self, call: Call) -> None:
        """Record the latency of a copy that has succeeded."""
        observed, self.observed = self.observed, None
        if observed is not None and call.substituted_at != call.attempt:
            observed.record(self._now() - self.began - call.waited + self._waited)

    def ended(self, error: BaseException | None, verdict: Verdict, call: Call) -> None:
        """Record the latency of a copy that was not cancelled by the race, if its outcome says something about it."""
        if verdict.kind == "success":
            self.answered(call)
        elif issubclass(type(error), TimedOut):
            if verdict.kind == "failure" and self.observed is not None:
                self.observed.record(self.age(call))
        elif (error is None or issubclass(type(error), Exception)) and not (verdict.refused or verdict == WAITED):
            self.unanswered(call)
        self.observed = None

    def unanswered(self, call: Call) -> None:
        """Record a copy that is given up without an answer: its age so far counts if it is beyond the hedge delay."""
        observed, self.observed = self.observed, None
        if observed is not None and self._late is not None:
            age = self.age(call)
            if age >= self._late * ROUNDING:
                observed.record(max(age, self._late))


class Primary:
    """The outcome of a first copy that ran in the caller's own task; otherwise like a `BackgroundCall`."""

    __slots__ = ("call", "error", "pause", "result")

    number = 1

    def __init__(self, call: Call, error: BaseException | None, result: Any) -> None:
        self.call = call
        self.error = error
        self.result = result
        self.pause = 0.0

    def take(self) -> Any:
        """Return its result, or raise its error."""
        error = self.error
        if error is None:
            return self.result
        self.error = None
        try:
            raise error
        finally:
            del error  # its traceback leads to this frame

    def forget(self) -> None:
        """Let go of its outcome, which nobody takes."""
        self.result = self.error = self.call.verdict = None


Copy = BackgroundCall | Primary


class Race(LatencySample):
    """The copies of one call."""

    __slots__ = (
        "_ended",
        "_lock",
        "_over",
        "_parking",
        "_timers",
        "at",
        "attempt",
        "base",
        "begun",
        "call",
        "context",
        "context_vars",
        "deadline",
        "delays",
        "first",
        "hedge",
        "inline",
        "inner",
        "may_start",
        "running",
        "taken",
        "task",
        "winner",
    )

    inline: AsyncioRuntime | None  # while the first copy runs in the caller's task ...
    task: asyncio.Task[Any] | None  # ... this one ...
    base: int  # ... which had been cancelled so often before ...
    context_vars: contextvars.Context | None  # ... in this context ...
    deadline: float | None  # ... under this deadline
    taken: Any  # once it is over: the caller's result, to which a loser may come, too
    at: float  # when it is told that the next copy is due, while ...
    _timers: Entries | None  # ... it is one of these

    def __init__(self, hedge: Hedge, call: Call, inner: Layer, context: PipelineContext) -> None:
        self.hedge = hedge
        self.call = call
        self.attempt = call.attempt
        self.inner = inner
        self.context = context
        self.begun = 0
        self.may_start = True
        self.running: list[BackgroundCall] = []
        self.first: Copy | None = None  # of those that failed; its outcome comes back when all do
        self.winner: Copy | None = None
        observed = hedge.alike or (None if hedge.observes is None else hedge.observed(call))
        if observed is None:
            self.delays, self.observed = hedge.delays, None
        else:
            self.delays = observed.delays
            self.observe(call, observed)
        self.inline = self.task = self.context_vars = self._timers = None
        if not GIL:
            self._lock = threading.RLock()
        self._ended: list[BackgroundCall] = []
        self._over = False
        self._parking: Parking | None = None

    # -- copies -------------------------------------------------------------------------------------------------

    def start(self, reason: str) -> None:
        """Begin the next copy, if there may be one. The first is free."""
        hedge, context = self.hedge, self.context
        if self.begun:
            if hedge.stragglers.full:
                self.may_start = False
            if not self.may_start or self.begun >= hedge.copies:
                return
            now = self.call.runtime.now()
            if hedge.budget is not None and not hedge.budget.of(context.classifier.dependency(self.call)).spend(now):
                self.may_start = False
                if context.channel.wants[BudgetExhausted]:
                    context.channel.emit(BudgetExhausted(context.name, now, hedge.name, "hedge"))
                return
            hedge.started += 1
            if context.channel.wants[Hedging]:
                context.channel.emit(Hedging(context.name, now, hedge.name, self.begun + 1, reason))
        self.begun += 1
        copy = BackgroundCall(self.call, self.inner, context, hedge.stragglers, self._copy_ended, self.begun)
        if hedge.late:
            copy.sets_aside = True
        copy.call.attempt = self.attempt  # the first one may have got further, in the caller's own call ...
        if self.inline is not None:
            copy.call.deadline = self.deadline  # ... and be within a Timeout of its own
        self.running.append(copy)
        try:
            copy.run(self.task, self.context_vars)
        except Exception:  # a task factory that refuses, no more threads
            self.running.remove(copy)
            if self.begun == 1:
                raise
            self.begun -= 1
            hedge.started -= 1
            self.may_start = False
            _log.warning("resilient: %s could not begin a further copy", hedge.name, exc_info=True)

    @property
    def wait(self) -> float | None:
        """Seconds until the next copy is due, or None when none will be."""
        more = self.may_start and self.begun < self.hedge.copies
        return self.delays[self.begun - 1] if more else None

    @atomic
    def _copy_ended(self, copy: BackgroundCall) -> bool:
        """In the copy's own task or thread. Whether nobody waits for it any more."""
        if self.inline is not None:
            self._ended_while_inline(copy)
            return False
        if self._over:
            if copy.result is self.taken:
                copy.result = None
            return True
        self._ended.append(copy)
        if self._parking is not None:
            self._parking.wake()
        return False

    @atomic
    def _wait_in(self, parking: Parking) -> bool:
        """Be woken there by the next copy that ends. Whether none has ended meanwhile."""
        self._parking = parking
        return not self._ended

    @atomic
    def _stop(self) -> list[BackgroundCall]:
        """Take no more copies that end; those that have."""
        self._over = True
        ended, self._ended = self._ended, []  # they know this race
        return ended

    def drop(self, copy: Copy | None) -> None:
        """Nobody takes this copy's outcome. Close its result, if it has one, beside the caller; unless the winner, or
        the copy whose outcome comes back otherwise, has the same."""
        if copy is None:
            return
        kept = [each.result for each in (self.winner, self.first) if each is not None and each is not copy]
        if not any(copy.result is result for result in kept):
            close_beside(copy.result, self.call, self.context, self.hedge.stragglers, self.hedge.late)
        copy.forget()

    def end(self) -> None:
        """It is over: cancel the losers (or leave them to end by themselves), and do not wait for them."""
        if self.winner is not None and self.observed is not None:
            for copy in self.running:
                if copy.number == 1:
                    self.unanswered(copy.call)
        for running in self.running:
            running.leave()  # before one of them can end unheard
        self.taken = None if self.winner is None else self.winner.result
        ended = self._stop()  # in the same tick as the winner
        for copy in ended:
            copy.stay()
        losers = [copy for copy in self.running if copy not in ended]
        if self.winner is None and self.first is None and losers:
            self.call.waited = max(self.call.waited, losers[0].waited())  # its Timeout outside asks for it
        stragglers, room = self.hedge.stragglers, 0
        if self.hedge.late and self.winner is not None:
            room = max(0, stragglers.cap - stragglers.count + len(losers))  # they are counted already
        for loser in losers[room:]:
            loser.cancel()
        self.running = []
        for each in ended:
            self.drop(each)
        if self.first is not self.winner:
            first, self.first = self.first, None
            self.drop(first)

    def leaves_open(self, copy: Copy) -> bool:
        """Whether the race goes on after this copy's outcome; without further copies where it asks to be left alone."""
        error, context, accept = copy.error, self.context, self.hedge.accept
        if error is None and accept is None and not context.classifier.judges_results:
            if copy.number == 1 and self.observed is not None:
                self.answered(copy.call)
            return False
        try:
            if error is None:
                verdict = judged(context, copy.call, accept, copy.result)
            else:
                verdict = (
                    context.on_error(copy.call, error) if isinstance(error, Exception) else IGNORED
                )  # never judged
        except CallbackError as callback_error:  # the caller shall hear of it
            copy.error = callback_error
            return False
        if copy.number == 1 and self.observed is not None:
            self.ended(error, verdict, copy.call)
        copy.pause = verdict.retry_after or 0.0
        if copy.pause:
            self.may_start = False
        return goes_on(verdict)

    def failed(self, copy: Copy) -> None:
        """A copy was of no use: keep the outcome that asks for the longest pause, or else the first one's, and start
        the next copy at once."""
        if self.first is None or (-copy.pause, copy.number) < (-self.first.pause, self.first.number):
            self.first, copy = copy, self.first or copy
        if copy is not self.first:
            self.drop(copy)
        self.start("failure")

    # -- every copy beside the caller ---------------------------------------------------------------------------

    async def decide(self) -> Any:
        """Wait for the copy whose outcome counts, start further ones when they are due, and take the outcome."""
        call, runtime = self.call, self.call.runtime
        if not self.begun:
            self.start("")
        try:
            while self.winner is None:
                if self._ended:
                    copy = self._ended.pop(0)
                    self.running.remove(copy)
                    if self.leaves_open(copy):
                        self.failed(copy)
                    else:
                        self.winner = copy
                elif not self.running:
                    self.winner = self.first
                else:
                    parking = runtime.park()
                    if self._wait_in(parking) and not await parking.wait(self.wait, call, often=True):
                        self.start("delay")
        finally:
            if self.running or self._ended or self.first is not None:
                self.end()
        return self.take()

    def take(self) -> Any:
        """The result of the winner, or its error raised; and tell of a hedge that has won."""
        hedge, context, winner = self.hedge, self.context, self.winner
        assert winner is not None
        if self.begun > 1 and winner is not self.first:
            hedge.won += winner.number > 1
            if context.channel.wants[HedgeWon]:
                at = self.call.runtime.now()
                context.channel.emit(HedgeWon(context.name, at, hedge.name, winner.number, self.begun))
        self.winner = self.first = None  # they know this race, too
        return winner.take()

    # -- the first copy in the caller's task --------------------------------------------------------------------

    async def run_inline(self, runtime: AsyncioRuntime) -> Any:
        """The first copy here; further ones beside it."""
        task = asyncio.current_task(runtime.loop)
        assert task is not None
        base = self.base = task.cancelling()
        self.begun = 1
        self.inline, self.task, self.context_vars = runtime, task, contextvars.copy_context()
        self.deadline = self.call.deadline
        if self.delays[0] is not None:
            self._timers = runtime.after(self.delays[0], self)
        try:
            result = await self.inner(self.call)
        except BaseException as error:
            self._stop_inline()
            if self.winner is not None:
                cancelled_by_others = task.uncancel() > base
                if not cancelled_by_others and is_cut(error, asyncio.CancelledError):
                    self.end()
                    return self.take()  # it was cancelled for the winner
                if cancelled_by_others and isinstance(error, Exception):
                    self._end_without_winner()
                    raise asyncio.CancelledError from error  # the clean-up's failure does not hide it
            if not isinstance(error, Exception) or task.cancelling() > base:  # its caller has left: no further copies
                self._end_without_winner()
                raise
            primary = Primary(self.call, error, None)
        else:
            self._stop_inline()
            if self.winner is not None:
                task.uncancel()  # the callee swallowed the cancel and has a result all the same
            elif self.begun == 1 and not self.context.classifier.judges_results and self.hedge.accept is None:
                if self.observed is not None:
                    self.answered(self.call)
                return result
            primary = Primary(self.call, None, result)
        if not self.leaves_open(primary):
            beaten, self.winner = self.winner, primary
            self.drop(beaten)  # both in one tick
        elif self.winner is not None:
            self.drop(primary)  # it answered the cancellation with a failure
        else:
            self.failed(primary)
            return await self.decide()
        self.end()
        return self.take()

    def fire(self) -> None:
        """The next copy is due."""
        self._begin("delay")

    def _begin(self, reason: str) -> None:
        """Begin the next copy while the first one runs."""
        if self.winner is not None or self.inline is None:
            return
        self._forget_timer()
        self.start(reason)
        wait = self.wait
        if wait is not None:
            self._timers = self.inline.after(wait, self)

    def _forget_timer(self) -> None:
        if self._timers is not None:
            self._timers.pop(self, None)
            self._timers = None

    def _ended_while_inline(self, copy: BackgroundCall) -> None:
        self.running.remove(copy)
        if self.leaves_open(copy):
            self.drop(copy)
            self._begin("failure")
        elif self.winner is None and self.task is not None and self.task.cancelling() <= self.base:
            self.winner = copy
            self.unanswered(self.call)
            self.task.cancel()  # not when others have done so: a second one would cut its clean-up short
        else:
            self.drop(copy)

    def _stop_inline(self) -> None:
        """From now on copies that end wait to be looked at."""
        self.inline = self.task = self.context_vars = None
        self._forget_timer()

    def _end_without_winner(self) -> None:
        self.drop(self.winner)
        self.winner = None
        self.end()
