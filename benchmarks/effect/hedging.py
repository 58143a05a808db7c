"""Hedges over loopback: the tail, the extra requests and the successes of real clients, ours beside the peers'.

All contenders are transports of `httpx.AsyncClient`, each with its own pool, in one process. The server, uvicorn in
another process, sleeps (`hedging_server`). All have the same requests: the first copy of request 17 is as slow for one
contender as for the next, and so is the second. They run at the same time, each with one request after the other, and
wait for each other every 50 requests, so that other load on the machine affects all. The rate is so low that the
machine is half idle: the benchmark measures the policy, not the processor.

- All observe the latency, and have a budget. The peers ship with p90 as the trigger and a budget of 10%. A trigger that
  needs its whole budget runs out of it, so each peer has a row as shipped, and one with 20%, as ours. httpx-hedged
  measures the rate of requests, which its budget needs; hedge-python assumes 100 a second, which is more than there
  are. At first, each contender has some hundred requests to learn from, which do not count.
- Extra requests and connections are counted by the server. A cancelled copy closes its HTTP/1.1 connection: `opened`
  are the connections per 100 requests.
- A request succeeds with a 200. Three copies in a thousand are answered with 503. The time of a failure counts, too,
  although it is short. Peers return a 503 to the caller. Ours sends another copy at once; so nearly all of these
  requests succeed, but each costs an extra request. The row that is compared with the peers returns a 503, as they do
  (`HttpClassifier(statuses=())`), so that its extra requests come from hedges alone.
- The bars: in the same run, ours has a p99.9 no longer than the peer's, no more extra requests, and no more failures.
  Beside the ratio (or difference) is its 95% bootstrap interval: 1,000 samples of the rounds, with replacement, the
  same rounds for both. A full run judges its less favourable end. With --quick, which has as many rounds as fit into 36
  seconds, a figure misses when its whole interval is beyond the bar. The interval of the p99.9 itself is by order
  statistics; with fewer than some 4,000 requests it has no upper end.
- Last, 20,000 hedged calls over a small pool of each library (`connections`): `lost` are connections that are neither
  idle nor closed afterwards, and the bar is 0. The p99.9 is of the first half of the calls, and *2nd half* of the
  second."""

from __future__ import annotations

import asyncio
import contextlib
import math
import platform
import random
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from typing import Any

from benchmarks.effect import hedging_server
from benchmarks.effect.connections import keep
from benchmarks.effect.hedging_plot import draw_hedging
from benchmarks.harness.loopback import Server
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Column, Figure, Report
from benchmarks.harness.statistics import quantile, quantile_interval

__all__ = ["run"]

