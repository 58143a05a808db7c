"""What `resilient simulate` shows to people: tables that fit, texts as they are, and how far it has come.

Names and titles come from files of others, so nothing in them is markup. A table that is wider than the terminal is
shown as a block of lines for each of its rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = ["console_on", "progress_on", "show_table"]

NARROWEST, ELSEWHERE = 20, 140
"""Columns: what is narrower cannot be read, and what is no terminal has as many, unless `COLUMNS` says so."""
PATIENCE, LINE_SECONDS = 2.0, 10.0
"""Seconds before there is a progress bar; and between two lines about it, where there is no terminal."""


def console_on(stream: TextIO) -> Console:
    """A console that shows text as it is, without markup."""
    given = os.environ.get("COLUMNS", "")
    columns = int(given) if given.isdecimal() and len(given) < 6 else 0
    if not columns:
        columns = Console(file=stream, _environ={}).width if stream.isatty() else ELSEWHERE
    return Console(file=stream, width=max(columns, NARROWEST), markup=False, emoji=False, highlight=False)


def show_table(console: Console, table: Table) -> None:
    """Print a table, or where its columns do not fit side by side, a block of lines for each row."""
    if Measurement.get(console, console.options.update(width=100_000), table).minimum <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title, style="italic")
    columns = [(str(column.header), list(column.cells)) for column in table.columns]
    for row in range(table.row_count):
        _, names = columns[0]
        console.print(Text(str(names[row]), style="bold"))
        for header, cells in columns[1:]:
            if str(cells[row]):
                console.print(f"  {header}: {cells[row]}")


@contextmanager
def progress_on(stream: TextIO) -> Iterator[Callable[[float], object]]:
    """Told the share that is done, show it once it has taken a while: as a bar, or without a terminal as lines."""
    console = console_on(stream)
    if console.is_terminal and not console.is_dumb_terminal:
        with _bar(console) as tell:
            yield tell
    else:
        with _lines(stream) as tell:
            yield tell


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[float], object]]:
    columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task, began = bar.add_task("", total=1.0), time.monotonic()

    def tell(share: float) -> None:
        if not bar.live.is_started and time.monotonic() - began > PATIENCE:
            bar.start()
        bar.update(task, completed=share)

    try:
        yield tell
    finally:
        bar.stop()


@contextmanager
def _lines(stream: TextIO) -> Iterator[Callable[[float], object]]:
    """A line every ten seconds, from a thread: a simulation that is busy with one moment tells nothing for long."""
    done, over, began = [0.0], Event(), time.monotonic()

    def follow() -> None:
        while not over.wait(LINE_SECONDS):
            stream.write(_line(done[0], time.monotonic() - began))
            stream.flush()

    def tell(share: float) -> None:
        done[0] = share

    follower = Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield tell
    finally:
        over.set()
        follower.join()


def _line(share: float, seconds: float) -> str:
    left = f", {seconds * (1 - share) / share:,.0f} s left" if share else ""
    return f"simulating: {100 * share:.0f}% after {seconds:,.0f} s{left}\n"
