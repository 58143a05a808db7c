"""HTTP/2 connections whose requests are cancelled, given up, or more than there are streams for."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import h2.connection
import h2.exceptions
import pytest
import trio

from resilient import CircuitBreaker, Hedge, Pipeline, Retry, Timeout, deadline
from resilient.core.call import Call
from resilient.core.facts import Facts
from resilient.core.gate import Gate
from resilient.errors import TimedOut
from resilient.http import http2
from resilient.runtime import current_async
from tests.http.clients import ASYNC_CLIENTS, CLIENTS, Http, is_free
from tests.http.raw import Http2Step, RawHttp2Server, Stream
from tests.http.server import Answer, Server

SOON = 0.02

# httpx2 closes the generators of a body one in the other. A reader that stops early leaves them to the garbage
# collector. Where that runs in another thread (a server's), the event loop is already closing the outer one when the
# collector comes to the inner one, which is executing then. A client without any transport of ours has the same.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:Exception ignored in. <async_generator object (AsyncResponse|BoundAsync)Stream\."
    ":pytest.PytestUnraisableExceptionWarning"
)

both = pytest.mark.parametrize("kind", ASYNC_CLIENTS, ids=lambda kind: kind.name)


def connect(kind: type[Http], *policies: Any, timeout: Any = None, **options: Any) -> Any:
    """Return a client, with its transport as `client.ours`."""
    transport = kind.ours.AsyncTransport(Pipeline(*policies), http1=False, http2=True, **options)
    client = kind.library.AsyncClient(transport=transport, timeout=timeout)
    client.ours = transport
    return client


def beneath(client: Any) -> Any:
    """Return a client without policies and without timeouts, on the same connections."""
    return type(client)(transport=client.ours.transport, timeout=None)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that another thread makes true."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def ended_by_timeout(client: Any, url: str) -> None:
    with pytest.raises(TimedOut):
        await client.get(url)


async def ended_by_deadline(client: Any, url: str) -> None:
    with deadline(SOON), pytest.raises(TimedOut):
        await client.get(url)


async def left_by_its_caller(client: Any, url: str) -> None:
    task = asyncio.ensure_future(client.get(url))
    await asyncio.sleep(SOON)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


WAYS = {
    "timeout": ((Timeout(SOON),), ended_by_timeout),
    "deadline": ((Timeout(60),), ended_by_deadline),
    "caller": ((Timeout(60),), left_by_its_caller),
}


@both
@pytest.mark.parametrize("way", WAYS)
async def test_cancelled_requests_leave_no_stream_open(kind: type[Http], raw_http2: RawHttp2Server, way: str) -> None:
    """Their streams are reset, and the connection serves as many again."""
    policies, cut = WAYS[way]
    url = raw_http2.origin
    async with connect(kind, *policies) as client:
        await until_answered(client, url)
        async with asyncio.timeout(20):
            while raw_http2.cut.count("/hang") <= 100:  # on a busy machine some end before they are sent
                await asyncio.gather(*(cut(client, f"{url}/hang") for _ in range(80)))
                await until(
                    lambda: raw_http2.cut.count("/hang") == [asked.path for asked in raw_http2.seen].count("/hang")
                )
        await until_answered(client, url)
        assert is_free(client.ours)


async def until_answered(client: Any, url: str) -> None:
    """Send requests until one is answered in time, even with short attempts on a busy machine."""
    async with asyncio.timeout(10):
        while True:
            try:
                assert (await client.get(url)).status_code == 200
                return
            except TimedOut:
                pass


@both
async def test_loser_of_a_hedge_is_reset_and_its_connection_stays(kind: type[Http], raw_http2: RawHttp2Server) -> None:
    """The stream of the loser is reset; the winner goes on with the same connection."""
    raw_http2.steps.append(Http2Step(Stream.hang))
    pipeline = (Hedge(SOON), Timeout(60))
    async with connect(kind, *pipeline) as client:
        assert (await client.get(f"{raw_http2.origin}/")).status_code == 200
        await client.ours.pipeline._drain(current_async())
        await until(lambda: raw_http2.cut == ["/"])
        assert (raw_http2.opened, len(raw_http2.seen)) == (1, 2)
        assert is_free(client.ours)


@both
async def test_client_answers_at_once_after_a_standstill(kind: type[Http], raw_http2: RawHttp2Server) -> None:
    """Any number of attempts may have been cancelled during it."""
    raw_http2.paths["/"] = Stream.hang
    async with connect(kind, Retry(2, wait=0), Timeout(SOON)) as client:
        asked = [client.get(raw_http2.origin) for _ in range(150)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {kind.ours.TimedOut}
        raw_http2.paths["/"] = Stream.answer
        await until_answered(client, raw_http2.origin)


@both
async def test_request_that_hangs_leaves_the_others_of_its_connection_alone(
    kind: type[Http], raw_http2: RawHttp2Server
) -> None:
    """Our Timeout or the client's read timeout ends it; the other request gets its response when it arrives."""
    url = raw_http2.origin
    for policies, timeout in (((Timeout(SOON),), None), ((Timeout(60),), SOON)):
        transport = kind.ours.AsyncTransport(Pipeline(*policies), http1=False, http2=True)
        plain = kind.library.AsyncClient(transport=transport.transport, timeout=None)  # of the same connections
        async with kind.library.AsyncClient(transport=transport, timeout=timeout) as client:
            assert (await plain.get(url)).status_code == 200
            hanging = asyncio.ensure_future(client.get(f"{url}/hang"))
            await asyncio.sleep(0)  # this request reads the connection
            other = asyncio.ensure_future(plain.get(f"{url}/held"))
            with pytest.raises(kind.library.TimeoutException):
                await hanging
            await until(lambda: raw_http2.held and raw_http2.cut)
            raw_http2.let_go()
            assert (await other).status_code == 200
            assert raw_http2.opened == 1
        raw_http2.reset()


