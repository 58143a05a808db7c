"""`python -m benchmarks NAME [--quick] [--json FILE] [--plot FILE] [--seed N]`; NAME `list` names them.

`--json -` writes the JSON, and nothing else, to standard output; the table goes to standard error.
Exits with 0 if every bar is met, 1 if one is missed, 2 if the command itself is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import cost, effect
from benchmarks.harness.options import Options
from benchmarks.harness.report import Report

__all__ = ["available", "main"]

Run = Callable[[Options], Report]
STDOUT = Path("-")


def available() -> dict[str, tuple[str, Run]]:
    """The benchmarks by name, each with the first line of its docstring: the modules of `cost` and `effect` that have
    a `run`."""
    found = {}
    for package in (cost, effect):
        for module in pkgutil.iter_modules(package.__path__):
            loaded = importlib.import_module(f"{package.__name__}.{module.name}")
            if callable(getattr(loaded, "run", None)):
                found[module.name] = ((loaded.__doc__ or "").strip().partition("\n")[0], loaded.run)
    return dict(sorted(found.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark, print its table, and return the exit code."""
    known = available()
    options = _parser(known).parse_args(arguments)
    shown = sys.stderr if options.json == STDOUT else sys.stdout
    console = Console(file=shown, width=None if shown.isatty() else 170)
    if options.name == "list":
        table = Table(box=None, show_header=False)
        for name, (summary, _) in known.items():
            table.add_row(name, summary)
        console.print(table)
        return 0
    report = known[options.name][1](Options(quick=options.quick, seed=options.seed, progress=sys.stderr.isatty()))
    return conclude(report, console, options.json, options.plot)


def conclude(report: Report, console: Console, json_file: Path | None, plot_file: Path | None) -> int:
    """Print the report and write the requested files. Returns 1 if a bar is missed, else 0."""
    console.print(report.table())
    if json_file:
        text = json.dumps(report.as_json(), indent=2) + "\n"
        if json_file == STDOUT:
            sys.stdout.write(text)
        else:
            json_file.write_text(text, encoding="utf-8")
    if plot_file:
        from benchmarks.harness.plot import draw

        draw(report, plot_file)
    for figure in report.missed:
        why = "" if figure.judged else ": not measured"
        console.print(f"missed: {figure.group}: {figure.name}, bar {figure.bar}{why}", style="bold red")
    return 1 if report.missed else 0


def _parser(known: dict[str, tuple[str, Run]]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures what the library costs and achieves, with bars and peers."
    )

    def name(given: str) -> str:
        if given != "list" and given not in known:
            names = ", ".join(["list", *known])
            raise argparse.ArgumentTypeError(f"there is no benchmark {given!r}; there are {names}")
        return given

    def output(given: str) -> Path:
        file = Path(given)
        if file == STDOUT or file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise argparse.ArgumentTypeError(f"must be a file that can be written, got {given!r}")
        return file

    def output_or_stdout(given: str) -> Path:
        return STDOUT if given == str(STDOUT) else output(given)

    parser.add_argument("name", metavar="NAME", type=name, help="a benchmark, or `list`")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: ends within 60 seconds")
    parser.add_argument(
        "--json", type=output_or_stdout, metavar="FILE", help="write the figures as JSON; `-` is standard output"
    )
    parser.add_argument("--plot", type=output, metavar="FILE", help="draw the figures as a PNG")
    parser.add_argument("--seed", type=int, default=1, help="seed of all randomness (default: 1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
