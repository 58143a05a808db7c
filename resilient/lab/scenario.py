"""A scenario: a world as data, and the pipelines to try in it. `resilient.lab.world` runs it."""

from __future__ import annotations

from dataclasses import dataclass, field

from resilient import _validation
from resilient.faults import Fault
from resilient.lab import scenario_checks
from resilient.lab.calls import Calls
from resilient.lab.candidates import Candidate
from resilient.lab.load import Load, Replay
from resilient.lab.service_plan import ServicePlan

__all__ = ["Scenario"]

LONGEST = 1e7
"""The longest duration of a world in seconds: four months."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world.

    Args:
        duration: seconds in which calls are made.
        loads: the calls of clients, and their times.
        service: the service that is called.
        clients: number of clients, each with its own pipeline.
        keys: number of keys (`"1"`, `"2"`, ...), all equally likely; for shards and for `Keyed`.
        calls: the arguments and answers of calls (`resilient.lab.calls`); None: the argument of a call is its key, and
            its result is "answer" or a `ServiceError`.
        faults: the faults, each with its time.
        drain: seconds after `duration` in which calls may still end; then they count as unfinished.
        name, title, about: for people.
        candidates: the pipelines to try, by name.

    Raises `ValueError` or `TypeError` for a bad argument, and for a load or a fault that cannot have an effect.
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
        _validation.seconds("duration", self.duration)
        _validation.seconds("drain", self.drain, zero=True)
        _validation.count("clients", self.clients)
        _validation.count("keys", self.keys)
        for name in ("duration", "drain"):
            if (given := getattr(self, name)) > LONGEST:
                raise ValueError(f"{name} must be at most {LONGEST:,.0f} seconds, got {given!r}")
        if not self.loads:
            raise ValueError("loads must have at least one load, got none")
        if (calls := _validation.instance("calls", self.calls, Calls)) is not None:
            calls.check(next((load.keys[0] for load in self.loads if isinstance(load, Replay) and load.keys), "1"))
        scenario_checks.check(self.duration, self.loads, self.faults, self.service, self.keys)

    @property
    def calm(self) -> tuple[float, float]:
        """The start of the first fault that ends, and the end of the last one; (0, 0) if no fault ends."""
        passing = [fault for fault in self.faults if fault.end is not None]
        if not passing:
            return 0.0, 0.0
        return min(fault.start for fault in passing), max(fault.end or 0.0 for fault in passing)
