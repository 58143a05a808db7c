"""Requests with bodies: a request that waits for its body holds no permit, and the wait is neither work nor
evidence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from resilient import AdaptiveLimit, Bulkhead, CircuitBreaker, Keyed, RateLimit, Retry, remaining
from resilient.core.gate import Gate
from resilient.events import AttemptFailed, CallEnded, CallRejected, CallTimedOut
from resilient.server.upload import READ_AHEAD
from tests.server.memory import (
    RUN,
    Held,
    Ledger,
    Reply,
    answering,
    ask,
    now,
    on_both,
    scope_of,
    settle_down,
    tell_remaining,
    trusting,
)

FOREVER = 1e6
LARGE = b"x" * READ_AHEAD
LENGTH, CHUNKED = ("Content-Length", "1000"), ("Transfer-Encoding", "chunked")
EXPECT = ("Expect", "100-continue")


async def post(
    app: Any, *body: bytes | float | None, headers: Iterable[tuple[str, str]] = (LENGTH,), **more: Any
) -> Reply:
    """Send a POST request with these parts, and waits between them."""
    return await ask(app, method="POST", headers=headers, body=body, **{"deadline": None, **more})


class Reader:
    """An application that reads its body, works for a while, and answers with the size of the body.

    Attributes:
        received: the number of bytes of each part that it received, or "left".
        called: how often it was called.
    """

    def __init__(self, work: float = 0.0) -> None:
        self.work = work
        self.received: list[int | str] = []
        self.called = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.called += 1
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                self.received.append("left")
                return
            self.received.append(len(message["body"]))
            more = message["more_body"]
        await anyio.sleep(self.work)
        read = sum(each for each in self.received if isinstance(each, int))
        await answering(lambda: _soon(str(read)))(scope, receive, send)


async def _soon(value: Any) -> Any:
    return value


def is_408(reply: Reply) -> bool:
    return (reply.status, reply.text) == (408, "The body of the request did not come in time.")


# -- permits --------------------------------------------------------------------------------------------------------

DRIPS = {
    "nothing": ((LENGTH,), (FOREVER,)),
    "first bytes": ((LENGTH,), (b"x", FOREVER)),
    "a full buffer": ((LENGTH,), (LARGE, FOREVER)),
    "chunked, nothing": ((CHUNKED,), (FOREVER,)),
    "chunked, first part": ((CHUNKED,), (b"x", FOREVER)),
    "chunked, parts": ((CHUNKED,), (b"x", 1.0, b"x", 1.0, b"x", FOREVER)),
    "empty parts": ((CHUNKED,), (b"", b"", FOREVER)),
    "expecting": ((LENGTH, EXPECT), (FOREVER,)),
    "both lengths": ((LENGTH, CHUNKED), (b"x", FOREVER)),
}


@pytest.mark.parametrize("drip", DRIPS)
@pytest.mark.parametrize(
    "limit", [lambda: Bulkhead(1), lambda: AdaptiveLimit(1), lambda: Keyed(lambda: Bulkhead(1), key=lambda scope: "")]
)
@on_both
async def test_clients_that_do_not_send_hold_no_permit(drip: str, limit: Any) -> None:
    """Twenty of them do not delay another request, at any point of their bodies."""
    headers, body = DRIPS[drip]
    app = trusting(Reader(), limit=limit())
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(lambda: post(app, *body, headers=headers))
            await settle_down()
        await anyio.sleep(10)
        assert (await ask(app)).status == 200
        assert (await post(app, b"fast")).status == 200
        group.cancel_scope.cancel()
    assert app.pipeline.snapshot()["in_flight"] == 0


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
@on_both
async def test_any_method_may_have_a_body(method: str) -> None:
    """The header announces it."""
    reader = Reader()
    app = trusting(reader, limit=Bulkhead(1))
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: ask(app, method=method, headers=[LENGTH], body=[FOREVER]))
        await settle_down()
        assert (await ask(app)).status == 200
        group.cancel_scope.cancel()
    assert reader.called == 1


@on_both
async def test_http2_body_without_a_header_is_waited_for() -> None:
    """HTTP/2 need not announce a body."""
    app = trusting(Reader(), limit=Bulkhead(1))
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: post(app, FOREVER, headers=[], http_version="2"))
        await settle_down()
        assert (await ask(app, http_version="2")).status == 200
        group.cancel_scope.cancel()


@on_both
async def test_request_without_a_body_receives_from_its_server_directly() -> None:
    """It has no cost of an upload."""
    seen: list[Any] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.append(receive)

    async def receive() -> Any:
        raise AssertionError

    app = trusting(look, limit=Bulkhead(1), max_deadline=30)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"0")]}
    await app(scope, receive, receive)
    assert seen == [receive]


@on_both
async def test_permit_is_asked_for_when_the_body_is_there() -> None:
    """A full server refuses then, and the application is not called."""
    held, reader = Held(), Reader()
    bulkhead = Bulkhead(1)
    app = trusting(answering(held), limit=bulkhead)
    async with anyio.create_task_group() as group:
        group.start_soon(ask, app)
        await settle_down()
        app.app = reader
        begin = now()
        assert (await post(app, 1.0, b"x", 1.0, b"x")).status == 503
        assert now() - begin == pytest.approx(2)
        held.event.set()
    assert reader.called == 0
    assert bulkhead._at_rest


@on_both
async def test_upload_gets_its_permit_back_when_it_is_complete() -> None:
    """It holds the permit while the application works, not before."""
    seen: list[Any] = []
    bulkhead = Bulkhead(1)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(bulkhead._at_rest)
        while (await receive())["more_body"]:
            seen.append(bulkhead._at_rest)
        seen.append(bulkhead._at_rest)
        await answering(tell_remaining)(scope, receive, send)

    app = trusting(application, limit=bulkhead)
    assert (await post(app, b"x", 1.0, b"y", b"z", 1.0, b"", headers=[CHUNKED])).status == 200
    assert seen == [False, False, True, True, False]
    assert bulkhead._at_rest


@pytest.mark.parametrize(("headers", "most"), [([LENGTH], READ_AHEAD), ([CHUNKED], 1), ([LENGTH, EXPECT], 0)])
@on_both
async def test_body_is_read_ahead_in_part(headers: Any, most: int) -> None:
    """Of a long body `READ_AHEAD` bytes are read, of one without a length the first part."""
    taken = 0

    async def receive() -> Any:
        nonlocal taken
        taken += 1000
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    async def look(scope: Any, receive: Any, send: Any) -> None:
        assert most <= taken < most + 1000
        assert len((await receive())["body"]) == max(taken, 1000)

    await trusting(look, limit=Bulkhead(1))(scope_of(headers=headers, method="POST"), receive, receive)  # type: ignore[arg-type]


@on_both
async def test_parts_that_have_arrived_keep_the_permit() -> None:
    """The upload of a fast client is admitted once."""
    limit = RateLimit(1, per=60, burst=1)
    ledger = Ledger()
    for gate in (limit, ledger):
        reader = Reader()
        app = trusting(reader, limit=gate)
        assert (await post(app, b"1", b"2", LARGE, b"34", headers=[CHUNKED])).status == 200
        assert reader.received == [1, 1, READ_AHEAD, 2]
    assert [kind for kind, _ in ledger.entries] == ["success"]


@on_both
async def test_upload_that_pauses_is_charged_once() -> None:
    """A rate limit takes one token, even if it is the last one."""
    for limit in (RateLimit(2, per=3600, burst=2), Keyed(lambda: RateLimit(2, per=3600, burst=2), key=lambda _: "")):
        app = trusting(Reader(), limit=limit)
        assert (await ask(app)).status == 200
        assert (await post(app, b"x", 1.0, b"y", 1.0, b"z", headers=[CHUNKED])).status == 200
        assert (await ask(app)).status == 503


@pytest.mark.parametrize("drip", ["a full buffer", "chunked, first part", "chunked, parts", "expecting"])
@on_both
async def test_uploads_that_are_never_complete_are_charged(drip: str) -> None:
    """Otherwise a stranger could have the application called without limit."""
    headers, body = DRIPS[drip]
    for limit in (RateLimit(3, per=36000, burst=3), Keyed(lambda: RateLimit(3, per=36000, burst=3), key=lambda _: "")):
        reader = Reader()
        app = trusting(reader, limit=limit, max_deadline=30)
        statuses = [(await post(app, *body, headers=headers)).status for _ in range(5)]
        assert statuses == [408, 408, 408, 503, 503]
        assert reader.called == 3


@pytest.mark.parametrize("limit", [lambda: Bulkhead(1), lambda: AdaptiveLimit(1)])
@on_both
async def test_upload_that_finds_a_full_server_in_the_end_is_refused(limit: Any) -> None:
    """The application receives `http.disconnect`; the answer is 503, and its own answer is dropped."""
    gate: Gate = limit()
    for says in (_nothing, _raises, _answers):
        held, received = Held(), []

        async def application(scope: Any, receive: Any, send: Any, says: Any = says, received: Any = received) -> None:
            while (message := await receive())["type"] == "http.request":
                received.append(message["body"])
            assert (await receive())["type"] == "http.disconnect"
            await says(scope, receive, send)

        app = trusting(application, limit=gate, max_deadline=60)
        async with anyio.create_task_group() as group:

            async def other(app: Any = app, held: Any = held) -> None:
                await anyio.sleep(1)
                app.app = answering(held)
                await ask(app)

            group.start_soon(other)
            reply = await post(app, b"1", 2.0, b"2", 2.0, b"3", headers=[CHUNKED])
            assert (reply.status, reply.error) == (503, None)
            assert received == [b"1", b"2"]
            held.event.set()
        assert gate._at_rest
        assert app.pipeline.snapshot()["in_flight"] == 0


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


async def _raises(scope: Any, receive: Any, send: Any) -> None:
    raise ClientDisconnect


async def _answers(scope: Any, receive: Any, send: Any) -> None:
    await answering(lambda: _soon(400))(scope, receive, send)


@on_both
async def test_complete_upload_waits_in_the_queue_of_its_limit() -> None:
    """It waits until its deadline, as any other request."""
    held, replies = Held(), []
    app = trusting(answering(held), limit=Bulkhead(1, queue=1), max_deadline=60)
    async with anyio.create_task_group() as group:

        async def other() -> None:
            await anyio.sleep(1)
            await ask(app)

        async def upload(deadline: str | None) -> None:
            replies.append(await post(app, b"x", 2.0, b"y", headers=[CHUNKED], deadline=deadline))

        app.app = Reader()
        group.start_soon(upload, None)
        await settle_down()
        app.app = answering(held)
        group.start_soon(other)
        await anyio.sleep(3)
        assert app.pipeline.snapshot()["policies"][1]["queued"] == 1
        held.event.set()
    assert [reply.text for reply in replies] == ["2"]


@on_both
async def test_deadline_that_passes_in_the_queue_after_an_upload_is_504() -> None:
    """The answer is 504, because the body was there in time."""
    held = Held()
    app = trusting(Reader(), limit=Bulkhead(1, queue=1), deadline_header=True)
    replies: list[Reply] = []
    async with anyio.create_task_group() as group:

        async def upload() -> None:
            replies.append(await post(app, b"x", 2.0, b"y", headers=[CHUNKED], deadline="8000"))

        group.start_soon(upload)
        await anyio.sleep(1)
        app.app = answering(held)
        group.start_soon(ask, app)
        await anyio.sleep(6)
        assert app.pipeline.snapshot()["policies"][1]["queued"] == 1
        await anyio.sleep(2)
        assert len(replies) == 1
        held.event.set()
    assert [(reply.status, reply.error) for reply in replies] == [(504, None)]


# -- the deadline ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drip", DRIPS)
@on_both
async def test_body_that_does_not_come_until_the_deadline_is_408(drip: str) -> None:
    """Whether the application has been called or not, the connection is closed, and the limit learns nothing."""
    headers, body = DRIPS[drip]
    ledger = Ledger()
    app = trusting(Reader(), limit=ledger, max_deadline=30)
    begin = now()
    reply = await post(app, *body, headers=headers)
    assert is_408(reply)
    assert reply.headers["connection"] == "close"
    assert reply.error is None
    assert now() - begin == pytest.approx(30)
    assert ledger.entries in ([], ["nothing"])
    assert app.pipeline.snapshot()["in_flight"] == 0


@on_both
async def test_answer_in_http2_has_no_connection_header() -> None:
    """HTTP/2 has no `Connection` header."""
    reply = await post(trusting(Reader(), max_deadline=30), FOREVER, http_version="2")
    assert is_408(reply)
    assert "connection" not in reply.headers


@on_both
async def test_deadline_of_the_client_ends_its_upload_too() -> None:
    """It runs while the body arrives."""
    app = trusting(Reader(), max_deadline=30, deadline_header=True)
    begin = now()
    assert is_408(await post(app, b"x", FOREVER, deadline="2000"))
    assert is_408(await post(app, b"x", FOREVER, deadline="2000", headers=[CHUNKED]))
    assert now() - begin == pytest.approx(4)
    assert (await post(trusting(Reader(5), deadline_header=True), 1.0, b"x", deadline="3000")).status == 504
    assert now() - begin == pytest.approx(7)


@pytest.mark.parametrize("headers", [[LENGTH], [CHUNKED], [LENGTH, EXPECT]])
@on_both
async def test_work_has_the_whole_of_max_deadline(headers: Any) -> None:
    """The time of the body does not count, and only slow work is a failure of the server."""
    ledger = Ledger()
    app = trusting(Reader(29), limit=ledger, max_deadline=30)
    begin = now()
    assert (await post(app, b"x", 20.0, b"y", headers=headers)).status == 200
    assert now() - begin == pytest.approx(49)
    app.app = Reader(31)
    begin = now()
    assert (await post(app, b"x", 20.0, b"y", headers=headers)).status == 504
    assert now() - begin == pytest.approx(50)
    assert [(kind, round(seconds)) for kind, seconds in (each for each in ledger.entries if each != "nothing")] == [
        ("success", 29),
        ("failure", 30),
    ]


@on_both
async def test_client_with_a_later_deadline_than_the_servers_is_held_to_both() -> None:
    """The work ends at the earlier of the client's deadline, and `max_deadline` after the body was there."""
    app = trusting(Reader(100), max_deadline=30, deadline_header=True)
    for waits, ends in ((5.0, 35.0), (20.0, 40.0)):
        begin = now()
        assert (await post(app, waits, b"x", deadline="40000")).status == 504
        assert now() - begin == pytest.approx(ends)


