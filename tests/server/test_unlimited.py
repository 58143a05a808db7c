"""A middleware that limits nothing: it passes requests on, and counts them."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from resilient import deadline, registry
from resilient.server.asgi import ServerMiddleware
from tests.recorders import EventRecorder
from tests.server.memory import (
    RUN,
    TOO_MUCH,
    Held,
    answering,
    ask,
    hang,
    is_too_late,
    on_both,
    settle_down,
    streaming,
    tell_remaining,
    with_one_inside,
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_unlimited_request_is_in_flight_until_its_application_returns(backend: str) -> None:
    """It is in flight after the first part of its response, too."""
    counts: list[int] = []
    app = ServerMiddleware(streaming(b"x", 1, lambda: counts.append(app.pipeline.snapshot()["in_flight"])))
    RUN[backend](lambda: ask(app))
    assert counts == [1]
    assert app.pipeline.snapshot()["in_flight"] == 0


@on_both
async def test_unlimited_request_whose_application_raises_is_no_longer_in_flight() -> None:
    """The error is raised to the server, as without a middleware."""

    async def fails() -> None:
        raise LookupError

    app = ServerMiddleware(answering(fails))
    assert isinstance((await ask(app)).error, LookupError)
    assert app.pipeline.snapshot()["in_flight"] == 0


@on_both
async def test_closing_waits_for_unlimited_requests_and_refuses_others() -> None:
    """Closing does the same for a middleware with limits."""
    held, order = Held(), []
    app = ServerMiddleware(answering(held))

    async def close() -> None:
        await app.pipeline.aclose()
        order.append("closed")

    async with anyio.create_task_group() as group:

        async def then() -> None:
            group.start_soon(close)
            await settle_down()
            refused = await ask(app)
            assert (refused.status, refused.text) == (503, TOO_MUCH)
            order.append("answered")

        assert (await with_one_inside(app, held, then)).text == "held"
    assert order == ["answered", "closed"]


def _cancelled() -> BaseException:
    return asyncio.CancelledError()


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize(
    ("messages", "error", "ending"),
    [
        ([200], None, ("success", "success")),
        ([404], None, ("success", "success")),
        ([500], None, ("failure", "nothing")),
        ([], None, ("failure", "nothing")),
        ([], LookupError, ("failure", "nothing")),
        ([], _cancelled, ("cancelled", "nothing")),
        ([200], LookupError, ("success", "success")),  # raised after the answer
        ([503], LookupError, ("failure", "nothing")),
    ],
)
def test_unlimited_request_counts_as_its_answer_says(
    messages: list[int], error: Callable[[], BaseException] | None, ending: tuple[str, str], listens: bool
) -> None:
    """As a guarded one does: a dashboard must not show that an application which only fails is well."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for status in messages:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        if error is not None:
            raise error()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    name = f"counts {messages} {error} {listens}"
    app = ServerMiddleware(application, name=name)
    if listens:
        app.pipeline.listen(lambda event: None)
    scope = {"type": "http", "path": "/", "method": "GET", "headers": [], "http_version": "1.1"}
    with contextlib.suppress(LookupError, asyncio.CancelledError):
        asyncio.run(app(scope, receive, send))
    for metric in ("resilient.calls", "resilient.attempts"):
        assert {
            (each["labels"]["ending"], each["labels"]["verdict"]): each["value"]
            for each in registry.metrics()[metric]["series"]
            if each["labels"]["pipeline"] == name and each["value"]
        } == {ending: 1}
    assert app.pipeline.snapshot()["in_flight"] == 0


@on_both
async def test_unlimited_requests_emit_events_to_listeners() -> None:
    """Each emits `CallEnded`."""
    app = ServerMiddleware(answering(tell_remaining))
    recorder = EventRecorder(app.pipeline)
    await ask(app)
    assert [call.ending for call in recorder.calls] == ["success"]


@on_both
async def test_caller_in_this_process_ends_unlimited_requests_at_its_deadline() -> None:
    """The caller has set a deadline around the call of the application, as test clients do."""
    app = ServerMiddleware(answering(hang))
    with deadline(1):
        assert is_too_late(await ask(app))


@on_both
async def test_unlimited_request_with_a_slow_body_is_handled_at_once() -> None:
    """There is no permit that a slow client could hold."""
    parts: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        parts.append(anyio.current_time())
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    begin = anyio.current_time()
    reply = await ask(ServerMiddleware(application), headers=[("Content-Length", "2")], body=[5.0, b"a", 5.0, b"b"])
    assert reply.status == 200
    assert parts == [begin]
    assert math.isclose(anyio.current_time() - begin, 10)
