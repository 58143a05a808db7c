"""The overhead benchmark: its rows do what they say, and its report is complete. No times are judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import measure, overhead, patterns, peers, targets
from benchmarks.measure import Plan, Subject
from benchmarks.options import Options
from benchmarks.peers import Mode, Peer

ROOT = Path(__file__).parents[2]
MODES: tuple[Mode, ...] = ("async", "def")


@pytest.mark.parametrize("mode", MODES)
def test_every_row_does_what_its_group_says(mode: Mode) -> None:
    """Each decorator, ours and the peers', returns the result, or rejects where its group is about that."""
    with targets.Stage(mode == "async") as stage:
        problems = {
            row.key: subject
            for pattern in patterns.PATTERNS
            if mode in pattern.modes
            for row in patterns.rows(pattern, mode)
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


def test_each_bar_of_the_issue_is_set() -> None:
    """In times a bare await, and for `def` a plain call."""
    bars = {(mode, pattern.key): limit for pattern in patterns.PATTERNS for mode, limit in (pattern.bars or {}).items()}
    assert bars == {
        ("async", "retry"): 8,
        ("async", "bulkhead"): 10,
        ("async", "breaker"): 12,
        ("async", "retry, budget"): 1,
        ("async", "keyed"): 15,
        ("async", "timeout"): 16,
        ("async", "deadline"): 12,
        ("async", "rate limit"): 10,
        ("async", "fallback"): 7,
        ("async", "hedge"): 130,
        ("async", "hedge, inline"): 30,
        ("async", "hedge, quantile"): 12,
        ("async", "hedge, inline, quantile"): 12,
        ("async", "adaptive limit"): 18,
        ("async", "stack"): 28,
        ("async", "six"): 36,
        ("def", "stack"): 60,
    }


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
        adds = {"added_x"} if "what that adds" in figure.group else set()
        assert set(figure.values) == {"multiple_x", "lower_quartile_x", "upper_quartile_x", "call_ns", *adds}
    for title, figures in groups.items():
        assert figures[0].ours == (not title.endswith("no policy"))


def test_one_core_gives_the_process_its_cores_back() -> None:
    """Also where a process cannot choose, nothing fails."""
    import os

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

    assert timings["other"].multiple == 3.0
    assert timings["bare"].multiple == 1.0


def test_added_cost_is_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The median of the differences: rounds in which both were slow cancel out."""
    clock = iter([100, 300, 100, 200, 100, 100, 900, 100, 700, 100])
    monkeypatch.setattr(measure._Track, "calibrate", lambda track, seconds: None)
    monkeypatch.setattr(measure._Track, "batch", lambda track: float(next(clock)))
    monkeypatch.setattr(measure.random.Random, "shuffle", lambda order, tracks: None)
    bare, more, less = (Subject(name, targets.plain, False) for name in ("bare", "more", "less"))

    with targets.Stage(is_async=False) as stage:
        timings = measure.compare(bare, [more, less], Plan(rounds=2, batch=1), stage.runner)

    assert timings["more"].beyond(timings["less"]) == 1.5


def test_bar_on_what_a_row_adds_judges_that_and_not_the_row() -> None:
    """A retry with a budget may cost 6; the budget of it, 1."""
    pattern = patterns.Pattern("b", "B", {"async": 1}, beyond="a")
    row = patterns.Row(pattern, patterns.OURS, None, "resilient", judged=True)

    assert row.base == "a: resilient"
    assert row.figure("async", {"multiple_x": 6, "added_x": 0.9}).verdict == "pass"
    assert row.figure("async", {"multiple_x": 6, "added_x": 1.1}).verdict == "miss"


def test_nothing_that_makes_calls_dearer_is_imported_for_the_measurement() -> None:
    """A rate limit asks for the call's clock once there may be several: with trio, and with virtual time."""
    code = (
        "import sys; from benchmarks import peers, __main__ as command; command.available();"
        "[peer.build() for peer in peers.PEERS if not peer.distribution];"
        "print([name for name in ('trio', 'resilient.runtime.virtual') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
