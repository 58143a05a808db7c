"""`AsyncTransport` with concurrent requests: hedges, cancellation, servers that die, and other event loops."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio

from resilient import Budget, Bulkhead, CircuitBreaker, Hedge, Pipeline, Retry, TimedOut, Timeout, standard
from tests.http import clients
from tests.http.clients import ASYNC_CLIENTS, Http
from tests.http.raw import RawServer, breaking_off, hanging, head
from tests.http.server import Answer, Server


class Opener:
    """Opens clients of one library."""

    def __init__(self, kind: type[Http]) -> None:
        self.library, self.ours = kind.library, kind.ours

    @asynccontextmanager
    async def __call__(self, pipeline: Pipeline, **options: Any) -> AsyncIterator[Any]:
        transport = self.ours.AsyncTransport(pipeline, **options)
        async with self.library.AsyncClient(transport=transport, timeout=5) as opened:
            yield opened


@pytest.fixture(params=ASYNC_CLIENTS, ids=lambda kind: kind.name)
def client(request: pytest.FixtureRequest) -> Opener:
    return Opener(request.param)


def pool(opened: Any) -> Any:
    return opened._transport.transport._pool


def is_free(opened: Any) -> bool:
    """Whether no request has a connection, or waits for one."""
    return clients.is_free(opened._transport)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that no event announces, because it changes in another thread, or in httpcore."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def until_seen(server: Server, requests: int) -> None:
    await until(lambda: len(server.seen) >= requests)


# -- hedges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [False, True])
async def test_hedge_beats_a_slow_answer_and_leaks_no_connection(client: Opener, server: Server, inline: bool) -> None:
    """The loser is cancelled, and its connection is closed or free at the end."""
    hedge = Hedge(0.03, inline=inline)
    async with client(Pipeline(hedge), limits=client.library.Limits(max_connections=4)) as opened:
        for _ in range(8):
            server.script.append(Answer(200, b"late", seconds=0.5))
            assert (await opened.get(server.origin)).content == b"sent: "
        await opened._transport.pipeline._drain(_runtime())
        assert is_free(opened)
    assert hedge.snapshot()["won"] == 8


def _runtime() -> Any:
    from resilient.runtime import current_async

    return current_async()


@pytest.mark.parametrize("inline", [False, True])
async def test_fast_failure_does_not_win_a_hedge(client: Opener, server: Server, inline: bool) -> None:
    """A failure starts the next copy at once, and the later success is returned."""
    server.script.extend([503, Answer(200, b"good", seconds=0.05)])
    async with client(Pipeline(Hedge(30, inline=inline))) as opened:
        response = await opened.get(server.origin)
        assert (response.status_code, response.content) == (200, b"good")
        assert len(server.seen) == 2
        await until(lambda: is_free(opened))  # the loser's response is closed off the winner's path


async def test_connect_error_does_not_win_a_hedge(client: Opener, server: Server) -> None:
    """A copy that raises does not win; the later success is returned."""
    first = True

    class Breaks(client.library.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            nonlocal first
            if not first:
                first = True
                raise client.library.ConnectError("refused")
            first = False
            return await super().handle_async_request(request)

    server.script.append(Answer(200, b"good", seconds=0.1))
    async with client(Pipeline(Hedge(0.02)), transport=Breaks()) as opened:
        assert (await opened.get(server.origin)).content == b"good"


async def test_all_copies_fail_and_the_first_ones_response_comes_back(client: Opener, server: Server) -> None:
    """The response of the first copy is returned with its body."""
    server.script.extend([Answer(503, b"first"), Answer(500, b"second")])
    async with client(Pipeline(Hedge(30))) as opened:
        response = await opened.get(server.origin)
        assert (response.status_code, response.content) == (503, b"first")
        await until(lambda: is_free(opened))


async def test_caller_is_cancelled_and_no_copy_runs_on(client: Opener, server: Server) -> None:
    """After the cancellation all connections of the copies are free."""
    server.script.extend([Answer(seconds=30)] * 2)
    async with client(Pipeline(Hedge(0.01))) as opened:
        task = asyncio.ensure_future(opened.get(server.origin))
        await until_seen(server, 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await opened._transport.pipeline._drain(_runtime())
        assert is_free(opened)


async def test_closing_the_client_waits_until_a_loser_has_cleaned_up(client: Opener, server: Server) -> None:
    """The transport that sends is closed after that."""
    ended: list[str] = []

    class Slow(client.library.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            try:
                return await super().handle_async_request(request)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
                ended.append("cleaned up")
                raise

        async def aclose(self) -> None:
            ended.append("closed")
            await super().aclose()

        async def __aexit__(self, *exc_info: Any) -> None:
            await self.aclose()

    server.script.append(Answer(200, seconds=30))
    async with client(Pipeline(Hedge(0.02)), transport=Slow()) as opened:
        await opened.get(server.origin)
    assert ended == ["cleaned up", "closed"]


async def test_post_is_not_hedged(client: Opener, server: Server) -> None:
    """The first copy of a POST may have had an effect."""
    server.script.append(Answer(200, b"late", seconds=0.05))
    async with client(Pipeline(Hedge(0.01))) as opened:
        assert (await opened.post(server.origin, content=b"order")).content == b"late"
    assert len(server.seen) == 1


# -- cancellation ---------------------------------------------------------------------------------------------------


async def test_cancelled_request_gives_its_connection_and_permit_back(client: Opener, server: Server) -> None:
    """The request is cancelled in the middle, under all policies."""
    pipeline = standard(max_concurrent=1)
    async with client(pipeline, limits=client.library.Limits(max_connections=1)) as opened:
        for requests in range(1, 6):
            server.script.append(Answer(seconds=30))
            task = asyncio.ensure_future(opened.get(server.origin))
            await until_seen(server, requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert is_free(opened)
        assert (await opened.get(server.origin)).status_code == 200


async def test_cancel_between_attempts_closes_what_was_kept(client: Opener, server: Server) -> None:
    """The response before, longer than the part that is read at once, is closed."""
    server.script.append(Answer(503, b"x" * 2_000_000))
    async with client(Pipeline(Retry(2, wait=30)), limits=client.library.Limits(max_connections=1)) as opened:
        retrying = asyncio.Event()
        opened._transport.pipeline.listen(lambda event: retrying.set() if type(event).__name__ == "Retrying" else None)
        task = asyncio.ensure_future(opened.get(server.origin))
        await retrying.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: is_free(opened))
        assert (await opened.get(server.origin)).status_code == 200


async def test_cancel_in_any_tick_leaks_nothing(client: Opener, server: Server) -> None:
    """The attempts that fail may be at any step. (The last answer is httpx's own to read; 0.28 loses a connection in
    the tick in which it is opened, and in the one in which a body has been read to its end.)"""
    cut = 0
    for ticks in range(60):
        server.reset()
        pipeline = Pipeline(Retry(4, wait=0), Bulkhead(1))
        async with client(pipeline, limits=client.library.Limits(max_connections=1)) as opened:
            await opened.get(server.origin)
            server.script.extend([Answer(503, b"x" * 30_000)] * 4)
            task = asyncio.ensure_future(opened.get(server.origin))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if len(server.seen) == 5:
                continue
            cut += task.cancelled()
            await until(lambda: is_free(opened))
            server.script.clear()
            assert (await opened.get(server.origin)).status_code == 200
    assert cut > 15


async def test_more_calls_than_connections_fail_and_none_starves(client: Opener, server: Server) -> None:
    """A failed request holds no connection while it waits for its next attempt."""
    server.script.extend([503] * 20)
    async with client(Pipeline(Retry(3, wait=0.02)), limits=client.library.Limits(max_connections=2)) as opened:
        responses = await asyncio.gather(*(opened.get(server.origin) for _ in range(20)))
        assert {response.status_code for response in responses} == {200}
        assert len(pool(opened).connections) <= 2
        assert is_free(opened)


# -- bodies of errors -----------------------------------------------------------------------------------------------


RETRY_SOON = "Retry-After: 0.01"


async def test_error_whose_body_breaks_off_is_classified_by_its_head(client: Opener, raw: RawServer) -> None:
    """It is retried after the pause that its head asks for; the reader of its body gets the error at the same place."""
    pipeline = Pipeline(Retry(2, wait=0))
    heard: list[Any] = []
    pipeline.listen(heard.append)
    raw.usual = breaking_off(503, RETRY_SOON)
    async with client(pipeline) as opened:
        async with opened.stream("GET", raw.origin) as response:
            assert response.status_code == 503
            parts = response.aiter_raw()
            assert await anext(parts) == b"half of"
            with pytest.raises(client.library.RemoteProtocolError):
                await anext(parts)
        assert is_free(opened)
    assert len(raw.seen) == 2
    assert [event.wait for event in heard if type(event).__name__ == "Retrying"] == [0.01]


HALF = head(503, "Content-Length: 100") + b"half of"


async def test_error_whose_body_never_ends_is_ended_by_the_bodys_timeout(client: Opener, raw: RawServer) -> None:
    """An error response whose body never ends fails at `body_timeout`, and its connection is closed."""
    raw.usual = hanging(HALF)
    async with client(Pipeline(Timeout(5)), body_timeout=0.05) as opened:
        with pytest.raises(TimedOut, match="the body took more than"):
            await opened.get(raw.origin)
        assert is_free(opened)


async def test_last_answer_is_there_before_its_body(client: Opener, raw: RawServer) -> None:
    """It is not sent again, so its body is left to the user."""
    raw.usual = hanging(HALF)
    async with client(Pipeline(Retry(2), Timeout(5))) as opened:
        async with opened.stream("POST", raw.origin) as response:
            assert response.status_code == 503
        assert is_free(opened)


# -- servers that die -----------------------------------------------------------------------------------------------


class Process:
    """A server process of the demo."""

    def __init__(self, port: int = 0) -> None:
        options = ("--number", "1", "--seed", "1", "--duration", "1", "--port", str(port))
        command = [sys.executable, "-m", "resilient.demo.server", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def process() -> Iterator[Process]:
    started = Process()
    try:
        yield started
    finally:
        started.kill()


async def test_calls_survive_a_server_that_is_killed_and_restarted(client: Opener) -> None:
    """After a SIGKILL in the middle of the run, connections break and are refused until the server is back."""
    pipeline = Pipeline(Retry(200, wait=0.05))
    heard: list[Any] = []
    pipeline.listen(heard.append)
    with process() as first:
        url = f"http://127.0.0.1:{first.port}/health"
        async with client(pipeline) as opened:

            async def load() -> list[int]:
                return [(await opened.get(url)).status_code for _ in range(30)]

            async def outage() -> Process:
                await until(lambda: bool(pool(opened).connections))
                first.kill()
                await until(lambda: any(type(event).__name__ == "Retrying" for event in heard))
                return await asyncio.to_thread(Process, first.port)

            users = [asyncio.ensure_future(load()) for _ in range(3)]
            second = await outage()
            try:
                assert [await user for user in users] == [[200] * 30] * 3
                assert is_free(opened)
            finally:
                second.kill()


# -- other transports and event loops -------------------------------------------------------------------------------


async def test_application_can_be_called_without_a_network(client: Opener, server: Server) -> None:
    """The inner transport is httpx's ASGI transport."""
    server.script.extend([503, Answer(200, b"in process")])
    asgi = client.library.ASGITransport(server.application)
    async with client(Pipeline(Retry(2, wait=0)), transport=asgi) as opened:
        assert (await opened.get("http://application/")).content == b"in process"


