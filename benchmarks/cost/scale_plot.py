"""The plot of `scale`: the cost of a call beside growing numbers of others."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from benchmarks.harness.report import Figure, Report

__all__ = ["draw_scale"]

OURS = ("#1f6feb", "#0a9396", "#8250df", "#2da44e")
OTHERS = ("#6e7781", "#d08c2f", "#bf3989")


def draw_scale(report: Report, file: Path) -> None:
    """Write a PNG with logarithmic axes: a panel each for calls in flight, one of the keys, and keys in turn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import LogLocator

    measured = [figure for figure in report.figures if "multiple_x" in figure.values]
    lines = [(title.partition(": "), list(group)) for title, group in groupby(measured, key=lambda each: each.group)]
    panels = list(dict.fromkeys(what for (what, _, _), _ in lines))
    canvas = Canvas(figsize=(5.2 * len(panels), 5), layout="constrained", facecolor="white")
    FigureCanvasAgg(canvas)
    for axes, panel in zip(canvas.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        ours, others = iter(OURS), iter(OTHERS)
        for (what, _, name), figures in lines:
            if what == panel:
                mine = figures[0].ours
                style = {"color": next(ours if mine else others), "linewidth": 2.2 if mine else 1.4}
                axes.plot(*_points(figures), "o-" if mine else "o--", markersize=4, label=name, **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_formatter("")
        axes.set_ylim(bottom=1)
        axes.set_xlabel("calls in flight" if panel == "in flight" else "keys")
        axes.set_title(panel, loc="left", fontsize=10, fontweight="bold")
        axes.grid(which="major", color="#d8dee4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7.5, loc="lower left")
    canvas.suptitle(
        f"A call beside others, in multiples of a bare await (Python {report.conditions['python']}; dashed: peers)",
        fontsize=11,
    )
    canvas.savefig(file, dpi=110, format="png")


def _points(figures: list[Figure]) -> tuple[list[float], list[float]]:
    sizes = [figure.values.get("beside_calls", figure.values.get("beside_keys", 1)) for figure in figures]
    return sizes, [figure.values["multiple_x"] for figure in figures]
