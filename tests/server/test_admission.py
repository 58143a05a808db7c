"""Admission by the server middleware: limits, priorities, and exempt requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
import sniffio
from starlette.applications import Starlette
from starlette.routing import Mount

from resilient import (
    AdaptiveLimit,
    Bulkhead,
    CircuitBreaker,
    Keyed,
    RateLimit,
    current_priority,
    deadline,
    priority,
    remaining,
)
from resilient.core.gate import Gate
from resilient.server.asgi import ServerMiddleware
from tests.server.memory import (
    TOO_LATE,
    TOO_MUCH,
    Held,
    answering,
    ask,
    hang,
    is_too_late,
    now,
    on_both,
    scope_of,
    settle_down,
    streaming,
    tell_priority,
    tell_remaining,
    trusting,
    with_one_inside,
)

# -- admission ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [lambda: Bulkhead(1), lambda: AdaptiveLimit(1)])
@on_both
async def test_request_that_the_limit_refuses_gets_503(limit: Callable[[], Gate]) -> None:
    """The answer has the seconds to wait, and comes before the application is called."""
    held = Held()
    app = trusting(answering(held), limit=limit())

    async def refused() -> None:
        reply = await ask(app)
        assert (reply.status, reply.text, reply.headers["retry-after"]) == (503, TOO_MUCH, "1")
        assert held.inside == 1

    assert (await with_one_inside(app, held, refused)).text == "held"
    assert (await ask(app)).text == "held"


@pytest.mark.parametrize(("given", "sent"), [(0.2, "1"), (2.5, "3"), (7, "7"), (1e9, "31622400")])
@on_both
async def test_retry_after_is_in_whole_seconds(given: float, sent: str) -> None:
    """`Retry-After` is at least one second, and at most the longest pause."""
    held = Held()
    app = trusting(answering(held), limit=Bulkhead(1), retry_after=given)

    async def refused() -> None:
        assert (await ask(app)).headers["retry-after"] == sent

    await with_one_inside(app, held, refused)


@on_both
async def test_limit_gives_its_own_retry_after() -> None:
    """A rate limit gives its own `Retry-After`."""
    app = trusting(answering(tell_remaining), limit=RateLimit(1, per=20, burst=1), retry_after=3)
    assert (await ask(app)).status == 200
    assert (await ask(app)).headers["retry-after"] == "20"


@on_both
async def test_answers_to_head_have_no_body() -> None:
    """The answer to a HEAD request has no body, but the length that it would have."""
    reply = await ask(trusting(answering(hang)), deadline="0", method="HEAD")
    assert (reply.status, reply.text, reply.headers["content-length"]) == (504, "", str(len(TOO_LATE)))


@pytest.mark.parametrize("limit", [lambda: Bulkhead(1, queue=1), lambda: AdaptiveLimit(1, queue=1)])
@on_both
async def test_deadline_that_passes_in_the_queue_is_504(limit: Callable[[], Gate]) -> None:
    """The application is not called then, and the place in the queue is free again."""
    held = Held()
    gate = limit()
    app = trusting(answering(held), limit=gate)

    async def late() -> None:
        begin = now()
        assert is_too_late(await ask(app, deadline="2000"))
        assert now() - begin == pytest.approx(2)
        assert held.inside == 1

    await with_one_inside(app, held, late)
    assert gate._at_rest
    assert app.pipeline.snapshot()["in_flight"] == 0


@on_both
async def test_request_in_the_queue_comes_in_when_another_has_ended() -> None:
    """A request in the queue is admitted with the rest of its time."""
    held, replies = Held(), []
    app = trusting(answering(held), limit=Bulkhead(1, queue=1))

    async def second() -> None:
        replies.append(await ask(app, deadline="5000"))

    async def wait_in_line() -> None:
        group.start_soon(second)
        await anyio.sleep(2)
        app.app = answering(tell_remaining)

    async with anyio.create_task_group() as group:
        await with_one_inside(app, held, wait_in_line)
    assert replies[0].text == "3.0"


@on_both
async def test_limit_in_shadow_only_counts() -> None:
    """With `shadow=True` every request is admitted."""
    held = Held()
    bulkhead = Bulkhead(1, shadow=True)
    app = trusting(answering(held), limit=bulkhead)

    async def second() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(ask, app)
            await settle_down()
            assert held.inside == 2
            held.event.set()

    await with_one_inside(app, held, second)
    assert bulkhead._would_have_refused == 1
    assert bulkhead._at_rest


@on_both
async def test_functions_of_a_limit_get_the_scope() -> None:
    """The functions of a limit (`key=`, `priority=`) get the ASGI scope."""
    limit = AdaptiveLimit(10, priority=lambda scope: "critical" if scope["path"] == "/pay" else "sheddable")
    app = trusting(answering(tell_remaining), limit=limit)
    assert (await ask(app, "/pay")).status == 200
    tenants = Keyed(lambda: RateLimit(1, per=60, burst=1), key=lambda scope: scope["path"])
    app = trusting(answering(tell_remaining), limit=tenants)
    assert [(await ask(app, path)).status for path in ("/a", "/b", "/a")] == [200, 200, 503]


@on_both
async def test_closed_pipeline_takes_no_more_requests() -> None:
    """A closed middleware refuses new requests, and waits for those inside."""
    held = Held()
    app = trusting(answering(held), max_deadline=30)

    async def close() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(app.pipeline.aclose)
            await settle_down()
            reply = await ask(app)
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            held.event.set()

    assert (await with_one_inside(app, held, close)).status == 200


@on_both
async def test_switched_off_middleware_passes_requests_on() -> None:
    """A middleware that is switched off passes requests on unchanged."""
    seen: list[Any] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(100)
        seen.append((scope, send, remaining()))

    async def send(message: Any) -> None:
        raise AssertionError

    app = trusting(look, max_deadline=30, limit=RateLimit(1, per=60, burst=1))
    scope = scope_of(headers=[("X-Deadline-Ms", "0")])
    with app.pipeline.switch("off"):
        await app(dict(scope), send, send)
        assert seen.pop() == (scope, send, None)
        with deadline(500):  # of a client in the same process
            await app(dict(scope), send, send)
        assert seen.pop() == (scope, send, 400)


@pytest.mark.parametrize("version", ["1.1", "2"])
@on_both
async def test_switched_off_while_a_request_comes_in_it_passes(version: str) -> None:
    """A function for the priority, or another thread, may switch it off meanwhile; no call is suspended then."""

    def switch_off(scope: Any) -> None:
        app.pipeline.switch("off")

    async def handle() -> str:
        return "served"

    app = ServerMiddleware(answering(handle), max_deadline=30, limit=Bulkhead(1), priority=switch_off)
    for _ in range(2):
        app.pipeline.switch("on")
        reply = await ask(app, http_version=version)
        assert (reply.status, reply.text) == (200, "served")
    assert app.pipeline.snapshot()["in_flight"] == 0


# -- clients that do not read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"0")], [(b"transfer-encoding", b"chunked")]])
@pytest.mark.parametrize("gate", [lambda: Bulkhead(1), lambda: AdaptiveLimit(1), lambda: CircuitBreaker(fail_max=1)])
@on_both
async def test_client_that_does_not_take_the_head_holds_no_permit(headers: Any, gate: Callable[[], Gate]) -> None:
    """The client has not read an earlier response on its connection. On trio it holds a permit until the deadline.
    Neither is evidence."""
    limit = gate()
    app = ServerMiddleware(answering(tell_remaining), limit=limit, max_deadline=30)
    on_trio = sniffio.current_async_library() == "trio"

    async def stalled() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            await anyio.sleep_forever()

        await app({"type": "http", "path": "/", "method": "GET", "headers": headers}, receive, send)

    async with anyio.create_task_group() as group:
        group.start_soon(stalled)
        await settle_down()
        assert limit._at_rest or on_trio
        await anyio.sleep(31)
        assert (await ask(app)).status == 200
        group.cancel_scope.cancel()
    assert app.pipeline.snapshot()["in_flight"] == 0
    assert (await ask(app)).status == 200


@on_both
async def test_head_that_is_sent_late_is_sent_whole() -> None:
    """A head that had to wait is sent with the rest of the response."""
    said: list[str] = []

    async def send(message: Any) -> None:
        await anyio.sleep(1)
        said.append(message["type"])

    app = ServerMiddleware(streaming(lambda: None, b"one", 60, b"two"), limit=Bulkhead(1), max_deadline=30)
    await app(scope_of(), send, send)  # type: ignore[arg-type]
    assert said == ["http.response.start", *["http.response.body"] * 3]


# -- priority -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "held"),
    [
        ("critical", "critical"),
        ("sheddable", "sheddable"),
        ("normal", "normal"),
        (" Critical ", "critical"),
        ("urgent", "normal"),
        ("", "normal"),
        ("critical, sheddable", "normal"),
    ],
)
@on_both
async def test_header_sets_the_priority(sent: str, held: str) -> None:
    """A header value that is no priority is ignored."""
    assert (await ask(trusting(answering(tell_priority)), headers=[("X-Priority", sent)])).text == held


@on_both
async def test_several_priorities_are_none() -> None:
    """Repeated priority headers are ignored, like repeated deadlines."""
    app = trusting(answering(tell_priority))
    assert (await ask(app, headers=[("X-Priority", "critical")] * 2)).text == "normal"


@on_both
async def test_priority_may_be_another_header_or_none() -> None:
    """A server for the public reads no priority header."""
    headers = [("X-Class", "critical"), ("X-Priority", "sheddable")]
    named = trusting(answering(tell_priority), priority="x-class")
    assert (await ask(named, headers=headers)).text == "critical"
    none = trusting(answering(tell_priority), priority=False)
    assert (await ask(none, headers=headers)).text == "normal"


@pytest.mark.parametrize(
    ("said", "held"), [("critical", "critical"), (None, "normal"), ("none", "normal"), (7, "normal")]
)
@on_both
async def test_function_sets_the_priority(said: Any, held: str) -> None:
    """The function gets the scope; the header is ignored then."""
    app = trusting(answering(tell_priority), priority=lambda scope: said if scope["path"] == "/pay" else None)
    assert (await ask(app, "/pay", headers=[("X-Priority", "sheddable")])).text == held


@on_both
async def test_function_that_raises_leaves_its_client_the_deadline() -> None:
    """A client in the same process has its former deadline after an error of the function."""

    def callback_error(scope: Any) -> str:
        raise LookupError("no such customer")

    app = trusting(answering(tell_priority), priority=callback_error)
    with deadline(5):
        assert isinstance((await ask(app)).error, LookupError)
        assert remaining() == pytest.approx(5)


@on_both
async def test_client_in_the_same_process_has_its_priority_kept() -> None:
    """A client in the same process keeps its priority, unless the request has another one."""
    app = trusting(answering(tell_priority))
    with priority("critical"):
        assert (await ask(app)).text == "critical"
        assert (await ask(app, headers=[("X-Priority", "normal")])).text == "normal"
        assert current_priority() == "critical"


@on_both
async def test_sheddable_requests_are_refused_first() -> None:
    """Normal requests are refused next, critical ones last."""
    held = Held()
    app = trusting(answering(held), limit=AdaptiveLimit(10, shares={"sheddable": 0.5, "normal": 0.8}))
    admitted: list[str] = []

    async def one(name: str) -> None:
        if (await ask(app, headers=[("X-Priority", name)])).status == 200:
            admitted.append(name)

    async with anyio.create_task_group() as group:
        for name in ("sheddable", "normal", "critical"):
            for _ in range(10):
                group.start_soon(one, name)
            await settle_down()
        held.event.set()
    assert sorted(admitted) == ["critical"] * 2 + ["normal"] * 3 + ["sheddable"] * 5


# -- exempt requests ------------------------------------------------------------------------------------------------


async def exempted(app: ServerMiddleware, path: str, **more: Any) -> bool:
    """Return whether an expired request is handled all the same, because it is exempt."""
    reply = await ask(app, path, deadline="0", **more)
    assert reply.status in {200, 504}
    return reply.status == 200


@on_both
async def test_health_checks_are_exempt() -> None:
    """Only the exact paths of the health checks are exempt."""
    app = trusting(answering(tell_remaining), max_deadline=30)
    for path in ("/health", "/healthz", "/live", "/livez", "/ready", "/readyz", "/ping"):
        assert await exempted(app, path)
    for path in ("/", "/healthy", "/health/", "/health/all", "/api/health", "/HEALTH"):
        assert not await exempted(app, path)


@on_both
async def test_paths_are_below_the_root_path() -> None:
    """Exempt paths are relative to the root path of a mounted application, or of a proxy."""
    app = trusting(answering(tell_remaining))
    assert await exempted(app, "/api/health", root_path="/api")
    assert await exempted(app, "/health", root_path="/api")
    assert not await exempted(app, "/api/users", root_path="/api")
    assert not await exempted(app, "/apihealth", root_path="/api")


@pytest.mark.parametrize(
    ("root", "path", "is_exempt"),
    [
        ("/", "/health", True),
        ("/", "/users", False),
        ("//", "/health", True),
        ("/api/", "/api/health", True),
        ("/api/", "/apihealth", False),
        ("/he", "/health", True),
        ("/api", "/api", False),
        ("", "/health", True),
        ("api", "/health", True),
    ],
)
@on_both
async def test_root_path_may_end_in_a_slash(root: str, path: str, is_exempt: bool) -> None:
    """A root path is removed only at the end of a segment of the path."""
    app = trusting(answering(tell_remaining))
    assert await exempted(app, path, root_path=root) == is_exempt


@on_both
async def test_mounted_application_has_its_own_paths() -> None:
    """A mounted application of Starlette has exempt paths of its own."""
    inner = trusting(answering(tell_remaining), name="inner")
    app = Starlette(routes=[Mount("/api", Mount("/v1", inner))])
    app.add_middleware(ServerMiddleware, max_deadline=30, exempt=["/api/v1/health"])
    assert await exempted(app, "/api/v1/health")
    assert not await exempted(app, "/api/v1/users")
    assert (await ask(app, "/api/v1/users", deadline="2000")).text == "2.0"


@on_both
async def test_exempt_may_be_paths_or_a_function() -> None:
    """`exempt=` is a collection of paths, an empty one, or a function."""
    paths = trusting(answering(tell_remaining), exempt=["/events"])
    assert await exempted(paths, "/events")
    assert not await exempted(paths, "/health")
    assert not await exempted(trusting(answering(tell_remaining), exempt=()), "/health")
    asked = trusting(answering(tell_remaining), exempt=lambda scope: scope["path"].startswith("/events/"))
    assert await exempted(asked, "/events/7")
    assert not await exempted(asked, "/health")


@on_both
async def test_exempt_requests_need_no_permit() -> None:
    """A full server answers its health checks."""
    held = Held()
    app = trusting(answering(held), limit=Bulkhead(1), exempt=["/health"])

    async def check() -> None:
        held.event.set()
        assert (await ask(app, "/health")).status == 200

    await with_one_inside(app, held, check)


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
@on_both
async def test_websockets_and_lifespan_events_pass_untouched(kind: str) -> None:
    """They pass even if the pipeline is closed."""
    seen: list[Any] = []

    async def application(*given: Any) -> None:
        seen.extend(given)

    app = trusting(application, max_deadline=30, limit=Bulkhead(1))
    await app.pipeline.aclose()
    scope: dict[str, Any] = {"type": kind, "path": "/", "headers": [(b"x-deadline-ms", b"0")]}
    before = dict(scope)
    given = (scope, object(), object())
    await app(*given)  # type: ignore[arg-type]
    assert all(one is other for one, other in zip(seen, given, strict=True))
    assert scope == before
