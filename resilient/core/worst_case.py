"""The worst case of a pipeline, computed before it runs: the terms in which each policy says what a call costs at
worst.

`Policy.worst` gets the surroundings of the policy, such as the time that the deadlines around it leave, and the cost of
the policies inside it. It returns a `WorstCase`, with each quantity as two figures. `sure` can happen: some dependency,
and some traffic of others, makes it happen. More than `most` cannot happen. Where both are equal the worst case is
exactly known; elsewhere it is bounded. `resilient.explain` puts the policies of a pipeline together.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from resilient.core.classify import DEFAULT, Classifier, Verdict
from resilient.core.lifecycle import PLAIN_RESULTS, ResultLifecycle
from resilient.core.stop import AnyOf, Before, RunEnd, Stop

__all__ = [
    "MANY",
    "NOTHING",
    "Bound",
    "Discard",
    "Ending",
    "InnerCost",
    "Pause",
    "Pauses",
    "Reaction",
    "Surroundings",
    "WorstCase",
    "latest_begin",
    "sequential",
    "share",
]

TIE = 1e-9
"""A relative tolerance: whether a pause that ends exactly at the deadline ends before it is a matter of rounding."""

MANY = 1000
"""The most pauses that are added up one by one. Later ones all count as long as this one, or as the very last one if
that is longer."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The worst case of a quantity: `sure` can happen, more than `most` cannot."""

    sure: float
    most: float

    @property
    def exact(self) -> bool:
        """Whether both figures are equal, so that the worst case is exactly known."""
        return self.sure == self.most or math.isclose(self.sure, self.most, rel_tol=1e-9, abs_tol=1e-9)

    def times(self, sure: float, most: float) -> Bound:
        """Return the bound on a sum of `sure` to `most` such values."""
        return Bound(_times(self.sure, sure), _times(self.most, most))

    def up_to(self, limit: float) -> Bound:
        """Return the bound on a quantity that is cut off at `limit`."""
        return Bound(min(self.sure, limit), min(self.most, limit))


def share(amount: float, parts: float) -> float:
    """Return how many whole times `parts` fits into `amount`."""
    return math.inf if math.isinf(amount) else amount // parts


def _times(amount: float, times: float) -> float:
    return amount * times if amount and times else 0.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The surroundings of a policy in its pipeline, as far as the policy's cost depends on them.

    Attributes:
        within: seconds until the nearest deadline; infinite without one.
        is_async: whether the function is an `async def`: a plain one cannot be stopped.
        repeated: whether the call is part of another guarded call that repeats it.
        once: whether the policies repeat nothing in that case.
        again: whether the run may find state that earlier runs or other calls have changed: it may be a later run of a
            call, or begin after a wait.
        pressed: whether the number of runs depends on how long they take.
        classifier, lifecycle: of the pipeline.
    """

    within: float = math.inf
    is_async: bool = True
    repeated: bool = False
    once: bool = False
    again: bool = False
    pressed: bool = False
    classifier: Classifier = DEFAULT
    lifecycle: ResultLifecycle = PLAIN_RESULTS

    def sooner(self, seconds: float) -> Surroundings:
        """Return these surroundings with a deadline in `seconds`, if no deadline is nearer."""
        return replace(self, within=min(self.within, seconds))

    def after(self, seconds: float) -> Surroundings:
        """Return the surroundings of the same call `seconds` later: the deadline is nearer by `seconds`."""
        return replace(self, within=max(0.0, self.within - seconds))


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most that a policy and all that is inside it cost one call.

    Attributes:
        seconds: how long it takes.
        attempts: how many attempts there are; copies that run at the same time count as one.
        requests: how often the function is called.
        why: a text about the seconds: where they come from.
        quick: seconds in which the requests that are `sure` can be made.
        max_failing_runs: consecutive failing runs of one call that the inner gates are certain to admit.
        at_once: concurrent runs of one call that the inner gates are certain to admit.
        fails: whether it can end in a failure that is worth repeating.
        asks: whether it can take its longest time, and then end in a failure that asks for a pause.
        smooth: whether it can take any time up to its longest.
    """

    seconds: Bound
    attempts: Bound = Bound(1, 1)
    requests: Bound = Bound(1, 1)
    why: str = ""
    quick: float = 0.0
    max_failing_runs: float = math.inf
    at_once: float = math.inf
    fails: bool = True
    asks: bool = True
    smooth: bool = True


