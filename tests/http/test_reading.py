"""Bodies that the client reads before it returns, and bodies that its user streams."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest
import trio

from resilient import Bulkhead, CircuitBreaker, Hedge, Pipeline, Retry, TimedOut, Timeout, deadline
from tests.http.clients import ASYNC_CLIENTS, TLS, AsyncHttpx, Http
from tests.http.raw import RawServer, Step, answer, breaking_off, dripping, hanging, head
from tests.http.server import Server

LONG = b"x" * 100_000
DRIP = dripping(b"x" * 500, head(200, "Content-Length: 500"))


def then_dripping(first: bytes) -> Step:
    """Return a body whose first part arrives at once."""
    return dripping(b"x" * 500, head(200, f"Content-Length: {len(first) + 500}") + first)


# -- a part of the attempt ------------------------------------------------------------------------------------------


def test_body_that_breaks_off_is_a_failed_attempt(http: Http, raw: RawServer) -> None:
    """The request is repeated, and the user gets a whole response."""
    raw.script.extend([breaking_off(), breaking_off()])
    http.open(Pipeline(Retry(3, wait=0)))
    response = http.send("GET", raw.origin)
    assert (response.content, len(raw.seen)) == (b"good", 3)
    assert response.elapsed.total_seconds() > 0
    assert http.all_free()


def test_body_that_breaks_off_for_good_is_the_clients_error(http: Http, raw: RawServer) -> None:
    """It is raised after the last attempt."""
    raw.usual = breaking_off()
    http.open(Pipeline(Retry(3, wait=0)))
    with pytest.raises(http.library.RemoteProtocolError):
        http.send("GET", raw.origin)
    assert len(raw.seen) == 3
    assert http.all_free()


def test_request_that_is_not_safe_is_not_repeated_for_its_body(http: Http, raw: RawServer) -> None:
    """The server has acted upon the request when the body breaks off."""
    raw.usual = breaking_off()
    http.open(Pipeline(Retry(3, wait=0)))
    with pytest.raises(http.library.RemoteProtocolError):
        http.send("POST", raw.origin)
    assert len(raw.seen) == 1


def test_body_that_a_hedge_has_read_is_the_answer(raw: RawServer) -> None:
    """The copy whose body is complete first wins, even if its head was the second."""
    raw.script.append(hanging(head(200, "Content-Length: 100")))
    http = AsyncHttpx().open(Pipeline(Hedge(0.02)))
    assert http.send("GET", raw.origin).content == b"good"
    assert len(raw.seen) == 2
    http.close()


def test_bad_answer_is_repeated_before_its_body_is_there(http: Http, raw: RawServer) -> None:
    """A Retry needs only the head of a failure."""
    raw.script.append(hanging(head(503, "Content-Length: 100")))
    http.open(Pipeline(Retry(2, wait=0), Timeout(30)), timeout=http.library.Timeout(30, read=0.05))
    assert http.send("GET", raw.origin).content == b"good"


def test_permit_is_out_until_the_body_is_there(http: Http, raw: RawServer) -> None:
    """The request is in flight until then."""
    bulkhead, out = Bulkhead(1), []

    async def slow(exchange: Any) -> None:
        await exchange.read()
        await exchange.send(head(200, "Content-Length: 8") + b"half")
        out.append(bulkhead.snapshot()["in_use"])
        await exchange.send(b"half")

    raw.script.append(slow)
    http.open(Pipeline(bulkhead))
    assert http.send("GET", raw.origin).content == b"halfhalf"
    assert (out, bulkhead.snapshot()["in_use"]) == ([1], 0)


def test_redirects_are_read_and_followed(http: Http, raw: RawServer) -> None:
    """The client reads their bodies, also for a user who streams the last one."""
    raw.script.append(answer(302, "Location: /there"))
    http.open(Pipeline(Retry(3, wait=0), CircuitBreaker()))
    assert http.stream(raw.origin, lambda: None, follow_redirects=True) == [b"good"]
    raw.script.append(answer(302, "Location: /there"))
    assert http.send("GET", raw.origin, follow_redirects=True).content == b"good"
    assert [asked.path for asked in raw.seen] == ["/", "/there"] * 2
    assert http.all_free()


# -- time limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policies",
    [
        lambda: [Timeout(0.08)],
        lambda: [Timeout(0.08), Retry(2, wait=0)],
        lambda: [Retry(2, wait=0), Timeout(0.04)],
        lambda: [Timeout(0.08, thread=True)],
        lambda: [Timeout(0.08), Bulkhead(9)],
    ],
    ids=["lone", "total", "each attempt", "thread", "outside a gate"],
)
def test_timeout_bounds_a_body_that_drips(http: Http, raw: RawServer, policies: Callable[[], Any]) -> None:
    """No part of it is late by itself."""
    raw.usual = DRIP
    http.open(Pipeline(*policies()))
    with pytest.raises(TimedOut) as caught:
        http.send("GET", raw.origin)
    assert isinstance(caught.value, http.library.TimeoutException)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("sent", [b"", LONG], ids=["short", "longer than the buffer"])
def test_deadline_bounds_a_body_that_drips(http: Http, raw: RawServer, sent: bytes, method: str) -> None:
    """This holds for a deadline around the request, and for its own; neither is evidence."""
    raw.usual = then_dripping(sent)
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    http.open(Pipeline(Retry(2, wait=0), breaker), buffer=1000)
    for _ in range(5):
        raw.seen.clear()
        with pytest.raises(http.library.TimeoutException):
            _send_within(http, 0.08, method, raw.origin)
        with pytest.raises(http.library.TimeoutException):
            http.send(method, raw.origin, extensions={"resilient": {"deadline": 0.08}})
        if len(raw.seen) == 2:
            break  # else the machine stood still until a deadline, and that request was not sent, or came late
    assert len(raw.seen) == 2
    assert http.all_free()


@pytest.mark.parametrize(
    "policies", [lambda: [Timeout(0.08)], lambda: [Timeout(0.08), Retry(2, wait=0)]], ids=["lone", "total"]
)
def test_total_bounds_the_rest_of_a_long_body(http: Http, raw: RawServer, policies: Callable[[], Any]) -> None:
    """The rest beyond the buffer is a part of the whole, not of the attempt."""
    raw.usual = then_dripping(LONG)
    http.open(Pipeline(*policies()), buffer=1000)
    for _ in range(5):
        raw.seen.clear()
        with pytest.raises(TimedOut) as caught:
            http.send("GET", raw.origin)
        if "the body took more than" in str(caught.value) and len(raw.seen) == 1:
            break  # else the machine stood still, and its time was over before
    assert "the body took more than" in str(caught.value)
    assert len(raw.seen) == 1
    assert http.all_free()


def test_total_bounds_the_body_of_a_bad_answer(http: Http, raw: RawServer) -> None:
    """It is returned as it is, and the client reads it."""
    raw.usual = dripping(b"x" * 500, head(503, "Content-Length: 500"))
    http.open(Pipeline(Timeout(0.08)))
    with pytest.raises(TimedOut):
        http.send("GET", raw.origin)


def test_rest_of_a_long_body_is_no_part_of_the_attempt(http: Http, raw: RawServer) -> None:
    """A download has the time of the total."""
    raw.usual = dripping(b"x" * 20, head(200, f"Content-Length: {len(LONG) + 20}") + LONG)
    http.open(Pipeline(Timeout(30), Retry(2, wait=0), Timeout(0.15)), buffer=1000)
    for _ in range(5):
        raw.seen.clear()
        with contextlib.suppress(http.library.TimeoutException):  # the machine stood still in the midst of it
            assert http.send("GET", raw.origin).content == LONG + b"x" * 20
            if len(raw.seen) == 1:
                break  # else it stood still before
    else:
        pytest.fail("five times out of time")
    assert http.all_free()


# -- streams --------------------------------------------------------------------------------------------------------


def test_stream_that_breaks_off_is_not_repeated(http: Http, raw: RawServer) -> None:
    """A stream that breaks off is not repeated."""
    raw.script.append(breaking_off())
    http.open(Pipeline(Retry(2, wait=0)))
    with pytest.raises(http.library.RemoteProtocolError):
        http.stream(raw.origin, lambda: None)
    assert len(raw.seen) == 1


def test_no_timeout_counts_while_a_stream_is_read(http: Http, raw: RawServer) -> None:
    """It bounds only the wait for the head of the response."""
    raw.usual = dripping(b"x" * 10, head(200, "Content-Length: 10"))
    http.open(Pipeline(Timeout(0.09)))
    for _ in range(5):
        with contextlib.suppress(TimedOut):  # the machine stood still before there was a head
            assert b"".join(http.stream(raw.origin, lambda: None)) == b"x" * 10
            break
    else:
        pytest.fail("five times out of time")


def test_argument_of_send_decides_whether_it_streams(http: Http, server: Server) -> None:
    """SDKs call `send` with `stream=`."""
    http.open(Pipeline(Retry(2, wait=0)))
    request = http.client.build_request("GET", server.origin)
    assert _run(http, http.client.send(request)).content == b"sent: "
    response = _run(http, http.client.send(request, stream=True))
    assert not response.is_stream_consumed
    assert _run(http, response.read() if http.blocking else response.aread()) == b"sent: "
    assert http.all_free()


def test_wrapped_send_is_seen_through(http: Http, raw: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instrumentation replaces the method by a function, a subclass by its own method."""
    kind = http.library.Client if http.blocking else http.library.AsyncClient
    send = kind.send

    @functools.wraps(send)
    def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return send(self, *args, **kwargs)

    monkeypatch.setattr(kind, "send", traced)
    raw.script.append(breaking_off())
    http.open(Pipeline(Retry(2, wait=0)))
    assert http.send("GET", raw.origin).content == b"good"


