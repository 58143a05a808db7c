"""The startup benchmark: its report is complete, and what is not installed is left out. No times are judged."""

from __future__ import annotations

import pytest

from benchmarks.cost import startup
from benchmarks.harness.measure import Plan
from benchmarks.harness.options import Options
from benchmarks.harness.report import Report

COSTS = {"resilient": (90.0, 300), startup.DEPENDENCIES: (60.0, 200), "asyncio": (30.0, 100)}


@pytest.fixture(scope="module")
def report() -> Report:
    """Two rounds of imports that are only said to have been made; nothing else is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(startup, "QUICK", 2)
        patch.setattr(startup, "_import", COSTS.get)
        patch.setattr(startup, "QUICK_DECORATION", Plan(rounds=2, batch=1e-5))
        return startup.run(Options(quick=True))


def test_imports_say_what_they_bring_and_ours_what_comes_beyond_its_dependencies(report: Report) -> None:
    """Ours first, then the others, the cheapest first."""
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


def test_decoration_is_measured_of_both_kinds_of_functions_and_with_the_stack_built_anew(report: Report) -> None:
    """Ours in each group, first."""
    groups: dict[str, list[str]] = {}
    for figure in report.figures:
        groups.setdefault(figure.group, []).append(figure.name)
    del groups["import"]

    assert len(groups) == 3
    assert all(names[0] == "resilient" and len(names) > 1 for names in groups.values())


def test_import_counts_in_its_own_process() -> None:
    """What is imported here already is not what is measured; and what is not installed has no figure."""
    cost = startup._import("json")
    assert cost is not None
    assert cost[1] >= 3
    assert startup._import("not_installed_here") is None


def test_imports_find_their_bytecode_where_the_benchmark_itself_may_not_write_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Peers are installed with theirs: an import that compiles its source would be held against them."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(startup, "CODE", "import sys; print(int(sys.dont_write_bytecode), 0)  # {}")

    assert startup._import("json") == (0, 0)
