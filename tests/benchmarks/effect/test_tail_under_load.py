"""The rows of `tail` under load: their bars."""

from __future__ import annotations

from benchmarks.effect import tail_under_load
from benchmarks.harness.report import Bar


def test_bars_under_load_are_on_worse_tails_and_on_the_expected_p99() -> None:
    """A budgeted hedge is never worse than none. Where servers stop cancelled work, p99 is at most 15% over 6.0 and 6.6
    s."""
    bars = {(row.load, row.name): row.bar for row in tail_under_load.loaded() if row.bar is not None}
    stopped = "after 4 s, the server stops what is cancelled"
    assert {load: bars[load, stopped] for load in (0.8, 0.9)} == {
        0.8: Bar("p99_s", 6.9),
        0.9: Bar("p99_s", 7.59),
    }
    budgeted = [bar for (_, name), bar in bars.items() if "budget" in name]
    assert budgeted == [Bar("worse_s", 0)] * 9
