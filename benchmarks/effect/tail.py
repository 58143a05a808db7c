"""What a hedge brings: the tail of latency, and the extra requests, against published results.

Our own `Hedge` in virtual time, against backends that only sleep. Two experiments:

- *E2*, of bhope/hedge: 20 clients, each with one request after the other; the backend sleeps lognormally, 5 ms on
  average with a deviation of 2 ms, and one time in twenty ten times as long. The bars are the figures of a plain
  simulation, which agree with what was published (in Go, over loopback). Without a hedge there is none: p95 is where
  the slow twentieth begins, in a gap that few requests fall into, and a tail that differs by 0.1% moves it by 4 ms.
- *E1*, of J. Dean and L. Barroso, The Tail at Scale: a request is 100 calls at once and lasts as long as the slowest of
  them; a call lasts as in a distribution that is a straight line between the published points, on logarithmic axes. A
  hedge after 10 ms is to bring p99.9 from 1,800 ms to 74 ms for 2% more calls.

In both the delay may also be *observed* (`quantile`), after 5,000 calls of warm-up: in E1 the p98, for no more than
2.2% more calls; in E2 the p92.5, with three copies (above p92.2 the extra requests meet their bar, and below p92.9 the
p99 does).

All draws are independent, so the tail of a hedged call is known: S(t) S(t - d), where S is the tail without a hedge and
d the delay. The last group says how far the measured tails are from that, in standard errors: the largest of some 40
places.

*Under load*, each copy takes time of a server that others wait for (`queueing`). A hedge that is paid for by
a Budget may never make the p99 worse than it is without one: `worse` is how far its 95% interval is beyond the other's.
Where servers stop what is cancelled, hedges take work
away: worth more than any tuning of the delay.

Every seed is a run of its own, and figures are pooled. `±` is half the 95% interval of p99.9 between seeds (Student's
t). Few requests lie beyond p99.9, and their distances are lopsided; so E1 is judged by the 95% interval that the order
of all requests gives (whatever their distribution), and `outside` says how far the published figure is from that. Bars
on a p99 or p99.9 are judged by such an interval, too: with --quick it is twice as wide.
"""

from __future__ import annotations

import asyncio
import math
import platform
import random
import statistics
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Column, Curve, Figure, Report
from benchmarks.harness.statistics import Spread

__all__ = ["run"]

QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99, "p999_ms": 0.999}
LABELS = {"p99_ms": "p99", "p999_ms": "p99.9", "extra_percent": "extra"}
COLUMNS = (
    Column("p50_ms", "p50"),
    Column("p95_ms", "p95"),
    Column("p99_ms", "p99"),
    Column("p999_ms", "p99.9 ms", "{:,.1f}"),
    Column("p999_plus_minus_ms", "±"),
    Column("p50_s", "p50 s", "{:.2f}"),
    Column("p95_s", "p95 s", "{:.2f}"),
    Column("p99_s", "p99 s", "{:.2f}"),
    Column("of_none_percent", "of none's, %", "{:.0f}"),
    Column("worse_s", "worse"),
    Column("extra_percent", "extra %", "{:.2f}"),
    Column("off_percent", "off %"),
    Column("outside_ms", "outside"),
    Column("off_errors", "errors"),
)
STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""The 97.5% quantile of Student's t, by degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is simulated: for each seed, in parts (for the progress bar)."""

    seeds: int
    requests: int
    fanned_out: int
    parts: int = 1
    farms: int = 1
    served: int = 20_000


QUICK = Plan(seeds=4, requests=10_000, fanned_out=1_000, served=10_000)
FULL = Plan(seeds=4, requests=50_000, fanned_out=5_000, parts=5, farms=4)
CLIENTS = 20
FAN_OUT = 100


class Backend:
    """Sleeps as long as its distribution says, and counts what it is asked."""

    def __init__(self, draw: Callable[[random.Random], float], seed: str) -> None:
        self.draw = draw
        self.random = random.Random(seed)
        self.requests = 0

    async def ask(self) -> None:
        self.requests += 1
        await asyncio.sleep(self.draw(self.random) / 1000)


MEAN, DEVIATION, SLOW, FACTOR = 5.0, 2.0, 0.05, 10.0
_VARIANCE = math.log1p((DEVIATION / MEAN) ** 2)
_NORMAL = statistics.NormalDist(math.log(MEAN) - _VARIANCE / 2, math.sqrt(_VARIANCE))


