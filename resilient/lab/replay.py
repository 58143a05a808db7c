"""A trace of real calls (`resilient.observe.trace`) as a world: the same load, and a service that answers as the
recorded one did.

Each call comes when it came. A request has the outcome of a recorded request (with the same key, if there are keys)
that was sent within a second of the same moment. If there is none, it has the outcome of one within a second of the
last request before that moment or of the first one after it. So an outage in the trace is an outage in the world, at
the same time.

For a request that was cut short (by a timeout, or as the loser of a hedge) only a lower bound of its latency is known.
It has the outcome of one of its neighbours that took longer, or if there is none, it is never answered. (Kaplan and
Meier count censored observations this way: their weight goes to those that remain.)

A trace does not say how the service would have handled more requests, or fewer. The more a pipeline changes their
number, the less the result says; to study the effect of load on a service, write a scenario.

Errors are instances of the classes that were raised, with their statuses and codes, if these classes are loaded, else
of substitutes (`resilient.lab.recorded_errors`). A result that was judged a failure is a `ServiceError` with its
status, or a `BadResult` if it had none. Programming errors and local refusals are left out: they say nothing about the
service. Attempts that a classifier ignored are kept, for the candidate to judge.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resilient import faults
from resilient._validation import legible
from resilient.core.classify import PROGRAMMING_ERRORS, REFUSALS
from resilient.lab.answers import ANSWER, ServiceError
from resilient.lab.event_loop import WorldLoop
from resilient.lab.load import Replay
from resilient.lab.percentile import percentile
from resilient.lab.recorded_errors import ErrorClasses, RecordedError, with_facts
from resilient.lab.scenario import Scenario
from resilient.lab.service import Service, ServicePlan, build_service
from resilient.observe.trace import Trace, TracedAttempt, TraceError
from resilient.observe.trace_records import TracedKind

__all__ = ["BadResult", "RecordedError", "RecordedPlan", "replayed", "summary"]

MOST_SHOWN = 10
"""The most names in one line."""

NEAR = 1.0
"""Seconds before and after a request: its outcome is drawn from the recorded attempts in this time."""


class BadResult(RecordedError):
    """A result that was judged a failure, without a known status."""


def replayed(trace: Trace, name: str, pipeline: str | None = None) -> Scenario:
    """The world of the calls of a trace.

    Args:
        name: of the scenario.
        pipeline: whose calls are replayed, if the trace has several.

    Raises `TraceError` if the pipeline is ambiguous or has no calls.
    """
    known = trace.pipelines
    shown = [legible(each) or '""' for each in known[:MOST_SHOWN]]
    names = ", ".join(shown + ["..."] * (len(known) > MOST_SHOWN))
    if pipeline is None and len(known) > 1:
        raise TraceError(f"{name} has calls of several pipelines, {names}: name one with --of")
    if pipeline is not None:
        if pipeline not in known:
            raise TraceError(f"{name} has no calls of {pipeline!r}, but of {names or 'none'}")
        trace = trace.of(pipeline)
    if not trace.calls:
        raise TraceError(f"{name} has no calls")
    errors = ErrorClasses(trace.kinds)
    attempts = tuple(each for each in trace.attempts if _is_the_services(each, errors))
    if not attempts:
        raise TraceError(f"{name} has no attempts that say something about the service")
    keys = tuple(each.key or "" for each in trace.calls) if any(each.key for each in trace.calls) else ()
    duration = trace.calls[-1].begin + 1e-3
    return Scenario(
        duration=duration,
        loads=(Replay(tuple(each.begin for each in trace.calls), keys),),
        service=RecordedPlan(attempts=attempts, kinds=trace.kinds),
        name=name,
        title=f"{name}: {len(trace.calls):,} recorded calls in {duration:,.0f} s",
    )


OURS = (*PROGRAMMING_ERRORS, *REFUSALS, MemoryError)
"""Errors that say nothing about a service."""


def _is_the_services(attempt: TracedAttempt, errors: ErrorClasses) -> bool:
    """Whether an attempt says something about the service: it did not end with a programming error or a local refusal,
    nor with an ignored error of which only a name without a module is known."""
    name = attempt.error
    if name is None or attempt.cut:
        return True
    if attempt.ignored and ":" not in name and errors.is_substitute(name):
        return False
    return not issubclass(errors.named(name), OURS)


def summary(trace: Trace) -> dict[str, Any]:
    """Measures of the recorded calls, as plain data."""
    calls = trace.calls
    latencies = sorted(each.seconds for each in calls if each.ending == "success")
    return {
        "began": trace.began,
        "calls": len(calls),
        "endings": dict(sorted(Counter(each.ending for each in calls).items())),
        "success": round(len(latencies) / len(calls), 6) if calls else None,
        "latency_p50_s": percentile(latencies, 0.5),
        "latency_p99_s": percentile(latencies, 0.99),
        "requests_per_call": round(sum(each.requests for each in calls) / len(calls), 6) if calls else None,
        "lines_dropped": trace.dropped,
        "complete": trace.complete,
    }


@dataclass(frozen=True, slots=True)
class RecordedPlan(ServicePlan):
    """A service that answers as a recorded one did.

    Args:
        attempts: the recorded attempts, in order.
        kinds: the recorded facts about the classes of their errors, by name.
    """

    attempts: tuple[TracedAttempt, ...] = ()
    kinds: Mapping[str, TracedKind] = field(default_factory=dict)


class _Pool:
    """Attempts in the order of their start."""

    def __init__(self, attempts: Sequence[TracedAttempt]) -> None:
        self.attempts = attempts
        self.begins = [each.begin for each in attempts]

    def near(self, moment: float) -> tuple[int, int]:
        """The range of the attempts whose outcomes a request at a moment may have."""
        first, end = bisect_left(self.begins, moment - NEAR), bisect_right(self.begins, moment + NEAR)
        if first == end:
            first = bisect_left(self.begins, self.begins[max(0, first - 1)] - NEAR)
            end = bisect_right(self.begins, self.begins[min(end, len(self.begins) - 1)] + NEAR)
        return first, end


class _Recorded(Service):
    """A service that answers with recorded outcomes."""

    def __init__(self, plan: RecordedPlan, happens: tuple[faults.Fault, ...], loop: WorldLoop, seed: str) -> None:
        super().__init__(plan, happens, loop, seed)
        self.errors = ErrorClasses(plan.kinds)
        attempts = [each for each in plan.attempts if _is_the_services(each, self.errors)] or plan.attempts
        self.all = _Pool(attempts)
        of_key: dict[str, list[TracedAttempt]] = defaultdict(list)
        for each in attempts:
            of_key[each.key or ""].append(each)
        self.pools = {key: _Pool(attempts) for key, attempts in of_key.items()}
        self.chance = random.Random(f"{seed} replay")

    def ask(self, key: str, deadline: float | None = None, seen: object = None) -> asyncio.Future[object]:
        loop = self.loop
        now = loop._now
        self.sent.append(now)
        if len(self.sent) > self.most:
            return self._one_too_many()
        future: asyncio.Future[object] = loop.create_future()
        pool = self.pools.get(str(key), self.all)
        first, end = pool.near(now)
        attempt = pool.attempts[self.chance.randrange(first, end)]
        if attempt.cut:
            near = pool.attempts[first:end]
            longer = [each for each in near if not each.cut and each.seconds > attempt.seconds]
            if not longer:
                self.lose(future)
                return future
            attempt = self.chance.choice(longer)
        loop.at(now + attempt.seconds, self._finish, (future, attempt))
        return future

    def _finish(self, what: tuple[asyncio.Future[object], TracedAttempt]) -> None:
        future, attempt = what
        self.executed += 1
        if future.done():
            return
        if attempt.failed:
            future.set_exception(self._error(attempt))
        else:
            future.set_result(ANSWER)

    def _error(self, attempt: TracedAttempt) -> Exception:
        if attempt.error is not None:
            return self.errors.error(attempt.error, attempt.evidence)
        facts = dict(attempt.evidence.facts) if attempt.evidence is not None else {}
        if facts.get("status", 0) >= 400:  # type: ignore[operator]
            return ServiceError(facts["status"], facts.get("retry_after"))  # type: ignore[arg-type]
        return with_facts(BadResult, facts)


@build_service.register
def _build_recorded(plan: RecordedPlan, happens: tuple[faults.Fault, ...], loop: WorldLoop, seed: str) -> Service:
    return _Recorded(plan, happens, loop, seed)
