"""How fast a simulation runs: calls per second of wall time, in virtual time, on one core.

Clients arrive at random, 700 a second, and call a service of 100 workers through Retry, CircuitBreaker
and Timeout (1 s). The service works first in, first out; a request takes 100 ms on average
(exponential), one in twenty fails, and work goes on for clients that have given up, as it does in most
servers. So the workers are busy for 70 to 75 % of the time. A *call* is a client's: its retries are
not counted again. The bar is 15,000 calls a second, so that an hour of such a service is a coffee
break; and two runs with one seed must agree in the end and the duration of every single call.

Everything random is seeded: arrivals and service by generators of their own, so that every row meets
the same clients; the policies' jitter by `random.seed`. The garbage collector is left on. Peers run on
the same event loop in virtual time, with its clock where they take one.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import operator
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.measure import one_core
from benchmarks.options import Options
from benchmarks.peers import Decorator
from benchmarks.report import Bar, Column, Figure, Report

__all__ = ["run"]

COLUMNS = (
    Column("calls_per_s", "calls/s", "{:,.0f}"),
    Column("slowest_calls_per_s", "slowest", "{:,.0f}"),
    Column("succeeded_percent", "success %", "{:.2f}"),
    Column("requests_per_call_x", "req/call", "{:.3f}"),
    Column("p50_ms", "p50 ms", "{:.0f}"),
    Column("p99_ms", "p99 ms", "{:.0f}"),
    Column("differing_calls", "differ", "{:.0f}"),
)


class Unavailable(Exception):
    """The service's error."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is simulated, and how often."""

    calls: int
    runs: int
    rate: float = 700.0
    workers: int = 100
    mean: float = 0.1
    failing: float = 0.05
    outage: float = 0.0
    """The service fails every request in this share of the time, in the middle."""


QUICK = Plan(calls=10_000, runs=3)
FULL = Plan(calls=50_000, runs=5)

Ends = list[tuple[int, str, float]]
"""Of each call, in the order in which they end: its number, how it ended, its duration in seconds."""


class Service:
    """Workers that take requests in the order of arrival, and finish them whoever still waits."""

    def __init__(self, plan: Plan, seed: int, now: Callable[[], float]) -> None:
        self.plan = plan
        self.now = now
        self.random = random.Random(f"service {seed}")
        self.free_at = [0.0] * plan.workers
        self.requests = 0
        middle, half = plan.calls / plan.rate / 2, plan.outage * plan.calls / plan.rate / 2
        self.outage = (middle - half, middle + half)

    async def request(self, number: int) -> int:
        self.requests += 1
        now = self.now()
        done = max(now, self.free_at[0]) + self.random.expovariate(1 / self.plan.mean)
        fails = self.random.random() < self.plan.failing or self.outage[0] < now < self.outage[1]
        heapq.heapreplace(self.free_at, done)
        await asyncio.sleep(done - now)
        if fails:
            raise Unavailable
        return number


