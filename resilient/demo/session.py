"""The run of the command with valid settings: run, show, draw, judge."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TextIO

from rich.console import Console

from resilient.demo.experiment import Experiment, Settings
from resilient.demo.plot import draw
from resilient.demo.report import as_json, verdict
from resilient.demo.screen import Screen
from resilient.lab.files import write

__all__ = ["show"]


def show(settings: Settings, *, plot: Path, json_file: Path | TextIO | None) -> bool:
    """Run the demo on standard output and write its results; returns whether every gate is passed.

    Raises `KeyboardInterrupt` on Ctrl-C, after all its processes have ended.
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
    console.print(f"\nplot: {plot}", soft_wrap=True, highlight=False, markup=False)
    results = as_json(experiment)
    if json_file is not None:
        write(json_file, json.dumps(results, indent=2) + "\n")
        if isinstance(json_file, Path):
            console.print(f"json: {json_file}", soft_wrap=True, highlight=False, markup=False)
    return bool(results["passed"])


async def _run(experiment: Experiment, screen: Screen) -> None:
    following = asyncio.create_task(screen.follow())
    try:
        await experiment.run()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
