"""The world against closed forms: queues, retries, hedges. Expected values are computed, not measured."""

from __future__ import annotations

import math

import pytest

from resilient import Hedge, Retry
from resilient.lab.candidates import NONE, candidate_from
from resilient.lab.distributions import Exponential
from resilient.lab.load import Poisson
from resilient.lab.service import ServicePlan
from resilient.lab.world import Run, Scenario, simulate


def sojourns(run: Run) -> list[float]:
    return [end - begin for begin, end in zip(run.begins, run.ends, strict=True)]


def queue(workers: int, load: float, seconds: float = 0.01, calls: int = 60_000) -> list[float]:
    """Times in an M/M/c queue with utilisation `load`, after it has warmed up."""
    rate = load * workers / seconds
    plan = ServicePlan(service_time=Exponential(seconds), workers=workers)
    run = simulate(Scenario(duration=calls / rate, loads=(Poisson(rate),), service=plan), NONE, seed=3)
    return sojourns(run)[1000:]


def erlang_c(workers: int, load: float) -> float:
    """The probability that a request must wait."""
    offered = load * workers
    busy = offered**workers / math.factorial(workers) / (1 - load)
    return busy / (sum(offered**number / math.factorial(number) for number in range(workers)) + busy)


def beyond(numbers: list[float], limit: float) -> float:
    return sum(number > limit for number in numbers) / len(numbers)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_worker_takes_as_long_as_m_m_1(load: float) -> None:
    """The time in the system is exponential with the mean s / (1 - rho): the mean and two points of the tail agree."""
    found = queue(1, load)
    mean = 0.01 / (1 - load)

    assert sum(found) / len(found) == pytest.approx(mean, rel=0.06)
    assert beyond(found, mean) == pytest.approx(math.exp(-1), rel=0.06)
    assert beyond(found, 3 * mean) == pytest.approx(math.exp(-3), rel=0.2)


@pytest.mark.parametrize(("workers", "load"), [(4, 0.6), (20, 0.85)])
def test_several_workers_take_as_long_as_m_m_c(workers: int, load: float) -> None:
    """Erlang's C is the probability of waiting; the wait is exponential, with the rate c mu - lambda."""
    seconds = 0.01
    found = queue(workers, load, seconds)
    waits, drain = erlang_c(workers, load), (1 - load) * workers / seconds
    mean = seconds + waits / drain

    def tail(limit: float) -> float:
        rate = 1 / seconds
        hypo = (drain * math.exp(-rate * limit) - rate * math.exp(-drain * limit)) / (drain - rate)
        return (1 - waits) * math.exp(-rate * limit) + waits * hypo

    assert sum(found) / len(found) == pytest.approx(mean, rel=0.05)
    for limit in (mean, 3 * mean):
        assert beyond(found, limit) == pytest.approx(tail(limit), rel=0.15)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_retries_succeed_and_cost_as_the_geometric_series_says(share: float) -> None:
    """1 - f^(R+1) of the calls succeed, with (1 - f^(R+1)) / (1 - f) requests each."""
    scenario = Scenario(duration=20, loads=(Poisson(500),), service=ServicePlan(failure_rate=share))
    run = simulate(scenario, candidate_from("three retries", Retry(4, wait=0)), seed=5)
    calls = len(run.begins)

    assert run.outcomes.count(0) / calls == pytest.approx(1 - share**4, abs=0.012)
    assert len(run.sent) / calls == pytest.approx((1 - share**4) / (1 - share), rel=0.02)
    assert sum(run.requests) == len(run.sent)


def test_hedge_takes_as_long_as_the_quicker_of_two() -> None:
    """The survival function is S(t) before the delay, S(t) S(t - d) after it; S(d) more requests are sent."""
    delay, mean = 0.05, 0.05
    scenario = Scenario(duration=40, loads=(Poisson(500),), service=ServicePlan(service_time=Exponential(mean)))
    run = simulate(scenario, candidate_from("hedge", Hedge(delay)), seed=7)
    found = sojourns(run)

    for limit in (0.03, 0.08, 0.12):
        expected = math.exp(-limit / mean) * (math.exp(-(limit - delay) / mean) if limit > delay else 1)
        assert beyond(found, limit) == pytest.approx(expected, rel=0.06)
    assert len(run.sent) / len(found) - 1 == pytest.approx(math.exp(-delay / mean), rel=0.05)
