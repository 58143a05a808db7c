"""Whether hedged clients lose connections: a pool of 10 connections, 8 callers, and every loser cancelled; for
`hedging`.

A connection is lost if it is neither idle nor closed after all calls have ended. Plain httpx with cancelled copies
loses one now and then (httpcore 1.0.9), and its tail grows as the pool shrinks. So the p99.9 is given for the first
half of the calls and for the second."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Sequence

from benchmarks.harness.report import Bar, Figure
from benchmarks.harness.statistics import quantile

__all__ = ["LIBRARIES", "keep"]

LIBRARIES = ("httpx", "httpx2")
CALLERS, CONNECTIONS = 8, 10


async def keep(origin: str, calls: int) -> list[Figure]:
    """Make `calls` hedged calls with each library. Returns a row for each, with the bar that no connection is lost."""
    return [await _kept(name, f"{origin}/kept-{name}", calls) for name in LIBRARIES]


async def _kept(name: str, url: str, calls: int) -> Figure:
    from resilient import Hedge, Pipeline, Timeout
    from resilient import quantile as observed
    from resilient.runtime import current_async

    library, ours = importlib.import_module(name), importlib.import_module(f"resilient.http.{name}")
    hedge = Hedge(observed(0.9, initial=0.02))
    limits = library.Limits(max_connections=CONNECTIONS, max_keepalive_connections=2)
    transport = ours.AsyncTransport(Pipeline(Timeout(30), hedge, Timeout(10)), limits=limits)
    times: list[float] = []
    numbers = iter(range(calls))
    async with library.AsyncClient(transport=transport, timeout=30) as client:

        async def caller() -> None:
            for number in numbers:
                began = time.perf_counter()
                await client.get(f"{url}/{number}")
                times.append(1000 * (time.perf_counter() - began))

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        await transport.pipeline._drain(current_async())
        pool = transport.transport._pool
        lost = sum(not (each.is_idle() or each.is_closed()) for each in pool.connections)
    half = len(times) // 2
    return Figure(
        f"{calls:,} hedged calls over {CONNECTIONS} connections",
        name,
        {
            "lost": lost + len(pool._requests),
            **_tail(times[:half], "p999_ms"),
            **_tail(times[half:], "p999_then_ms"),
        },
        Bar("lost", 0),
        ours=True,
        note=f"{transport.pipeline.policies[1].snapshot()['started']:,} copies",
    )


def _tail(times: Sequence[float], key: str) -> dict[str, float]:
    return {key: round(quantile(times, 0.999), 3)}
