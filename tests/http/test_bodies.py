"""Bodies in transit: uploads that are cut off, and responses that end badly, late, or unread."""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient import AdaptiveLimit, CircuitBreaker, CircuitOpen, Pipeline, Retry, TimedOut, Timeout, standard
from tests.http.clients import ASYNC_CLIENTS, CLIENTS, TLS, Http
from tests.http.raw import RawServer, answer, breaking_off, dripping, hanging, head, resetting
from tests.http.server import Answer, Server

BIG = bytes(range(11, 256)) * 17000  # one line, because asynchronous files are read by lines
"""More than the sockets between client and server hold."""

HALF = head(200, "Content-Length: 100") + b"half of"


AT_ONCE = 1e-9
"""Seconds."""


def retrying(http: Http, **options: Any) -> Http:
    return http.open(Pipeline(Retry(3, wait=0)), **options)


def breaking(http: Http, failures: int, seconds: float = 30.0, **options: Any) -> Http:
    breaker = CircuitBreaker(fail_max=failures, failure_rate=None, break_duration=seconds)
    return http.open(Pipeline(breaker), **options)


def is_open(http: Http, url: str) -> bool:
    """Whether the next request is rejected."""
    try:
        http.send("GET", url)
    except CircuitOpen:
        return True
    return False


# -- uploads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "multipart", "iterator"])
def test_upload_that_is_cut_half_way_is_sent_again_whole(http: Http, raw: RawServer, kind: str) -> None:
    """It is sent again from its beginning."""
    raw.script.append(resetting(early=True))
    retrying(http, buffer=len(BIG))
    given: dict[str, Any]
    if kind == "bytes":
        given = {"content": BIG}
    elif kind == "multipart":
        given = {"files": {"file": io.BytesIO(BIG)}}
    else:
        given = {"content": http.body(BIG[:1000], BIG[1000:])}
    assert http.send("PUT", raw.origin, **given).status_code == 200
    first, second = raw.seen
    assert not first.whole
    assert second.whole
    assert BIG in second.body
    assert http.all_free()


def test_file_that_is_cut_half_way_is_sent_again_whole(http: Http, raw: RawServer, tmp_path: Path) -> None:
    """The file is rewound; that of an asynchronous client is read before it is sent."""
    (tmp_path / "file").write_bytes(BIG)
    raw.script.append(resetting(early=True))
    retrying(http, buffer=len(BIG) if not http.blocking else 0)
    with http.file(tmp_path / "file") as opened:
        assert http.send("PUT", raw.origin, content=opened).status_code == 200
    assert [(asked.whole, asked.body == BIG) for asked in raw.seen] == [(False, False), (True, True)]


def test_longer_stream_that_is_cut_half_way_is_not_sent_again(http: Http, raw: RawServer) -> None:
    """Its beginning is lost; the error is the network's, not one about streams."""
    raw.script.append(resetting(early=True))
    retrying(http, buffer=1000)
    with pytest.raises((http.library.NetworkError, http.library.RemoteProtocolError)):
        http.send("PUT", raw.origin, content=http.body(BIG[:2_000_000], BIG[2_000_000:]))
    assert len(raw.seen) == 1
    assert http.all_free()


def test_longer_stream_is_sent_again_where_nothing_of_it_was_sent(http: Http, raw: RawServer) -> None:
    """The part that had been read is sent first."""
    pipeline = Pipeline(Retry(3, wait=0))
    with raw.refusing() as (url, listen):
        pipeline.listen(lambda event: listen() if type(event).__name__ == "Retrying" else None)
        http.open(pipeline, buffer=5)
        assert http.send("POST", url, content=http.body(b"all ", b"of ", b"it")).status_code == 200
    assert [(asked.whole, asked.body) for asked in raw.seen] == [(True, b"all of it")]


def test_stream_that_is_redirected_is_its_users_mistake(http: Http, server: Server) -> None:
    """It has been sent, so the redirect is not followed; the error is the client's own, and no failure of the
    server."""
    breaking(http, 1)
    server.script.append(Answer(307, headers={"Location": f"{server.origin}/there"}))
    with pytest.raises(http.library.StreamConsumed):
        http.send("POST", server.origin, content=http.body(b"all ", b"of it"), follow_redirects=True)
    assert not is_open(http, server.origin)
    assert [seen.body for seen in server.seen if seen.method == "POST"] == [b"all of it"]


