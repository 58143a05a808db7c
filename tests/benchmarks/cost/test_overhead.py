"""The overhead benchmark: its rows do what they say, and its report is complete. No times are judged."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import bars, patterns, peers, targets
from benchmarks.contenders.bars import Limit, Mode
from benchmarks.contenders.peers import Peer
from benchmarks.cost import overhead
from benchmarks.harness import measure
from benchmarks.harness.measure import Plan, Subject, Timing
from benchmarks.harness.options import Options
from benchmarks.harness.processes import fresh
from benchmarks.harness.report import Bar
from benchmarks.harness.statistics import Spread

ROOT = Path(__file__).parents[3]
MODES: tuple[Mode, ...] = ("async", "def")


@pytest.mark.parametrize("mode", MODES)
def test_every_row_does_what_its_group_says(mode: Mode) -> None:
    """Each decorator, ours and the peers', returns the result, or rejects where its group is about that."""
    with targets.Stage(mode == "async") as stage:
        problems = {
            row.key: subject
            for row in overhead.known(mode)
            if isinstance(subject := row.subject(stage), str) and subject != "not installed"
        }
    assert problems == {}


def test_peer_that_is_not_installed_is_a_row_without_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Peers are optional."""

    def missing() -> Any:
        raise ModuleNotFoundError("no such peer")

    monkeypatch.setattr(patterns, "PEERS", (Peer("absent", missing),))
    _, row = patterns.rows(patterns.Pattern("retry", "Retry"), "async")

    with targets.Stage(is_async=True) as stage:
        assert row.subject(stage) == "not installed"


def test_peer_that_breaks_is_named_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer's new version must not end the run."""

    def build() -> dict[str, peers.Decorator]:
        def decorate(function: Any) -> Any:
            raise TypeError("another signature")

        return {"retry": decorate}

    monkeypatch.setattr(patterns, "PEERS", (Peer("broken", build),))
    _, row = patterns.rows(patterns.Pattern("retry", "Retry"), "async")

    with targets.Stage(is_async=True) as stage:
        assert row.subject(stage) == "not measured: TypeError: another signature"


def test_every_bar_is_that_of_a_row_and_every_rival_another_one() -> None:
    """A misspelt name would be a bar that nothing is judged by."""
    judged = 0
    for mode in MODES:
        rows = overhead.known(mode)
        keys = {row.key for row in rows}
        limited = [row for row in rows if row.limit is not None]
        judged += len(limited)
        assert all(row.rival in keys for row in limited if row.limit and row.limit.against)
    assert judged == len(bars.BARS)


def test_bar_against_a_peer_that_is_not_there_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio to nothing does not pass."""
    monkeypatch.setattr(patterns, "PEERS", ())
    (row,) = patterns.rows(patterns.Pattern("retry", "Retry"), "async")

    figure = row.figure("async", {"multiple_x": 1.0})
    assert (str(figure.bar), figure.verdict) == ("<= 1 x nopanic", "miss")


@pytest.mark.parametrize(
    ("key", "bar"),
    [
        ("retry", Bar("ratio_x", 1.0, against=f"nopanic {metadata.version('nopanic')}")),
        ("stack, a total timeout around it", Bar("ratio_x", 1.45, against="resilient")),
        ("deadline, a Retry beneath", Bar("multiple_x", 32)),
        ("hedge, inline, quantile", Bar("added_x", 10)),
    ],
)
def test_bars_are_ratios_to_a_row_multiples_of_a_bare_call_or_what_is_added(key: str, bar: Bar) -> None:
    """As the table of bars says it."""
    (pattern,) = (each for each in patterns.PATTERNS if key in (each.key, *each.variants))
    found = {row.decorate: row.bar for row in patterns.rows(pattern, "async") if row.limit is not None}
    assert bar in found.values()


def test_report_has_our_row_first_in_each_group_and_every_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over one round, so that it is quick; what it measures means nothing."""
    monkeypatch.setattr(overhead, "QUICK", Plan(rounds=2, batch=1e-5))
    monkeypatch.setattr(patterns, "PEERS", tuple(peer for peer in peers.PEERS if not peer.distribution))

    report = overhead.run(Options(quick=True))

    groups: dict[str, list[Any]] = {}
    for figure in report.figures:
        groups.setdefault(figure.group, []).append(figure)
        more = {"added": "what that adds" in figure.group, "ratio": "ratio_x" in figure.values}
        intervals = ["multiple", *(key for key, has in more.items() if has)]
        ends = {f"{each}{end}_x" for each in intervals for end in ("", "_low", "_high")}
        assert set(figure.values) == {*ends, "lower_quartile_x", "upper_quartile_x", "call_ns"}
    held = [figure for figure in report.figures if figure.bar and figure.bar.against == "resilient"]
    assert held
    assert all(figure.values["ratio_low_x"] <= figure.values["ratio_high_x"] for figure in held)
    for title, figures in groups.items():
        assert figures[0].ours == (not title.endswith("no policy"))


