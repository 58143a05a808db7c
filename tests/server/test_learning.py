"""What a limit learns from requests, their events, and the parts of the middleware."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from resilient import (
    AdaptiveLimit,
    Bulkhead,
    CircuitBreaker,
    Pipeline,
    RateLimit,
    Timeout,
    registry,
    remaining,
)
from resilient.events import CallEnded, CallRejected, CallTimedOut
from resilient.server.asgi import ErrorAnswer, ServerMiddleware
from tests.server.memory import (
    RUN,
    Held,
    Ledger,
    after,
    answering,
    ask,
    hang,
    is_too_late,
    on_both,
    streaming,
    tell_priority,
    tell_remaining,
    trusting,
    with_one_inside,
)


@contextlib.contextmanager
def capture_logs() -> Iterator[list[logging.LogRecord]]:
    """Collect the records that the library logs meanwhile."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("resilient")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


# -- evidence -------------------------------------------------------------------------------------------------------


@on_both
async def test_requests_that_fail_leave_nothing_in_the_log() -> None:
    """The server logs their errors; every gate gets its permits back."""
    with capture_logs() as records:
        for handle in (after(1, 500), after(1, ValueError()), after(60, "")):
            await ask(trusting(answering(handle), limit=Bulkhead(1), max_deadline=30))
    assert records == []


@pytest.mark.parametrize(
    ("handle", "sent", "entry"),
    [
        (after(3, "fine"), None, ("success", 3)),
        (after(3, "fine"), "5000", ("success", 3)),
        (after(3, 404), None, ("success", 3)),
        (after(3, 500), None, "nothing"),
        (after(3, 503), "5000", "nothing"),
        (after(3, ValueError()), None, "nothing"),
        (after(3, OSError()), "5000", "nothing"),
        (after(60, ""), "5000", "nothing"),  # the client's deadline is no evidence
        (after(60, ""), "60000", ("failure", 30)),  # our own is
        (after(60, ""), None, ("failure", 30)),
    ],
)
@on_both
async def test_limit_learns_from_answers_and_from_its_own_deadline(
    handle: Callable[[], Awaitable[Any]], sent: str | None, entry: Any
) -> None:
    """Acts of the client, and errors in the code, are no evidence about the capacity of the server."""
    ledger = Ledger()
    await ask(trusting(answering(handle), max_deadline=30, limit=ledger), deadline=sent)
    assert [_rounded(each) for each in ledger.entries] == [entry]


def _rounded(entry: Any) -> Any:
    return entry if isinstance(entry, str) else (entry[0], round(entry[1], 6))


@on_both
async def test_latency_of_a_stream_is_the_time_to_its_first_part() -> None:
    """The rest depends on its reader."""
    ledger = Ledger()
    await ask(trusting(streaming(2, b"one", 60, b"two"), max_deadline=1, limit=ledger))
    assert [_rounded(each) for each in ledger.entries] == [("failure", 2)]  # it runs on beyond the limit
    ledger.entries.clear()
    await ask(trusting(streaming(2, b"one", 60, b"two"), max_deadline=5, limit=ledger))
    assert [_rounded(each) for each in ledger.entries] == [("success", 2)]


@on_both
async def test_flood_of_short_deadlines_opens_no_circuit() -> None:
    """Every client can send short deadlines."""
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    app = trusting(answering(hang), max_deadline=30, limit=breaker)
    for _ in range(100):
        assert is_too_late(await ask(app, deadline="1"))
    assert breaker.state == "closed"
    assert is_too_late(await ask(app))
    assert breaker.state == "open"


@on_both
async def test_cancelled_request_is_no_evidence() -> None:
    """Its client has left, or the server stops; the cancellation gets through."""
    ledger = Ledger()
    app = trusting(answering(hang), max_deadline=30, limit=ledger)
    with anyio.move_on_after(5) as scope:
        await ask(app)
    assert scope.cancelled_caught
    assert ledger.entries == ["nothing"]
    assert app.pipeline.snapshot()["in_flight"] == 0
    assert remaining() is None


@pytest.mark.parametrize("status", [404, 500])
def test_flood_of_quick_answers_shrinks_no_limit(status: int) -> None:
    """Strangers can cause them with unknown paths; all other requests are served."""
    dice = random.Random(1)
    served: list[int | None] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        real = scope["path"] == "/"
        await anyio.sleep(dice.uniform(0.08, 0.12) if real else 0.001)
        await answering(_answer(200 if real else status))(scope, receive, send)

    async def main() -> None:
        app = trusting(application, limit=AdaptiveLimit(), max_deadline=30)

        async def real() -> None:
            served.append((await ask(app)).status)

        async def come(who: Any, each: float, seconds: float) -> None:
            for _ in range(int(seconds / each)):
                group.start_soon(who)
                await anyio.sleep(each)

        async with anyio.create_task_group() as group:
            await come(real, 0.02, 10)
            group.start_soon(come, lambda: ask(app, "/nowhere"), 0.004, 10)
            await come(real, 0.02, 10)

    RUN["asyncio"](main)
    assert served == [200] * 1000


def _answer(status: int) -> Callable[[], Awaitable[int]]:
    async def handle() -> int:
        return status

    return handle


# -- events ---------------------------------------------------------------------------------------------------------