InnerCost = Callable[[Surroundings], WorstCase]
"""`inner(surroundings)` returns the worst case of all that is inside a policy, in the surroundings that the policy
makes for it."""


# -- runs that follow each other ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds between two runs, from `least` to `most`. Up to `sure` can really happen, and up to `asked` more where
    the failure asks for a pause."""

    least: float
    sure: float
    most: float
    asked: float = 0.0

    def longest(self, asks: bool) -> float:
        """Return the longest pause that can really happen. `asks`: the dependency may ask for one."""
        return self.sure + (self.asked if asks else 0.0)


Pauses = Callable[[int], Pause]
"""Returns the pause after a run, by the number of the run, from 1."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Seconds that a caller waits for each result that a later run replaces.

    Attributes:
        aside: before the next run. closing: after it.
        asks: whether such a result may ask for a pause, too.
    """

    aside: float = 0.0
    closing: float = 0.0
    asks: bool = True

    def after(self, run: int) -> float:
        """Return the seconds between the end of run number `run`, from 1, and the begin of the next."""
        return self.aside + (self.closing if run > 1 else 0.0)


NOTHING = Discard()


def sequential(
    inner: InnerCost,
    around: Surroundings,
    stop: Stop,
    pauses: Pauses,
    why: Callable[[float, float], str],
    discard: Discard = NOTHING,
) -> WorstCase:
    """Return the worst case of runs that follow each other, until `stop` ends them, or the pause before a run would
    outlive the deadline.

    `why(runs, latest)` returns the text about the seconds, for the number of runs that can begin, and the latest begin
    of the last.
    """
    around = replace(around, again=True, pressed=around.pressed or stop.timed)
    one = inner(around)
    plan = _Plan(AnyOf((stop, Before(around.within))), pauses, discard)
    most, latest = plan.begins(one.seconds.most, sure=False)
    sure, _ = plan.begins(0.0, sure=True)
    sure = min(sure, max(1.0, one.max_failing_runs) if one.fails else 1.0)
    attempts, requests, quick = _hasty(inner, around, sure, plan)
    longest = latest + one.seconds.most + plan.end(most)
    ways = [_longest(inner, around, sure, plan, asks=one.asks and discard.asks)]
    if one.asks and not discard.asks:
        ways.append(_longest(inner, around, sure, replace(plan, discard=NOTHING), asks=True))
    return WorstCase(
        Bound(min(max(ways), longest, around.within if around.is_async else math.inf), longest),
        Bound(attempts, _times(one.attempts.most, most)),
        Bound(requests, _times(one.requests.most, most)),
        one.why if math.isinf(one.seconds.most) else why(most, latest),
        quick=quick,
        max_failing_runs=share(one.max_failing_runs, sure),
        at_once=one.at_once,
        fails=one.fails,
        smooth=one.smooth and not any(pauses(run).least for run in range(1, int(min(sure, MANY)))),
    )


def latest_begin(stop: Stop, pauses: Pauses, seconds: float) -> float:
    """Return when the last of these runs begins at the latest, if each takes up to `seconds`."""
    return _Plan(stop, pauses, NOTHING).begins(seconds, sure=False)[1]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Runs with pauses between them, until a stop condition ends them."""

    stop: Stop
    pauses: Pauses
    discard: Discard

    def goes_on(self, run: int, earliest: float, latest: float, *, sure: bool, asks: bool = True) -> float:
        """Return the latest begin of the run after number `run`, which ended between `earliest` and `latest`; negative:
        no run follows."""
        pause = self.pauses(run)
        most = pause.longest(asks) if sure else pause.most
        slack = 1 - TIE if sure else 1 + TIE
        return self.stop.latest(RunEnd(run, earliest, latest, pause.least, most, sure, slack)) + self.discard.after(run)

    def end(self, runs: float) -> float:
        """Return the seconds that the caller waits after the last of `runs` runs."""
        return self.discard.closing if runs > 1 else 0.0

    def begins(
        self, seconds: float, *, sure: bool, asks: bool = True, runs: float = math.inf, quick: float = 0.0
    ) -> tuple[float, float]:
        """Return how many runs can begin, and when the last begins at the latest, if each takes from `quick` to
        `seconds`."""
        run, earliest, latest, last = 1, 0.0, 0.0, 0.0
        while run < runs:
            begin = self.goes_on(run, earliest + quick, latest + seconds, sure=sure, asks=asks)
            if begin < 0:
                break
            earliest += quick + self.pauses(run).least
            run, latest, last = run + 1, begin, max(last, begin)
            if run > MANY:
                return self._many(run, min(runs, self.stop.runs), earliest, last, seconds, sure, asks)
        return run, last

    def _many(
        self, run: int, runs: float, earliest: float, last: float, seconds: float, sure: bool, asks: bool
    ) -> tuple[float, float]:
        """Return what `begins` returns, from run number `MANY` on, without a pass over single runs."""
        pause, horizon, discarding = self.pauses(MANY), self.stop.horizon, self.discard.after(MANY)
        if math.isfinite(horizon):
            runs = min(runs, run + max(0.0, horizon - earliest) // pause.least if pause.least else math.inf)
        most = pause.longest(asks) if sure else max(pause.most, self.pauses(int(min(runs, sys.maxsize))).most)
        if math.isinf(horizon):
            late = last + _times(seconds + most + discarding, runs - run)
        else:
            late = last if sure else max(last, horizon + most + discarding)
        if sure and self.goes_on(int(min(runs, sys.maxsize)) - 1, earliest, earliest, sure=True) < 0:
            return run, last  # something ends it before
        return runs, late


def _hasty(inner: InnerCost, around: Surroundings, runs: float, plan: _Plan) -> tuple[float, float, float]:
    """Return the attempts and requests of `runs` runs that fail as soon as they can, and the seconds that these
    take."""
    begin = attempts = requests = end = 0.0
    run = 0
    while run < runs:
        run += 1
        worst = inner(around.after(begin))
        attempts += worst.attempts.sure
        requests += worst.requests.sure
        end = begin + worst.quick
        begin = end + plan.pauses(run).least
        if plan.goes_on(run, end, end, sure=True) < 0:
            break
        if run == MANY:
            return _times(attempts / run, runs), _times(requests / run, runs), _times(end / run, runs)
    return attempts, requests, end


def _longest(inner: InnerCost, around: Surroundings, runs: float, plan: _Plan, *, asks: bool) -> float:
    """Return the longest duration of several ways to fail, each of which can happen within the limits."""
    one = inner(around)
    longest, quick = one.seconds.sure, one.quick
    if math.isinf(longest) or runs == 1:
        return longest
    # All runs but the last fail as soon as they can, after the longest pauses that end in time.
    begins = [plan.begins(quick, sure=True, asks=asks, runs=runs, quick=quick)]
    # All of them take as long as they can, or as is left to them.
    if one.smooth and (math.isinf(around.within) or inner(around.sooner(longest)).seconds.sure >= longest):
        begins.append(plan.begins(longest, sure=True, asks=asks, runs=runs, quick=quick))
    ways = [begin + inner(around.after(begin)).seconds.sure + plan.end(run) for run, begin in begins]
    return max(*ways, _greedy(inner, around, runs, plan, asks=asks))


def _greedy(inner: InnerCost, around: Surroundings, runs: float, plan: _Plan, *, asks: bool) -> float:
    """Return the duration if each run takes its longest, and each pause, too, unless that would outlive a limit."""
    begin, run = 0.0, 1
    while True:
        worst = inner(around.after(begin))
        end = begin + worst.seconds.sure
        following = -1.0
        if run < min(runs, MANY):
            following = plan.goes_on(run, end, end, sure=True, asks=asks and worst.asks)
        if following < 0:
            return end + plan.end(run)
        begin, run = following, run + 1


# -- what policies do with outcomes of inner policies ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run inside a policy.

    Attributes:
        error: the error that it raised; None: it returned a result.
        verdict: the verdict of the pipeline; None for an outcome without one, as a cancellation.
    """

    error: BaseException | None
    verdict: Verdict | None

    @property
    def failed(self) -> bool:
        """Whether the verdict is a failure of the dependency."""
        return self.verdict is not None and self.verdict.kind == "failure"

    @property
    def worth_repeating(self) -> bool:
        """Whether the verdict says that another attempt can end better."""
        return self.verdict is not None and self.verdict.worth_repeating


@dataclass(frozen=True, slots=True)
class Reaction:
    """The reaction of a policy to an outcome of an inner policy.

    Attributes:
        does: a text about what the policy does.
        stops: whether the outcome goes no further, to outer policies.
    """

    does: str
    stops: bool = False
