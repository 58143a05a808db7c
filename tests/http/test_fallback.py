"""A Fallback under a transport: each caller gets its own response, and only responses can be answers."""

from __future__ import annotations

import gzip
from typing import Any

import httpx
import httpx2
import pytest

from resilient import Fallback, Pipeline, Retry
from tests.http.kinds import URL, Kind, Script


def down(kind: Kind) -> Script:
    return kind.script(*[kind.library.ConnectError("down")] * 5)


def answers(kind: Kind, fallback: Fallback, *, nested: bool = False) -> tuple[Any, Any]:
    """Return the responses of two calls."""
    pipeline = Pipeline(fallback, Retry(1))
    client = kind.open(Pipeline(pipeline) if nested else pipeline, down(kind))
    return kind.send(client, url=f"{URL}a"), kind.send(client, url=f"{URL}b")


@pytest.mark.parametrize("nested", [False, True])
def test_each_caller_has_a_response_of_its_own(kind: Kind, nested: bool) -> None:
    """The content is the same; clients change the response that they get."""
    value = kind.library.Response(200, json={"stale": True}, headers={"X-From": "cache"})
    first, second = answers(kind, Fallback(value), nested=nested)
    assert first is not second
    assert (str(first.request.url), str(second.request.url)) == (f"{URL}a", f"{URL}b")
    for answer in (first, second):
        assert (answer.status_code, answer.json(), answer.headers["X-From"]) == (200, {"stale": True}, "cache")
    first.headers["X-From"] = "first"
    assert (second.headers["X-From"], value.headers["X-From"]) == ("cache", "cache")


def test_response_may_be_encoded_and_empty(kind: Kind) -> None:
    """Each caller's response is decoded."""
    packed = kind.library.Response(200, content=gzip.compress(b"plain"), headers={"Content-Encoding": "gzip"})
    assert [answer.text for answer in answers(kind, Fallback(packed))] == ["plain", "plain"]
    assert [answer.content for answer in answers(kind, Fallback(kind.library.Response(204)))] == [b"", b""]


def test_response_can_be_streamed_by_each_caller(kind: Kind) -> None:
    """Each caller's stream has the same parts."""
    pipeline = Pipeline(Fallback(kind.library.Response(200, content=b"stale")), Retry(1))
    client = kind.open(pipeline, down(kind))

    async def later() -> bytes:
        async with client.stream("GET", URL) as response:
            return b"".join([part async for part in response.aiter_raw()])

    def plainly() -> bytes:
        with client.stream("GET", URL) as response:
            return b"".join(response.iter_raw())

    for _ in range(2):
        assert kind.run(later if kind.is_async else plainly) == b"stale"


def test_response_that_a_client_has_had_is_an_answer(kind: Kind) -> None:
    """A cache keeps such responses: as a value, or through a function that returns the same one each time."""
    cached = kind.send(kind.open(Pipeline(Retry(1)), kind.script()))
    for fallback in (Fallback(cached), Fallback(call=lambda error, request: cached)):
        first, second = answers(kind, fallback)
        assert first is not second
        assert (first.text, second.text) == ("status 200", "status 200")
        assert str(cached.request.url) == URL


def test_function_may_answer_with_a_stream(kind: Kind) -> None:
    """Each call of the function makes a new stream."""
    fallback = Fallback(
        call=lambda error, request: kind.library.Response(200, stream=kind.slow_stream(0, b"from ", b"elsewhere"))
    )
    assert [answer.text for answer in answers(kind, fallback)] == ["from elsewhere"] * 2


def test_stream_for_all_callers_is_refused(kind: Kind) -> None:
    """Only one caller could read it: a value is refused when the transport is made, a function's result when it has
    been read."""
    response = kind.library.Response(200, stream=kind.slow_stream(0, b"once"))
    with pytest.raises(TypeError, match=r"is a stream, for one reader: give Fallback\(call=\.\.\.\) a function"):
        kind.transport_of(Pipeline(Fallback(response)))


def test_value_that_is_no_response_is_refused_when_the_transport_is_made(kind: Kind) -> None:
    """A response of the other library is refused, too."""
    other = httpx2 if kind.library is httpx else httpx
    for wrong in ([], None, b"", other.Response(200)):
        with pytest.raises(TypeError, match=rf"must answer with a {kind.library.__name__}.Response, got"):
            kind.transport_of(Pipeline(Fallback(wrong)))


def test_function_that_returns_no_response_is_the_callers_error(kind: Kind) -> None:
    """The caller gets a `TypeError` that says what is needed."""
    client = kind.open(Pipeline(Fallback(call=lambda error, request: {"stale": True})), down(kind))
    with pytest.raises(TypeError, match="must answer with a"):
        kind.send(client)


def test_fallback_outside_of_a_transport_returns_the_very_object() -> None:
    """Without a client the value is never changed, so no copy is needed."""
    value: list[Any] = []
    assert Pipeline(Fallback(value)).call(_fails) is value


def _fails() -> list[Any]:
    raise ConnectionError("down")
