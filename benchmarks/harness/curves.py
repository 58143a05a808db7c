"""Draws the plot of a report with curves: tails of latency, one panel for each group, on logarithmic axes."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from benchmarks.harness.report import Report

__all__ = ["draw_curves"]

COLORS = ("#6e7781", "#1f6feb", "#bf3989", "#2da44e")


def draw_curves(report: Report, file: Path) -> None:
    """Write a PNG. x is milliseconds, y the share of requests that take longer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    panels = [(title, list(curves)) for title, curves in groupby(report.curves, key=lambda curve: curve.group)]
    canvas = Canvas(figsize=(6.5 * len(panels), 4.8), layout="constrained")
    FigureCanvasAgg(canvas)
    for axes, (title, curves) in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        names = list(dict.fromkeys(curve.name for curve in curves))
        for curve in curves:
            color = COLORS[names.index(curve.name) % len(COLORS)]
            x, y = zip(*curve.points, strict=True)
            if curve.marks:
                axes.plot(x, y, "o", color=color, markerfacecolor="white", markersize=6, zorder=3)
            else:
                axes.plot(x, y, color=color, linewidth=1.8, label=curve.name)
        axes.plot([], [], "o", color="black", markerfacecolor="white", label="published or simulated before")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("milliseconds")
        axes.set_ylabel("share of requests that take longer")
        axes.grid(which="major", color="#d8dee4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, title="hedge", alignment="left")
    canvas.suptitle(f"{report.benchmark} (Python {report.conditions.get('python', '')}, virtual time)", fontsize=11)
    canvas.savefig(file, dpi=120, format="png")
