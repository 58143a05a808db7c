"""An application with a guarded dependency, as a process of its own: calls, retries, a circuit, metrics.

    python -m tests.observe.outage_app URL...

It calls the URLs in turn, twenty times a second, until its standard input closes. It prints the port at which
Prometheus can scrape it.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading

import httpx
import prometheus_client

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout
from resilient.core.budget import Budget
from resilient.observe.prometheus import register

RATE = 20.0


async def main(urls: list[str]) -> None:
    """Call until standard input closes."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(over.set)), daemon=True).start()
    inventory = Pipeline(
        Timeout(4, name="total"),
        Retry(3, budget=Budget(cap=3)),
        Bulkhead(50, queue=50),
        CircuitBreaker(failure_rate=0.5, window_seconds=5, min_calls=10, break_duration=1, max_break=2),
        Timeout(1, name="attempt"),
        name="inventory",
    )
    turn = itertools.cycle(urls)

    async with httpx.AsyncClient(trust_env=False) as client:

        @inventory
        async def item(number: int) -> object:
            answer = await client.get(f"{next(turn)}/items/{number}")
            return answer.raise_for_status().json()

        async def call(number: int) -> None:
            try:
                await item(number)
            except Exception:  # as many services do: it is answered with an error, and goes on
                pass

        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                group.create_task(call(number))
                try:
                    await asyncio.wait_for(over.wait(), 1 / RATE)
                except TimeoutError:
                    continue
                break


if __name__ == "__main__":
    register()
    server, _ = prometheus_client.start_http_server(0, "127.0.0.1")
    print(server.server_port, flush=True)
    asyncio.run(main(sys.argv[1:]))
