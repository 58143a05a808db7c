"""The metastable benchmark, with real servers and clients for a few seconds; and the definition of recovery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.effect import metastable, metastable_plot
from benchmarks.effect.metastable import Calls, Plan, recovery
from benchmarks.effect.metastable_server import guarded
from resilient import Pipeline


def test_rows_run_through_a_standstill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three seconds are too short to recover. So all bars are missed, except on the row that should not recover.

    Only the first rows are run, one for each kind of server: a row takes a server and a client, both processes.
    """
    rows = metastable.ROWS[:3]
    monkeypatch.setattr(metastable, "QUICK", Plan(before=1, stall=1, after=1))
    monkeypatch.setattr(metastable, "ROWS", rows)
    monkeypatch.setattr(metastable_plot, "COLORS", metastable_plot.COLORS[:3])
    file, plot = tmp_path / "metastable.json", tmp_path / "metastable.png"
    status = command.main(["metastable", "--quick", "--json", str(file), "--plot", str(plot)])
    found = json.loads(file.read_text())

    assert status == 1
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert [each["name"] for each in found["figures"]] == [row.name for row in rows]
    assert all(each["requests_per_call_x"] >= 1 for each in found["figures"])
    assert all(each["note"] == "never within 1 s" for each in found["figures"])
    assert [each["bar"] for each in found["figures"]] == [
        {"goodput_share_x_at_most": 0.05},
        {"recovery_s_at_most": 1},
        {"recovery_s_at_most": 1},
    ]
    assert [each["verdict"] for each in found["figures"][1:]] == 2 * ["miss"]


def test_every_row_has_a_pipeline_and_a_server_that_has_been_run() -> None:
    """The servers are those of the first three rows. All bars but that of the first row are for the recovery."""
    assert all(isinstance(row.pipeline(), Pipeline) for row in metastable.ROWS)
    assert len(metastable_plot.COLORS) == len(metastable.ROWS)
    assert {row.server for row in metastable.ROWS} == {row.server for row in metastable.ROWS[:3]}
    assert [row.bar for row in metastable.ROWS[1:] if row.bar] == 4 * [metastable.SOON]


@pytest.mark.parametrize(
    ("shares", "seconds"),
    [
        ([1, 0, 1, 1, 1, 1, 1, 0], 0),
        ([1, 0, 0.9, 1, 1, 1, 1, 1], 1),
        ([1, 0, 0.92, None, 1, 1, 0.5, 1, 1, 1, 1, 1], 5),
        ([1, 0, 1, 1, 1, 1], None),
        ([1, 0, 0, 0, 0, 0, 0], None),
    ],
)
def test_recovery_is_the_first_of_five_good_seconds(shares: list[float | None], seconds: int | None) -> None:
    """The fault ends after two seconds. A second without calls counts as good."""
    assert recovery(shares, 2) == seconds


def test_shares_are_of_the_calls_made_in_each_second() -> None:
    """A call counts in the second in which it is made, whenever it ends."""
    calls = Calls([(0.1, True), (0.9, False), (2.5, True), (7.0, True)])
    assert calls.shares(4) == [0.5, None, 1.0, None]
    assert calls.share(0, 1) == 0.5


def test_unknown_middleware_of_the_server_is_refused() -> None:
    """The error names the value and the valid ones."""
    with pytest.raises(ValueError, match="the middleware must be off, deadline or limit, got 'on'"):
        guarded(None, "on")
