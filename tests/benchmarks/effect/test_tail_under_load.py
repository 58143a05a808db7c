"""The bars of hedges under load."""

from __future__ import annotations

from benchmarks.effect import tail_under_load
from benchmarks.harness.report import Bar


def test_bars_under_load_are_those_of_the_issue() -> None:
    """A budgeted hedge is never worse than none; a server that stops cancelled work is within 15% of 6.0 and 6.6."""
    bars = {(row.load, row.name): row.bar for row in tail_under_load.loaded() if row.bar is not None}
    stopped = "after 4 s, the server stops what is cancelled"
    assert {load: bars[load, stopped] for load in (0.8, 0.9)} == {
        0.8: Bar("p99_s", 6.9),
        0.9: Bar("p99_s", 7.59),
    }
    budgeted = [bar for (_, name), bar in bars.items() if "budget" in name]
    assert budgeted == [Bar("worse_s", 0)] * 9
