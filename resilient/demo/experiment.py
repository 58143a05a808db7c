"""One run of the demo: two fleets, two loads, one crash, and what was seen of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import httpx

from resilient import events
from resilient.demo.faults import SERVERS, FaultPlan, draw_plan
from resilient.demo.fleet import Fleet
from resilient.demo.gates import Gate, judge
from resilient.demo.load import Load, arrivals
from resilient.demo.service import plain_inventory, resilient_inventory
from resilient.demo.tally import tally

__all__ = ["CircuitNews", "Experiment", "Settings"]

# What the plain client has, and what lies under the resilient one's own: httpx's default, which is
# also longer than the longest slow answer, so that the plain client is not made to fail by it.
CLIENT_TIMEOUT_SECONDS = 5.0
LEAD_SECONDS = 0.1  # between telling the servers when the run begins, and its beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run is drawn from. The same settings give the same arrivals and the same faults."""

    seed: int
    duration: float
    rate: float


@dataclass(frozen=True, slots=True)
class CircuitNews:
    """A circuit's change of state, `at` seconds into the run."""

    at: float
    circuit: str
    old: str
    new: str
    reason: str


@dataclass(slots=True)
class Experiment:
    """A run, watched through its attributes while `run` runs.

    Attributes:
        began: when the run began (a `time.monotonic()`), or None while the servers start.
        down: when the killed process was away, per side, in seconds into the run; the end is None
            until it is back.
        circuits: the state of each circuit of the resilient side.
        news: every change of those states.
    """

    settings: Settings
    plain: Load = field(default_factory=lambda: Load("plain"))
    resilient: Load = field(default_factory=lambda: Load("resilient"))
    began: float | None = None
    down: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    circuits: dict[str, str] = field(default_factory=dict)
    news: list[CircuitNews] = field(default_factory=list)
    plan: FaultPlan = field(init=False)

    def __post_init__(self) -> None:
        self.plan = draw_plan(self.settings.seed, self.settings.duration)
        self.circuits = {f"inventory-{number}": "closed" for number in range(1, SERVERS + 1)}

    @property
    def elapsed(self) -> float:
        """Seconds into the run; 0 before it."""
        return 0.0 if self.began is None else max(0.0, time.monotonic() - self.began)

    @property
    def gates(self) -> list[Gate]:
        """The verdict, as things stand."""
        plain, guarded = tally(self.plain.records), tally(self.resilient.records)
        return judge(plain, guarded, self.resilient.requests_per_call)

    async def run(self) -> None:
        """Run to the end: all calls answered or given up, all processes gone."""
        settings = self.settings
        async with (
            Fleet(seed=settings.seed, duration=settings.duration) as plain_fleet,
            Fleet(seed=settings.seed, duration=settings.duration) as resilient_fleet,
            _client(self.plain) as plain_client,
            _client(self.resilient) as resilient_client,
        ):
            plain = plain_inventory(plain_client, plain_fleet.urls)
            guarded = resilient_inventory(resilient_client, resilient_fleet.urls, self._hear)
            began = time.monotonic() + LEAD_SECONDS
            for fleet in (plain_fleet, resilient_fleet):
                fleet.begin(time.time() + LEAD_SECONDS)
            self.began = began
            async with asyncio.TaskGroup() as group:
                for load, get_item in ((self.plain, plain), (self.resilient, guarded)):
                    schedule = arrivals(settings.seed, settings.duration, settings.rate)
                    group.create_task(load.run(schedule, get_item, began))
                group.create_task(self._crash("plain", plain_fleet, began))
                group.create_task(self._crash("resilient", resilient_fleet, began))

    async def _crash(self, side: str, fleet: Fleet, began: float) -> None:
        crash = self.plan.crash
        await asyncio.sleep(began + crash.start_seconds - time.monotonic())
        fleet.kill(crash.server)
        killed = time.monotonic() - began
        self.down[side] = (killed, None)
        await asyncio.sleep(began + crash.restart_seconds - time.monotonic())
        await fleet.restart(crash.server)
        self.down[side] = (killed, time.monotonic() - began)

    def _hear(self, event: events.Event) -> None:
        if isinstance(event, events.CircuitChanged):
            at = event.at - (self.began or event.at)
            self.circuits[event.policy] = event.new
            self.news.append(CircuitNews(at, event.policy, event.old, event.new, event.reason))


def _client(load: Load) -> httpx.AsyncClient:
    # trust_env off: a proxy of the environment must not come between us and our own loopback.
    return httpx.AsyncClient(timeout=CLIENT_TIMEOUT_SECONDS, event_hooks={"request": [load.count]}, trust_env=False)
