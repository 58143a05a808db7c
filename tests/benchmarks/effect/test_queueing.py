"""The servers with queues: what a cancelled request leaves behind."""

from __future__ import annotations

import asyncio

from benchmarks.effect.queueing import Server
from resilient.runtime import virtual


def test_server_that_stops_takes_up_the_next_at_once_and_another_does_not() -> None:
    """One request of 20 s whose caller goes after 5, and one behind it."""

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


def test_server_drops_what_waits_when_its_caller_has_gone() -> None:
    """Whether it stops or not."""

    async def main() -> float:
        loop, server = asyncio.get_running_loop(), Server()
        futures = [loop.create_future() for _ in range(3)]
        for future in futures:
            server.take(future, 2.0)
        server.drop(futures[1], False)
        await futures[2]
        return loop.time()

    assert virtual.run(main()) == 4