@on_both
async def test_upload_may_pause_more_than_once() -> None:
    """All of its waits together have `max_deadline`, while its work has not begun."""
    parts = [part for _ in range(100) for part in (b"x", 1.0)]
    begin = now()
    assert is_408(await post(trusting(Reader(), max_deadline=30), *parts, b"", headers=[CHUNKED]))
    assert now() - begin == pytest.approx(30)


@on_both
async def test_slow_uploads_open_no_circuit() -> None:
    """Every client can upload slowly."""
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    app = trusting(Reader(), max_deadline=30, limit=breaker)
    for headers, body in DRIPS.values():
        assert is_408(await post(app, *body, headers=headers))
    assert breaker.state == "closed"
    app.app = Reader(31)
    assert (await post(app, b"x")).status == 504
    assert breaker.state == "open"


@on_both
async def test_remaining_is_of_the_work() -> None:
    """The handler and its guarded calls have the time of the work."""
    seen: list[float | None] = []

    @Retry()
    async def fetch() -> None:
        await anyio.sleep(25)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        seen.append(remaining())
        await fetch()
        await answering(tell_remaining)(scope, receive, send)

    app = trusting(application, max_deadline=30)
    for headers in ([LENGTH], [CHUNKED]):
        reply = await post(app, b"x", 20.0, b"y", headers=headers)
        assert float(reply.text) == pytest.approx(5)
    assert seen == [pytest.approx(30)] * 2


