"""Selects the faults that one request meets, of those that may happen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from resilient.faults.fault import Fault
from resilient.faults.kinds import Stall

__all__ = ["met"]


def met(
    faults: Iterable[Fault], at: float, hits: Callable[[Fault], bool], draw: random.Random
) -> list[tuple[Fault, float]]:
    """The faults that one request meets, in order, each with the seconds by which it delays the request.

    Args:
        faults: the faults that may happen, in this order.
        at: seconds from the start of the run at which the request arrives.
        hits: whether a fault hits the target of the request.
        draw: draws the shares and the delays.
    """
    found: list[tuple[Fault, float]] = []
    stalled = 0.0
    for fault in faults:
        if not (fault.is_on(at) and hits(fault) and fault.strikes(draw)):
            continue
        delay = fault.delay(at, draw)
        if isinstance(fault, Stall) and fault.end is not None:  # two at a time end when the later one does
            delay = max(0.0, delay - stalled)
            stalled += delay
        found.append((fault, delay))
    return found
