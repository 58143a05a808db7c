"""`resilient dashboards`: its options and its run."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from resilient.cli.options import check_outputs, number, results_to
from resilient.cli.refusal import refuse, reported
from resilient.lab.files import write

__all__ = ["dashboards"]


def _directory(given: str | Path) -> Path:
    if not str(given).strip():  # a variable of the shell that is not set
        refuse(f"--out must name a directory, got {str(given)!r}; the current one is .")
    return Path(given)


def dashboards(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of the files; made if it is not there.", parser=_directory)
    ],
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PIPELINE=]PERCENT",
            help="Calls that should end well, of all pipelines or of one; again for another. [default: 99.9]",
        ),
    ] = None,
    budget: Annotated[float, number("--budget", "The ratio of your budgets of retries and hedges.", 0, 1)] = 0.1,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Label that tells services apart; again for another. [default: job]"),
    ] = None,
    runbook_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Page with the text of resilient-runbook.md, for links to it.")
    ] = None,
    time_scale: Annotated[
        float, number("--time-scale", "Factor for all times of the rules, to test them.", 0, 1)
    ] = 1.0,
    json: Annotated[
        Path | None, typer.Option(help="File of a list of all that was made, as JSON (-: standard output).")
    ] = None,
) -> None:
    """Write dashboards for Grafana, and alerts for Prometheus.

    Three dashboards (all pipelines, one dependency, the admission of a server) to import or to provision, rules
    that record and alert, and the runbook of the alerts. The same options give the same files, so they can be kept
    under version control. Files of an earlier run are replaced.

    Needs pip install "resilient-middleware[cli]".
    """
    from resilient.observe.dashboards import DashboardOptions, dashboard_files

    with reported(), results_to(json) as results:
        check_outputs(json)
        try:
            percent, objectives = _objectives(objective or ())
            options = DashboardOptions(
                objective=percent,
                objectives=objectives,
                budget=budget,
                by=tuple(by or ("job",)),
                runbook_url=runbook_url,
                time_scale=time_scale,
            )
        except ValueError as error:
            name, _, rest = str(error).partition(" ")
            refuse(f"--{name.replace('_', '-')} {rest}")
        files = dashboard_files(options)
        if out.exists() and not out.is_dir():
            refuse(f"--out must name a directory, got the file {out}")
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write(out / name, text)
            typer.echo(str(out / name))
        if results is not None:
            write(results, json_format.dumps(_listed(options, files), indent=2) + "\n")


def _objectives(given: Sequence[str]) -> tuple[float, dict[str, float]]:
    """The objective of all pipelines, and those of single ones."""
    percent, objectives = 99.9, {}
    for each in given:
        pipeline, named, number = each.rpartition("=")
        try:
            value = float(number if pipeline or not named else each)
        except ValueError:
            raise ValueError(f"objective must be a percentage, such as 99.9 or users=99.5, got {each!r}") from None
        if named:
            objectives[pipeline] = value
        else:
            percent = value
    return percent, objectives


def _listed(options: Any, files: dict[str, str]) -> dict[str, Any]:
    """What was made, as plain data with stable keys."""
    from resilient.observe.dashboards import rule_groups

    made = {name: json_format.loads(text) for name, text in files.items() if name.endswith(".json")}
    return {
        "files": list(files),
        "dashboards": [{"file": name, "uid": each["uid"], "title": each["title"]} for name, each in made.items()],
        "alerts": [
            {
                "name": alert.name,
                "severity": alert.severity,
                "for_seconds": alert.wait * options.time_scale,
                "expr": alert.expr,
                "means": alert.means,
            }
            for group in rule_groups(options)
            for alert in group.alerts
        ],
        "recordings": [
            {"name": recording.name, "expr": recording.expr}
            for group in rule_groups(options)
            for recording in group.recordings
        ],
    }
