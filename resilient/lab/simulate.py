"""`resilient simulate`: candidates in a scenario, as a table, JSON and a picture; objectives decide how it exits."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resilient.arguments import meant
from resilient.lab.call_tables import with_calls
from resilient.lab.candidates import NONE, Candidate, candidate_from, shadowed
from resilient.lab.estimate import Estimate, estimate
from resilient.lab.files import write
from resilient.lab.measures import Measures
from resilient.lab.naming import imported
from resilient.lab.reading import ScenarioError, gallery, read
from resilient.lab.recorded import FACTS, Recorded
from resilient.lab.service import MOST_REQUESTS
from resilient.lab.terminal import console_on, progress_on, show_table, show_text
from resilient.lab.verdicts import Objective, check_tested, judged, notes, objectives
from resilient.lab.world import CandidateError, Scenario, simulate
from resilient.observe.shadow import ShadowReport
from resilient.observe.trace import TraceError, read_trace
from resilient.observe.trace_files import MAX_BYTES
from resilient.pipeline import Pipeline

__all__ = [
    "CandidateError",
    "Objective",
    "ScenarioError",
    "candidates",
    "compared",
    "judged",
    "objectives",
    "report",
    "run",
]


UNNAMED = "calls were made without policies, as no pipeline is named: give --pipeline MODULE:NAME"


def candidates(scenario: Scenario, names: Sequence[str]) -> list[Candidate]:
    """Those that are named: in the scenario, as MODULE:NAME, or "none"; all of the scenario's where none is named.

    Raises `ScenarioError`.
    """
    if not names:
        return list(scenario.candidates.values()) or [NONE]
    found = []
    for name in names:
        if name in scenario.candidates:
            found.append(scenario.candidates[name])
        elif name == NONE.name:
            found.append(NONE)
        elif ":" in name:
            try:
                found.append(candidate_from(name, imported(name)))
            except (TypeError, ValueError) as error:
                raise ScenarioError(str(error)) from None
        else:
            known = ", ".join([*scenario.candidates, NONE.name])
            raise ScenarioError(
                f"there is no pipeline {name!r} in the scenario: it has {known}; or give MODULE:NAME"
                f"{meant(name, [*scenario.candidates, NONE.name])}"
            )
    if len({candidate.name for candidate in found}) < len(found):
        raise ScenarioError(f"each pipeline must be named once, got {', '.join(names)}")
    return found


def compared(
    scenario: Scenario,
    chosen: Sequence[Candidate],
    *,
    seed: int,
    runs: int,
    progress: Callable[[float], object] | None = None,
    watch: Callable[[Candidate], Callable[[Pipeline], object]] | None = None,
    most_requests: float = MOST_REQUESTS,
    run_hooks: bool = False,
) -> list[Measures]:
    """Each candidate in `runs` runs, with the seeds from `seed` on. `progress` is told the share that is done.

    What `watch` makes of a candidate is given every pipeline of its. Raises `ScenarioError` when nothing was tested.
    """
    found, steps = [], len(chosen) * runs
    for number, candidate in enumerate(chosen):
        made = []
        for run in range(runs):
            done = number * runs + run
            tell = None if progress is None else _within(progress, done, steps)
            watching = None if watch is None else watch(candidate)
            made.append(
                simulate(
                    scenario,
                    candidate,
                    seed + run,
                    progress=tell,
                    watch=watching,
                    most_requests=most_requests,
                    run_hooks=run_hooks,
                )
            )
        try:
            found.append(Measures(made))
        except ValueError as error:
            raise ScenarioError(str(error)) from None
    try:
        check_tested(scenario, found)
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: {error}" if scenario.name else str(error)) from None
    return found


def _within(progress: Callable[[float], object], done: int, steps: int) -> Callable[[float], object]:
    return lambda share: progress((done + share) / steps)


def report(
    scenario: Scenario,
    measures: Sequence[Measures],
    verdicts: Sequence[dict[str, Any]],
    seed: int,
    runs: int,
    more: Mapping[str, Any] | None = None,
) -> str:
    """All results as JSON text, and what `more` has; of the same seed always the same, to the byte."""
    data = {
        "scenario": scenario.name,
        "title": scenario.title,
        "duration_s": scenario.duration,
        "clients": scenario.clients,
        "faults": [{**fault.as_json(), "description": fault.describe()} for fault in scenario.faults],
        "seed": seed,
        "runs": runs,
        "pipelines": {each.candidate.name: each.as_json() for each in measures},
        "objectives": list(verdicts),
        "verdict": ("pass" if all(verdict["met"] for verdict in verdicts) else "miss") if verdicts else None,
        **(more or {}),
    }
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"


# -- for people -------------------------------------------------------------------------------------------------------


def _list_gallery(console: Console) -> None:
    """The scenarios that come with the library."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name in gallery():
        scenario = read(name)
        table.add_row(Text(name, style="bold"), scenario.title.partition(": ")[2] or scenario.title)
        table.add_row("", Text(", ".join(scenario.candidates), style="dim"))
    console.print(table)


