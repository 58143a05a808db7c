"""Objectives: bounds on measures; and checks that a run really tests its scenario.

An objective is *not measurable*, and therefore missed, if there is too little to measure: fewer than 100 calls (or
successes, for p99), no request, or no time after the faults. A run in which a fault affected no request, or a load of a
priority made no calls, tests something else than its scenario describes: `check_tested` refuses it.

Results that are right but may mislead get a note: `notes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from resilient.core.priority import PRIORITIES
from resilient.faults import Fault, Slowness
from resilient.lab.candidates import NONE
from resilient.lab.measures import Measures
from resilient.lab.replay import RecordedPlan
from resilient.lab.run import UNFINISHED
from resilient.lab.scenario import Scenario

__all__ = ["Objective", "check_tested", "judged", "notes", "objectives"]

ENOUGH = 100
"""Calls that a share needs, and successes that a 99th percentile needs: with fewer, it is simply the maximum."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A bound on one of the measures.

    Args:
        option: of the command, which sets the objective.
        limit: the bound.
        value: takes the measure.
        lacks: says what is missing for a meaningful measure; empty: nothing.
        at_least: whether the bound is a lower one.
        unit: of limit and value, in messages.
    """

    option: str
    limit: float
    value: Callable[[Measures], float | None]
    lacks: Callable[[Measures], str]
    at_least: bool = False
    unit: str = ""

    def met(self, measures: Measures) -> bool:
        """Whether the measure can be taken, and is within the bound."""
        value = self.value(measures)
        if value is None or self.lacks(measures):
            return False
        return value >= self.limit if self.at_least else value <= self.limit

    def miss(self, measures: Measures) -> str:
        """One line about a missed objective: the candidate, the value and the bound."""
        value = self.value(measures)
        if lacks := self.lacks(measures):
            shown = f"not measurable: {lacks}"
        else:
            shown = "never" if value is None else f"{value:.6g}{self.unit}"
            shown += f", to be {'at least' if self.at_least else 'at most'} {self.limit:g}{self.unit}"
        return f"{measures.candidate.name}: {self.option}: {shown}"


def objectives(
    min_success: float | None, max_p99: float | None, max_attempts_per_call: float | None, max_recovery: float | None
) -> list[Objective]:
    """The objectives of the options that are given, in this order; None: an option is not given."""
    made: list[tuple[float | None, Callable[[float], Objective]]] = [
        (
            min_success,
            lambda limit: Objective("--min-success", limit, lambda each: each.success, _few_calls, at_least=True),
        ),
        (
            max_p99,
            lambda limit: Objective("--max-p99", limit, lambda each: each.latency(0.99), _few_successes, unit=" s"),
        ),
        (
            max_attempts_per_call,
            lambda limit: Objective("--max-attempts-per-call", limit, lambda each: each.requests_per_call, _unasked),
        ),
        (
            max_recovery,
            lambda limit: Objective(
                "--max-recovery",
                limit,
                lambda each: each.recovery,
                lambda each: each.worst_recovery.unmeasurable,
                unit=" s",
            ),
        ),
    ]
    return [make(given) for given, make in made if given is not None]


MORE = "(a longer duration, a higher rate or more --runs)"


def _few_calls(measures: Measures) -> str:
    few = measures.calls < ENOUGH
    return f"calls must be {ENOUGH} at least {MORE}, there were {measures.calls}" if few else ""


def _few_successes(measures: Measures) -> str:
    successes = len(measures.latencies)
    few = successes < ENOUGH
    return f"calls that succeed must be {ENOUGH} at least {MORE}, there were {successes}" if few else ""


def _unasked(measures: Measures) -> str:
    return _few_calls(measures) or ("" if measures.requests else "the service was sent no request")


def judged(measures: Sequence[Measures], goals: Sequence[Objective]) -> list[dict[str, Any]]:
    """The result of each objective for each candidate, as plain data."""
    return [
        {
            "pipeline": each.candidate.name,
            "objective": goal.option.removeprefix("--").replace("-", "_"),
            "limit": goal.limit,
            "value": goal.value(each),
            "met": goal.met(each),
            "not_measurable": goal.lacks(each) or None,
        }
        for each in measures
        for goal in goals
    ]


def check_tested(scenario: Scenario, measures: Sequence[Measures]) -> None:
    """Raise `ValueError` if a fault affected no request, or no calls of a load's priority were made, in any run."""
    for at, fault in enumerate(scenario.faults):
        if not any(each.acted[at] for each in measures):
            raise ValueError(
                f"faults[{at}] ({fault.describe()}, {fault.when()}) changed nothing for any request: "
                f"{_unmet(fault, scenario, measures)}"
            )
    ranks = {rank for each in measures for run in each.runs for rank in run.priorities}
    for at, load in enumerate(scenario.loads):
        if PRIORITIES.index(load.priority) not in ranks:
            raise ValueError(
                f"load[{at}] made no {load.priority} calls: it must have a higher rate, or the duration must be longer"
            )


def _unmet(fault: Fault, scenario: Scenario, measures: Sequence[Measures]) -> str:
    """The reason why a fault affected no request, and the change that is needed."""
    sent = sum(fault.is_on(moment) for each in measures for run in each.runs for moment in run.sent)
    if sent and isinstance(fault, Slowness) and not fault.targeted and scenario.service.service_time.expected:
        return (
            f"{sent:,} requests were sent meanwhile, but no work began: all workers were busy, or something refused "
            "them. There must be more workers, a shorter service_time or a lower rate"
        )
    return "its start, end, share or targets must be such that requests meet it"


def notes(
    scenario: Scenario, measures: Sequence[Measures], goals: Sequence[Objective], *, shadow: bool = False
) -> list[str]:
    """Notes for the reader about results that are right but may mislead, a line each.

    With `shadow` the policies do not act, so equal results of pipelines, or a pipeline without effect, get no note.
    """
    found = []
    if scenario.calm[1]:
        found += sorted(
            {
                f"recovery is not measurable: {each.worst_recovery.unmeasurable}"
                for each in measures
                if each.worst_recovery.unmeasurable
            }
        )
    of_successes_only = any(goal.option == "--max-p99" for goal in goals) and not any(
        goal.option == "--min-success" for goal in goals
    )
    tried = "trace" if isinstance(scenario.service, RecordedPlan) else "scenario"
    for at, each in enumerate(measures):
        name = each.candidate.name
        same = next((other.candidate.name for other in measures[:at] if each.equals(other)), None)
        if same is not None and not shadow:
            found.append(f"{name} did exactly what {same} did: this {tried} does not tell them apart")
        found += [
            f"{name}: {fault.describe()} ({fault.when()}) changed nothing for its requests"
            for fault, acted in zip(scenario.faults, each.acted, strict=True)
            if not acted
        ]
        idle = each.success == 1 and each.requests == each.calls
        if idle and each.candidate is not NONE and not shadow:
            found.append(f"{name}: each call succeeded with one request, so its policies had nothing to do")
        if unfinished := each.outcomes.get(UNFINISHED):
            found.append(
                f"{name}: {unfinished:,} calls were not finished {scenario.drain:g} s after the last one was made; "
                "they count as failures"
            )
        if of_successes_only and each.success < 0.99:
            found.append(
                f"{name}: --max-p99 is about the {100 * each.success:.3g}% of calls that succeed; "
                "--min-success bounds the others"
            )
    return found
