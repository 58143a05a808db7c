"""What can be told of a pipeline before it runs: the words in which each policy says what a call meets at worst.

A policy is asked from the outside inward (`Policy.worst`): how much time the deadlines around it leave goes in, and
what the rest costs at worst comes back, each quantity as two figures. `sure` can happen: there is a dependency, and
traffic of others, that brings it about. More than `most` cannot. Where they are equal the worst case is exactly known;
elsewhere it is a bound. `resilient.lab.explain` puts it all together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from resilient.outcome import Verdict

if TYPE_CHECKING:
    from resilient.policy import Policy

__all__ = [
    "MANY",
    "Bound",
    "End",
    "Inside",
    "Level",
    "Meeting",
    "Pause",
    "Pauses",
    "View",
    "Worst",
    "in_turn",
    "levels",
    "share",
]

TIE = 1e-9
"""Whether a pause that ends at the very deadline ends before it is a matter of rounding."""

MANY = 10_000
"""Pauses that are added up one by one; from then on they do not grow any more."""


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
        """Repeated so often."""
        return Bound(_times(self.sure, sure), _times(self.most, most))

    def up_to(self, limit: float) -> Bound:
        """Ended at a limit."""
        return Bound(min(self.sure, limit), min(self.most, limit))


def share(amount: float, parts: float) -> float:
    """How often `parts` go into `amount`."""
    return math.inf if math.isinf(amount) else amount // parts


def _times(amount: float, times: float) -> float:
    return amount * times if amount and times else 0.0


@dataclass(frozen=True, slots=True)
class View:
    """What a layer sees of what is around it.

    Attributes:
        within: seconds until the nearest deadline; infinite without one.
        is_async: whether the function is an `async def`: a plain one cannot be stopped.
        repeated: whether the call is part of another guarded call that repeats it.
        once: whether nothing is to be repeated then.
        again: whether others cannot have prepared for it: it may be one of several runs of a call, or has waited.
    """

    within: float = math.inf
    is_async: bool = True
    repeated: bool = False
    once: bool = False
    again: bool = False

    def sooner(self, seconds: float) -> View:
        """With a deadline in so many seconds, if there is none that is nearer."""
        return replace(self, within=min(self.within, seconds))

    def after(self, seconds: float) -> View:
        """So many seconds later."""
        return replace(self, within=max(0.0, self.within - seconds))


@dataclass(frozen=True, slots=True)
class Worst:
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


Inside = Callable[[View], Worst]
"""The rest of a pipeline, seen from one of its policies."""


class Level:
    """A policy around the rest, asked once for each view.

    Attributes:
        seen: what it was asked for first: the worst case as the first attempt meets it.
    """

    def __init__(self, policy: Policy, inner: Inside) -> None:
        self.policy = policy
        self._inner = inner
        self._known: dict[View, Worst] = {}

    def __call__(self, view: View) -> Worst:
        known = self._known.get(view)
        if known is None:
            known = self._known[view] = self.policy.worst(self._inner, view)
        return known

    @property
    def seen(self) -> Worst | None:
        return next(iter(self._known.values()), None)


def levels(policies: Sequence[Policy], inner: Inside) -> list[Level]:
    """Each of the policies around those inside it, outermost first."""
    found: list[Level] = []
    for policy in reversed(policies):
        found.append(Level(policy, found[-1] if found else inner))
    return found[::-1]


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
        """That can happen."""
        return self.sure + (self.asked if asks else 0.0)


Pauses = Callable[[int], Pause]
"""The pause after run number so many, from 1."""


def in_turn(inner: Inside, view: View, runs: Bound, pauses: Pauses, why: Callable[[float], str]) -> Worst:
    """Up to so many runs, one after the other, as long as the pause before a run ends before the deadline.

    `why`: where the seconds come from, when so many of them can begin.
    """
    view = replace(view, again=True)
    one = inner(view)
    most = _fitting(runs.most, view.within * (1 + TIE), pauses)
    sure = int(_fitting(min(runs.sure, max(1.0, one.allowed)) if one.fails else 1.0, view.within * (1 - TIE), pauses))
    attempts, requests, quick = _hasty(inner, view, sure, pauses)
    longest = _times(one.seconds.most, most) + _sum(most, lambda run: pauses(run).most)
    longest = min(longest, view.within + one.seconds.most)
    return Worst(
        Bound(min(_longest(inner, view, sure, pauses), longest), longest),
        Bound(attempts, _times(one.attempts.most, most)),
        Bound(requests, _times(one.requests.most, most)),
        one.why if math.isinf(one.seconds.most) else why(most),
        quick=quick,
        allowed=share(one.allowed, sure),
        at_once=one.at_once,
        fails=one.fails,
        smooth=one.smooth and not any(pauses(run).least for run in range(1, min(sure, MANY))),
    )


def _fitting(runs: float, within: float, pauses: Pauses) -> float:
    """How many of them can begin before the deadline, if each takes no time."""
    if math.isinf(within):
        return runs
    begin, run = 0.0, 1
    while run < runs:
        least = pauses(run).least
        begin += least
        if begin >= within:
            return run
        if run >= MANY:
            return min(runs, run + (within - begin) // least) if least else runs
        run += 1
    return runs


def _sum(runs: float, pause: Callable[[int], float]) -> float:
    """The pauses between so many runs."""
    between = runs - 1
    if between <= MANY:
        return math.fsum(pause(run) for run in range(1, int(between) + 1))
    return math.fsum(pause(run) for run in range(1, MANY + 1)) + _times(pause(MANY), between - MANY)


def _hasty(inner: Inside, view: View, runs: int, pauses: Pauses) -> tuple[float, float, float]:
    """Attempts and requests of `runs` runs that fail as soon as they can, and the seconds that takes."""
    begin = attempts = requests = end = 0.0
    for run in range(1, runs + 1):
        worst = inner(view.after(begin))
        attempts += worst.attempts.sure
        requests += worst.requests.sure
        end = begin + worst.quick
        begin = end + pauses(run).least
        if begin >= view.within:
            break
        if run == MANY:
            return attempts * runs / run, requests * runs / run, end * runs / run
    return attempts, requests, end


def _longest(inner: Inside, view: View, runs: int, pauses: Pauses) -> float:
    """The longest of some ways to fail, each of which can happen, under a deadline too."""
    one, within = inner(view), view.within
    longest, asks = one.seconds.sure, one.asks
    waits = _sum(runs, lambda run: pauses(run).longest(asks))
    if math.isinf(longest) or runs == 1:
        return longest
    if math.isinf(within):
        return longest * runs + waits
    ways = [_greedy(inner, view, runs, pauses)]
    # All runs but the last fail at once, after the longest pauses that end in time.
    ways.append(within if waits >= within else waits + inner(view.after(waits)).seconds.sure)
    # All of them take as long as they can, or as is left to them.
    enough = waits + longest * (runs - 1) >= within
    if enough and one.smooth and inner(view.sooner(longest)).seconds.sure >= longest:
        ways.append(within)
    return max(ways)


def _greedy(inner: Inside, view: View, runs: int, pauses: Pauses) -> float:
    """Each run takes its longest, and each pause too, unless that would outlive the deadline."""
    begin = 0.0
    for run in range(1, min(runs, MANY) + 1):
        worst, pause = inner(view.after(begin)), pauses(run)
        end = begin + worst.seconds.sure
        longest = pause.longest(worst.asks)
        if run == runs or end + pause.least >= view.within:
            return end
        begin = end + longest if end + longest < view.within else end + pause.least
    return begin


# -- what outcomes meet on their way outward ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class End:
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
    def helps_to_repeat(self) -> bool:
        """Whether another try may end better."""
        return self.verdict is not None and self.verdict.retryable and self.verdict.kind != "success"


@dataclass(frozen=True, slots=True)
class Meeting:
    """What a policy does with an end that comes out of what is inside it.

    Attributes:
        does: in words.
        stops: whether nobody outside hears of it.
    """

    does: str
    stops: bool = False
