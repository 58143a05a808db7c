"""The picture of a dashboard: each panel in its place, with colours and legends as Grafana draws them."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.dashboards.outage import Run, legend
from resilient.lab.image_files import save

__all__ = ["draw", "measure"]

COLUMNS, COLUMN, ROW = 24, 0.62, 0.36
"""Columns of the grid; inches of a column, and of a unit of height."""
PAGE, PANEL, LINE, TEXT, DIM = "#111217", "#181b1f", "#2c3235", "#d8d9da", "#8e8e9a"
CLASSIC = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d")
"""Grafana's classic palette, for series without a colour of their own."""
SHOWN = 5
"""The most series in the legend of a panel."""

Series = tuple[str, list[tuple[float, float]]]


def draw(dashboard: Mapping[str, Any], run: Run, file: Path, *, rows: int) -> None:
    """Write a PNG of the first `rows` headings of a dashboard, with the panels below them."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _first(dashboard["panels"], rows)
    units = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + 1.4
    with rc_context(
        {"font.size": 7, "text.color": TEXT, "axes.labelcolor": DIM, "xtick.color": DIM, "ytick.color": DIM}
    ):
        figure = Figure(figsize=(COLUMNS * COLUMN, units * ROW), facecolor=PAGE)
        FigureCanvasAgg(figure)
        figure.text(0.008, 1 - 0.8 / units, dashboard["title"], fontsize=12, fontweight="bold", va="center")
        for panel in panels:
            place = panel["gridPos"]
            left, width = place["x"] / COLUMNS, place["w"] / COLUMNS
            top, height = 1 - (place["y"] + 1.4) / units, place["h"] / units
            if panel["type"] == "row":
                figure.text(left + 0.008, top - height / 2, f"▾  {panel['title']}", fontsize=9, va="center")
            else:
                _panel(
                    figure, panel, run, (left + 0.003, top - height + 0.1 / units, width - 0.006, height - 0.2 / units)
                )
        save(figure, file, 100)


def _first(panels: Sequence[Mapping[str, Any]], rows: int) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for panel in panels:
        rows -= panel["type"] == "row"
        if rows < 0:
            break
        found.append(panel)
    return found


def _panel(figure: Any, panel: Mapping[str, Any], run: Run, box: tuple[float, float, float, float]) -> None:
    from matplotlib.patches import Rectangle

    left, bottom, width, height = box
    inch = 1 / figure.get_figheight()
    figure.add_artist(
        Rectangle((left, bottom), width, height, facecolor=PANEL, edgecolor=LINE, linewidth=0.6, zorder=-1)
    )
    figure.text(left + 0.005, bottom + height - 0.13 * inch, panel["title"], fontsize=8, fontweight="bold", va="center")
    series = _series(panel, run)
    shown = [] if panel["type"] == "heatmap" else series[:SHOWN]
    below = (0.22 if panel["type"] != "timeseries" else 0.32 + 0.15 * len(shown)) * inch
    axes = figure.add_axes((left + 0.033, bottom + below + 0.12 * inch, width - 0.042, height - below - 0.42 * inch))
    axes.set_facecolor(PANEL)
    axes.set_xlim(0, run.end - run.start)
    axes.xaxis.set_major_formatter(lambda x, _: datetime.fromtimestamp(run.start + x, UTC).strftime("%H:%M:%S"))
    axes.locator_params(axis="x", nbins=5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=6)
    axes.grid(color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    if not series:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=DIM)
        return
    kind = panel["type"]
    if kind == "heatmap":
        _heatmap(axes, series)
    elif kind == "state-timeline":
        _timeline(axes, panel, series)
    else:
        colors = _lines(axes, panel, series, run)
        _legend(figure, panel, shown, colors, (left, bottom, width, inch))


def _series(panel: Mapping[str, Any], run: Run) -> list[Series]:
    """The series of a panel by name, with seconds into the run. Values that are no numbers are gaps."""
    found = []
    for target, results in zip(panel["targets"], run.results[panel["id"]], strict=True):
        for result in results:
            points = [(at - run.start, float(value)) for at, value in result["values"]]
            found.append((legend(target["legendFormat"], result["metric"]), points))
    return found


def _lines(axes: Any, panel: Mapping[str, Any], series: Sequence[Series], run: Run) -> list[str]:
    defaults = panel["fieldConfig"]["defaults"]
    stacked, dashed = "stacking" in defaults["custom"], _dashed(panel)
    colors = [_color(panel, name, at) for at, (name, _) in enumerate(series)]
    seconds = int(run.end - run.start)
    base = [0.0] * seconds
    for (name, points), color in zip(series, colors, strict=True):
        values = [math.nan] * seconds
        for at, value in points:
            if 0 <= round(at) < seconds:
                values[round(at)] = value
        if stacked:
            top = [b + (0.0 if math.isnan(v) else v) for b, v in zip(base, values, strict=True)]
            axes.fill_between(range(seconds), base, top, color=color, alpha=0.6, linewidth=0)
            edge = [t if v > 0 else math.nan for t, v in zip(top, values, strict=True)]
            axes.plot(edge, color=color, linewidth=0.8)
            base = top
        else:
            style = (0, (5, 3)) if dashed and re.search(dashed, name) else "-"
            axes.plot(values, color=color, linewidth=1.1, linestyle=style)
    steps = defaults["thresholds"]["steps"]
    if len(steps) > 1 and "thresholdsStyle" in defaults["custom"]:
        axes.axhline(steps[1]["value"], color=steps[1]["color"], linewidth=0.8, linestyle="--")
    axes.set_ylim(0, defaults.get("max") or max(axes.get_ylim()[1], 1e-9))
    axes.yaxis.set_major_formatter(lambda value, _: measure(value, defaults["unit"]))
    axes.locator_params(axis="y", nbins=5)
    return colors


def _color(panel: Mapping[str, Any], name: str, at: int) -> str:
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": "byName", "options": name}:
            fixed: str = override["properties"][0]["value"]["fixedColor"]
            return fixed
    return CLASSIC[at % len(CLASSIC)]


def _dashed(panel: Mapping[str, Any]) -> str:
    """The pattern of the series that are drawn dashed, or nothing."""
    return "|".join(
        override["matcher"]["options"].strip("/")
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["id"] == "byRegexp"
    )


def _legend(
    figure: Any,
    panel: Mapping[str, Any],
    series: Sequence[Series],
    colors: Sequence[str],
    box: tuple[float, float, float, float],
) -> None:
    left, bottom, width, inch = box
    unit = panel["fieldConfig"]["defaults"]["unit"]
    right, y = left + width - 0.006, bottom + (0.1 + 0.15 * len(series)) * inch
    figure.text(right - 0.036, y, "last", fontsize=6, color=DIM, ha="right", va="center")
    figure.text(right, y, "max", fontsize=6, color=DIM, ha="right", va="center")
    for (name, points), color in zip(series, colors, strict=False):
        y -= 0.15 * inch
        values = [value for _, value in points if math.isfinite(value)]
        figure.text(left + 0.007, y, "■", fontsize=6, color=color, va="center")
        figure.text(left + 0.016, y, textwrap.shorten(name, 40), fontsize=6.5, va="center")
        if values:
            for x, value in ((right - 0.036, values[-1]), (right, max(values))):
                figure.text(x, y, measure(value, unit), fontsize=6.5, ha="right", va="center")


def _timeline(axes: Any, panel: Mapping[str, Any], series: Sequence[Series]) -> None:
    from matplotlib.patches import Patch

    states = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    for row, (_, points) in enumerate(series):
        for at, value in points:
            axes.broken_barh([(at, 1.02)], (row - 0.4, 0.8), color=states[f"{value:g}"]["color"], linewidth=0)
    axes.set_yticks(range(len(series)), [name for name, _ in series])
    axes.set_ylim(-0.6, len(series) - 0.4)
    axes.tick_params(axis="y", labelrotation=90, labelsize=6.5, labelcolor=TEXT)
    for label in axes.get_yticklabels():
        label.set_va("center")
        label.set_clip_on(False)
    patches = [Patch(color=state["color"], label=state["text"]) for state in states.values()]
    axes.legend(
        handles=patches,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=len(patches),
        frameon=False,
        fontsize=6.5,
        labelcolor=TEXT,
    )


def _heatmap(axes: Any, series: Sequence[Series]) -> None:
    """Counts between neighbouring bounds, from the cumulative counts of buckets."""
    bounds = sorted((math.inf if name == "+Inf" else float(name), dict(points)) for name, points in series)
    moments = sorted({at for _, points in bounds for at in points})
    before = dict.fromkeys(moments, 0.0)
    counts = []
    for _, points in bounds:
        counts.append([max(0.0, points.get(at, 0.0) - before[at]) or math.nan for at in moments])
        before = {at: points.get(at, before[at]) for at in moments}
    used = [at for at, row in enumerate(counts) if any(not math.isnan(value) for value in row)]
    if not used:
        return
    first, last = max(0, min(used) - 1), min(len(bounds), max(used) + 2)
    axes.pcolormesh([*moments, moments[-1] + 1], range(last - first + 1), counts[first:last], cmap="viridis")
    axes.set_yticks(range(1, last - first + 1), [measure(bound, "s") for bound, _ in bounds[first:last]], fontsize=5.5)
    axes.grid(visible=False)


def measure(value: float, unit: str) -> str:
    """A value as Grafana writes it with this unit."""
    if math.isinf(value):
        return "∞"
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or not value else f"{1000 * value:.3g} ms"
    return f"{value:.3g}" + {"reqps": " req/s", "cps": " c/s"}.get(unit, "")
