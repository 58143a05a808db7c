"""`resilient watch`: its options, and its exit code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from resilient.cli.extras import lacks_any, missing_extra
from resilient.cli.options import check_outputs, number, results_to
from resilient.cli.refusal import refuse, reported

__all__ = ["watch"]


def watch(
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="Where the live page is mounted, or metrics in the format of Prometheus."),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Watch the demo: servers that fail, and a guarded client that calls them.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Show the state once, and end.")] = False,
    seconds: Annotated[float | None, number("--seconds", "End after so many seconds.", 0.1, 1e9, "seconds")] = None,
    json: Annotated[
        Path | None, typer.Option(help="File of the readings, one JSON object a line (-: standard output).")
    ] = None,
) -> None:
    """Watch the pipelines of a running process: circuits, rates, latencies, limits, budgets, events.

    The process shows them on a live page (resilient.observe.live), as http://127.0.0.1:8000/live, or as
    metrics (resilient.observe.prometheus), as http://127.0.0.1:8000/metrics. Where it does not answer, the
    command says so and tries again. Without a terminal it prints lines.

    Needs pip install "resilient-middleware[cli]"; for metrics, "resilient-middleware[prometheus]"; for
    --demo, "resilient-middleware[demo]".
    """
    if (url is None) != demo:
        refuse("give a URL, or --demo to see one" if url is None else f"give a URL or --demo, not both, got {url!r}")
    if once and seconds is not None:
        refuse("--once ends by itself: leave out --seconds")
    for packages, extra in ((["rich"], "cli"), *([(["starlette", "uvicorn", "httpx"], "demo")] if demo else [])):
        if lacks_any(packages):
            typer.echo(missing_extra(extra), err=True)
            raise typer.Exit(2)
    with reported():
        check_outputs(json)
        with results_to(json) as results:
            found = _watch(url, once=once, seconds=seconds, json=results)
    raise typer.Exit(0 if found else 1)


def _watch(url: str | None, *, once: bool, seconds: float | None, json: Path | TextIO | None) -> bool:
    """Watch until it is over. Returns whether there was a reading."""
    from resilient.cli.terminal import console_on
    from resilient.cli.watch import run
    from resilient.cli.watch.reading import SourceError
    from resilient.cli.watch.sources import Address

    with ExitStack() as stack:
        file = stack.enter_context(json.open("w")) if isinstance(json, Path) else json
        try:
            address = Address(stack.enter_context(_demo()) if url is None else url)
        except ValueError as error:
            refuse(str(error))
        console = console_on(sys.stdout, resizable=True)
        try:
            if once:
                asyncio.run(run.watch_once(address, console, json_file=file))
                return True
            if asyncio.run(run.watch(address, console, seconds=seconds, json_file=file)):
                return True
            typer.echo(f"resilient: {address.shown} has not answered", err=True)
        except SourceError as error:
            if error.final:
                refuse(f"{address.shown}: {error}")
            typer.echo(f"resilient: {address.shown}: {error}", err=True)
        except ImportError as error:
            refuse(str(error))
    return False


@contextmanager
def _demo() -> Iterator[str]:
    """Run the demo in the background. Yields the address of its live page."""
    from resilient.demo.background import Background
    from resilient.demo.fleet import NotReady

    typer.echo("starting the servers of the demo ...", err=True)
    with Background() as demo:
        try:
            url = demo.url()
        except NotReady as error:
            typer.echo(f"resilient: {error}", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"the same in a browser: {url}/", err=True)
        yield url