def test_send_that_was_wrapped_before_us_is_seen_through(
    http: Http, raw: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some instrumentation is installed before our transports, and hides the method that it has wrapped."""
    kind = http.library.Client if http.blocking else http.library.AsyncClient
    send = kind.send

    def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return send(self, *args, **kwargs)

    monkeypatch.setattr(kind, "send", traced)
    http.open(Pipeline(Retry(2, wait=0)))
    library = http.transport.library
    monkeypatch.setattr(library, "_send", library._codes("send"))
    raw.script.append(breaking_off())
    assert http.send("GET", raw.origin).content == b"good"


def test_other_transport_in_between_is_seen_through(http: Http, raw: RawServer) -> None:
    """It may be a cache, or one that traces."""
    http.open(Pipeline(Retry(2, wait=0)))
    ours = http.transport

    class Plain(http.library.BaseTransport):  # type: ignore[name-defined, misc]
        def handle_request(self, request: Any) -> Any:
            return ours.handle_request(request)

        def close(self) -> None:
            ours.close()

    class Async(http.library.AsyncBaseTransport):  # type: ignore[name-defined, misc]
        async def handle_async_request(self, request: Any) -> Any:
            return await ours.handle_async_request(request)

        async def aclose(self) -> None:
            await ours.aclose()

    http.client = http.client_of(transport=Plain() if http.blocking else Async())
    raw.script.append(breaking_off())
    assert http.send("GET", raw.origin).content == b"good"


def test_traced_transport_is_seen_through(http: Http, raw: RawServer) -> None:
    """OpenTelemetry replaces the transport's method by a function with another name."""
    http.open(Pipeline(Retry(2, wait=0)))
    name = "handle_request" if http.blocking else "handle_async_request"
    handle = getattr(http.transport, name)

    def plainly(request: Any) -> Any:
        return handle(request)

    async def async_wrapper(request: Any) -> Any:
        return await handle(request)

    setattr(http.transport, name, plainly if http.blocking else async_wrapper)
    raw.script.append(breaking_off())
    assert http.send("GET", raw.origin).content == b"good"


def test_layers_that_were_called_without_a_client_are_seen_through_later(http: Http, raw: RawServer) -> None:
    """The remembered end of one stack does not hold for another."""
    http.open(Pipeline(Retry(2, wait=0)))

    class Plain(http.library.BaseTransport):  # type: ignore[name-defined, misc]
        def __init__(self, inner: Any) -> None:
            self.handle, self.close = inner.handle_request, inner.close

        def handle_request(self, request: Any) -> Any:
            return self.handle(request)

    class Async(http.library.AsyncBaseTransport):  # type: ignore[name-defined, misc]
        def __init__(self, inner: Any) -> None:
            self.handle, self.aclose = inner.handle_async_request, inner.aclose

        async def handle_async_request(self, request: Any) -> Any:
            return await self.handle(request)

    layers = http.transport
    for _ in range(4):
        layers = Plain(layers) if http.blocking else Async(layers)
    request = http.library.Request("GET", raw.origin)
    response = _run(http, layers.handle_request(request) if http.blocking else layers.handle_async_request(request))
    _run(http, response.close() if http.blocking else response.aclose())
    http.client = http.client_of(transport=layers)
    raw.script.append(breaking_off())
    assert http.send("GET", raw.origin).content == b"good"


def test_transport_without_a_client_streams(http: Http, raw: RawServer) -> None:
    """The caller of the transport reads the body itself."""
    raw.usual = breaking_off()
    http.open(Pipeline(Retry(2, wait=0)))
    request = http.library.Request("GET", raw.origin)
    transport = http.transport
    response = _run(
        http, transport.handle_request(request) if http.blocking else transport.handle_async_request(request)
    )
    assert response.status_code == 200
    _run(http, response.close() if http.blocking else response.aclose())
    assert len(raw.seen) == 1


def _send_within(http: Http, seconds: float, method: str, url: str) -> None:
    async def main() -> None:
        with deadline(seconds):
            await http.client.request(method, url)

    if http.blocking:
        with deadline(seconds):
            http.send(method, url)
    else:
        http.runner.run(main())  # type: ignore[attr-defined]


def _run(http: Http, answer: Any) -> Any:
    return answer if http.blocking else http.runner.run(answer)  # type: ignore[attr-defined]


# -- trio -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=ASYNC_CLIENTS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[Http]:
    """Asynchronous clients of both libraries."""
    return request.param


def test_trio_repeats_and_bounds_bodies_alike(kind: type[Http], raw: RawServer) -> None:
    """The client's `send` is on the stack there, too."""

    async def main() -> None:
        transport = kind.ours.AsyncTransport(Pipeline(Timeout(30), Retry(2, wait=0)), verify=TLS)
        async with kind.library.AsyncClient(transport=transport) as client:
            raw.script.extend([breaking_off(), answer(), DRIP, breaking_off()])
            assert (await client.get(raw.origin)).content == b"good"
            with pytest.raises(TimedOut), deadline(0.08):
                await client.get(raw.origin)
            with pytest.raises(kind.library.RemoteProtocolError):
                async with client.stream("GET", raw.origin) as response:
                    await response.aread()

    trio.run(main)
    assert len(raw.seen) == 4
