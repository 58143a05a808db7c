"""CI installs the lowest versions that pyproject.toml claims."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lowest() -> Any:
    spec = importlib.util.spec_from_file_location("lowest", ROOT / ".ci" / "lowest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lowest


def pyproject(*dependencies: str, cli: tuple[str, ...] = ()) -> str:
    """Return a pyproject.toml with these requirements."""
    names = "cli", "demo", "lab", "httpx2", "trio", "otel", "prometheus"
    extras = "\n".join(f"{name} = {list(cli) if name == 'cli' else []}" for name in names)
    return f'[project]\nname = "it"\ndependencies = {list(dependencies)}\n[project.optional-dependencies]\n{extras}\n'


def test_every_package_that_users_get_has_a_lowest_version(lowest: Any) -> None:
    """Each required package has a lowest version, those of the extras included."""
    versions = lowest((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    users = {"httpx", "tenacity", "pybreaker", "httpx2", "trio", "typer", "rich", "starlette", "uvicorn"}
    assert users | {"opentelemetry-api", "prometheus-client"} <= set(versions)
    assert all(version[0].isdigit() for version in versions.values())


def test_constraint_is_the_bound_of_the_requirement(lowest: Any) -> None:
    """Of each once; extras of extras are looked at by themselves."""
    assert lowest(pyproject("httpx>=0.27", cli=("it[lab]", "rich>=13", "httpx>=0.27"))) == {
        "httpx": "0.27",
        "rich": "13",
    }


@pytest.mark.parametrize("requirement", ["rich", "rich==13", "rich>=13,<14", "rich>13", "httpx>=0.28"])
def test_requirement_without_one_lowest_version_is_refused(requirement: str, lowest: Any) -> None:
    """Else CI would test another version than users may have."""
    with pytest.raises(ValueError, match="one lowest version is due"):
        lowest(pyproject("httpx>=0.27", cli=(requirement,)))
