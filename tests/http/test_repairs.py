"""The repairs of a client's own connection pool: the names of httpcore that they need, and what happens without
them."""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Coroutine
from typing import Any

import h2.exceptions
import httpx
import pytest
import trustme

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout
from resilient.errors import TimedOut
from resilient.http import connections
from resilient.http.connections import NEEDED_OF_POOL, repair_pool
from resilient.http.http2 import NEEDED
from resilient.http.sockets import Socket, WithoutTurns, run_until_blocked
from tests.http.clients import ASYNC_CLIENTS, CLIENTS, TLS, Http
from tests.http.memory import Network
from tests.http.raw import RawHttp2Server, RawServer, hanging

both = pytest.mark.parametrize("kind", ASYNC_CLIENTS, ids=lambda kind: kind.name)

CORES = pytest.mark.parametrize(
    ("core", "flavour"),
    [(core, flavour) for core in ("httpcore", "httpcore2") for flavour in ("_async", "_sync")],
)
"""If one of these names has gone: see in the new version where the same is done now, and mend `resilient.http.http2`
and `resilient.http.connections`. Until then cut streams stay open with that version."""


def parts(core: str, flavour: str) -> tuple[Any, Any, Any]:
    """Return the classes of a pool, an HTTP/2 and an HTTP/1.1 connection."""
    prefix = "Async" if flavour == "_async" else ""
    modules = {
        name: importlib.import_module(f"{core}.{flavour}.{name}") for name in ("connection_pool", "http2", "http11")
    }
    return (
        getattr(modules["connection_pool"], f"{prefix}ConnectionPool"),
        getattr(modules["http2"], f"{prefix}HTTP2Connection"),
        getattr(modules["http11"], f"{prefix}HTTP11Connection"),
    )


class Nothing:
    """A network stream that does nothing."""

    def write(self, data: bytes, timeout: float | None = None) -> None: ...

    def aclose(self) -> None: ...


@CORES
def test_pools_have_the_names_that_are_needed(core: str, flavour: str) -> None:
    """Two of them are private; a connection has its protocol as `_connection`, and a lock while it is opened."""
    module = importlib.import_module(core)
    pool = parts(core, flavour)[0]()
    assert [name for name in NEEDED_OF_POOL if not hasattr(pool, name)] == []
    connection = pool.create_connection(module.Origin(b"https", b"origin", 443))
    assert connection._connection is None
    assert hasattr(connection, "_request_lock")


@CORES
def test_connections_have_the_names_that_are_needed(core: str, flavour: str) -> None:
    """They also have the locks that are taken needlessly."""
    origin = importlib.import_module(core).Origin(b"https", b"origin", 443)
    _, http2, http11 = parts(core, flavour)
    assert [name for name in NEEDED if not hasattr(http2(origin, Nothing()), name)] == []
    for kind in (http2, http11):
        made = kind(origin, Nothing())
        assert hasattr(made, "_network_stream")
        assert hasattr(made, "_state_lock")
        assert hasattr(made, "_response_closed")


