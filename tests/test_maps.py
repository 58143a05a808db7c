"""The docstring of a package is a map of its modules."""

import importlib
import pkgutil
import re

import pytest


@pytest.mark.parametrize(
    "package",
    [
        "resilient.cli",
        "resilient.core",
        "resilient.demo",
        "resilient.explain",
        "resilient.http",
        "resilient.lab",
        "resilient.events",
        "resilient.observe",
        "resilient.runtime",
        "resilient.testing",
        "resilient.pipeline",
        "resilient.server",
        "resilient.policies",
        "resilient.policies.breaker",
        "resilient.policies.keyed",
        "resilient.chaos",
        "resilient.faults",
        "resilient.limiters",
        "resilient.stats",
        "resilient.stores",
        "resilient.policies.hedge",
        "resilient.policies.retry",
        "benchmarks",
        "benchmarks.harness",
        "benchmarks.contenders",
        "benchmarks.cost",
        "benchmarks.effect",
    ],
)
def test_map_of_a_package_names_exactly_its_modules(package: str) -> None:
    """A reader finds each module in the map, and nothing in the map that is not there."""
    module = importlib.import_module(package)
    named = re.findall(r"^(?:    )?([a-z0-9_]+)/?  +", module.__doc__ or "", re.MULTILINE)
    assert sorted(named) == sorted(each.name for each in pkgutil.iter_modules(module.__path__))
