"""How fast a simulation runs: calls per second of wall time, in the world of `resilient.lab`, on one core.

Clients arrive at random, 700 a second, and call a service of 100 workers through Retry, CircuitBreaker and Timeout
(1 s). The service works first in, first out. A request takes 100 ms on average (exponential), one in twenty fails, and
the service finishes work that its client has abandoned, as most servers do. So the workers are busy for 70 to 75% of
the time. A *call* is a client's; its retries are not counted again. The bar is 15,000 calls a second, so that an hour
of such a service takes less than
three minutes. Two runs with one seed must agree in every call, and in every byte of the results
that `resilient simulate --json` writes.

Everything random is seeded, the jitter of the policies too. The garbage collector is on. Peers run in the same world,
on its clock where they accept a clock.
"""

from __future__ import annotations

import asyncio
import functools
import operator
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.contenders.peers import Decorator
from benchmarks.harness.measure import one_core
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Column, Figure, Report

__all__ = ["run"]

COLUMNS = (
    Column("calls_per_s", "calls/s", "{:,.0f}"),
    Column("slowest_calls_per_s", "slowest", "{:,.0f}"),
    Column("succeeded_percent", "success %", "{:.2f}"),
    Column("requests_per_call_x", "req/call", "{:.3f}"),
    Column("p50_ms", "p50 ms", "{:.0f}"),
    Column("p99_ms", "p99 ms", "{:.0f}"),
    Column("differing_calls", "calls differ", "{:.0f}"),
    Column("differing_files", "files differ", "{:.0f}"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a simulation, and the number of its runs."""

    calls: int
    runs: int
    rate: float = 700.0
    workers: int = 100
    mean: float = 0.1
    failing: float = 0.05
    outage: float = 0.0
    """The share of the time, in the middle, in which the service fails every request."""


QUICK = Plan(calls=10_000, runs=3)
FULL = Plan(calls=50_000, runs=5)

Ends = list[tuple[float, float, str]]
"""Begin, end and outcome of each call, in the order in which the calls end."""


@dataclass(frozen=True, slots=True)
class Try:
    """One run: seconds of wall time, the ends of the calls, the number of requests, and the results as JSON."""

    wall: float
    ends: Ends
    requests: int
    written: str


def scenario(plan: Plan) -> Any:
    """The scenario of a plan: loads, service, and the outage if there is one."""
    from resilient.faults import Errors
    from resilient.lab.distributions import Exponential
    from resilient.lab.load import Poisson
    from resilient.lab.service import ServicePlan
    from resilient.lab.world import Scenario

    duration = plan.calls / plan.rate
    middle, half = duration / 2, plan.outage * duration / 2
    return Scenario(
        duration=duration,
        loads=(Poisson(plan.rate),),
        service=ServicePlan(service_time=Exponential(plan.mean), workers=plan.workers, failure_rate=plan.failing),
        faults=(Errors(start=middle - half, end=middle + half),) if plan.outage else (),
        name="lab",
    )


@dataclass(frozen=True, slots=True)
class Contender:
    """One row. `build` makes the decorator, inside the running event loop."""

    name: str
    build: Callable[[], Decorator]
    ours: bool = False
    outage: float = 0.0
    note: str = ""


def run(options: Options) -> Report:
    """Simulate every contender in turn, round by round, and take medians over the rounds."""
    plan = QUICK if options.quick else FULL
    known = [contender for contender in CONTENDERS if _installed(contender)]
    tries: dict[str, list[Try]] = {one.name: [] for one in known}
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
        _figure(one, tries[one.name]) if one in known else Figure("in virtual time", one.name, note="not installed")
        for one in CONTENDERS
    ]
    figures += [figure for one in known if one.ours for figure in same(one, tries[one.name])]
    return Report("lab", COLUMNS, figures, conditions)


def _timed(one: Contender, plan: Plan, seed: int) -> Try:
    from resilient.lab.candidates import Candidate  # here: it slows other benchmarks (see `overhead`)
    from resilient.lab.comparison import report
    from resilient.lab.measures import Measures
    from resilient.lab.world import simulate

    world = scenario(replace(plan, outage=one.outage))
    began = time.perf_counter()
    run = simulate(world, Candidate(one.name, one.build), seed)
    wall = time.perf_counter() - began
    ends = [(begin, end, run.names[how]) for begin, end, how in zip(run.begins, run.ends, run.outcomes, strict=True)]
    return Try(wall, ends, len(run.sent), report(world, [Measures([run])], (), seed, 1))


def _figure(one: Contender, tries: list[Try]) -> Figure:
    ends, requests = tries[0].ends, tries[0].requests
    durations = statistics.quantiles([end - begin for begin, end, _ in ends], n=100)
    succeeded = sum(how == "success" for _, _, how in ends)
    values = {
        "calls_per_s": round(len(ends) / statistics.median(each.wall for each in tries), 1),
        "slowest_calls_per_s": round(len(ends) / max(each.wall for each in tries), 1),
        "succeeded_percent": round(100 * succeeded / len(ends), 3),
        "requests_per_call_x": round(requests / len(ends), 4),
        "p50_ms": round(1000 * durations[49], 3),
        "p99_ms": round(1000 * durations[98], 3),
    }
    judged = one.ours and not one.outage
    bar = Bar("calls_per_s", 15_000, at_least=True) if judged else None
    return Figure("in virtual time", one.name, values, bar, one.ours, one.note)


def same(one: Contender, tries: list[Try]) -> list[Figure]:
    """The figures of determinism: how many calls differ in outcome, time or order in the run that differs most from the
    first one, and how many runs differ in their JSON."""
    first = tries[0]
    name = f"{one.name}: {len(tries)} runs"
    calls = max(
        sum(map(operator.ne, first.ends, each.ends)) + abs(len(first.ends) - len(each.ends)) for each in tries[1:]
    )
    files = sum(each.written != first.written for each in tries[1:])
    return [
        Figure("one seed, one result", name, {"differing_calls": calls}, Bar("differing_calls", 0), ours=True),
        Figure(
            "one seed, one result", f"{name}, as JSON", {"differing_files": files}, Bar("differing_files", 0), ours=True
        ),
    ]


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
        async def timed(key: str) -> object:
            async with asyncio.timeout(1.0):
                return await function(key)  # type: ignore[misc]

        return retries(timed)

    return decorate


CONTENDERS = (
    Contender("resilient", _ours, ours=True),
    Contender("resilient, outage", _ours, ours=True, outage=0.1, note="down for 10 %"),
    Contender("no policy", _nothing, note="the model alone"),
    Contender("nopanic", _nopanic, note="time window"),
    Contender("tenacity", _tenacity, note="+ asyncio.timeout"),
)


def _installed(one: Contender) -> bool:
    try:
        one.build()
    except ImportError:
        return False
    except RuntimeError:  # installed, but needs a running event loop
        return True
    return True
