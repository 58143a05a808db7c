"""Hedges over loopback: the tail, the extra requests and the successes of real clients, ours beside the peers'.

All are transports of `httpx.AsyncClient`, each with a pool of its own, in one process; the server, uvicorn in another,
sleeps (`slow_server`). Everyone has the same requests: the first copy of request 17 is as slow for one contender as for
the next, and so is the second. They take turns in rounds of some dozen requests, in an order that is drawn anew, so
that what else the machine does falls on all. In its turn, a contender has some clients with one request after the
other. So few that the machine is mostly idle: what is measured is the policy, not the processor.

- All learn their delay, and may spend 10% more requests. hedge-python is told the rate of requests (measured when the
  server is warm), which its budget needs; httpx-hedged finds it. Both ship with p90 as the trigger: a row for each as
  shipped, and one at p95, as ours. Before the rounds, each has some hundred requests to learn from, which do not count.
- Extra requests and connections are what the server has seen. A copy that is cancelled takes its HTTP/1.1 connection
  with it: `connections` are those opened for 100 requests.
- A request succeeds with a 200. One in a hundred copies is answered with 503. A failure's time counts, too, although it
  ends soon.
- The bars: in the same run, ours has a p99.9 no longer than the peer's, no more extra requests, and no fewer successes.
  Judged is the less favourable end of the 95% interval of the ratio (or difference): from 1,000 samples of the rounds,
  with replacement, the same rounds for both (bootstrap). The interval of p99.9 itself is by the order of the requests;
  below some 4,000 it has no upper end. With --quick there are as many rounds as fit into 45 seconds.
"""

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

from benchmarks import slow_server
from benchmarks.hedging_picture import draw_hedging
from benchmarks.loopback import Server
from benchmarks.options import Options
from benchmarks.report import Bar, Column, Figure, Report
from benchmarks.tail import interval, quantile

__all__ = ["run"]

COLUMNS = (
    Column("p50_ms", "p50"),
    Column("p99_ms", "p99"),
    Column("p999_ms", "p99.9 ms"),
    Column("p999_low_ms", "from"),
    Column("p999_high_ms", "to"),
    Column("extra_percent", "extra %", "{:.2f}"),
    Column("success_percent", "success %", "{:.2f}"),
    Column("connections_percent", "connections %", "{:.1f}"),
    Column("p999_x", "ratio", "{:.2f}"),
    Column("p999_low_x", "from", "{:.2f}"),
    Column("p999_high_x", "to", "{:.2f}"),
    Column("more_percent", "more", "{:+.2f}"),
    Column("more_low_percent", "from", "{:+.2f}"),
    Column("more_high_percent", "to", "{:+.2f}"),
)
SAMPLES = 1000
TRIGGER = 0.925


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds with so many requests for each contender, by so many clients; no longer than some seconds."""

    rounds: int
    requests: int = 40
    clients: int = 5
    warm: int = 400
    seconds: float = math.inf


QUICK = Plan(rounds=500, warm=200, seconds=45)
FULL = Plan(rounds=500)


@dataclass(frozen=True, slots=True)
class Contender:
    """A transport; `build` is given the requests a second that it will have. Ours is held against the judged ones."""

    name: str
    build: Callable[[float], Any]
    distribution: str = ""
    ours: bool = False
    judged: bool = False
    note: str = ""

    @property
    def label(self) -> str:
        if not self.distribution:
            return self.name
        return self.name.replace(self.distribution, f"{self.distribution} {metadata.version(self.distribution)}")


def plain(rate: float) -> Any:
    import httpx

    return httpx.AsyncHTTPTransport()


def _ours(*policies: Any) -> Any:
    from resilient import Pipeline
    from resilient.http.httpx import AsyncTransport

    return AsyncTransport(Pipeline(*policies))


def hedged(rate: float, *, share: float = TRIGGER, ratio: float = 0.2, **options: Any) -> Any:
    from resilient import Budget, Hedge, quantile

    return _ours(Hedge(quantile(share), budget=Budget(ratio), **options))


def standard(rate: float) -> Any:
    from resilient import standard_hedged
    from resilient.http.httpx import AsyncTransport

    return AsyncTransport(standard_hedged())


def hedge_python(rate: float, *, share: float = 0.9) -> Any:
    from hedge import HedgeConfig
    from hedge.transport import HedgedHttpxTransport

    return HedgedHttpxTransport(config=HedgeConfig(percentile=share, budget_percent=10, estimated_rps=rate))


def httpx_hedged(rate: float, *, share: float = 0.9) -> Any:
    from httpx_hedged import HedgeConfig, HedgedTransport

    return HedgedTransport(default_config=HedgeConfig(percentile=share, budget_percent=10))


AT = f"p{100 * TRIGGER:g}"
OURS = f"resilient, {AT}, 3 copies"
CONTENDERS = (
    Contender("no hedge", plain, note="plain httpx"),
    Contender(OURS, partial(hedged, copies=3), ours=True, note="budget 20%"),
    Contender(f"resilient, {AT}, 2 copies", hedged, ours=True, note="budget 20%"),
    Contender(f"resilient, {AT}, 3 copies, late", partial(hedged, copies=3, cancel="late"), ours=True, note="late"),
    Contender("resilient, p95, 3 copies", partial(hedged, share=0.95, ratio=0.1, copies=3), ours=True, note="10%"),
    Contender("standard_hedged()", standard, ours=True, note="p95, 2 copies; retries share the budget of 10%"),
    Contender("httpx-hedged", httpx_hedged, "httpx-hedged", judged=True, note="as shipped: p90, 10%, finds its rate"),
    Contender("hedge-python", hedge_python, "hedge-python", judged=True, note="as shipped: p90, 10%; told its rate"),
    Contender(f"httpx-hedged, {AT}", partial(httpx_hedged, share=TRIGGER), "httpx-hedged", judged=True, note="10%"),
    Contender(f"hedge-python, {AT}", partial(hedge_python, share=TRIGGER), "hedge-python", judged=True, note="10%"),
)


@dataclass(slots=True)
class Turns:
    """What one contender's clients saw, round by round: milliseconds of each request; and successes."""

    rounds: list[array[float]] = field(default_factory=list)
    successes: list[int] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    connections: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def pooled(self) -> list[float]:
        return [each for part in self.rounds for each in part]

    def values(self) -> dict[str, float]:
        pool = self.pooled()
        low, high = interval(pool, 0.999)
        values = {
            "p50_ms": quantile(pool, 0.5),
            "p99_ms": quantile(pool, 0.99),
            "p999_ms": quantile(pool, 0.999),
            "p999_low_ms": low,
            "p999_high_ms": high,
            "extra_percent": 100 * sum(self.extra) / len(pool),
            "success_percent": 100 * sum(self.successes) / len(pool),
            "connections_percent": 100 * self.connections / len(pool),
        }
        return {key: round(value, 3) for key, value in values.items() if value != math.inf}


