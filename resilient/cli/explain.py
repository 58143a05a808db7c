"""`resilient explain`: its options, and its exit code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from resilient.cli.options import check_outputs, number, results_to
from resilient.cli.refusal import refuse, reported

__all__ = ["explain"]


def explain(
    target: Annotated[str, typer.Argument(metavar="MODULE:PIPELINE", help="A pipeline, or an object with one.")],
    behind: Annotated[
        str | None, typer.Option(metavar="MODULE:PIPELINE", help="Another pipeline, whose function calls through it.")
    ] = None,
    plain: Annotated[
        bool | None,
        typer.Option(
            "--def/--async", help="The kind of the guarded function. [default: as the target shows, else async]"
        ),
    ] = None,
    function_limit: Annotated[
        float | None,
        number(
            "--function-limit",
            "The most seconds that the function takes by itself (its client's timeout).",
            0,
            1e9,
            "seconds",
        ),
    ] = None,
    max_latency: Annotated[
        float | None, number("--max-latency", "Exit with 1 if a call may take more seconds.", 0, 1e9, "seconds")
    ] = None,
    max_requests: Annotated[
        int | None,
        number("--max-requests", "Exit with 1 if a call may make more requests.", 0, 1e9, "requests", whole=True),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File of the explanation as JSON (-: standard output).")] = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid diagram instead.")] = False,
) -> None:
    """Show the worst case of a pipeline, without running it.

    Latency, attempts and requests at most; what each policy does with every error; policies that never
    act; and which order or combination of policies is wrong, with what to write instead.

    Needs pip install "resilient-middleware[cli]".
    """
    from resilient.cli.worst_case import exceeded, explained
    from resilient.explain import explanation
    from resilient.explain.subject import Function

    function: Function | None = None if plain is None else "def" if plain else "async"
    with reported(), results_to(json) as results:
        check_outputs(json)
        try:
            found = explained(
                target, behind=behind, function=function, function_limit=function_limit, json_file=results
            )
        except ValueError as error:
            refuse(str(error))
        columns = max(20, min(shutil.get_terminal_size((explanation.WIDTH, 24)).columns, explanation.WIDTH))
        typer.echo(found.mermaid() if mermaid else explanation.text(found, columns))
    missed = exceeded(found, max_latency=max_latency, max_requests=max_requests)
    for each in missed:
        typer.echo(f"missed: {each}", err=True)
    raise typer.Exit(1 if missed else 0)
