"""The examples of docs/simulate.md: the scenario can be read, the program runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from resilient.lab.reading import scenario_from

DOCUMENT = (Path(__file__).parents[2] / "docs" / "simulate.md").read_text()


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


def test_scenario_can_be_read() -> None:
    """With its pipelines."""
    assert list(scenario_from(tomllib.loads(example("toml"))).candidates) == ["guarded", "standard"]


def test_program_runs() -> None:
    """And its claim holds."""
    exec(compile(example("python"), "docs/simulate.md", "exec"), {"__name__": "example"})
