"""The spans of the requests of a server: current while its handler runs, and none is left open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilient import Bulkhead
from resilient.server.asgi import ServerMiddleware
from tests.observe.span_trees import Traces, current, traces
from tests.properties.cancellation_driver import cancel_at_every_point, cancel_at_every_step_of_trio
from tests.server.memory import answering, ask, on_both, streaming

__all__ = ["traces"]  # the fixture


@on_both
async def test_requests_of_a_server(traces: Traces) -> None:
    """The handler runs inside its attempt, with spans that end properly though the call ends inside `send`."""
    inside: list[str] = []

    async def handle() -> str:
        inside.append(current())
        with traces.tracer.start_as_current_span("query"):
            return "good"

    inner = answering(handle)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        with traces.tracer.start_as_current_span("handler"):
            await inner(scope, receive, send)
            assert current() == "handler"
        inside.append(current())

    app = ServerMiddleware(application, limit=Bulkhead(1), max_deadline=10)
    with traces.tracer.start_as_current_span("request"):
        assert (await ask(app)).text == "good"
        assert current() == "request"
    assert inside[0] == "handler"
    assert traces.lines("ending") == [
        "request",
        "  server ServerMiddleware success",
        "    attempt ServerMiddleware success",
        "      handler",
        "        query",
    ]
    assert not traces.open


@on_both
async def test_a_server_that_streams_fails_or_refuses(traces: Traces) -> None:
    """The call ends with the first part of a stream, or is refused; nothing stays open or current."""
    app = ServerMiddleware(streaming(b"one", 1, b"two"), limit=Bulkhead(1), max_deadline=10)
    assert (await ask(app)).text == "onetwo"
    assert current() == ""
    assert traces.lines("ending") == [
        "server ServerMiddleware success",
        "  attempt ServerMiddleware success",
    ]
    traces.clear()

    async def fails() -> None:
        raise LookupError

    failing = ServerMiddleware(answering(fails), limit=Bulkhead(1))
    await ask(failing)
    assert current() == ""
    assert traces.lines("ending", "verdict") == [
        "server ServerMiddleware failure nothing",
        "  attempt ServerMiddleware failure nothing",
    ]
    assert not traces.open


async def test_a_request_whose_response_is_sent_by_another_task(traces: Traces) -> None:
    """Frameworks run handlers in tasks of their own. The request's span is current in neither task after its end."""
    after = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def handle() -> None:
            await answering(lambda: asyncio.sleep(0, "good"))(scope, receive, send)
            after.append(current())

        await asyncio.create_task(handle())

    app = ServerMiddleware(application, limit=Bulkhead(1))
    with traces.tracer.start_as_current_span("request"):
        assert (await ask(app)).text == "good"
        assert current() == "request"
    assert after == ["request"]
    assert not traces.open


class Requests:
    """Two requests with a body, of which the second waits in the queue for the first."""

    starts = (0, 1)

    def __init__(self, traces: Traces) -> None:
        self.traces = traces

        async def application(scope: Any, receive: Any, send: Any) -> None:
            with traces.tracer.start_as_current_span("handler"):
                while (message := await receive()).get("more_body"):
                    pass
                if message["type"] == "http.request":
                    await streaming(1, b"one", 1, b"two")(scope, receive, send)
                assert current() == "handler"

        self.middleware = ServerMiddleware(application, limit=Bulkhead(1, queue=1), max_deadline=3)

    async def call(self, number: int) -> None:
        with self.traces.tracer.start_as_current_span("request"):
            try:
                body = [1.0, b"x", 0.5, b"y", 0.5, b"z"]
                headers = [("Transfer-Encoding", "chunked")]
                await ask(self.middleware, headers=headers, body=body, method="POST")
            finally:
                assert current() == "request"
        assert current() == ""

    async def drain(self) -> None:
        await self.middleware.pipeline.aclose()

    def assert_idle(self) -> None:
        assert not self.traces.open
        self.traces.clear()


@pytest.mark.parametrize("victim", [0, 1])
def test_an_upload_that_is_cancelled_anywhere_leaves_nothing_open(victim: int, traces: Traces) -> None:
    """Its attempt ends while it waits for its body, and another one begins inside code of the application."""
    assert cancel_at_every_point(lambda: Requests(traces), victim) > 5
    assert cancel_at_every_step_of_trio(lambda: Requests(traces), victim) > 2
