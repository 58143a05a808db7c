"""The output of a simulation: tables that fit any width, texts without markup, progress without a terminal."""

from __future__ import annotations

import io
from threading import Event

import pytest
from rich.table import Table

from resilient.cli import terminal
from resilient.cli.terminal import console_on, progress_on, show_table


def shown(columns: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table of two pipelines on a terminal with this number of columns."""
    monkeypatch.setenv("COLUMNS", columns)
    table = Table(title="Errors [bold]for a while[/]")
    for title in ("pipeline", "success %", "requests per call", "recovery s", "failures"):
        table.add_column(title)
    table.add_row("on[/]ce", "76.60", "1.000", "", "ConnectionRefusedError 245, TimedOut 3")
    table.add_row("guarded", "81.20", "1.009", "12", "ConnectionRefusedError 100")
    stream = io.StringIO()
    show_table(console_on(stream), table)
    return stream.getvalue()


@pytest.mark.parametrize("columns", ["", "0", "-3", "abc", "140", "80"])
def test_table_has_its_columns_where_they_fit(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word of the table is cut."""
    text = shown(columns, monkeypatch)

    assert "│ on[/]ce" in text
    assert "ConnectionRefusedError" in text
    assert "Errors [bold]for a while[/]" in text
    assert "…" not in text


@pytest.mark.parametrize("columns", ["60", "40", "20", "1"])
def test_table_that_does_not_fit_is_a_block_for_each_row(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of a block is longer than the terminal."""
    text = shown(columns, monkeypatch)

    lines = text.splitlines()
    assert lines[lines.index("on[/]ce") + 1] == "  success %: 76.60"
    assert "│" not in text
    assert max(map(len, lines)) <= max(int(columns), 22)
    assert text.count("recovery s") == 1  # the other has none


@pytest.mark.parametrize("columns", ["140", "60", "40"])
def test_lines_end_without_blanks(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Continuation lines are indented."""
    lines = shown(columns, monkeypatch).splitlines()

    assert [line for line in lines if line.endswith(" ")] == []
    if columns == "40":
        assert lines[lines.index("  failures: ConnectionRefusedError 245,") + 1] == "    TimedOut 3"


def test_progress_is_told_in_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line comes from time to time, even without new progress."""
    stream, told = io.StringIO(), Event()

    class Moments:
        """Ten seconds pass as soon as progress is reported, and once more."""

        def __init__(self) -> None:
            self.left = 2

        def wait(self, seconds: float) -> bool:
            told.wait()
            self.left -= 1
            return self.left < 0

        def set(self) -> None:
            pass

    monkeypatch.setattr(terminal, "Event", Moments)
    with progress_on(stream) as tell:
        tell(0.25)
        told.set()

    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("simulating: 25% after ") for line in lines)


def test_nothing_is_told_of_what_is_soon_over() -> None:
    """A short simulation shows neither a bar nor a line."""
    stream = io.StringIO()
    with progress_on(stream) as tell:
        tell(1.0)

    assert stream.getvalue() == ""
