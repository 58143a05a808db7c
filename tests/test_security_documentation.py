"""Each promise of docs/security.md has its tests, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "security.md").read_text()
ROWS = [
    line.strip("|").rsplit("|", 1)
    for line in DOCUMENT.splitlines()
    if line.startswith("| ") and not line.startswith("| What is promised")
]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOCUMENT)


@cache
def functions_of(file: str) -> set[str]:
    """Return the names of the test functions in a file."""
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("promise", "tests"), ROWS)
def test_promise_names_its_tests(promise: str, tests: str) -> None:
    """Each promise names its tests by path and name, and nothing else."""
    assert promise.strip()
    assert re.fullmatch(r"\s*`tests/[\w/]+\.py::test_\w+`(, `tests/[\w/]+\.py::test_\w+`)*\s*", tests)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_named_test_exists(file: str, name: str) -> None:
    """Each test that the document names exists in the named file."""
    assert name in functions_of(file)


def test_promises_are_found() -> None:
    """The document has promises in the form that these tests read."""
    assert len(ROWS) > 20
    assert len(NAMED) >= len(ROWS)


def test_links_lead_somewhere() -> None:
    """The links of both documents lead to files that exist."""
    for document in (ROOT / "docs" / "security.md", ROOT / "SECURITY.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", document.read_text()):
            assert (document.parent / link).exists(), link
