"""The plot of `metastable`: the share of the calls made in each second that succeed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness.report import Report

__all__ = ["draw_metastable"]

COLORS = ("#c44e52", "#8250df", "#17a2a2", "#d08c2f", "#8250df", "#17a2a2", "#2da44e")


def draw_metastable(report: Report, file: Path, found: Mapping[str, Sequence[float | None]]) -> None:
    """Write a PNG with a panel for each row, one below the other. `found` has each row's share by second."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    conditions = report.conditions
    canvas = Canvas(figsize=(10, 10), layout="constrained")
    FigureCanvasAgg(canvas)
    panels = canvas.subplots(len(found), 1, sharex=True, sharey=True)
    for axes, color, (name, shares) in zip(panels, COLORS, found.items(), strict=True):
        heights = [100 * (share or 0.0) for share in shares]
        axes.stairs(heights, range(len(heights) + 1), color=color, fill=True, alpha=0.25)
        axes.stairs(heights, range(len(heights) + 1), color=color, linewidth=1.5)
        stall = conditions["before_s"], conditions["before_s"] + conditions["stall_s"]
        axes.axvspan(*stall, color="#e8c07d", alpha=0.35, linewidth=0, zorder=0)
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlim(0, len(heights))
        axes.set_ylim(0, 105)
        axes.grid(color="#d8dee4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("time (s); in the shaded seconds the server begins nothing")
    canvas.supylabel("calls made in each second that succeed (%)", fontsize=10)
    canvas.suptitle(f"metastable: uvicorn and httpx over loopback (Python {conditions['python']})")
    canvas.savefig(file, dpi=90, format="png")
