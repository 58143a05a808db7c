"""The example of docs/explain.md is a program, and prints the text below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENT = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()


def test_example_runs_and_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The text is compared up to its ellipsis."""
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)  \.\.\.\n```", DOCUMENT, re.DOTALL)
    exec(compile(example, "docs/explain.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.startswith(shown)
