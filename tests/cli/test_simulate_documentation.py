"""The examples of docs/simulate.md: the scenarios can be read, the programs run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from resilient.lab.scenario_file import scenario_from

DOCUMENT = (Path(__file__).parents[2] / "docs" / "simulate.md").read_text()


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def test_scenario_can_be_read() -> None:
    """The example scenario has its two pipelines."""
    assert list(scenario_from(tomllib.loads(examples("toml")[0])).candidates) == ["guarded", "standard"]


@pytest.mark.parametrize("number", [1, 2])
def test_parts_of_scenarios_can_be_read(number: int) -> None:
    """Each partial example can replace the same part of the first one."""
    part = {**tomllib.loads(examples("toml")[0]), **tomllib.loads(examples("toml")[number])}
    part |= {"duration": 100, "service": {"service_time": 0.1, **part["service"]}}

    assert (scenario_from(part).calls is not None) == (number == 2)


@pytest.mark.parametrize("number", range(2))
def test_program_runs(number: int) -> None:
    """The assertions of the program hold."""
    exec(compile(examples("python")[number], "docs/simulate.md", "exec", dont_inherit=True), {"__name__": __name__})


def test_programs_are_there() -> None:
    """The pattern finds both programs."""
    assert len(examples("python")) == 2