async def test_application_that_raises_is_repeated(client: Opener) -> None:
    """Every exception is repeated, except programming errors."""
    calls = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        calls += 1
        raise OSError("its database is away")

    async with client(Pipeline(Retry(3, wait=0)), transport=client.library.ASGITransport(application)) as opened:
        with pytest.raises(OSError, match="its database"):
            await opened.get("http://application/")
    assert calls == 3


async def test_standard_pipeline_serves_many_at_once(client: Opener, server: Server) -> None:
    """A fifth of the first attempts fails; the budget pays for their retries."""
    server.script.extend([503, 200, 200, 200, 200] * 10)
    pipeline = standard(budget=Budget(ratio=1.0, reserve=50, cap=100))
    async with client(pipeline) as opened:
        responses = await asyncio.gather(*(opened.get(server.origin) for _ in range(50)))
        assert {response.status_code for response in responses} == {200}


def test_transport_works_on_trio(client: Opener, server: Server) -> None:
    """Retries, hedges and timeouts work on trio as on asyncio."""

    async def main() -> None:
        pipeline = Pipeline(Timeout(40), Retry(3, wait=0), Hedge(0.1), Bulkhead(5), CircuitBreaker(), Timeout(10))
        transport = client.ours.AsyncTransport(pipeline)
        async with client.library.AsyncClient(transport=transport) as opened:
            server.script.extend([503, 503])
            assert (await opened.get(server.origin)).status_code == 200
            server.script.append(Answer(200, b"late", seconds=30))
            assert (await opened.get(server.origin)).content == b"sent: "
            server.script.append(Answer(200, seconds=30))
            with trio.move_on_after(0.05) as limit:
                await opened.get(server.origin)
            assert limit.cancelled_caught
            await transport.pipeline._drain(_runtime())
            assert is_free(opened)

    trio.run(main)
