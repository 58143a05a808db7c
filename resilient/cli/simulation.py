"""The run of `resilient simulate`: the scenario or the trace, the pipelines, the results, the objectives."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from resilient.cli.simulation_report import show, show_gallery
from resilient.cli.terminal import console_on, progress_on
from resilient.lab.answers import CandidateError
from resilient.lab.calls_table import with_calls
from resilient.lab.candidates import NONE, Candidate, shadowed
from resilient.lab.comparison import candidates, compared, report
from resilient.lab.estimate import Estimate, estimate
from resilient.lab.files import write
from resilient.lab.objectives import Objective, judged, notes
from resilient.lab.scenario_file import read
from resilient.lab.service import MOST_REQUESTS
from resilient.lab.table import ScenarioError
from resilient.lab.trace_report import FACTS, Recorded
from resilient.observe.shadow import ShadowReport
from resilient.observe.trace import TraceError, read_trace
from resilient.observe.trace_file import MAX_BYTES
from resilient.pipeline import Pipeline

__all__ = ["run"]

UNNAMED = "calls were made without policies, because no pipeline is named: give --pipeline MODULE:NAME"


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
    """Run the command; returns whether all objectives are met.

    Args:
        given: the name of a scenario, or "list", or None with `traces`.
        pipelines: to try. The objectives are for each of them.
        compare: two pipelines, instead of `pipelines`. The objectives are for the second.
        seed, runs: the first seed, and the number of runs with one seed each.
        json_file, plot: files of results.
        goals: the objectives.
        traces: files of a recorded trace, instead of a scenario; `of`: the pipeline whose calls are replayed.
        max_trace_bytes: of all traces, uncompressed.
        shadow: put the policies in shadow mode, and report what they would have done.
        imports: whether the scenario's file may name code.
        large: whether it may take long, or much memory.
        calls: what calls and answers look like, instead of the scenario's own.
        run_hooks: run code of the pipelines that may have effects outside the simulation (see
            `resilient.lab.fresh_policies`), instead of counting it.

    Raises `ScenarioError` and `CandidateError`, whose text is for the user.
    """
    console = console_on(sys.stdout)
    if goals and (given == "list" or shadow):
        wrong = "`list` runs nothing" if given == "list" else "--shadow lets no policy act"
        raise ScenarioError(f"{wrong}, so {', '.join(goal.option for goal in goals)} would have no pipeline to judge")
    if given == "list":
        show_gallery(console)
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
        listeners: list[Callable[[Pipeline], object]] = [reports[candidate.name].listen_to] if shadow else []
        if recorded is not None:
            listeners.append(recorded.watch(candidate))
        return lambda pipeline: [listen(pipeline) for listen in listeners]

    _check_size(estimate(scenario, chosen, runs), large, scenario.duration)
    try:
        with progress_on(sys.stderr) as progress, redirect_stdout(sys.stderr):  # for output of the user's code
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
        from resilient.lab.plot import draw

        draw(measures, plot)
    missed = [goal.miss(each) for each in held for goal in goals if not goal.met(each)]
    show(console, scenario, measures, recorded, reports, more, missed)
    return not missed


def _check_size(found: Estimate, large: bool, duration: float) -> None:
    """Refuse a simulation that would take too long, or more memory than the machine has."""
    if not found.fits:
        raise ScenarioError(
            f"this takes {found}; there is less memory here: lower that, the duration of {duration:,g} s, or --runs"
        )
    if found.is_large and not large:
        raise ScenarioError(
            f"this takes {found}: lower that, the duration of {duration:,g} s, --runs or the number of pipelines, "
            "or say --large to go on"
        )


def _recorded(given: str | None, paths: Sequence[Path], of: str | None, max_bytes: int) -> Recorded | None:
    """The recorded calls of these traces; None if a scenario is given instead."""
    if given is None and not paths:
        raise ScenarioError(
            "a scenario or --trace FILE must say what to simulate (`list` names the scenarios there are)"
        )
    if given is not None and paths:
        raise ScenarioError(f"--trace replaces the scenario, got also {given!r}")
    if of is not None and not paths:
        raise ScenarioError("--of names a pipeline of a trace, and there is no --trace")
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
