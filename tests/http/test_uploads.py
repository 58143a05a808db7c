"""Bodies of requests that arrive slowly, and requests within a guarded function: all of them end in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, TimedOut, Timeout, deadline
from tests.http.kinds import URL, Kind

LIMIT, PAUSE = 0.05, 0.01


def dripping(kind: Kind, parts: int) -> Any:
    """Return a body in parts, with a pause before each."""

    async def drip() -> Any:
        for _ in range(parts):
            await asyncio.sleep(PAUSE)
            yield b"x"

    def drip_plainly() -> Any:
        for _ in range(parts):
            time.sleep(PAUSE)
            yield b"x"

    return drip() if kind.is_async else drip_plainly()


def draining(kind: Kind, pause: float = 0.0) -> Callable[[Any], Any]:
    """A step of a script that reads the request before it answers."""

    async def later(request: Any) -> Any:
        async for _ in request.stream:
            pass
        await asyncio.sleep(pause)
        return kind.library.Response(200)

    def plainly(request: Any) -> Any:
        for _ in request.stream:
            pass
        time.sleep(pause)
        return kind.library.Response(200)

    return later if kind.is_async else plainly


BOUNDS: dict[str, tuple[Callable[[], Any], float | None, dict[str, Any]]] = {
    "lone Timeout": (lambda: Pipeline(Timeout(LIMIT)), None, {}),
    "total": (lambda: Pipeline(Timeout(LIMIT), Retry(2, wait=0), Bulkhead(5)), None, {}),
    "deadline": (lambda: Pipeline(Retry(2, wait=0)), LIMIT, {}),
    "of its own": (lambda: Pipeline(Retry(2, wait=0)), None, {"extensions": {"resilient": {"deadline": LIMIT}}}),
}


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_upload_that_drips_ends_in_time(kind: Kind, method: str, bound: str) -> None:
    """It may be read before it is sent; it is no evidence about the server."""
    build, seconds, options = BOUNDS[bound]
    script = kind.script(draining(kind))
    client = kind.open(build(), script)
    inside: Callable[[], AbstractContextManager[Any]] = nullcontext if seconds is None else lambda: deadline(LIMIT)
    begin = time.monotonic()
    with pytest.raises(TimedOut) as caught:
        kind.run(lambda: client.request(method, URL, content=dripping(kind, 500), **options), inside)
    assert time.monotonic() - begin < 4
    assert isinstance(caught.value, kind.library.TimeoutException)
    assert script.sent == []


def test_upload_that_is_read_takes_a_part_of_the_total(kind: Kind) -> None:
    """The time for the request is the rest of the total."""
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    client = kind.open(Pipeline(Timeout(LIMIT), Retry(2, wait=0), breaker), kind.script(draining(kind, 1.0)))
    if not kind.is_async:
        return  # nothing ends the scripted wait there
    with pytest.raises(TimedOut, match=r"the 0\.05 s for the request and its body are over"):
        kind.send(client, "PUT", content=dripping(kind, 3))


def test_upload_in_time_is_sent_again(kind: Kind) -> None:
    """The parts that were read are kept."""
    script = kind.script(503, draining(kind))
    client = kind.open(Pipeline(Timeout(30), Retry(2, wait=0)), script)
    assert kind.send(client, "PUT", content=dripping(kind, 2)).status_code == 200
    assert len(script.sent) == 2


# -- beneath a guarded function -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guard", [lambda: Timeout(2), lambda: Pipeline(Retry(1), Timeout(2)), lambda: Pipeline(Timeout(2), Retry(1))]
)
def test_deadline_header_has_the_timeout_of_a_function_around(kind: Kind, guard: Callable[[], Any]) -> None:
    """Each Timeout is a deadline for the calls inside."""
    script = kind.script()
    client = kind.open(Pipeline(Timeout(10)), script, deadline_header=True)
    kind.run(guard()(_asking(kind, client)))
    (left,) = [int(value or "") for value in script.headers("X-Deadline-Ms")]
    assert 1000 < left <= 2000


def test_plain_request_has_what_a_function_around_has_left(kind: Kind) -> None:
    """The client's own timeouts are as long as that, because nothing else would end the request."""
    limits: list[Any] = []

    def step(request: Any) -> Any:
        limits.append(request.extensions["timeout"]["read"])
        return kind.library.Response(200)

    client = kind.open(Pipeline(Timeout(10)), kind.script(step), client={"timeout": 5})
    if not kind.is_async:
        kind.run(Timeout(2)(_asking(kind, client)))
        assert 1 < limits[0] <= 2


def _asking(kind: Kind, client: Any) -> Callable[[], Any]:
    """Return a function that sends a request."""

    async def ask() -> None:
        await client.get(URL)

    def ask_plainly() -> None:
        client.get(URL)

    return ask if kind.is_async else ask_plainly
