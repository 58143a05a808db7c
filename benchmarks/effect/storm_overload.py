"""Experiment E4 of `storm`: an overload that outlasts its trigger, and whether the service ever recovers.

100 clients make 700 calls a second. 100 workers take 100 ms (exponential), and finish work that its client has
abandoned. For ten seconds, no worker begins anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.effect.storm_rows import (
    PEERS,
    Plan,
    Row,
    adaptive_limit,
    beside_expected,
    breaker,
    budget,
    installed,
    nopanic_pipeline,
    pipeline,
    standard_pipeline,
    totals,
)
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Figure

__all__ = ["QUICKLY", "figures", "overloaded", "recovered", "simulated"]

RATE, WORKERS, MEAN, STALL = 700.0, 100, 0.1, (30.0, 40.0)
"""Calls a second, workers, seconds of a request on average, and when no worker begins anything."""
WITHIN, ENOUGH, STREAK = 60, 0.92, 5
"""Seconds after the stall over which goodput is measured. The service has recovered at the first of `STREAK` seconds
that each have a goodput of `ENOUGH` times the load."""


def _expected(recovery: float | None, goodput: float, requests: float) -> dict[str, tuple[float, ...]]:
    wanted: dict[str, tuple[float, ...]] = {"goodput_share_x": (goodput,), "requests_per_call_x": (requests,)}
    return wanted if recovery is None else {"recovery_s": (recovery,), **wanted}


BARS = (Bar("recovery_s", 8), Bar("goodput_share_x", 0.88, at_least=True), Bar("requests_per_call_x", 1.05))
DROPS = (Bar("recovery_s", 1),)
OVERLOADED = (
    Row("1 attempt", lambda: pipeline(attempts=1), _expected(21, 0.68, 1.0), True),
    Row("4 attempts", pipeline, _expected(None, 0.0, 3.9), True),
    Row("4 attempts, budget", lambda: pipeline(budget=budget()), _expected(25, 0.61, 1.02), True),
    Row("4 attempts, breaker", lambda: pipeline(breaker=breaker()), _expected(12, 0.82, 0.84), True),
    Row(
        "breaker and budget",
        lambda: pipeline(budget=budget(), breaker=breaker()),
        _expected(7, 0.90, 0.86),
        True,
        True,
        bars=BARS,
    ),
    Row("doubled breaks", lambda: pipeline(budget=budget(), breaker=breaker(60)), {}, True, note="breaker, budget"),
    Row("standard()", standard_pipeline, {}, True, True, note="9 s an attempt", bars=BARS),
    Row(
        "budget, server drops expired",
        lambda: pipeline(budget=budget()),
        _expected(0, 1.0, 1.02),
        True,
        True,
        {"drop_expired": True},
        "by the deadline that travels",
        DROPS,
    ),
    Row(
        "budget, server LIFO",
        lambda: pipeline(budget=budget()),
        _expected(0, 1.0, 1.02),
        True,
        server={"queue": "lifo"},
    ),
    Row(
        "budget, queue of 100",
        lambda: pipeline(budget=budget()),
        _expected(0, 1.0, 1.02),
        True,
        server={"queue_limit": 100},
    ),
    Row(
        "standard(), server drops expired",
        standard_pipeline,
        {},
        True,
        server={"drop_expired": True},
        note="9 s an attempt: little expires",
    ),
    Row(
        "budget, server AdaptiveLimit",
        lambda: pipeline(budget=budget()),
        {},
        True,
        True,
        {"admission": adaptive_limit},
        "no header",
        DROPS,
    ),
    Row(
        "budget, server both",
        lambda: pipeline(budget=budget()),
        {},
        True,
        True,
        {"admission": adaptive_limit, "drop_expired": True},
        "AdaptiveLimit and header",
        DROPS,
    ),
    Row(
        "standard(), server AdaptiveLimit",
        standard_pipeline,
        {},
        True,
        server={"admission": adaptive_limit},
        note="its breakers count refusals",
    ),
    Row("4 attempts, server AdaptiveLimit", pipeline, {}, True, server={"admission": adaptive_limit}, note="no budget"),
    Row(
        "4 attempts, drops expired",
        pipeline,
        _expected(None, 0.01, 3.9),
        True,
        server={"drop_expired": True},
        note="no budget: as published",
    ),
    *PEERS,
    Row(
        "nopanic, budget and breaker",
        lambda: nopanic_pipeline(budget=True, breaker=True),
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
"""Rows of a quick run, besides the last one, and of the plot."""


def overloaded(row: Row, plan: Plan, seed: int) -> Any:
    """Simulate E4 once, with the service of the row."""
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
    """Recovery and goodput of one run; without `recovery_s` if the service does not recover."""
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


def simulated(options: Options, plan: Plan) -> dict[Row, list[Any]]:
    """Simulate every row: those with bars with several seeds, the others with one. In a quick run, only some rows."""
    rows = [
        row
        for row in OVERLOADED
        if (row.ours or installed(row)) and (not options.quick or row.name in QUICKLY or row is OVERLOADED[-1])
    ]
    return {
        row: [overloaded(row, plan, options.seed + more) for more in range(plan.seeds if row.bars else 1)]
        for row in options.track(rows, "storm, E4")
    }


def figures(row: Row, runs: Sequence[Any]) -> list[Figure]:
    """The figure of one row over its seeds, and one for each further bar."""
    each = [recovered(run) for run in runs]
    values = totals(runs)
    values["goodput_share_x"] = round(sum(one["goodput_share_x"] for one in each) / len(each), 4)
    note = row.note
    if all("recovery_s" in one for one in each):
        values["recovery_s"] = max(one["recovery_s"] for one in each)  # the worst seed
    else:
        note = f"never recovers{', ' if note else ''}{note}"
    group = "E4: nothing is begun for 10 s"
    values = beside_expected(values, {key: value for key, (value,) in row.expected.items()})
    if not row.bars:
        return [Figure(group, row.name, values, None, row.ours, note)]
    first, *others = row.bars
    names = {"goodput_share_x": "goodput", "requests_per_call_x": "requests"}
    further = [
        Figure(group, f"{row.name}: {names[bar.key]}", {bar.key: values[bar.key]}, bar, ours=True) for bar in others
    ]
    return [Figure(group, row.name, values, first, row.ours, note), *further]
