"""What goes wrong in the demo, and when: pure data, drawn from a seed.

Three faults, under the names that chaos tools have for them: `Latency` (answers that take long),
`ErrorBurst` (answers that are errors) and `Crash` (no process to answer). The parent and every
server process draw the same plan from the same seed, so no plan has to be sent around.

The run is cut into slots with one fault each, and each fault leaves the end of its slot for
recovery. So a longer run has more bursts, not longer ones, and a shorter run has shorter ones: in
either, something is wrong for about 30% of the time, and there is one crash, in the middle.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["SERVERS", "Crash", "ErrorBurst", "FaultPlan", "Latency", "draw_plan"]

SERVERS = 3  # processes a side: enough that one can be away, few enough for a small machine
SLOT_SECONDS = 7.0  # a slot is about this long in runs of 20 s and more
FAULT_SHARE = 0.3  # of its slot; 2 s in a run of 20 s


@dataclass(frozen=True, slots=True)
class Latency:
    """A slow tail, all the time: a `share` of answers takes `low_seconds` to `high_seconds`."""

    share: float
    low_seconds: float
    high_seconds: float

    def describe(self) -> str:
        """The fault in a few words."""
        low, high = self.low_seconds, self.high_seconds
        return f"{self.share:.0%} of answers take {low:g}-{high:g} s"


@dataclass(frozen=True, slots=True)
class ErrorBurst:
    """A `share` of the answers of some `servers` (numbered from 1) is `status`, for a while."""

    start_seconds: float
    end_seconds: float
    servers: tuple[int, ...]
    share: float
    status: int = 503

    def describe(self) -> str:
        """The fault in a few words."""
        many = len(self.servers) > 1
        where = "all servers" if many else f"server {self.servers[0]}"
        return f"{self.share:.0%} {self.status} on {where}"


@dataclass(frozen=True, slots=True)
class Crash:
    """Process `server` is killed at start. A new one is launched at restart, and then loads."""

    start_seconds: float
    restart_seconds: float
    server: int

    def describe(self) -> str:
        """The fault in a few words."""
        return f"SIGKILL of server {self.server}"


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """All faults of one run."""

    latency: Latency
    bursts: tuple[ErrorBurst, ...]
    crash: Crash

    def error_share(self, server: int, seconds: float) -> tuple[float, int]:
        """The share of requests that `server` answers with an error then, and the status."""
        for burst in self.bursts:
            if server in burst.servers and burst.start_seconds <= seconds < burst.end_seconds:
                return burst.share, burst.status
        return 0.0, 200

    def as_json(self) -> list[dict[str, Any]]:
        """The faults as plain data, in order of time, the permanent one first."""
        timed: list[ErrorBurst | Crash] = [*self.bursts, self.crash]
        timed.sort(key=lambda fault: fault.start_seconds)
        kinds = {Latency: "latency", ErrorBurst: "error_burst", Crash: "crash"}
        return [{"kind": kinds[type(each)], **asdict(each)} for each in (self.latency, *timed)]


def draw_plan(seed: int, duration: float, servers: int = SERVERS) -> FaultPlan:
    """The faults of a run of `duration` seconds against `servers` processes.

    Bursts alternate between one process that fails every request (overloaded, say, or badly
    deployed) and all processes failing 3 in 10 (something behind them): the one can be dodged, the
    other only outlasted.
    """
    draw = random.Random(f"{seed}/faults")
    slots = max(3, round(duration / SLOT_SECONDS))
    slot = duration / slots
    everyone = tuple(range(1, servers + 1))
    bursts: list[ErrorBurst] = []
    crash = Crash(0.0, 0.0, 1)
    for number in range(slots):
        start = (number + draw.uniform(0.15, 0.45)) * slot
        end = start + FAULT_SHARE * slot
        victim = draw.choice(everyone)
        if number == slots // 2:
            # The replacement needs some 0.5 s to load, so it is started before the end: 2 s without
            # it, all in all.
            crash = Crash(start, start + (end - start) * 2 / 3, victim)
        elif len(bursts) % 2 == 0:
            bursts.append(ErrorBurst(start, end, (victim,), share=1.0))
        else:
            bursts.append(ErrorBurst(start, end, everyone, share=0.3))
    return FaultPlan(Latency(share=0.02, low_seconds=0.5, high_seconds=3.0), tuple(bursts), crash)
