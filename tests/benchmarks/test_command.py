"""The command: names, exit codes, JSON and plot. Nothing here depends on speed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks.harness.report import Bar, Column, Figure, Report

ROOT = Path(__file__).parents[2]
AT_MOST_8 = Bar("multiple_x", 8)
AT_LEAST_8 = Bar("multiple_x", 8, at_least=True)


def report(*figures: Figure) -> Report:
    return Report("fake", (Column("multiple_x", "multiple"),), figures, {"python": "3"})


def figure(multiple: float | None, bar: Bar | None = None) -> Figure:
    values = {} if multiple is None else {"multiple_x": multiple}
    return Figure("group", f"row {multiple}", values, bar, ours=bar is not None)


def conclude(report: Report, json_file: Path | None = None, plot_file: Path | None = None) -> tuple[int, str]:
    printed = io.StringIO()
    code = command.conclude(report, Console(file=printed, width=120), json_file, plot_file)
    return code, printed.getvalue()


@pytest.mark.parametrize(
    ("multiple", "bar", "code"),
    [
        (7.9, AT_MOST_8, 0),
        (8.0, AT_MOST_8, 0),
        (8.1, AT_MOST_8, 1),
        (8.1, AT_LEAST_8, 0),
        (7.9, AT_LEAST_8, 1),
        (1e9, None, 0),
    ],
)
def test_exit_code_says_whether_the_bar_is_met(multiple: float, bar: Bar | None, code: int) -> None:
    """0 if it is met or there is none, 1 if it is missed."""
    assert conclude(report(figure(multiple, bar)))[0] == code


def test_bar_without_a_measured_value_is_missed() -> None:
    """The message says that the figure was not measured."""
    code, printed = conclude(report(figure(None, AT_MOST_8)))

    assert code == 1
    assert "missed: group: row None, bar <= 8: not measured" in printed


@pytest.mark.parametrize(
    ("low", "high", "bar", "verdict", "at_bar"),
    [
        (7, 7.9, AT_MOST_8, "pass", False),
        (7.9, 9, AT_MOST_8, "pass", True),
        (8.1, 9, AT_MOST_8, "miss", False),
        (7, 7.9, AT_LEAST_8, "miss", False),
        (7, 8.1, AT_LEAST_8, "pass", True),
        (8, 9, AT_LEAST_8, "pass", False),
    ],
)
def test_figure_misses_when_its_whole_interval_is_beyond_the_bar(
    low: float, high: float, bar: Bar, verdict: str, at_bar: bool
) -> None:
    """If the interval contains the bar, the figure passes, and is at the bar."""
    values = {"multiple_x": 8.0, "multiple_low_x": low, "multiple_high_x": high}
    found = Figure("group", "row", values, bar)

    assert (found.verdict, found.at_bar) == (verdict, at_bar)
    assert found.as_json()["at_bar"] == at_bar
    assert ("at the bar" in conclude(report(found))[1]) == at_bar


def test_bar_against_another_row_names_it() -> None:
    """In the table and in the JSON."""
    found = Figure("group", "row", {"ratio_x": 2.0}, Bar("ratio_x", 1.5, against="a peer 1.0"))

    assert "missed: group: row, bar <= 1.5 x a peer 1.0" in conclude(report(found))[1]
    assert found.as_json()["bar"] == {"ratio_x_at_most": 1.5}
    assert found.as_json()["against"] == "a peer 1.0"


def test_one_missed_bar_among_met_ones_is_named() -> None:
    """A line below the table names it."""
    code, printed = conclude(report(figure(7, AT_MOST_8), figure(9, AT_MOST_8)))

    assert code == 1
    assert [line for line in printed.splitlines() if line.startswith("missed")] == ["missed: group: row 9, bar <= 8"]


def test_table_shows_each_figure_with_its_bar_and_verdict() -> None:
    """Ours and the peers are in one table."""
    _, printed = conclude(report(figure(7.25, AT_MOST_8), figure(9, AT_MOST_8), figure(107)))

    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines()]
    assert ["row 7.25", "7.2", "<= 8", "pass", ""] in cells
    assert ["row 9", "9.0", "<= 8", "miss", ""] in cells
    assert ["row 107", "107.0", "", "", ""] in cells


def test_json_has_the_values_and_the_bar_with_their_units(tmp_path: Path) -> None:
    """Other programs read these keys."""
    file = tmp_path / "figures.json"
    conclude(report(figure(9, AT_MOST_8), figure(20)), json_file=file)

    assert json.loads(file.read_text()) == {
        "benchmark": "fake",
        "verdict": "miss",
        "conditions": {"python": "3"},
        "figures": [
            {
                "group": "group",
                "name": "row 9",
                "ours": True,
                "multiple_x": 9,
                "bar": {"multiple_x_at_most": 8},
                "verdict": "miss",
                "at_bar": False,
                "note": "",
            },
            {
                "group": "group",
                "name": "row 20",
                "ours": False,
                "multiple_x": 20,
                "bar": None,
                "verdict": None,
                "at_bar": False,
                "note": "",
            },
        ],
    }


def test_json_to_standard_output_has_nothing_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table goes to standard error, so a program that reads standard output gets JSON alone."""
    monkeypatch.setattr(command, "available", lambda: {"fake": ("", lambda _: report(figure(9, AT_MOST_8)))})

    assert command.main(["fake", "--json", "-"]) == 1

    printed = capsys.readouterr()
    assert json.loads(printed.out)["verdict"] == "miss"
    assert "missed: group: row 9" in printed.err


@pytest.mark.parametrize(
    ("option", "file"),
    [("--json", "none/figures.json"), ("--plot", "none/figures.png"), ("--json", "."), ("--plot", "-")],
)
def test_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    option: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing error does not lose a run of minutes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "available", lambda: {"fake": ("", lambda _: pytest.fail("was measured"))})

    with pytest.raises(SystemExit) as exit_:
        command.main(["fake", option, file])

    assert exit_.value.code == 2
    assert f"argument {option}: must be a file that can be written, got" in capsys.readouterr().err


def test_plot_writes_a_png(tmp_path: Path) -> None:
    """A figure without a value to draw is left out."""
    file = tmp_path / "figures.png"
    conclude(report(figure(7, AT_MOST_8), figure(107), figure(None)), plot_file=file)

    assert file.read_bytes().startswith(b"\x89PNG")


def test_list_names_every_benchmark() -> None:
    """The command is called as a user calls it."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"lab", "overhead", "tail", "transport"}


def test_unknown_name_exits_with_2_and_names_the_benchmarks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code differs from that of a missed bar."""
    with pytest.raises(SystemExit) as exit_:
        command.main(["overhaed"])

    assert exit_.value.code == 2
    names = ", ".join(["list", *command.available()])
    assert f"there is no benchmark 'overhaed'; there are {names}" in capsys.readouterr().err
