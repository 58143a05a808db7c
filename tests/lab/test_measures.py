"""Measures: counts, recovery, and the timeline."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from resilient import CircuitBreaker, Pipeline, Retry, Timeout
from resilient.faults import Errors, Stall
from resilient.lab.candidates import NONE, Candidate, candidate_from
from resilient.lab.distributions import Constant
from resilient.lab.load import Burst, Load, Poisson, Replay
from resilient.lab.measures import Measures
from resilient.lab.percentile import percentile
from resilient.lab.scenario_file import gallery, read
from resilient.lab.service import ServicePlan
from resilient.lab.world import Scenario, simulate

EVERY_TENTH = tuple(at / 10 + 0.03 for at in range(300))


def measured(policy: Any = None, *, seeds: tuple[int, ...] = (1,), **changes: Any) -> Measures:
    """Measures of ten calls a second for 30 s, each of which takes 50 ms."""
    settings = {"duration": 30, "loads": (Replay(EVERY_TENTH),), "service": ServicePlan(Constant(0.05)), **changes}
    candidate = NONE if policy is None else candidate_from("policy", policy)
    return Measures([simulate(Scenario(**settings), candidate, seed) for seed in seeds])


def test_percentile_is_a_number_that_was_there() -> None:
    """The smallest value that this share does not exceed; None of no values."""
    numbers = [1.0, 2.0, 3.0, 4.0]

    assert [percentile(numbers, share) for share in (0.25, 0.5, 0.51, 0.99, 1.0)] == [1.0, 2.0, 3.0, 4.0, 4.0]
    assert percentile([], 0.5) is None


def test_success_requests_and_latency_of_a_fault() -> None:
    """For a third of the time all attempts fail; two are made for each call; only successes have a latency."""
    found = measured(Retry(2, wait=0), faults=(Errors(start=10, end=20),))

    assert found.calls == 300
    assert found.success == pytest.approx(2 / 3, abs=0.01)
    assert found.requests_per_call == pytest.approx(4 / 3, abs=0.01)
    assert found.latency(0.5) == pytest.approx(0.05)
    assert found.outcomes.keys() == {"success", "ServiceError"}


def test_runs_without_calls_are_refused() -> None:
    """A share of no calls would meet any objective."""
    with pytest.raises(ValueError, match="no calls were made in 30 s: the load must have a higher rate"):
        measured(loads=(Poisson(0.0001),))


def test_timeline_tells_of_each_step() -> None:
    """Each step has the calls made, the successes when they come, the requests, and the circuits."""
    pipeline = Pipeline(Retry(2, wait=0.1), CircuitBreaker(fail_max=10_000, failure_rate=None), Timeout(0.3))
    found = measured(pipeline, faults=(Stall(start=10.01, end=20),))
    moments = {moment.at: moment for moment in found.timeline}

    assert found.runs[0].step == 1
    assert len(moments) == 30
    assert all(moment.offered == pytest.approx(10) for moment in moments.values())
    assert (moments[5.0].goodput, moments[5.0].requests_per_call) == (10, 1)
    assert moments[5.0].p99 == pytest.approx(0.05)
    assert (moments[15.0].goodput, moments[15.0].p50) == (0, None)
    assert moments[15.0].requests_per_call == 2
    assert moments[15.0].open == 0
    assert moments[15.0].tokens is None


@pytest.mark.parametrize(("rate", "step"), [(1, 2.0), (10, 1.0), (100, 0.2)])
def test_steps_are_wider_where_calls_are_few(rate: float, step: float) -> None:
    """Steps have ten calls each unless that gives fewer than 20 steps; there are at most 150."""
    found = measured(loads=(Poisson(rate),))

    assert found.runs[0].step == step
    assert sum(moment.calls for moment in found.timeline) == found.calls


def test_runs_are_pooled() -> None:
    """Rates are averages over the runs, and calls are summed."""
    found = measured(seeds=(1, 2), loads=(Poisson(100),))

    assert found.calls == sum(len(run.begins) for run in found.runs) == sum(each.calls for each in found.timeline)
    assert sum(moment.offered for moment in found.timeline) / len(found.timeline) == pytest.approx(100, rel=0.1)


def test_data_has_times_in_seconds_and_no_number_that_json_does_not_know() -> None:
    """Missing values are None."""
    data = measured(faults=(Errors(),)).as_json()

    assert (data["success"], data["latency_p99_s"], data["recovery_s"]) == (0.0, None, None)
    assert data["outcomes"] == {"ServiceError": 300}


def in_small(name: str) -> Scenario:
    """A scenario of the gallery with a twentieth of its calls, clients and workers."""
    scenario = read(name)

    def smaller(load: Any) -> Load:
        if isinstance(load, Burst):
            return replace(load, calls=load.calls // 20)
        return replace(load, rate=tuple((at, rate / 20) for at, rate in load.steps))

    service = scenario.service
    return replace(
        scenario,
        loads=tuple(map(smaller, scenario.loads)),
        clients=max(1, scenario.clients // 20),
        service=replace(service, workers=max(1, (service.workers or 20) // 20)),
    )


@pytest.mark.parametrize("name", gallery())
def test_timeline_adds_up_to_the_table(name: str) -> None:
    """For every pipeline of the gallery the calls, successes, requests and timely successes add up."""
    scenario = in_small(name)
    for candidate in scenario.candidates.values():
        found = Measures([simulate(scenario, candidate)])
        table, timeline = found.as_json(), found.as_json()["timeline"]
        step = found.runs[0].step

        assert sum(moment["calls"] for moment in timeline) == found.calls == table["calls"]
        assert sum(moment["succeeded"] for moment in timeline) == table["outcomes"].get("success", 0)
        assert sum(moment["requests"] for moment in timeline) == sum(len(run.sent) for run in found.runs)
        assert sum(moment["requests"] for moment in timeline) / found.calls == found.requests_per_call
        assert sum(moment["offered"] for moment in timeline) * step == pytest.approx(found.calls)
        came = sum(moment["goodput"] for moment in timeline) * step
        assert came + table["successes_after_duration"] == pytest.approx(table["outcomes"].get("success", 0), abs=0.01)


def test_requests_are_counted_with_the_call_that_they_are_for() -> None:
    """Retries in a later step are costs of the step in which their call was made."""
    moments = tuple(at / 10 for at in range(100))
    found = measured(Retry(3, wait=5), duration=10, loads=(Replay(moments),), faults=(Errors(start=1, end=3),))

    per_call = {moment.at: moment.requests_per_call for moment in found.timeline if moment.calls}
    assert {at for at, requests in per_call.items() if requests == 2} == {at for at in per_call if 0.9 < at < 2.9}
    assert {at for at, requests in per_call.items() if requests == 1} == {at for at in per_call if not 0.9 < at < 2.9}


def test_requests_after_the_end_of_their_call_count() -> None:
    """A decorator may leave background requests after the end of its call."""

    def careless(ask: Any) -> Any:
        kept = set()

        async def call(key: str) -> Any:
            found = await ask(key)
            kept.add(asyncio.create_task(ask(key)))
            return found

        return call

    service = ServicePlan(Constant(0.05))
    scenario = Scenario(duration=5, loads=(Replay((0.5, 1.5, 4.5)),), service=service)
    found = Measures([simulate(scenario, Candidate("careless", lambda: careless))])

    assert sum(moment.requests for moment in found.timeline) == found.requests == len(found.runs[0].sent)
    assert [moment.requests for moment in found.timeline if moment.calls][:2] == [2, 2]


def test_calls_at_the_very_end_are_in_the_last_step() -> None:
    """Rounding loses no call; a burst that is spread beyond the end makes no calls there."""
    found = measured(duration=0.3, loads=(Replay((0.1, 0.3 - 1e-15)), Burst(20, at=0.2, spread=0.5)))

    assert 2 < found.calls < 15
    assert all(begin < 0.3 for begin in found.runs[0].begins)
    assert sum(moment.calls for moment in found.timeline) == found.calls
    assert found.timeline[-1].calls >= 1