@both
async def test_connections_without_these_names_are_left_as_they_are(
    kind: type[Http], raw_http2: RawHttp2Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests on them are answered as without repairs."""
    for changed in ({"NEEDED": (*NEEDED, "gone")}, {"NEEDED_OF_POOL": (*NEEDED_OF_POOL, "gone")}):
        for name, value in changed.items():
            monkeypatch.setattr(connections, name, value)
        transport = kind.ours.AsyncTransport(Pipeline(Retry(2)), http1=False, http2=True)
        async with kind.library.AsyncClient(transport=transport) as client:
            assert (await client.get(raw_http2.origin)).status_code == 200


@pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.name)
def test_other_transports_are_left_alone(kind: type[Http]) -> None:
    """Mocks and other objects have no connections to repair."""
    transport = kind.library.MockTransport(lambda request: kind.library.Response(200))
    before = dict(vars(transport))
    repair_pool(transport)
    repair_pool(object())
    assert vars(transport) == before


@both
def test_transport_that_two_guard_is_repaired_once(kind: type[Http]) -> None:
    """Two guarded transports may share it, and a chaos transport may stand between."""
    inner = kind.library.AsyncHTTPTransport(verify=TLS)
    kind.ours.AsyncTransport(Pipeline(Retry(2)), transport=inner)
    first = inner._pool.create_connection
    kind.ours.AsyncTransport(Pipeline(Retry(2)), transport=inner)
    assert inner._pool.create_connection == first


# -- over TLS, where the protocol is agreed upon --------------------------------------------------------------------


@both
async def test_connection_that_turns_out_to_be_http2_is_repaired(kind: type[Http]) -> None:
    """The streams of a connection that negotiates HTTP/2 are reset, too."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    server.set_alpn_protocols(["h2"])
    with RawHttp2Server(server) as raw:
        raw.reset()
        async with kind.ours.AsyncClient(Pipeline(Timeout(60)), http2=True, verify=client) as guarded:
            assert (await guarded.get(raw.origin)).http_version == "HTTP/2"
            task = asyncio.ensure_future(guarded.get(f"{raw.origin}/held"))
            async with asyncio.timeout(10):
                while not raw.held:  # noqa: ASYNC110  (it is another thread's)
                    await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.wait([task])
                while not raw.cut:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            assert (await guarded.get(raw.origin)).status_code == 200
            assert raw.opened == 1


@both
async def test_connection_stays_in_the_pool_when_one_of_its_requests_is_cancelled(
    kind: type[Http], raw_http2: RawHttp2Server
) -> None:
    """It may be the request that connects."""
    for leaver in (0, 1):
        transport = kind.ours.AsyncTransport(Pipeline(Bulkhead(9)), http1=False, http2=True)
        async with kind.library.AsyncClient(transport=transport) as client:
            tasks = [asyncio.ensure_future(client.get(raw_http2.origin)) for _ in range(3)]
            await asyncio.sleep(0)
            tasks.pop(leaver).cancel()
            assert [each.status_code for each in await asyncio.gather(*tasks)] == [200, 200]
            assert [each.is_idle() for each in transport.transport._pool.connections] == [True]


# -- HTTP/1.1 -------------------------------------------------------------------------------------------------------


@both
async def test_wait_for_a_connection_is_no_evidence(kind: type[Http], raw: RawServer) -> None:
    """An attempt that is cancelled in this wait has sent nothing, and is no failure of the server."""
    raw.script.append(hanging())
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    inner = kind.library.AsyncHTTPTransport(verify=TLS, limits=kind.library.Limits(max_connections=1))
    plain = kind.library.AsyncClient(transport=inner, timeout=None)
    transport = kind.ours.AsyncTransport(Pipeline(breaker, Timeout(0.02)), transport=inner)
    async with kind.library.AsyncClient(transport=transport, timeout=None) as client:
        holder = asyncio.ensure_future(plain.get(raw.origin))
        async with asyncio.timeout(10):
            while not raw.seen:  # noqa: ASYNC110  (it is another thread's)
                await asyncio.sleep(0.001)
        with pytest.raises(TimedOut) as caught:
            await client.get(raw.origin)
        assert not caught.value.evidence
        holder.cancel()
        await asyncio.wait([holder])
        assert breaker.current_state == "closed"
    assert len(raw.seen) == 1


@pytest.mark.virtual_time
@both
async def test_connection_of_a_request_that_left_before_it_was_connected_is_not_lost(kind: type[Http]) -> None:
    """The request got it in the tick in which it was cancelled."""
    limits = kind.library.Limits(max_connections=1)
    transport = kind.ours.AsyncTransport(Pipeline(Bulkhead(9)), limits=limits, verify=TLS)
    network = transport.transport._pool._network_backend = Network()
    network.script.append(b"HTTP/1.1 200 Status\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood")
    async with kind.library.AsyncClient(transport=transport, timeout=None) as client:
        first = asyncio.ensure_future(client.get("http://origin/"))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(client.get("http://origin/"))
        third = asyncio.ensure_future(client.get("http://origin/"))
        first.add_done_callback(lambda _: second.cancel())
        await asyncio.wait([first, second])
        assert (await third).status_code == 200
        assert second.cancelled()


@pytest.mark.virtual_time
@both
async def test_request_on_an_open_connection_waits_for_the_network_alone(kind: type[Http]) -> None:
    """It takes no lock, which would cost a turn of the event loop: there is one turn for each part of the response."""
    transport = kind.ours.AsyncTransport(Pipeline(Bulkhead(9)), verify=TLS)
    transport.transport._pool._network_backend = Network()
    loop, turns = asyncio.get_running_loop(), [0]

    def count() -> None:
        turns[0] += 1
        counting[0] = loop.call_soon(count)

    async with kind.library.AsyncClient(transport=transport) as client:
        await client.get("http://origin/")
        counting = [loop.call_soon(count)]
        await client.get("http://origin/")
        counting[0].cancel()
    assert turns == [3]


# -- streams that cannot be opened ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_request_without_a_stream_was_not_sent_and_is_repeated(kind: type[Http], method: str) -> None:
    """This holds for every transport. It is neither evidence about the server, nor an error of the caller."""
    core = importlib.import_module("httpcore" if kind.library is httpx else "httpcore2")
    answers = [h2.exceptions.TooManyStreamsError("Max outbound streams is 100, 100 open"), None]

    def answer(request: Any) -> Any:
        error = answers.pop(0)
        if error is not None:
            raise kind.library.LocalProtocolError(str(error)) from core.LocalProtocolError(error)
        return kind.library.Response(200)

    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    transport = kind.ours.AsyncTransport(
        Pipeline(Retry(2, wait=0), breaker), transport=kind.library.MockTransport(answer)
    )
    async with kind.library.AsyncClient(transport=transport) as client:
        assert (await client.request(method, "https://origin/")).status_code == 200
    assert answers == []


# -- writes ---------------------------------------------------------------------------------------------------------


class Pipe:
    """A network stream whose writes take a turn of the event loop, or wait until they may end."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.full: asyncio.Event | None = None

    async def write(self, data: bytes, timeout: float | None = None) -> None:
        await asyncio.sleep(0)
        if self.full is not None:
            await self.full.wait()
        self.sent.append(data)
        await asyncio.sleep(0)


async def test_write_is_whole_in_the_tick_in_which_it_begins() -> None:
    """A cancellation comes before it or after it."""
    pipe = Pipe()
    socket = Socket(pipe)

    async def write() -> None:
        await pipe.write(b"frames")
        await asyncio.sleep(1)

    task = asyncio.ensure_future(write())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (pipe.sent, socket.torn) == ([b"frames"], False)


async def test_write_is_torn_when_one_that_waits_for_another_is_cut_short() -> None:
    """The rest of the first write waits in a buffer; the position of the second is unknown."""
    pipe = Pipe()
    socket = Socket(pipe)
    pipe.full = asyncio.Event()
    for torn in (False, True):
        task: asyncio.Future[None] = asyncio.ensure_future(pipe.write(b"frames"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert socket.torn is torn


async def test_coroutine_without_turns_passes_results_errors_and_cancellation() -> None:
    """`WithoutTurns` does the same as an `await`."""
    waited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def work() -> int:
        await asyncio.sleep(0)
        return await waited

    async def whole(coroutine: Coroutine[Any, Any, int]) -> int:
        return await WithoutTurns(coroutine)

    task = asyncio.ensure_future(whole(work()))
    await asyncio.sleep(0)
    waited.set_result(7)
    assert await task == 7
    waited = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(whole(work()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    waited = asyncio.get_running_loop().create_future()
    waited.set_exception(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await whole(work())


async def test_coroutine_without_turns_waits_where_it_must() -> None:
    """anyio waits so in a scope whose time is over; `run_until_blocked` ends there."""
    turned = asyncio.Event()

    async def spin() -> None:
        while not turned.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0)

    run_until_blocked(spin())
    asyncio.get_running_loop().call_soon(turned.set)
    await WithoutTurns(spin())


@both
async def test_request_whose_time_is_over_ends(kind: type[Http], raw: RawServer, raw_http2: RawHttp2Server) -> None:
    """Its time may be over before anything is written."""
    for origin, options in ((raw.origin, {}), (raw_http2.origin, {"http1": False, "http2": True})):
        transport = kind.ours.AsyncTransport(Pipeline(Retry(1)), **options)
        async with kind.library.AsyncClient(transport=transport) as client:
            assert (await client.get(origin)).status_code == 200
            with pytest.raises(kind.library.WriteTimeout):
                await client.get(origin, timeout=kind.library.Timeout(5, write=1e-9))
            assert (await client.get(origin)).status_code == 200


async def test_coroutine_that_is_run_until_blocked_ends_where_it_would_wait() -> None:
    """Every error that it raises there is ignored."""
    steps: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("ended")
            raise OSError

    run_until_blocked(work())
    assert steps == ["begun", "ended"]
