"""What can be told of a pipeline before it runs: the words in which each policy says what a call meets at worst.

A policy is asked from the outside inward (`Policy.worst`): how much time the deadlines around it leave goes in, and
what the rest costs at worst comes back, each quantity as two figures. `sure` can happen: there is a dependency, and
traffic of others, that brings it about. More than `most` cannot. Where they are equal the worst case is exactly known;
elsewhere it is a bound. `resilient.lab.explain` puts it all together.
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
"""Whether a pause that ends at the very deadline ends before it is a matter of rounding."""

MANY = 1000
"""Pauses that are added up one by one; from then on all count as the last of them, or that one, if it is longer."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The worst case of a quantity: `sure` can happen, more than `most` cannot."""

    sure: float
    most: float

    @property
    def exact(self) -> bool:
        """Whether the worst case is known."""
        return self.sure == self.most or math.isclose(self.sure, self.most, rel_tol=1e-9, abs_tol=1e-9)

    def times(self, sure: float, most: float) -> Bound:
        """The bound on a sum of `sure` to `most` such values."""
        return Bound(_times(self.sure, sure), _times(self.most, most))

    def up_to(self, limit: float) -> Bound:
        """The bound on what is ended at a limit."""
        return Bound(min(self.sure, limit), min(self.most, limit))


def share(amount: float, parts: float) -> float:
    """How often `parts` go into `amount`."""
    return math.inf if math.isinf(amount) else amount // parts


def _times(amount: float, times: float) -> float:
    return amount * times if amount and times else 0.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a layer sees of what is around it.

    Attributes:
        within: seconds until the nearest deadline; infinite without one.
        is_async: whether the function is an `async def`: a plain one cannot be stopped.
        repeated: whether the call is part of another guarded call that repeats it.
        once: whether nothing is to be repeated then.
        again: whether others cannot have prepared for it: it may be one of several runs of a call, or has waited.
        pressed: whether it is repeated only as long as its runs take little time.
        classifier, lifecycle: of the layer's pipeline.
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
        """With a deadline in so many seconds, if there is none that is nearer."""
        return replace(self, within=min(self.within, seconds))

    def after(self, seconds: float) -> Surroundings:
        """The same call when so many seconds have passed: its deadline is that much nearer."""
        return replace(self, within=max(0.0, self.within - seconds))


@dataclass(frozen=True, slots=True)
class WorstCase:
    """What a layer and all that is inside it cost one call at worst.

    Attributes:
        seconds: how long it takes.
        attempts: how often it is tried, copies that run at the same time not counted.
        requests: how often the function is called.
        why: where the seconds come from.
        quick: seconds in which the requests that are `sure` can be made.
        allowed: failing runs of one call, one after the other, that nothing inside is sure to let pass more of.
        at_once: runs of one call at a time that find room inside.
        fails: whether it can end in a failure that is worth repeating.
        asks: whether it can take its longest and end in a failure that asks for a pause.
        smooth: whether it can take any time up to that.
    """

    seconds: Bound
    attempts: Bound = Bound(1, 1)
    requests: Bound = Bound(1, 1)
    why: str = ""
    quick: float = 0.0
    allowed: float = math.inf
    at_once: float = math.inf
    fails: bool = True
    asks: bool = True
    smooth: bool = True


InnerCost = Callable[[Surroundings], WorstCase]
"""The rest of a pipeline, seen from one of its policies."""


