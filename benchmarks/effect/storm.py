"""What retries do to a service that fails, and what holds them back: two experiments in the world of `resilient.lab`.

Our own policies, and the same plans as tenacity, nopanic and plain loops write them, in the same worlds with the same
arrivals. Expected figures are those of a plain simulation (research/experiments.md), of textbook policies:

- *E3*, after M. Brooker, Fixing retries with token buckets and circuit breakers: each attempt fails with probability f.
  100 clients make 10 calls a second each; then 1,000 clients one every 10 s each, so that the tokens they begin with
  weigh more. The article shows curves, and no figures.
- *E4*, after N. Bronson et al., Metastable Failures (HotOS '21), and L. Huang et al. (OSDI '22): 100 clients make 700
  calls a second; 100 workers take 100 ms (exponential) and do abandoned work all the same; for ten seconds nothing is
  begun. Does the service ever recover? *recovery*: seconds until the first of five seconds that each have a goodput of
  92% of the load, in the worst of the seeds; *goodput*: successes for each call made, from the end of the fault on for
  60 s.

"breaker and budget" is the pair that the bars are for: `CircuitBreaker(0.5, window_seconds=10, min_calls=20,
break_duration=5, max_break=5)` and `Budget()` (0.1 for a success, 1 at the start, 10 at the most). With the default
`max_break` of 60 s, failed probes double the break: that is gentler to a service that is down for long, and slower here
("doubled breaks"). `standard()` waits for up to 9 s for an answer, where all others give up after 1 s.

At the server are our own policies, too: "drops expired" is what `ServerMiddleware` does with the deadlines that our
transports send; "AdaptiveLimit" is that policy, as it comes, in front of the server, and nothing of deadlines. Clients'
breakers take its refusals for failures, so a client that has one recovers later than one that has none. Dropping what
has expired is known not to help where there is no budget ("4 attempts, drops expired"): with so many requests in line,
what a worker takes up expires in its hands.
"""

from __future__ import annotations

import asyncio
import functools
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.effect.storm_plot import draw_storm
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Column, Figure, Report

__all__ = ["run"]

COLUMNS = (
    Column("success_percent", "success %", "{:.2f}"),
    Column("expected_success_percent", "expected", "{:.1f}"),
    Column("requests_per_call_x", "req/call", "{:.3f}"),
    Column("expected_requests_per_call_x", "expected", "{:.2f}"),
    Column("recovery_s", "recovery s", "{:.0f}"),
    Column("expected_recovery_s", "expected", "{:.0f}"),
    Column("goodput_share_x", "goodput", "{:.3f}"),
    Column("expected_goodput_share_x", "expected", "{:.2f}"),
)
TRIES, LIMIT = 4, 1.0
BASE, CAP = 0.1, 2.0
RATE, WORKERS, MEAN, STALL = 700.0, 100, 0.1, (30.0, 40.0)
WITHIN, ENOUGH, STREAK = 60, 0.92, 5
SHARES = (0.05, 0.1, 0.3, 0.5, 1.0)
RARELY = 0.05
SMALL = 1000
"""Clients, each with a call every 10 s."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of load: of E3; where its bar is about one call in a thousand; of E4, and how many seeds of its bars."""

    failing: float
    rarely_failing: float
    horizon: float
    seeds: int
    peers_shares: tuple[float, ...] = SHARES


