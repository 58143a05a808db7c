"""Tables and texts that fit the terminal, and the progress of a simulation.

Names and titles come from files of others, so nothing in them is markup. A table that is wider than the terminal is
shown as a block of lines for each row.
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = ["console_on", "progress_on", "show_table", "show_text"]

NARROWEST, ELSEWHERE = 20, 140
"""The least columns that are used, because narrower tables are unreadable; and the columns without a terminal, unless
`COLUMNS` is set."""
READABLE = 100
"""The most columns of running text, also on wider terminals."""
WIDEST, BORDERS = 100_000, 3
"""A number of columns that no table reaches; and the columns of the border and the padding of a cell."""
PATIENCE, LINE_SECONDS = 2.0, 10.0
"""Seconds before a progress bar appears; and between two progress lines if there is no terminal."""


def console_on(stream: TextIO, *, resizable: bool = False) -> Console:
    """A console that shows text as it is, without markup. `resizable`: it follows the width of its terminal."""
    given = os.environ.get("COLUMNS", "")
    columns = int(given) if given.isdecimal() and len(given) < 6 else 0
    if not columns:
        if resizable and stream.isatty():
            return Console(file=stream, markup=False, emoji=False, highlight=False)
        columns = Console(file=stream, _environ={}).width if stream.isatty() else ELSEWHERE
    return Console(file=stream, width=max(columns, NARROWEST), markup=False, emoji=False, highlight=False)


def show_text(console: Console, text: str, indent: str = "", style: str = "") -> None:
    """Print a text in lines that fit, without trailing blanks. With an `indent`, lines after the first are indented
    twice."""
    width, further = min(console.width, READABLE), 2 * indent
    for line in textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=further, break_on_hyphens=False):
        console.print(line, style=style)


def show_table(console: Console, table: Table) -> None:
    """Print a table whose last column is text that may wrap; if it does not fit, print a block of lines for each
    row."""
    title, table.title = str(table.title or ""), None
    show_text(console, title, style="italic")  # rich would fill it with blanks
    if console.measure(table, options=console.options.update(width=WIDEST)).maximum > console.width:
        *others, last = table.columns
        for column in others:
            column.width = max(_longest_word(str(column.header)), *(cell_len(str(cell)) for cell in column.cells))
        words = _longest_word(" ".join(map(str, (last.header, *last.cells))))
        if sum(column.width or 0 for column in others) + words + BORDERS * len(table.columns) >= console.width:
            _show_blocks(console, table)
            return
    console.print(table)


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _show_blocks(console: Console, table: Table) -> None:
    """Print each row as its first cell, with a line below it for each other cell that is not empty."""
    headers = [str(column.header) for column in table.columns]
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print(Text(str(name), style="bold"))
        for header, cell in zip(headers[1:], cells, strict=True):
            if str(cell):
                show_text(console, f"{header}: {cell}", "  ")


@contextmanager
def progress_on(stream: TextIO) -> Iterator[Callable[[float], object]]:
    """Yields a function that is called with the share that is done. After a while it shows the share: as a bar, or as
    lines if there is no terminal."""
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
    """Print a line every ten seconds, from a thread, because a simulation that is busy with one moment reports nothing
    for long."""
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
