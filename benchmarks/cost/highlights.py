"""The rows of `overhead` that the README shows, and their plot: ours among the peers, the cheapest first."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness.plot import Panel, fill
from benchmarks.harness.report import Report

__all__ = ["HIGHLIGHTS", "draw_highlights"]

HIGHLIGHTS = {
    "async: Retry": "Retry",
    "async: Bulkhead": "Bulkhead",
    "async: CircuitBreaker, count window": "CircuitBreaker, count window",
    "async: RateLimit": "RateLimit",
    "async: Timeout": "Timeout",
    "async: Hedge, not fired, the first copy inline": "Hedge that does not fire, inline",
    "async: Retry + Bulkhead + CircuitBreaker + Timeout": "Retry + Bulkhead + breaker + Timeout",
    "async: CircuitBreaker: open, the call is rejected": "refused by an open circuit",
    "def: Retry": "Retry around a `def`",
    "def: CircuitBreaker, count window": "CircuitBreaker around a `def`",
    "def: Retry + Bulkhead + CircuitBreaker + Timeout": "these four around a `def`",
    "def: CircuitBreaker: open, the call is rejected": "refused, around a `def`",
}
"""Groups of `overhead`, and their titles in the README."""
PEERS_OF = {"async: Hedge, not fired, the first copy inline": "async: Hedge, not fired"}
"""Groups whose peers are in another group."""


def draw_highlights(report: Report, file: Path) -> None:
    """Write a PNG with a panel for each group, each on its own logarithmic scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    column = report.columns[0]
    panels = []
    for group, title in HIGHLIGHTS.items():
        rows = [
            figure
            for figure in report.figures
            if figure.values
            and (figure.group == group or (not figure.ours and figure.group == PEERS_OF.get(group)))
            and (not figure.ours or figure.name == "resilient")
        ]
        if rows:
            panels.append(Panel(title.replace("`", ""), column, sorted(rows, key=lambda row: row.values[column.key])))
    canvas = Canvas(figsize=(14, 8.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(canvas)
    grid = canvas.subplots(3, -(-len(panels) // 3), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        fill(axes, panel)
        axes.set_xlim(min(panel.values) / 2.5, max(panel.values) * 4)
    python = report.conditions.get("python", "")
    canvas.suptitle(
        f"The cost of a guarded call in multiples of the bare call, logarithmic (Python {python}; blue: resilient)"
    )
    canvas.savefig(file, dpi=100, format="png")
