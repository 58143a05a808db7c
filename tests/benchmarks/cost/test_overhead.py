"""The overhead benchmark: its rows do what their groups say, and its report is complete. No times are judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import bars, patterns, peers, targets
from benchmarks.contenders.bars import Mode
from benchmarks.cost import overhead
from benchmarks.harness.measure import Plan
from benchmarks.harness.options import Options

ROOT = Path(__file__).parents[3]


MODES: tuple[Mode, ...] = ("async", "def")


@pytest.mark.parametrize("mode", MODES)
def test_every_row_does_what_its_group_says(mode: Mode) -> None:
    """Each decorator, ours and the peers', returns the result, or rejects the call if its group is about rejection."""
    with targets.Stage(mode == "async") as stage:
        problems = {
            row.key: subject
            for row in overhead.known(mode)
            if isinstance(subject := row.subject(stage), str) and subject != "not installed"
        }
    assert problems == {}


def test_every_bar_has_its_row_and_every_rival_exists() -> None:
    """A misspelt name would leave a bar that judges nothing."""
    judged = 0
    for mode in MODES:
        rows = overhead.known(mode)
        keys = {row.key for row in rows}
        limited = [row for row in rows if row.limit is not None]
        judged += len(limited)
        assert all(row.rival in keys for row in limited if row.limit and row.limit.against)
    assert judged == len(bars.BARS)


def test_report_has_our_row_first_in_each_group_and_every_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run of two short rounds has every group and every value; its figures mean nothing."""
    monkeypatch.setattr(overhead, "QUICK", Plan(rounds=2, batch=1e-5))
    monkeypatch.setattr(patterns, "PEERS", tuple(peer for peer in peers.PEERS if not peer.distribution))

    report = overhead.run(Options(quick=True))

    groups: dict[str, list[Any]] = {}
    for figure in report.figures:
        groups.setdefault(figure.group, []).append(figure)
        more = {"added": "what that adds" in figure.group, "ratio": "ratio_x" in figure.values}
        intervals = ["multiple", *(key for key, has in more.items() if has)]
        ends = {f"{each}{end}_x" for each in intervals for end in ("", "_low", "_high")}
        assert set(figure.values) == {*ends, "lower_quartile_x", "upper_quartile_x", "call_ns"}
    held = [figure for figure in report.figures if figure.bar and figure.bar.against == "resilient"]
    assert held
    assert all(figure.values["ratio_low_x"] <= figure.values["ratio_high_x"] for figure in held)
    for title, figures in groups.items():
        assert figures[0].ours == (not title.endswith("no policy"))


def test_nothing_that_slows_calls_is_imported_for_the_measurement() -> None:
    """A rate limit looks up the call's clock once there can be several: with trio, and with virtual time."""
    code = (
        "import sys; from benchmarks import __main__ as command; from benchmarks.contenders import peers;"
        "command.available();"
        "[peer.build() for peer in peers.PEERS if not peer.distribution];"
        "print([name for name in ('trio', 'resilient.runtime.virtual') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
