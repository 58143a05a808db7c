"""What the command does once its arguments are known to be good: run, show, draw, judge."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from rich.console import Console

from resilient.demo.experiment import Experiment, Settings
from resilient.demo.plot import draw
from resilient.demo.report import as_json, verdict
from resilient.demo.screen import Screen

__all__ = ["show"]


def show(settings: Settings, *, plot: Path, json_file: Path | None) -> bool:
    """Run the demo on standard output and write its files; returns whether every gate was passed.

    Raises `KeyboardInterrupt` on Ctrl-C, with every process it started gone.
    """
    console = Console()
    console.print(
        f"Seed {settings.seed}: two loads of {settings.rate:g} calls/s for {settings.duration:g} s,"
        " each against its own 3 processes",
        soft_wrap=True,
        highlight=False,
    )
    experiment = Experiment(settings)
    asyncio.run(_run(experiment, Screen(console, experiment)))
    console.print(verdict(experiment), highlight=False)
    draw(experiment, plot)
    console.print(f"\nplot: {plot}", soft_wrap=True, highlight=False)
    results = as_json(experiment)
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        console.print(f"json: {json_file}", soft_wrap=True, highlight=False)
    return bool(results["passed"])


async def _run(experiment: Experiment, screen: Screen) -> None:
    following = asyncio.create_task(screen.follow())
    try:
        await experiment.run()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
