"""The deadline of a request: its source, its effects, and its end when the response begins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from resilient import (
    Bulkhead,
    Retry,
    TimedOut,
    Timeout,
    current_priority,
    deadline,
    remaining,
)
from resilient.server.asgi import ServerMiddleware
from tests.server.memory import (
    Ledger,
    answering,
    ask,
    hang,
    is_too_late,
    now,
    on_both,
    streaming,
    tell_remaining,
    trusting,
)

# -- the deadline of a request --------------------------------------------------------------------------------------


@on_both
async def test_header_sets_the_deadline() -> None:
    """The header has milliseconds, and shortens the server's own time."""
    app = trusting(answering(tell_remaining), max_deadline=30)
    assert (await ask(app, deadline="2000")).text == "2.0"
    assert (await ask(app, deadline=" 1500.5\t")).text == "1.5005"
    assert (await ask(app)).text == "30.0"


@on_both
async def test_without_max_deadline_only_the_clients_deadline_holds() -> None:
    """Without a header there is no deadline."""
    app = trusting(answering(tell_remaining))
    assert (await ask(app, deadline="2000")).text == "2.0"
    assert (await ask(app)).text == "None"


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "soon", "-5", "+5", "-0", "nan", "inf", "1e3", "0x10", "5,000", "1, 2", "5 6", "5s"),
        *("²", ".5", "1.0.0", "5\x00", "99999999999", "9" * 400),
    ],
)
@on_both
async def test_invalid_header_is_ignored(value: str) -> None:
    """The server's own limit holds then."""
    assert (await ask(trusting(answering(tell_remaining), max_deadline=30), deadline=value)).text == "30.0"


@on_both
async def test_headers_are_ignored_by_default() -> None:
    """Otherwise a stranger could choose the moment at which a handler is cancelled."""
    charged, recorded = [], []

    async def pay() -> str:
        charged.append(now())
        await anyio.sleep(0.5)
        recorded.append(now())
        return f"{remaining()} {current_priority()}"

    for app, expected in (
        (ServerMiddleware(answering(pay)), "None normal"),
        (ServerMiddleware(answering(pay), max_deadline=30), "29.5 normal"),
    ):
        for sent in ("0", "75"):
            reply = await ask(app, deadline=sent, headers=[("X-Priority", "critical")])
            assert (reply.status, reply.text) == (200, expected)
    assert len(charged) == len(recorded) == 4


@on_both
async def test_several_headers_are_none() -> None:
    """Repeated deadline headers are ignored, because it is unknown which one is meant."""
    app = trusting(answering(tell_remaining), max_deadline=30)
    for count in (2, 3):
        assert (await ask(app, headers=[("X-Deadline-Ms", "2000")] * count)).text == "30.0"


@on_both
async def test_client_cannot_lengthen_the_servers_own_limit() -> None:
    """A deadline of the client that is later than `max_deadline` has no effect."""
    app = trusting(answering(tell_remaining), max_deadline=0.5)
    assert (await ask(app, deadline="60000")).text == "0.5"


@on_both
async def test_header_may_have_another_name_or_none() -> None:
    """The names of headers are compared without case."""
    named = trusting(answering(tell_remaining), deadline_header="X-Time-Left")
    assert (await ask(named, headers=[("x-time-left", "2000")])).text == "2.0"
    assert (await ask(named, deadline="2000")).text == "None"
    assert (await ask(trusting(answering(tell_remaining), deadline_header=False), deadline="2000")).text == "None"


@on_both
async def test_expired_request_is_refused() -> None:
    """The application is not called, even if the limit has room."""
    called = False

    async def handle() -> None:
        nonlocal called
        called = True

    bulkhead = Bulkhead(1)
    app = trusting(answering(handle), limit=bulkhead)
    assert is_too_late(await ask(app, deadline="0"))
    assert is_too_late(await ask(app, deadline="0.0"))
    assert not called
    assert bulkhead._at_rest


@pytest.mark.parametrize(("sent", "seconds"), [("2000", 2.0), (None, 30.0)])
@on_both
async def test_handler_is_cancelled_at_the_deadline(sent: str | None, seconds: float) -> None:
    """The deadline is the client's or the server's own; the answer is 504, at that moment."""
    ended: list[float] = []

    async def handle() -> None:
        try:
            await hang()
        finally:
            ended.append(now() - begin)

    begin = now()
    reply = await ask(trusting(answering(handle), max_deadline=30), deadline=sent)
    assert is_too_late(reply)
    assert reply.error is None
    assert ended == [pytest.approx(seconds)]
    assert now() - begin == pytest.approx(seconds)


