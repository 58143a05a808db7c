"""Servers with queues, where each request joins the shorter of two; for the hedges of `tail_under_load`.

20 servers handle one request at a time, first come first served: exponential with a mean of 1 s, and 1% of requests
stall for 20 s. A request joins the shorter of the queues of two servers drawn at random. Requests come as a Poisson
process, `load` times as many as the servers can handle. Each copy of a hedged request is a request of its own, and
leaves its queue when it is cancelled. A request in service is finished even if it is cancelled, unless servers `stop`
cancelled work: then the next request begins at once.
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
"""The mean seconds of a request."""


class Server:
    """A server that handles one request at a time, and its queue."""

    def __init__(self) -> None:
        self.queue: deque[tuple[asyncio.Future[None], float]] = deque()
        self.busy: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def length(self) -> int:
        """The number of requests in the queue and in service."""
        return len(self.queue) + (self.busy is not None)

    def take(self, done: asyncio.Future[None], seconds: float) -> None:
        self.queue.append((done, seconds))
        if self.busy is None:
            self.next()

    def next(self) -> None:
        self.busy = None
        if self.queue:
            self.busy, seconds = self.queue.popleft()
            self.timer = asyncio.get_running_loop().call_later(seconds, self.end)

    def end(self) -> None:
        if self.busy is not None and not self.busy.done():
            self.busy.set_result(None)
        self.next()

    def drop(self, done: asyncio.Future[None], stops: bool) -> None:
        """Remove a cancelled request from the queue; or, if it is in service and the server `stops` cancelled work, end
        it."""
        if self.busy is done:
            if stops and self.timer is not None:
                self.timer.cancel()
                self.next()
            return
        self.queue = deque(each for each in self.queue if each[0] is not done)


class Farm:
    """All servers. `requests` counts the requests they have received."""

    def __init__(self, generator: random.Random, *, stops: bool) -> None:
        self.servers = [Server() for _ in range(SERVERS)]
        self.generator = generator
        self.stops = stops
        self.requests = 0

    async def ask(self) -> None:
        """Make one request, at the server with the shorter queue of two."""
        self.requests += 1
        one, other = self.generator.sample(self.servers, 2)
        server = one if one.length <= other.length else other
        seconds = STALL if self.generator.random() < STALLS else self.generator.expovariate(1.0)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        server.take(done, seconds)
        try:
            await done
        except asyncio.CancelledError:
            server.drop(done, self.stops)
            raise


async def offer(
    ask: Callable[[], Any], load: float, warm_up: int, calls: int, generator: random.Random, begin: Callable[[], None]
) -> array[float]:
    """Make `warm_up` calls and then `calls` more, with `begin()` in between. Returns the seconds of each of the
    latter."""
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
            await asyncio.sleep(generator.expovariate(rate))
            group.create_task(call(number >= warm_up))
    return taken