QUICK = Plan(failing=5, rarely_failing=100, horizon=100, seeds=2, peers_shares=(0.5, 1.0))
FULL = Plan(failing=100, rarely_failing=100, horizon=240, seeds=6)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One policy. `make` is called for each client, in the running event loop; `server` changes the service."""

    name: str
    make: Callable[[], Any]
    expected: dict[str, tuple[float, ...]] = field(default_factory=dict)
    ours: bool = False
    judged: bool = False
    server: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    bars: tuple[Bar, ...] = ()
    """In E4."""


# -- ours -------------------------------------------------------------------------------------------------------------


def _pipeline(*, budget: Any = None, breaker: Any = None, attempts: int = TRIES) -> Any:
    from resilient import FullJitter, Pipeline, Retry, Timeout

    gates = [] if breaker is None else [breaker]
    return Pipeline(Retry(attempts, wait=FullJitter(BASE, CAP), budget=budget), *gates, Timeout(LIMIT))


def _breaker(max_break: float = 5.0) -> Any:
    from resilient import CircuitBreaker

    return CircuitBreaker(0.5, window_seconds=10, min_calls=20, break_duration=5, max_break=max_break)


def _budget() -> Any:
    from resilient import Budget

    return Budget()


def _standard() -> Any:
    from resilient import standard

    return standard()


def _limit() -> Any:
    """Of the server."""
    from resilient import AdaptiveLimit

    return AdaptiveLimit()


# -- others -----------------------------------------------------------------------------------------------------------


def _timed(function: Any) -> Any:
    @functools.wraps(function)
    async def timed(key: str) -> Any:
        async with asyncio.timeout(LIMIT):
            return await function(key)

    return timed


def _loop() -> Any:
    def decorate(function: Any) -> Any:
        timed = _timed(function)

        async def looped(key: str) -> Any:
            for attempt in range(1, TRIES + 1):
                try:
                    return await timed(key)
                except Exception:
                    if attempt == TRIES:
                        raise

        return looped

    return decorate


def _tenacity() -> Any:
    from tenacity import retry, stop_after_attempt, wait_random_exponential

    retries = retry(stop=stop_after_attempt(TRIES), wait=wait_random_exponential(BASE, max=CAP), reraise=True)
    return lambda function: retries(_timed(function))


def _nopanic(*, budget: bool, breaker: bool) -> Any:
    import nopanic

    clock = asyncio.get_running_loop().time
    tokens = nopanic.RetryBudget(clock=clock) if budget else None
    backoff = nopanic.backoff.full_jitter(BASE, cap=CAP)
    retry = nopanic.retry(attempts=TRIES, backoff=backoff, budget=tokens, clock=clock)
    circuit = nopanic.circuit_breaker(
        failure_threshold=0.5, min_calls=20, window=10.0, reset_timeout=5.0, clock=clock, on=Exception
    )
    return nopanic.compose(retry, *([circuit] if breaker else []), nopanic.timeout(LIMIT))


PEERS = (
    Row("loop, asyncio.timeout", _loop, note="4 attempts at once"),
    Row("tenacity, asyncio.timeout", _tenacity, note="4 attempts, jitter"),
    Row("nopanic, budget", lambda: _nopanic(budget=True, breaker=False), note="its defaults: 20%, 1 a second"),
)

# -- E3 ---------------------------------------------------------------------------------------------------------------

NO_BUDGET = {"success_percent": (100.0, 100.0, 99.2, 93.8, 0.0), "requests_per_call_x": (1.052, 1.11, 1.42, 1.87, 4.0)}
BUCKET = {"success_percent": (100.0, 98.5, 77.5, 55.3, 0.0), "requests_per_call_x": (1.052, 1.09, 1.10, 1.10, 1.10)}
FAILING = (
    Row("4 attempts", _pipeline, NO_BUDGET, ours=True, note="expected: 3 retries"),
    Row(
        "4 attempts, budget",
        lambda: _pipeline(budget=_budget()),
        BUCKET,
        True,
        True,
        note="expected: bucket of 0.1 a call",
    ),
    Row("standard()", _standard, {}, True, True),
)


def failing(row: Row, share: float, plan: Plan, seed: int, clients: int = 100, rate: float = 1000.0) -> Any:
    """One run of E3."""
    from resilient.lab.candidates import Candidate
    from resilient.lab.load import Poisson
    from resilient.lab.service import ServicePlan
    from resilient.lab.world import Scenario, simulate

    service = ServicePlan(failure_rate=share)
    seconds = plan.rarely_failing if share <= RARELY or clients == SMALL else plan.failing
    scenario = Scenario(duration=seconds, loads=(Poisson(rate),), clients=clients, service=service)
    return simulate(scenario, Candidate(row.name, row.make), seed)


def figures_of(runs: Sequence[Any]) -> dict[str, float]:
    """Success and requests."""
    calls = sum(len(run.begins) for run in runs)
    return {
        "success_percent": round(100 * sum(run.outcomes.count(0) for run in runs) / calls, 3),
        "requests_per_call_x": round(sum(len(run.sent) for run in runs) / calls, 4),
    }


def _beside(values: dict[str, float], expected: dict[str, float]) -> dict[str, float]:
    return {**values, **{f"expected_{key}": value for key, value in expected.items()}}


def _e3(found: dict[tuple[Row, float], list[Any]], rows: Sequence[Row]) -> list[Figure]:
    figures = []
    for share in SHARES:
        group = f"E3: {100 * share:g}% of attempts fail, 100 clients"
        for row in rows:
            if (row, share) not in found:
                continue
            values = figures_of(found[row, share])
            expected = {key: each[SHARES.index(share)] for key, each in row.expected.items()}
            bar = None
            if row.judged and share <= RARELY:
                bar = Bar("success_percent", 99.9, at_least=True)
            elif row.judged and share == 1.0:
                bar = Bar("requests_per_call_x", 1.11)
            figures.append(Figure(group, row.name, _beside(values, expected), bar, row.ours, row.note))
    return figures


# -- E4 ---------------------------------------------------------------------------------------------------------------


def _want(recovery: float | None, goodput: float, requests: float) -> dict[str, tuple[float, ...]]:
    wanted = {"goodput_share_x": (goodput,), "requests_per_call_x": (requests,)}
    return wanted if recovery is None else {"recovery_s": (recovery,), **wanted}


BARS = (Bar("recovery_s", 8), Bar("goodput_share_x", 0.88, at_least=True), Bar("requests_per_call_x", 1.05))
DROPS = (Bar("recovery_s", 1),)
OVERLOADED = (
    Row("1 attempt", lambda: _pipeline(attempts=1), _want(21, 0.68, 1.0), True),
    Row("4 attempts", _pipeline, _want(None, 0.0, 3.9), True),
    Row("4 attempts, budget", lambda: _pipeline(budget=_budget()), _want(25, 0.61, 1.02), True),
    Row("4 attempts, breaker", lambda: _pipeline(breaker=_breaker()), _want(12, 0.82, 0.84), True),
    Row(
        "breaker and budget",
        lambda: _pipeline(budget=_budget(), breaker=_breaker()),
        _want(7, 0.90, 0.86),
        True,
        True,
        bars=BARS,
    ),
    Row("doubled breaks", lambda: _pipeline(budget=_budget(), breaker=_breaker(60)), {}, True, note="breaker, budget"),
    Row("standard()", _standard, {}, True, True, note="9 s an attempt", bars=BARS),
    Row(
        "budget, server drops expired",
        lambda: _pipeline(budget=_budget()),
        _want(0, 1.0, 1.02),
        True,
        True,
        {"drop_expired": True},
        "by the deadline that travels",
        DROPS,
    ),
    Row(
        "budget, server LIFO", lambda: _pipeline(budget=_budget()), _want(0, 1.0, 1.02), True, server={"queue": "lifo"}
    ),
    Row(
        "budget, queue of 100",
        lambda: _pipeline(budget=_budget()),
        _want(0, 1.0, 1.02),
        True,
        server={"queue_limit": 100},
    ),
    Row(
        "standard(), server drops expired",
        _standard,
        {},
        True,
        server={"drop_expired": True},
        note="9 s an attempt: little expires",
    ),
    Row(
        "budget, server AdaptiveLimit",
        lambda: _pipeline(budget=_budget()),
        {},
        True,
        True,
        {"admission": _limit},
        "no header",
        DROPS,
    ),
    Row(
        "budget, server both",
        lambda: _pipeline(budget=_budget()),
        {},
        True,
        True,
        {"admission": _limit, "drop_expired": True},
        "AdaptiveLimit and header",
        DROPS,
    ),
    Row(
        "standard(), server AdaptiveLimit",
        _standard,
        {},
        True,
        server={"admission": _limit},
        note="its breakers count refusals",
    ),
    Row("4 attempts, server AdaptiveLimit", _pipeline, {}, True, server={"admission": _limit}, note="no budget"),
    Row(
        "4 attempts, drops expired",
        _pipeline,
        _want(None, 0.01, 3.9),
        True,
        server={"drop_expired": True},
        note="no budget: as published",
    ),
    *PEERS,
    Row(
        "nopanic, budget and breaker",
        lambda: _nopanic(budget=True, breaker=True),
        note="no doubling",
    ),
)
QUICKLY = (
    "4 attempts",
    "4 attempts, budget",
    "breaker and budget",
    "standard()",
    "budget, server drops expired",
    "budget, server AdaptiveLimit",
)
"""In a quick run, besides nopanic's like of our pair; and in the picture."""


