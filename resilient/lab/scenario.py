"""A scenario: a world as data, and the pipelines that are worth a try in it. `resilient.lab.world` lives through it."""

from __future__ import annotations

from dataclasses import dataclass, field

from resilient import arguments
from resilient.faults import Fault
from resilient.lab import scenario_checks
from resilient.lab.calls import Calls
from resilient.lab.candidates import Candidate
from resilient.lab.load import Load, Replay
from resilient.lab.service_plan import ServicePlan

__all__ = ["Scenario"]

LONGEST = 1e7
"""Seconds of a world: four months."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world.

    Args:
        duration: seconds in which calls are made.
        loads: who makes them.
        service: what they call.
        clients: instances, each with a pipeline of its own.
        keys: how many keys there are (`"1"`, `"2"`, ...), all equally likely; for shards and for `Keyed`.
        calls: what calls and answers look like (`resilient.lab.calls`); None: keys, and "answer" or `ServiceError`.
        faults: what happens.
        drain: seconds after `duration` for the calls that are still under way; then they count as unfinished.
        name, title, about: for people.
        candidates: pipelines that are worth a try in it, by name.
    """

    duration: float
    loads: tuple[Load, ...]
    service: ServicePlan = field(default_factory=ServicePlan)
    clients: int = 1
    keys: int = 1
    calls: Calls | None = None
    faults: tuple[Fault, ...] = ()
    drain: float = 60.0
    name: str = ""
    title: str = ""
    about: str = ""
    candidates: dict[str, Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arguments.seconds("duration", self.duration)
        arguments.seconds("drain", self.drain, zero=True)
        arguments.count("clients", self.clients)
        arguments.count("keys", self.keys)
        for name in ("duration", "drain"):
            if (given := getattr(self, name)) > LONGEST:
                raise ValueError(f"{name} must be at most {LONGEST:,.0f} seconds, got {given!r}")
        if not self.loads:
            raise ValueError("loads must have at least one load, got none")
        if (calls := arguments.instance("calls", self.calls, Calls)) is not None:
            calls.check(next((load.keys[0] for load in self.loads if isinstance(load, Replay) and load.keys), "1"))
        scenario_checks.check(self.duration, self.loads, self.faults, self.service, self.keys)

    @property
    def calm(self) -> tuple[float, float]:
        """When the first of the faults that end begins, and when the last one is over; (0, 0) without any."""
        passing = [fault for fault in self.faults if fault.end is not None]
        if not passing:
            return 0.0, 0.0
        return min(fault.start for fault in passing), max(fault.end or 0.0 for fault in passing)
