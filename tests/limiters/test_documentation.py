"""Every example of docs/limits.md is a program that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENT = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(number: int) -> None:
    """The example's own assertions hold."""
    exec(compile(EXAMPLES[number], f"docs/limits.md, example {number + 1}", "exec"), {"__name__": "example"})


def test_examples_are_there() -> None:
    """The pattern finds all of them."""
    assert len(EXAMPLES) == 3