# -- runs that follow each other ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds between two runs: never less than `least` nor more than `most`; up to `sure` can happen, and up to
    `asked` more where the failure asks for it."""

    least: float
    sure: float
    most: float
    asked: float = 0.0

    def longest(self, asks: bool) -> float:
        """The longest pause that can really happen; `asks`: the dependency may ask for one."""
        return self.sure + (self.asked if asks else 0.0)


Pauses = Callable[[int], Pause]
"""The pause after run number so many, from 1."""


@dataclass(frozen=True, slots=True)
class Discard:
    """What a caller waits for each result that is superseded by a later run.

    Attributes:
        aside: seconds before the next run. closing: seconds after it.
        asks: whether such a result may ask for a pause as well.
    """

    aside: float = 0.0
    closing: float = 0.0
    asks: bool = True

    def after(self, run: int) -> float:
        """Seconds between the end of run number so many, from 1, and the begin of the next."""
        return self.aside + (self.closing if run > 1 else 0.0)


NOTHING = Discard()


def sequential(
    inner: InnerCost,
    view: Surroundings,
    stop: Stop,
    pauses: Pauses,
    why: Callable[[float, float], str],
    discard: Discard = NOTHING,
) -> WorstCase:
    """Runs that follow each other until `stop` ends them, or the pause before a run would outlive the deadline.

    `why`: where the seconds come from, by the number of runs that can begin, and when the last one does at the latest.
    """
    view = replace(view, again=True, pressed=view.pressed or stop.timed)
    one = inner(view)
    plan = _Plan(AnyOf((stop, Before(view.within))), pauses, discard)
    most, latest = plan.begins(one.seconds.most, sure=False)
    sure, _ = plan.begins(0.0, sure=True)
    sure = min(sure, max(1.0, one.allowed) if one.fails else 1.0)
    attempts, requests, quick = _hasty(inner, view, sure, plan)
    longest = latest + one.seconds.most + plan.end(most)
    ways = [_longest(inner, view, sure, plan, asks=one.asks and discard.asks)]
    if one.asks and not discard.asks:
        ways.append(_longest(inner, view, sure, replace(plan, discard=NOTHING), asks=True))
    return WorstCase(
        Bound(min(max(ways), longest, view.within if view.is_async else math.inf), longest),
        Bound(attempts, _times(one.attempts.most, most)),
        Bound(requests, _times(one.requests.most, most)),
        one.why if math.isinf(one.seconds.most) else why(most, latest),
        quick=quick,
        allowed=share(one.allowed, sure),
        at_once=one.at_once,
        fails=one.fails,
        smooth=one.smooth and not any(pauses(run).least for run in range(1, int(min(sure, MANY)))),
    )


def latest_begin(stop: Stop, pauses: Pauses, seconds: float) -> float:
    """When the last of these runs begins at the latest, if each takes up to so many seconds."""
    return _Plan(stop, pauses, NOTHING).begins(seconds, sure=False)[1]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Runs with pauses between them, until something ends them."""

    stop: Stop
    pauses: Pauses
    discard: Discard

    def goes_on(self, run: int, earliest: float, latest: float, *, sure: bool, asks: bool = True) -> float:
        """When the run after one that ended between two moments can begin at the latest; negative: none can."""
        pause = self.pauses(run)
        most = pause.longest(asks) if sure else pause.most
        slack = 1 - TIE if sure else 1 + TIE
        return self.stop.latest(RunEnd(run, earliest, latest, pause.least, most, sure, slack)) + self.discard.after(run)

    def end(self, runs: float) -> float:
        """Seconds after the last of so many runs."""
        return self.discard.closing if runs > 1 else 0.0

    def begins(
        self, seconds: float, *, sure: bool, asks: bool = True, runs: float = math.inf, quick: float = 0.0
    ) -> tuple[float, float]:
        """How many runs can begin, and when the last of them does at the latest, if each takes from `quick` up to
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
        """What `begins` returns, from run number `MANY` on, without going through them one by one."""
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


def _hasty(inner: InnerCost, view: Surroundings, runs: float, plan: _Plan) -> tuple[float, float, float]:
    """Attempts and requests of `runs` runs that fail as soon as they can, and the seconds that takes."""
    begin = attempts = requests = end = 0.0
    run = 0
    while run < runs:
        run += 1
        worst = inner(view.after(begin))
        attempts += worst.attempts.sure
        requests += worst.requests.sure
        end = begin + worst.quick
        begin = end + plan.pauses(run).least
        if plan.goes_on(run, end, end, sure=True) < 0:
            break
        if run == MANY:
            return _times(attempts / run, runs), _times(requests / run, runs), _times(end / run, runs)
    return attempts, requests, end


def _longest(inner: InnerCost, view: Surroundings, runs: float, plan: _Plan, *, asks: bool) -> float:
    """The longest of some ways to fail, each of which can happen, under limits too."""
    one = inner(view)
    longest, quick = one.seconds.sure, one.quick
    if math.isinf(longest) or runs == 1:
        return longest
    # All runs but the last fail as soon as they can, after the longest pauses that end in time.
    begins = [plan.begins(quick, sure=True, asks=asks, runs=runs, quick=quick)]
    # All of them take as long as they can, or as is left to them.
    if one.smooth and (math.isinf(view.within) or inner(view.sooner(longest)).seconds.sure >= longest):
        begins.append(plan.begins(longest, sure=True, asks=asks, runs=runs, quick=quick))
    ways = [begin + inner(view.after(begin)).seconds.sure + plan.end(run) for run, begin in begins]
    return max(*ways, _greedy(inner, view, runs, plan, asks=asks))


def _greedy(inner: InnerCost, view: Surroundings, runs: float, plan: _Plan, *, asks: bool) -> float:
    """Each run takes its longest, and each pause too, unless that would outlive a limit."""
    begin, run = 0.0, 1
    while True:
        worst = inner(view.after(begin))
        end = begin + worst.seconds.sure
        following = -1.0
        if run < min(runs, MANY):
            following = plan.goes_on(run, end, end, sure=True, asks=asks and worst.asks)
        if following < 0:
            return end + plan.end(run)
        begin, run = following, run + 1


# -- what outcomes meet on their way outward ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ending:
    """How something inside a policy ended.

    Attributes:
        error: what it raised; None: it returned a result.
        verdict: of the pipeline on it; None for what is never judged, as a cancellation.
    """

    error: BaseException | None
    verdict: Verdict | None

    @property
    def failed(self) -> bool:
        """Whether it says that the dependency has failed."""
        return self.verdict is not None and self.verdict.kind == "failure"

    @property
    def worth_repeating(self) -> bool:
        """Whether another try may end better."""
        return self.verdict is not None and self.verdict.worth_repeating


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a policy does with an end that comes out of what is inside it.

    Attributes:
        does: in words.
        stops: whether nobody outside hears of it.
    """

    does: str
    stops: bool = False
