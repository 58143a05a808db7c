"""Measures of a candidate in a scenario: of one run, or of several together; totals, and over time.

*Success* is an answer of the service; a substitute from a Fallback is counted separately. *Latency* is that of the
calls that succeeded. *Goodput* is the rate of successes, at the time when their answers come. *Requests per call* are
the requests that the service receives, counted with the call that they belong to, whenever they are sent.

*Recovery* is defined in `resilient.lab.recovery`. Of several runs the worst counts: never, then not measurable, then
the longest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from resilient.core.priority import PRIORITIES
from resilient.lab.percentile import percentile
from resilient.lab.recovery import Recovery, recovery
from resilient.lab.run import STOOD_IN, SUCCESS, Run

__all__ = ["ClassOfCalls", "Measures", "Moment"]


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of the timeline, averaged over the runs; None where there was nothing to measure.

    Attributes:
        at: its start, in seconds.
        offered: calls made per second.
        goodput: successes per second whose answers come in this step, whenever their calls were made.
        p50, p99: latency in seconds, of the successes whose answers come in this step.
        requests_per_call: requests of the calls made in this step, whenever they are sent, per call.
        open, half_open: the share of circuits in this state.
        tokens: of a budget, on average.
        limit: of an AdaptiveLimit, on average: of the servers', if they have one, else of the clients'.
        hedge_delay: observed delay before a second copy in seconds, on average.
        calls, succeeded, requests: of all runs: the calls made in this step, how many of them succeed, and their
            requests, whenever that is. Summed over the timeline they are those of `Measures`.
    """

    at: float
    offered: float
    goodput: float
    p50: float | None
    p99: float | None
    requests_per_call: float | None
    open: float | None
    half_open: float | None
    tokens: float | None
    limit: float | None = None
    hedge_delay: float | None = None
    calls: int = 0
    succeeded: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class ClassOfCalls:
    """Measures of the calls of one priority: their number, the share that succeeded, and the latencies of successes in
    seconds."""

    calls: int
    success: float
    p50: float | None
    p99: float | None

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "success": _round(self.success),
            "latency_p50_s": _round(self.p50),
            "latency_p99_s": _round(self.p99),
        }


