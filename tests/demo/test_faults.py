"""The plan of faults: drawn from a seed, in proportion to the run."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from resilient.demo.faults import draw_plan
from resilient.faults import Crash

DURATIONS = [5.0, 6.0, 20.0, 23.7, 60.0, 600.0]


def windows(seed: int, duration: float) -> list[tuple[float, float]]:
    plan = draw_plan(seed, duration)
    bursts = [(burst.start, burst.until) for burst in plan.bursts]
    return sorted([*bursts, (plan.crash.start, plan.crash.until)])


def test_plan_of_one_seed_is_always_the_same() -> None:
    """The parent and its server processes draw the plan separately, and must agree."""
    assert draw_plan(7, 20.0) == draw_plan(7, 20.0)


def test_plans_of_different_seeds_differ() -> None:
    """Another seed gives another run."""
    assert draw_plan(7, 20.0) != draw_plan(8, 20.0)


@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize("seed", range(20))
def test_faults_lie_within_the_run_and_never_overlap(seed: int, duration: float) -> None:
    """Each fault can be distinguished, and the end of the last one can be seen."""
    edges = [edge for window in windows(seed, duration) for edge in window]
    assert edges == sorted(edges)
    assert edges[0] > 0
    assert edges[-1] < duration


@pytest.mark.parametrize("duration", DURATIONS)
def test_faults_take_the_same_share_of_any_run(duration: float) -> None:
    """A long run has more bursts, a short one shorter bursts."""
    plan = draw_plan(1, duration)
    burst_seconds = sum(burst.until - burst.start for burst in plan.bursts)
    slots = len(plan.bursts) + 1
    assert burst_seconds / duration == pytest.approx(0.3 * len(plan.bursts) / slots)
    assert all(burst.until - burst.start < 2.6 for burst in plan.bursts)


def test_default_run_has_a_process_replaced_after_more_than_a_second() -> None:
    """The new process loads for half a second: few calls could wait for it, so they must go elsewhere."""
    crash = draw_plan(1, 20.0).crash
    assert 1.0 < crash.until - crash.start < 2.0


def test_crash_is_of_one_process_that_comes_back() -> None:
    """The plan is refused where it is written, not in the middle of a run."""
    plan = draw_plan(1, 20.0)
    for crash, message in (
        (Crash(end=1), "crash must have the number of one server as its targets, got ()"),
        (Crash(end=1, targets=(1, 2)), "crash must have the number of one server as its targets, got (1, 2)"),
        (Crash(end=1, targets="eu"), "crash must have the number of one server as its targets, got ('eu',)"),
        (Crash(targets=1), "crash must have an end, when the server is replaced, got None"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            replace(plan, crash=crash)


def test_json_names_every_fault_by_its_kind() -> None:
    """Programs read the plan by `kind`."""
    listed = draw_plan(1, 20.0).as_json()
    assert [fault["kind"] for fault in listed] == ["latency", "error_burst", "crash", "error_burst"]


def test_json_has_names_that_do_not_change() -> None:
    """The keys do not follow renamed faults; a burst on all servers lists them."""
    latency, first, crash, second = draw_plan(1, 20.0).as_json()
    assert latency == {"kind": "latency", "share": 0.02, "low_seconds": 0.5, "high_seconds": 3.0}
    assert list(first) == list(second) == ["kind", "start_seconds", "end_seconds", "servers", "share", "status"]
    assert (len(first["servers"]), first["share"], first["status"]) == (1, 1.0, 503)
    assert (second["servers"], second["share"], second["status"]) == ([1, 2, 3], 0.3, 503)
    assert list(crash) == ["kind", "start_seconds", "restart_seconds", "server"]
    assert 0 < crash["start_seconds"] < crash["restart_seconds"]


def test_faults_describe_themselves_in_a_few_words() -> None:
    """The table and the plot label them so."""
    plan = draw_plan(1, 20.0)
    victim = plan.bursts[0].targeted[0]
    assert [burst.describe() for burst in plan.bursts] == [
        f"100% 503 on server {victim}",
        "30% 503 on servers 1, 2 and 3",
    ]
    assert plan.crash.describe() == f"crash of server {plan.victim}"
