"""The display during a run: a live table in a terminal, or a line now and then."""

from __future__ import annotations

import asyncio
from bisect import bisect_left

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resilient.demo.experiment import Experiment
from resilient.demo.load import Load, Record
from resilient.demo.report import milliseconds, percent, ratio
from resilient.demo.tally import Tally, tally

__all__ = ["Screen"]

REFRESH_SECONDS = 0.25
LINE_SECONDS = 5.0
RECENT_SECONDS = 3.0  # seconds of the live figures: long enough to be steady, short enough to show a fault

_STYLES = {"closed": "green", "half-open": "yellow", "open": "bold red", "isolated": "bold red"}


class Screen:
    """Shows an experiment on a console, until cancelled."""

    def __init__(self, console: Console, experiment: Experiment) -> None:
        self._console = console
        self._experiment = experiment

    async def follow(self) -> None:
        """Show the current figures, again and again."""
        if self._console.is_terminal:
            await self._live()
        else:
            await self._lines()

    async def _live(self) -> None:
        # Not refreshed by rich's own thread: it would draw while the loop changes what is drawn.
        with Live(self._table(), console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                await asyncio.sleep(REFRESH_SECONDS)
                live.update(self._table(), refresh=True)

    async def _lines(self) -> None:
        while True:
            await asyncio.sleep(LINE_SECONDS)
            if self._experiment.began is not None:
                self._console.print(self._line(), soft_wrap=True, highlight=False)

    def _line(self) -> str:
        sides = []
        for load in (self._experiment.plain, self._experiment.resilient):
            figures = tally(load.records)
            sides.append(
                f"{load.name}: {percent(figures.success_rate)} of {figures.calls} calls, "
                f"p99 {milliseconds(figures.p99)}"
            )
        extras = self._experiment.extras
        spent = f"hedges won {len(extras.won)} of {len(extras.hedges)}, budget spent {extras.spent}"
        return f"{self._experiment.elapsed:5.1f} s  {'; '.join(sides)}, {spent}"

    def _table(self) -> RenderableType:
        experiment = self._experiment
        if experiment.began is None:
            return Text("starting the server processes ...")
        # Narrow gaps and steady widths: it has to fit into 80 columns, and must not jump about.
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
        recent = f"{RECENT_SECONDS:g} s"
        columns = (
            "",
            "calls",
            "in flight",
            "success",
            f"last {recent}",
            f"p50, {recent}",
            f"p99, {recent}",
            "req/call",
        )
        for title in columns:
            wide = 0 if title == "calls" else 8
            table.add_column(title, justify="right" if title else "left", min_width=wide)
        for load in (experiment.plain, experiment.resilient):
            table.add_row(*self._row(load))
        return Group(self._bar(), table, self._extras(), self._circuits(), Text(f"fault     {self._fault()}"))

    def _row(self, load: Load) -> tuple[str, ...]:
        calls = len(load.records)
        failed = sum(record.error is not None for record in load.records)
        recent = self._recent(load)
        return (
            load.name,
            f"{calls:,}",
            f"{load.in_flight}",
            percent(1 - failed / calls if calls else None),
            percent(recent.success_rate),
            milliseconds(recent.p50),
            milliseconds(recent.p99),
            ratio(load.requests_per_call),
        )

    def _recent(self, load: Load) -> Tally:
        """The tally of the calls that ended in the last `RECENT_SECONDS`."""
        since = self._experiment.elapsed - RECENT_SECONDS
        # Records are in order of their end, so the recent ones are at the end of the list.
        return tally(load.records[bisect_left(load.records, since, key=_end) :])

    def _bar(self) -> RenderableType:
        duration, elapsed = self._experiment.settings.duration, self._experiment.elapsed
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=duration, completed=min(elapsed, duration), width=50)
        note = "waiting for the last answers" if elapsed > duration else f"of {duration:g} s"
        grid.add_row(bar, f"{min(elapsed, duration):4.1f} {note}")
        return grid

    def _extras(self) -> Text:
        extras = self._experiment.extras
        refused = len(extras.refused)
        text = Text(f"extra     hedges {len(extras.hedges)} (won {len(extras.won)}), retries {len(extras.retries)}")
        text.append(f"; budget spent {extras.spent}, ")
        text.append(f"refused {refused}", style="bold red" if refused else "")
        return text

    def _circuits(self) -> Text:
        text = Text("circuits  ")
        for name, state in self._experiment.circuits.items():
            text.append(f"{name.removeprefix('inventory-')} ")  # processes are shown by their numbers
            text.append(f"{state:<11}", style=_STYLES[state])
        return text

    def _fault(self) -> str:
        experiment = self._experiment
        now, plan = experiment.elapsed, experiment.plan
        active = [burst.describe() for burst in plan.bursts if burst.is_on(now)]
        if any(end is None for _, end in experiment.down.values()):
            active.append(plan.crash.describe())
        return " and ".join([*active, plan.latency.describe()])


def _end(record: Record) -> float:
    return record.at + record.latency