def _table(scenario: Scenario, measures: Sequence[Measures]) -> Table:
    table = Table(title=scenario.title or scenario.name, title_justify="left")
    table.add_column("pipeline", style="bold")
    stand_ins = any(each.stood_in for each in measures)
    fades = scenario.calm != (0.0, 0.0)
    several = len(measures[0].runs) > 1
    for title in ("success %", *(["lowest to highest %"] if several else []), *(["stood in %"] if stand_ins else [])):
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
        if stand_ins:
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
    """What of each pipeline would have done something in the world, and was counted instead."""
    lines = []
    for each in measures:
        if each.not_run:
            counted = ", ".join(f"{what} {times:,} time{'s'[: times != 1]}" for what, times in each.not_run.items())
            lines.append(f"not run in {each.candidate.name} (see --run-hooks): {counted}")
    return lines


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:,.0f}"


def run(
    given: str | None,
    *,
    pipelines: Sequence[str] = (),
    compare: Sequence[str] | None = None,
    seed: int = 1,
    runs: int = 1,
    json_file: Path | TextIO | None = None,
    plot: Path | None = None,
    goals: Sequence[Objective] = (),
    traces: Sequence[Path] = (),
    of: str | None = None,
    max_trace_bytes: int = MAX_BYTES,
    shadow: bool = False,
    imports: bool = False,
    large: bool = False,
    calls: str | None = None,
    run_hooks: bool = False,
) -> bool:
    """The command; returns whether all objectives are met.

    They are those of every pipeline; with `compare`, of the second one. `traces`: instead of the scenario `given`, the
    calls of recorded traces, and `of` which pipeline. `shadow`: put the pipelines' policies in shadow mode, and report
    what they would have done. `imports`: the scenario's file may name code. `large`: it may take long, or much memory.
    `calls`: what calls and answers look like, in place of what the scenario says. `run_hooks`: run what of the
    pipelines may do something in the world (see `resilient.lab.twins`), instead of counting it.

    Raises `ScenarioError` and `CandidateError`, whose text is for the user.
    """
    console = console_on(sys.stdout)
    if goals and (given == "list" or shadow):
        wrong = "`list` runs nothing" if given == "list" else "--shadow lets no policy act"
        raise ScenarioError(f"{wrong}, so {', '.join(goal.option for goal in goals)} would judge no pipeline")
    if given == "list":
        _list_gallery(console)
        return True
    recorded = _recorded(given, traces, of, max_trace_bytes)
    scenario = read(given or "", imports=imports) if recorded is None else recorded.scenario
    if calls is not None:
        scenario = with_calls(scenario, calls)
    chosen = candidates(scenario, compare or pipelines)
    if goals and not (compare or pipelines or scenario.candidates):
        raise ScenarioError(
            f"{', '.join(goal.option for goal in goals)} must have a pipeline to judge: "
            f"give --pipeline MODULE:NAME (or {NONE.name}, for calls without policies)"
        )
    reports = {candidate.name: ShadowReport() for candidate in chosen} if shadow else {}
    if shadow:
        chosen = [shadowed(candidate) for candidate in chosen]

    def watch(candidate: Candidate) -> Callable[[Pipeline], object]:
        told: list[Callable[[Pipeline], object]] = [reports[candidate.name].listen_to] if shadow else []
        if recorded is not None:
            told.append(recorded.watch(candidate))
        return lambda pipeline: [tell(pipeline) for tell in told]

    _check_size(estimate(scenario, chosen, runs), large, scenario.duration)
    try:
        with progress_on(sys.stderr) as progress, redirect_stdout(sys.stderr):  # what the user's code prints
            measures = compared(
                scenario,
                chosen,
                seed=seed,
                runs=runs,
                progress=progress,
                watch=watch,
                most_requests=math.inf if large else MOST_REQUESTS,
                run_hooks=run_hooks,
            )
    except CandidateError as error:
        if recorded is not None and isinstance(error.__cause__, AttributeError):
            raise CandidateError(f"{error}. Errors of a trace have no more than {FACTS}") from error.__cause__
        raise
    more: dict[str, Any] = {}
    if recorded is not None:
        more["recorded"] = recorded.as_json()
    if shadow:
        more["shadow"] = {name: each.as_json().get("", {}) for name, each in reports.items()}
    held = measures[1:] if compare else measures
    verdicts = judged(held, goals)
    more["notes"] = [
        *([] if compare or pipelines or scenario.candidates else [UNNAMED]),
        *notes(scenario, measures, goals, shadow=shadow),
        *(recorded.notes() if recorded is not None else ()),
    ]
    if json_file is not None:
        write(json_file, report(scenario, measures, verdicts, seed, runs, more))
    if plot is not None:
        from resilient.lab.picture import draw

        draw(measures, plot)
    missed = [goal.miss(each) for each in held for goal in goals if not goal.met(each)]
    _show(console, scenario, measures, recorded, reports, more, missed)
    return not missed


