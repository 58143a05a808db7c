"""Adaptive limits: `AdaptiveLimit` in virtual time, beside fixed limits and published algorithms.

The server has workers that take 50 ms for a request (exponential), and an unbounded queue. Calls come as a Poisson
process. The limit refuses a call or admits it to the server.

- *E6*: 600 calls a second; 20 workers for a minute, then 10, then 20 again. *of capacity*: calls served, as a share of
  what the workers can serve. Expected figures are those of a plain simulation of the published algorithms; the bars are
  on ours.
- *begin*: a server of 20, 100 or 200 workers, and 1.5 times as many calls as they can serve. *to 90%*: seconds from the
  default limit of 20 until a second in which 90% of the capacity is used.
- *priorities*: 20 workers, 100 calls a second of each class, and 12 times as many sheddable ones for a minute. After
  Netflix (Keeping Netflix Reliable Using Prioritized Load Shedding), where requests of users kept more than 99.4%
  success, and prefetches 20%.

No Python library has such a limit. So the peers are published algorithms (`limit_algorithms`), each inside our
`AdaptiveLimit`.
"""

from __future__ import annotations

import asyncio
import platform
import random
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contenders.limit_algorithms import Aimd, Gradient2, NetflixVegas
from benchmarks.effect.limits_plot import draw_limits
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Column, Figure, Report

__all__ = ["run"]

COLUMNS = (
    Column("of_capacity_x", "of capacity", "{:.3f}"),
    Column("expected_of_capacity_x", "expected", "{:.2f}"),
    Column("p50_ms", "p50 ms", "{:,.1f}"),
    Column("expected_p50_ms", "expected", "{:,.0f}"),
    Column("to_90_percent_s", "to 90% s", "{:.0f}"),
    Column("critical_percent", "critical %", "{:.2f}"),
    Column("normal_percent", "normal %", "{:.2f}"),
    Column("sheddable_percent", "sheddable %", "{:.2f}"),
)
MEAN, RATE = 0.05, 600.0
PHASES = ((60.0, 20), (60.0, 10), (60.0, 20))
BEGINS = (20, 100, 200)
SPIKE = (30.0, 90.0)
OURS = "AdaptiveLimit"


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of the simulations: seeds of E6 and of the priorities, and seconds of each begin."""

    seeds: int
    begin: float


QUICK, FULL = Plan(seeds=2, begin=15), Plan(seeds=12, begin=60)


@dataclass(frozen=True, slots=True)
class Row:
    """A limit, and its expected figures in each phase: the share of capacity, and the median in milliseconds."""

    name: str
    make: Callable[[], Any]
    expected: tuple[tuple[float, float], ...] = ()
    ours: bool = False


def rows() -> list[Row]:
    """The limits to compare; those of resilient come first."""
    from resilient import AdaptiveLimit, Bulkhead

    return [
        Row(OURS, AdaptiveLimit, ours=True),
        Row("Netflix' Vegas, 1 s", lambda: AdaptiveLimit(limiter=NetflixVegas), ((0.99, 43), (1.00, 56), (0.96, 38))),
        Row("Netflix' Gradient2", lambda: AdaptiveLimit(limiter=Gradient2), ((0.995, 72), (1.00, 114), (1.01, 96))),
        Row("Netflix' AIMD, 100 ms", lambda: AdaptiveLimit(limiter=Aimd), ((1.00, 73), (1.01, 87), (1.00, 73))),
        Row("fixed at 20", lambda: Bulkhead(20), ((0.92, 35), (1.01, 83), (0.93, 34))),
        Row("fixed at 200", lambda: Bulkhead(200), ((0.99, 488), (1.01, 985), (1.01, 483))),
    ]


class Server:
    """Workers and an unbounded queue. Admitted requests are never dropped."""

    def __init__(self, generator: random.Random, workers: int) -> None:
        self.generator = generator
        self.workers = workers
        self.busy = 0
        self.queue: deque[asyncio.Future[None]] = deque()

    async def ask(self) -> None:
        """Make one request: wait for a worker, and for its work."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue.append(answer)
        self.work()
        await answer

    def resize(self, workers: int) -> None:
        self.workers = workers
        self.work()

    def work(self) -> None:
        loop = asyncio.get_running_loop()
        while self.queue and self.busy < self.workers:
            self.busy += 1
            loop.call_later(self.generator.expovariate(1 / MEAN), self.end, self.queue.popleft())

    def end(self, answer: asyncio.Future[None]) -> None:
        self.busy -= 1
        answer.set_result(None)
        self.work()


@dataclass(slots=True)
class Calls:
    """One run: when each served call ended and how many seconds it took; and the limit, second by second."""

    ends: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)

    def served(self, begin: float, end: float) -> list[float]:
        """The seconds of the calls that ended between two times."""
        return [took for at, took in zip(self.ends, self.took, strict=True) if begin <= at < end]


async def offer(limit: Any, rate: float, phases: Sequence[tuple[float, int]], generator: random.Random) -> Calls:
    """Make calls at a `rate` through the limit. Each phase is seconds, and the number of workers in that time."""
    from resilient import Pipeline, Rejected

    loop, seen = asyncio.get_running_loop(), Calls()
    server = Server(generator, phases[0][1])
    ask = Pipeline(limit)(server.ask)

    async def call() -> None:
        began = loop.time()
        try:
            await ask()
        except Rejected:
            return
        seen.ends.append(loop.time())
        seen.took.append(loop.time() - began)

    async def steer() -> None:
        for seconds, workers in phases:
            server.resize(workers)
            await asyncio.sleep(seconds)

    async def watch() -> None:
        while True:
            seen.limits.append(getattr(limit, "current_limit", 0) or limit.max_concurrent)
            await asyncio.sleep(1)

    steering, watching = loop.create_task(steer()), loop.create_task(watch())
    async with asyncio.TaskGroup() as group:
        while not steering.done():
            await asyncio.sleep(generator.expovariate(rate))
            group.create_task(call())
    watching.cancel()
    return seen