def draw_lognormal(generator: random.Random) -> float:
    """Milliseconds, one request in E2."""
    milliseconds = generator.lognormvariate(_NORMAL.mean, _NORMAL.stdev)
    return milliseconds * FACTOR if generator.random() < SLOW else milliseconds


def tail_lognormal(milliseconds: float) -> float:
    """The share of requests that takes longer."""
    if milliseconds <= 0:
        return 1.0
    at = math.log(milliseconds)
    return 1 - (1 - SLOW) * _NORMAL.cdf(at) - SLOW * _NORMAL.cdf(at - math.log(FACTOR))


POINTS = ((1.0, 1.0), (3.0, 0.5), (10.0, 0.02), (69.0, 3.16e-3), (1_800.0, 1e-5), (20_000.0, 1e-7))
"""Milliseconds, and the share of calls that take longer: The Tail at Scale."""
_PIECES = [
    (math.log(x), math.log(y), (math.log(y) - math.log(later_y)) / (math.log(later_x) - math.log(x)))
    for (x, y), (later_x, later_y) in pairwise(POINTS)
]
_RISING = [-y for _, y, _ in _PIECES]


def draw_published(generator: random.Random) -> float:
    """Milliseconds, one call in E1. The last piece goes on for ever."""
    share = math.log(1 - generator.random())
    x, y, steepness = _PIECES[bisect_right(_RISING, -share) - 1]
    return math.exp(x + (y - share) / steepness)


def tail_published(milliseconds: float) -> float:
    """The share of calls that takes longer."""
    if milliseconds <= POINTS[0][0]:
        return 1.0
    at = math.log(milliseconds)
    x, y, steepness = _PIECES[bisect_right([x for x, _, _ in _PIECES], at) - 1]
    return math.exp(y - (at - x) * steepness)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One policy in one experiment; `published` are the figures it is to meet, by key."""

    group: str
    name: str
    delays: tuple[float, ...]
    fan_out: int
    expected: dict[str, float]
    observed: tuple[float, int] | None = None
    """The quantile that it waits for, and how many copies there are; it has seen `WARM_UP` calls before."""

    @property
    def tail(self) -> Callable[[float], float]:
        """The share of calls that takes longer, computed."""
        single = tail_published if self.fan_out > 1 else tail_lognormal
        starts = [1000 * sum(self.delays[:copies]) for copies in range(len(self.delays) + 1)]
        return lambda milliseconds: math.prod(single(milliseconds - start) for start in starts)


E2 = "E2, bhope/hedge: hedge after"
E1 = "E1, The Tail at Scale, 100 calls at once: hedge after"
NONE, ONCE, TWICE = (
    Row(E2, "none", (), 1, dict(zip(QUANTILES, (4.8, 8.7, 17.4, 64.2, 102.5), strict=True))),
    Row(
        E2,
        "10 ms",
        (0.010,),
        1,
        {**dict(zip(QUANTILES, (4.8, 8.7, 12.7, 16.8, 45.3), strict=True)), "extra_percent": 7.2},
    ),
    Row(E2, "10 ms, then 20 ms", (0.010, 0.010), 1, {"p99_ms": 16.8, "p999_ms": 25.2, "extra_percent": 7.6}),
)
FANNED, FANNED_ONCE = (
    Row(E1, "none", (), FAN_OUT, {"p50_ms": 30.5, "p99_ms": 499.0, "p999_ms": 1796.0}),
    Row(E1, "10 ms", (0.010,), FAN_OUT, {"p50_ms": 13.1, "p99_ms": 26.0, "p999_ms": 73.8, "extra_percent": 2.0}),
)
OBSERVED = Row(
    E2, "observed p92.5, 3 copies", (), 1, {"p99_ms": 17.0, "p999_ms": 30.0, "extra_percent": 8.0}, (0.925, 3)
)
FANNED_OBSERVED = Row(E1, "observed p98", (), FAN_OUT, {"p999_ms": 80.0, "extra_percent": 2.2}, (0.98, 2))
ROWS = (NONE, ONCE, TWICE, OBSERVED, FANNED, FANNED_ONCE, FANNED_OBSERVED)
WARM_UP = 5_000


@dataclass(frozen=True, slots=True)
class Loaded:
    """One policy in front of servers with queues (see `queueing`)."""

    load: float
    name: str
    hedge: Callable[[], Any] | None
    stops: bool = False
    bar: Bar | None = None

    @property
    def group(self) -> str:
        return f"under load {self.load:g}, seconds: hedge"


def loaded() -> list[Loaded]:
    """Rows of all loads, that without a hedge first."""
    from resilient import Budget, Hedge
    from resilient import quantile as observed

    no_worse = Bar("worse_s", 0)
    rows = []
    for load in (0.4, 0.8, 0.9):
        cancelled = CANCELLED.get(load)
        rows += [
            Loaded(load, "none", None),
            Loaded(load, "after 4 s", lambda: Hedge(4)),
            Loaded(load, "after 4 s, budget", lambda: Hedge(4, budget=Budget()), bar=no_worse),
            Loaded(load, "observed p95, budget", lambda: Hedge(observed(0.95), budget=Budget()), bar=no_worse),
            Loaded(
                load,
                "after 4 s, the server stops what is cancelled",
                lambda: Hedge(4),
                True,
                None if cancelled is None else Bar("p99_s", round(1.15 * cancelled, 3)),
            ),
            Loaded(
                load,
                "observed p95, budget, the server stops what is cancelled",
                lambda: Hedge(observed(0.95), budget=Budget()),
                True,
                no_worse,
            ),
        ]
    return rows


CANCELLED = {0.8: 6.0, 0.9: 6.6}
"""Seconds: the expected p99 where servers stop what is cancelled, by load; 15% more are the bar."""


class Measured:
    """What came of one row and one seed: milliseconds of each request and of each call, and requests to the backend."""

    def __init__(self) -> None:
        self.requests = array("d")
        self.calls = array("d")
        self.asked = 0

    @staticmethod
    def pooled(parts: Sequence[Measured]) -> Measured:
        pool = Measured()
        for part in parts:
            pool.requests.extend(part.requests)
            pool.calls.extend(part.calls)
            pool.asked += part.asked
        return pool

    def values(self) -> dict[str, float]:
        return {
            **{key: quantile(self.requests, share) for key, share in QUANTILES.items()},
            "extra_percent": 100 * (self.asked / len(self.calls) - 1),
        }


def quantile(numbers: Sequence[float], share: float) -> float:
    """Of `numbers`, that which `share` of them do not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


