"""The smoke check: it compares with the committed run, and looks twice. No times are judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cost import smoke
from benchmarks.cost.overhead import MODES, Sample, known
from benchmarks.harness.measure import Plan, Timing
from benchmarks.harness.options import Options
from benchmarks.harness.report import Report

GROUP = "async: Retry"


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run in which a Retry cost four bare awaits, and as much as nopanic's."""
    figures = [{"group": GROUP, "name": "resilient", "multiple_x": 4.0, "ratio_x": 1.0}]
    file = tmp_path / "overhead.json"
    file.write_text(json.dumps({"measured": {"date": "2026-11-30"}, "figures": figures}))
    monkeypatch.setattr(smoke, "COMMITTED", file)


def timing(*multiples: float) -> Timing:
    return Timing((multiples,), (multiples,))


def check(monkeypatch: pytest.MonkeyPatch, *measured: tuple[Timing, Timing]) -> tuple[Report, int]:
    """A run in which our Retry and nopanic's cost so much; and how often it measured."""
    (rival,) = (row.rival for row in known("async") if row.key == "retry: resilient")
    turns = iter(measured)
    seen = []

    def sample(plan: Plan, wanted: Any) -> Any:
        ours, theirs = next(turns)
        seen.append(plan.seed)
        return {"async": Sample({}, {"retry: resilient": ours, rival: theirs}, {})}

    monkeypatch.setattr(smoke, "sample", sample)
    return smoke.run(Options()), len(seen)


def verdicts(report: Report) -> dict[str, str | None]:
    return {figure.name.partition(" 0")[0]: figure.verdict for figure in report.figures}


def test_row_that_costs_what_it_did_passes_at_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bare calls and against its peer."""
    report, looks = check(monkeypatch, (timing(4.1, 4.2, 4.3), timing(4.0, 4.1, 4.2)))
    assert verdicts(report) == {"resilient": "pass", "resilient, against nopanic": "pass"}
    assert looks == 1


def test_row_that_costs_half_more_in_both_looks_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bare calls; where its peer has grown with it, not against that."""
    dear = timing(6.1, 6.2, 6.3)
    report, looks = check(monkeypatch, (dear, dear), (dear, dear))
    assert verdicts(report) == {"resilient": "miss", "resilient, against nopanic": "pass"}
    assert looks == 2


def test_row_that_only_once_cost_more_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else was going on."""
    good, dear = timing(4.0, 4.0, 4.0), timing(9.0, 9.0, 9.0)
    report, looks = check(monkeypatch, (dear, good), (good, good))
    assert set(verdicts(report).values()) == {"pass"}
    assert looks == 2


def test_row_with_one_good_round_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the interval must be beyond."""
    report, _ = check(monkeypatch, (timing(5.9, 9.0, 9.0), timing(5.9, 9.0, 9.0)))
    assert set(verdicts(report).values()) == {"pass"}


def test_row_that_the_committed_run_has_not_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a note instead."""
    smoke.COMMITTED.write_text(json.dumps({"measured": {}, "figures": []}))
    report, _ = check(monkeypatch, (timing(4.0, 4.0), timing(4.0, 4.0)))
    assert {(figure.verdict, figure.note) for figure in report.figures} == {(None, "not in the committed run")}


def test_our_rows_and_their_rivals_are_measured() -> None:
    """And nothing else, for there is half a minute."""
    rows = [row for mode in MODES for row in known(mode)]
    assert {row.key for row in rows if row.peer.ours} <= smoke.wanted()
    assert not {row.key for row in rows if row.peer.name == "stamina"} & smoke.wanted()
