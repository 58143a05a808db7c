"""The smoke check: it compares with the committed run, and measures twice before a row misses. No times are judged."""

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
    """A committed run in which a Retry costs four bare awaits, as much as nopanic's."""
    figures = [{"group": GROUP, "name": "resilient", "multiple_x": 4.0, "ratio_x": 1.0}]
    file = tmp_path / "overhead.json"
    file.write_text(json.dumps({"measured": {"date": "2026-11-30"}, "figures": figures}))
    monkeypatch.setattr(smoke, "COMMITTED", file)


def timing(*multiples: float) -> Timing:
    return Timing((multiples,), (multiples,))


def check(monkeypatch: pytest.MonkeyPatch, *measured: tuple[Timing, Timing]) -> tuple[Report, int]:
    """Run the check with the given timings of our Retry and of nopanic's. Returns the report, and how often it
    measured."""
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


def test_unchanged_row_passes_after_one_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged in bare calls and as a ratio to its peer."""
    report, looks = check(monkeypatch, (timing(4.1, 4.2, 4.3), timing(4.0, 4.1, 4.2)))
    assert verdicts(report) == {"resilient": "pass", "resilient, against nopanic": "pass"}
    assert looks == 1


def test_row_that_costs_half_more_in_both_measurements_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bare calls. The ratio to its peer passes, because the peer's cost has grown as much."""
    dear = timing(6.1, 6.2, 6.3)
    report, looks = check(monkeypatch, (dear, dear), (dear, dear))
    assert verdicts(report) == {"resilient": "miss", "resilient, against nopanic": "pass"}
    assert looks == 2


def test_row_that_costs_more_in_one_measurement_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other load on the machine slowed the first measurement down."""
    good, dear = timing(4.0, 4.0, 4.0), timing(9.0, 9.0, 9.0)
    report, looks = check(monkeypatch, (dear, good), (good, good))
    assert set(verdicts(report).values()) == {"pass"}
    assert looks == 2


def test_row_with_one_good_round_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row misses only if its whole interval is beyond the bar."""
    report, _ = check(monkeypatch, (timing(5.9, 9.0, 9.0), timing(5.9, 9.0, 9.0)))
    assert set(verdicts(report).values()) == {"pass"}


def test_row_that_the_committed_run_does_not_have_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a note instead of a verdict."""
    smoke.COMMITTED.write_text(json.dumps({"measured": {}, "figures": []}))
    report, _ = check(monkeypatch, (timing(4.0, 4.0), timing(4.0, 4.0)))
    assert {(figure.verdict, figure.note) for figure in report.figures} == {(None, "not in the committed run")}


def test_only_our_rows_and_their_rivals_are_measured() -> None:
    """The check has to end within half a minute."""
    rows = [row for mode in MODES for row in known(mode)]
    assert {row.key for row in rows if row.peer.ours} <= smoke.wanted()
    assert not {row.key for row in rows if row.peer.name == "stamina"} & smoke.wanted()