@on_both
async def test_handler_may_clean_up_after_its_deadline() -> None:
    """The answer waits for the clean-up, because the handler runs in the server's task."""

    async def handle() -> None:
        try:
            await hang()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)

    begin = now()
    assert is_too_late(await ask(trusting(answering(handle)), deadline="2000"))
    assert now() - begin == pytest.approx(3)


@on_both
async def test_answer_after_a_swallowed_cancellation_is_dropped() -> None:
    """The client gets one answer: 504."""

    async def handle() -> str:
        try:
            await hang()
        except BaseException:
            pass
        return "all the same"

    app = trusting(answering(handle), max_deadline=30)
    assert is_too_late(await ask(app, deadline="2000"))
    assert app.pipeline.snapshot()["in_flight"] == 0
    if task := _current_task():
        assert task.cancelling() == 0


def _current_task() -> Any:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


@on_both
async def test_error_of_a_handler_at_its_deadline_reaches_the_servers_log() -> None:
    """The client gets 504."""
    callback_error = ValueError("in the midst of it")

    async def handle() -> None:
        try:
            await hang()
        finally:
            raise callback_error

    reply = await ask(trusting(answering(handle)), deadline="2000")
    assert is_too_late(reply)
    assert reply.error is callback_error


# -- calls made inside ----------------------------------------------------------------------------------------------


@on_both
async def test_guarded_calls_inside_end_with_the_request() -> None:
    """They inherit the deadline. Their `TimedOut` is no error of the application."""

    @Retry(attempts=3)
    async def fetch() -> None:
        await hang()

    begin = now()
    reply = await ask(trusting(answering(fetch)), deadline="2000")
    assert is_too_late(reply)
    assert reply.error is None
    assert now() - begin == pytest.approx(2)


def busy(seconds: float, then: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """Return a handler that blocks its event loop for so many seconds, and then goes on."""

    async def handle() -> Any:
        time.sleep(seconds)  # noqa: ASYNC251
        return await then()

    return handle


@pytest.mark.parametrize("answers_itself", [False, True])
async def test_call_that_has_no_time_left_when_it_begins_makes_the_request_late(answers_itself: bool) -> None:
    """The event loop has had no chance to run the timer. The answer is 504, whether the application raises the error or
    answers 500 for it, as frameworks do."""

    @Retry()
    async def fetch() -> None:
        raise AssertionError("there was no time for it")

    async def handle() -> Any:
        try:
            return await busy(0.02, fetch)()
        except TimedOut:
            if answers_itself:
                return 500
            raise

    reply = await ask(trusting(answering(handle)), deadline="10")
    assert is_too_late(reply)
    assert reply.error is None


async def test_successful_answer_after_a_blocked_event_loop_is_sent() -> None:
    """A late success is worth more than 504."""
    reply = await ask(trusting(answering(busy(0.02, tell_remaining))), deadline="10")
    assert (reply.status, reply.text) == (200, "0.0")


@on_both
async def test_group_of_guarded_calls_that_ends_with_the_request_is_no_error() -> None:
    """An exception group of such calls is no error of the application either."""

    @Retry()
    async def fetch() -> None:
        await hang()

    async def handle() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fetch)
            group.start_soon(fetch)

    reply = await ask(trusting(answering(handle)), deadline="2000")
    assert is_too_late(reply)
    assert reply.error is None


@on_both
async def test_timed_out_of_the_handlers_own_timeout_is_raised() -> None:
    """It is raised to the server, as without the middleware."""

    @Timeout(1)
    async def fetch() -> None:
        await hang()

    async def briefly() -> None:
        with deadline(0.5):
            await Retry()(hang)()

    for handle, policy in ((fetch, "Timeout"), (briefly, "deadline")):
        reply = await ask(trusting(answering(handle), max_deadline=30), deadline="20000")
        assert reply.status is None
        assert isinstance(reply.error, TimedOut)
        assert reply.error.policy == policy


@on_both
async def test_nothing_is_left_in_the_context_of_the_server() -> None:
    """Requests of a kept connection may run in one task."""
    app = trusting(answering(tell_remaining), max_deadline=30, limit=Bulkhead(1))
    for _ in range(2):
        await ask(app, deadline="2000", headers=[("X-Priority", "critical")])
        await ask(app, deadline="0", headers=[("X-Priority", "sheddable")])
        assert remaining() is None
        assert current_priority() == "normal"