def test_one_core_gives_the_process_its_cores_back() -> None:
    """Also where a process cannot choose, nothing fails."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with measure.one_core() as core:
        if before is not None:
            assert os.sched_getaffinity(0) == {core}
    if before is not None:
        assert os.sched_getaffinity(0) == before


def test_multiple_is_taken_of_the_bare_calls_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down by half in the middle of a run changes nothing."""
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
    """The median of the differences: rounds in which both were slow cancel out."""
    clock = iter([100, 300, 100, 200, 100, 100, 900, 100, 700, 100])
    monkeypatch.setattr(measure._Track, "calibrate", lambda track, seconds: None)
    monkeypatch.setattr(measure._Track, "batch", lambda track: float(next(clock)))
    monkeypatch.setattr(measure.random.Random, "shuffle", lambda order, tracks: None)
    bare, more, less = (Subject(name, targets.plain, False) for name in ("bare", "more", "less"))

    with targets.Stage(is_async=False) as stage:
        timings = measure.compare(bare, [more, less], Plan(rounds=2, batch=1), stage.runner)

    assert timings["more"].beyond(timings["less"]).middle == 1.5
    assert timings["more"].against(timings["less"]) == Spread((1.5 + 9 / 7) / 2, 9 / 7, 1.5)


def test_bar_on_what_a_row_adds_judges_that_and_not_the_row() -> None:
    """A retry with a budget may cost 6; the budget of it, 1."""
    pattern = patterns.Pattern("b", "B", beyond="a")
    row = patterns.Row(pattern, patterns.US, None, "resilient", limit=Limit(1))

    assert row.base == "a: resilient"
    assert row.figure("async", {"multiple_x": 6, "added_x": 0.9}).verdict == "pass"
    assert row.figure("async", {"multiple_x": 6, "added_x": 1.1}).verdict == "miss"


def test_processes_are_the_sample_where_there_are_several() -> None:
    """Rounds of one process agree with each other; the interval is that of the processes."""
    one = Timing(((100.0, 100.0, 100.0),), ((2.0, 2.0, 9.0),))
    other = Timing(((100.0, 100.0, 100.0),), ((4.0, 4.0, 9.0),))

    assert Timing.pooled([one, other]).multiple() == Spread(3.0, 2.0, 4.0)
    assert one.multiple() == Spread(2.0, 2.0, 9.0)


def test_rows_of_one_group_are_timed_next_to_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every round, in orders that change."""
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


def test_each_argument_is_measured_in_a_process_of_its_own() -> None:
    """And a single one right here."""
    here = os.getpid()
    first, second = fresh(_process, [1, 2], Options())
    assert len({here, first, second}) == 3
    assert fresh(_process, [1], Options()) == [here]


def _process(number: int) -> int:
    return os.getpid()


def test_nothing_that_makes_calls_dearer_is_imported_for_the_measurement() -> None:
    """A rate limit asks for the call's clock once there may be several: with trio, and with virtual time."""
    code = (
        "import sys; from benchmarks import __main__ as command; from benchmarks.contenders import peers;"
        "command.available();"
        "[peer.build() for peer in peers.PEERS if not peer.distribution];"
        "print([name for name in ('trio', 'resilient.runtime.virtual') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
