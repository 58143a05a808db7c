"""What a scenario must name so that a run of it can say something: calls that come, faults that change something.

A load that never calls and a fault that hits nothing make every pipeline look well, so a `Scenario` that has one is
refused when it is made. What only a run can show (a fault that no request met by chance) is told after it, by
`resilient.lab.verdicts`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from resilient.faults import Crash, Fault, Latency, Slowness, Stall
from resilient.lab.load import Replay
from resilient.lab.service import FAULTS, shard

if TYPE_CHECKING:
    from resilient.lab.scenario import Scenario

__all__ = ["check"]

OF_SERVERS = (Crash, Slowness, Stall)
"""Faults that befall servers, not requests: they have no keys."""


def check(scenario: Scenario) -> None:
    """Refuse loads that never call and faults that cannot act, naming the key and what would be right.

    Raises `ValueError`.
    """
    for at, load in enumerate(scenario.loads):
        try:
            load.check(scenario.duration)
        except ValueError as error:
            where = f"load[{at}]" if len(scenario.loads) > 1 else "load"
            raise ValueError(f"{where}.{error}") from None
    for at, fault in enumerate(scenario.faults):
        if not isinstance(fault, FAULTS):
            kinds = ", ".join(kind.kind for kind in FAULTS)
            raise ValueError(f"faults[{at}] must be one of {kinds}, got {fault.kind}")
        for target in fault.targeted:
            if (allowed := _allowed(scenario, fault, target)) is not None:
                raise ValueError(f"faults[{at}].targets must be {allowed}, got {target!r}")
        if fault.start >= scenario.duration:
            raise ValueError(
                f"faults[{at}].start must be before duration={scenario.duration:g}, got {fault.start:g}: "
                "no calls are made then"
            )
        if (wanted := _without_effect(fault)) is not None:
            raise ValueError(f"faults[{at}].{wanted}: such a fault changes nothing")


def _allowed(scenario: Scenario, fault: Fault, target: int | str) -> str | None:
    """What a fault may have as its target, where this one hits nothing; None: it is right."""
    servers, keys = scenario.service.servers, scenario.keys
    replayed = {key for load in scenario.loads if isinstance(load, Replay) for key in load.keys}
    drawn = any(not (isinstance(load, Replay) and load.keys) for load in scenario.loads)
    if isinstance(target, int):
        if target > servers:
            return f"servers from 1 to {servers}"
        if scenario.service.balance == "key":
            known = {*map(str, range(1, min(keys, servers) + 1))} if drawn else set()
            if target - 1 not in {shard(key, servers) for key in known | replayed}:
                return f'a server that has one of the keys (clients.keys = {keys}, and balance is "key")'
        return None
    if isinstance(fault, OF_SERVERS):
        return "numbers of servers"
    if target in replayed or (drawn and _is_drawn(target, keys)):
        return None
    if not drawn:
        return "keys of the calls, or numbers of servers"
    named = f'keys from "1" to "{keys}"' if keys > 1 else 'the only key, "1"'
    return f"{named} (clients.keys = {keys}), or numbers of servers"


def _is_drawn(target: str, keys: int) -> bool:
    """Whether it is one of the keys "1" to `keys`; without a list of them, for they may be many."""
    return re.fullmatch("[1-9][0-9]{0,18}", target) is not None and int(target) <= keys


def _without_effect(fault: Fault) -> str | None:
    """Which argument lets a fault do nothing, and what it must be; None: it does something."""
    if getattr(fault, "share", 1.0) == 0:
        return "share must be more than 0, got 0"
    if isinstance(fault, Slowness) and fault.factor == 1:
        return "factor must not be 1"
    if isinstance(fault, Latency) and fault.high == 0:
        return "high must be more than 0, got 0"
    return None