async def simulate(row: Row, requests: int, seed: str) -> Measured:
    """`requests` of them, by clients that make one after the other; by a single one where a request is many calls."""
    from resilient import Hedge
    from resilient import quantile as observed

    loop = asyncio.get_running_loop()
    backend = Backend(draw_published if row.fan_out > 1 else draw_lognormal, seed)
    ask = Hedge(row.delays)(backend.ask) if row.delays else backend.ask
    if row.observed is not None:
        share, copies = row.observed
        ask = Hedge(observed(share), copies=copies)(backend.ask)
        for _ in range(WARM_UP):
            await ask()
        backend.requests = 0
    measured = Measured()
    left = iter(range(requests))

    async def call() -> None:
        began = loop.time()
        await ask()
        measured.calls.append(1000 * (loop.time() - began))

    async def client() -> None:
        for _ in left:
            began = loop.time()
            if row.fan_out == 1:
                await call()
            else:
                async with asyncio.TaskGroup() as fan:
                    for _ in range(row.fan_out):
                        fan.create_task(call())
            measured.requests.append(1000 * (loop.time() - began))

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS if row.fan_out == 1 else 1):
            clients.create_task(client())
    measured.asked = backend.requests
    return measured


def serve(row: Loaded, calls: int, seed: str) -> tuple[array[float], float]:
    """Seconds of each call in virtual time, after a tenth as many; and requests for each."""
    from benchmarks.effect.queueing import Farm, offer
    from resilient.runtime import virtual

    dice = random.Random(seed)  # the same arrivals would not give the same queues: the policies decide who draws next
    farm, before = Farm(dice, stops=row.stops), [0]
    ask = farm.ask if row.hedge is None else row.hedge()(farm.ask)

    def begin() -> None:
        before[0] = farm.requests

    taken = virtual.run(offer(ask, row.load, calls // 10, calls, dice, begin))
    return taken, (farm.requests - before[0]) / calls


def under_load(options: Options, plan: Plan) -> list[Figure]:
    """The rows of all loads."""
    figures, rows = [], loaded()
    none, high = 1.0, 0.0
    steps = [(row, seed) for row in rows for seed in range(plan.farms)]
    found: dict[Loaded, list[tuple[array[float], float]]] = {}
    for row, seed in options.track(steps, "under load"):
        found.setdefault(row, []).append(serve(row, plan.served, f"{options.seed} {seed} {row.load} {row.name}"))
    for row, each in found.items():
        taken = array("d")
        for seconds, _ in each:
            taken.extend(seconds)
        p99 = quantile(taken, 0.99)
        low, top = interval(taken, 0.99)
        if row.hedge is None:
            none, high = p99, top
        values = {
            "p50_s": quantile(taken, 0.5),
            "p95_s": quantile(taken, 0.95),
            "p99_s": p99,
            "p999_s": quantile(taken, 0.999),
            "extra_percent": 100 * (statistics.fmean(requests for _, requests in each) - 1),
            "of_none_percent": 100 * p99 / none,
            "worse_s": max(0.0, low - high),
        }
        rounded = {key: round(value, 3) for key, value in values.items()}
        figures.append(Figure(row.group, row.name, rounded, row.bar, ours=row.hedge is not None))
    return figures


def run(options: Options) -> Report:
    """Every row with every seed."""
    from resilient.runtime import virtual  # here, for it costs other benchmarks: see `overhead`

    plan = QUICK if options.quick else FULL
    found: dict[tuple[Row, int], list[Measured]] = {}
    steps = [(row, seed, part) for row in ROWS for seed in range(plan.seeds) for part in range(plan.parts)]
    for row, seed, part in options.track(steps, "tail"):
        requests = (plan.fanned_out if row.fan_out > 1 else plan.requests) // plan.parts
        measured = virtual.run(simulate(row, requests, f"{options.seed} {seed} {part} {row.group} {row.name}"))
        found.setdefault((row, seed), []).append(measured)
    seeds = {row: [Measured.pooled(found[row, seed]) for seed in range(plan.seeds)] for row in ROWS}
    pools = {row: Measured.pooled(each) for row, each in seeds.items()}
    figures = [figure for row in ROWS for figure in judged(row, pools[row], seeds[row])]
    figures += [formula(row, pools[row]) for row in ROWS if row.observed is None]
    figures += under_load(options, plan)
    conditions = {
        "python": platform.python_version(),
        "seed": options.seed,
        "seeds": plan.seeds,
        "requests": plan.seeds * plan.requests,
        "clients": CLIENTS,
        "fanned_out_requests": plan.seeds * plan.fanned_out,
        "calls_per_fanned_out_request": FAN_OUT,
        "backend_mean_ms": MEAN,
        "backend_deviation_ms": DEVIATION,
        "backend_slow_percent": 100 * SLOW,
        "calls_under_load": plan.farms * plan.served,
    }
    curves = [curve for row in ROWS for curve in drawn(row, pools[row])]
    return Report("tail", COLUMNS, figures, conditions, curves)


def judged(row: Row, pool: Measured, seeds: Sequence[Measured]) -> list[Figure]:
    """The row, and a row for each further bar."""
    values = pool.values()
    spread = plus_minus([each.values()["p999_ms"] for each in seeds])
    values["p999_plus_minus_ms"] = spread
    rounded = {key: round(value, 3) for key, value in values.items()}
    off = {key: 100 * abs(values[key] / expected - 1) for key, expected in row.expected.items()}
    worst = max(off, key=off.__getitem__)
    named = f"furthest off: {worst.removesuffix('_ms').removesuffix('_percent')}"

    def further(name: str, bar: Bar, value: float) -> Figure:
        found = {bar.key: round(value, 3)}
        if bar.key in QUANTILES:
            bottom, top = interval(pool.requests, QUANTILES[bar.key])
            found = {name: each for name, each in Spread(value, bottom, top).values(bar.key).items() if each < math.inf}
        return Figure(row.group, f"{row.name}: {name}", found, bar, ours=True)

    low, high = interval(pool.requests, 0.999)
    if row.observed is not None:
        return [
            Figure(row.group, row.name, rounded, note=f"p99.9 {low:,.1f} to {high:,.1f}"),
            *(further(LABELS[key], Bar(key, limit), values[key]) for key, limit in row.expected.items()),
        ]
    if row.fan_out == 1:
        rounded["off_percent"] = round(off[worst], 3)
    if row is NONE:
        return [Figure(row.group, row.name, rounded, note=f"{named}; few requests are near it")]
    if row is ONCE:
        return [Figure(row.group, row.name, rounded, Bar("off_percent", 5), ours=True, note=named)]
    if row is TWICE:
        return [
            Figure(row.group, row.name, rounded, Bar("off_percent", 5), ours=True, note=named),
            further("p99", Bar("p99_ms", 17), values["p99_ms"]),
            further("p99.9", Bar("p999_ms", 30), values["p999_ms"]),
            further("extra", Bar("extra_percent", 8), values["extra_percent"]),
        ]
    expected = row.expected["p999_ms"]
    rounded |= {"p999_low_ms": round(low, 3), **({} if high == math.inf else {"p999_high_ms": round(high, 3)})}
    rounded["outside_ms"] = round(max(0.0, low - expected, expected - high), 3)
    note = f"{low:,.0f} to {high:,.0f}; published {expected:,.0f}"
    if row is FANNED:
        return [Figure(row.group, row.name, rounded, note=note)]
    return [
        Figure(row.group, row.name, rounded, Bar("outside_ms", 0), ours=True, note=note),
        further("extra", Bar("extra_percent", 2.2), values["extra_percent"]),
    ]


def interval(numbers: Sequence[float], share: float, confidence: float = 0.95) -> tuple[float, float]:
    """Where their distribution's quantile lies, by how many numbers may lie beyond it; too few set no upper end."""
    ordered = sorted(numbers, reverse=True)
    doubt, mean = (1 - confidence) / 2, (1 - share) * len(ordered)
    beyond, summed, high = 0, 0.0, math.inf
    chance = math.exp(-mean)  # that none is beyond: Poisson's distribution, close to the binomial one here
    while (summed := summed + chance) < 1 - doubt and beyond < len(ordered) - 1:
        if summed <= doubt:
            high = ordered[beyond]
        beyond += 1
        chance *= mean / beyond
    return ordered[beyond], high


def plus_minus(of_seeds: Sequence[float]) -> float:
    """Half the 95% interval of their mean."""
    return STUDENT[len(of_seeds) - 1] * statistics.stdev(of_seeds) / math.sqrt(len(of_seeds))


def formula(row: Row, pool: Measured) -> Figure:
    """The largest distance of the measured tail from the computed one, where at least ten calls should be."""
    calls, tail = sorted(pool.calls), row.tail
    count = len(calls)
    worst, error, at = 0.0, math.inf, 0.0
    milliseconds = 1.0
    while (computed := tail(milliseconds)) * count >= 10:
        if (1 - computed) * count >= 10:
            off = abs(1 - bisect_right(calls, milliseconds) / count - computed)
            by_chance = math.sqrt(computed * (1 - computed) / count)
            if error == math.inf or off / by_chance > worst / error:
                worst, error, at = off, by_chance, milliseconds
        milliseconds *= 1.12
    values = {
        "off_errors": round(worst / error, 3),
        "off_tail_percent": 100 * worst,
        "standard_error_tail_percent": 100 * error,
        "off_at_ms": round(at, 2),
    }
    experiment = row.group.partition(",")[0]
    note = f"at {at:.1f} ms"
    return Figure(
        "measured against S(t) S(t - d)", f"{experiment}, {row.name}", values, Bar("off_errors", 4), True, note
    )


def drawn(row: Row, pool: Measured) -> list[Curve]:
    """The share of requests that take longer, and the figures it is to meet."""
    ordered = sorted(pool.requests)
    count = len(ordered)
    shares = [10 ** (-step / 50) for step in range(int(50 * math.log10(count)) + 1)]
    points = [(ordered[min(count - 1, int(count * (1 - share)))], share) for share in shares]
    wanted = [(row.expected[key], 1 - share) for key, share in QUANTILES.items() if key in row.expected]
    return [
        Curve(row.group, row.name, points),
        Curve(row.group, row.name, wanted, marks=True),
    ]