async def turn(client: Any, url: str, numbers: Sequence[int], clients: int, turns: Turns) -> None:
    """One round of one contender."""
    times, successes, left = array("d"), 0, iter(numbers)

    async def work() -> None:
        nonlocal successes
        for number in left:
            began = time.perf_counter()
            try:
                answer = await client.get(f"{url}/{number}")
                successes += answer.status_code == 200
            except Exception as error:
                kind = type(error).__name__
                turns.errors[kind] = turns.errors.get(kind, 0) + 1
            times.append(1000 * (time.perf_counter() - began))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(work())
    turns.rounds.append(times)
    turns.successes.append(successes)


async def compare(origin: str, plan: Plan, options: Options) -> tuple[dict[str, Turns], float]:
    """All contenders, and the requests a second that each had, pauses included."""
    import httpx

    order = random.Random(options.seed)
    numbers = partial(_numbers, plan, options.seed)
    rate = await _rate(origin, plan, numbers(-1))
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            each.name: await stack.enter_async_context(httpx.AsyncClient(transport=each.build(rate), timeout=30))
            for each in CONTENDERS
        }
        urls = {name: f"{origin}/{at}" for at, name in enumerate(clients)}
        for at in range(-(plan.warm // plan.requests), 0):
            for name, client in clients.items():
                await turn(client, f"{urls[name]}w", numbers(at), plan.clients, Turns())
        found = {name: Turns() for name in clients}
        names, began = list(clients), time.monotonic()
        for at in options.track(range(plan.rounds), "hedging"):
            order.shuffle(names)
            for name in names:
                await turn(clients[name], urls[name], numbers(at), plan.clients, found[name])
            if time.monotonic() > began + plan.seconds:
                break
        seconds = time.monotonic() - began
        async with httpx.AsyncClient() as client:
            counts = (await client.get(f"{origin}/counts")).json()
    for at, turns in enumerate(found.values()):
        copies = counts["copies"][f"{at}"]
        turns.connections = counts["connections"].get(f"{at}", 0)
        turns.extra = [sum(copies[f"{number}"] - 1 for number in numbers(part)) for part in range(len(turns.rounds))]
    return found, len(found[OURS].pooled()) / seconds


async def _rate(origin: str, plan: Plan, numbers: Sequence[int]) -> float:
    """The requests a second that each will have, by a plain client's."""
    import httpx

    async with httpx.AsyncClient() as client:
        await turn(client, f"{origin}/plain", numbers, plan.clients, Turns())
        began = time.monotonic()
        await turn(client, f"{origin}/plain", numbers, plan.clients, Turns())
        return len(numbers) / (time.monotonic() - began) / len(CONTENDERS)


def _numbers(plan: Plan, seed: int, at: int) -> range:
    """The requests of a round; those of another seed are others."""
    first = seed * 10**9 + at * plan.requests
    return range(first, first + plan.requests)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, and its 95% interval."""

    value: float
    low: float
    high: float


def paired(ours: Turns, theirs: Turns, generator: random.Random) -> dict[str, Estimate]:
    """The ratio of the p99.9, and the differences in percent of requests, over samples of the rounds."""
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

    def look(sample: Sequence[int]) -> tuple[float, float, float]:
        extra = sum(ours.extra[part] - theirs.extra[part] for part in sample)
        failures = sum(theirs.successes[part] - ours.successes[part] for part in sample)
        return (at(sample, slowest[0]) / at(sample, slowest[1]), 100 * extra / requests, 100 * failures / requests)

    whole = look(range(count))
    looks = [look(generator.choices(range(count), k=count)) for _ in range(SAMPLES)]
    found = {}
    for key, value, samples in zip(("p999", "extra", "failures"), whole, zip(*looks, strict=True), strict=True):
        ordered = sorted(samples)
        found[key] = Estimate(value, ordered[round(0.025 * SAMPLES)], ordered[round(0.975 * SAMPLES) - 1])
    return found


def judged(contender: Contender, ours: Turns, theirs: Turns, seed: int) -> list[Figure]:
    """Ours beside one peer."""
    group = f"{OURS}, beside {contender.label}"
    found = paired(ours, theirs, random.Random(seed))
    ratio = found.pop("p999")
    values = {"p999_x": ratio.value, "p999_low_x": ratio.low, "p999_high_x": ratio.high}
    figures = [Figure(group, "p99.9", values, Bar("p999_high_x", 1), ours=True)]
    for name, each in found.items():
        key = f"more_{name}"
        values = {"more_percent": each.value, "more_low_percent": each.low, "more_high_percent": each.high}
        figures.append(Figure(group, key.replace("_", " "), values, Bar("more_high_percent", 0), ours=True))
    return [replace(each, values={key: round(value, 3) for key, value in each.values.items()}) for each in figures]


def run(options: Options) -> Report:
    """All contenders in turns, and ours held against each peer."""
    plan = QUICK if options.quick else FULL
    with Server("benchmarks.slow_server") as server:
        found, rate = asyncio.run(compare(server.origin, plan, options))
    figures = [figure(each, found[each.name]) for each in CONTENDERS]
    for each in CONTENDERS:
        if each.judged:
            figures += judged(each, found[OURS], found[each.name], options.seed)
    conditions = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "seed": options.seed,
        "rounds": len(found[OURS].rounds),
        "requests_per_contender": len(found[OURS].pooled()),
        "clients": plan.clients,
        "requests_per_s_of_each": round(rate, 1),
        "server_least_ms": slow_server.LEAST,
        "server_mean_ms": slow_server.MEAN,
        "server_deviation_ms": slow_server.DEVIATION,
        "server_slow_percent": 100 * slow_server.SLOW,
        "server_slow_x": slow_server.FACTOR,
        "server_refused_percent": 100 * slow_server.REFUSED,
        "versions": {name: metadata.version(name) for name in ("httpx", "httpcore", "uvicorn")},
    }
    tails = {each.label: found[each.name].pooled() for each in CONTENDERS}
    return Report("hedging", COLUMNS, figures, conditions, picture=partial(draw_hedging, tails=tails))


def figure(contender: Contender, turns: Turns) -> Figure:
    errors = "".join(f"; {count} x {kind}" for kind, count in turns.errors.items())
    return Figure(
        "over loopback", contender.label, turns.values(), ours=contender.ours, note=f"{contender.note}{errors}"
    )
