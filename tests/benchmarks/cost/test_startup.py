"""The startup benchmark: its report is complete without libraries that are not installed. No times are judged."""

from __future__ import annotations

import pytest

from benchmarks.cost import startup
from benchmarks.harness.measure import Plan
from benchmarks.harness.options import Options
from benchmarks.harness.report import Report

COSTS = {"resilient": (90.0, 300), startup.DEPENDENCIES: (60.0, 200), "asyncio": (30.0, 100)}


@pytest.fixture(scope="module")
def report() -> Report:
    """Two rounds of imports whose costs are given, not measured; no other library is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(startup, "QUICK", 2)
        patch.setattr(startup, "_import", COSTS.get)
        patch.setattr(startup, "QUICK_DECORATION", Plan(rounds=2, batch=1e-5))
        return startup.run(Options(quick=True))


def test_imports_have_time_and_modules_and_ours_the_time_beyond_its_dependencies(report: Report) -> None:
    """Ours come first, then the others from the cheapest."""
    figures = [figure for figure in report.figures if figure.group == "import"]
    ours, *others = figures

    assert ours.name == "resilient"
    assert [figure.name for figure in others] == ["asyncio", startup.DEPENDENCIES]
    assert [(figure.values["import_ms"], figure.values["modules"]) for figure in figures] == [
        (90.0, 300),
        (30.0, 100),
        (60.0, 200),
    ]
    assert [ours.values[each] for each in ("beyond_low_ms", "beyond_ms", "beyond_high_ms")] == [30.0] * 3


def test_decoration_is_measured_for_both_kinds_of_functions_and_with_a_new_stack(report: Report) -> None:
    """Ours is the first row in each group."""
    groups: dict[str, list[str]] = {}
    for figure in report.figures:
        groups.setdefault(figure.group, []).append(figure.name)
    del groups["import"]

    assert len(groups) == 3
    assert all(names[0] == "resilient" and len(names) > 1 for names in groups.values())


def test_import_counts_in_its_own_process() -> None:
    """Modules that are already imported here count, too; a module that is not installed has no figure."""
    cost = startup._import("json")
    assert cost is not None
    assert cost[1] >= 3
    assert startup._import("not_installed_here") is None


def test_imports_may_write_bytecode_even_if_the_benchmark_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Peers are installed with their bytecode; compiling our source at each import would be an unfair comparison."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(startup, "CODE", "import sys; print(int(sys.dont_write_bytecode), 0)  # {}")

    assert startup._import("json") == (0, 0)
