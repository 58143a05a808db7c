"""The connections of hedged requests on a real server, and the latencies observed of each origin."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from resilient import Hedge, Pipeline, Timeout, quantile
from resilient.http.httpx import AsyncTransport
from resilient.runtime import current_async
from tests.http.server import Answer, Server

REQUESTS = 3


@pytest.mark.parametrize(("cancel", "lost"), [("late", 0), ("now", REQUESTS)])
async def test_connections_of_losers_are_kept_where_they_are_left_to_end(
    server: Server, cancel: Any, lost: int
) -> None:
    """A cancelled request closes its HTTP/1 connection; one that ends late keeps it."""
    server.reset()
    pipeline = Pipeline(Hedge(0.05, cancel=cancel), Timeout(10))
    async with httpx.AsyncClient(transport=AsyncTransport(pipeline)) as client:
        for _ in range(REQUESTS):
            server.script.extend([Answer(200, b"late", seconds=0.4), Answer(200, b"in time")])
            response = await client.get(server.origin)
            assert response.text == "in time"
            await pipeline._drain(current_async())
        assert len(server.seen) == 2 * REQUESTS
        assert len(server.peers) == (2 if lost == 0 else lost + 1)


async def test_each_origin_has_its_own_observed_delay(server: Server, protocols: dict[str, Server]) -> None:
    """A slow origin does not delay the hedges of others; transports that share the hedge share its latencies."""
    other = protocols["httptools"]
    server.reset()
    other.reset()
    hedge = Hedge(quantile(0.9, warm_up=3))
    pipeline = Pipeline(hedge, Timeout(10))
    transports = [AsyncTransport(pipeline), AsyncTransport(pipeline)]
    for transport in transports:
        async with httpx.AsyncClient(transport=transport) as client:
            for origin in (server.origin, server.origin, other.origin):
                await client.get(origin)
    seen = transports[1].pipeline.policies[0].snapshot()
    assert seen["keys"] == 2
    assert sorted(each["samples"] for each in seen["observed"].values()) == [2, 4]
    assert hedge.snapshot()["samples"] == 0


def test_hedge_with_a_key_of_its_own_keeps_it() -> None:
    """The user's key decides which requests share latencies."""
    hedge = Hedge(quantile(0.9), key=lambda request: request.url.path)
    assert AsyncTransport(Pipeline(hedge)).pipeline.policies[0] is hedge
