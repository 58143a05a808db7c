"""The servers with queues: the effect of a cancelled request."""

from __future__ import annotations

import asyncio

from benchmarks.effect.queueing import Server
from resilient.runtime import virtual


def test_server_that_stops_cancelled_work_begins_the_next_request_at_once() -> None:
    """A request of 20 s is cancelled after 5, with another one behind it. A server that does not stop finishes it."""

    async def behind(stops: bool) -> float:
        loop, server = asyncio.get_running_loop(), Server()
        first, second = loop.create_future(), loop.create_future()
        server.take(first, 20.0)
        server.take(second, 1.0)
        await asyncio.sleep(5)
        server.drop(first, stops)
        await second
        assert server.length == 0
        return loop.time()

    assert virtual.run(behind(True)) == 6
    assert virtual.run(behind(False)) == 21


def test_cancelled_request_leaves_the_queue() -> None:
    """Whether or not the server stops cancelled work."""

    async def main() -> float:
        loop, server = asyncio.get_running_loop(), Server()
        futures = [loop.create_future() for _ in range(3)]
        for future in futures:
            server.take(future, 2.0)
        server.drop(futures[1], False)
        await futures[2]
        return loop.time()

    assert virtual.run(main()) == 4
