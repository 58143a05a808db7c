"""Servers with queues, each chosen as the shorter of two: what hedges do to load, for `tail`.

20 servers serve one request at a time, first come first served: exponential with a mean of 1 s, and 1% of requests
stall for 20 s. A request goes to the shorter of the queues of two servers drawn at random. Requests come as a Poisson
process, `load` times as many as the servers could serve. Each copy of a hedged request is a request of its own, and
leaves its line when its caller has gone. What is being served then is served to its end, unless the server `stops`: it
takes up the next one then, at once.
"""

from __future__ import annotations

import asyncio
import random
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["MEAN_SERVICE", "SERVERS", "Farm", "offer"]

SERVERS = 20
STALLS, STALL = 0.01, 20.0
MEAN_SERVICE = (1 - STALLS) + STALLS * STALL
"""Seconds."""


class Server:
    """One at a time."""

    def __init__(self) -> None:
        self.line: deque[tuple[asyncio.Future[None], float]] = deque()
        self.busy: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def length(self) -> int:
        """Requests in it."""
        return len(self.line) + (self.busy is not None)

    def take(self, done: asyncio.Future[None], seconds: float) -> None:
        self.line.append((done, seconds))
        if self.busy is None:
            self.next()

    def next(self) -> None:
        self.busy = None
        if self.line:
            self.busy, seconds = self.line.popleft()
            self.timer = asyncio.get_running_loop().call_later(seconds, self.end)

    def end(self) -> None:
        if self.busy is not None and not self.busy.done():
            self.busy.set_result(None)
        self.next()

    def drop(self, done: asyncio.Future[None], stops: bool) -> None:
        """Its caller has gone: it leaves the line, and stops being served if the server `stops`."""
        if self.busy is done:
            if stops and self.timer is not None:
                self.timer.cancel()
                self.next()
            return
        self.line = deque(each for each in self.line if each[0] is not done)


class Farm:
    """All servers. `requests`: how many they were sent."""

    def __init__(self, dice: random.Random, *, stops: bool) -> None:
        self.servers = [Server() for _ in range(SERVERS)]
        self.dice = dice
        self.stops = stops
        self.requests = 0

    async def ask(self) -> None:
        """One request, at the shorter of two."""
        self.requests += 1
        one, other = self.dice.sample(self.servers, 2)
        server = one if one.length <= other.length else other
        seconds = STALL if self.dice.random() < STALLS else self.dice.expovariate(1.0)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        server.take(done, seconds)
        try:
            await done
        except asyncio.CancelledError:
            server.drop(done, self.stops)
            raise


async def offer(
    ask: Callable[[], Any], load: float, warm_up: int, calls: int, dice: random.Random, begin: Callable[[], None]
) -> array[float]:
    """Seconds that each of `calls` took, after as many as `warm_up`; `begin()` is called between the two."""
    loop, taken = asyncio.get_running_loop(), array("d")
    rate = load * SERVERS / MEAN_SERVICE

    async def call(counted: bool) -> None:
        began = loop.time()
        await ask()
        if counted:
            taken.append(loop.time() - began)

    async with asyncio.TaskGroup() as group:
        for number in range(warm_up + calls):
            if number == warm_up:
                begin()
            await asyncio.sleep(dice.expovariate(rate))
            group.create_task(call(number >= warm_up))
    return taken
