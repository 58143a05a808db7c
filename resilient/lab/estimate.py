"""The time and memory that a simulation takes, estimated before it begins: a rate with three zeros too many is reported
at once, not after an hour.

The figures are measured on one core with CPython, for calls of one request each. Retries, and a service that stalls,
add to them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from resilient.lab.candidates import Candidate
from resilient.lab.scenario import Scenario

__all__ = ["LONGEST", "MOST_MEMORY", "Estimate", "estimate"]

CALLS_A_SECOND = 40_000
SECONDS_OF_A_CLIENT, SECONDS_OF_A_FAULT = 2e-3, 2e-7
"""Seconds to build the pipeline of a client; and to ask for each request whether a fault hits it."""
BYTES_OF_A_CALL, BYTES_OF_A_CALL_UNDER_WAY = 160, 1_000
BYTES_OF_A_CLIENT, BYTES_OF_A_SERVER, BYTES_OF_ITS_ADMISSION = 30_000, 1_500, 20_000

CONTAINER = Path("/sys/fs/cgroup/memory.max")
LONGEST, MOST_MEMORY = 600.0, 2e9
"""Seconds and bytes that a simulation may take without `--large`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of some candidates in a scenario.

    Attributes:
        calls: number of calls in all runs.
        seconds: at least.
        memory: at least, in bytes.
        most: the key of the setting that costs most.
    """

    calls: float
    seconds: float
    memory: float
    most: str

    @property
    def fits(self) -> bool:
        """Whether this process may use that much memory."""
        return self.memory <= _memory_there_is()

    @property
    def is_large(self) -> bool:
        """Whether the simulation takes more than `LONGEST` seconds, or more than `MOST_MEMORY` bytes."""
        return self.seconds > LONGEST or self.memory > MOST_MEMORY

    def __str__(self) -> str:
        memory = f"{_rounded(self.memory / 1e9)} GB of memory"
        return f"{_rounded(self.calls)} calls, {_duration(self.seconds)} and {memory} at least, most for {self.most}"


def estimate(scenario: Scenario, candidates: Collection[Candidate], runs: int) -> Estimate:
    """The cost of these candidates in a scenario, with `runs` runs each."""
    service, rounds = scenario.service, float(len(candidates) * runs)
    mean = min(service.service_time.expected, scenario.duration)
    loads = [load.expected(scenario.duration, mean) for load in scenario.loads]
    sizes = [fields(load)[0].name for load in scenario.loads]  # type: ignore[arg-type]
    at_once = [load.at_once(scenario.duration, mean) for load in scenario.loads]
    seconds = 1 / CALLS_A_SECOND + SECONDS_OF_A_FAULT * len(scenario.faults)
    admits = service.admission is not None or any(each.admission is not None for each in candidates)
    server = BYTES_OF_A_SERVER + BYTES_OF_ITS_ADMISSION * admits
    parts = [
        (
            f"load[{at}].{size}" if len(loads) > 1 else f"load.{size}",
            rounds * calls * seconds,
            rounds * calls * BYTES_OF_A_CALL + waiting * BYTES_OF_A_CALL_UNDER_WAY,
        )
        for at, (size, calls, waiting) in enumerate(zip(sizes, loads, at_once, strict=True))
    ]
    clients = float(scenario.clients)
    parts.append(("clients.instances", rounds * clients * SECONDS_OF_A_CLIENT, clients * BYTES_OF_A_CLIENT))
    parts.append(("service.servers", 0.0, float(service.servers) * server))
    most = max(parts, key=lambda part: max(part[1] / LONGEST, part[2] / MOST_MEMORY))[0]
    return Estimate(
        rounds * math.fsum(loads),
        math.fsum(part[1] for part in parts),
        math.fsum(part[2] for part in parts),
        most,
    )


def _memory_there_is() -> float:
    """The memory of the machine in bytes, or less if the process or its container has a limit."""
    known = [math.inf]
    with suppress(AttributeError, ValueError, OSError):  # no system has all of them
        known.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    with suppress(ValueError, OSError):  # "max" is no limit
        known.append(float(int(CONTAINER.read_text())))
    with suppress(ImportError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        known.append(math.inf if limit == resource.RLIM_INFINITY else float(limit))
    return min(known)


def _rounded(number: float) -> str:
    """A number with two digits, and a word for a large one."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if number >= size:
            return f"{number / size:,.2g}{word}" if number < 100 * size else f"{number / size:,.0f}{word}"
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


def _duration(seconds: float) -> str:
    for size, word in ((31_557_600, "years"), (86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {word}"
    return f"{seconds:.0f} s"