@pytest.mark.parametrize("kind", [each for each in CLIENTS if each.blocking], ids=lambda kind: kind.name)
def test_read_timeout_of_a_plain_client_leaves_the_others_of_its_connection_alone(
    kind: type[Http], raw_http2: RawHttp2Server
) -> None:
    """Threads share an HTTP/2 connection as tasks do."""
    url, answers = raw_http2.origin, []
    transport = kind.ours.Transport(Pipeline(Retry(1)), http1=False, http2=True)
    with kind.library.Client(transport=transport, timeout=60) as client:
        assert client.get(url).status_code == 200
        hanging = threading.Thread(target=lambda: hang(client, kind, url))
        hanging.start()
        while not raw_http2.seen[1:]:
            time.sleep(0.001)
        other = threading.Thread(target=lambda: answers.append(client.get(f"{url}/held").status_code))
        other.start()
        while not raw_http2.cut:
            time.sleep(0.001)
        while not raw_http2.held:
            time.sleep(0.001)
        raw_http2.let_go()
        other.join()
        hanging.join()
        assert answers == [200]
        assert is_free(transport)


def hang(client: Any, kind: type[Http], url: str) -> None:
    with pytest.raises(kind.library.ReadTimeout):
        client.get(f"{url}/hang", timeout=SOON)


