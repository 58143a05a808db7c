"""The results of `resilient simulate` for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resilient.cli.terminal import show_table, show_text
from resilient.lab.measures import Measures
from resilient.lab.scenario import Scenario
from resilient.lab.scenario_file import gallery, read
from resilient.lab.trace_report import Recorded
from resilient.observe.shadow import ShadowReport

__all__ = ["show", "show_gallery"]


def show_gallery(console: Console) -> None:
    """Print the scenarios that come with the library."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name in gallery():
        scenario = read(name)
        table.add_row(Text(name, style="bold"), scenario.title.partition(": ")[2] or scenario.title)
        table.add_row("", Text(", ".join(scenario.candidates), style="dim"))
    console.print(table)


def _table(scenario: Scenario, measures: Sequence[Measures]) -> Table:
    """The results as a table: a row for each pipeline."""
    table = Table(title=scenario.title or scenario.name, title_justify="left")
    table.add_column("pipeline", style="bold")
    substitutes = any(each.stood_in for each in measures)
    fades = scenario.calm != (0.0, 0.0)
    several = len(measures[0].runs) > 1
    for title in ("success %", *(["lowest to highest %"] if several else []), *(["fallback %"] if substitutes else [])):
        table.add_column(title, justify="right")
    for title in ("p50 ms", "p99 ms", "requests per call", *(["recovery s"] if fades else [])):
        table.add_column(title, justify="right")
    if any(each.classes for each in measures):
        table.add_column("success % by priority")
    table.add_column("failures")
    for each in measures:
        cells = [each.candidate.name, f"{100 * each.success:.2f}"]
        if several:
            shares = [share for share in each.success_of_runs if share is not None]
            cells.append(f"{100 * min(shares):.2f}-{100 * max(shares):.2f}")
        if substitutes:
            cells.append(f"{100 * each.stood_in:.2f}")
        cells += [_milliseconds(each.latency(0.5)), _milliseconds(each.latency(0.99)), f"{each.requests_per_call:.3f}"]
        if fades:
            cells.append(each.worst_recovery.state if each.recovery is None else f"{each.recovery:.0f}")
        if any(other.classes for other in measures):
            cells.append(", ".join(f"{name} {100 * of.success:.2f}" for name, of in each.classes.items()))
        failures = {name: times for name, times in each.outcomes.items() if name not in ("success", "stood in")}
        ordered = sorted(failures.items(), key=lambda item: -item[1])
        cells.append(", ".join(f"{name} {times:,}" for name, times in ordered))
        table.add_row(*cells)
    return table


def _not_run(measures: Sequence[Measures]) -> list[str]:
    """A line for each pipeline with code that was counted instead of run, because it may have effects outside the
    simulation."""
    lines = []
    for each in measures:
        if each.not_run:
            counted = ", ".join(f"{what} {times:,} time{'s'[: times != 1]}" for what, times in each.not_run.items())
            lines.append(f"not run in {each.candidate.name} (see --run-hooks): {counted}")
    return lines


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:,.0f}"


def show(
    console: Console,
    scenario: Scenario,
    measures: Sequence[Measures],
    recorded: Recorded | None,
    reports: Mapping[str, ShadowReport],
    more: Mapping[str, Any],
    missed: Sequence[str],
) -> None:
    """Print all results for people: the scenario, the table, and the parts of `more`; last the `missed` objectives."""
    if scenario.about:
        show_text(console, scenario.about)
        console.print()
    for fault in scenario.faults:
        console.print(f"{fault.when()}: {fault.describe()}", style="yellow")
    if recorded is not None:
        console.print(f"as recorded: {_figures(more['recorded'])}")
        if recorded.shadows.policies:
            console.print(str(recorded.shadows))
    show_table(console, _table(scenario, measures))
    for name, each in reports.items():
        console.print("\n", Text(name, style="bold"), " in shadow mode", sep="")
        console.print(str(each).partition("\n")[2] or "  no policy")
    for line in _not_run(measures):
        console.print(line, soft_wrap=True)
    for line in more["notes"]:
        console.print(f"note: {line}", style="yellow", soft_wrap=True)
    for line in missed:
        console.print(f"missed: {line}", style="bold red", soft_wrap=True)


def _figures(figures: dict[str, Any]) -> str:
    """The measures of recorded calls in one line."""
    said = [
        f"{figures['calls']:,} calls, {100 * figures['success']:.2f}% success",
        f"p50 {_milliseconds(figures['latency_p50_s']) or '-'} ms",
        f"p99 {_milliseconds(figures['latency_p99_s']) or '-'} ms",
        f"{figures['requests_per_call']:.3f} requests per call",
    ]
    if figures["lines_dropped"] or not figures["complete"]:
        said.append(f"not complete ({figures['lines_dropped']:,} lines dropped)")
    return ", ".join(said)
