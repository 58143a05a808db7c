"""The picture of a report: one panel a group, one bar a figure, on a common logarithmic scale; or its curves."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.curves import draw_curves
from benchmarks.report import Column, Figure, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

OURS, OTHERS, LIMIT = "#1f6feb", "#b8bfc8", "#d1242f"
ONE_COLUMN = 40.0  # rows that fit above each other

Panel = tuple[str, list[Figure]]


def draw(report: Report, file: Path) -> None:
    """Write a PNG of the report's curves, or else of its first column: figures without that value are left out."""
    if report.curves:
        draw_curves(report, file)
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    shown = report.columns[0]
    drawn = [figure for figure in report.figures if figure.values.get(shown.key, 0) > 0]
    panels = [(title, list(rows)) for title, rows in groupby(drawn, key=lambda row: row.group)]
    columns = _columns(panels)
    tallest = max(sum(map(_height, column)) for column in columns)
    values = [figure.values[shown.key] for figure in drawn]
    limits = (min(values) / 1.5, max(values) * 4)

    canvas = Canvas(figsize=(7.5 * len(columns), 0.2 * tallest + 1), layout="constrained")
    FigureCanvasAgg(canvas)
    for part, column in zip(canvas.subfigures(1, len(columns), squeeze=False)[0], columns, strict=True):
        heights = [_height(panel) for panel in column]
        rest = tallest - sum(heights)
        grid = part.subplots(len(column) + (rest > 0), height_ratios=heights + [rest] * (rest > 0), squeeze=False)
        for (axes,), panel in zip(grid, column, strict=False):
            _fill(axes, panel, shown)
            axes.set_xlim(limits)
        if rest > 0:
            grid[-1][0].set_axis_off()
    python = report.conditions.get("python", "")
    red = "; red: the bar to meet" if any(figure.bar for figure in drawn) else ""
    canvas.suptitle(f"{report.benchmark}: {shown.title}, logarithmic{red} (Python {python})")
    canvas.savefig(file, dpi=120, format="png")


def _height(panel: Panel) -> float:
    return len(panel[1]) + 1.8


def _columns(panels: list[Panel]) -> list[list[Panel]]:
    """One column, or two when that would be too tall; cut where the halves are most alike."""
    heights = [_height(panel) for panel in panels]
    if sum(heights) <= ONE_COLUMN:
        return [panels]
    cut = min(range(1, len(panels)), key=lambda index: abs(sum(heights[:index]) - sum(heights[index:])))
    return [panels[:cut], panels[cut:]]


def _fill(axes: Axes, panel: Panel, shown: Column) -> None:
    title, rows = panel
    values = [figure.values[shown.key] for figure in rows]
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
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold", pad=3)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
