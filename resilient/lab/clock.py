"""The event loop of a world: virtual time, and events that cost a fraction of an asyncio timer.

Most of what happens in a world is not a task that wakes up: a server finishes a request, a client arrives. Such an
event is a function with one argument in a heap of tuples, and runs between the loop's own steps.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

from resilient.runtime.virtual import VirtualLoop

__all__ = ["WorldLoop"]


class WorldLoop(VirtualLoop):
    """A virtual event loop with events of its own. Those of one moment happen in the order in which they were set."""

    def __init__(self) -> None:
        super().__init__()
        self._events: list[tuple[float, int, Callable[[Any], object], Any]] = []
        self._number = count().__next__
        self.kept: set[asyncio.Task[Any]] = set()
        """Tasks that nobody else holds: an event loop keeps only weak references."""

    def at(self, moment: float, function: Callable[[Any], object], argument: Any = None) -> None:
        """Call `function(argument)` at `moment` (seconds on `time()`), which must not be over."""
        heappush(self._events, (moment, self._number(), function, argument))

    def _next_timer(self) -> float:
        scheduled = self._scheduled  # type: ignore[attr-defined]
        if not scheduled:
            return math.inf
        first = scheduled[0]
        if not first.cancelled():
            return float(first.when())
        return min((handle.when() for handle in scheduled if not handle.cancelled()), default=math.inf)

    def jump(self) -> None:
        """Let events happen until one makes a task ready, or an asyncio timer is due."""
        events, ready = self._events, self._ready  # type: ignore[attr-defined]
        timer = self._next_timer()
        while events and events[0][0] <= timer:
            moment, _, function, argument = heappop(events)
            self._now = moment
            function(argument)
            if ready:
                return
            timer = self._next_timer()
        if timer == math.inf:
            super().jump()  # raises `Deadlock`
        self._now = max(self._now, timer)
