"""The plot of candidates in a scenario over time: calls and their successes, the cost in requests, and the state of
policies.

It shows the same as the table. Calls and their requests are drawn at the moment when the call is made, answers and
their latencies when they come. Each candidate has a colour and a marker (the colours differ for people with any kind of
colour vision). Markers are set side by side, so that lines that coincide show the markers of all of them.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from resilient.lab.image_files import save
from resilient.lab.measures import Measures, Moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "figure_of"]

COLORS = (
    *("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),  # M. Okabe and K. Ito's
    *("#000000", "#882255", "#1b1bff", "#661100", "#003366", "#8fce5a"),
)
MARKERS = "os^DvXP*<>1d"
SHADE, GREY = "#e8c07d", "#444c56"
MARKS = 7
"""Markers on a line."""
LONGEST = 44
"""The most characters of a name that are shown, from its end."""


Panel: TypeAlias = "Callable[[Axes, Sequence[Measures]], None]"


def draw(measures: Sequence[Measures], file: Path) -> None:
    """Write a plot to a file, with one panel for each measure, and a line for each candidate."""
    save(figure_of(measures), file, dpi=90)


def figure_of(measures: Sequence[Measures]) -> Figure:
    """The matplotlib figure that `draw` writes to a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scenario, step = measures[0].scenario, measures[0].runs[0].step
    panels: list[Panel] = [_goodput, _latency, _requests]
    heights = [3.0, 2.4, 1.8]
    if scenario.calm[1]:
        panels.append(_recovery)
        heights.append(0.4 + 0.18 * len(measures))
    if any(each.classes for each in measures):
        panels.append(_classes)
        heights.append(2.0)
    of_policies: dict[str, Panel] = {
        "open": _circuits,
        "tokens": _budget,
        "limit": _limit,
        "hedge_delay": _hedge_delay,
    }
    for name, panel in of_policies.items():
        if any(getattr(moment, name) for each in measures for moment in each.timeline):  # no panel if all values are 0
            panels.append(panel)
            heights.append(1.6)
    figure = Figure(figsize=(10, 1.2 + sum(heights) + 0.1 * len(measures)), layout="constrained")
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
    title = _shown(f"{scenario.title or scenario.name} ({seeds})")
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), fontsize=12, fontweight="bold")
    return figure


def _shown(text: str) -> str:
    """A text for matplotlib, on one line and not as a formula (it reads text between dollar signs as one)."""
    return "".join(each if each.isprintable() else " " for each in text).replace("$", r"\$")


def _name(each: Measures) -> str:
    name = each.candidate.name
    return _shown(name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}")


# -- lines ------------------------------------------------------------------------------------------------------------