class Chunks:
    """An iterable of a plain client that begins anew each time."""

    def __iter__(self) -> Iterator[bytes]:
        yield from (b"all ", b"of it")


class LaterChunks:
    """An iterable of an asynchronous client that begins anew each time."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in Chunks():
            yield part


def iterable(http: Http) -> type[Any]:
    return Chunks if http.blocking else LaterChunks


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("buffer", [0, 5, 1 << 20])
def test_iterable_that_begins_anew_is_sent_whole_after_a_redirect(
    http: Http, server: Server, method: str, buffer: int
) -> None:
    """The client sends it so without us, whatever was read of it before."""
    http.open(Pipeline(Retry(3, wait=0)), buffer=buffer)
    server.script.append(Answer(307, headers={"Location": f"{server.origin}/there"}))
    response = http.send(method, server.origin, content=iterable(http)(), follow_redirects=True)
    assert response.content == b"sent: all of it"
    assert {seen.body for seen in server.seen} == {b"all of it"}


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_iterable_that_begins_anew_is_sent_whole_after_a_challenge(http: Http, server: Server, method: str) -> None:
    """Digest authentication sends each request twice."""
    http.open(Pipeline(Retry(3, wait=0)), buffer=5)
    digest = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
    server.script.append(Answer(401, headers={"WWW-Authenticate": digest}))
    response = http.send(method, server.origin, content=iterable(http)(), auth=http.library.DigestAuth("Ada", "pw"))
    assert response.content == b"sent: all of it"


def test_what_a_second_iteration_would_read_on_is_not_sent_in_part(http: Http, server: Server) -> None:
    """Without us the client would send nothing of iterators and files to the new place."""
    http.open(Pipeline(Retry(3, wait=0)), buffer=5)

    class File(iterable(http)):  # type: ignore[misc]
        def read(self, size: int) -> bytes:
            return self.__dict__.setdefault("left", [b"", b"of it", b"all "]).pop()  # type: ignore[no-any-return]

    for method in ("POST", "PUT"):
        for body in (http.body(b"all ", b"of it"), File()):
            server.script.append(Answer(307, headers={"Location": f"{server.origin}/there"}))
            with pytest.raises(http.library.StreamConsumed):
                http.send(method, server.origin, content=body, follow_redirects=True)
    assert [seen.body for seen in server.seen] == [b"all of it"] * 4


def test_stream_that_may_be_sent_again_may_be_redirected(http: Http, server: Server) -> None:
    """It is a body of bytes by then."""
    http.open(Pipeline(Retry(3, wait=0)))
    server.script.append(Answer(307, headers={"Location": f"{server.origin}/there"}))
    response = http.send("PUT", server.origin, content=http.body(b"all ", b"of it"), follow_redirects=True)
    assert response.content == b"sent: all of it"


class Pipe:
    """A file that cannot be rewound."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._content.read(size)


@pytest.mark.parametrize(("buffer", "requests"), [(10_000, 2), (100, 1)])
def test_multipart_with_a_file_that_cannot_be_rewound_is_a_stream(
    http: Http, raw: RawServer, buffer: int, requests: int
) -> None:
    """It is read first, and sent again if it is not too long, but never without its file."""
    raw.script.append(answer(503))
    retrying(http, buffer=buffer)
    content = b"x" * 5000
    response = http.send("PUT", raw.origin, files={"file": ("name", Pipe(content))})
    assert response.status_code == (200 if requests == 2 else 503)
    assert [(asked.whole, content in asked.body) for asked in raw.seen] == [(True, True)] * requests


@pytest.mark.parametrize("buffer", [0, 1000])
def test_stream_that_raises_is_its_users_error(http: Http, raw: RawServer, buffer: int) -> None:
    """It is read before it is sent or meanwhile; the server never takes the first part for the whole."""

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise LookupError("the stream's own")

    async def broken_too() -> AsyncIterator[bytes]:
        for part in broken():
            yield part

    retrying(http, buffer=buffer)
    with pytest.raises(LookupError, match="the stream's own"):
        http.send("PUT", raw.origin, content=broken() if http.blocking else broken_too())
    assert not any(asked.whole for asked in raw.seen)
    assert http.all_free()