@both
async def test_dead_connection_is_replaced_when_a_request_on_it_is_cancelled(
    kind: type[Http], raw_http2: RawHttp2Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has arrived on it for some time. It is closed when its last request has ended."""
    monkeypatch.setattr(http2, "SILENCE", SOON / 2)
    async with connect(kind, Timeout(SOON)) as client:
        await ended_by_timeout(client, f"{raw_http2.origin}/deaf")
        await until_answered(client, raw_http2.origin)
        assert raw_http2.opened >= 2
        assert len(client.ours.transport._pool.connections) == 1


@both
async def test_connection_with_data_is_not_replaced(
    kind: type[Http], raw_http2: RawHttp2Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If data arrives for others, an endpoint hangs, not the connection."""
    monkeypatch.setattr(http2, "SILENCE", 30)
    async with connect(kind, Timeout(SOON)) as client:
        await beneath(client).get(raw_http2.origin)
        for _ in range(3):
            await until_answered(client, raw_http2.origin)
            await ended_by_timeout(client, f"{raw_http2.origin}/hang")
        assert raw_http2.opened == 1


def test_bodies_that_are_not_read_use_up_no_window(http: Http, protocols: dict[str, Server]) -> None:
    """30 times a megabyte is more than the 16 MiB of a connection; the last one arrives."""
    server = protocols["h2"]
    server.reset()
    http.open(Pipeline(Retry(1)), http1=False, http2=True, timeout=5)
    body = b"x" * 1_000_000
    for _ in range(30):
        server.script.append(Answer(200, body))
        with pytest.raises(Enough):
            http.stream(server.origin, enough)
    server.script.append(Answer(200, body))
    assert http.send("GET", server.origin).content == body
    assert len(server.peers) == 1
    assert http.all_free()


class Enough(Exception):
    """Raised by a reader that stops early."""


def enough() -> None:
    raise Enough


# -- more requests than streams -------------------------------------------------------------------------------------


@both
async def test_wait_for_a_stream_is_no_evidence(kind: type[Http], raw_http2: RawHttp2Server) -> None:
    """An attempt that is cancelled in this wait has sent nothing, and is no failure of the server."""
    raw_http2.most_streams = 2
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    async with connect(kind, breaker, Timeout(3 * SOON)) as client:
        plain = beneath(client)
        await plain.get(raw_http2.origin)
        holders = [asyncio.ensure_future(plain.get(f"{raw_http2.origin}/held")) for _ in range(2)]
        await until(lambda: len(raw_http2.held) == 2)
        with pytest.raises(TimedOut) as caught:
            await client.get(raw_http2.origin)
        assert not caught.value.evidence
        assert len(raw_http2.seen) == 3
        raw_http2.let_go()
        assert {each.status_code for each in await asyncio.gather(*holders)} == {200}
        with contextlib.suppress(TimedOut):  # on a busy machine; but it is not refused
            assert (await client.get(raw_http2.origin)).status_code == 200


class Watch(Gate):
    """A policy that records the durations of calls."""

    facts = Facts(learns=True)

    def __init__(self, seen: list[float]) -> None:
        super().__init__(None)
        self._seen = seen

    def admit(self, call: Call) -> object:
        return self

    def release(self, ticket: object) -> None:
        pass

    def settle(self, ticket: object, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        self._seen.append(elapsed)


@both
async def test_wait_for_a_stream_is_no_latency(kind: type[Http], raw_http2: RawHttp2Server) -> None:
    """Policies that measure the server's latency do not count it."""
    raw_http2.most_streams = 1
    seen: list[float] = []
    async with connect(kind, Watch(seen)) as client:
        await client.get(raw_http2.origin)
        plain = beneath(client)
        holder = asyncio.ensure_future(plain.get(f"{raw_http2.origin}/held"))
        await until(lambda: raw_http2.held)
        began = time.monotonic()
        waiting = asyncio.ensure_future(client.get(raw_http2.origin))
        await asyncio.sleep(SOON)  # until it waits in the queue
        await asyncio.sleep(SOON)
        raw_http2.let_go()
        await asyncio.gather(holder, waiting)
        assert seen[-1] <= time.monotonic() - began - SOON


@both
async def test_wait_for_a_stream_ends_with_the_pool_timeout(kind: type[Http], raw_http2: RawHttp2Server) -> None:
    """The wait for a connection does the same; a POST, which was not sent, is sent again."""
    raw_http2.most_streams = 1
    timeout = kind.library.Timeout(60, pool=SOON)
    async with connect(kind, Retry(2, wait=0), timeout=timeout) as client:
        await client.get(raw_http2.origin)
        holder = asyncio.ensure_future(client.get(f"{raw_http2.origin}/held"))
        await until(lambda: raw_http2.held)
        with pytest.raises(kind.library.PoolTimeout):
            await client.post(raw_http2.origin, content=b"order")
        raw_http2.let_go()
        assert (await holder).status_code == 200
        assert (await client.post(raw_http2.origin, content=b"order")).status_code == 200
        assert [asked.method for asked in raw_http2.seen] == ["GET", "GET", "POST"]


@both
async def test_requests_beyond_the_streams_are_answered_in_turn(kind: type[Http], raw_http2: RawHttp2Server) -> None:
    """This holds if some of the waiting requests leave, and before the server has sent its limit of streams."""
    raw_http2.most_streams = 3
    async with connect(kind, Timeout(60)) as client:
        tasks = [asyncio.ensure_future(client.get(raw_http2.origin)) for _ in range(150)]
        await asyncio.sleep(0)
        for task in tasks[1::7]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        answered = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(answered) == 150 - len(tasks[1::7])
        assert raw_http2.opened == 1
        assert is_free(client.ours)


@both
async def test_requests_in_the_queue_go_to_another_connection_when_theirs_breaks(
    kind: type[Http], raw_http2: RawHttp2Server
) -> None:
    """They have not been sent, so even a POST is sent there."""
    raw_http2.most_streams = 1
    async with connect(kind, Timeout(60)) as client:
        await client.get(raw_http2.origin)
        holder = asyncio.ensure_future(client.get(f"{raw_http2.origin}/held"))
        await until(lambda: raw_http2.held)
        waiting = [asyncio.ensure_future(client.post(raw_http2.origin, content=b"order")) for _ in range(5)]
        await asyncio.sleep(0)
        raw_http2.hang_up()
        with pytest.raises(kind.library.TransportError):
            await holder
        assert {each.status_code for each in await asyncio.gather(*waiting)} == {200}
        assert raw_http2.opened == 2


@both
async def test_request_on_a_closed_connection_has_not_been_sent(kind: type[Http]) -> None:
    """The request fails with `ConnectionNotAvailable`, so the pool gives it another connection."""
    core = importlib.import_module("httpcore" if kind.name.startswith("httpx.") else "httpcore2")
    state = h2.connection.H2Connection()
    state.close_connection()
    try:
        state.send_headers(1, [(":method", "GET")])
    except h2.exceptions.ProtocolError as refusal:
        error = core.LocalProtocolError(refusal)
    protocol = core._async.http2.AsyncHTTP2Connection(core.Origin(b"http", b"origin", 80), None)
    repairs = http2.Http2(protocol, core, None)
    with pytest.raises(core.ConnectionNotAvailable):
        repairs._reroute(error)
    repairs._reroute(core.RemoteProtocolError("SEND_HEADERS in state"))


def test_wait_of_a_thread_for_a_stream_is_no_evidence(raw_http2: RawHttp2Server) -> None:
    """The wait of a thread is a local one, like that of a task."""
    raw_http2.most_streams = 1
    for kind in (each for each in CLIENTS if each.blocking):
        transport = kind.ours.Transport(Pipeline(Retry(1)), http1=False, http2=True)
        timeout = kind.library.Timeout(60, pool=SOON)
        with kind.library.Client(transport=transport, timeout=timeout) as client:
            assert client.get(raw_http2.origin).status_code == 200
            answers: list[int] = []
            holder = threading.Thread(
                target=lambda client=client, answers=answers: answers.append(
                    client.get(f"{raw_http2.origin}/held").status_code
                )
            )
            holder.start()
            while not raw_http2.held:
                time.sleep(0.001)
            with pytest.raises(kind.library.PoolTimeout):
                client.get(raw_http2.origin)
            raw_http2.let_go()
            holder.join()
            assert answers == [200]
            assert client.get(raw_http2.origin).status_code == 200


# -- trio -----------------------------------------------------------------------------------------------------------


@both
def test_cancelled_requests_on_trio_leave_no_stream_open(kind: type[Http], raw_http2: RawHttp2Server) -> None:
    """On trio their streams are reset, too."""

    async def main() -> None:
        async with connect(kind, Timeout(60)) as client:
            for sent in (1, 3, 5):
                assert (await client.get(raw_http2.origin)).status_code == 200
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.get, f"{raw_http2.origin}/hang")
                    await until(lambda sent=sent: len(raw_http2.seen) > sent)
                    nursery.cancel_scope.cancel()
                assert nursery.cancel_scope.cancelled_caught
            await until(lambda: len(raw_http2.cut) == 3)
            assert raw_http2.opened == 1
            assert is_free(client.ours)

    trio.run(main)
