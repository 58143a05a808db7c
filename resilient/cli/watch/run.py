"""The run of `resilient watch`: reads, shows and writes, until it is over."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from resilient.cli.watch.board import Board
from resilient.cli.watch.reading import Reading, SourceError
from resilient.cli.watch.screen import event_line, pipeline_line, screen
from resilient.cli.watch.sources import Address, readings

__all__ = ["watch", "watch_once"]

LINES_APART = 5.0
"""Seconds between two lines of a pipeline, or of a kind of event, where there is no terminal."""

PATIENCE = 3.0
"""Seconds that `watch_once` waits for rates: they need two readings."""


async def watch(address: Address, console: Console, *, seconds: float | None, json_file: TextIO | None) -> bool:
    """Watch an address until the time is over, the task is cancelled, or the reader of the output has left (`| head`).
    Returns whether there was a reading.

    Args:
        seconds: the time; None: without end.
        json_file: where each reading with new figures, or the reason why there is none, is written as a line of JSON.

    Raises `SourceError` if the address cannot be watched.
    """
    board = Board(address.shown)
    display: _Display = _Terminal(board, console) if _is_interactive(console) else _Lines(board, console)
    try:
        with display:
            async with asyncio.timeout(seconds), aclosing(readings(address)) as source:
                async for news in source:
                    if isinstance(news, SourceError) and news.final and board.reading is None:
                        raise news
                    board.take(news)
                    _write(json_file, news)
                    display.show(news)
                    if _has_no_reader(console.file) or _has_no_reader(json_file):
                        break
    except TimeoutError:
        pass
    return board.reading is not None


async def watch_once(address: Address, console: Console, *, json_file: TextIO | None) -> None:
    """Show one reading, with rates if the process has calls. Raises `SourceError` if there is none."""
    board = Board(address.shown)
    give_up: float | None = None
    loop = asyncio.get_running_loop()
    async with aclosing(readings(address)) as source:
        async for news in source:
            if isinstance(news, SourceError):
                raise news
            board.take(news)
            give_up = loop.time() + PATIENCE if give_up is None else give_up
            if board.has_rates or not news.pipelines or loop.time() >= give_up:
                break
    console.print(screen(board, console), soft_wrap=True)
    assert board.reading is not None
    _write(json_file, board.reading)


def _write(json_file: TextIO | None, news: Reading | SourceError) -> None:
    if json_file is None:
        return
    if isinstance(news, SourceError):
        data: dict[str, Any] = {"at": time.time(), "error": str(news)}
    elif news.fresh or news.lines:
        data = news.data()
    else:
        return
    json_file.write(json.dumps(data) + "\n")
    json_file.flush()


def _has_no_reader(stream: object) -> bool:
    return getattr(stream, "reader_left", False) is True


def _is_interactive(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


class _Display(AbstractContextManager["_Display", None], Protocol):
    def show(self, news: Reading | SourceError) -> None: ...


class _Terminal:
    """The whole terminal, drawn anew for each reading; at the end the last one stays above the prompt."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._console = console
        # Not refreshed by rich's own thread: it would draw while a reading changes what is drawn.
        self._live = Live(Text(), console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> _Terminal:
        self._live.__enter__()
        self.show(None)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._live.__exit__(*exc_info)
        if self._board.reading is not None:
            self._console.print(screen(self._board, self._console), soft_wrap=True)

    def show(self, news: Reading | SourceError | None) -> None:
        self._live.update(screen(self._board, self._console, height=self._console.height), refresh=True)


class _Lines:
    """Lines: changes of state as they come; each pipeline and the other events every few seconds; and when the source
    does not answer any more."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._console = console
        self._shown_at = float("-inf")
        self._failing = False
        self._others = Board("")

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        pass

    def show(self, news: Reading | SourceError) -> None:
        if isinstance(news, SourceError):
            if not self._failing:
                self._print(f"no answer from {self._board.source}, trying again: {news}")
            self._failing = True
            return
        if self._failing:
            self._failing = False
            self._print(f"{self._board.source} answers again")
        for line in news.lines:
            if line.is_change:
                self._print(event_line(line))
        self._others.take(replace(news, lines=[line for line in news.lines if not line.is_change]))
        if news.fresh and time.monotonic() - self._shown_at >= LINES_APART:
            self._shown_at = time.monotonic()
            while self._others.events:
                self._print(event_line(self._others.events.pop(0)))
            for name, state in news.pipelines.items():
                self._print(pipeline_line(name, state, news.at))

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