async def offer_priorities(limit: Any, generator: random.Random) -> dict[str, tuple[int, int]]:
    """Simulate the priorities. Returns for each class how many calls of the spike were served, and how many were
    made."""
    from resilient import Pipeline, Rejected
    from resilient.core.priority import PRIORITIES, priority

    loop = asyncio.get_running_loop()
    ask = Pipeline(limit)(Server(generator, 20).ask)
    counts = {name: [0, 0] for name in PRIORITIES}

    async def call(name: Any, counted: bool) -> None:
        served = 1
        with priority(name):
            try:
                await ask()
            except Rejected:
                served = 0
        if counted:
            counts[name][0] += served
            counts[name][1] += 1

    async def arrive(name: str, group: asyncio.TaskGroup) -> None:
        while (now := loop.time()) < SPIKE[1]:
            spiking = now >= SPIKE[0]
            await asyncio.sleep(generator.expovariate(1200.0 if spiking and name == "sheddable" else 100.0))
            group.create_task(call(name, spiking))

    async with asyncio.TaskGroup() as group:
        for name in PRIORITIES:
            group.create_task(arrive(name, group))
    return {name: (served, made) for name, (served, made) in counts.items()}


def run(options: Options) -> Report:
    """Simulate everything with every seed. In E6 the mean over the seeds is judged, and the note has the worst seed."""
    from resilient.runtime import virtual  # here: it slows other benchmarks (see `overhead`)

    def simulated(name: str, what: Callable[..., Any], *given: Any) -> Any:
        generator = random.Random(f"{options.seed} {name}")
        before = random.getstate()
        random.seed(f"{options.seed} {name} limiter")
        try:
            return virtual.run(what(*given, generator))
        finally:
            random.setstate(before)

    plan = QUICK if options.quick else FULL
    seen: dict[str, list[Calls]] = {}
    every = rows()
    for row, seed in options.track([(row, seed) for row in every for seed in range(plan.seeds)], "limits, E6"):
        seen.setdefault(row.name, []).append(simulated(f"E6 {seed}", offer, row.make(), RATE, PHASES))
    figures = [
        figure for number in range(len(PHASES)) for row in every for figure in _phase(number, row, seen[row.name])
    ]
    adaptive = [row for row in every if not row.name.startswith("fixed")]
    cells = [(workers, row) for workers in BEGINS for row in adaptive]
    for workers, row in options.track(cells, "limits, begin"):
        rate, phases = 1.5 * workers / MEAN, ((plan.begin, workers),)
        one = simulated(f"begin {workers}", offer, row.make(), rate, phases)
        figures.append(_begin(workers, row, one, plan.begin))
    kinds: list[Row] = [every[0], every[-2]]
    for row in options.track(kinds, "limits, priorities"):
        parts = [simulated(f"crowd {seed}", offer_priorities, row.make()) for seed in range(plan.seeds)]
        figures.append(_priorities(row, parts))
    conditions = {
        "python": platform.python_version(),
        "seed": options.seed,
        "seeds": plan.seeds,
        "service_mean_s": MEAN,
        "load_calls_per_s": RATE,
        "begin_s": plan.begin,
    }
    found = {row.name: seen[row.name][0] for row in every}
    return Report(
        "limits", COLUMNS, figures, conditions, plot=lambda report, file: draw_limits(report, file, found, PHASES)
    )


def _phase(number: int, row: Row, parts: Sequence[Calls]) -> list[Figure]:
    begin = sum(seconds for seconds, _ in PHASES[:number])
    seconds, workers = PHASES[number]
    group = f"E6, from {begin:g} s: {workers} workers"
    served = [part.served(begin, begin + seconds) for part in parts]
    shares = [len(each) / seconds * MEAN / workers for each in served]
    medians = [1000 * statistics.median(each) for each in served]
    values = {"of_capacity_x": round(statistics.fmean(shares), 4), "p50_ms": round(statistics.fmean(medians), 2)}
    if row.expected:
        values["expected_of_capacity_x"], values["expected_p50_ms"] = row.expected[number]
    note = f"worst seed {min(shares):.3f}, {max(medians):.0f} ms"
    if not row.ours:
        return [Figure(group, row.name, values, note=note)]
    return [
        Figure(group, row.name, values, Bar("of_capacity_x", 0.95, at_least=True), True, note),
        Figure(group, f"{row.name}: p50", {"p50_ms": values["p50_ms"]}, Bar("p50_ms", 60), True),
    ]


def _begin(workers: int, row: Row, one: Calls, seconds: float) -> Figure:
    enough = 0.9 * workers / MEAN
    reached = next((end for end in range(1, int(seconds) + 1) if len(one.served(end - 1, end)) >= enough), None)
    values: Mapping[str, float] = {} if reached is None else {"to_90_percent_s": reached}
    note = "" if reached is not None else f"not within {seconds:g} s"
    note = f"{note}{', ' if note else ''}limit {one.limits[-1]:,.0f}"
    return Figure(f"begin: {workers} workers", row.name, values, ours=row.ours, note=note)


def _priorities(row: Row, parts: Sequence[Mapping[str, tuple[int, int]]]) -> Figure:
    values = {
        f"{name}_percent": round(100 * sum(part[name][0] for part in parts) / sum(part[name][1] for part in parts), 3)
        for name in parts[0]
    }
    bar = Bar("critical_percent", 99.4, at_least=True) if row.ours else None
    return Figure("priorities: 12 times the sheddable calls", row.name, values, bar, row.ours)