def _show(
    console: Console,
    scenario: Scenario,
    measures: Sequence[Measures],
    recorded: Recorded | None,
    reports: Mapping[str, ShadowReport],
    more: Mapping[str, Any],
    missed: Sequence[str],
) -> None:
    """Print all results for people: what the scenario is about, the table, and what `more` has; objectives `missed`."""
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


def _check_size(found: Estimate, large: bool, duration: float) -> None:
    """Refuse a simulation that would take too long, or more memory than there is."""
    if not found.fits:
        raise ScenarioError(
            f"this takes {found}, and there is less here: lower that, the duration of {duration:,g} s, or --runs"
        )
    if found.is_large and not large:
        raise ScenarioError(
            f"this takes {found}: lower that, the duration of {duration:,g} s, --runs or the number of pipelines, "
            "or say --large to go on"
        )


def _recorded(given: str | None, paths: Sequence[Path], of: str | None, max_bytes: int) -> Recorded | None:
    """The recorded calls of these traces; None where there are none, but a scenario is given instead."""
    if given is None and not paths:
        raise ScenarioError(
            "a scenario or --trace FILE must say what to simulate (`list` names the scenarios there are)"
        )
    if given is not None and paths:
        raise ScenarioError(f"--trace takes the place of the scenario, got {given!r} beside it")
    if of is not None and not paths:
        raise ScenarioError("--of says whose calls of a trace are meant, and there is no --trace")
    if not paths:
        return None
    if len({path.resolve() for path in paths}) < len(paths):
        raise ScenarioError(
            f"--trace must name each file once, got {', '.join(map(str, paths))}: calls would count twice"
        )
    try:
        return Recorded(read_trace(*paths, max_bytes=max_bytes), paths, of)
    except TraceError as error:
        raise ScenarioError(str(error)) from None
    except OSError as error:
        name = error.filename or paths[0]
        raise ScenarioError(f"--trace cannot be read: {error.strerror or error}: {name}") from None


def _figures(figures: dict[str, Any]) -> str:
    said = [
        f"{figures['calls']:,} calls, {100 * figures['success']:.2f}% success",
        f"p50 {_milliseconds(figures['latency_p50_s']) or '-'} ms",
        f"p99 {_milliseconds(figures['latency_p99_s']) or '-'} ms",
        f"{figures['requests_per_call']:.3f} requests per call",
    ]
    if figures["lines_dropped"] or not figures["complete"]:
        said.append(f"not complete ({figures['lines_dropped']:,} lines dropped)")
    return ", ".join(said)
