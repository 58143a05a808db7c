"""Does a call cost half more than in the committed run? A check for CI, which takes half a minute.

It measures our rows of `overhead`, and the peers of their bars, in a few rounds. Each row is compared with the run in
docs/performance: its cost in bare calls, and its ratio to the peer. A row misses when the whole interval of its growth
is beyond 1.5 in two measurements: a busy machine slows down some rounds of a row, but rarely most of them twice. Rows
that the committed run does not have are not judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.contenders.bars import Mode
from benchmarks.contenders.patterns import Row
from benchmarks.cost import overhead
from benchmarks.cost.overhead import MODES, Sample, known, sample
from benchmarks.harness.measure import Plan, conditions, one_core
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Column, Figure, Report
from benchmarks.harness.statistics import Spread

__all__ = ["run"]

PLAN = Plan(rounds=15, batch=0.003)
COMMITTED = Path(__file__).parents[2] / "docs" / "performance" / "overhead.json"
GROWN = Bar("grown_x", 1.5)
COLUMNS = (
    Column("was_x", "committed", "{:,.2f}"),
    Column("is_x", "now", "{:,.2f}"),
    Column("grown_x", "growth", "{:,.2f}"),
    Column("grown_low_x", "from", "{:,.2f}"),
    Column("grown_high_x", "to", "{:,.2f}"),
)


def run(options: Options) -> Report:
    """Measure all rows, and once more if one misses. Each figure is the better one of its two."""
    committed = json.loads(COMMITTED.read_text(encoding="utf-8"))
    plan = replace(PLAN, seed=options.seed)
    with one_core() as core:
        figures = grown(committed, sample(plan, wanted()))
        if any(figure.verdict == "miss" for figure in figures):
            again = grown(committed, sample(replace(plan, seed=plan.seed + 1), wanted()))
            figures = [min(both, key=_growth) for both in zip(figures, again, strict=True)]
    found = conditions(plan, core) | {"committed": committed["measured"]}
    return Report("smoke", COLUMNS, figures, found)


def wanted() -> frozenset[str]:
    """The keys of our rows and of their rivals."""
    ours = [row for mode in MODES for row in known(mode) if row.peer.ours]
    return frozenset(key for row in ours for key in (row.key, row.rival))


def grown(committed: Mapping[str, Any], samples: Mapping[Mode, Sample]) -> list[Figure]:
    """The growth of each of our rows, in bare calls and, if it has a rival, in its ratio to that."""
    before = {(figure["group"], figure["name"]): figure for figure in committed["figures"]}
    figures = []
    for mode, found in samples.items():
        for row in known(mode):
            if row.peer.ours and row.key in found.rows:
                group, now = f"{mode}: {row.pattern.title}", overhead.values(row, found.rows)
                then = before.get((group, row.label), {})
                figures += [_compared(group, row, key, then, now) for key in ("multiple_x", "ratio_x") if key in now]
    return figures


def _compared(group: str, row: Row, key: str, then: Mapping[str, Any], now: Mapping[str, float]) -> Figure:
    name = f"{row.label}, against {row.against}" if key == "ratio_x" else row.label
    if key not in then:
        return Figure(group, name, {"is_x": now[key]}, ours=True, note="not in the committed run")
    stem = key.removesuffix("_x")
    growth = Spread(*(now[f"{stem}{end}_x"] / then[key] for end in ("", "_low", "_high")))
    return Figure(group, name, {"was_x": then[key], "is_x": now[key], **growth.values("grown_x")}, GROWN, ours=True)


def _growth(figure: Figure) -> float:
    return figure.values.get("grown_low_x", 0.0)