@on_both
async def test_rest_of_a_body_has_no_more_time_because_its_beginning_came() -> None:
    """The whole body must arrive within `max_deadline`, even if the application works with its first part."""
    app = trusting(Reader(), max_deadline=30)
    begin = now()
    assert is_408(await post(app, 10.0, b"x", FOREVER, headers=[CHUNKED]))
    assert now() - begin == pytest.approx(30)


def test_guarded_call_beside_a_slow_upload_is_not_ended_with_it() -> None:
    """A call that began before the body was there has the time of the work (on trio, the time at its beginning)."""

    @Retry()
    async def fetch() -> None:
        await anyio.sleep(40)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fetch)
            while (await receive())["more_body"]:
                pass
        await answering(tell_remaining)(scope, receive, send)

    async def main() -> None:
        begin = now()
        reply = await post(trusting(application, max_deadline=30), b"x", 20.0, b"y", headers=[CHUNKED])
        assert (reply.status, now() - begin) == (200, pytest.approx(40))

    RUN["asyncio"](main)


# -- applications -----------------------------------------------------------------------------------------------------


@on_both
async def test_application_may_answer_before_its_body_has_come() -> None:
    """It is called first if the client waits for that; after its answer nothing is waited for."""
    ledger = Ledger()
    for headers, body, learnt in (
        ((LENGTH, EXPECT), (FOREVER,), "success"),
        ((LENGTH,), (LARGE, FOREVER), "success"),
        ((CHUNKED,), (b"x", FOREVER), "success"),
    ):
        ledger.entries.clear()
        app = trusting(answering(lambda: _soon(413)), limit=ledger, max_deadline=30)
        begin = now()
        assert (await post(app, *body, headers=headers)).status == 413
        assert now() == begin
        assert [kind for kind, _ in ledger.entries] == [learnt]