@on_both
async def test_client_in_the_same_process_has_its_deadline_kept() -> None:
    """Its deadline holds inside, and its calls end as its own do."""
    app = trusting(answering(tell_remaining), max_deadline=30)
    with deadline(5):
        assert (await ask(app)).text == "5.0"
        assert (await ask(app, deadline="2000")).text == "2.0"
        assert remaining() == 5
    with deadline(500):
        assert (await ask(app)).text == "30.0"
    begin = now()
    with deadline(3):
        assert is_too_late(await ask(trusting(answering(hang), max_deadline=30)))
        assert now() - begin == pytest.approx(3)
        assert is_too_late(await ask(app))
    assert remaining() is None


@on_both
async def test_middlewares_may_nest() -> None:
    """In a mounted application the shortest limit holds, there is one answer, and all permits are released."""
    outer_limit, inner_limit = Bulkhead(1), Bulkhead(1)
    inner = trusting(answering(hang), max_deadline=5, limit=inner_limit, name="inner")
    outer = trusting(inner, max_deadline=30, limit=outer_limit, name="outer")
    for sent, seconds in ((None, 5), ("2000", 2)):
        begin = now()
        assert is_too_late(await ask(outer, deadline=sent))
        assert now() - begin == pytest.approx(seconds)
        assert outer_limit._at_rest
        assert inner_limit._at_rest
    inner.app = answering(tell_remaining)
    assert (await ask(outer)).text == "5.0"


# -- until the response begins --------------------------------------------------------------------------------------


@on_both
async def test_response_that_has_begun_is_never_cut_short() -> None:
    """The deadline is lifted with the head, for everything that follows."""
    seen: list[Any] = []
    app = trusting(streaming(lambda: seen.append(remaining()), 60, b"one", 60, b"two"), max_deadline=30)
    reply = await ask(app, deadline="2000")
    assert (reply.status, reply.text, reply.error) == (200, "onetwo", None)
    assert seen == [None]


@on_both
async def test_calls_after_the_response_has_begun_have_no_deadline() -> None:
    """Calls of a stream or of a background task have no deadline of the client."""

    @Retry()
    async def fetch() -> None:
        await anyio.sleep(60)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answering(tell_remaining)(scope, receive, send)
        await fetch()

    assert (await ask(trusting(application), deadline="2000")).error is None


@on_both
async def test_error_passes_before_the_response_and_after_it() -> None:
    """The error is raised to the server, as without the middleware."""
    callback_error = ValueError()

    async def fail() -> None:
        raise callback_error

    def fail_at_once() -> None:
        raise callback_error

    bulkhead = Bulkhead(1)
    before = await ask(trusting(answering(fail), limit=bulkhead), deadline="2000")
    assert (before.status, before.error) == (None, callback_error)
    for parts in ([fail_at_once], [b"one", fail_at_once]):
        after = await ask(trusting(streaming(*parts), limit=bulkhead), deadline="2000")
        assert (after.status, after.error) == (200, callback_error)
    assert bulkhead._at_rest


@on_both
async def test_permit_is_held_until_the_first_part_of_a_stream() -> None:
    """It is released neither with the head alone, nor only after its reader has read the rest."""
    bulkhead = Bulkhead(1)
    seen: list[bool] = []

    def look() -> None:
        seen.append(bulkhead._at_rest)

    await ask(trusting(streaming(look, b"one", look, b"two", look), limit=bulkhead))
    assert seen == [False, True, True]


@on_both
async def test_background_task_holds_no_permit() -> None:
    """The response is complete when a background task runs."""
    bulkhead = Bulkhead(1)
    seen: list[bool] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answering(tell_remaining)(scope, receive, send)
        seen.append(bulkhead._at_rest)

    await ask(trusting(application, limit=bulkhead))
    assert seen == [True]


@on_both
async def test_application_without_an_answer_gives_its_permit_back() -> None:
    """The server reports the missing answer; the middleware adds none."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        pass

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    for application in (silent, half):
        ledger = Ledger()
        reply = await ask(trusting(application, limit=ledger), deadline="2000")
        assert (reply.error, reply.parts) == (None, [])
        assert len(ledger.entries) == 1
