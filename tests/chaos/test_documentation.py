"""Every example of docs/chaos.md is a program that runs, and its table has a row for every fault."""

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
    """The example's own assertions hold."""
    monkeypatch.delenv(VARIABLE, raising=False)
    exec(compile(EXAMPLES[number], f"docs/chaos.md, example {number + 1}", "exec"), {"__name__": "example"})


def test_examples_are_there() -> None:
    """The pattern finds all of them."""
    assert len(EXAMPLES) == 4


def test_every_fault_has_its_row() -> None:
    """A row begins with the name of the fault."""
    for kind in KINDS.values():
        assert re.search(rf"^\| `{kind.__name__}\(", DOCUMENT, re.MULTILINE), kind.__name__