@on_both
async def test_events_tell_how_requests_ended() -> None:
    """Each event has the pipeline's name."""
    app = trusting(answering(after(1, "fine")), limit=RateLimit(4, per=60, burst=4), name="shop")
    heard: list[Any] = []
    app.pipeline.listen(heard.append)

    async def ended(**request: Any) -> list[Any]:
        heard.clear()
        await ask(app, **request)
        assert {event.pipeline for event in heard} == {"shop"}
        return [event for event in heard if isinstance(event, CallEnded | CallRejected | CallTimedOut)]

    (fine,) = await ended()
    assert (fine.function, fine.ending, fine.requests) == ("ServerMiddleware", "success", 1)
    assert fine.elapsed == pytest.approx(1)
    app.app = answering(after(0, 502))
    (bad,) = await ended()
    assert bad.ending == "failure"
    assert isinstance(bad.error, ErrorAnswer)
    assert (bad.error.status, str(bad.error)) == (502, "the application answered 502")
    app.app = answering(hang)
    cut, late = await ended(deadline="2000")
    assert (cut.ending, cut.requests) == ("timeout", 1)
    assert (late.policy, late.seconds) == ("deadline", 2)
    app.app = answering(after(0, "fine"))
    await ask(app)
    refusal, refused = await ended()
    assert (refusal.policy, refused.ending) == ("RateLimit", "rejected")
    expired, late = await ended(deadline="0")
    assert (expired.ending, expired.requests, late.seconds) == ("timeout", 0, 0)


@on_both
async def test_own_deadline_has_its_name_in_events() -> None:
    """`max_deadline` and the client's deadline have different names."""
    app = trusting(answering(hang), max_deadline=3)
    heard: list[Any] = []
    app.pipeline.listen(lambda event: heard.append(event) if isinstance(event, CallTimedOut) else None)
    await ask(app)
    await ask(app, deadline="0")
    assert [(event.policy, event.seconds) for event in heard] == [("max_deadline", 3), ("deadline", 0)]


def test_registry_has_the_middleware() -> None:
    """It has a name, and shows its limit."""
    app = trusting(answering(hang), limit=Bulkhead(7), max_deadline=30, name="shop")
    assert registry.pipeline("shop") is app.pipeline
    (policies,) = [shot["policies"] for name, shot in registry.snapshots().items() if name == "shop"]
    assert [policy["kind"] for policy in policies] == ["UntilAnswered", "Bulkhead"]
    assert app.pipeline.describe() == "shop\n├─ the client's deadline, 30 s at the most\n└─ Bulkhead(7)"


@on_both
async def test_shared_middleware_is_one_for_all_its_applications() -> None:
    """They share one limit and one pipeline, which exists before the first request."""
    held = Held()
    shared = ServerMiddleware.shared(limit=Bulkhead(1), name="shop")
    assert registry.pipeline("shop") is shared.pipeline
    one, other = shared(answering(held)), shared(answering(tell_remaining))
    assert one.pipeline is other.pipeline is shared.pipeline

    async def refused() -> None:
        assert (await ask(other)).status == 503
        assert shared.pipeline.snapshot()["in_flight"] == 1

    await with_one_inside(one, held, refused)
    assert (await ask(other)).text == "None"


async def test_shared_middleware_may_be_added_to_starlette() -> None:
    """Starlette makes its middleware with the first request."""
    shared = ServerMiddleware.shared(max_deadline=30)
    heard: list[Any] = []
    shared.pipeline.listen(heard.append)
    app = Starlette()
    app.add_middleware(shared)
    assert (await ask(app)).status == 404
    assert heard


# -- construction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"limit": 10}, TypeError, "limit must be a Gate, got 10"),
        ({"limit": Bulkhead}, TypeError, "limit must be a Gate, got "),
        ({"limit": Timeout(1)}, TypeError, "limit must be a Gate, got "),
        ({"limit": Pipeline(Bulkhead(1))}, TypeError, "limit must be a Gate, got "),
        ({"max_deadline": 0}, ValueError, "max_deadline must be a finite number of seconds > 0, got 0"),
        ({"max_deadline": -1}, ValueError, "max_deadline must be a finite number of seconds > 0, got -1"),
        ({"max_deadline": float("nan")}, ValueError, "max_deadline must be a finite number of seconds > 0, got nan"),
        ({"max_deadline": "30"}, TypeError, "max_deadline must be a finite number of seconds > 0, got '30'"),
        ({"deadline_header": "a b"}, ValueError, "deadline_header must be True, False or the name of a header"),
        ({"deadline_header": None}, TypeError, "deadline_header must be a string, got None"),
        ({"priority": "a:b"}, ValueError, "priority must be True, False or the name of a header, got 'a:b'"),
        ({"priority": 1}, TypeError, "priority must be callable, got 1"),
        ({"priority": tell_priority}, TypeError, "priority must be a plain function"),
        ({"exempt": "/health"}, ValueError, r'exempt must be paths such as \("/health",\), or a function of the scope'),
        ({"exempt": ["health"]}, ValueError, "exempt must be paths such as"),
        ({"exempt": [7]}, ValueError, "exempt must be paths such as"),
        ({"exempt": 7}, TypeError, "exempt must be callable, got 7"),
        ({"retry_after": 0}, ValueError, "retry_after must be a finite number of seconds > 0, got 0"),
        ({"name": ""}, ValueError, "name must"),
        ({"name": 7}, TypeError, "name must be a string, got 7"),
    ],
)
def test_invalid_options_are_refused(options: Any, error: type[Exception], message: str) -> None:
    """The constructor raises, with the name and the value."""
    with pytest.raises(error, match=message):
        ServerMiddleware(answering(hang), **options)
    with pytest.raises(error, match=message):
        ServerMiddleware.shared(**options)


def test_application_must_be_callable() -> None:
    """The constructor raises for an application that is none."""
    with pytest.raises(TypeError, match="app must be an ASGI application, got 7"):
        ServerMiddleware(7)  # type: ignore[arg-type]


def test_options_are_by_name_only() -> None:
    """Options cannot be given by position."""
    with pytest.raises(TypeError):
        ServerMiddleware(answering(hang), Bulkhead(1))  # type: ignore[misc]