def overloaded(row: Row, plan: Plan, seed: int) -> Any:
    """One run of E4."""
    from resilient.faults import Stall
    from resilient.lab.candidates import Candidate
    from resilient.lab.distributions import Exponential
    from resilient.lab.load import Poisson
    from resilient.lab.service import ServicePlan
    from resilient.lab.world import Scenario, simulate

    begin, end = STALL
    scenario = Scenario(
        duration=plan.horizon,
        loads=(Poisson(RATE),),
        clients=100,
        service=ServicePlan(service_time=Exponential(MEAN), workers=WORKERS, **row.server),
        faults=(Stall(start=begin, end=end),),
        title="Metastable overload",
    )
    return simulate(scenario, Candidate(row.name, row.make), seed)


def recovered(run: Any) -> dict[str, float]:
    """E4's own measures of one run; without `recovery_s` when it never did."""
    over, horizon = int(STALL[1]), int(run.scenario.duration)
    good = [0] * horizon
    for end, outcome in zip(run.ends, run.outcomes, strict=True):
        if outcome == 0 and end < horizon:
            good[int(end)] += 1
    streaks = (at for at in range(over, horizon - STREAK + 1) if min(good[at : at + STREAK]) >= ENOUGH * RATE)
    at = next(streaks, None)
    within = min(horizon, over + WITHIN)
    made = sum(over <= begin < within for begin in run.begins)
    return {
        **({} if at is None else {"recovery_s": float(at - over)}),
        "goodput_share_x": sum(good[over:within]) / made,
    }