def _look(number: int) -> tuple[str, str]:
    """The colour and the marker of a candidate. The first 144 candidates differ."""
    return COLORS[number % len(COLORS)], MARKERS[(number + number // len(COLORS)) % len(MARKERS)]


def _curve(axes: Axes, number: int, of: int, each: Measures, values: Sequence[float | None], **style: Any) -> None:
    """Draw the line of one candidate, with markers between those of the other candidates.

    Args:
        number, of: of this candidate, and the number of all.
        values: one for each step; None leaves a gap.
    """
    color, marker = _look(number)
    step, whole = each.runs[0].step, _whole_steps(each)
    known = [math.nan if value is None else value for value in values]
    known = known[:whole]  # an incomplete last step is not comparable
    edges = [step * at for at in range(len(known) + 1)]
    axes.stairs(known, edges, **{"color": color, "linewidth": 1.6, "baseline": None, **style})
    apart = max(1, len(known) // MARKS)
    marked = [at for at in range(apart * number // of, len(known), apart) if not math.isnan(known[at])]
    middles = [step * (at + 0.5) for at in marked]
    axes.plot(middles, [known[at] for at in marked], marker, color=color, markersize=4.5, zorder=3)


def _whole_steps(each: Measures) -> int:
    """Number of complete steps of the timeline: the last one may be cut short by the end, and is not drawn."""
    return max(1, int(each.scenario.duration / each.runs[0].step + 1e-9))


def _lines(axes: Axes, measures: Sequence[Measures], value: Callable[[Moment], float | None], **style: Any) -> None:
    """Draw a line for each candidate: one value of each moment of its timeline."""
    for number, each in enumerate(measures):
        _curve(axes, number, len(measures), each, [value(moment) for moment in each.timeline], **style)


def _key(axes: Axes, styles: dict[str, Any], where: str) -> None:
    """Add a legend that names line styles, which mean the same in all colours."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=GREY, linewidth=1.6, linestyle=style) for style in styles.values()]
    place: dict[str, Any] = {"loc": where}
    axes.legend(handles, list(styles), **place, edgecolor="white", framealpha=0.7, fontsize=8, ncols=len(styles))


# -- panels -----------------------------------------------------------------------------------------------------------


def _goodput(axes: Axes, measures: Sequence[Measures]) -> None:
    from matplotlib.lines import Line2D

    step = measures[0].runs[0].step
    loads = [[moment.offered for moment in each.timeline[: _whole_steps(each)]] for each in measures]
    own = any(load != loads[0] for load in loads)
    edges = [step * at for at in range(len(loads[0]) + 1)]
    style: dict[str, Any] = {"baseline": None, "linewidth": 1.0}
    if own:  # in a closed loop the number of calls differs by candidate
        for number, load in enumerate(loads):
            axes.stairs(load, edges, color=_look(number)[0], linestyle=(0, (1, 1.5)), **style)
    else:
        axes.stairs(loads[0], edges, color=GREY, **style)
    _lines(axes, measures, lambda moment: moment.goodput)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("successes that\ncome per second")
    made = Line2D([], [], color=GREY, linewidth=1.0, linestyle=(0, (1, 1.5)) if own else "-")
    handles, labels = [made], [" calls made with each" if own else " calls made"]  # in line with the others
    for number in range(len(measures)):
        color, marker = _look(number)
        handles.append(Line2D([], [], color=color, linewidth=1.6, marker=marker, markersize=5))
        labels.append(_label(number, measures))
    columns = max(1, min(len(labels), 150 // (max(map(len, labels)) + 8)))
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.02)}
    axes.legend(handles, labels, **place, ncols=columns, frameon=False, fontsize=9)


def _label(number: int, measures: Sequence[Measures]) -> str:
    """A candidate in the legend. (The space: a label that begins with `_` would not be shown.)"""
    each = measures[number]
    label = f" {_name(each)}: {100 * each.success:.1f}% of all succeed"
    same = next((other for other in measures[:number] if each.equals(other)), None)
    return label if same is None else f"{label}, same as {_name(same)}"


def _latency(axes: Axes, measures: Sequence[Measures]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    dashed = (0, (3, 2))
    _lines(axes, measures, lambda moment: _ms(moment.p99))
    _lines(axes, measures, lambda moment: _ms(moment.p50), linewidth=1.0, linestyle=dashed)
    if any(moment.p99 for each in measures for moment in each.timeline):  # a latency of 0 has no logarithm
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("latency of\nsuccesses (ms)")
    _key(axes, {"p99": "-", "p50": dashed}, "upper right")


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _requests(axes: Axes, measures: Sequence[Measures]) -> None:
    _lines(axes, measures, lambda moment: moment.requests_per_call)
    most = max([1.0, *(moment.requests_per_call or 0 for each in measures for moment in each.timeline)])
    axes.set_ylim(0, 1.1 * most)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylabel("requests per\ncall made")


def _recovery(axes: Axes, measures: Sequence[Measures]) -> None:
    """A row for each candidate: from the end of the faults until it has recovered, or to the end of the plot."""
    scenario = measures[0].scenario
    over = scenario.calm[1]
    for number, each in enumerate(measures):
        color, marker = _look(number)
        found = each.worst_recovery
        ends = over + found.seconds if found.seconds is not None else scenario.duration
        style = (0, (1, 2)) if found.unmeasurable else "-"
        axes.plot([over, ends], [number, number], color=color, linewidth=3.5, linestyle=style, solid_capstyle="butt")
        if found.seconds is not None:
            axes.plot([ends], [number], marker, color=color, markersize=6)
        axes.annotate(
            found.state if found.seconds is None else f"{found.seconds:g} s",
            (ends, number),
            xytext=(6, 0),
            textcoords="offset points",
            color=color,
            fontsize=9,
            fontweight="normal" if found.state == "measured" else "bold",
            va="center",
            annotation_clip=False,
        )
    axes.set_ylim(len(measures) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_ylabel("recovery of\nsuccess", rotation=0, ha="right", va="center")


STYLES = {"critical": "-", "normal": (0, (4, 1.5)), "sheddable": (0, (1, 1.2))}


def _classes(axes: Axes, measures: Sequence[Measures]) -> None:
    for number, each in enumerate(measures):
        for name in each.classes:
            values = [_percent(share) for share in each.course(name)]
            _curve(axes, number, len(measures), each, values, linestyle=STYLES[name])
    axes.set_ylim(0, 105)
    axes.set_ylabel("calls that\nsucceed (%)")
    names = {name for each in measures for name in each.classes}
    _key(axes, {name: style for name, style in STYLES.items() if name in names}, "center right")


def _limit(axes: Axes, measures: Sequence[Measures]) -> None:
    _lines(axes, measures, lambda moment: moment.limit)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("adaptive limit\n(calls)")


def _hedge_delay(axes: Axes, measures: Sequence[Measures]) -> None:
    _lines(axes, measures, lambda moment: _ms(moment.hedge_delay))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("delay of a\nhedge (ms)")


def _circuits(axes: Axes, measures: Sequence[Measures]) -> None:
    _lines(axes, measures, lambda moment: _percent(moment.open), fill=True, alpha=0.25, linewidth=0, baseline=0)
    _lines(axes, measures, lambda moment: _percent(moment.open))
    axes.set_ylim(0, 105)
    axes.set_ylabel("circuits\nopen (%)")


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _budget(axes: Axes, measures: Sequence[Measures]) -> None:
    _lines(axes, measures, lambda moment: moment.tokens)
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
                _shown(f"{fault.describe()}, {fault.when()}"),
                (fault.start, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(2, 4 + 11 * (len(scenario.faults) - 1 - row)),
                textcoords="offset points",
                fontsize=8.5,
                color="#7a5a16",
                annotation_clip=False,
            )
