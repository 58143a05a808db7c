"""The report that `resilient simulate --trace FILE` adds to a simulation: the recorded calls, and the classes of their
errors.

A policy with `on=(httpx.TransportError,)` does nothing if the trace has no such error, and also if the recorded class
is not that one here. In the results both look like a policy that does not help, so both are reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pybreaker import CircuitBreakerError

from resilient._validation import legible
from resilient.core.classify import Classifier, error_types
from resilient.core.policy import Policy
from resilient.errors import ResilientError, TimedOut
from resilient.lab.candidates import Candidate
from resilient.lab.recorded_errors import ErrorClasses
from resilient.lab.replay import RecordedPlan, replayed, summary
from resilient.lab.scenario import Scenario
from resilient.observe.evidence import class_named, qualified_name
from resilient.observe.shadow import ShadowReport
from resilient.observe.trace import Trace
from resilient.pipeline import Pipeline

__all__ = ["FACTS", "Recorded"]

FACTS = "their class, statuses, pauses, and codes of SQL, grpc and AWS"
"""The facts about errors that a trace contains, for messages."""

OF_POLICIES = (ResilientError, CircuitBreakerError)

MOST_SHOWN = 8
"""The most classes in one line."""


class Recorded:
    """The calls of a trace, to be simulated, and notes for the user about their errors.

    Args:
        trace: the recorded calls.
        paths: the files of the trace.
        of: the pipeline whose calls are simulated, if there are several.

    Attributes:
        scenario: the world of these calls.
        shadows: the actions that policies in shadow mode would have taken when the trace was recorded.

    Raises `TraceError` if the pipeline is ambiguous or has no calls.
    """

    def __init__(self, trace: Trace, paths: Sequence[Path], of: str | None) -> None:
        self._trace = trace if of is None else trace.of(of)
        self.scenario: Scenario = replayed(trace, " and ".join(path.name for path in paths), of)
        self.shadows = ShadowReport.of(self._trace)
        self._named: dict[str, dict[str, list[type[BaseException]]]] = {}

    def watch(self, candidate: Candidate) -> Callable[[Pipeline], object]:
        """A function that notes which classes of errors the pipelines of a candidate name."""
        named = self._named.setdefault(candidate.name, {})

        def watch(pipeline: Pipeline) -> None:
            if not named:
                for option, kinds in _named(pipeline):
                    named.setdefault(option, []).extend(kinds)

        return watch

    def as_json(self) -> dict[str, Any]:
        """Measures of the recorded calls, and their errors: how often each occurs, and whether its class is the
        original or a substitute."""
        figures = summary(self._trace)
        made, times = self._errors()
        figures["errors"] = {
            name: {"attempts": times[name], "class": "stand-in" if made.is_substitute(name) else "original"}
            for name in sorted(times)
        }
        if self.shadows.policies:
            figures["shadow"] = self.shadows.as_json()
        return figures

    def notes(self) -> list[str]:
        """Notes on the errors: one line for those whose classes are substitutes, and one for each candidate that names
        errors which never occur. Complete only after the candidates have run."""
        made, times = self._errors()
        lines = []
        strange = [name for name, _ in times.most_common() if made.is_substitute(name)]
        if strange:
            bare = any(":" not in name and class_named(name) is None for name in strange)
            why = "the trace of an older version has no modules" if bare else "their classes are not found here"
            listed = [f"{legible(name)} ({times[name]:,})" for name in strange[:MOST_SHOWN]]
            if len(strange) > MOST_SHOWN:
                listed.append(f"{len(strange) - MOST_SHOWN:,} more")
            said = f"errors known only by name, because {why}; no on= or ignore= matches their classes"
            lines.append(f"{said}: {', '.join(listed)}")
        kinds = [made.named(name) for name in times]
        for candidate, options in self._named.items():
            missing = {option: _missing(named, kinds) for option, named in options.items()}
            found = [f"{option}= names {', '.join(names)}" for option, names in missing.items() if names]
            if found:
                lines.append(f"{candidate}: {' and '.join(found)}, of which the trace has none")
        return lines

    def _errors(self) -> tuple[ErrorClasses, Counter[str]]:
        """The classes as they are loaded now, and the number of failed attempts by the name of the class."""
        plan = self.scenario.service
        assert isinstance(plan, RecordedPlan)
        times: Counter[str] = Counter()
        for attempt in plan.attempts:
            if attempt.failed and attempt.error is not None:
                leaves = () if attempt.evidence is None else attempt.evidence.leaves
                times.update({attempt.error, *(name for name, _ in leaves)})
        return ErrorClasses(plan.kinds), times


def _missing(named: Sequence[type[BaseException]], kinds: Sequence[type[Exception]]) -> list[str]:
    """The names of the classes in `named` that only a service raises and that match none of the `kinds`."""
    of_services = [kind for kind in named if not (issubclass(TimedOut, kind) or issubclass(kind, OF_POLICIES))]
    missing = (kind for kind in of_services if not any(issubclass(each, kind) for each in kinds))
    return list(dict.fromkeys(map(qualified_name, missing)))


def _named(pipeline: Pipeline) -> Iterator[tuple[str, Sequence[type[BaseException]]]]:
    """The classes of errors in the options of a pipeline's classifiers and policies, with the names of the options."""
    yield from _of_classifier(pipeline.classify)
    for policy in pipeline.policies:
        yield from _named(policy) if isinstance(policy, Pipeline) else _of_policy(policy)


def _of_classifier(classifier: Classifier) -> Iterator[tuple[str, Sequence[type[BaseException]]]]:
    for option, given in classifier.filters.items():
        yield option, error_types(given) or ()


def _of_policy(policy: Policy) -> Iterator[tuple[str, Sequence[type[BaseException]]]]:
    waiting: list[Any] = [policy._init_args[1].get("on")]
    while waiting:
        given = waiting.pop()
        yield "on", error_types(given) or error_types(getattr(given, "exception_types", None)) or ()
        waiting += getattr(given, "retries", ())  # of tenacity's retry_any and retry_all
