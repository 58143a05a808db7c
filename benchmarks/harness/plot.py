"""Draws the plot of a report: one panel for each group with one bar for each figure, on logarithmic scales; or
curves."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness.curves import draw_curves
from benchmarks.harness.report import Column, Figure, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Panel", "draw", "fill"]

OURS, OTHERS, LIMIT = "#1f6feb", "#b8bfc8", "#d1242f"
ONE_COLUMN = 40.0
"""The most rows of one column of panels."""


@dataclass(frozen=True, slots=True)
class Panel:
    """The figures of one group that have a value of the column."""

    title: str
    column: Column
    rows: list[Figure]

    @property
    def values(self) -> list[float]:
        return [figure.values[self.column.key] for figure in self.rows]

    @property
    def height(self) -> float:
        return len(self.rows) + 1.8


def draw(report: Report, file: Path) -> None:
    """Write a PNG by the report's own `plot`, or of its curves, or of its figures. The panel of a group shows the first
    column in which the group has values above zero, and leaves out figures without one. Panels that show the same
    column have the same scale."""
    if report.plot is not None:
        report.plot(report, file)
        return
    if report.curves:
        draw_curves(report, file)
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    panels = _panels(report)
    columns = _columns(panels)
    tallest = max(sum(panel.height for panel in column) for column in columns)
    canvas = Canvas(figsize=(7.5 * len(columns), 0.2 * tallest + 1), layout="constrained", facecolor="white")
    FigureCanvasAgg(canvas)
    for part, column in zip(canvas.subfigures(1, len(columns), squeeze=False)[0], columns, strict=True):
        heights = [panel.height for panel in column]
        rest = tallest - sum(heights)
        grid = part.subplots(len(column) + (rest > 0), height_ratios=heights + [rest] * (rest > 0), squeeze=False)
        for (axes,), panel in zip(grid, column, strict=False):
            fill(axes, panel)
            alike = [value for other in panels if other.column is panel.column for value in other.values]
            axes.set_xlim(min(alike) / 1.5, max(alike) * 4)
        if rest > 0:
            grid[-1][0].set_axis_off()
    python = report.conditions.get("python", "")
    red = "; red: the bar to meet" if any(figure.bar for panel in panels for figure in panel.rows) else ""
    shown = ", ".join(dict.fromkeys(panel.column.title for panel in panels))
    canvas.suptitle(f"{report.benchmark}: {shown}, logarithmic{red} (Python {python})")
    canvas.savefig(file, dpi=120, format="png")


def _panels(report: Report) -> list[Panel]:
    found = []
    for title, group in groupby(report.figures, key=lambda figure: figure.group):
        figures = list(group)
        for column in report.columns:
            rows = [figure for figure in figures if figure.values.get(column.key, 0) > 0]
            if rows:
                found.append(Panel(title, column, rows))
                break
    return found


def _columns(panels: list[Panel]) -> list[list[Panel]]:
    """The panels in one column; in two, cut where their heights are most alike, if one would be too tall."""
    heights = [panel.height for panel in panels]
    if sum(heights) <= ONE_COLUMN:
        return [panels]
    cut = min(range(1, len(panels)), key=lambda index: abs(sum(heights[:index]) - sum(heights[index:])))
    return [panels[:cut], panels[cut:]]


def fill(axes: Axes, panel: Panel) -> None:
    """Draw one panel: a bar for each row with its value beside it, and a red line at the row's own limit."""
    rows, values, shown = panel.rows, panel.values, panel.column
    places = range(len(rows))
    axes.barh(places, values, color=[OURS if row.ours else OTHERS for row in rows], height=0.75)
    for place, figure, value in zip(places, rows, values, strict=True):
        judged = figure.bar is not None and figure.bar.key == shown.key
        axes.annotate(
            shown.form.format(value),
            (max(value, figure.bar.limit) if judged else value, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        if judged:
            axes.vlines(figure.bar.limit, place - 0.5, place + 0.5, colors=LIMIT, linewidth=2)
    axes.set_yticks(places, [row.name for row in rows], fontsize=8)
    for label, figure in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if figure.ours else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_title(panel.title, loc="left", fontsize=9 if len(panel.title) < 55 else 7.5, fontweight="bold", pad=3)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