@pytest.mark.parametrize("kind", [kind for kind in CLIENTS if kind.blocking], ids=lambda kind: kind.name)
def test_file_is_sent_from_where_it_was(kind: type[Http], raw: RawServer, tmp_path: Path) -> None:
    """Every attempt starts at the file's position. (httpx needs the number of the bytes that follow.)"""
    (tmp_path / "file").write_bytes(b"read already, and the rest")
    http = retrying(kind())
    raw.script.extend([answer(503), answer(503)])
    with (tmp_path / "file").open("rb") as opened:
        opened.seek(14)
        response = http.send("PUT", raw.origin, content=opened, headers={"Content-Length": "12"})
    http.close()
    assert response.status_code == 200
    assert [asked.body for asked in raw.seen] == [b"and the rest"] * 3


# -- what a circuit learns from answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", [breaking_off(), resetting(HALF)], ids=["RemoteProtocolError", "ReadError"])
def test_bodies_that_die_open_the_circuit(http: Http, raw: RawServer, step: Any) -> None:
    """All fifty break off after a successful head; the user gets the client's own error each time."""
    raw.usual = step
    http.open(Pipeline(CircuitBreaker(failure_rate=0.5, min_calls=50)))
    for _ in range(50):
        with pytest.raises((http.library.ReadError, http.library.RemoteProtocolError)):
            http.send("GET", raw.origin)
    with pytest.raises(http.ours.CircuitOpen):
        http.send("GET", raw.origin)
    assert len(raw.seen) == 50
    assert http.all_free()


def test_half_of_the_bodies_die_and_the_circuit_counts_the_others_as_well(http: Http, raw: RawServer) -> None:
    """Complete bodies are successes: 50 of 100 is less than 51%."""
    http.open(Pipeline(CircuitBreaker(failure_rate=0.51, min_calls=50)))
    for _ in range(50):
        raw.script.extend([answer(), breaking_off()])
        assert http.send("GET", raw.origin).content == b"good"
        with pytest.raises(http.library.RemoteProtocolError):
            http.send("GET", raw.origin)
    assert len(raw.seen) == 100


def fail(http: Http, raw: RawServer) -> None:
    """Send one request, to which the server answers with a failure."""
    raw.script.append(breaking_off())
    with pytest.raises(http.library.RemoteProtocolError):
        http.send("GET", raw.origin)


class Enough(Exception):
    """Raised by a reader that stops early."""


def stop() -> None:
    raise Enough


def test_reader_holds_no_place_of_an_adaptive_limit_but_the_probe_of_a_circuit(http: Http, raw: RawServer) -> None:
    """The duration of a body depends on its reader; whether it arrives depends on the server."""
    http.open(Pipeline(AdaptiveLimit(1), CircuitBreaker(fail_max=1, failure_rate=None)))
    raw.script.append(hanging(HALF))

    def ask_again() -> None:
        http.send("GET", raw.origin)
        raise Enough

    if http.blocking:
        with pytest.raises(Enough):
            http.stream(raw.origin, ask_again)
    else:
        http.runner.run(_read_beside(http, raw))  # type: ignore[attr-defined]
    assert len(raw.seen) == 2
    fail(http, raw)
    assert is_open(http, raw.origin)


async def _read_beside(http: Http, raw: RawServer) -> None:
    async with http.client.stream("GET", raw.origin):
        await http.client.get(raw.origin)


def test_reader_that_stops_early_is_a_success(http: Http, raw: RawServer) -> None:
    """A stream that its reader closes early ends a run of failures."""
    breaking(http, 2)
    fail(http, raw)
    raw.script.append(hanging(HALF))
    with pytest.raises(Enough):
        http.stream(raw.origin, stop)
    fail(http, raw)
    assert not is_open(http, raw.origin)
    assert http.all_free()


def test_last_probe_is_not_over_before_its_body(http: Http, raw: RawServer) -> None:
    """Its permit is taken until then; after a good end the circuit is closed."""
    breaking(http, 1, AT_ONCE)
    fail(http, raw)
    inside: list[bool] = []
    if http.blocking:
        http.stream(raw.origin, lambda: inside.append(is_open(http, raw.origin)))
    else:
        http.runner.run(_probe(http, raw, inside))  # type: ignore[attr-defined]
    assert inside == [True]
    assert not is_open(http, raw.origin)


async def _probe(http: Http, raw: RawServer, inside: list[bool]) -> None:
    async with http.client.stream("GET", raw.origin):
        try:
            await http.client.get(raw.origin)
        except CircuitOpen:
            inside.append(True)