@pytest.mark.parametrize("status", [200, 500])
@on_both
async def test_answer_amid_the_upload_is_sent_and_is_no_evidence(status: int) -> None:
    """Its latency would measure the client's speed."""
    ledger = Ledger()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            await receive()
        await answering(lambda: _soon(status))(scope, receive, send)

    app = trusting(application, limit=ledger, max_deadline=30)
    assert (await post(app, b"x", 1.0, b"y", 1.0, b"z", FOREVER, headers=[CHUNKED])).status == status
    assert ledger.entries == ["nothing"]
    assert app.pipeline.snapshot()["in_flight"] == 0


@on_both
async def test_response_may_begin_before_its_body_has_ended() -> None:
    """Both go on then, without a deadline or a permit."""
    bulkhead = Bulkhead(1)

    async def echo(request: Request) -> StreamingResponse:
        async def parts() -> Any:
            async for part in request.stream():
                yield part

        return StreamingResponse(parts())

    app = trusting(Starlette(routes=[Route("/", echo, methods=["POST"])]), limit=bulkhead, max_deadline=30)
    reply = await post(app, b"1", 50.0, b"2", 50.0, b"3", headers=[CHUNKED])
    assert (reply.status, reply.text, reply.error) == (200, "123", None)
    assert bulkhead._at_rest


