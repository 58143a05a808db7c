"""Scenarios that could test nothing are refused: loads that never call, faults that act on nothing."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.faults import Crash, Errors, Latency, PacketLoss, Partition, Reset, Slowness, Stall
from resilient.lab.distributions import Constant
from resilient.lab.load import Burst, Closed, Poisson, Replay
from resilient.lab.service import ServicePlan
from resilient.lab.world import Scenario

SHARDS = ServicePlan(servers=3, balance="key")
NAMED = Replay((0.0, 1.0), ("ann", "bob"))


def scenario(**changes: Any) -> Scenario:
    """A minute with ten calls a second, with changes."""
    return Scenario(**{"duration": 60, "loads": (Poisson(10),), **changes})


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (Poisson(0), "load.rate must be more than 0 at some time, got 0"),
        (Poisson(((0, 0), (30, 0))), "load.rate must be more than 0 at some time, got 0"),
        (Poisson(((0, 10), (60, 100))), "load.rate[1][0] must be before duration=60, got 60"),
        (Burst(10, at=60), "load.at must be before duration=60, got 60"),
        (Burst(10, at=2, every=58), "load.every must be less than 58, from at=2 to duration=60, got 58"),
        (Closed(5, think=Constant(60)), "load.think must be less than duration=60, got 60"),
        (Replay(()), "load.moments must begin before duration=60, got none"),
        (Replay((60.0, 61.0)), "load.moments must begin before duration=60, got 60 first"),
    ],
)
def test_load_that_never_comes_is_refused(load: Any, message: str) -> None:
    """And so are steps and repetitions of a load that come after the end."""
    with pytest.raises(ValueError, match=r"^load") as caught:
        scenario(loads=(load,))

    assert str(caught.value).startswith(message)


def test_one_of_several_loads_that_never_comes_is_refused() -> None:
    """The message has the number of the load among all."""
    with pytest.raises(ValueError, match=r"^load\[1\]\.rate must be more than 0"):
        scenario(loads=(Poisson(10), Poisson(0, priority="critical")))


@pytest.mark.parametrize("late", [60, 61.5, 600])
def test_fault_that_begins_after_the_last_call_is_refused(late: float) -> None:
    """No call would meet the fault."""
    with pytest.raises(ValueError, match=rf"^faults\[1\]\.start must be before duration=60, got {late:g}"):
        scenario(faults=(Stall(start=10, end=20), Errors(start=late)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Errors(share=0), "faults[0].share must be more than 0, got 0"),
        (Reset(share=0), "faults[0].share must be more than 0, got 0"),
        (PacketLoss(share=0), "faults[0].share must be more than 0, got 0"),
        (Latency(share=0, high=1), "faults[0].share must be more than 0, got 0"),
        (Latency(high=0), "faults[0].high must be more than 0, got 0"),
        (Slowness(factor=1), "faults[0].factor must not be 1"),
    ],
)
def test_fault_that_changes_nothing_is_refused(fault: Any, message: str) -> None:
    """The report would name a fault that no pipeline has met."""
    with pytest.raises(ValueError, match=r"^faults\[0\]") as caught:
        scenario(faults=(fault,))

    assert str(caught.value) == f"{message}: such a fault changes nothing"


@pytest.mark.parametrize(
    ("changes", "target", "message"),
    [
        ({}, "srv-2", 'the only key, "1" (clients.keys = 1), or numbers of servers'),
        ({}, "2", 'the only key, "1" (clients.keys = 1), or numbers of servers'),
        ({"keys": 20}, "21", 'keys from "1" to "20" (clients.keys = 20), or numbers of servers'),
        ({"keys": 20}, "01", 'keys from "1" to "20" (clients.keys = 20), or numbers of servers'),
        ({"keys": 20}, "²", 'keys from "1" to "20" (clients.keys = 20), or numbers of servers'),
        ({"keys": 20}, "9" * 5000, 'keys from "1" to "20" (clients.keys = 20), or numbers of servers'),
        ({"loads": (NAMED,)}, "1", "keys of the calls, or numbers of servers"),
        ({"loads": (NAMED,)}, "eve", "keys of the calls, or numbers of servers"),
        ({}, 2, "servers from 1 to 1"),
        (
            {"service": SHARDS, "keys": 2},
            3,
            'a server that has one of the keys (clients.keys = 2, and balance is "key")',
        ),
    ],
)
def test_target_that_is_no_server_and_no_key_is_refused(changes: dict[str, Any], target: Any, message: str) -> None:
    """A wrong target is refused alone and beside right ones."""
    for targets in (target, (1, target)):
        with pytest.raises(ValueError, match=r"^faults\[0\]\.targets must be") as caught:
            scenario(faults=(Errors(targets=targets),), **changes)

        assert str(caught.value) == f"faults[0].targets must be {message}, got {target!r}"


@pytest.mark.parametrize("kind", [Crash, Stall])
def test_fault_of_servers_has_no_keys(kind: Any) -> None:
    """A key as the target is refused even if calls have it."""
    with pytest.raises(ValueError, match=r"^faults\[0\]\.targets must be numbers of servers, got '1'"):
        scenario(faults=(kind(targets="1"),), keys=3)


def test_targets_that_calls_can_meet_are_right() -> None:
    """Drawn keys, replayed keys, servers, and shards with a key are accepted, whatever the number of keys."""
    scenario(keys=10**9, faults=(Errors(targets=("1", "7", str(10**9), 1)),))
    scenario(loads=(NAMED,), faults=(Partition(targets="bob"),))
    scenario(loads=(NAMED, Poisson(1)), faults=(Errors(targets=("ann", "1")),))
    scenario(service=SHARDS, keys=3, faults=(Crash(start=1, end=2, targets=(1, 2, 3)),))