async def simulate(plan: Plan, seed: int, build: Callable[[], Decorator]) -> tuple[Ends, int]:
    """All calls from the first arrival to the last end; and how many requests they became."""
    loop = asyncio.get_running_loop()
    service = Service(plan, seed, loop.time)
    guarded = build()(service.request)
    arrivals = random.Random(f"arrivals {seed}")
    ends: Ends = []

    async def client(number: int) -> None:
        began = loop.time()
        try:
            await guarded(number)
            end = "success"
        except Exception as error:
            end = type(error).__name__
        ends.append((number, end, loop.time() - began))

    async with asyncio.TaskGroup() as clients:
        for number in range(plan.calls):
            await asyncio.sleep(arrivals.expovariate(plan.rate))
            clients.create_task(client(number))
    return ends, service.requests


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row: `build` makes the decorator, inside the running loop."""

    name: str
    build: Callable[[], Decorator]
    ours: bool = False
    outage: float = 0.0
    note: str = ""


def run(options: Options) -> Report:
    """Every contestant in turn, round by round; medians over the rounds."""
    plan = QUICK if options.quick else FULL
    known = [contestant for contestant in CONTESTANTS if _installed(contestant)]
    tries: dict[str, list[tuple[float, Ends, int]]] = {one.name: [] for one in known}
    steps = [one for _ in range(plan.runs) for one in known]
    with one_core() as core:
        for one in options.track(steps, "lab"):
            tries[one.name].append(_timed(one, plan, options.seed))
    conditions = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "core": core,
        "runs": plan.runs,
        "simulated_calls": plan.calls,
        "arrivals_per_s": plan.rate,
        "workers": plan.workers,
        "service_mean_s": plan.mean,
        "failing_percent": 100 * plan.failing,
        "seed": options.seed,
    }
    figures = [
        _figure(one, plan, tries[one.name])
        if one in known
        else Figure("in virtual time", one.name, note="not installed")
        for one in CONTESTANTS
    ]
    figures += [same(one, tries[one.name]) for one in known if one.ours]
    return Report("lab", COLUMNS, figures, conditions)


def _timed(one: Contestant, plan: Plan, seed: int) -> tuple[float, Ends, int]:
    """Seconds of wall time, and what `simulate` returned."""
    from resilient.runtime import virtual  # here, for it costs other benchmarks: see `overhead`

    before = random.getstate()
    random.seed(seed)
    began = time.perf_counter()
    try:
        ends, requests = virtual.run(simulate(replace(plan, outage=one.outage), seed, one.build))
    finally:
        random.setstate(before)
    return time.perf_counter() - began, ends, requests


def _figure(one: Contestant, plan: Plan, tries: list[tuple[float, Ends, int]]) -> Figure:
    _, ends, requests = tries[0]
    durations = statistics.quantiles([seconds for _, _, seconds in ends], n=100)
    succeeded = sum(end == "success" for _, end, _ in ends)
    values = {
        "calls_per_s": round(plan.calls / statistics.median(wall for wall, _, _ in tries), 1),
        "slowest_calls_per_s": round(plan.calls / max(wall for wall, _, _ in tries), 1),
        "succeeded_percent": round(100 * succeeded / plan.calls, 3),
        "requests_per_call_x": round(requests / plan.calls, 4),
        "p50_ms": round(1000 * durations[49], 3),
        "p99_ms": round(1000 * durations[98], 3),
    }
    judged = one.ours and not one.outage
    bar = Bar("calls_per_s", 15_000, at_least=True) if judged else None
    return Figure("in virtual time", one.name, values, bar, one.ours, one.note)


def same(one: Contestant, tries: list[tuple[float, Ends, int]]) -> Figure:
    """How many calls ended otherwise, later, or in another order, in any run with the same seed."""
    first = tries[0][1]
    differing = max(sum(map(operator.ne, first, ends)) for _, ends, _ in tries[1:])
    name = f"{one.name}: {len(tries)} runs"
    bar = Bar("differing_calls", 0)
    return Figure("one seed, one result", name, {"differing_calls": differing}, bar, ours=True)


def _ours() -> Decorator:
    from resilient import CircuitBreaker, Pipeline, Retry, Timeout

    breaker = CircuitBreaker(failure_rate=0.5, window_calls=100, min_calls=20)
    return Pipeline(Retry(attempts=3), breaker, Timeout(1))


def _nothing() -> Decorator:
    return lambda function: function


def _nopanic() -> Decorator:
    import nopanic

    clock = asyncio.get_running_loop().time
    breaker = nopanic.circuit_breaker(failure_threshold=0.5, min_calls=20, clock=clock)
    return nopanic.compose(nopanic.retry(attempts=3), breaker, nopanic.timeout(1.0))


def _tenacity() -> Decorator:
    from tenacity import retry, stop_after_attempt, wait_random_exponential

    retries = retry(stop=stop_after_attempt(3), wait=wait_random_exponential(0.1, max=30), reraise=True)

    def decorate(function: Callable[[int], object]) -> object:
        @functools.wraps(function)
        async def timed(number: int) -> object:
            async with asyncio.timeout(1.0):
                return await function(number)  # type: ignore[misc]

        return retries(timed)

    return decorate


CONTESTANTS = (
    Contestant("resilient", _ours, ours=True),
    Contestant("resilient, outage", _ours, ours=True, outage=0.1, note="down for 10 %"),
    Contestant("no policy", _nothing, note="the model alone"),
    Contestant("nopanic", _nopanic, note="time window"),
    Contestant("tenacity", _tenacity, note="+ asyncio.timeout"),
)


def _installed(one: Contestant) -> bool:
    try:
        one.build()
    except ImportError:
        return False
    except RuntimeError:  # installed, and asks for the running event loop
        return True
    return True
