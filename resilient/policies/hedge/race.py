"""The race of a hedged call's copies: which run, when the next one starts, and whose outcome counts.

    copy      on                                                     to        remark
    due       its delay is over, or a copy before it failed          running   the first copy starts at once
    due       no budget, no room, or a failure asks for a pause      never     the race goes on without further copies
    running   returns an acceptable result, or its failure is final  won       the race is over
    running   fails, is refused, or its result is not acceptable     failed    the next copy starts at once
    running   another copy won, or the caller was cancelled          lost      cancelled, or left to end by itself
    failed    all failed, and this one asks for the longest pause    won       where none asks: the first copy
    failed    all failed, and another one wins; or a copy won        dropped   its result is closed
    lost      ends                                                   dropped   its result is closed

A failure is final where repeating cannot change it: it is fatal, it says nothing about the dependency, it is a
`BaseException` that is no `Exception`, or an error of a user's callback. There is no room while `max_stragglers` losers
are still ending. A lost copy is a straggler until it has ended; nothing waits for it.

A `Race` runs each copy as a background call; `resilient.policies.hedge.inline` runs the first one in the caller's task.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from resilient._atomic import GIL, atomic
from resilient.core import history
from resilient.core.background import BackgroundCall, Stragglers, close_in_background
from resilient.core.budget import Budget
from resilient.core.call import Call
from resilient.core.callbacks import CallbackError, ask
from resilient.core.classify import IGNORED, Verdict
from resilient.core.context import PipelineContext
from resilient.core.layer import Layer
from resilient.events import BudgetExhausted, HedgeWon, Hedging
from resilient.policies.hedge.delay import Delays, Observed
from resilient.policies.hedge.latency_sample import LatencySample
from resilient.runtime import Parking

__all__ = ["Copy", "Counts", "Race", "Settings", "judged", "wants_another"]

_log = logging.getLogger("resilient")


@dataclass(slots=True)
class Counts:
    """Counters of all races of a Hedge: further copies `started`, how many of those have `won`, and how many
    `would_have_started` in shadow mode."""

    started: int = 0
    won: int = 0
    would_have_started: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a Hedge that its races read.

    Attributes:
        name: of the Hedge, for events.
        copies: calls at the most, the first one included.
        delays: of further copies, where no latencies are observed.
        accept: called with each result that is not classified as a failure; None: all of these are acceptable.
        late: whether losers are left to end by themselves (`cancel="late"`).
        budget: pays for further copies; None: they cost nothing.
        stragglers: the losers of all races that are still ending.
        counts: shared by all races.
    """

    name: str
    copies: int
    delays: Delays
    accept: Callable[[Any], bool] | None
    late: bool
    budget: Budget | None
    stragglers: Stragglers
    counts: Counts = field(default_factory=Counts)


def leaves_race_open(verdict: Verdict) -> bool:
    """Whether an outcome leaves the race open: another copy may do better. (A refused one may be sent elsewhere.)"""
    return verdict.refused or verdict.worth_repeating


def wants_another(verdict: Verdict) -> bool:
    """Whether an outcome starts the next copy at once: it leaves the race open and does not ask for a pause."""
    return leaves_race_open(verdict) and not verdict.retry_after


def judged(context: PipelineContext, call: Call, accept: Callable[[Any], bool] | None, result: Any) -> Verdict:
    """The verdict on a result: the classifier's, but a failure worth repeating where `accept` refuses a good result.

    Raises a `CallbackError` where the classifier or `accept` raises.
    """
    verdict = context.on_result(call, result)
    if accept is None or leaves_race_open(verdict) or verdict.final or ask(accept, result):
        return verdict
    return replace(verdict, kind="failure", retryable=True)


class Copy(Protocol):
    """A copy that has ended: a `BackgroundCall`, or the first copy of an inline hedge.

    Attributes:
        number: the place of this copy among the copies of the call, from 1.
        error, result: its outcome; the result counts where the error is None.
        pause: seconds that its failure asks for, else 0.
    """

    number: int
    error: BaseException | None
    result: Any
    pause: float

    @property
    def call(self) -> Call:
        """The `Call` that this copy works on."""
        ...

    def take(self) -> Any:
        """Return the result of this copy, or raise its error, as the outcome of the hedged call."""

    def forget(self) -> None:
        """Drop the references to the outcome of this copy."""


