"""Checks of a scenario: its loads make calls, and its faults can have an effect.

A load that never calls and a fault that hits nothing make every pipeline look good, so a `Scenario` refuses them. What
only a run can show (by chance no request met a fault) is reported after it, by `resilient.lab.objectives`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from resilient.faults import Crash, Fault, Latency, Slowness, Stall
from resilient.lab.load import Load, Replay
from resilient.lab.service_plan import FAULTS, ServicePlan, shard

__all__ = ["check"]

OF_SERVERS = (Crash, Slowness, Stall)
"""Faults of servers, not of requests: their targets cannot be keys."""


def check(duration: float, loads: Sequence[Load], faults: Sequence[Fault], service: ServicePlan, keys: int) -> None:
    """Raise `ValueError` for a load that never calls or a fault that cannot have an effect. The message names the key
    and the right values."""
    for at, load in enumerate(loads):
        try:
            load.check(duration)
        except ValueError as error:
            where = f"load[{at}]" if len(loads) > 1 else "load"
            raise ValueError(f"{where}.{error}") from None
    for at, fault in enumerate(faults):
        if not isinstance(fault, FAULTS):
            kinds = ", ".join(kind.kind for kind in FAULTS)
            raise ValueError(f"faults[{at}] must be one of {kinds}, got {fault.kind}")
        for target in fault.targeted:
            if (allowed := _allowed(fault, target, loads, service, keys)) is not None:
                raise ValueError(f"faults[{at}].targets must be {allowed}, got {target!r}")
        if fault.start >= duration:
            raise ValueError(
                f"faults[{at}].start must be before duration={duration:g}, got {fault.start:g}: no calls are made then"
            )
        if (wanted := _without_effect(fault)) is not None:
            raise ValueError(f"faults[{at}].{wanted}: such a fault changes nothing")


def _allowed(fault: Fault, target: int | str, loads: Sequence[Load], service: ServicePlan, keys: int) -> str | None:
    """The allowed targets of a fault, if this target hits nothing; None if the target is right."""
    servers = service.servers
    replayed = {key for load in loads if isinstance(load, Replay) for key in load.keys}
    drawn = any(not (isinstance(load, Replay) and load.keys) for load in loads)
    if isinstance(target, int):
        if target > servers:
            return f"servers from 1 to {servers}"
        if service.balance == "key":
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
    """Whether a target is one of the keys "1" to `keys`, without a list of them, which may be long."""
    return re.fullmatch("[1-9][0-9]{0,18}", target) is not None and int(target) <= keys


def _without_effect(fault: Fault) -> str | None:
    """The argument that leaves a fault without effect, and its right values; None if the fault has an effect."""
    if getattr(fault, "share", 1.0) == 0:
        return "share must be more than 0, got 0"
    if isinstance(fault, Slowness) and fault.factor == 1:
        return "factor must not be 1"
    if isinstance(fault, Latency) and fault.high == 0:
        return "high must be more than 0, got 0"
    return None