@on_both
async def test_starlette_reads_a_slow_body() -> None:
    """It reads it as a whole, in parts, and as a form; a refused one leaves no traceback."""

    async def whole(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    async def stream(request: Request) -> PlainTextResponse:
        return PlainTextResponse(b"".join([part async for part in request.stream()]))

    bulkhead = Bulkhead(1)
    routes = [Route("/whole", whole, methods=["POST"]), Route("/stream", stream, methods=["POST"])]
    app = trusting(Starlette(routes=routes), limit=bulkhead, max_deadline=30)
    for path in ("/whole", "/stream"):
        for headers in ([LENGTH], [CHUNKED], [LENGTH, EXPECT]):
            reply = await post(app, b"1", 1.0, b"2", 1.0, b"3", headers=headers, path=path)
            assert (reply.status, reply.text, reply.error) == (200, "123", None)
            reply = await post(app, b"1", FOREVER, headers=headers, path=path)
            assert is_408(reply)
            assert reply.error is None
    assert bulkhead._at_rest


@on_both
async def test_application_that_swallows_its_end_reads_no_more() -> None:
    """It receives `http.disconnect`."""
    received: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with contextlib.suppress(BaseException):
            await receive()
        with anyio.CancelScope(shield=True):
            received.append((await receive())["type"])
        await answering(lambda: _soon(200))(scope, receive, send)

    app = trusting(application, limit=Bulkhead(1), max_deadline=30)
    assert is_408(await post(app, b"x", FOREVER, headers=[CHUNKED]))
    assert received == ["http.disconnect"]


# -- clients that leave -----------------------------------------------------------------------------------------------


@on_both
async def test_client_that_leaves_before_its_body_has_come_is_not_served() -> None:
    """The application is not called, and there is no answer."""
    reader, ledger = Reader(), Ledger()
    app = trusting(reader, limit=ledger, max_deadline=30)
    for body in ((None,), (b"x", 1.0, None)):
        reply = await post(app, *body)
        assert (reply.status, reply.error) == (None, None)
    assert (reader.called, ledger.entries) == (0, [])
    assert app.pipeline.snapshot()["in_flight"] == 0


@on_both
async def test_application_learns_that_its_client_left_amid_the_upload() -> None:
    """The server's `http.disconnect` is passed on."""
    reader, bulkhead = Reader(), Bulkhead(1)
    app = trusting(reader, limit=bulkhead, max_deadline=30)
    reply = await post(app, b"x", 1.0, None, headers=[CHUNKED])
    assert (reply.status, reply.error) == (None, None)
    assert reader.received == [1, "left"]
    assert bulkhead._at_rest
    assert app.pipeline.snapshot()["in_flight"] == 0


# -- events -----------------------------------------------------------------------------------------------------------


@on_both
async def test_events_tell_of_each_request_once() -> None:
    """Each request has one event with its end for its client."""
    app = trusting(Reader(), limit=RateLimit(3, per=36000, burst=3), max_deadline=30)
    heard: list[Any] = []
    app.pipeline.listen(heard.append)

    async def events_of(*body: Any, headers: Any = (CHUNKED,)) -> list[Any]:
        heard.clear()
        await post(app, *body, headers=headers)
        assert not any(isinstance(event, AttemptFailed) for event in heard)
        return [event for event in heard if isinstance(event, CallEnded | CallRejected | CallTimedOut)]

    (ended,) = await events_of(b"x", 1.0, b"y", 1.0, b"z")
    assert (ended.ending, ended.requests) == ("success", 1)
    (ended,) = await events_of(None)
    assert (ended.ending, ended.requests) == ("cancelled", 0)
    ended, late = await events_of(FOREVER)
    assert (ended.ending, ended.requests) == ("timeout", 0)
    assert str(ended.error) == "max_deadline=30 s has passed while the request's body was awaited"
    assert (late.policy, late.seconds) == ("max_deadline", 30)
    for _ in range(2):
        await events_of(b"x")
    refusal, ended = await events_of(b"x")
    assert (refusal.policy, ended.ending) == ("RateLimit", "rejected")


@on_both
async def test_closing_waits_for_uploads() -> None:
    """Requests that wait for their bodies are inside."""
    app = trusting(Reader(), max_deadline=30, limit=Bulkhead(1))
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: post(app, b"x", 5.0, b"y"))
        await settle_down()
        begin = now()
        assert app.pipeline.snapshot()["in_flight"] == 1
        await app.pipeline.aclose()
        assert now() - begin == pytest.approx(5)


@on_both
async def test_switched_off_middleware_does_not_read_bodies() -> None:
    """The application receives directly from the server."""
    reader = Reader()
    app = trusting(reader, max_deadline=30, limit=Bulkhead(1))
    with app.pipeline.switch("off"):
        assert (await post(app, b"x", 100.0, b"y")).text == "2"
    assert reader.received == [1, 1]