class Race(LatencySample):
    """The copies of one call.

    Args:
        settings: of the Hedge.
        call: the hedged call. Each copy works on a fork of it.
        inner: the layer that each copy runs.
        context: of the pipeline.
        observed: the latencies of calls like this one, which give the delays; None: the delays are fixed.

    Attributes:
        begun: how many copies have started.
        may_start: whether further copies may start.
        running: copies that have started and whose end has not been processed.
        kept: of the failed copies, the one whose outcome the caller gets if all fail.
        winner: the copy whose outcome counts.
        taken: once the race is over, the result of the winner: a loser may have the same object, which stays open.
    """

    __slots__ = (
        "_ended",
        "_lock",
        "_over",
        "_parking",
        "attempt",
        "begun",
        "call",
        "context",
        "delays",
        "inner",
        "kept",
        "may_start",
        "running",
        "settings",
        "taken",
        "winner",
    )

    taken: Any

    def __init__(
        self, settings: Settings, call: Call, inner: Layer, context: PipelineContext, observed: Observed | None
    ) -> None:
        self.settings = settings
        self.call = call
        self.attempt = call.attempt
        self.inner = inner
        self.context = context
        self.begun = 0
        self.may_start = True
        self.running: list[BackgroundCall] = []
        self.kept: Copy | None = None
        self.winner: Copy | None = None
        if observed is None:
            self.delays, self.observed = settings.delays, None
        else:
            self.delays = observed.delays
            self.observe(call, observed)
        if not GIL:
            self._lock = threading.RLock()
        self._ended: list[BackgroundCall] = []
        self._over = False
        self._parking: Parking | None = None

    # -- copies -------------------------------------------------------------------------------------------------

    def start(self, reason: str) -> None:
        """Start the next copy, if there may be one. The first needs no budget, and no room among the stragglers.

        Args:
            reason: for the event `Hedging`: "delay" or "failure".
        """
        settings, context = self.settings, self.context
        if self.begun:
            if settings.stragglers.full:
                self.may_start = False
            if not self.may_start or self.begun >= settings.copies:
                return
            now = self.call.runtime.now()
            budget = settings.budget
            if budget is not None and not budget.of(context.call_options.dependency(self.call)).spend(now):
                self.may_start = False
                context.counters.count("budget.exhausted", settings.name, "hedge")
                if context.channel.wants[BudgetExhausted]:
                    context.channel.emit(BudgetExhausted(context.name, now, settings.name, "hedge"))
                return
            settings.counts.started += 1
            history.copy_started(self.call, self.begun + 1, reason)
            if context.channel.wants[Hedging]:
                context.channel.emit(Hedging(context.name, now, settings.name, self.begun + 1, reason))
        self.begun += 1
        copy = BackgroundCall(self.call, self.inner, context, settings.stragglers, self._copy_ended, self.begun)
        if settings.late:
            copy.sets_aside = True
        copy.call.attempt = self.attempt  # an inline first copy may have counted further, in the same call
        self.running.append(copy)
        try:
            self.run_copy(copy)
        except Exception:  # a task factory that refuses, no more threads
            self.running.remove(copy)
            if self.begun == 1:
                raise
            self.begun -= 1
            settings.counts.started -= 1
            self.may_start = False
            _log.warning("resilient: %s could not begin a further copy", settings.name, exc_info=True)
        else:
            if self.begun > 1:
                context.counters.count("hedges", settings.name, reason)

    def run_copy(self, copy: BackgroundCall) -> None:
        """Run a copy in the background, in a context of its own."""
        copy.run()

    @property
    def wait(self) -> float | None:
        """Seconds until the next copy is due, or None when none will be."""
        more = self.may_start and self.begun < self.settings.copies
        return self.delays[self.begun - 1] if more else None

    @atomic
    def _copy_ended(self, copy: BackgroundCall) -> bool:
        """Add `copy`, which has ended, to the race; called in the copy's task or thread. Returns whether the race is
        already over: then the copy closes its result itself."""
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
        """Have `parking` woken by the next copy that ends. Returns False if one has ended meanwhile."""
        self._parking = parking
        return not self._ended

    @atomic
    def _stop(self) -> list[BackgroundCall]:
        """Take in no more copies; return those that have ended and have not been looked at."""
        self._over = True
        ended, self._ended = self._ended, []  # no reference to them stays: they have one to this race
        return ended

    def drop(self, copy: Copy | None) -> None:
        """Close the result of a copy in the background, unless the winner or `kept` has the same object, and drop the
        references to its outcome. Does nothing for None."""
        if copy is None:
            return
        taken = [each.result for each in (self.winner, self.kept) if each is not None and each is not copy]
        if not any(copy.result is result for result in taken):
            close_in_background(copy.result, self.call, self.context, self.settings.stragglers, self.settings.late)
        copy.forget()

    def end(self) -> None:
        """End the race: cancel the losers, or leave them to end by themselves, without waiting for them; close the
        results that are not taken."""
        if self.winner is not None and self.observed is not None:
            for copy in self.running:
                if copy.number == 1:
                    self.unanswered(copy.call)
        for running in self.running:
            running.leave()  # before it can end: else its result would not be closed
        self.taken = None if self.winner is None else self.winner.result
        ended = self._stop()  # in the same tick as the winner
        for copy in ended:
            copy.stay()
        losers = [copy for copy in self.running if copy not in ended]
        if self.winner is None and self.kept is None and losers:
            self.call.waited = max(self.call.waited, losers[0].waited())  # for a Timeout outside
        stragglers, room = self.settings.stragglers, 0
        if self.settings.late and self.winner is not None:
            room = max(0, stragglers.cap - stragglers.count + len(losers))  # they are counted already
        for loser in losers[room:]:
            loser.cancel()
        self.running = []
        for each in ended:
            self.drop(each)
        if self.kept is not self.winner:
            failed, self.kept = self.kept, None
            self.drop(failed)

    def leaves_open(self, copy: Copy) -> bool:
        """Judge the outcome of a copy. Returns whether the race goes on; without further copies if it asks for a
        pause."""
        error, context, accept = copy.error, self.context, self.settings.accept
        if error is None and accept is None and not context.classifier.judges_results:
            if copy.number == 1 and self.observed is not None:
                self.answered(copy.call)
            return False
        try:
            if error is None:
                verdict = judged(context, copy.call, accept, copy.result)
            elif isinstance(error, Exception):
                verdict = context.on_error(copy.call, error)
            else:
                verdict = IGNORED  # a BaseException is never judged
        except CallbackError as callback_error:  # it is raised to the caller
            copy.error = callback_error
            return False
        if copy.number == 1 and self.observed is not None:
            self.ended(error, verdict, copy.call)
        if error is not None or verdict.kind == "failure":
            history.copy_failed(self.call, copy.number, error, copy.result, verdict.retry_after)
        copy.pause = verdict.retry_after or 0.0
        if copy.pause:
            self.may_start = False
        return leaves_race_open(verdict)

    def failed(self, copy: Copy) -> None:
        """Keep the outcome of a failed copy if it comes before the one that is kept: it asks for a longer pause, or for
        the same one with a lower number. Start the next copy at once."""
        if self.kept is None or (-copy.pause, copy.number) < (-self.kept.pause, self.kept.number):
            self.kept, copy = copy, self.kept or copy
        if copy is not self.kept:
            self.drop(copy)
        self.start("failure")

    # -- in the caller's task or thread --------------------------------------------------------------------------

    async def decide(self) -> Any:
        """Start the copies when they are due, and wait for one whose outcome counts. Returns its result, or raises its
        error."""
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
                    self.winner = self.kept
                else:
                    parking = runtime.park()
                    if self._wait_in(parking) and not await parking.wait(self.wait, call, often=True):
                        self.start("delay")
        finally:
            if self.running or self._ended or self.kept is not None:
                self.end()
        return self.take()

    def take(self) -> Any:
        """Return the result of the winner, or raise its error. Counts and reports a further copy that has won."""
        settings, context, winner = self.settings, self.context, self.winner
        assert winner is not None
        if self.begun > 1 and winner is not self.kept:
            if winner.number > 1:
                settings.counts.won += 1
                context.counters.count("hedges.won", settings.name)
            if context.channel.wants[HedgeWon]:
                at = self.call.runtime.now()
                context.channel.emit(HedgeWon(context.name, at, settings.name, winner.number, self.begun))
        self.winner = self.kept = None  # they have references to this race
        if self.begun == 1:
            return winner.take()
        result = winner.take()
        history.copy_won(self.call, winner.number)
        history.publish(self.call, context, result)
        return result
