"""Evidence of HTTP/2 about a request: it was refused, the server left before it, or it only failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from h2.errors import ErrorCodes

from resilient import CircuitBreaker, Pipeline, Retry
from resilient.events import Event, Retrying
from tests.http.clients import ASYNC_CLIENTS, Http
from tests.http.raw import Http2Step, RawHttp2Server

BIG = bytes(range(256)) * 1024  # four times what HTTP/2 sends without being asked for more
IMPATIENT = {"connect": 30.0, "read": 0.05, "write": 30.0, "pool": 30.0}


def opened(http: Http, *inner: Any, **options: Any) -> Http:
    return http.open(Pipeline(Retry(3, wait=0), *inner), http1=False, http2=True, **options)


def resetting(code: ErrorCodes, *, early: bool = False) -> Http2Step:
    return Http2Step(lambda stream: stream.reset(code), early)


def leaving(last: int, *, early: bool = False) -> Http2Step:
    return Http2Step(lambda stream: stream.go_away(last), early)


def bodies(raw: RawHttp2Server) -> list[bytes]:
    """Return the bodies that have arrived whole."""
    return [asked.body for asked in raw.seen if asked.whole]


def test_refused_post_is_sent_again(http: Http, raw_http2: RawHttp2Server) -> None:
    """REFUSED_STREAM means that nothing was done (RFC 9113, section 8.7)."""
    raw_http2.steps.append(resetting(ErrorCodes.REFUSED_STREAM))
    assert opened(http).send("POST", raw_http2.origin, content=b"order").status_code == 200
    assert bodies(raw_http2) == [b"order"] * 2
    assert http.all_free()


@pytest.mark.parametrize("code", [ErrorCodes.INTERNAL_ERROR, ErrorCodes.CANCEL, ErrorCodes.PROTOCOL_ERROR])
def test_reset_post_is_not_sent_again(http: Http, raw_http2: RawHttp2Server, code: ErrorCodes) -> None:
    """Other codes do not mean that nothing was done."""
    raw_http2.steps.append(resetting(code))
    with pytest.raises(http.library.RemoteProtocolError):
        opened(http).send("POST", raw_http2.origin, content=b"order")
    assert bodies(raw_http2) == [b"order"]
    assert http.all_free()


def test_reset_put_is_sent_again(http: Http, raw_http2: RawHttp2Server) -> None:
    """PUT is idempotent, so a reset of its stream is repeated."""
    raw_http2.steps.append(resetting(ErrorCodes.INTERNAL_ERROR))
    assert opened(http).send("PUT", raw_http2.origin, content=b"order").status_code == 200
    assert bodies(raw_http2) == [b"order"] * 2
    assert http.all_free()


def test_post_is_sent_again_after_a_goaway_before_it(http: Http, raw_http2: RawHttp2Server) -> None:
    """The last stream of the GOAWAY is before its own, the connection's first or another one."""
    opened(http)
    raw_http2.steps.append(leaving(0))
    assert http.send("POST", raw_http2.origin, content=b"first").status_code == 200
    raw_http2.steps.append(leaving(1))
    assert http.send("POST", raw_http2.origin, content=b"second").status_code == 200
    assert bodies(raw_http2) == [b"first"] * 2 + [b"second"] * 2
    assert raw_http2.opened == 3
    assert http.all_free()


def test_post_that_a_leaving_server_may_have_seen_is_not_sent_again(http: Http, raw_http2: RawHttp2Server) -> None:
    """The last stream of the GOAWAY is its own, or one after it."""
    raw_http2.steps.append(leaving(1))
    with pytest.raises(http.library.RemoteProtocolError):
        opened(http).send("POST", raw_http2.origin, content=b"order")
    assert bodies(raw_http2) == [b"order"]
    assert http.all_free()


@pytest.mark.parametrize(
    ("step", "before"),
    [(resetting(ErrorCodes.REFUSED_STREAM), 0), (leaving(0), 0), (leaving(1), 1)],
    ids=["refused", "the first stream", "a later stream"],
)
def test_streamed_post_is_not_sent_truncated(
    http: Http, raw_http2: RawHttp2Server, step: Http2Step, before: int
) -> None:
    """A part of its body has been sent, and cannot be sent again."""
    opened(http)
    for _ in range(before):
        http.send("GET", raw_http2.origin)
    raw_http2.seen.clear()
    raw_http2.steps.append(step)
    with pytest.raises((http.library.TransportError, http.library.StreamConsumed)):
        http.send("POST", raw_http2.origin, content=http.body(b"the whole ", b"order"))
    assert bodies(raw_http2) == [b"the whole order"]
    assert http.all_free()


@pytest.mark.parametrize("code", [ErrorCodes.REFUSED_STREAM, ErrorCodes.INTERNAL_ERROR])
def test_put_that_is_reset_in_mid_upload_is_sent_again(http: Http, raw_http2: RawHttp2Server, code: ErrorCodes) -> None:
    """The whole body is sent again. (The clients wait for permission to send the rest, until their read timeout.)"""
    patience = IMPATIENT.copy()

    def await_all_of_the_second(event: Event) -> None:
        if isinstance(event, Retrying):
            patience["read"] = 30.0

    pipeline = Pipeline(Retry(3, wait=0))
    pipeline.listen(await_all_of_the_second)
    raw_http2.steps.append(resetting(code, early=True))
    http.open(pipeline, http1=False, http2=True)
    sent = http.send("PUT", raw_http2.origin, content=BIG, extensions={"timeout": patience})
    assert sent.status_code == 200
    assert bodies(raw_http2) == [BIG]
    assert len(raw_http2.seen) == 2
    assert http.all_free()


def test_post_that_is_reset_in_mid_upload_is_not_sent_again(http: Http, raw_http2: RawHttp2Server) -> None:
    """It is unknown what the server has done. The circuit counts a failure."""
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    raw_http2.steps.append(resetting(ErrorCodes.INTERNAL_ERROR, early=True))
    with pytest.raises(http.library.ReadTimeout):
        opened(http, breaker).send("POST", raw_http2.origin, content=BIG, extensions={"timeout": IMPATIENT})
    with pytest.raises(http.ours.CircuitOpen):
        http.send("POST", raw_http2.origin, content=BIG)
    assert len(raw_http2.seen) == 1
    assert http.all_free()


@pytest.mark.parametrize("kind", ASYNC_CLIENTS, ids=lambda kind: kind.name)
async def test_reset_that_another_request_has_read_is_a_failure_of_the_server(
    kind: type[Http], raw_http2: RawHttp2Server
) -> None:
    """The clients raise `LocalProtocolError` then, as for an error of their user."""
    raw_http2.steps.extend([Http2Step(lambda stream: None, early=True), resetting(ErrorCodes.CANCEL, early=True)])
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    transport = kind.ours.AsyncTransport(Pipeline(breaker), buffer=0, http1=False, http2=True)
    async with kind.library.AsyncClient(transport=transport) as client:
        reader = asyncio.ensure_future(client.get(raw_http2.origin))

        async def drops() -> AsyncIterator[bytes]:
            async with asyncio.timeout(10):
                while True:
                    yield b"x"
                    await asyncio.sleep(0.001)

        async with asyncio.timeout(10):
            while not raw_http2.seen:  # noqa: ASYNC110  (it is another thread's)
                await asyncio.sleep(0.001)
        with pytest.raises(kind.library.LocalProtocolError):
            await client.put(raw_http2.origin, content=drops())
        with pytest.raises(kind.ours.CircuitOpen):
            await client.get(raw_http2.origin)
        reader.cancel()
        await asyncio.wait([reader])
