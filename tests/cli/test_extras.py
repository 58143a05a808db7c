"""The command line in an environment without its extras: help and version work, each command names its extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LINES = [
    "",
    "--help",
    "--version",
    "explain --help",
    "dashboards --help",
    "demo --help",
    "explain app:users",
    "simulate list",
    "watch a",
    "watch --demo",
    "demo",
    "other",
]

WITHOUT_EXTRAS = f"""
import contextlib, io, json, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("typer", "click", "rich", "matplotlib", "starlette", "uvicorn"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refused())

from resilient.cli import main

results = {{}}
for line in {LINES!r}:
    sys.argv = ["resilient", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
    results[line] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(results))
"""

Results = dict[str, tuple[int, str, str]]


@pytest.fixture(scope="module")
def results() -> Results:
    """Exit code, output and errors of each command line, in a process that cannot import the packages of any extra."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found: Results = json.loads(done.stdout)
    return found


def test_help_needs_no_extra(results: Results) -> None:
    """The help lists every command with what to install for it."""
    code, out, err = results["--help"]
    assert (code, err) == (0, "")
    assert "demo" in out
    assert out.count('pip install "resilient-middleware[cli]"') == 4
    assert out.count('pip install "resilient-middleware[demo]"') == 1


def test_version_needs_no_extra(results: Results) -> None:
    """The version is one line, as with the extra."""
    assert results["--version"] == [0, f"resilient-middleware {version('resilient-middleware')}\n", ""]


@pytest.mark.parametrize(
    ("line", "extra"), [("explain --help", "cli"), ("dashboards --help", "cli"), ("demo --help", "demo")]
)
def test_help_of_a_command_names_its_extra(results: Results, line: str, extra: str) -> None:
    """The help of a command says what it does, and what to install for its options."""
    code, out, err = results[line]
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: resilient {line.split(maxsplit=1)[0]}\n")
    assert f'pip install "resilient-middleware[{extra}]"' in out


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("explain app:users", "cli"),
        ("simulate list", "cli"),
        ("watch a", "cli"),
        ("watch --demo", "cli"),
        ("demo", "demo"),
        ("other", "cli"),
    ],
)
def test_command_without_its_extra_exits_with_2(results: Results, line: str, extra: str) -> None:
    """One line on standard error names the extra."""
    message = f'resilient: this command needs more packages: pip install "resilient-middleware[{extra}]"\n'
    assert results[line] == [2, "", message]


def test_no_command_shows_the_help_and_exits_with_2(results: Results) -> None:
    """As with the extra, where the help goes to standard error."""
    code, out, err = results[""]
    assert (code, out) == (2, "")
    assert err.startswith("Usage: resilient COMMAND\n")
