"""`resilient simulate`: its options, and its exit code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from resilient.cli.extras import lacks_any, missing_extra
from resilient.cli.options import check_outputs, number, results_to
from resilient.cli.refusal import refuse, reported

__all__ = ["simulate"]


def simulate(
    scenario: Annotated[
        str | None, typer.Argument(help="A TOML file, a name from the gallery (`list` shows it), or MODULE:FUNCTION.")
    ] = None,
    trace: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead of a scenario: recorded calls (resilient.observe.trace). May be repeated, for the files of "
            "several workers."
        ),
    ] = None,
    of: Annotated[str | None, typer.Option(help="The pipeline of the trace whose calls are replayed, by name.")] = None,
    max_trace_bytes: Annotated[
        int,
        number(
            "--max-trace-bytes",
            "The most bytes of traces, uncompressed; they may take 8 times as much memory.",
            1,
            2**63,
            "bytes",
            whole=True,
        ),
    ] = 128 * 2**20,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Put policies in shadow mode, and report what they would have done.")
    ] = False,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(
            help="Name in the scenario, MODULE:NAME, or `none`. May be repeated. [default: all of the scenario]"
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B", help="Compare two pipelines, named as for --pipeline; the objectives are for the second."
        ),
    ] = None,
    calls: Annotated[
        str | None,
        typer.Option(
            metavar="http|MODULE:NAME", help="What calls and answers look like: HTTP, or a resilient.lab.calls.Calls."
        ),
    ] = None,
    seed: Annotated[int, number("--seed", "Seed of everything random.", -math.inf, whole=True)] = 1,
    runs: Annotated[
        int,
        number(
            "--runs", "Runs of each pipeline, with the seeds from --seed on, up to 1000.", 1, 1000, "runs", whole=True
        ),
    ] = 1,
    json: Annotated[Path | None, typer.Option(help="File of the results as JSON (-: standard output).")] = None,
    plot: Annotated[Path | None, typer.Option(help="File of a plot: .png, .svg or .pdf.")] = None,
    min_success: Annotated[
        float | None, number("--min-success", "Exit with 1 if a smaller share of calls succeeds.", 0, 1)
    ] = None,
    max_p99: Annotated[
        float | None,
        number("--max-p99", "Exit with 1 if the p99 latency of successes is longer, in seconds.", 0, unit="seconds"),
    ] = None,
    max_attempts_per_call: Annotated[
        float | None,
        number("--max-attempts-per-call", "Exit with 1 if the service gets more requests per call.", 0),
    ] = None,
    max_recovery: Annotated[
        float | None,
        number(
            "--max-recovery",
            "Exit with 1 if recovery takes more seconds from the end of the faults, or is not measurable.",
            0,
            unit="seconds",
        ),
    ] = None,
    allow_imports: Annotated[
        bool, typer.Option("--allow-imports", help="Let the scenario file name code (MODULE:NAME), which then runs.")
    ] = False,
    large: Annotated[
        bool, typer.Option("--large", help="Allow more than ten minutes, or two gigabytes of memory.")
    ] = False,
    run_hooks: Annotated[
        bool,
        typer.Option("--run-hooks", help="Run hooks, listeners and Fallback functions too, instead of counting them."),
    ] = False,
) -> None:
    """Try pipelines in a scripted outage, in virtual time: minutes of failure in seconds.

    The policies are the real ones, and the same seed gives the same result.

    Needs pip install "resilient-middleware[cli]"; for --plot, "resilient-middleware[lab]".
    """
    with reported():
        check_outputs(json, plot, *(trace or ()), Path(scenario or ""))
    for package, extra in (("rich", "cli"), *([("matplotlib", "lab")] if plot is not None else [])):
        if lacks_any([package]):
            typer.echo(missing_extra(extra), err=True)
            raise typer.Exit(2)
    from resilient.cli import simulation
    from resilient.lab.answers import CandidateError
    from resilient.lab.objectives import objectives
    from resilient.lab.table import ScenarioError

    with reported(), results_to(json) as results:
        try:
            goals = objectives(
                min_success,
                max_p99,
                max_attempts_per_call,
                max_recovery,
            )
            if compare is not None and pipeline:
                refuse("--compare names both pipelines: --pipeline cannot be given with it")
            passed = simulation.run(
                scenario,
                pipelines=pipeline or (),
                compare=compare,
                seed=seed,
                runs=runs,
                json_file=results,
                plot=plot,
                goals=goals,
                traces=trace or (),
                of=of,
                max_trace_bytes=max_trace_bytes,
                shadow=shadow,
                imports=allow_imports,
                large=large,
                calls=calls,
                run_hooks=run_hooks,
            )
        except (ScenarioError, CandidateError) as error:
            refuse(str(error))
    raise typer.Exit(0 if passed else 1)
