"""Objectives are missed if nothing was measured, runs that tested nothing are refused, and notes report the rest."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Fallback, Hedge, Pipeline, Retry, Timeout
from resilient.faults import Crash, Errors, Fault, Latency, PacketLoss, Partition, Reset, Slowness, Stall
from resilient.lab.candidates import NONE, Candidate, candidate_from
from resilient.lab.comparison import candidates, compared
from resilient.lab.distributions import Constant
from resilient.lab.load import Burst, Poisson, Replay
from resilient.lab.measures import Measures
from resilient.lab.objectives import check_tested, judged, notes, objectives
from resilient.lab.scenario_file import ScenarioError
from resilient.lab.service import ServicePlan
from resilient.lab.world import Scenario, simulate


def scenario(**changes: Any) -> Scenario:
    """Ten calls a second for 30 s, each of which takes 50 ms."""
    moments = tuple(at / 10 + 0.03 for at in range(300))
    return Scenario(**{"duration": 30, "loads": (Replay(moments),), "service": ServicePlan(Constant(0.05)), **changes})


def measured(world: Scenario, policy: Any = None, name: str = "policy") -> Measures:
    return Measures([simulate(world, NONE if policy is None else candidate_from(name, policy))])


def missed(found: Measures, **limits: float) -> list[str]:
    """The lines about missed objectives."""
    names = ("min_success", "max_p99", "max_attempts_per_call", "max_recovery")
    return [goal.miss(found) for goal in objectives(*map(limits.get, names)) if not goal.met(found)]


# -- objectives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "met"), [(3, False), (99, False), (100, True)])
@pytest.mark.parametrize("limit", [{"min_success": 0.5}, {"max_p99": 9.0}, {"max_attempts_per_call": 9.0}])
def test_objective_of_few_calls_is_not_measurable(calls: int, met: bool, limit: dict[str, float]) -> None:
    """It is missed even if all calls succeed at once."""
    lines = missed(measured(scenario(loads=(Burst(calls),))), **limit)

    assert (not lines) == met
    assert all("not measurable: calls" in line and "at least (a longer duration" in line for line in lines)


@pytest.mark.parametrize("share", [0.6, 0.8, 1.0])
def test_p99_of_few_successes_is_not_measurable(share: float) -> None:
    """Of 300 calls the few that succeed are fast, and say nothing about the others."""
    world = scenario(faults=(Errors(share=share),))
    found = measured(world)

    lines = missed(found, max_p99=9)
    assert (len(found.latencies) >= 100) == (not lines)
    assert all(f"there were {len(found.latencies)}" in line for line in lines)


def test_requests_of_calls_that_send_none_are_not_measurable() -> None:
    """A circuit that is always open sends no request, so nothing is measured."""
    found = Measures([simulate(scenario(), Candidate("isolated", _isolated))])

    assert found.requests == 0
    assert missed(found, max_attempts_per_call=1) == [
        "isolated: --max-attempts-per-call: not measurable: the service was sent no request"
    ]


def _isolated() -> Any:
    breaker = CircuitBreaker()
    breaker.isolate()
    return breaker


def test_recovery_that_is_not_measurable_misses_and_says_why() -> None:
    """Any bound is missed if there is too little time, or no fault to recover from."""
    short = measured(scenario(faults=(Errors(start=5, end=27),)))
    calm = measured(scenario())

    assert missed(short, max_recovery=1000) == [
        "none: --max-recovery: not measurable: the last fault ends at 27 s and calls are made until 30 s, "
        "which must be 32 s at least"
    ]
    assert missed(calm, max_recovery=1000) == ["none: --max-recovery: not measurable: no fault of the scenario ends"]


def test_verdicts_as_data_say_what_is_not_measurable() -> None:
    """The reason stands beside the value, if there is one."""
    found = measured(scenario(loads=(Burst(3),)))
    goals = objectives(0.5, None, None, 1)

    success, recovery = judged([found], goals)
    assert (success["value"], success["met"]) == (1.0, False)
    assert success["not_measurable"].startswith("calls must be 100 at least")
    assert (recovery["value"], recovery["met"]) == (None, False)
    assert recovery["not_measurable"] == "no fault of the scenario ends"


# -- what was not tested ----------------------------------------------------------------------------------------------

LOADED = {"loads": (Poisson(40),), "service": ServicePlan(Constant(0.05), servers=2, workers=5)}
FAULTS: list[Fault] = [
    Crash(start=5, end=10),
    Errors(start=5, end=10, share=0.5),
    Latency(start=5, end=10, high=0.1),
    PacketLoss(start=5, end=10, share=0.3),
    Partition(start=5, end=10),
    Reset(start=5, end=10),
    Reset(start=5, end=10, phase="connect"),
    Slowness(start=5, end=10, factor=2),
    Stall(start=5, end=10),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{getattr(fault, 'phase', '')}")
def test_every_kind_of_fault_is_counted_by_the_requests_that_it_changes(fault: Fault) -> None:
    """About 200 requests come during the fault, and none if the calls pause then."""
    found = measured(scenario(faults=(fault,), **LOADED), Timeout(1))
    (acted,) = found.acted
    assert 30 < acted < 260

    pause = {**LOADED, "loads": (Poisson(((0, 40), (4, 0), (11, 40))),)}
    idle = measured(scenario(faults=(fault,), **pause), Timeout(1))
    assert idle.acted == [0]
    with pytest.raises(ValueError, match=r"faults\[0\] .* changed nothing for any request"):
        check_tested(scenario(faults=(fault,), **pause), [idle])


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"service": ServicePlan(Constant(0.05), failure_rate=1)}, (Errors(),)),
        ({"service": ServicePlan()}, (Slowness(factor=9),)),
        ({}, (Partition(), Errors())),
        ({}, (Errors(status=503), Errors(status=500))),
        ({"loads": (Burst(50, at=1),)}, (Errors(start=2),)),
        ({"loads": (Burst(50),)}, (Errors(share=1e-9),)),
    ],
)
def test_fault_that_no_request_meets_is_refused(changes: dict[str, Any], faults: tuple[Fault, ...]) -> None:
    """Work that takes no time, faults hidden by others, calls that have ended, shares that chance leaves empty."""
    world = scenario(faults=faults, **changes)

    with pytest.raises(ScenarioError, match=rf"^faults\[{len(faults) - 1}\] .* changed nothing for any request: its"):
        compared(world, [NONE], seed=1, runs=2)


def test_fault_whose_requests_wait_in_line_says_that_no_work_began() -> None:
    """Its time and targets are right, but the workers are busy."""
    busy = scenario(service=ServicePlan(Constant(40), workers=1), faults=(Slowness(factor=2, start=5, end=10),))

    with pytest.raises(ScenarioError, match=r"requests were sent meanwhile, but no work began: all workers were busy"):
        compared(busy, [NONE], seed=1, runs=1)


def test_fault_that_one_of_several_pipelines_meets_was_tested() -> None:
    """A pipeline whose requests did not meet the fault gets a note."""
    world = scenario(faults=(Errors(start=5, end=10), Latency(start=10, end=15, high=0.1)))
    shut = candidate_from("shut", CircuitBreaker(fail_max=1, break_duration=60, max_break=60))
    found = compared(world, [NONE, shut], seed=1, runs=1)

    assert "shut: 100% of answers 0-0.1 s late (10-15 s) changed nothing for its requests" in notes(world, found, ())


def test_load_of_a_priority_without_calls_is_refused() -> None:
    """By chance: about one such call comes in three hours."""
    world = scenario(loads=(Poisson(10), Poisson(0.0001, priority="critical")))

    with pytest.raises(ScenarioError, match=r"^load\[1\] made no critical calls: it must have a higher rate"):
        compared(world, [NONE], seed=1, runs=1)


def test_scenario_without_calls_is_refused() -> None:
    """The load is so low that chance makes no call."""
    with pytest.raises(ScenarioError, match=r"^no calls were made in 30 s"):
        compared(scenario(loads=(Poisson(0.0001),)), [NONE], seed=1, runs=3)


# -- notes ------------------------------------------------------------------------------------------------------------


def noted(world: Scenario, *policies: Any, **limits: float) -> list[str]:
    chosen = [candidate_from(name, policy) for name, policy in zip("abc", policies, strict=False)]
    names = ("min_success", "max_p99", "max_attempts_per_call", "max_recovery")
    return notes(world, compared(world, chosen, seed=1, runs=1), objectives(*map(limits.get, names)))


def test_pipelines_that_do_the_same_are_noted() -> None:
    """Two pipelines with different names have exactly the same results."""
    world = scenario(faults=(Errors(start=5, end=10, share=0.5),))

    found = noted(world, Retry(2, wait=0), Pipeline(Retry(2, wait=0), Bulkhead(1000)), Retry(3, wait=0))
    assert found == ["b did exactly what a did: this scenario does not tell them apart"]


def test_pipelines_without_anything_to_do_are_noted() -> None:
    """Every call succeeded at once; a hedge, a retry or a substitute would be something to do."""
    idle = "a: each call succeeded with one request, so its policies had nothing to do"

    assert noted(scenario(), Retry(3)) == [idle]
    assert noted(scenario(), Hedge(delay=0.01)) == []
    assert noted(scenario(service=ServicePlan(failure_rate=0.01)), Fallback("old")) == []


def test_pipelines_that_only_watch_are_not_said_to_be_alike() -> None:
    """In shadow mode no pipeline changes its calls."""
    world = scenario()
    found = compared(world, [candidate_from(name, Retry(3)) for name in "ab"], seed=1, runs=1)

    assert len(notes(world, found, ())) == 3
    assert notes(world, found, (), shadow=True) == []


def test_unfinished_calls_are_noted() -> None:
    """One worker takes 20 s for each of 300 calls, so the queue remains."""
    world = scenario(service=ServicePlan(Constant(20), workers=1), drain=5)

    assert noted(world, Timeout(1000)) == [
        "a: 299 calls were not finished 5 s after the last one was made; they count as failures"
    ]


def test_p99_of_a_part_of_the_calls_is_noted() -> None:
    """No note if an objective bounds the others."""
    world = scenario(service=ServicePlan(Constant(0.05), failure_rate=0.1))
    (line,) = noted(world, Timeout(1), max_p99=1)

    assert line.endswith("% of calls that succeed; --min-success bounds the others")
    assert noted(world, Timeout(1), max_p99=1, min_success=0.5) == []


def test_recovery_that_is_not_measurable_is_noted_once() -> None:
    """One note for all pipelines; none if no fault ends, because then the table has no recovery."""
    late = noted(scenario(faults=(Errors(start=5, end=27),)), Retry(2, wait=0), Timeout(1))

    assert late == [
        "recovery is not measurable: the last fault ends at 27 s and calls are made until 30 s, "
        "which must be 32 s at least"
    ]
    assert noted(scenario(faults=(Errors(),)), Timeout(1)) == []


def test_candidates_of_a_scenario_without_pipelines_are_none() -> None:
    """Calls are then made without any policy."""
    assert candidates(scenario(), ()) == [NONE]
