"""The rows of `tail` under load: hedges whose copies take time of servers that other requests wait for.

The servers are in `queueing`. A hedge that is paid for by a Budget must never make the p99 worse than it is without a
hedge: `worse` is the gap between the 95% intervals of the two, and 0 where these overlap. Where servers stop cancelled
work, hedges even remove work; that is worth more than any tuning of the delay.
"""

from __future__ import annotations

import random
import statistics
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Figure
from benchmarks.harness.statistics import quantile, quantile_interval

__all__ = ["Loaded", "loaded", "under_load"]

CANCELLED = {0.8: 6.0, 0.9: 6.6}
"""By load: the expected p99 in seconds where servers stop cancelled work. The bar is 15% above it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One policy in front of the servers of `queueing`, at one load. `stops` says that servers stop cancelled work."""

    load: float
    name: str
    hedge: Callable[[], Any] | None
    stops: bool = False
    bar: Bar | None = None

    @property
    def group(self) -> str:
        return f"under load {self.load:g}, seconds: hedge"


def loaded() -> list[Loaded]:
    """The rows of all loads; for each load, the row without a hedge first."""
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


def serve(row: Loaded, calls: int, seed: str) -> tuple[array[float], float]:
    """Simulate one row with one seed, after a warm-up of a tenth as many calls. Returns the seconds of each call, and
    the requests per call."""
    from benchmarks.effect.queueing import Farm, offer
    from resilient.runtime import virtual

    # Rows do not share their draws: equal arrivals would still not give equal queues, because the policy decides which
    # request draws next.
    generator = random.Random(seed)
    farm, before = Farm(generator, stops=row.stops), [0]
    ask = farm.ask if row.hedge is None else row.hedge()(farm.ask)

    def begin() -> None:
        before[0] = farm.requests

    taken = virtual.run(offer(ask, row.load, calls // 10, calls, generator, begin))
    return taken, (farm.requests - before[0]) / calls


def under_load(options: Options, seeds: int, calls: int) -> list[Figure]:
    """Simulate all rows, each with `seeds` seeds of `calls` calls, and return their figures."""
    figures, rows = [], loaded()
    none, high = 1.0, 0.0
    steps = [(row, seed) for row in rows for seed in range(seeds)]
    found: dict[Loaded, list[tuple[array[float], float]]] = {}
    for row, seed in options.track(steps, "under load"):
        found.setdefault(row, []).append(serve(row, calls, f"{options.seed} {seed} {row.load} {row.name}"))
    for row, each in found.items():
        taken = array("d")
        for seconds, _ in each:
            taken.extend(seconds)
        p99 = quantile(taken, 0.99)
        low, top = quantile_interval(taken, 0.99)
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
