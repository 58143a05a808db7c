"""One run of the demo: two fleets, two loads, one crash, and the record of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial

from resilient import events
from resilient.demo.extras import Extras
from resilient.demo.faults import SERVERS, FaultPlan, draw_plan
from resilient.demo.fleet import Fleet
from resilient.demo.gates import Gate, judge, machine
from resilient.demo.load import Counted, Load, arrivals
from resilient.demo.service import SERVICE, get_item, plain_client, resilient_client
from resilient.demo.tally import tally

__all__ = ["CircuitNews", "Experiment", "Settings"]

LEAD_SECONDS = 0.1  # seconds between the announcement of the start to the servers and the start


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a run. The same settings give the same arrivals and the same faults."""

    seed: int
    duration: float
    rate: float


@dataclass(frozen=True, slots=True)
class CircuitNews:
    """A change of a circuit's state, `at` seconds into the run."""

    at: float
    circuit: str
    old: str
    new: str
    reason: str


@dataclass(slots=True)
class Experiment:
    """A run, whose attributes can be read while `run` runs.

    Attributes:
        began: when the run began (a `time.monotonic()`), or None while the servers start.
        down: when the killed process was down, for each side, in seconds into the run; the end is None until it is
            back.
        circuits: the state of each circuit of the resilient side: of the service, then of each process.
        news: every change of these states.
        extras: the requests that the resilient side's policies added.
    """

    settings: Settings
    plain: Load = field(default_factory=lambda: Load("plain"))
    resilient: Load = field(default_factory=lambda: Load("resilient"))
    began: float | None = None
    down: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    circuits: dict[str, str] = field(default_factory=dict)
    news: list[CircuitNews] = field(default_factory=list)
    extras: Extras = field(default_factory=Extras)
    plan: FaultPlan = field(init=False)
    _names: dict[str, str] = field(init=False, repr=False)  # names of circuits, by origin

    def __post_init__(self) -> None:
        self.plan = draw_plan(self.settings.seed, self.settings.duration)
        names = ["inventory", *(f"inventory-{number}" for number in range(1, SERVERS + 1))]
        self.circuits = dict.fromkeys(names, "closed")

    @property
    def elapsed(self) -> float:
        """Seconds into the run; 0 before it."""
        return 0.0 if self.began is None else max(0.0, time.monotonic() - self.began)

    @property
    def gates(self) -> list[Gate]:
        """The gates with the results so far; the last one is whether the machine is fast enough for the load."""
        plain, guarded = tally(self.plain.records), tally(self.resilient.records)
        return [*judge(plain, guarded, self.resilient.requests_per_call), machine(self.plain.records)]

    async def run(self) -> None:
        """Run to the end: all calls are answered or given up, all processes have ended."""
        settings = self.settings
        async with (
            Fleet(seed=settings.seed, duration=settings.duration) as plain_fleet,
            Fleet(seed=settings.seed, duration=settings.duration) as resilient_fleet,
            plain_client(plain_fleet.urls, Counted(self.plain)) as plain,
            resilient_client(resilient_fleet.urls, Counted(self.resilient), settings.rate, self._hear) as guarded,
        ):
            self._names = dict(zip([f"{SERVICE}:80", *resilient_fleet.urls], self.circuits, strict=True))
            began = time.monotonic() + LEAD_SECONDS
            for fleet in (plain_fleet, resilient_fleet):
                fleet.begin(time.time() + LEAD_SECONDS)
            self.began = began
            async with asyncio.TaskGroup() as group:
                for load, client in ((self.plain, plain), (self.resilient, guarded)):
                    schedule = arrivals(settings.seed, settings.duration, settings.rate)
                    group.create_task(load.run(schedule, partial(get_item, client), began))
                group.create_task(self._crash("plain", plain_fleet, began))
                group.create_task(self._crash("resilient", resilient_fleet, began))

    async def _crash(self, side: str, fleet: Fleet, began: float) -> None:
        crash, clock = self.plan.crash, asyncio.get_running_loop().time
        await asyncio.sleep(began + crash.start - clock())
        fleet.kill(self.plan.victim)
        killed = clock() - began
        self.down[side] = (killed, None)
        await asyncio.sleep(began + crash.until - clock())
        await fleet.restart(self.plan.victim)
        self.down[side] = (killed, clock() - began)

    def _hear(self, event: events.Event) -> None:
        at = event.at - (self.began or event.at)
        self.extras.hear(event, at)
        if isinstance(event, events.CircuitChanged):
            # A transport's circuits are named by origin: "CircuitBreaker[http://127.0.0.1:8001]".
            circuit = self._names[event.policy.partition("[")[2].removesuffix("]")]
            self.circuits[circuit] = event.new
            self.news.append(CircuitNews(at, circuit, event.old, event.new, event.reason))
