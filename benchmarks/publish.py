"""Writes the tables and plots of README.md and two pages of docs/ from the committed JSON of one run of each benchmark.

    python -m benchmarks.publish                     makes them from docs/performance/*.json
    python -m benchmarks.publish --run               measures everything first: a quarter of an hour on an idle machine
    python -m benchmarks.publish --run scale startup measures only these first

A table stands between `<!-- benchmarks: NAME -->` and `<!-- end of NAME -->`. A test checks that it agrees with the
JSON, so run this after a change of either. The tables are made by `tables`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from benchmarks.cost.overhead import MODES
from benchmarks.cost.tables import TABLES, Results
from benchmarks.harness.report import Figure, Report

__all__ = ["FOLDER", "PUBLISHED", "filled", "main", "results"]

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "performance"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "monitoring.md")
PUBLISHED = ("overhead", "transport", "middleware", "scale", "startup", "observe")
DISTRIBUTIONS = (
    *("nopanic", "grit-toolkit", "pyresilience", "interlock-cb", "stamina", "tenacity", "pybreaker"),
    *("hedge-python", "httpx-hedged", "httpx-retries", "httpx", "httpx2", "starlette", "uvicorn", "httptools"),
    *("prometheus-client", "opentelemetry-sdk"),
)
BLOCK = re.compile(r"(<!-- benchmarks: (?P<name>[\w -]+) -->\n).*?(<!-- end of (?P=name) -->)", re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the requested benchmarks, then write the tables and the plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description="Tables and plots of a run.")
    parser.add_argument(
        "--run", nargs="*", metavar="NAME", choices=PUBLISHED, help="measure these first; without a NAME, all"
    )
    parser.add_argument("--quick", action="store_true", help="measure quickly, to try this out")
    options = parser.parse_args(arguments)
    if options.run is not None:
        measure(options.run or PUBLISHED, options.quick)
    found = results()
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text(encoding="utf-8"), found), encoding="utf-8")
    draw(found)
    return 0


def measure(names: Iterable[str], quick: bool) -> None:
    """Run each benchmark in its own process, and write its JSON with the date, the machine and the versions."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "figures.json"
            command = [sys.executable, "-m", "benchmarks", name, "--json", str(file), *(["--quick"] * quick)]
            subprocess.run(command, cwd=ROOT, check=False)  # also with exit code 1: a missed bar is a result
            found = json.loads(file.read_text(encoding="utf-8"))
        found = {"benchmark": found.pop("benchmark"), "measured": measured(quick), **found}
        (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measured(quick: bool) -> dict[str, Any]:
    """The date, the machine and the versions of a run."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: version for name in DISTRIBUTIONS if (version := _version(name))},
    }


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(": ")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def results() -> Results:
    """The committed results, by the name of the benchmark."""
    return {name: json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in PUBLISHED}


def filled(text: str, found: Results) -> str:
    """The text of a document with its tables replaced. Raises KeyError for an unknown table."""
    return BLOCK.sub(lambda block: f"{block[1]}{TABLES[block['name']](found)}\n{block[3]}", text)


def draw(found: Results) -> None:
    """Write the plots: the highlights for the README, all rows of `overhead`, and `scale`."""
    from benchmarks.cost.highlights import draw_highlights
    from benchmarks.harness.plot import draw as draw_all

    overhead = report(found["overhead"])
    draw_highlights(overhead, ROOT / "docs" / "performance.png")
    for mode in MODES:
        figures = [
            replace(each, group=each.group.removeprefix(f"{mode}: "))
            for each in overhead.figures
            if each.group.startswith(f"{mode}: ")
        ]
        title = "overhead around an async def" if mode == "async" else "overhead around a def"
        draw_all(replace(overhead, benchmark=title, figures=figures), FOLDER / f"{mode}.png")
    draw_all(report(found["scale"]), FOLDER / "scale.png")


def report(found: dict[str, Any]) -> Report:
    """The report of a committed run, without bars."""
    module = import_module(f"benchmarks.cost.{found['benchmark']}")
    figures = [
        Figure(each["group"], each["name"], _values(each), ours=each["ours"], note=each["note"])
        for each in found["figures"]
    ]
    plot = module.draw_scale if found["benchmark"] == "scale" else None
    return Report(found["benchmark"], module.COLUMNS, figures, found["conditions"], plot=plot)


def _values(row: Mapping[str, Any]) -> dict[str, float]:
    """The measured values of a figure in the JSON: all its numbers."""
    return {key: value for key, value in row.items() if isinstance(value, int | float) and not isinstance(value, bool)}


if __name__ == "__main__":
    sys.exit(main())
