"""The effect of a hedge on the tail of latency, and its extra requests, beside published results.

Our own `Hedge` in virtual time, against backends that only sleep (their distributions are in `latencies`). Two
experiments:

- *E2*, of bhope/hedge: 20 clients, each with one request after the other. The bars are the figures of a plain
  simulation, which agree with the published ones (in Go, over loopback). The row without a hedge has no bar: its p95 is
  where the slow twentieth begins, in a gap that few requests fall into, so a tail that differs by 0.1% moves the p95 by
  4 ms.
- *E1*, of J. Dean and L. Barroso, The Tail at Scale: a request is 100 calls at once and lasts as long as the slowest of
  them. A hedge after 10 ms should bring p99.9 from 1,800 ms to 74 ms for 2% more calls.

In both, the delay may also be *observed* (`quantile`), after a warm-up of 5,000 calls. In E1 it is the p98, for no more
than 2.2% more calls. In E2 it is the p92.5, with three copies: above p92.2 the extra requests meet their bar, and below
p92.9 the p99 does.

All draws are independent, so the tail of a hedged call is known: S(t) S(t - d), where S is the tail without a hedge and
d the delay. The last group gives the distance of the measured tails from this formula, in standard errors: the largest
of some 40 places.

*Under load*, each copy takes time of a server that others wait for: `tail_under_load`.

Every seed is a run of its own, and figures are pooled over the seeds. `±` is half the 95% interval of the mean p99.9 of
the seeds (Student's t). Few requests lie beyond p99.9, and their latencies are skewed. So E1 is judged by the 95%
interval of the pooled p99.9 by order statistics, which holds for every distribution; `outside` is the distance of the
published figure from this interval. Bars on a p99 or p99.9 are judged by such an interval, too. With --quick it is
twice as wide.
"""

from __future__ import annotations

import asyncio
import math
import platform
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.effect.latencies import (
    DEVIATION,
    MEAN,
    SLOW,
    Backend,
    draw_lognormal,
    draw_published,
    tail_lognormal,
    tail_published,
)
from benchmarks.effect.tail_under_load import under_load
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Column, Curve, Figure, Report
from benchmarks.harness.statistics import Spread, margin_of_mean, quantile, quantile_interval

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
    Column("of_none_percent", "% of no hedge", "{:.0f}"),
    Column("worse_s", "worse"),
    Column("extra_percent", "extra %", "{:.2f}"),
    Column("off_percent", "off %"),
    Column("outside_ms", "outside"),
    Column("off_errors", "errors"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of the simulation for each seed, in `parts` for the progress bar; and under load, `farms` seeds of
    `served` calls."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One policy in one experiment. `expected` are the figures to meet, by key."""

    group: str
    name: str
    delays: tuple[float, ...]
    fan_out: int
    expected: dict[str, float]
    observed: tuple[float, int] | None = None
    """For an observed delay: the quantile that the hedge waits for, and the number of copies. The hedge has seen
    `WARM_UP` calls before the first one that counts."""

    @property
    def tail(self) -> Callable[[float], float]:
        """The formula of the hedged tail: milliseconds to the share of calls that take longer."""
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


class Measured:
    """One run of one row: milliseconds of each request and of each call, and `asked`, the requests to the backend."""

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


async def simulate(row: Row, requests: int, seed: str) -> Measured:
    """Make `requests` requests from `CLIENTS` clients, each with one request after the other; from a single client
    where a request is many calls."""
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


def run(options: Options) -> Report:
    """Simulate every row with every seed, and return the report."""
    from resilient.runtime import virtual  # here: it slows other benchmarks (see `overhead`)

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
    figures += under_load(options, plan.farms, plan.served)
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
    """The figure of the row, and one for each further bar."""
    values = pool.values()
    spread = margin_of_mean([each.values()["p999_ms"] for each in seeds])
    values["p999_plus_minus_ms"] = spread
    rounded = {key: round(value, 3) for key, value in values.items()}
    off = {key: 100 * abs(values[key] / expected - 1) for key, expected in row.expected.items()}
    worst = max(off, key=off.__getitem__)
    named = f"furthest off: {worst.removesuffix('_ms').removesuffix('_percent')}"

    def further(name: str, bar: Bar, value: float) -> Figure:
        found = {bar.key: round(value, 3)}
        if bar.key in QUANTILES:
            bottom, top = quantile_interval(pool.requests, QUANTILES[bar.key])
            found = {name: each for name, each in Spread(value, bottom, top).values(bar.key).items() if each < math.inf}
        return Figure(row.group, f"{row.name}: {name}", found, bar, ours=True)

    low, high = quantile_interval(pool.requests, 0.999)
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


def formula(row: Row, pool: Measured) -> Figure:
    """The largest distance of the measured tail from the formula, over places with at least ten expected calls on each
    side."""
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
    """The curve of the measured tail, and marks for the expected figures."""
    ordered = sorted(pool.requests)
    count = len(ordered)
    shares = [10 ** (-step / 50) for step in range(int(50 * math.log10(count)) + 1)]
    points = [(ordered[min(count - 1, int(count * (1 - share)))], share) for share in shares]
    wanted = [(row.expected[key], 1 - share) for key, share in QUANTILES.items() if key in row.expected]
    return [
        Curve(row.group, row.name, points),
        Curve(row.group, row.name, wanted, marks=True),
    ]
