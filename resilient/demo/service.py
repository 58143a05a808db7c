"""The service that the demo calls, and two clients for it: a plain one, as in most code, and a guarded one.

Both clients are plain `httpx.AsyncClient`s, and `get_item` is the same for both; only the transport differs. The
guarded client has two of our transports, one around the service and one around each of its processes, because they
decide different questions. Whether and when a request is sent again concerns the service: a further attempt goes to the
next process. Which process to avoid concerns one process: a circuit over all of them would reject the healthy ones too.

    standard_hedged: Timeout 2 s ─ Retry ─ Hedge 50 ms ─ ... ─ Timeout 0.4 s ─ InTurn ─┬─ CircuitBreaker ─ process 1
                                                                                       ├─ CircuitBreaker ─ process 2
                                                                                       └─ CircuitBreaker ─ process 3

(The dots stand for the preset's bulkhead and its circuit, here that of the service as a whole.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from resilient import Budget, CircuitBreaker, CircuitOpen, Pipeline, events, standard_hedged
from resilient.http.httpx import AsyncTransport

__all__ = ["SERVICE", "InTurn", "get_item", "plain_client", "resilient_client"]

SERVICE = "http://inventory"

Item = dict[str, Any]


async def get_item(client: httpx.AsyncClient, number: int) -> Item:
    """Fetch one item of the inventory; an error status is raised."""
    response = await client.get(f"{SERVICE}/items/{number}")
    response.raise_for_status()
    item: Item = response.json()
    return item


def plain_client(processes: Sequence[str], send: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    """A client without policies: its only protection is httpx's own timeout of 5 s."""
    return httpx.AsyncClient(transport=InTurn(processes, send))


def resilient_client(
    processes: Sequence[str],
    send: httpx.AsyncBaseTransport,
    rate: float,
    on_event: Callable[[events.Event], object],
) -> httpx.AsyncClient:
    """A guarded client for some `rate` calls a second; `on_event` is called with the events of its policies."""
    service = standard_hedged(
        "inventory",
        # Healthy answers take 17 ms, and 99% of them less than 45. A call that takes longer than 50 ms has met a fault,
        # or is one of the slow ones (2% of all). A failure starts the second copy at once.
        delay=0.05,
        # Slow answers take 0.5 s and more, so waiting for longer than 0.4 s gains nothing.
        attempt=0.4,
        # Three attempts, their hedges and the pauses between them take 3 x (0.05 + 0.4) + 0.3 = 1.65 s at the most.
        total=2.0,
        # When 30% of all requests fail, and so do 30% of the repeats, it takes 43% more to answer all calls. For 2 s of
        # that, 20% of the successes (Finagle's share) and the tokens saved before, as many as a second has calls,
        # are enough. The default (10%, and 10 saved) is not: with it 2-3% of the calls of a whole run fail.
        budget=Budget(0.2, cap=rate),
    )
    process = Pipeline(
        CircuitBreaker(
            fail_max=10,  # failures in a row: at once for a dead process, very rare for a fault of all
            slow=0.05,  # an attempt overtaken by its hedge is a failure, so a hanging process is avoided too
            break_duration=0.5,  # about what a restart takes; calls go elsewhere meanwhile
            max_break=5.0,  # doubled at every failed probe, but no longer than a deploy
        ),
        name="inventory-process",
    )
    for pipeline in (service, process):
        pipeline.listen(on_event)
    sequential = InTurn(processes, AsyncTransport(process, transport=send))
    return httpx.AsyncClient(transport=AsyncTransport(service, transport=sequential))


class InTurn(httpx.AsyncBaseTransport):
    """Sends each request to the next of the processes, and skips those whose circuit is open."""

    def __init__(self, processes: Sequence[str], transport: httpx.AsyncBaseTransport) -> None:
        self._turn = itertools.cycle([httpx.URL(process) for process in processes])
        self._processes = len(processes)
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a copy of a request, addressed to a process: hedged copies share the request itself."""
        for left in reversed(range(self._processes)):
            process = next(self._turn)
            url = request.url.copy_with(scheme=process.scheme, host=process.host, port=process.port)
            addressed = httpx.Request(
                request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
            )
            try:
                return await self._transport.handle_async_request(addressed)
            except CircuitOpen:  # nothing was sent, so the next process may get it at once
                if not left:
                    raise
        raise AssertionError("there are processes")

    async def aclose(self) -> None:
        """Close the transport that this one wraps."""
        await self._transport.aclose()