COLUMNS = (
    Column("p50_ms", "p50"),
    Column("p99_ms", "p99"),
    Column("p999_ms", "p99.9 ms"),
    Column("p999_low_ms", "from"),
    Column("p999_high_ms", "to"),
    Column("extra_percent", "extra %", "{:.2f}"),
    Column("success_percent", "success %", "{:.2f}"),
    Column("opened_percent", "opened %", "{:.1f}"),
    Column("lost", "lost", "{:.0f}"),
    Column("p999_then_ms", "2nd half"),
    Column("p999_x", "ratio", "{:.2f}"),
    Column("p999_low_x", "from", "{:.2f}"),
    Column("p999_high_x", "to", "{:.2f}"),
    Column("more_percent", "more", "{:+.2f}"),
    Column("more_low_percent", "from", "{:+.2f}"),
    Column("more_high_percent", "to", "{:+.2f}"),
)
SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a measurement: `rounds` rounds of `requests` requests of each contender, after `warm` rounds that do
    not count. No new round starts after `seconds`. `calls` is the number of calls of `connections`."""

    rounds: int
    requests: int = 50
    warm: int = 10
    seconds: float = math.inf
    calls: int = 20_000


QUICK = Plan(rounds=400, warm=5, seconds=36, calls=1_000)
FULL = Plan(rounds=400)


@dataclass(frozen=True, slots=True)
class Contender:
    """A transport. `rival` is our row that is compared with it."""

    name: str
    build: Callable[[], Any]
    distribution: str = ""
    ours: bool = False
    rival: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        if not self.distribution:
            return self.name
        return self.name.replace(self.distribution, f"{self.distribution} {metadata.version(self.distribution)}")


def plain() -> Any:
    """The transport of httpx, without any policy."""
    import httpx

    return httpx.AsyncHTTPTransport()


def hedged(share: float, copies: int, ratio: float, cancel: Any = "now", *, hand_on: bool = False) -> Any:
    """Our transport with a Hedge at an observed quantile and a Budget. With `hand_on`, a 503 goes to the caller."""
    from resilient import Budget, Hedge, Pipeline, Timeout
    from resilient import quantile as observed
    from resilient.http.httpx import AsyncTransport, HttpClassifier

    hedge = Hedge(observed(share), copies=copies, cancel=cancel, budget=Budget(ratio))
    classify = HttpClassifier(statuses=()) if hand_on else HttpClassifier()
    return AsyncTransport(Pipeline(hedge, Timeout(2), classify=classify))


def standard() -> Any:
    """Our transport with the standard hedged pipeline."""
    from resilient import standard_hedged
    from resilient.http.httpx import AsyncTransport

    return AsyncTransport(standard_hedged())


def hedge_python(percent: float) -> Any:
    """The transport of hedge-python, with a budget in percent of the requests."""
    from hedge import HedgeConfig
    from hedge.transport import HedgedHttpxTransport

    return HedgedHttpxTransport(config=HedgeConfig(budget_percent=percent))


def httpx_hedged(percent: float) -> Any:
    """The transport of httpx-hedged, with a budget in percent of the requests."""
    from httpx_hedged import HedgeConfig, HedgedTransport

    return HedgedTransport(default_config=HedgeConfig(budget_percent=percent))


OURS = "ours, p92.5, 3 copies"
LIKE = "ours, p94.5, 3 copies, 503 handed on"
CONTENDERS = (
    Contender("no hedge", plain, note="plain httpx"),
    Contender(OURS, partial(hedged, 0.925, 3, 0.2), ours=True, note="20%"),
    Contender(f"{OURS}, late", partial(hedged, 0.925, 3, 0.2, "late"), ours=True, note='20%, cancel="late"'),
    Contender("ours, p92.5, 2 copies", partial(hedged, 0.925, 2, 0.2), ours=True, note="20%"),
    Contender(LIKE, partial(hedged, 0.945, 3, 0.2, hand_on=True), ours=True, note="20%"),
    Contender("ours, p95, 3 copies", partial(hedged, 0.95, 3, 0.1), ours=True, note="10%"),
    Contender("ours, standard_hedged()", standard, ours=True, note="p95, 2 copies, 10% for retries, too"),
    Contender("httpx-hedged", partial(httpx_hedged, 10), "httpx-hedged", rival=LIKE, note="as shipped: p90, 10%"),
    Contender("hedge-python", partial(hedge_python, 10), "hedge-python", rival=LIKE, note="as shipped: p90, 10%"),
    Contender("httpx-hedged, 20%", partial(httpx_hedged, 20), "httpx-hedged", rival=LIKE, note="p90"),
    Contender("hedge-python, 20%", partial(hedge_python, 20), "hedge-python", rival=LIKE, note="p90"),
)


@dataclass(slots=True)
class Turns:
    """The results of one contender, by round: milliseconds of each request, successes, and extra requests."""

    rounds: list[array[float]] = field(default_factory=list)
    successes: list[int] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    opened: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def forget(self) -> None:
        """Drop the results so far, which are those of the warm-up."""
        self.rounds, self.successes = [], []
        self.errors.clear()

    def pooled(self) -> list[float]:
        return [each for part in self.rounds for each in part]

    def values(self) -> dict[str, float]:
        pool = self.pooled()
        low, high = quantile_interval(pool, 0.999)
        values = {
            "p50_ms": quantile(pool, 0.5),
            "p99_ms": quantile(pool, 0.99),
            "p999_ms": quantile(pool, 0.999),
            "p999_low_ms": low,
            "p999_high_ms": high,
            "extra_percent": 100 * sum(self.extra) / len(pool),
            "success_percent": 100 * sum(self.successes) / len(pool),
            "opened_percent": 100 * self.opened / len(pool),
        }
        return {key: round(value, 3) for key, value in values.items() if value != math.inf}


async def turn(client: Any, url: str, numbers: Sequence[int], turns: Turns) -> None:
    """Make the requests of one round of one contender."""
    times, successes = array("d"), 0
    for number in numbers:
        began = time.perf_counter()
        try:
            answer = await client.get(f"{url}/{number}")
            successes += answer.status_code == 200
        except Exception as error:
            kind = type(error).__name__
            turns.errors[kind] = turns.errors.get(kind, 0) + 1
        times.append(1000 * (time.perf_counter() - began))
    turns.rounds.append(times)
    turns.successes.append(successes)


async def compare(origin: str, plan: Plan, options: Options) -> tuple[dict[str, Turns], float]:
    """Run all contenders. Returns their results, and the requests a second of each, pauses included."""
    import httpx

    numbers = partial(_numbers, plan, options.seed)
    order = random.Random(options.seed)
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            each.name: await stack.enter_async_context(httpx.AsyncClient(transport=each.build(), timeout=30))
            for each in CONTENDERS
        }
        names = list(clients)
        urls = {name: f"{origin}/{at}" for at, name in enumerate(names)}
        found = {name: Turns() for name in names}

        async def play(at: int) -> None:
            order.shuffle(names)
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(turn(clients[name], urls[name], numbers(at), found[name]))

        for at in range(-plan.warm, 0):
            await play(at)
        for turns in found.values():
            turns.forget()
        began = time.monotonic()
        for at in options.track(range(plan.rounds), "hedging"):
            await play(at)
            if time.monotonic() > began + plan.seconds:
                break
        seconds = time.monotonic() - began
        async with httpx.AsyncClient() as client:
            counts = (await client.get(f"{origin}/counts")).json()
    for at, turns in enumerate(found.values()):
        copies, opened = counts["copies"][f"{at}"], counts["opened"].get(f"{at}", {})
        for part in range(len(turns.rounds)):
            turns.extra.append(sum(copies[f"{number}"] - 1 for number in numbers(part)))
            turns.opened += sum(opened.get(f"{number}", 0) for number in numbers(part))
    return found, len(found[OURS].pooled()) / seconds


def _numbers(plan: Plan, seed: int, at: int) -> range:
    """The numbers of the requests of a round, which differ from seed to seed."""
    first = seed * 10**9 + at * plan.requests
    return range(first, first + plan.requests)


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated value, and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


def paired(ours: Turns, theirs: Turns, generator: random.Random) -> dict[str, Estimate]:
    """The ratio of the p99.9, and the differences of extra requests and failures in percent of requests, each with its
    bootstrap interval."""
    count = len(ours.rounds)
    requests = sum(map(len, ours.rounds))
    beyond = requests - math.ceil(0.999 * requests)
    floors = [sorted(each.pooled())[-min(requests, 20 * (beyond + 1))] for each in (ours, theirs)]
    slowest = [
        [[time for time in part if time >= floor] for part in each.rounds]
        for each, floor in zip((ours, theirs), floors, strict=True)
    ]

    def at(sample: Sequence[int], times: Sequence[Sequence[float]]) -> float:
        return sorted((time for part in sample for time in times[part]), reverse=True)[beyond]

    def estimate(sample: Sequence[int]) -> tuple[float, float, float]:
        extra = sum(ours.extra[part] - theirs.extra[part] for part in sample)
        failures = sum(theirs.successes[part] - ours.successes[part] for part in sample)
        return (at(sample, slowest[0]) / at(sample, slowest[1]), 100 * extra / requests, 100 * failures / requests)

    whole = estimate(range(count))
    estimates = [estimate(generator.choices(range(count), k=count)) for _ in range(SAMPLES)]
    found = {}
    for key, value, samples in zip(("p999", "extra", "failures"), whole, zip(*estimates, strict=True), strict=True):
        ordered = sorted(samples)
        found[key] = Estimate(value, ordered[round(0.025 * SAMPLES)], ordered[round(0.975 * SAMPLES) - 1])
    return found


def judged(contender: Contender, ours: Turns, theirs: Turns, options: Options) -> list[Figure]:
    """The figures of resilient compared with those of one peer."""
    end = "" if options.quick else "_high"
    group = f"{contender.rival}, beside {contender.label}"
    found = paired(ours, theirs, random.Random(options.seed))
    ratio = found.pop("p999")
    values = {"p999_x": ratio.value, "p999_low_x": ratio.low, "p999_high_x": ratio.high}
    figures = [Figure(group, "p99.9", values, Bar(f"p999{end}_x", 1), ours=True)]
    for name, each in found.items():
        key = f"more_{name}"
        values = {"more_percent": each.value, "more_low_percent": each.low, "more_high_percent": each.high}
        figures.append(Figure(group, key.replace("_", " "), values, Bar(f"more{end}_percent", 0), ours=True))
    return [replace(each, values={key: round(value, 3) for key, value in each.values.items()}) for each in figures]


def run(options: Options) -> Report:
    """Run all contenders, and compare resilient with each peer."""
    plan = QUICK if options.quick else FULL
    with Server(hedging_server.__name__) as server:
        found, rate = asyncio.run(compare(server.origin, plan, options))
        kept = asyncio.run(keep(server.origin, plan.calls))
    figures = [figure(each, found[each.name]) for each in CONTENDERS]
    for each in CONTENDERS:
        if each.rival:
            figures += judged(each, found[each.rival], found[each.name], options)
    figures += kept
    conditions = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "seed": options.seed,
        "rounds": len(found[OURS].rounds),
        "requests_per_contender": len(found[OURS].pooled()),
        "requests_per_s_of_each": round(rate, 1),
        "server_least_ms": hedging_server.LEAST,
        "server_mean_ms": hedging_server.MEAN,
        "server_deviation_ms": hedging_server.DEVIATION,
        "server_slow_percent": 100 * hedging_server.SLOW,
        "server_slow_x": hedging_server.FACTOR,
        "server_refused_percent": 100 * hedging_server.REFUSED,
        "versions": {name: metadata.version(name) for name in ("httpx", "httpcore", "uvicorn")},
    }
    tails = {each.label: found[each.name].pooled() for each in CONTENDERS}
    return Report("hedging", COLUMNS, figures, conditions, plot=partial(draw_hedging, tails=tails))


def figure(contender: Contender, turns: Turns) -> Figure:
    """The figure of one contender. The note counts its errors by type."""
    errors = "".join(f"; {count} x {kind}" for kind, count in turns.errors.items())
    return Figure(
        "over loopback", contender.label, turns.values(), ours=contender.ours, note=f"{contender.note}{errors}"
    )
