"""How calls are timed: multiples, ratios, and the order of the batches."""

from __future__ import annotations

import os
from typing import Any

import pytest

from benchmarks.contenders import targets
from benchmarks.contenders.targets import Stage
from benchmarks.harness import measure
from benchmarks.harness.measure import Plan, Subject, Timing
from benchmarks.harness.statistics import Spread


def test_one_core_gives_the_process_its_cores_back() -> None:
    """Where a process cannot choose its cores, nothing fails."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with measure.one_core() as core:
        if before is not None:
            assert os.sched_getaffinity(0) == {core}
    if before is not None:
        assert os.sched_getaffinity(0) == before


def test_multiple_is_taken_of_the_bare_calls_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down by half in the middle of a run changes no multiple."""
    clock = iter([100, 300, 100, 200, 600, 200])

    def batch(track: Any) -> float:
        return float(next(clock))

    monkeypatch.setattr(measure._Track, "calibrate", lambda track, seconds: None)
    monkeypatch.setattr(measure._Track, "batch", batch)
    bare, other = Subject("bare", targets.plain, False), Subject("other", targets.plain, False)

    with targets.Stage(is_async=False) as stage:
        timings = measure.compare(bare, [other], Plan(rounds=2, batch=1), stage.runner)

    assert timings["other"].multiple().middle == 3.0
    assert timings["bare"].multiple().middle == 1.0


def test_added_cost_is_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure is the median of the differences, so rounds in which both were slow cancel out."""
    clock = iter([100, 300, 100, 200, 100, 100, 900, 100, 700, 100])
    monkeypatch.setattr(measure._Track, "calibrate", lambda track, seconds: None)
    monkeypatch.setattr(measure._Track, "batch", lambda track: float(next(clock)))
    monkeypatch.setattr(measure.random.Random, "shuffle", lambda order, tracks: None)
    bare, more, less = (Subject(name, targets.plain, False) for name in ("bare", "more", "less"))

    with targets.Stage(is_async=False) as stage:
        timings = measure.compare(bare, [more, less], Plan(rounds=2, batch=1), stage.runner)

    assert timings["more"].beyond(timings["less"]).middle == 1.5
    assert timings["more"].against(timings["less"]) == Spread((1.5 + 9 / 7) / 2, 9 / 7, 1.5)


def test_processes_are_the_sample_where_there_are_several() -> None:
    """Rounds of one process agree with each other, so the interval is that of the processes."""
    one = Timing(((100.0, 100.0, 100.0),), ((2.0, 2.0, 9.0),))
    other = Timing(((100.0, 100.0, 100.0),), ((4.0, 4.0, 9.0),))

    assert Timing.pooled([one, other]).multiple() == Spread(3.0, 2.0, 4.0)
    assert one.multiple() == Spread(2.0, 2.0, 9.0)


def test_rows_of_one_group_are_timed_next_to_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every round; the order within the group and of the groups changes."""
    seen: list[str] = []

    def batch(track: Any) -> float:
        seen.append(track.subject.name)
        return 1.0

    monkeypatch.setattr(measure._Track, "calibrate", lambda track, seconds: None)
    monkeypatch.setattr(measure._Track, "batch", batch)
    subjects = [Subject(f"{group}{at}", targets.plain, False, group=group) for at in "12" for group in "abc"]
    with targets.Stage(is_async=False) as stage:
        measure.compare(Subject("-", targets.plain, False), subjects, Plan(rounds=12, batch=1), stage.runner)

    guarded = [name for name in seen if name != "-"]
    rounds = [guarded[at : at + 6] for at in range(0, len(guarded), 6)]
    assert all(one[0] == other[0] for each in rounds for one, other in zip(each[::2], each[1::2], strict=True))
    assert len({tuple(each) for each in rounds}) > 5


def test_call_is_timed_with_its_argument() -> None:
    """The transport's own method is timed, so no wrapper counts."""
    seen = []

    async def handle(given: object) -> None:
        seen.append(given)

    subject = Subject("handle", handle, True, argument="request")
    with Stage(is_async=True) as stage:
        measure.compare(Subject("bare", targets.bare, True), [subject], measure.Plan(2, 1e-6), stage.runner)

    assert set(seen) == {"request"}
