"""The faults of the demo, drawn from a seed: a plan of faults from `resilient.faults`.

There are three faults: `Latency` (late answers), bursts of `Errors` (answers that are errors) and a `Crash` (no process
that answers). The parent and every server process draw the same plan from the same seed, so the plan is never sent.

The run is divided into slots with one fault each, and each fault leaves the end of its slot for recovery. So a longer
run has more bursts, not longer ones, and a shorter run has shorter ones: in both, something is wrong for about 30% of
the time, and there is one crash, in the middle.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from resilient.faults import Crash, Errors, Fault, Latency

__all__ = ["SERVERS", "FaultPlan", "draw_plan"]

SERVERS = 3  # processes on each side: enough to lose one, few enough for a small machine
SLOT_SECONDS = 7.0  # seconds, about, of a slot in runs of 20 s and more
FAULT_SHARE = 0.3  # share of its slot that a burst takes; 2 s in a run of 20 s
STATUS = 503


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """All faults of one run, for processes numbered from 1. The crash hits one of them, which is then restarted."""

    latency: Latency
    bursts: tuple[Errors, ...]
    crash: Crash

    def __post_init__(self) -> None:
        if len(self.crash.targeted) != 1 or not isinstance(self.crash.targeted[0], int):
            raise ValueError(f"crash must have the number of one server as its targets, got {self.crash.targets!r}")
        if self.crash.end is None:
            raise ValueError("crash must have an end, when the server is replaced, got None")

    @property
    def victim(self) -> int:
        """The number of the process that is killed."""
        return int(self.crash.targeted[0])

    @property
    def served(self) -> tuple[Fault, ...]:
        """The faults that the processes themselves produce. The errors of a burst are not late."""
        return (*self.bursts, self.latency)

    def as_json(self) -> list[dict[str, Any]]:
        """The faults as plain data with stable keys, in order of time, the permanent one first."""
        latency = {
            "kind": "latency",
            "share": self.latency.share,
            "low_seconds": self.latency.low,
            "high_seconds": self.latency.high,
        }
        timed: list[dict[str, Any]] = [
            {
                "kind": "error_burst",
                "start_seconds": burst.start,
                "end_seconds": burst.end,
                "servers": list(burst.targeted),
                "share": burst.share,
                "status": burst.answer[0],
            }
            for burst in self.bursts
        ]
        timed.append(
            {
                "kind": "crash",
                "start_seconds": self.crash.start,
                "restart_seconds": self.crash.end,
                "server": self.victim,
            }
        )
        return [latency, *sorted(timed, key=lambda fault: fault["start_seconds"])]


def draw_plan(seed: int, duration: float, servers: int = SERVERS) -> FaultPlan:
    """The faults of a run of `duration` seconds with `servers` processes.

    Bursts alternate between one process that fails every request (for example, overloaded or badly deployed) and all
    processes failing 3 in 10 (for example, because of a common dependency): a client can avoid the former, and can only
    outlast the latter.
    """
    draw = random.Random(f"{seed}/faults")
    slots = max(3, round(duration / SLOT_SECONDS))
    slot = duration / slots
    everyone = tuple(range(1, servers + 1))
    bursts: list[Errors] = []
    crash = Crash(targets=1)
    for number in range(slots):
        start = (number + draw.uniform(0.15, 0.45)) * slot
        end = start + FAULT_SHARE * slot
        victim = draw.choice(everyone)
        if number == slots // 2:
            # The new process needs some 0.5 s to load, so it is started before the end: 2 s without
            # it, all in all.
            crash = Crash(start=start, end=start + (end - start) * 2 / 3, targets=victim)
        elif len(bursts) % 2 == 0:
            bursts.append(Errors(start=start, end=end, targets=victim, status=STATUS))
        else:
            bursts.append(Errors(start=start, end=end, targets=everyone, share=0.3, status=STATUS))
    return FaultPlan(Latency(share=0.02, low=0.5, high=3.0), tuple(bursts), crash)
