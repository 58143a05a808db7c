"""The limits benchmark with few calls: its rows, bars and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.effect import limits


def run(tmp_path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    file = tmp_path / "limits.json"
    status = command.main(["limits", "--quick", "--json", str(file), *more])
    found: dict[str, Any] = json.loads(file.read_text())
    return status, found


def test_every_row_is_there_with_its_bar_and_one_seed_gives_one_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run of a few simulated seconds has every row, is judged as usual, and is the same when repeated."""
    monkeypatch.setattr(limits, "QUICK", limits.Plan(seeds=1, begin=2))
    monkeypatch.setattr(limits, "PHASES", ((2.0, 20), (2.0, 10)))
    monkeypatch.setattr(limits, "BEGINS", (20,))
    monkeypatch.setattr(limits, "SPIKE", (1.0, 2.0))
    plot = tmp_path / "limits.png"
    status, found = run(tmp_path, "--plot", str(plot))
    assert plot.read_bytes().startswith(b"\x89PNG")

    assert status == (found["verdict"] == "miss")
    rows = {(each["group"], each["name"]): each for each in found["figures"]}
    names = [row.name for row in limits.rows()]
    for group in ("E6, from 0 s: 20 workers", "E6, from 2 s: 10 workers"):
        assert all(0.3 < rows[group, name]["of_capacity_x"] < 1.2 for name in names)
        assert rows[group, "AdaptiveLimit"]["bar"] == {"of_capacity_x_at_least": 0.95}
        assert rows[group, "AdaptiveLimit: p50"]["bar"] == {"p50_ms_at_most": 60}
        assert rows[group, "Netflix' Vegas, 1 s"]["bar"] is None
    spike = rows["priorities: 12 times the sheddable calls", "AdaptiveLimit"]
    assert spike["bar"] == {"critical_percent_at_least": 99.4}
    assert spike["critical_percent"] > spike["sheddable_percent"]
    assert run(tmp_path)[1] == found
