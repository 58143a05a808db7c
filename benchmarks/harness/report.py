"""Figures and the bars they must meet: compared, printed as a table, written as JSON.

A figure with an interval (`ratio_x` between `ratio_low_x` and `ratio_high_x`) is judged by the interval: it misses its
bar when the whole interval is beyond the bar. Where the interval contains the bar, the verdict is `pass`, and the table
and the JSON say that the figure is *at the bar*: another run may find it on the other side. So a verdict changes from
run to run only if the whole interval is close to leaving the bar.

In the JSON, every number's key ends in its unit: `_ns`, `_ms`, `_s`, `_x` (times), `_per_s`, `_percent`, `_calls`,
`_errors` (standard errors), `pairs`. Keys are never renamed; new keys may be added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

__all__ = ["Bar", "Column", "Curve", "Figure", "Report"]


@dataclass(frozen=True, slots=True)
class Bar:
    """The limit on a figure: at most `limit`, or at least. `key` names the judged value. If that value is a ratio,
    `against` names the row it is a ratio to."""

    key: str
    limit: float
    at_least: bool = False
    against: str = ""

    def met(self, values: Mapping[str, float]) -> bool:
        """True unless the whole interval is beyond the limit; without an interval, unless the value is."""
        return self._holds(values, "high" if self.at_least else "low")

    def near(self, values: Mapping[str, float]) -> bool:
        """True if the interval contains the limit, so the figure is at its bar."""
        return self.met(values) and not self._holds(values, "low" if self.at_least else "high")

    def _holds(self, values: Mapping[str, float], end: str) -> bool:
        stem, _, unit = self.key.rpartition("_")
        value = values.get(f"{stem}_{end}_{unit}", values.get(self.key))
        if value is None:
            return False
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:,g}{f' x {self.against}' if self.against else ''}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a report. `values` is empty where nothing could be measured; `note` then gives the reason."""

    group: str
    name: str
    values: Mapping[str, float] = field(default_factory=dict)
    bar: Bar | None = None
    ours: bool = False
    note: str = ""

    @property
    def verdict(self) -> str | None:
        """`pass`, `miss`, or None where there is no bar."""
        if self.bar is None:
            return None
        return "pass" if self.bar.met(self.values) else "miss"

    @property
    def judged(self) -> bool:
        """True if the bar's value was measured. A ratio is not measured if the bar's peer is not installed."""
        return self.bar is not None and self.bar.key in self.values

    @property
    def at_bar(self) -> bool:
        """True if the interval contains the bar: another run may find the figure on the other side."""
        return self.bar is not None and self.bar.near(self.values)

    def as_json(self) -> dict[str, Any]:
        bar = self.bar
        side = "least" if bar and bar.at_least else "most"
        return {
            "group": self.group,
            "name": self.name,
            "ours": self.ours,
            **self.values,
            "bar": None if bar is None else {f"{bar.key}_at_{side}": bar.limit},
            **({"against": bar.against} if bar and bar.against else {}),
            "verdict": self.verdict,
            "at_bar": self.at_bar,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table: the key of its values, its heading, its format."""

    key: str
    title: str
    form: str = "{:,.1f}"


@dataclass(frozen=True, slots=True)
class Curve:
    """A line in the plot, in the panel of its group. With `marks`: the points that the line of that name should
    meet."""

    group: str
    name: str
    points: Sequence[tuple[float, float]]
    marks: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a benchmark. Its plot is drawn by `plot`, or else shows the curves, or else the figures of the
    first column."""

    benchmark: str
    columns: Sequence[Column]
    figures: Sequence[Figure]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    plot: Callable[[Report, Path], None] | None = None
    """Draws the plot of a report that needs another one than bars or curves."""

    @property
    def missed(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.verdict == "miss"]

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "verdict": "miss" if self.missed else "pass",
            "conditions": dict(self.conditions),
            "figures": [figure.as_json() for figure in self.figures],
        }

    def table(self) -> Table:
        table = Table(title=self.benchmark, title_justify="left")
        table.add_column("", min_width=24)
        for column in self.columns:
            table.add_column(column.title, justify="right", no_wrap=True)
        table.add_column("bar", justify="right", no_wrap=True)
        table.add_column("", min_width=4)
        table.add_column("note", style="dim", min_width=8)
        for group, figures in groupby(self.figures, key=lambda figure: figure.group):
            table.add_section()
            table.add_row(Text(group, style="bold"))
            for figure in figures:
                table.add_row(*self._cells(figure), style="bold" if figure.ours else "")
        return table

    def _cells(self, figure: Figure) -> list[Text | str]:
        values = [
            column.form.format(figure.values[column.key]) if column.key in figure.values else ""
            for column in self.columns
        ]
        verdict = "at the bar" if figure.at_bar else figure.verdict or ""
        return [
            f"  {figure.name}",
            *values,
            str(figure.bar) if figure.bar else "",
            Text(verdict, style={"pass": "green", "at the bar": "yellow", "miss": "bold red"}.get(verdict, "")),
            figure.note,
        ]
