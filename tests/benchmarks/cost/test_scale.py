"""The scale benchmark: the numbers of calls and keys beside the measured call are right. No times are judged."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cost import memory, scale
from benchmarks.cost.scale import Row
from benchmarks.harness.measure import Plan, Timing
from benchmarks.harness.options import Options
from benchmarks.harness.report import Report

SMALL = Plan(rounds=2, batch=1e-5)


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Objects from before these tests stay frozen: collecting them later would take as long as a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture(scope="module")
def report() -> Report:
    """One run beside 1, 3 and 5 others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "SIZES", (1, 3, 5))
        patch.setattr(scale, "QUICK", SMALL)
        patch.setattr(scale, "QUICK_MEMORY", memory.Plan(breakers=10, keys=10, calls=10))
        return scale.run(Options(quick=True))


def test_each_row_is_measured_beside_every_size_and_the_largest_has_the_growth(report: Report) -> None:
    """Growth is relative to the cost beside one other; ours are judged, except when all keys are called in turn."""
    growing = [figure for figure in report.figures if "multiple_x" in figure.values]
    for at in range(0, len(growing), 3):
        few, some, most = growing[at : at + 3]
        assert [figure.name for figure in (few, some, most)] == ["1", "3", "5"]
        assert ("growth_x" in few.values, "growth_x" in some.values, "growth_x" in most.values) == (False, False, True)
        assert (most.bar is not None) == (most.ours and not most.group.startswith("keys in turn"))


def test_bars_of_memory_are_set(report: Report) -> None:
    """On a breaker with a full window, and on a breaker for each of many keys."""
    bars = {
        figure.group: str(figure.bar) for figure in report.figures if figure.bar and "object_bytes" in figure.values
    }
    assert bars == {"a breaker with a full window of 100": "<= 1,200", "a key": "<= 190"}


def test_plot_is_drawn(report: Report, tmp_path: Path) -> None:
    """The plot of a run is a PNG."""
    assert report.plot is not None
    report.plot(report, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_measured_calls_run_beside_as_many_calls_in_flight_as_the_size_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the measurement no call is in flight."""
    inside = 0
    seen = []

    async def guarded(stays: Any) -> Any:
        nonlocal inside
        inside += 1
        try:
            return await scale.call(stays)
        finally:
            inside -= 1

    def timing(*given: Any) -> Timing:
        seen.append(inside)
        return Timing(((1.0,),), ((1.0,),))

    monkeypatch.setattr(scale, "_timing", timing)
    monkeypatch.setattr(scale, "SIZES", (1, 10))
    with scale.Stage(is_async=True) as stage:
        sizes = [size for size, _ in scale._calls(Row("in flight", "row", lambda: guarded), guarded, SMALL, stage)]

    assert (seen, sizes, inside) == ([1, 10], [1, 10], 0)


def test_keys_are_called_once_first_and_then_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is called once. Then all keys are called in turn, or the first one again and again."""
    called: list[str] = []

    async def guarded(key: Any) -> Any:
        called.append(key)

    def timing(bare: Any, measured: Any, argument: Any, *rest: Any) -> Timing:
        for _ in range(4):
            asyncio.run(measured(argument))
        return Timing(((1.0,),), ((1.0,),))

    monkeypatch.setattr(scale, "_timing", timing)
    monkeypatch.setattr(scale, "SIZES", (2, 3))
    for turns, expected in ((True, "01" + "0101" + "2" + "0120"), (False, "01" + "0000" + "2" + "0000")):
        called.clear()
        with scale.Stage(is_async=True) as stage:
            list(scale._keys(Row("keys", "row", lambda: guarded, turns=turns), guarded, SMALL, stage))
        assert "".join(called).replace("host-", "") == expected


def test_garbage_collector_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector is on again, and the objects that were frozen for the measurement are not frozen any more."""
    seen = []
    monkeypatch.setattr(gc, "unfreeze", lambda: seen.append(gc.get_freeze_count()))
    frozen = gc.get_freeze_count()
    with scale._unseen() as hide:
        kept = [[] for _ in range(1000)]
        hide()
        assert not gc.isenabled()
    assert gc.isenabled()
    assert seen[0] >= frozen + len(kept)
