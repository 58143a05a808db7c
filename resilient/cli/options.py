"""Options with numbers, and files that results are written to."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import typer

from resilient import _validation
from resilient.cli.refusal import refuse
from resilient.lab.image_files import SUFFIXES

__all__ = ["STDOUT", "check_outputs", "number", "results_to"]

STDOUT = Path("-")
"""Stands for standard output, in place of the name of a file."""


@contextlib.contextmanager
def results_to(json: Path | None) -> Iterator[Path | TextIO | None]:
    """The destination of results: a file, or standard output. In the latter case everything else is printed to standard
    error."""
    if json != STDOUT:
        yield json
        return
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield stdout


def number(
    option: str, about: str, least: float, most: float = math.inf, unit: str = "", *, whole: bool = False
) -> Any:
    """An option with a number from `least` to `most`. Another value ends the command with a line that names the
    option."""
    span = f"at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
    kind = "a whole number" if math.isinf(least) else span + (unit and f" {unit}")

    def read(given: Any) -> float:
        try:
            value = int(given) if whole else float(given)
        except ValueError:
            number = "a whole number, " if whole and kind[0] != "a" else ""
            refuse(f"{option} must be {number}{kind}, got {given!r}{_validation.without_unit(given, kind)}")
        if not least <= value <= most or value == math.inf:
            refuse(f"{option} must be {kind}, got {given}{_validation.percent(value) if most == 1 else ''}")
        return value

    return typer.Option(option, help=about, parser=read, metavar="INTEGER" if whole else "NUMBER")


def check_outputs(json: Path | None, plot: Path | None = None, *inputs: Path) -> None:
    """Refuse files that cannot be written, before time is spent on results that would be lost."""
    taken = {path.resolve(): f"what is read, {path}" for path in inputs if path.is_file()}
    for option, path in (("--plot", plot), ("--json", json)):
        if path is None or (path == STDOUT and option == "--json"):
            continue
        if path.is_dir():
            refuse(f"{option} must name a file, got the directory {path}")
        if path == plot and path.suffix.lower() not in SUFFIXES:
            refuse(f"{option} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {path}")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            refuse(f"{option} must be in a directory that can be written to, got {path}")
        if path.exists() and not os.access(path, os.W_OK):
            refuse(f"{option} must be a file that can be written to, got {path}")
        if (other := taken.setdefault(path.resolve(), option)) != option:
            refuse(f"{option} must be another file than {other}")
