"""Sums of the actions that policies in shadow mode would have taken, to be read before they are enabled or changed.

    users = Pipeline(Retry(attempts=3, shadow=True), CircuitBreaker(shadow=True), Timeout(2), name="users")
    report = report_shadows(users)
    ...
    print(report)

    users: 10,000 calls, 10,000 requests
      Retry           would have repeated 240 attempts (2.4% more requests)
      CircuitBreaker  would have refused 131 calls (1.3%), of which 96 went well; opened 2 times
      Hedge           would have done nothing

A gate with a queue also counts as refused the calls that it would have refused after a wait: those too long in the
queue, or too late for their deadline. They are known when a report is read, except for calls that still run;
`resilient.core.shadow_queue` says how.

From a trace (`resilient.observe.trace`): `ShadowReport.of(read_trace(path))`. A trace does not say how refused calls
went.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from resilient import events
from resilient._atomic import renew_in_forked_child
from resilient._validation import legible
from resilient.core.call import Call
from resilient.core.current_call import enclosing
from resilient.core.gate import Gate
from resilient.events import Event
from resilient.observe.trace import Trace
from resilient.pipeline import Pipeline, flat

__all__ = ["ShadowReport", "WouldHaveDone", "report_shadows"]


KINDS = (events.CallEnded, events.Retrying, events.Hedging, events.CallRejected, events.CircuitChanged)
"""The kinds of events from which a report is made."""


@dataclass(slots=True)
class WouldHaveDone:
    """The actions that one policy would have taken: attempts repeated, further copies begun, calls refused, calls made
    to wait. (A call that would have waited first and then been refused is counted as both.)

    `went_well`: how many of the calls that it would have refused succeeded; None: not known. `opened`: how often its
    circuit opened.
    """

    retried: int = 0
    hedged: int = 0
    refused: int = 0
    queued: int = 0
    opened: int = 0
    went_well: int | None = 0

    def as_json(self) -> dict[str, int | None]:
        """Return the counts of one policy as plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


def report_shadows(*pipelines: Pipeline) -> ShadowReport:
    """Sum up from now on the actions that the shadowed policies of these pipelines (without any: of all pipelines)
    would have taken.

    The report ends with `stop()`, or with the block of `with report_shadows(...) as report:`.
    """
    report = ShadowReport()
    for pipeline in dict.fromkeys(pipelines):
        if not isinstance(pipeline, Pipeline):
            raise TypeError(f"pipelines must be Pipelines, got {pipeline!r}")
        report.listen_to(pipeline)
    if not pipelines:
        report._stops.append(events.listen(report, *KINDS))
    return report


