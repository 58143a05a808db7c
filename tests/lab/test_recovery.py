"""Recovery: five good seconds after the faults, by the calls made in them; or why it is not measurable."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from resilient import CircuitBreaker
from resilient.faults import Errors, Stall
from resilient.lab.candidates import NONE, candidate_from
from resilient.lab.distributions import Constant
from resilient.lab.load import Poisson, Replay
from resilient.lab.measures import Measures
from resilient.lab.recovery import recovery
from resilient.lab.service import ServicePlan
from resilient.lab.world import Run, Scenario, simulate

FAULT = Errors(start=10, end=20)


def lived(policy: Any = None, rate: float = 10, seed: int = 1, **changes: Any) -> Run:
    """Calls at equal distances for 30 s, each of which takes 50 ms; errors from 10 to 20 s."""
    moments = tuple(at / rate + 0.03 for at in range(int(30 * rate)))
    service = ServicePlan(Constant(0.05))
    settings = {"duration": 30, "loads": (Replay(moments),), "service": service, "faults": (FAULT,), **changes}
    return simulate(Scenario(**settings), NONE if policy is None else candidate_from("policy", policy), seed)


def test_service_that_is_well_again_at_once_has_recovered_in_no_time() -> None:
    """The first five seconds after the fault are good."""
    assert recovery(lived()).seconds == 0


def test_recovery_is_the_time_until_five_good_seconds() -> None:
    """A circuit stays open for some 4 s after the fault."""
    assert recovery(lived(CircuitBreaker(fail_max=1, break_duration=14))).seconds in (4, 5)


def test_without_five_good_seconds_there_is_no_recovery() -> None:
    """The circuit opens at 10 s and stays open until the end."""
    found = recovery(lived(CircuitBreaker(fail_max=1, break_duration=30)))

    assert (found.state, found.seconds) == ("never", None)


def test_late_answers_to_calls_of_the_fault_are_no_recovery() -> None:
    """A circuit opens during a stall; earlier calls succeed after it, and new calls are refused."""
    run = lived(
        CircuitBreaker(fail_max=20, slow=1, slow_rate=0.5, break_duration=3, max_break=3, min_calls=20),
        rate=40,
        faults=(Stall(start=10, end=20),),
        service=ServicePlan(Constant(0.05), workers=400),
    )
    calls = zip(run.begins, run.ends, run.outcomes, strict=True)
    late = sum(begin < 20 <= end < 25 for begin, end, outcome in calls if outcome == 0)
    assert late > 0.92 * 200  # more than five good seconds have, and none of them is a new call

    assert recovery(run).seconds in (3, 4)


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        ((), "no fault of the scenario ends"),
        ((Errors(start=10),), "no fault of the scenario ends"),
        (
            (Errors(start=10, end=26),),
            "the last fault ends at 26 s and calls are made until 30 s, which must be 31 s at least",
        ),
        (
            (FAULT, Errors(start=20, end=500, share=0.1)),
            "the last fault ends at 500 s and calls are made until 30 s, which must be 505 s at least",
        ),
    ],
)
def test_recovery_without_the_time_to_see_it_is_not_measurable(faults: tuple[Any, ...], why: str) -> None:
    """Neither recovery nor failure can be seen in so short a time."""
    found = recovery(lived(faults=faults))

    assert (found.state, found.seconds, found.unmeasurable) == ("not measurable", None, why)


@pytest.mark.parametrize("end", [24.9, 25])
def test_five_seconds_are_enough(end: float) -> None:
    """Less than five seconds are not, even by a fraction."""
    assert recovery(lived(faults=(Errors(start=10, end=end),))).seconds == 0


@pytest.mark.parametrize(("rate", "state"), [(1, "not measurable"), (1.5, "not measurable"), (2, "measured")])
def test_recovery_of_few_calls_is_not_measurable(rate: float, state: str) -> None:
    """With fewer than ten calls in five seconds, 92% is a matter of chance."""
    assert recovery(lived(rate=rate)).state == state


def test_time_without_calls_is_no_recovery() -> None:
    """If the load ends with the fault, recovery is not measurable."""
    found = recovery(lived(loads=(Poisson(((0, 10), (20, 0))),)))

    assert found.unmeasurable == "there are 0 calls at most in any 5 s after the last fault, and 10 are needed"


def test_calls_that_come_again_later_are_measured_then() -> None:
    """The load pauses when the fault ends, and returns three seconds later."""
    assert recovery(lived(loads=(Poisson(((0, 10), (20, 0), (23, 20))),))).seconds in (0, 1)


def made(*, good: int, bad: int) -> Run:
    """A run with these numbers of good and bad calls in the last ten seconds."""
    run = lived()
    run.begins = array("d", [20 + 10 * at / (good + bad) for at in range(good + bad)])
    run.outcomes = array("H", [0] * good + [2] * bad)
    return run


def test_recovery_of_several_runs_is_that_of_the_worst() -> None:
    """Never is worse than not measurable, which is worse than any time."""
    soon, few, never = lived(), made(good=4, bad=4), made(good=0, bad=100)
    late = lived(CircuitBreaker(fail_max=1, break_duration=14))

    assert Measures([soon, late, soon]).recovery == recovery(late).seconds
    assert Measures([soon, few, late]).worst_recovery.state == "not measurable"
    assert Measures([few, never, soon]).worst_recovery.state == "never"
    assert Measures([soon, never]).recovery is None