class Measures:
    """Measures of one candidate in one scenario, over runs with different seeds.

    Raises `ValueError` if no run made a call: there is nothing to measure.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        if not any(run.begins for run in runs):
            raise ValueError(
                f"no calls were made in {runs[0].scenario.duration:g} s: "
                "the load must have a higher rate, or the duration must be longer"
            )
        self.runs = runs
        self.scenario = runs[0].scenario
        self.candidate = runs[0].candidate

    @cached_property
    def calls(self) -> int:
        return sum(len(run.begins) for run in self.runs)

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """Number of calls by outcome: "success", "stood in" (a substitute of a Fallback), "unfinished", or the name of
        an exception."""
        found: Counter[str] = Counter()
        for run in self.runs:
            for number, times in Counter(run.outcomes).items():
                found[run.names[number]] += times
        return dict(sorted(found.items()))

    @property
    def not_run(self) -> dict[str, int]:
        """How often code of the candidate with effects outside the simulation would have run, by name."""
        return dict(sorted(sum((run.not_run for run in self.runs), Counter[str]()).items()))

    @property
    def success(self) -> float:
        """The share of calls that the service answered."""
        return self.outcomes.get(SUCCESS, 0) / self.calls

    @property
    def success_of_runs(self) -> list[float | None]:
        """The share of calls that the service answered, in each run; None for a run without calls."""
        return [run.outcomes.count(0) / len(run.outcomes) if run.outcomes else None for run in self.runs]

    @property
    def stood_in(self) -> float:
        """The share of calls that a Fallback answered."""
        return self.outcomes.get(STOOD_IN, 0) / self.calls

    @cached_property
    def requests(self) -> int:
        """The number of requests that the service received."""
        return sum(sum(run.requests) for run in self.runs)

    @property
    def requests_per_call(self) -> float:
        return self.requests / self.calls

    @cached_property
    def latencies(self) -> list[float]:
        """Seconds of all calls that succeeded, in ascending order."""
        return sorted(
            end - begin
            for run in self.runs
            for begin, end, outcome in zip(run.begins, run.ends, run.outcomes, strict=True)
            if outcome == 0
        )

    def latency(self, share: float) -> float | None:
        """The latency in seconds that this share of the successes does not exceed."""
        return percentile(self.latencies, share)

    @cached_property
    def recovered(self) -> list[Recovery]:
        """The recovery of each run from its faults."""
        return [recovery(run) for run in self.runs]

    @property
    def worst_recovery(self) -> Recovery:
        """The recovery of the worst run: one that never recovered, else one that cannot be measured, else the
        longest."""
        order = ("measured", "not measurable", "never")
        return max(self.recovered, key=lambda each: (order.index(each.state), each.seconds or 0.0))

    @property
    def recoveries(self) -> list[float | None]:
        """Seconds until each run had recovered; None: never, or not measurable."""
        return [each.seconds for each in self.recovered]

    @property
    def recovery(self) -> float | None:
        """Seconds in the worst run; None: never, or not measurable (see `worst_recovery`)."""
        return self.worst_recovery.seconds

    @cached_property
    def acted(self) -> list[int]:
        """Of each fault of the scenario, in order, how many requests of all runs it has affected."""
        return [sum(of_runs) for of_runs in zip(*(run.acted for run in self.runs), strict=True)]

    def equals(self, other: Measures) -> bool:
        """Whether every call of both has the same start, end, outcome and number of requests."""
        return all(
            (mine.begins, mine.ends, mine.requests) == (theirs.begins, theirs.ends, theirs.requests)
            and [mine.names[each] for each in mine.outcomes] == [theirs.names[each] for each in theirs.outcomes]
            for mine, theirs in zip(self.runs, other.runs, strict=True)
        )

    @cached_property
    def classes(self) -> dict[str, ClassOfCalls]:
        """Measures of the calls of each priority, the most important first; empty if all calls have the same
        priority."""
        found: dict[str, ClassOfCalls] = {}
        for rank, name in enumerate(PRIORITIES):
            ended = [
                (end - begin, outcome == 0)
                for run in self.runs
                for begin, end, outcome, of in zip(run.begins, run.ends, run.outcomes, run.priorities, strict=True)
                if of == rank
            ]
            if ended:
                good = sorted(seconds for seconds, well in ended if well)
                found[name] = ClassOfCalls(
                    len(ended), len(good) / len(ended), percentile(good, 0.5), percentile(good, 0.99)
                )
        return found if len(found) > 1 else {}

    def course(self, name: str) -> list[float | None]:
        """For each step of the timeline: the success share of the calls of one priority that began in it; None without
        such calls."""
        rank, step, count = PRIORITIES.index(name), self.runs[0].step, self.steps
        made, good = [0] * count, [0] * count
        for run in self.runs:
            for begin, outcome, of in zip(run.begins, run.outcomes, run.priorities, strict=True):
                if of == rank:
                    at = min(int(begin / step), count - 1)
                    made[at] += 1
                    good[at] += outcome == 0
        return [well / all_ if all_ else None for well, all_ in zip(good, made, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """All measures as plain data, times in seconds."""
        return {
            "about": self.candidate.about,
            "calls": self.calls,
            "success": _round(self.success),
            "stood_in": _round(self.stood_in),
            "requests_per_call": _round(self.requests_per_call),
            "latency_p50_s": _round(self.latency(0.5)),
            "latency_p90_s": _round(self.latency(0.9)),
            "latency_p99_s": _round(self.latency(0.99)),
            "latency_max_s": _round(self.latency(1.0)),
            "recovery_s": _round(self.recovery),
            "recovery_state": self.worst_recovery.state,
            "recovery_unmeasurable": self.worst_recovery.unmeasurable or None,
            "recoveries_s": [_round(each) for each in self.recoveries],
            "faults_acted": self.acted,
            "outcomes": self.outcomes,
            "not_run": self.not_run,
            **({"priorities": {name: each.as_json() for name, each in self.classes.items()}} if self.classes else {}),
            "success_of_runs": [_round(each) for each in self.success_of_runs],
            "successes_after_duration": self.outcomes.get(SUCCESS, 0) - sum(map(len, self._answers)),
            "timeline": [{key: _round(value) for key, value in asdict(moment).items()} for moment in self.timeline],
        }

    @property
    def steps(self) -> int:
        """The number of steps of the timeline."""
        return math.ceil(self.scenario.duration / self.runs[0].step - 1e-9)

    @cached_property
    def _answers(self) -> list[list[float]]:
        """The latencies of successes, in ascending order, for each step in which their answers come. Answers after the
        end are left out."""
        step = self.runs[0].step
        found: list[list[float]] = [[] for _ in range(self.steps)]
        for run in self.runs:
            for begin, end, outcome in zip(run.begins, run.ends, run.outcomes, strict=True):
                if outcome == 0 and (at := int(end / step)) < len(found):
                    found[at].append(end - begin)
        return [sorted(latencies) for latencies in found]

    @cached_property
    def timeline(self) -> list[Moment]:
        """The measures from 0 to the end of the load, in equal steps.

        Calls and their requests are counted in the step in which the call is made; goodput and latencies in the step in
        which the answer comes. Answers after the end are in no step.
        """
        step, count = self.runs[0].step, self.steps
        offered, succeeded, sent = [0] * count, [0] * count, [0] * count
        for run in self.runs:
            for begin, outcome, requests in zip(run.begins, run.outcomes, run.requests, strict=True):
                at = min(int(begin / step), count - 1)
                offered[at] += 1
                sent[at] += requests
                succeeded[at] += outcome == 0
        share = 1 / (step * len(self.runs))
        found = []
        for at, ordered in enumerate(self._answers):
            samples = [run.samples[at] for run in self.runs if at < len(run.samples)]
            found.append(
                Moment(
                    round(at * step, 6),
                    offered[at] * share,
                    len(ordered) * share,
                    percentile(ordered, 0.5),
                    percentile(ordered, 0.99),
                    sent[at] / offered[at] if offered[at] else None,
                    _mean([sample.open for sample in samples]),
                    _mean([sample.half_open for sample in samples]),
                    _mean([sample.tokens for sample in samples]),
                    _mean([sample.limit for sample in samples]),
                    _mean([sample.hedge_delay for sample in samples]),
                    offered[at],
                    succeeded[at],
                    sent[at],
                )
            )
        return found


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return math.fsum(known) / len(known) if known else None


def _round(number: float | None) -> float | None:
    return None if number is None else round(number, 6)
