"""The picture of candidates in a scenario: over time, what was wanted and what came of it, what it cost, and why."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resilient.lab.measures import Measures, Moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

COLORS = ("#c44e52", "#2a6fbb", "#3a9b5c", "#8172b3", "#d08c2f", "#5f6b76")
SHADE = "#e8c07d"


def draw(measures: Sequence[Measures], file: Path) -> None:
    """Write a PNG with one panel for each measure, and a line for each candidate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scenario, step = measures[0].scenario, measures[0].runs[0].step
    panels: list[Callable[[Axes, Sequence[Measures]], None]] = [_goodput, _latency, _requests]
    heights = [3.0, 2.4, 1.8]
    if any(each.classes for each in measures):
        panels.append(_classes)
        heights.append(2.0)
    if any(moment.open is not None for each in measures for moment in each.timeline):
        panels.append(_circuits)
        heights.append(1.6)
    if any(moment.tokens is not None for each in measures for moment in each.timeline):
        panels.append(_budget)
        heights.append(1.6)
    if any(moment.limit is not None for each in measures for moment in each.timeline):
        panels.append(_limit)
        heights.append(1.6)
    if any(moment.hedge_delay is not None for each in measures for moment in each.timeline):
        panels.append(_hedge_delay)
        heights.append(1.6)
    figure = Figure(figsize=(10, 1.2 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        panel(axes, measures)
        _shade(axes, measures, labels=axes is grid[0])
        axes.set_xlim(0, scenario.duration)
        axes.grid(color="#d8dee4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    grid[-1].set_xlabel(f"time (s), in steps of {step:g} s")
    runs = measures[0].runs
    seeds = f"seed {runs[0].seed}" if len(runs) == 1 else f"seeds {runs[0].seed} to {runs[-1].seed}"
    title = f"{scenario.title or scenario.name} ({seeds})"
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), fontsize=12, fontweight="bold")
    figure.savefig(file, dpi=90, format="png")


def _line(axes: Axes, number: int, each: Measures, value: Callable[[Moment], float | None], **style: Any) -> None:
    step = each.runs[0].step
    values = [found if (found := value(moment)) is not None else math.nan for moment in each.timeline]
    edges = [step * at for at in range(len(values) + 1)]
    settings: dict[str, Any] = {"color": COLORS[number % len(COLORS)], "linewidth": 1.6, "baseline": None, **style}
    axes.stairs(values, edges, **settings)


def _goodput(axes: Axes, measures: Sequence[Measures]) -> None:
    _line(axes, 0, measures[0], lambda moment: moment.offered, color="#444c56", linewidth=1.0, label="calls made")
    for number, each in enumerate(measures):
        label = f"{each.candidate.name}: {100 * each.success:.1f}% of all succeed"
        _line(axes, number, each, lambda moment: moment.goodput, label=label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("successes\nper second")
    columns = len(measures) + 1 if len(measures) < 4 else 3
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=columns, frameon=False, fontsize=9)


def _latency(axes: Axes, measures: Sequence[Measures]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for number, each in enumerate(measures):
        _line(axes, number, each, lambda moment: _ms(moment.p99), label="p99" if number == 0 else None)
        style = {"linewidth": 1.0, "linestyle": (0, (3, 2))}
        _line(axes, number, each, lambda moment: _ms(moment.p50), label="p50" if number == 0 else None, **style)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("latency of\nsuccesses (ms)")
    legend = axes.legend(loc="upper right", frameon=False, fontsize=8, ncols=2)
    for handle in legend.legend_handles:
        handle.set(color="#444c56")  # type: ignore[union-attr]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _requests(axes: Axes, measures: Sequence[Measures]) -> None:
    most = 1.0
    for number, each in enumerate(measures):
        _line(axes, number, each, lambda moment: moment.requests_per_call)
        most = max([most, *(moment.requests_per_call or 0 for moment in each.timeline)])
    axes.set_ylim(0, 1.1 * most)
    axes.axhline(1, color="#444c56", linewidth=0.8, linestyle=":")
    axes.set_ylabel("requests\nper call")


STYLES = {"critical": "-", "normal": (0, (4, 1.5)), "sheddable": (0, (1, 1.2))}


def _classes(axes: Axes, measures: Sequence[Measures]) -> None:
    for number, each in enumerate(measures):
        for name in each.classes:
            values = [math.nan if share is None else 100 * share for share in each.course(name)]
            edges = [each.runs[0].step * at for at in range(len(values) + 1)]
            style: dict[str, Any] = {"color": COLORS[number % len(COLORS)], "linestyle": STYLES[name]}
            axes.stairs(values, edges, baseline=None, linewidth=1.6, label=name if number == 0 else None, **style)
    axes.set_ylim(0, 105)
    axes.set_ylabel("calls that\nsucceed (%)")
    legend = axes.legend(loc="center right", frameon=False, fontsize=8)
    for handle in legend.legend_handles:
        handle.set(color="#444c56")  # type: ignore[union-attr]


def _limit(axes: Axes, measures: Sequence[Measures]) -> None:
    for number, each in enumerate(measures):
        _line(axes, number, each, lambda moment: moment.limit)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("adaptive limit\n(calls)")


def _hedge_delay(axes: Axes, measures: Sequence[Measures]) -> None:
    for number, each in enumerate(measures):
        _line(axes, number, each, lambda moment: _ms(moment.hedge_delay))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("delay of a\nhedge (ms)")


def _circuits(axes: Axes, measures: Sequence[Measures]) -> None:
    for number, each in enumerate(measures):
        _line(axes, number, each, lambda moment: _percent(moment.open), fill=True, alpha=0.25, linewidth=0, baseline=0)
        _line(axes, number, each, lambda moment: _percent(moment.open), label="open" if number == 0 else None)
    axes.set_ylim(0, 105)
    axes.set_ylabel("circuits\nopen (%)")


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _budget(axes: Axes, measures: Sequence[Measures]) -> None:
    for number, each in enumerate(measures):
        _line(axes, number, each, lambda moment: moment.tokens)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens in\na budget")


def _shade(axes: Axes, measures: Sequence[Measures], *, labels: bool) -> None:
    scenario = measures[0].scenario
    for row, fault in enumerate(scenario.faults):
        end = scenario.duration if fault.end is None else min(fault.end, scenario.duration)
        if fault.start >= scenario.duration or (fault.start == 0 and fault.end is None):
            continue
        axes.axvspan(fault.start, end, color=SHADE, alpha=0.3, linewidth=0, zorder=0)
        if labels:
            axes.annotate(
                f"{fault.describe()}, {fault.when()}",
                (fault.start, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(2, 4 + 11 * (len(scenario.faults) - 1 - row)),
                textcoords="offset points",
                fontsize=8.5,
                color="#7a5a16",
                annotation_clip=False,
            )
