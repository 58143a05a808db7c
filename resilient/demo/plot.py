"""The plot of a run: success and latency over time with shaded faults; below, the extra requests, and the circuits."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from resilient.demo.experiment import Experiment
from resilient.demo.tally import timeline
from resilient.lab.image_files import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "show_extras"]

_COLOURS = {"plain": "#c44e52", "resilient": "#2a6fbb"}
_CIRCUIT_COLOURS = {
    "closed": "#9fd3a5",
    "half-open": "#f2c14e",
    "open": "#d1495b",
    "isolated": "#d1495b",
}

_BURST, _CRASH = "#e8c07d", "#9a8fb5"
LABELLED_FAULTS = 4  # more labels would overlap


def draw(experiment: Experiment, path: Path) -> None:
    """Write the plot to `path`, as PNG, SVG or PDF by its suffix."""
    settings = experiment.settings
    # A figure without pyplot, which would look for a display and keep global state.
    figure = Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 1.5, 1.3))
    success, latency, extras, circuits = axes
    _success(success, experiment)
    _latency(latency, experiment)
    show_extras(extras, experiment)
    _circuits(circuits, experiment)
    for panel in axes:
        _shade(panel, experiment, labels=panel is success)
        panel.set_xlim(0, settings.duration)
    figure.suptitle(
        f"The same {settings.rate:g} calls/s, the same faults: a plain client and a guarded one (seed {settings.seed})",
        fontsize=12,
    )
    save(figure, path, dpi=120)


def _success(panel: Axes, experiment: Experiment) -> None:
    # A step holds some 50 calls at the default settings.
    width = _span(experiment) / 40
    for load in (experiment.plain, experiment.resilient):
        figures = timeline(load.records, experiment.settings.duration, width)
        shares = [math.nan if each.success_rate is None else 100 * each.success_rate for each in figures]
        _steps(panel, shares, width, load.name, load.name)
    panel.set_ylim(0, 112)
    panel.set_yticks(range(0, 101, 20))
    panel.set_ylabel("successful calls (%)")
    panel.legend(loc="lower left", framealpha=0.9)
    panel.grid(alpha=0.3)


def _latency(panel: Axes, experiment: Experiment) -> None:
    # 200 calls a step: with fewer, the p99 is simply the maximum.
    width = _span(experiment) / 10
    for load in (experiment.plain, experiment.resilient):
        answered = [record for record in load.records if record.error is None]
        panel.plot(
            [record.at for record in answered],
            [1000 * record.latency for record in answered],
            linestyle="none",
            marker=".",
            markersize=4,
            alpha=0.4,
            markeredgewidth=0,
            color=_COLOURS[load.name],
        )
        figures = timeline(load.records, experiment.settings.duration, width)
        p99 = [math.nan if each.p99 is None else 1000 * each.p99 for each in figures]
        _steps(panel, p99, width, load.name, f"{load.name} p99, per {width:g} s")
    panel.set_yscale("log")
    panel.set_ylim(bottom=5)  # no answer is faster, and the scale is the same in every plot
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_ylabel("latency of successful calls (ms)")
    panel.legend(loc="lower left", ncols=2, frameon=False, bbox_to_anchor=(0, 1), borderaxespad=0.2)
    panel.grid(alpha=0.3)


def show_extras(panel: Axes, experiment: Experiment) -> None:
    """Draw the hedges and retries of each step of the run, in percent of the calls scheduled in it."""
    extras, width = experiment.extras, _span(experiment) / 40
    figures = timeline(experiment.resilient.records, experiment.settings.duration, width)
    calls = [each.calls for each in figures]
    edges = [width * index for index in range(len(calls) + 1)]
    kinds = (
        (extras.hedges, f"hedges: {len(extras.hedges):,}, won {len(extras.won):,}", "#64b5cd"),
        (extras.retries, f"retries: {len(extras.retries):,}", "#8172b3"),
        (extras.refused, f"not made, for want of budget: {len(extras.refused):,}", "#bbbbbb"),
    )
    below = [0.0] * len(calls)
    for moments, label, colour in kinds:
        within = Counter(int(at / width) for at in moments)  # extra requests after the last call are in no step
        above = [low + 100 * within[step] / max(1, calls[step]) for step, low in enumerate(below)]
        panel.stairs(above, edges, baseline=below, fill=True, color=colour, label=label)
        below = above
    panel.set_ylim(0, max(25, 1.1 * max(below)))
    panel.set_ylabel("extra requests\n(% of calls)")
    panel.legend(loc="lower left", ncols=3, frameon=False, bbox_to_anchor=(0, 1), borderaxespad=0.2)
    panel.grid(alpha=0.3)


def _span(experiment: Experiment) -> float:
    """The duration that is divided into steps: a long run has more steps, not wider ones."""
    return min(20.0, experiment.settings.duration)


def _steps(panel: Axes, values: list[float], width: float, name: str, label: str) -> None:
    # Steps, because each value is about a stretch of time: a sloping line would fall before its
    # fault begins.
    edges = [width * index for index in range(len(values) + 1)]
    panel.stairs(values, edges, baseline=None, color=_COLOURS[name], label=label, linewidth=1.8)


def _circuits(panel: Axes, experiment: Experiment) -> None:
    names = list(experiment.circuits)
    for row, name in enumerate(names):
        changes = [(each.at, each.new) for each in experiment.news if each.circuit == name]
        begins = [(0.0, "closed"), *changes]
        ends = [at for at, _ in changes] + [experiment.settings.duration]
        for (begin, state), end in zip(begins, ends, strict=True):
            panel.barh(row, end - begin, left=begin, height=0.7, color=_CIRCUIT_COLOURS[state])
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_xlabel("time (s)")
    for state in ("closed", "open", "half-open"):
        panel.bar(0, 0, color=_CIRCUIT_COLOURS[state], label=f"circuit {state}")
    panel.legend(loc="upper left", bbox_to_anchor=(0, -0.45), ncols=3, frameon=False)


def _shade(panel: Axes, experiment: Experiment, *, labels: bool) -> None:
    plan = experiment.plan
    start, end = experiment.down.get("resilient", (plan.crash.start, None))
    shades = [
        (start, end or plan.crash.until, plan.crash.describe(), _CRASH),
        *((burst.start, burst.until, burst.describe(), _BURST) for burst in plan.bursts),
    ]
    for start, end, what, colour in shades:
        panel.axvspan(start, end, color=colour, alpha=0.35, linewidth=0, zorder=0)
        if labels and len(shades) <= LABELLED_FAULTS:
            panel.annotate(what, ((start + end) / 2, 106), ha="center", va="center", fontsize=8)
    if labels and len(shades) > LABELLED_FAULTS:
        for colour, what in ((_BURST, "bursts of 503"), (_CRASH, plan.crash.describe())):
            panel.bar(0, 0, color=colour, alpha=0.35, label=what)
        panel.legend(loc="lower left", framealpha=0.9)
