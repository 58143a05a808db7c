"""The storm benchmark in a small world: its rows, bars and report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.effect import storm, storm_failures, storm_overload
from benchmarks.effect.storm_rows import Plan


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """A small world: few seconds, a tenth of the load and of the workers."""
    monkeypatch = pytest.MonkeyPatch()
    thin = Plan(failing=1, rarely_failing=1, horizon=30, seeds=1, peers_shares=(1.0,))
    monkeypatch.setattr(storm, "QUICK", thin)
    monkeypatch.setattr(storm_failures, "SMALL", 50)
    monkeypatch.setattr(storm_overload, "RATE", 70.0)
    monkeypatch.setattr(storm_overload, "WORKERS", 10)
    monkeypatch.setattr(storm_overload, "STALL", (5.0, 15.0))
    monkeypatch.setattr(storm_overload, "WITHIN", 15)
    monkeypatch.setattr(storm_overload, "ENOUGH", 0.6)  # there are few calls
    yield
    monkeypatch.undo()


@pytest.fixture(scope="module")
def found(small: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of one run, which draws its plot."""
    directory = tmp_path_factory.mktemp("storm")
    plot = directory / "storm.png"
    loaded = run(directory, "--plot", str(plot))
    assert plot.read_bytes().startswith(b"\x89PNG")
    return loaded


def run(tmp_path: Path, *more: str) -> dict[str, Any]:
    file = tmp_path / "storm.json"
    command.main(["storm", "--quick", "--json", str(file), *more])
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def test_rows_have_expected_figures_and_one_seed_gives_one_report(found: dict[str, Any], tmp_path: Path) -> None:
    """Ours have their bars, peers have none, and nothing in the report depends on wall time."""
    rows = {(each["group"][:2], each["name"]): each for each in found["figures"]}

    pair = rows["E4", "breaker and budget"]
    assert pair["bar"] == {"recovery_s_at_most": 8}
    assert pair["expected_recovery_s"] == 7
    assert rows["E4", "breaker and budget: goodput"]["bar"] == {"goodput_share_x_at_least": 0.88}
    assert "recovery_s" not in rows["E4", "4 attempts"]
    assert rows["E4", "4 attempts"]["note"].startswith("never recovers")
    assert rows["E4", "budget, server drops expired"]["recovery_s"] == 0
    assert rows["E4", "budget, server AdaptiveLimit"]["recovery_s"] <= 1
    assert rows["E4", "budget, server AdaptiveLimit"]["bar"] == {"recovery_s_at_most": 1}
    assert rows["E3", "tenacity, asyncio.timeout"]["verdict"] is None
    assert run(tmp_path) == found


def test_total_failure_costs_all_attempts_without_a_budget_and_few_with_one(found: dict[str, Any]) -> None:
    """Four requests a call with every library; with a budget, the bar is met."""
    failing = [each for each in found["figures"] if each["group"].startswith("E3: 100%")]
    requests = {each["name"]: each["requests_per_call_x"] for each in failing}

    for name in ("4 attempts", "loop, asyncio.timeout", "tenacity, asyncio.timeout"):
        assert requests[name] == 4.0
    assert requests["standard()"] < 1.11


def test_lifo_queue_recovers_within_two_seconds() -> None:
    """The goodput after the fault is then nearly all calls."""
    row = next(row for row in storm_overload.OVERLOADED if row.name == "budget, server LIFO")
    measured = storm_overload.recovered(storm_overload.overloaded(replace(row), storm.QUICK, 1))

    assert measured["recovery_s"] <= 2
    assert measured["goodput_share_x"] == pytest.approx(1, abs=0.1)
