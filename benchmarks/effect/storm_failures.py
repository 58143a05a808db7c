"""Experiment E3 of `storm`: each attempt fails with some probability, and clients retry.

100 clients make 10 calls a second each, at several probabilities. Then 1,000 clients make one call every 10 s each, at
50%, so that the tokens which each budget starts with weigh more.
"""

from __future__ import annotations

from typing import Any

from benchmarks.effect.storm_rows import (
    PEERS,
    SHARES,
    Plan,
    Row,
    beside_expected,
    budget,
    installed,
    pipeline,
    standard_pipeline,
    totals,
)
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Figure

__all__ = ["failing", "figures"]

RARELY = 0.05
SMALL = 1000
"""Small clients, each with a call every 10 s."""

NO_BUDGET = {"success_percent": (100.0, 100.0, 99.2, 93.8, 0.0), "requests_per_call_x": (1.052, 1.11, 1.42, 1.87, 4.0)}
BUCKET = {"success_percent": (100.0, 98.5, 77.5, 55.3, 0.0), "requests_per_call_x": (1.052, 1.09, 1.10, 1.10, 1.10)}
FAILING = (
    Row("4 attempts", pipeline, NO_BUDGET, ours=True, note="expected: 3 retries"),
    Row(
        "4 attempts, budget",
        lambda: pipeline(budget=budget()),
        BUCKET,
        True,
        True,
        note="expected: bucket of 0.1 a call",
    ),
    Row("standard()", standard_pipeline, {}, True, True),
)


def failing(row: Row, share: float, plan: Plan, seed: int, clients: int, rate: float) -> Any:
    """Simulate E3 once: each attempt fails with probability `share`. `rate` is in calls a second, over all clients."""
    from resilient.lab.candidates import Candidate
    from resilient.lab.load import Poisson
    from resilient.lab.service import ServicePlan
    from resilient.lab.world import Scenario, simulate

    service = ServicePlan(failure_rate=share)
    seconds = plan.rarely_failing if share <= RARELY or clients == SMALL else plan.failing
    scenario = Scenario(duration=seconds, loads=(Poisson(rate),), clients=clients, service=service)
    return simulate(scenario, Candidate(row.name, row.make), seed)


def figures(options: Options, plan: Plan) -> list[Figure]:
    """Simulate every row at every failure probability, then the small clients, and return the figures."""
    peers = [row for row in PEERS if installed(row)]
    rows, small = (*FAILING, *peers), (FAILING[1], FAILING[2], *peers)
    cells = [(row, share) for share in SHARES for row in rows if row.ours or share in plan.peers_shares]
    steps = [*((row, share, False) for row, share in cells), *((row, 0.5, True) for row in small)]
    found: dict[tuple[Row, float, bool], Any] = {}
    for row, share, is_small in options.track(steps, "storm, E3"):
        clients, rate = (SMALL, SMALL / 10) if is_small else (100, 1000.0)
        found[row, share, is_small] = failing(row, share, plan, options.seed, clients, rate)
    return [
        *(_figure(row, share, found[row, share, False]) for row, share in cells),
        *(_small(row, found[row, 0.5, True]) for row in small),
    ]


def _figure(row: Row, share: float, run: Any) -> Figure:
    expected = {key: each[SHARES.index(share)] for key, each in row.expected.items()}
    bar = None
    if row.judged and share <= RARELY:
        bar = Bar("success_percent", 99.9, at_least=True)
    elif row.judged and share == 1.0:
        bar = Bar("requests_per_call_x", 1.11)
    group = f"E3: {100 * share:g}% of attempts fail, 100 clients"
    return Figure(group, row.name, beside_expected(totals([run]), expected), bar, row.ours, row.note)


def _small(row: Row, run: Any) -> Figure:
    bar = Bar("requests_per_call_x", 1.15) if row.judged else None
    expected = {"requests_per_call_x": 1.49} if row is FAILING[1] else {}
    values = beside_expected(totals([run]), expected)
    return Figure("E3: 50% of attempts fail, 1,000 small clients", row.name, values, bar, row.ours, row.note)
