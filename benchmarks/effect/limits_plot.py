"""The plot of `limits`: the limits found in E6, the calls served, and their latency."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.report import Report

__all__ = ["draw_limits"]

COLORS = ("#1f6feb", "#d08c2f", "#8250df", "#17a2a2", "#6e7781", "#c44e52")
EACH = 2
"""Seconds of one point of the curves."""


def draw_limits(report: Report, file: Path, found: Mapping[str, Any], phases: Sequence[tuple[float, int]]) -> None:
    """Write a PNG of three panels over time: the limit, the calls served, and their median latency. `found` has the
    calls of each limit; each of the `phases` is seconds and workers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(11, 9), layout="constrained")
    FigureCanvasAgg(canvas)
    limits, served, medians = canvas.subplots(3, 1, sharex=True)
    end = sum(seconds for seconds, _ in phases)
    edges = range(0, int(end) + 1, EACH)
    for color, (name, seen) in zip(COLORS, found.items(), strict=True):
        width = 2.0 if color == COLORS[0] else 1.0
        limits.step(range(len(seen.limits)), seen.limits, where="post", color=color, linewidth=width, label=name)
        parts = [seen.served(begin, begin + EACH) for begin in edges[:-1]]
        style = {"baseline": None, "color": color, "linewidth": width}
        served.stairs([len(part) / EACH for part in parts], edges, **style)
        medians.stairs([1000 * statistics.median(part) if part else 0 for part in parts], edges, **style)
    begin = 0.0
    for seconds, workers in phases:
        rate = workers / report.conditions["service_mean_s"]
        limits.hlines(workers, begin, begin + seconds, color="#444c56", linewidth=0.8, linestyle=":")
        served.hlines(rate, begin, begin + seconds, color="#444c56", linewidth=0.8, linestyle=":")
        what = f"{workers} workers"
        limits.annotate(what, (begin + 1, workers), xytext=(0, -9), textcoords="offset points", fontsize=8)
        begin += seconds
    medians.axhline(60, color="#444c56", linewidth=0.8, linestyle=":")
    limits.set_yscale("log")
    limits.set_ylabel("limit")
    limits.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.28))
    served.set_ylabel("calls served per second")
    served.set_ylim(bottom=0)
    medians.set_ylabel("median latency (ms)")
    medians.set_yscale("log")
    medians.set_xlabel("time (s)")
    for axes in (limits, served, medians):
        axes.set_xlim(0, end)
        axes.grid(color="#d8dee4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.suptitle(f"limits (Python {report.conditions['python']}, virtual time, seed {report.conditions['seed']})")
    canvas.savefig(file, dpi=90, format="png")
