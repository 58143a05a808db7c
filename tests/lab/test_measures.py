"""Measures: what is counted, when a run has recovered, and what is drawn over time."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import CircuitBreaker, Pipeline, Retry, Timeout
from resilient.faults import Errors, Stall
from resilient.lab.candidates import NONE, candidate_from
from resilient.lab.distributions import Constant
from resilient.lab.load import Poisson, Replay
from resilient.lab.measures import Measures, percentile
from resilient.lab.service import ServicePlan
from resilient.lab.world import Scenario, simulate

EVERY_TENTH = tuple(at / 10 + 0.03 for at in range(300))


def measured(policy: Any = None, *, seeds: tuple[int, ...] = (1,), **changes: Any) -> Measures:
    """Ten calls a second for 30 s, each takes 50 ms."""
    settings = {"duration": 30, "loads": (Replay(EVERY_TENTH),), "service": ServicePlan(Constant(0.05)), **changes}
    candidate = NONE if policy is None else candidate_from("policy", policy)
    return Measures([simulate(Scenario(**settings), candidate, seed) for seed in seeds])


def test_percentile_is_a_number_that_was_there() -> None:
    """The least that so many do not exceed; none of none."""
    numbers = [1.0, 2.0, 3.0, 4.0]

    assert [percentile(numbers, share) for share in (0.25, 0.5, 0.51, 0.99, 1.0)] == [1.0, 2.0, 3.0, 4.0, 4.0]
    assert percentile([], 0.5) is None


def test_success_requests_and_latency_of_a_fault() -> None:
    """A third of the time all attempts fail; two are made; only successes have a latency."""
    found = measured(Retry(2, wait=0), faults=(Errors(start=10, end=20),))

    assert found.calls == 300
    assert found.success == pytest.approx(2 / 3, abs=0.01)
    assert found.requests_per_call == pytest.approx(4 / 3, abs=0.01)
    assert found.latency(0.5) == pytest.approx(0.05)
    assert found.outcomes.keys() == {"success", "ServiceError"}


def test_runs_without_calls_are_refused() -> None:
    """A share of no calls would meet any bound."""
    with pytest.raises(ValueError, match="no calls were made in 30 s: the load must have a higher rate"):
        measured(loads=(Poisson(0.0001),))


def test_timeline_tells_of_each_step() -> None:
    """Calls made, successes when they come, requests, circuits."""
    pipeline = Pipeline(Retry(2, wait=0.1), CircuitBreaker(fail_max=10_000, failure_rate=None), Timeout(0.3))
    found = measured(pipeline, faults=(Stall(start=10.01, end=20),))
    moments = {moment.at: moment for moment in found.timeline}

    assert found.runs[0].step == 0.2
    assert len(moments) == 150
    assert all(moment.offered == pytest.approx(10) for moment in moments.values())
    assert (moments[5.0].goodput, moments[5.0].requests_per_call) == (10, 1)
    assert moments[5.0].p99 == pytest.approx(0.05)
    assert (moments[15.0].goodput, moments[15.0].p50) == (0, None)
    assert moments[15.0].requests_per_call == 2
    assert moments[15.0].open == 0
    assert moments[15.0].tokens is None


def test_runs_are_pooled() -> None:
    """Rates are averages over the runs, and calls are added up."""
    found = measured(seeds=(1, 2), loads=(Poisson(100),))

    assert found.calls == sum(len(run.begins) for run in found.runs)
    assert sum(moment.offered for moment in found.timeline) / len(found.timeline) == pytest.approx(100, rel=0.1)


def test_data_has_times_in_seconds_and_no_number_that_json_does_not_know() -> None:
    """What never was is None."""
    data = measured(faults=(Errors(),)).as_json()

    assert (data["success"], data["latency_p99_s"], data["recovery_s"]) == (0.0, None, None)
    assert data["outcomes"] == {"ServiceError": 300}