class ShadowReport:
    """The sums of the actions that shadowed policies would have taken. A report is a listener.

    Attributes:
        calls, requests: of each pipeline, by its name.
        policies: the actions of each policy, by the names of pipeline and policy.
    """

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        self.policies: dict[tuple[str, str], WouldHaveDone] = {}
        self._refused: dict[int, tuple[Call, set[tuple[str, str]]]] = {}
        self._stops: list[Callable[[], None]] = []
        self._gates: list[Gate] = []
        self._lock = threading.RLock()
        renew_in_forked_child(self)

    def renew(self) -> None:
        """In a forked child: take a new lock."""
        self._lock = threading.RLock()

    @classmethod
    def of(cls, trace: Trace) -> Self:
        """Return a report of the policies in shadow mode of a trace."""
        report = cls()
        for call in trace.calls:
            report._count(call.pipeline, call.requests)
        for each in trace.shadows:
            policy = report._policy(each.pipeline, each.policy)
            policy.went_well = None
            policy.retried += each.what == "retry"
            policy.hedged += each.what == "hedge"
            policy.refused += each.what == "refuse"
            policy.queued += each.what == "wait"
        return report

    def listen_to(self, pipeline: Pipeline) -> None:
        """Add a pipeline to the report. Its shadowed policies are listed even if they would have done nothing."""
        for policy in flat(pipeline.policies):
            if getattr(policy, "shadow", False):
                self._policy(pipeline.name, policy.name)
                if isinstance(policy, Gate):
                    self._gates.append(policy)
        self._stops.append(pipeline.listen(self, *KINDS))

    def stop(self) -> None:
        """Stop listening, and count the calls that are left in shadow queues."""
        self._report_queued()
        for stop in self._stops:
            stop()

    def _report_queued(self) -> None:
        """Let gates emit the events of calls that would still be in their queues."""
        for gate in self._gates:
            gate._report_queued()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _policy(self, pipeline: str, policy: str) -> WouldHaveDone:
        return self.policies.setdefault((pipeline, policy), WouldHaveDone())

    def _count(self, pipeline: str, requests: int) -> None:
        self.calls[pipeline] = self.calls.get(pipeline, 0) + 1
        self.requests[pipeline] = self.requests.get(pipeline, 0) + requests

    def __call__(self, event: Event) -> None:
        name = event.pipeline
        match event:
            case events.CallEnded():
                with self._lock:
                    self._count(name, event.requests)
                    if self._refused:
                        self._ended(enclosing(2), event.ending == "success")
            case events.Retrying(shadow=True):
                with self._lock:
                    self._policy(name, event.policy).retried += 1
            case events.Hedging(shadow=True):
                with self._lock:
                    self._policy(name, event.policy).hedged += 1
            case events.CallRejected(shadow=True):
                with self._lock:
                    policy = self._policy(name, event.policy)
                    if event.would_wait:
                        policy.queued += 1
                    else:
                        policy.refused += 1
                        if event.went_well is None:
                            self._remember(enclosing(2), (name, event.policy))
                        elif policy.went_well is not None:
                            policy.went_well += event.went_well
            case events.CircuitChanged(new="open"):
                with self._lock:
                    if (name, event.policy) in self.policies:
                        self.policies[name, event.policy].opened += 1

    def _remember(self, calls: Any, policy: tuple[str, str]) -> None:
        """Note which policy would have refused a call, until the call has ended."""
        call = calls[0][0].origin
        self._refused.setdefault(id(call), (call, set()))[1].add(policy)

    def _ended(self, calls: Any, well: bool) -> None:
        _, refused_by = self._refused.pop(id(calls[0][0].origin), (None, ()))
        for each in refused_by:
            policy = self.policies[each]
            if policy.went_well is not None:
                policy.went_well += well

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data: pipelines, and their policies, by name."""
        self._report_queued()
        names = sorted({*self.calls, *(pipeline for pipeline, _ in self.policies)})
        return {
            name: {
                "calls": self.calls.get(name, 0),
                "requests": self.requests.get(name, 0),
                "policies": {
                    policy: would.as_json() for (pipeline, policy), would in self.policies.items() if pipeline == name
                },
            }
            for name in names
        }

    def __str__(self) -> str:
        lines = []
        for name, pipeline in self.as_json().items():
            calls, requests = pipeline["calls"], pipeline["requests"]
            shown = legible(name or "pipeline")  # names may come from a file, and the text goes to a terminal
            lines.append(f"{shown}: {_many(calls, 'call')}, {_many(requests, 'request')}")
            rows = [(legible(policy), would) for (of, policy), would in self.policies.items() if of == name]
            width = max((len(policy) for policy, _ in rows), default=0)
            lines += [f"  {policy:{width}}  {_words(would, calls, requests)}" for policy, would in rows]
            if not rows:
                lines.append("  no policy in shadow mode has emitted an event")
        return "\n".join(lines)


def _words(would: WouldHaveDone, calls: int, requests: int) -> str:
    found = []
    if would.retried:
        found.append(f"repeated {_many(would.retried, 'attempt')} ({_share(would.retried, requests)} more requests)")
    if would.hedged:
        found.append(f"begun {_many(would.hedged, 'further copy')} ({_share(would.hedged, requests)} more requests)")
    if would.refused:
        well = "" if would.went_well is None else f", of which {would.went_well:,} went well"
        found.append(f"refused {_many(would.refused, 'call')} ({_share(would.refused, calls)}){well}")
    if would.queued:
        found.append(f"made {_many(would.queued, 'call')} wait ({_share(would.queued, calls)})")
    opened = f"; opened {'once' if would.opened == 1 else f'{would.opened:,} times'}" if would.opened else ""
    return f"would have {', and '.join(found) or 'done nothing'}{opened}"


def _share(part: int, whole: int) -> str:
    if not whole:
        return "?"
    share = 100 * part / whole
    return f"{share:.0f}%" if share >= 10 else f"{share:.2g}%"


def _many(number: int, what: str) -> str:
    plural = what if number == 1 else f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {plural}"
