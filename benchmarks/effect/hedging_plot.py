"""The plot of `hedging`: the tails, and the extra requests and connections that they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness.report import Report

__all__ = ["draw_hedging"]

OURS = ("#1f6feb", "#0a9396", "#8250df", "#2da44e", "#0b3d91", "#57ab5a", "#986ee2")
OTHERS = ("#6e7781", "#d08c2f", "#bf3989", "#e8b96a", "#dd8fc0")


def draw_hedging(report: Report, file: Path, *, tails: Mapping[str, Sequence[float]]) -> None:
    """Write a PNG: the share of requests that take longer, on logarithmic axes, by row; and bars of the extra requests
    and connections."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(13, 5.2), layout="constrained")
    FigureCanvasAgg(canvas)
    tail, cost = canvas.subplots(1, 2, width_ratios=(1.5, 1))
    rows = {figure.name: figure for figure in report.figures if figure.name in tails}
    ours, others = iter(OURS), iter(OTHERS)
    colors = {name: next(ours if figure.ours else others) for name, figure in rows.items()}
    for name, times in tails.items():
        ordered = sorted(times)
        count = len(ordered)
        shares = [10 ** (-step / 60) for step in range(1, 1 + int(60 * (len(str(count)) - 1)))]
        points = [(ordered[min(count - 1, int(count * (1 - share)))], share) for share in shares if share * count >= 3]
        tail.plot(
            *zip(*points, strict=True),
            color=colors[name],
            label=name,
            linewidth=2 if rows[name].ours else 1.6,
            linestyle="-" if rows[name].ours else "--",
        )
    tail.axhline(0.001, color="#444c56", linewidth=0.8, linestyle=":")
    tail.annotate("p99.9", (1, 0.001), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    tail.set_xscale("log")
    tail.set_yscale("log")
    tail.xaxis.set_major_formatter("{x:,.0f}")
    tail.xaxis.set_minor_formatter("{x:,.0f}")
    tail.set_xlabel("milliseconds")
    tail.set_ylabel("share of requests that take longer")
    tail.set_title("Tail (dashed: plain httpx and peers)", loc="left", fontsize=10, fontweight="bold")
    tail.legend(frameon=False, fontsize=8, loc="lower left")
    places = range(len(rows))
    for off, key, title, alpha in (
        (-0.2, "extra_percent", "extra requests", 1.0),
        (0.2, "opened_percent", "connections opened", 0.4),
    ):
        values = [figure.values[key] for figure in rows.values()]
        bars = cost.barh([at + off for at in places], values, 0.38, color=list(colors.values()), alpha=alpha)
        cost.bar_label(bars, [f"{value:.1f} {title}" for value in values], padding=3, fontsize=7)
    cost.set_yticks(list(places), list(rows), fontsize=8)
    cost.invert_yaxis()
    most = max(max(f.values["extra_percent"], f.values["opened_percent"]) for f in rows.values())
    cost.set_xlim(0, 1.45 * most or 1)  # a short run may have sent no copies at all
    cost.set_xlabel("for 100 requests")
    cost.set_title("Cost", loc="left", fontsize=10, fontweight="bold")
    for axes in (tail, cost):
        axes.grid(axis="both" if axes is tail else "x", color="#d8dee4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    conditions = report.conditions
    canvas.suptitle(
        f"hedging: {conditions['requests_per_contender']:,} requests each over loopback"
        f" (Python {conditions['python']}, seed {conditions['seed']})"
    )
    canvas.savefig(file, dpi=100, format="png")
