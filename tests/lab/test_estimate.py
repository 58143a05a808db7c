"""The cost of a simulation is estimated before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilient import Pipeline, Retry
from resilient.lab import estimate as lab
from resilient.lab.candidates import NONE, candidate_from
from resilient.lab.distributions import Constant
from resilient.lab.estimate import estimate
from resilient.lab.load import Burst, Closed, Load, Poisson, Replay
from resilient.lab.service import ServicePlan
from resilient.lab.world import CandidateError, Scenario, simulate

TENTH = ServicePlan(service_time=Constant(0.1))


@pytest.mark.parametrize(
    ("load", "calls"),
    [
        (Poisson(50), 500),
        (Poisson(((0, 10), (5, 100), (8, 0))), 350),
        (Burst(7, at=1), 7),
        (Burst(7, at=0.5, every=1), 70),
        (Closed(4, think=Constant(0.4)), 80),
        (Replay((1.0, 2.0, 3.0)), 3),
    ],
)
def test_calls_of_a_load_are_what_it_makes(load: Load, calls: float) -> None:
    """The estimated number of calls is close to that of a run."""
    scenario = Scenario(duration=10, loads=(load,), service=TENTH)
    found = estimate(scenario, [NONE], runs=1)
    made = len(simulate(scenario, NONE).begins)

    assert found.calls == pytest.approx(calls, rel=0.1)
    assert made == pytest.approx(calls, rel=0.1)


def test_calls_are_those_of_all_pipelines_and_runs() -> None:
    """A comparison of three pipelines, each run twice, has six times the calls."""
    scenario = Scenario(duration=10, loads=(Poisson(50),))
    assert estimate(scenario, [NONE] * 3, runs=2).calls == 3000


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({"loads": (Poisson(1e9),)}, "load.rate"),
        ({"loads": (Poisson(1), Closed(10**9))}, "load[1].users"),
        ({"loads": (Burst(1, every=1e-9),)}, "load.calls"),
        ({"clients": 10**9}, "clients.instances"),
        ({"service": ServicePlan(servers=10**6, admission=Retry(2))}, "service.servers"),
    ],
)
def test_what_costs_most_is_named(changes: dict[str, Any], most: str) -> None:
    """The message names the setting with too many zeros."""
    found = estimate(Scenario(**{"duration": 60, "loads": (Poisson(1),), **changes}), [NONE], runs=1)

    assert found.most == most
    assert found.is_large
    assert str(found).endswith(f"at least, most for {most}")


def test_figures_are_rounded_for_people() -> None:
    """Two digits, and a word for the size."""
    scenario = Scenario(duration=60, loads=(Poisson(1e9),), service=TENTH)
    assert str(estimate(scenario, [NONE], runs=1)).startswith("60 billion calls, 17 days and 9,700 GB of memory")


def test_usual_scenario_is_not_large() -> None:
    """A minute of a thousand calls a second."""
    found = estimate(Scenario(duration=60, loads=(Poisson(1000),), clients=20), [NONE] * 3, runs=5)
    assert found.fits
    assert not found.is_large


def test_what_the_machine_has_not_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of the machine is taken from the system, if it is known."""
    scenario = Scenario(duration=60, loads=(Poisson(1000),))
    monkeypatch.setattr(lab, "_memory_there_is", lambda: 1e6)
    assert not estimate(scenario, [NONE], runs=1).fits


def test_memory_of_a_container_is_what_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a container counts, and "max" is no limit."""
    monkeypatch.setattr(lab, "CONTAINER", tmp_path / "memory.max")
    there_is = lab._memory_there_is()
    for written, limit in (("1000000\n", 1e6), ("max\n", there_is)):
        lab.CONTAINER.write_text(written)
        assert lab._memory_there_is() == limit


def test_run_whose_calls_repeat_without_end_is_given_up() -> None:
    """Retries without a pause in one moment of virtual time end the run with an error."""
    scenario = Scenario(duration=10, loads=(Burst(1),), service=ServicePlan(failure_rate=1.0))
    candidate = candidate_from("endless", Pipeline(Retry(10**9, wait=0)))

    with pytest.raises(CandidateError, match=r"^endless: more than 5,000 requests were sent in 0 s of the run"):
        simulate(scenario, candidate, most_requests=5_000)
