"""What came of a candidate in a world: of one run, or of several pooled; in figures, and over time.

*Success* is an answer of the service; what a Fallback stands in for is counted by itself. *Latency* is that of the
calls that succeeded. *Goodput* is successes a second, when they come. *Requests per call* are what the service is sent.

*Recovery* is the time from the end of the last fault that ends to the beginning of the first five seconds in which
goodput is at least 92% of the calls that are made; None when there are no such five seconds. Of several runs, the
longest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from resilient.lab.world import STOOD_IN, SUCCESS, Run
from resilient.priority import PRIORITIES

__all__ = ["ClassOfCalls", "Measures", "Moment", "percentile"]

ENOUGH, SECONDS = 0.92, 5
"""Of the calls that are made, and for how long: then a service has recovered (N. Bronson et al., HotOS '21, as
simulated in experiment E4)."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One stretch of time, averaged over the runs. None where there was nothing to measure.

    Attributes:
        at: its begin, in seconds.
        offered, goodput: calls made, and calls that succeeded, per second.
        p50, p99: latency in seconds, of the successes in it.
        requests_per_call: requests sent in it for each call made in it.
        open, half_open: the share of circuits.
        tokens: those of a budget, on average.
        limit: of an AdaptiveLimit, on average: of a server's where there is one, else of a client's.
        hedge_delay: seconds until a second copy, as observed, on average.
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


@dataclass(frozen=True, slots=True)
class ClassOfCalls:
    """What came of the calls of one priority: how many, the share that succeeded, and latencies of those in seconds."""

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
    """Of runs of one candidate in one scenario, with different seeds."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.scenario = runs[0].scenario
        self.candidate = runs[0].candidate

    @cached_property
    def calls(self) -> int:
        return sum(len(run.begins) for run in self.runs)

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """How calls ended, by name: "success", "stood in", "unfinished", or the exception's."""
        found: Counter[str] = Counter()
        for run in self.runs:
            for number, times in Counter(run.outcomes).items():
                found[run.names[number]] += times
        return dict(sorted(found.items()))

    @property
    def success(self) -> float:
        """The share of calls that the service answered; 1 when there were none."""
        return self.outcomes.get(SUCCESS, 0) / self.calls if self.calls else 1.0

    @property
    def stood_in(self) -> float:
        """The share of calls that a Fallback answered."""
        return self.outcomes.get(STOOD_IN, 0) / self.calls if self.calls else 0.0

    @property
    def requests_per_call(self) -> float:
        return sum(len(run.sent) for run in self.runs) / self.calls if self.calls else 0.0

    @cached_property
    def latencies(self) -> list[float]:
        """Seconds, in order, of all calls that succeeded."""
        return sorted(
            end - begin
            for run in self.runs
            for begin, end, outcome in zip(run.begins, run.ends, run.outcomes, strict=True)
            if outcome == 0
        )

    def latency(self, share: float) -> float | None:
        """Seconds that this share of the successes did not exceed."""
        return percentile(self.latencies, share)

    @cached_property
    def recoveries(self) -> list[float | None]:
        """Seconds, of each run."""
        return [recovery(run) for run in self.runs]

    @property
    def recovery(self) -> float | None:
        """Seconds in the worst run; None: never."""
        return None if None in self.recoveries else max(each for each in self.recoveries if each is not None)

    @cached_property
    def classes(self) -> dict[str, ClassOfCalls]:
        """What came of calls by priority, the most important first; empty where all are of one."""
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
        """Of the calls of one priority, the share that succeeded, by the step in which they began."""
        rank, step = PRIORITIES.index(name), self.runs[0].step
        count = math.ceil(self.scenario.duration / step - 1e-9)
        made, good = [0] * count, [0] * count
        for run in self.runs:
            for begin, outcome, of in zip(run.begins, run.outcomes, run.priorities, strict=True):
                if of == rank and (at := int(begin / step)) < count:
                    made[at] += 1
                    good[at] += outcome == 0
        return [well / all_ if all_ else None for well, all_ in zip(good, made, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data, times in seconds."""
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
            "recoveries_s": [_round(each) for each in self.recoveries],
            "outcomes": self.outcomes,
            **({"priorities": {name: each.as_json() for name, each in self.classes.items()}} if self.classes else {}),
            "success_of_runs": [_round(Measures([run]).success) for run in self.runs],
            "timeline": [{key: _round(value) for key, value in asdict(moment).items()} for moment in self.timeline],
        }

    @cached_property
    def timeline(self) -> list[Moment]:
        """From 0 to the end of the load, in equal steps."""
        step = self.runs[0].step
        count = math.ceil(self.scenario.duration / step - 1e-9)
        offered, good, sent = [0] * count, [0] * count, [0] * count
        latencies: list[list[float]] = [[] for _ in range(count)]
        for run in self.runs:
            for begin, end, outcome in zip(run.begins, run.ends, run.outcomes, strict=True):
                if (at := int(begin / step)) < count:
                    offered[at] += 1
                if outcome == 0 and (at := int(end / step)) < count:
                    good[at] += 1
                    latencies[at].append(end - begin)
            for moment in run.sent:
                if (at := int(moment / step)) < count:
                    sent[at] += 1
        share = 1 / (step * len(self.runs))
        found = []
        for at in range(count):
            ordered = sorted(latencies[at])
            samples = [run.samples[at] for run in self.runs if at < len(run.samples)]
            found.append(
                Moment(
                    round(at * step, 6),
                    offered[at] * share,
                    good[at] * share,
                    percentile(ordered, 0.5),
                    percentile(ordered, 0.99),
                    sent[at] / offered[at] if offered[at] else None,
                    _mean([sample.open for sample in samples]),
                    _mean([sample.half_open for sample in samples]),
                    _mean([sample.tokens for sample in samples]),
                    _mean([sample.limit for sample in samples]),
                    _mean([sample.hedge_delay for sample in samples]),
                )
            )
        return found


def recovery(run: Run) -> float | None:
    """Seconds until the run recovered; 0 when no fault ends in it."""
    _, over = run.scenario.calm
    if not over:
        return 0.0
    count = int(run.scenario.duration - over)
    offered, good = [0] * max(count, 0), [0] * max(count, 0)
    for begin, end, outcome in zip(run.begins, run.ends, run.outcomes, strict=True):
        if over <= begin < over + count:
            offered[int(begin - over)] += 1
        if outcome == 0 and over <= end < over + count:
            good[int(end - over)] += 1
    for at in range(count - SECONDS + 1):
        if sum(good[at : at + SECONDS]) >= ENOUGH * sum(offered[at : at + SECONDS]):
            return float(at)
    return None


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Of numbers in order, the least that `share` of them do not exceed; None of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return math.fsum(known) / len(known) if known else None


def _round(number: float | None) -> float | None:
    return None if number is None else round(number, 6)
