"""The plot of `storm`: E3 by the share of attempts that fail, E4 over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.report import Report

__all__ = ["draw_storm"]

COLORS = {
    "4 attempts": "#c44e52",
    "4 attempts, budget": "#d08c2f",
    "standard()": "#2da44e",
    "breaker and budget": "#1f6feb",
    "budget, server drops expired": "#8250df",
    "budget, server AdaptiveLimit": "#17a2a2",
    "loop, asyncio.timeout": "#24292f",
    "tenacity, asyncio.timeout": "#bf3989",
    "nopanic, budget": "#6e7781",
}


def draw_storm(
    report: Report,
    file: Path,
    *,
    overloads: Mapping[str, Sequence[Any]],
    shown: Sequence[str],
    stall: tuple[float, float],
    rate: float,
) -> None:
    """Write a PNG. E3: success and requests by the share of attempts that fail. E4: goodput and requests over time,
    with the `stall` shaded and a line at `rate`, for the rows that are `shown`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    from resilient.lab.measures import Measures

    canvas = Canvas(figsize=(13, 8), layout="constrained")
    FigureCanvasAgg(canvas)
    (success, requests), (goodput, sent) = canvas.subplots(2, 2)
    for axes, key, title in (
        (success, "success_percent", "calls that succeed (%)"),
        (requests, "requests_per_call_x", "requests per call"),
    ):
        shares = (0.05, 0.1, 0.3, 0.5, 1.0)
        lines = [figure for figure in report.figures if figure.group.endswith(", 100 clients")]
        for name in dict.fromkeys(figure.name for figure in lines):
            points = [
                (100 * share, figure.values[key], figure.values.get(f"expected_{key}"))
                for share in shares
                for figure in lines
                if figure.name == name and figure.group.startswith(f"E3: {100 * share:g}%")
            ]
            color = COLORS[name]
            axes.plot([x for x, _, _ in points], [y for _, y, _ in points], ".-", color=color, label=name)
            marks = [(x, wanted) for x, _, wanted in points if wanted is not None]
            if marks:
                axes.plot(*zip(*marks, strict=True), "o", color=color, markerfacecolor="white", markersize=7)
        axes.plot([], [], "o", color="black", markerfacecolor="white", markersize=7, label="expected")
        axes.set_xlabel("attempts that fail (%)")
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
    success.set_title("E3: 100 clients", loc="left", fontsize=10, fontweight="bold")
    requests.legend(frameon=False, fontsize=9)
    for name in (each for each in shown if each in overloads):
        moments = Measures(overloads[name]).timeline
        edges = [moment.at for moment in moments] + [overloads[name][0].scenario.duration]
        color = COLORS[name]
        style = {"baseline": None, "color": color, "linewidth": 1.5}
        goodput.stairs([moment.goodput for moment in moments], edges, **style)
        sent.stairs([moment.requests_per_call or 0.0 for moment in moments], edges, label=name, **style)
    for axes, title in ((goodput, "successes per second"), (sent, "requests per call")):
        axes.axvspan(*stall, color="#e8c07d", alpha=0.35, linewidth=0, zorder=0)
        axes.set_xlim(0, min(120, report.conditions["overload_horizon_s"]))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("time (s)")
        axes.set_ylabel(title)
    goodput.axhline(rate, color="#444c56", linewidth=0.8, linestyle=":")
    goodput.annotate("calls made, on average", (0.5, rate), xytext=(0, 12), textcoords="offset points", fontsize=8)
    goodput.set_title("E4: no request begins from 30 to 40 s", loc="left", fontsize=10, fontweight="bold")
    sent.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.84))
    for axes in (success, requests, goodput, sent):
        axes.grid(color="#d8dee4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.suptitle(f"storm (Python {report.conditions['python']}, virtual time, seed {report.conditions['seed']})")
    canvas.savefig(file, dpi=90, format="png")