def _e4(row: Row, runs: Sequence[Any]) -> list[Figure]:
    each = [recovered(run) for run in runs]
    values = figures_of(runs)
    values["goodput_share_x"] = round(sum(one["goodput_share_x"] for one in each) / len(each), 4)
    note = row.note
    if all("recovery_s" in one for one in each):
        values["recovery_s"] = max(one["recovery_s"] for one in each)  # of the worst seed
    else:
        note = f"never recovers{', ' if note else ''}{note}"
    group = "E4: nothing is begun for 10 s"
    values = _beside(values, {key: value for key, (value,) in row.expected.items()})
    if not row.bars:
        return [Figure(group, row.name, values, None, row.ours, note)]
    first, *others = row.bars
    names = {"goodput_share_x": "goodput", "requests_per_call_x": "requests"}
    further = [
        Figure(group, f"{row.name}: {names[bar.key]}", {bar.key: values[bar.key]}, bar, ours=True) for bar in others
    ]
    return [Figure(group, row.name, values, first, row.ours, note), *further]


# -- all of it --------------------------------------------------------------------------------------------------------


def run(options: Options) -> Report:
    """Every row of both experiments."""
    plan = QUICK if options.quick else FULL
    seed = options.seed
    peers = [row for row in PEERS if _installed(row)]
    known = {*FAILING, *peers, *(row for row in OVERLOADED if row.ours or _installed(row))}
    cells = [(row, share) for share in SHARES for row in (*FAILING, *peers) if row.ours or share in plan.peers_shares]
    rows = [
        row
        for row in OVERLOADED
        if row in known and (not options.quick or row.name in QUICKLY or row is OVERLOADED[-1])
    ]
    small = (FAILING[1], FAILING[2], *peers)
    steps: list[tuple[str, Row, float]] = [
        *(("E3", row, share) for row, share in cells),
        *(("small", row, 0.5) for row in small),
        *(("E4", row, 0.0) for row in rows),
    ]
    found: dict[tuple[str, Row, float], list[Any]] = {}
    for kind, row, share in options.track(steps, "storm"):
        if kind == "E4":
            seeds = plan.seeds if row.bars else 1
            found[kind, row, share] = [overloaded(row, plan, seed + more) for more in range(seeds)]
        elif kind == "E3":
            found[kind, row, share] = [failing(row, share, plan, seed)]
        else:
            found[kind, row, share] = [failing(row, share, plan, seed, clients=SMALL, rate=SMALL / 10)]
    figures = _e3(
        {(row, share): runs for (kind, row, share), runs in found.items() if kind == "E3"}, (*FAILING, *peers)
    )
    for row in small:
        bar = Bar("requests_per_call_x", 1.15) if row.judged else None
        expected = {"requests_per_call_x": 1.49} if row is FAILING[1] else {}
        values = _beside(figures_of(found["small", row, 0.5]), expected)
        figures.append(
            Figure("E3: 50% of attempts fail, 1,000 small clients", row.name, values, bar, row.ours, row.note)
        )
    for row in rows:
        figures += _e4(row, found["E4", row, 0.0])
    conditions = {
        "python": platform.python_version(),
        "seed": seed,
        "overload_seeds": plan.seeds,
        "failing_load_s": plan.failing,
        "overload_horizon_s": plan.horizon,
        "attempts": TRIES,
        "attempt_limit_s": LIMIT,
        "backoff_base_s": BASE,
        "backoff_cap_s": CAP,
        "load_calls_per_s": RATE,
        "workers": WORKERS,
        "service_mean_s": MEAN,
    }
    overloads = {row.name: found["E4", row, 0.0] for row in rows}
    return Report(
        "storm",
        COLUMNS,
        figures,
        conditions,
        picture=functools.partial(draw_storm, overloads=overloads, shown=QUICKLY, stall=STALL, rate=RATE),
    )


def _installed(row: Row) -> bool:
    async def build() -> None:
        row.make()

    try:
        asyncio.run(build())
    except ImportError:
        return False
    return True
