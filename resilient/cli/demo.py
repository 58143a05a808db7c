"""`resilient demo`: its options, and its exit code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, TextIO

import typer

from resilient.cli.extras import lacks_any, missing_extra
from resilient.cli.options import check_outputs, number, results_to
from resilient.cli.refusal import reported

__all__ = ["demo"]


def demo(
    seed: Annotated[int, number("--seed", "Seed of the faults and the arrivals.", -math.inf, whole=True)] = 1,
    duration: Annotated[
        # In a shorter run a killed process would hardly restart before the next fault.
        float, number("--duration", "Seconds of load, from 5 to 3600.", 5, 3600, "seconds")
    ] = 20.0,
    rate: Annotated[
        float, number("--rate", "Calls per second on each side, from 1 to 1000.", 1, 1000, "calls per second")
    ] = 100.0,
    plot: Annotated[Path, typer.Option(help="File of the plot: .png, .svg or .pdf.")] = Path("resilient-demo.png"),
    json: Annotated[Path | None, typer.Option(help="File of the results as JSON (-: standard output).")] = None,
) -> None:
    """Call failing servers with a plain client and with a guarded one, side by side.

    Starts real HTTP servers on the loopback interface, with a slow tail, bursts of 503 and a SIGKILL, and
    runs the same load against them twice at the same time. Exits with 1 unless the policies are worth
    it: success of 99 % or more with them, success of 97 % or less without them, and at most 1.2 requests
    per call. A machine that is too slow for the load shows nothing, and exits with 1 too.

    Needs pip install "resilient-middleware[demo]".
    """
    with reported():
        check_outputs(json, plot)
    if lacks_any(["httpx", "matplotlib", "rich", "starlette", "uvicorn"]):
        typer.echo(missing_extra("demo"), err=True)
        raise typer.Exit(2)
    with reported(), results_to(json) as results:
        passed = _run_demo(seed, duration, rate, plot, results)
    raise typer.Exit(0 if passed else 1)


def _run_demo(seed: int, duration: float, rate: float, plot: Path, json: Path | TextIO | None) -> bool:
    from resilient.demo.experiment import Settings
    from resilient.demo.fleet import NotReady
    from resilient.demo.session import show

    try:
        return show(Settings(seed=seed, duration=duration, rate=rate), plot=plot, json_file=json)
    except* NotReady as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        typer.echo(f"resilient: {first}", err=True)
    return False
