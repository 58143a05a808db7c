"""An open-loop load: calls arrive by schedule, whether or not earlier ones have been answered.

A closed loop (a fixed number of workers, each waiting for its answer) slows down with the service, and so leaves out
exactly the calls that would have been slow. Here the latency of a call counts from its scheduled moment.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import httpx

from resilient.core.classify import PROGRAMMING_ERRORS

__all__ = ["Arrival", "Counted", "Load", "Record", "arrivals"]

Call = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call for item `number`, scheduled `at` seconds into the run."""

    at: float
    number: int


@dataclass(frozen=True, slots=True)
class Record:
    """A call that has ended: its scheduled moment, its latency from then, its error or None."""

    at: float
    latency: float
    error: str | None


def arrivals(seed: int, duration: float, rate: float) -> Iterator[Arrival]:
    """A Poisson schedule: `rate` calls a second on average, for `duration` seconds."""
    draw = random.Random(f"{seed}/arrivals")
    at = draw.expovariate(rate)
    while at < duration:
        yield Arrival(at, draw.randrange(10_000))
        at += draw.expovariate(rate)


class Load:
    """The calls of one side, and their records.

    Attributes:
        records: the calls that have ended, in order of their end.
        in_flight: the number of calls that have not ended.
        requests: the number of requests of these calls, as `Counted` counts them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: list[Record] = []
        self.in_flight = 0
        self.requests = 0

    @property
    def requests_per_call(self) -> float | None:
        """Requests per call made, or None before the first."""
        calls = len(self.records) + self.in_flight
        return self.requests / calls if calls else None

    async def run(self, schedule: Iterator[Arrival], get_item: Call, began: float) -> None:
        """Make the calls of `schedule`, from `began` (a `time.monotonic()`) on, until all have ended."""
        async with asyncio.TaskGroup() as calls:
            for arrival in schedule:
                await asyncio.sleep(began + arrival.at - time.monotonic())
                calls.create_task(self._call(arrival, get_item, began))

    async def _call(self, arrival: Arrival, get_item: Call, began: float) -> None:
        self.in_flight += 1
        error: str | None = None
        try:
            await get_item(arrival.number)
        except PROGRAMMING_ERRORS:
            raise  # a bug of the demo or the library: the run ends with its traceback
        except Exception as raised:
            error = _label(raised)
        finally:
            self.in_flight -= 1
        latency = time.monotonic() - began - arrival.at
        self.records.append(Record(arrival.at, latency, error))


class Counted(httpx.AsyncHTTPTransport):
    """httpx's own transport, which really sends. It counts each request for a load, before it looks for a
    connection."""

    def __init__(self, load: Load) -> None:
        super().__init__()
        self._load = load

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Count a request of the load, and send it to the service."""
        self._load.requests += 1
        return await super().handle_async_request(request)


def _label(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return str(error.response.status_code)
    return type(error).__name__
