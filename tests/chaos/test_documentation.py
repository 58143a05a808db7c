"""Every example of docs/chaos.md is a program, and it runs; every fault has its row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resilient.chaos.experiment import VARIABLE
from resilient.faults import KINDS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "chaos.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, and what it asserts is so."""
    monkeypatch.delenv(VARIABLE, raising=False)
    exec(compile(EXAMPLES[number], f"docs/chaos.md, example {number + 1}", "exec"), {"__name__": "example"})


def test_examples_are_there() -> None:
    """They are found by how they are written."""
    assert len(EXAMPLES) == 4


def test_every_fault_has_its_row() -> None:
    """By the name that it is used with."""
    for kind in KINDS.values():
        assert re.search(rf"^\| `{kind.__name__}\(", DOCUMENT, re.MULTILINE), kind.__name__
