"""The schedule of a Retry: how many attempts there may be, and how long the pauses between them are, as far as known.

Our own and tenacity's strategies are read once, when a Retry is made. So a schedule that cannot work is found at once,
and `resilient.explain` computes what it costs at worst.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace

from resilient.core.stop import AnyOf, Runs, Stop, Unknown
from resilient.core.worst_case import MANY, Discard, InnerCost, Pause, Surroundings, WorstCase, latest_begin, sequential
from resilient.policies.retry.backoff import Fixed, FullJitter
from resilient.policies.retry.tenacity import Strategy, span, stop_of, words_of

__all__ = ["Schedule"]


class Schedule:
    """The times at which the attempts of a Retry can begin and end.

    Args:
        attempts: how many attempts there are at the most, or None.
        stop: tenacity's stop strategy, or None. At least one of the two is given.
        wait: decides how long the pauses are; None: `FullJitter()`.
    """

    def __init__(self, attempts: int | None, stop: Strategy | None, wait: Fixed | FullJitter | Strategy | None) -> None:
        given: list[Stop] = [] if attempts is None else [Runs(attempts)]
        if stop is not None:
            given.append(stop_of(stop))
        self.stop = given[0] if len(given) == 1 else AnyOf(tuple(given))
        self._wait = FullJitter() if wait is None else wait

    @property
    def runs(self) -> int | None:
        """The most attempts that there are; None: no number limits them."""
        return int(self.stop.runs) if math.isfinite(self.stop.runs) else None

    def pause(self, run: int) -> Pause:
        """The pause after attempt number `run` (from 1), without the pause that the dependency may ask for."""
        if isinstance(self._wait, Fixed | FullJitter):
            most = self._wait.most(run)
            return Pause(most if isinstance(self._wait, Fixed) else 0.0, most, most)
        known = span(self._wait, run)
        if known is None:
            return Pause(0.0, 0.0, math.inf)
        least, most = known
        return Pause(least, most if math.isfinite(most) else least, most)

    def waits(self, runs: float) -> float:
        """Seconds of all pauses between `runs` attempts at the longest; infinite if they are not known."""
        counted = int(min(runs, MANY))
        rest = (runs - counted) * self.pause(int(min(runs, sys.maxsize))).most if runs > counted else 0.0
        return math.fsum(self.pause(run).most for run in range(1, counted)) + rest

    def takes(self, each: float) -> float:
        """Seconds of all attempts and pauses, if each attempt takes up to `each`."""
        return latest_begin(self.stop, self.pause, each) + each

    @property
    def knows_its_waits(self) -> bool:
        """Whether all pauses are known: no function of the user decides how long they are."""
        wait = self._wait
        if isinstance(wait, Fixed | FullJitter):
            return True
        return all(span(wait, run) is not None for run in range(1, int(min(self.stop.runs, MANY))))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Sentences about the parts of this schedule that are not known, because the user's code decides them."""
        said = [
            f"what {name} says is not known: it may end the attempts at any time, or never"
            for name in self.stop.unknown
        ]
        if not self.knows_its_waits:
            said.append(f"what {self._waiting()} says is not known: it may be any pause")
        return tuple(said)

    def worst(self, inner: InnerCost, around: Surroundings, asked: float, discard: Discard, name: str) -> WorstCase:
        """The worst case of the attempts.

        Args:
            asked: seconds of the longest pause that the dependency may ask for, on top of the usual one.
            discard: what the caller waits for each result that is superseded.
            name: the name of the plan in texts.
        """
        one = inner(around).seconds.most

        def pause(run: int) -> Pause:
            own = self.pause(run)
            return replace(own, most=own.most + asked, asked=asked if math.isfinite(own.most) else 0.0)

        def why(runs: float, latest: float) -> str:
            timed = math.isfinite(self.stop.horizon)
            if runs == 1:
                ends = "the deadline" if math.isfinite(around.within) else "the attempts are over"
                return f"no pause between attempts ends before {ends}"
            if math.isinf(latest) and (timed or math.isfinite(runs)):
                return f"nothing is known of the waits of {name}"
            if timed:
                return f"the last attempt begins after {latest:.4g} s at the latest, and takes {one:.4g} s"
            if math.isinf(runs):
                return f"nothing bounds the attempts of {name}"
            parts = [f"{runs:g} attempts of {one:.4g} s", f"waits of {self.waits(runs):.4g} s"]
            if spent := (runs - 1) * (discard.aside + discard.closing):
                parts.append(f"{spent:g} s for closing results that are superseded")
            if asked:
                parts.append(f"and the pauses asked for, {runs - 1:g} of up to {asked:g} s")
            return ", ".join(parts)

        stop = self.stop
        if (math.isfinite(around.within) or stop.timed) and not self.knows_its_waits:  # each may outlive the limit
            stop = AnyOf((stop, Unknown(name)))
        return sequential(inner, around, stop, pause, why, discard)

    def describe(self) -> str:
        """The schedule in a few words, such as "3 attempts, 2 s"."""
        ends = self.stop.describe()
        return f"{ends if ends[0].isdigit() else f'attempts {ends}'}, {self._waiting()}"

    def _waiting(self) -> str:
        return str(self._wait) if isinstance(self._wait, Fixed | FullJitter) else words_of(self._wait)
