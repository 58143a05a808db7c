"""A request may be cancelled at any step, once or twice: all permits are released, and the cancellation gets
through."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import anyio
import pytest

from resilient import AdaptiveLimit, Bulkhead, Retry, current_priority, events, remaining
from resilient.core.gate import Gate
from resilient.runtime.asyncio import running
from tests.properties.cancellation_driver import (
    assert_idle,
    cancel_at_every_point,
    cancel_at_every_step_of_trio,
    leave_alone,
)
from tests.server.memory import answering, ask, scope_of, streaming, tell_remaining, trusting

LIMITS: list[Callable[[], Gate]] = [lambda: Bulkhead(1, queue=1), lambda: AdaptiveLimit(1, queue=1)]
SENT = ["2000", "0", None]


@pytest.fixture(params=[False, True], ids=["unheard", "heard"])
def heard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Requests take the full path, because there is a listener."""
    end = events.listen(lambda event: None) if request.param else None
    yield
    if end is not None:
        end()


class Requests:
    """Two requests, of which the second waits in the queue for the first; one or both may have a deadline."""

    starts: ClassVar = (0, 1)

    def __init__(self, limit: Gate, deadlines: tuple[str | None, str | None], stubborn: bool, late: bool) -> None:
        self.inside = 0
        self.stubborn = stubborn
        self.deadlines = deadlines
        parts = streaming(*([4] if late else []), b"one", 1, b"two")
        self.middleware = trusting(self._beside(parts), limit=limit, max_deadline=50)

    def _beside(self, streams: Any) -> Any:
        @Retry(attempts=2)
        async def fetch() -> None:
            await anyio.sleep(2)

        async def application(scope: Any, receive: Any, send: Any) -> None:
            self.inside += 1
            try:
                await fetch()
                if self.stubborn:
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(2)
                else:
                    await anyio.sleep(2)
                await streams(scope, receive, send)
            finally:
                self.inside -= 1

        return application

    async def call(self, number: int) -> None:
        left = self.deadlines[number]
        headers = [("X-Priority", "critical"), *([] if left is None else [("X-Deadline-Ms", left)])]
        try:
            reply = await ask(self.middleware, headers=headers)
            assert reply.error is None
            assert reply.status in {200, 504}
            if reply.status == 200:
                assert reply.text == "onetwo"
        finally:
            assert remaining() is None
            assert current_priority() == "normal"

    async def drain(self) -> None:
        await self.middleware.pipeline.aclose()

    def assert_idle(self) -> None:
        assert self.inside == 0
        assert_idle(self.middleware.pipeline.snapshot())


class Uploads(Requests):
    """Two requests that pause before their bodies are complete, and then wait in the queue for one permit."""

    def __init__(self, limit: Gate, deadlines: tuple[str | None, str | None], *, swallows: bool = False) -> None:
        super().__init__(limit, deadlines, stubborn=False, late=False)
        works = self.middleware.app

        async def application(scope: Any, receive: Any, send: Any) -> None:
            with contextlib.suppress(*([BaseException] if swallows else [])):
                while (message := await receive()).get("more_body"):
                    pass
                if message["type"] == "http.request":
                    await works(scope, receive, send)

        self.middleware.app = application

    async def call(self, number: int) -> None:
        left = self.deadlines[number]
        headers = [("Transfer-Encoding", "chunked"), *([] if left is None else [("X-Deadline-Ms", left)])]
        reply = await ask(self.middleware, headers=headers, body=[1.0, b"x", 0.5, b"y", 0.5, b"z"], method="POST")
        assert reply.error is None
        assert reply.status in {200, 408, 504}
        assert remaining() is None


UPLOAD_DEADLINES = [(None, None), ("500", None), ("1500", "2000"), ("2000", "3000"), (None, "6000"), ("6000", "7000")]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("deadlines", UPLOAD_DEADLINES)
@pytest.mark.parametrize("victim", [0, 1])
def test_upload_cancelled_anywhere_gives_everything_back(limit: Any, deadlines: Any, victim: int) -> None:
    """It is cancelled before its first part, amid the body, in the queue after it, at work, and in the tick in which it
    goes on."""
    assert cancel_at_every_point(lambda: Uploads(limit(), deadlines), victim) > 2
    assert cancel_at_every_step_of_trio(lambda: Uploads(limit(), deadlines), victim) >= 1


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("deadlines", UPLOAD_DEADLINES)
def test_application_that_swallows_everything_amid_an_upload_gives_everything_back(limit: Any, deadlines: Any) -> None:
    """It may return without an answer then, which its server reports."""

    class Silent(Uploads):
        async def call(self, number: int) -> None:
            with contextlib.suppress(AssertionError):
                await super().call(number)

    leave_alone(lambda: Silent(limit(), deadlines, swallows=True))


