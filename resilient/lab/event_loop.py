"""The event loop of a world: virtual time, and events that cost a fraction of an asyncio timer.

Most of what happens in a world is not a task that wakes up: a server finishes a request, a client arrives. Such an
event is a function with one argument in a heap of tuples, and runs between the loop's own steps.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import Handle
from collections.abc import Callable
from contextvars import Context
from heapq import heappop, heappush
from itertools import count
from typing import Any

from resilient.runtime.virtual import STEPS, VirtualLoop

__all__ = ["WorldLoop"]


class WorldLoop(VirtualLoop):
    """A virtual event loop with events of its own. Those of one moment happen in the order in which they were set."""

    def __init__(self) -> None:
        super().__init__(limit=math.inf)  # a world ends by itself
        self._events: list[tuple[float, int, Callable[[Any], object], Any]] = []
        self._number = count().__next__
        self.kept: set[asyncio.Task[Any]] = set()
        """Tasks that nobody else holds: an event loop keeps only weak references."""

    def at(self, moment: float, function: Callable[[Any], object], argument: Any = None) -> None:
        """Call `function(argument)` at `moment` (seconds on `time()`), which must not be over."""
        heappush(self._events, (moment, self._number(), function, argument))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """asyncio's timers are events, too: tuples compare 20 times faster than its own heap's handles."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._events, (max(when, self._now), self._number(), self._due, timer))
        return timer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """As any loop does, but for a `SystemExit` in a task: it has ended the run, which tells of it."""
        if not isinstance(context.get("exception"), SystemExit):
            super().call_exception_handler(context)

    def _due(self, timer: asyncio.TimerHandle) -> None:
        if not timer.cancelled():
            self._ready.append(timer)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # it is passed over when its time comes

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        """As asyncio's, in one call of a function instead of four."""
        if self._closed:
            self._check_closed()  # type: ignore[attr-defined]  # it raises
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _run_once(self) -> None:
        """A step of the loop, as asyncio's, which also has files to look at, and a heap of timers."""
        selector, ready = self._selector, self._ready
        selector.steps += 1
        if selector.steps > STEPS:
            selector.look()
        if not (ready or self._stopping):  # type: ignore[attr-defined]
            self.jump()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def jump(self) -> None:
        """Let events happen until one makes a task ready."""
        events, ready = self._events, self._ready
        while events:
            self._now, _, function, argument = heappop(events)
            function(argument)
            if ready:
                return
        super().jump()  # raises `Deadlock`
