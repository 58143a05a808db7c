"""The connections of a pool, after many retried requests and after cancelled ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Hedge, Pipeline, Retry, Timeout
from resilient.core.policy import Policy
from resilient.events import AttemptStarted, Retrying
from resilient.runtime import current_async
from tests.http.clients import ASYNC_CLIENTS, TLS, Http, is_free
from tests.http.memory import BAD, GOOD, Network
from tests.http.raw import RawServer, hanging
from tests.http.server import Answer, Server

REQUESTS = int(os.environ.get("RESILIENT_RETRIED_REQUESTS", "120"))
"""The number of retried requests: more than an HTTP/2 connection may have streams. With 10,000 it takes minutes."""

PROTOCOLS = {"httptools": {}, "h2": {"http1": False, "http2": True}}


def retrying(http: Http, protocol: str) -> Http:
    return http.open(Pipeline(Retry(2, wait=0)), **PROTOCOLS[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pool_is_as_before_after_many_retried_requests(http: Http, protocols: dict[str, Server], protocol: str) -> None:
    """One connection served all of them, and is free."""
    server = protocols[protocol]
    server.reset()
    retrying(http, protocol)
    http.send("GET", server.origin)
    before = http.connections
    for _ in range(REQUESTS):
        server.script.append(503)
        assert http.send("GET", server.origin).status_code == 200
    assert len(server.seen) == 1 + 2 * REQUESTS
    assert http.connections == before
    assert len(server.peers) == len(before) == 1
    assert http.all_free()


def test_long_errors_over_http2_do_not_use_up_the_connections_window(http: Http, protocols: dict[str, Server]) -> None:
    """The unread rest of a body is reset; 80 times 300 kB are more than 16 MiB."""
    server = protocols["h2"]
    server.reset()
    retrying(http, "h2")
    for _ in range(80):
        server.script.append(Answer(503, b"x" * 300_000))
        assert http.send("GET", server.origin).status_code == 200
    assert len(server.peers) == 1
    assert http.all_free()


def test_long_errors_over_http1_cost_a_connection_each_and_leave_none(http: Http, protocols: dict[str, Server]) -> None:
    """A response with a long rest is closed."""
    server = protocols["httptools"]
    server.reset()
    retrying(http, "httptools")
    for _ in range(20):
        server.script.append(Answer(503, b"x" * 3_000_000))
        assert http.send("GET", server.origin).status_code == 200
    assert len(server.peers) == 21
    assert len(http.connections) == 1
    assert http.all_free()


# -- no connection --------------------------------------------------------------------------------------------------


def test_post_that_could_not_connect_in_time_is_tried_again(http: Http) -> None:
    """A POST that ends in a connect timeout provably never left."""
    heard: list[Any] = []
    pipeline = Pipeline(Retry(3, wait=0))
    pipeline.listen(heard.append)
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)  # without `accept`, with room for one
        for _ in range(2):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        http.open(pipeline, timeout=http.library.Timeout(5, connect=0.05))
        with pytest.raises(http.library.ConnectTimeout):
            http.send("POST", f"http://127.0.0.1:{listener.getsockname()[1]}", content=b"order")
    assert [type(event) for event in heard].count(AttemptStarted) == 3
    assert http.all_free()


@pytest.mark.parametrize("kind", ASYNC_CLIENTS, ids=lambda kind: kind.name)
async def test_post_that_waited_in_vain_for_a_free_connection_is_tried_again(kind: type[Http], raw: RawServer) -> None:
    """It never left, and the wait is no evidence about the server."""
    raw.script.append(hanging())
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    pipeline = Pipeline(Retry(3, wait=0), breaker)
    transport = kind.ours.AsyncTransport(pipeline, limits=kind.library.Limits(max_connections=1), verify=TLS)
    timeout = kind.library.Timeout(5, pool=0.05)
    async with kind.library.AsyncClient(transport=transport, timeout=timeout) as client:
        holder = asyncio.ensure_future(client.get(raw.origin))
        async with asyncio.timeout(10):
            while not raw.seen:  # noqa: ASYNC110  (it is another thread's)
                await asyncio.sleep(0.001)
        pipeline.listen(lambda event: holder.cancel() if isinstance(event, Retrying) else None)
        assert (await client.post(raw.origin, content=b"order")).status_code == 200
    assert [asked.method for asked in raw.seen] == ["GET", "POST"]


# -- cancellation ---------------------------------------------------------------------------------------------------


class Case:
    """A request that is cancelled.

    Args:
        policies: around it.
        script: its responses.
        seconds: the time before its ticks are counted.
    """

    def __init__(self, *policies: Policy, script: list[bytes | None], seconds: float = 0.0) -> None:
        self.bulkhead = Bulkhead(1)
        self.pipeline = Pipeline(self.bulkhead, *policies)
        self.script = script
        self.seconds = seconds


LONG = b"HTTP/1.1 503 Bad\r\nContent-Length: 100000\r\n\r\n" + bytes(100000)
"""More than is read of a body, so its connection is free when it has been closed."""


def hedge(inline: bool) -> Case:
    return Case(Hedge(1.0, inline=inline), script=[None, GOOD], seconds=1.0)


CUT = {
    "no policy": lambda: Case(script=[GOOD]),
    "retry": lambda: Case(Retry(3, wait=0), script=[BAD, BAD, GOOD]),
    "retry of a long error": lambda: Case(Retry(2, wait=0), script=[LONG, GOOD]),
    "retry after a wait": lambda: Case(Retry(2, wait=1.0), script=[BAD, GOOD], seconds=1.0),
    "retry that gives up": lambda: Case(Retry(2, wait=0), script=[BAD, BAD]),
    "hedge": lambda: hedge(False),
    "hedge, inline": lambda: hedge(True),
    "hedge after a failure": lambda: Case(Hedge(1.0), script=[BAD, GOOD]),
    "hedge, inline, after a failure": lambda: Case(Hedge(1.0, inline=True), script=[BAD, GOOD]),
    "retry of hedges": lambda: Case(Retry(2, wait=0), Hedge(1.0), script=[BAD, BAD, BAD, GOOD]),
    "breaker": lambda: Case(Retry(2, wait=0), CircuitBreaker(), Timeout(5), script=[BAD, GOOD]),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("case", CUT)
@pytest.mark.parametrize("kind", ASYNC_CLIENTS, ids=lambda kind: kind.name)
async def test_cancel_in_any_tick_loses_no_connection_and_no_permit(kind: type[Http], case: str) -> None:
    """The request may be at any step. (httpx 0.28 alone loses one, two or three.)"""
    ticks = 0
    over = False
    while not over:
        made = CUT[case]()
        over = await cut(kind, made, ticks)
        ticks += 1
        assert made.bulkhead.snapshot()["in_use"] == 0
    assert ticks > 3


async def cut(kind: type[Http], case: Case, ticks: int) -> bool:
    """Cancel a request after so many ticks, and send another. Returns whether the first one had ended."""
    limits = kind.library.Limits(max_connections=2)
    transport = kind.ours.AsyncTransport(case.pipeline, limits=limits, verify=TLS)
    network = transport.transport._pool._network_backend = Network()
    async with kind.library.AsyncClient(transport=transport, timeout=None) as client:
        await client.get("http://origin/")
        network.script.extend(case.script)
        task = asyncio.ensure_future(client.get("http://origin/"))
        await asyncio.sleep(case.seconds)
        for _ in range(ticks):
            await asyncio.sleep(0)
        over = task.done()
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(1)  # closing goes on after the cancellation
        await transport.pipeline._drain(current_async())
        assert is_free(transport)
        assert len(transport.transport._pool.connections) == network.open
        network.script.clear()
        assert (await client.get("http://origin/")).status_code == 200
    return over