def test_forgotten_answer_gives_its_probe_back(http: Http, raw: RawServer) -> None:
    """The probe is released when the response is garbage-collected."""
    breaking(http, 1, AT_ONCE)
    fail(http, raw)
    request = http.client.build_request("GET", raw.origin)
    response: Any
    if http.blocking:
        response = http.client.send(request, stream=True)
    else:
        response = http.runner.run(http.client.send(request, stream=True))  # type: ignore[attr-defined]
    assert is_open(http, raw.origin)
    del response
    gc.collect()
    assert not is_open(http, raw.origin)


@pytest.mark.parametrize("kind", ASYNC_CLIENTS, ids=lambda kind: kind.name)
async def test_cancelled_reader_is_no_evidence(kind: type[Http], raw: RawServer) -> None:
    """It is neither a failure, nor a success that would end a run of failures; its connection is closed."""
    breaker = CircuitBreaker(fail_max=2, failure_rate=None, break_duration=30)
    transport = kind.ours.AsyncTransport(Pipeline(breaker), verify=TLS)
    async with kind.library.AsyncClient(transport=transport) as client:

        async def fails() -> None:
            raw.script.append(breaking_off())
            with pytest.raises(kind.library.RemoteProtocolError):
                await client.get(raw.origin)

        reading = asyncio.Event()

        async def read() -> None:
            async with client.stream("GET", raw.origin) as response:
                async for _ in response.aiter_raw():
                    reading.set()

        await fails()
        for _ in range(3):
            raw.script.append(hanging(HALF))
            task = asyncio.ensure_future(read())
            await reading.wait()
            reading.clear()
            await asyncio.sleep(0)  # the reader waits for the next part
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        await fails()
        with pytest.raises(CircuitOpen):
            await client.get(raw.origin)


# -- late bodies ----------------------------------------------------------------------------------------------------


def test_late_body_is_a_failure(http: Http, raw: RawServer) -> None:
    """Its reader gets `TimedOut`, which is also the client's `TimeoutException`."""
    raw.usual = dripping(b"x" * 100, head(200, "Content-Length: 100"))
    breaking(http, 2, body_timeout=0.05)
    for _ in range(2):
        with pytest.raises(TimedOut, match=r"the body took more than 0\.05 s") as caught:
            http.send("GET", raw.origin)
        assert isinstance(caught.value, http.library.TimeoutException)
        assert http.all_free()
    assert is_open(http, raw.origin)


@pytest.mark.parametrize("seconds", [30, 0.2])
def test_streamed_body_is_read_with_the_clients_own_timeout(http: Http, raw: RawServer, seconds: float) -> None:
    """The rest of the attempt's time does not count: a stream may pause for longer than a head may take to arrive."""

    async def pausing(exchange: Any) -> None:
        await exchange.read()
        await exchange.send(head(200, "Content-Length: 8") + b"half")
        await asyncio.sleep(0.25)
        await exchange.send(b"half")

    raw.usual = pausing
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    http.open(Pipeline(breaker, Timeout(seconds)))
    assert http.stream(raw.origin, lambda: None) == [b"half", b"half"]
    raw.usual = answer()
    assert not is_open(http, raw.origin)


def test_body_that_hangs_is_a_failure(http: Http, raw: RawServer) -> None:
    """A plain client cannot be interrupted, but its read ends with its read timeout, which is no longer than
    `body_timeout`."""
    raw.usual = hanging(head(200, "Content-Length: 100") + b"half")
    breaking(http, 1, body_timeout=0.05)
    with pytest.raises(TimedOut, match=r"the body took more than 0\.05 s"):
        http.send("GET", raw.origin)
    assert http.all_free()
    assert is_open(http, raw.origin)


def test_body_that_is_in_time_is_no_failure(http: Http, raw: RawServer) -> None:
    """A body that arrives within `body_timeout` is read as a whole."""
    raw.usual = dripping(b"0123456789", head(200, "Content-Length: 10"))
    breaking(http, 1, body_timeout=30)
    for _ in range(2):
        assert http.send("GET", raw.origin).content == b"0123456789"


@pytest.mark.parametrize("pipeline", [standard, lambda: Pipeline(CircuitBreaker()), lambda: Pipeline(Retry())])
def test_first_part_of_an_answer_is_there_before_the_rest_is_sent(http: Http, server: Server, pipeline: Any) -> None:
    """No policy that observes the body delays it."""
    http.open(pipeline(), body_timeout=30)
    assert http.stream(f"{server.origin}/parts", server.send_rest) == [b"first ", b"second"]
    assert http.all_free()