DEADLINES = [(None, None), ("3000", None), ("4000", None), (None, "2000"), (None, "3000"), ("4500", "3500")]


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("deadlines", DEADLINES)
@pytest.mark.parametrize("victim", [0, 1])
def test_request_cancelled_anywhere_gives_everything_back(limit: Any, deadlines: Any, victim: int) -> None:
    """It is cancelled in the queue, in the handler, and in the tick of its deadline or of the end of its response."""
    points = cancel_at_every_point(lambda: Requests(limit(), deadlines, False, True), victim)
    assert points > 5


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("deadlines", DEADLINES)
def test_handlers_that_swallow_a_cancellation_give_everything_back(limit: Any, deadlines: Any) -> None:
    """A handler that swallows the cancellation of its deadline releases its permit at its end."""
    leave_alone(lambda: Requests(limit(), deadlines, True, False))


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("deadlines", DEADLINES)
@pytest.mark.parametrize("victim", [0, 1])
def test_request_cancelled_at_any_step_on_trio_gives_everything_back(limit: Any, deadlines: Any, victim: int) -> None:
    """The requests are those of the tests on asyncio."""
    assert cancel_at_every_step_of_trio(lambda: Requests(limit(), deadlines, False, True), victim) >= 2


async def test_ten_thousand_requests_leave_nothing_behind() -> None:
    """Requests with every kind of end leave no task, no timer and no reference behind."""
    app = trusting(answering(tell_remaining), limit=Bulkhead(1), max_deadline=30)
    runtime = running()
    assert runtime is not None

    async def one(number: int) -> None:
        await ask(app, deadline=("2000", "0", None, "nonsense", "60000")[number % 5])

    async def several(count: int) -> None:
        for number in range(count):
            await one(number)
        gc.collect()

    await several(1000)
    before = len(gc.get_objects())
    await several(10_000)
    assert len(gc.get_objects()) < before + 500  # of timers that wait for their turn, there are 100 at the most
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not any(timers.entries for timers in runtime.timers.values())
    assert_idle(app.pipeline.snapshot())


class _Scope(dict):  # type: ignore[type-arg]
    """A scope that can be weakly referenced."""


@pytest.mark.parametrize("body", [[], [("Content-Length", "1")]])
@pytest.mark.parametrize("left", SENT)
async def test_contexts_that_were_copied_do_not_keep_a_request(left: str | None, body: Any) -> None:
    """A server sets a timer for each kept connection within the request; its context lives for seconds."""
    timers: list[asyncio.TimerHandle] = []
    app = trusting(answering(tell_remaining), limit=Bulkhead(1), max_deadline=30)

    class Send:
        async def __call__(self, message: Any = None) -> Any:
            if message is None:
                return {"type": "http.request", "body": b"x"}
            timers.append(asyncio.get_running_loop().call_later(60, print))
            return None

    send = Send()
    gone = weakref.ref(send)
    gc.collect()
    gc.disable()
    try:
        headers = [("X-Priority", "critical"), *body, *([] if left is None else [("X-Deadline-Ms", left)])]
        await app(scope_of(headers=headers), send, send)  # type: ignore[arg-type]
        del send
        assert gone() is None
    finally:
        gc.enable()
    assert len(timers) == 2
    for timer in timers:
        timer.cancel()


@pytest.mark.parametrize("body", [[], [("Content-Length", "1")]])
@pytest.mark.parametrize("left", SENT)
async def test_scope_is_gone_with_its_request(left: str | None, body: Any) -> None:
    """The scope is freed at once, without a garbage collection."""
    app = trusting(answering(tell_remaining), limit=Bulkhead(1), max_deadline=30)

    async def send(message: Any = None) -> Any:
        return {"type": "http.request", "body": b"x"}

    scope = _Scope(scope_of(headers=[*body, *([] if left is None else [("X-Deadline-Ms", left)])]))
    gone = weakref.ref(scope)
    gc.collect()
    gc.disable()
    try:
        await app(scope, send, send)  # type: ignore[arg-type]
        assert set(scope) == set(scope_of())
        del scope
        assert gone() is None
    finally:
        gc.enable()
