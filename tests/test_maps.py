"""The docstring of a package is a map of its modules."""

import importlib
import pkgutil
import re

import pytest

PACKAGES = [
    name
    for top in ("resilient", "benchmarks")
    for name in (
        top,
        *(each.name for each in pkgutil.walk_packages(importlib.import_module(top).__path__, f"{top}.") if each.ispkg),
    )
    if name != "resilient"  # its map is of public names: tests/test_public_api.py
]


@pytest.mark.parametrize("package", PACKAGES)
def test_map_of_a_package_names_exactly_its_modules(package: str) -> None:
    """A reader finds each module in the map, and nothing in the map that is not there."""
    module = importlib.import_module(package)
    named = re.findall(r"^(?:    )?([a-z0-9_]+)/?  +", module.__doc__ or "", re.MULTILINE)
    assert sorted(named) == sorted(each.name for each in pkgutil.iter_modules(module.__path__))
