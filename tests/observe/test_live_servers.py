"""The live page under real servers: mounted in frameworks, over real connections, and at the end of the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import fastapi
import httpx
import litestar
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from resilient import CircuitBreaker, Pipeline
from resilient.observe.live import LiveView, apply
from tests.observe.live_server import SERVERS, Server


def in_starlette(view: LiveView) -> Any:
    """With a middleware that wraps `receive` and `send`."""

    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return Starlette(routes=[Mount("/live", view)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=pass_on)])


def in_fastapi(view: LiveView) -> Any:
    """Mounted at one path below the root."""
    app = fastapi.FastAPI()
    app.mount("/live", view)
    return app


def in_litestar(view: LiveView) -> Any:
    """Mounted by its own way."""
    return litestar.Litestar([litestar.asgi("/live", is_mount=True, copy_scope=True)(view)], logging_config=None)


def messages(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """The messages of a stream."""
    kind = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def client(server: Server) -> httpx.Client:
    """A client whose timeout is longer than any test."""
    return httpx.Client(base_url=server.origin, timeout=30, follow_redirects=True)


@pytest.mark.parametrize("mount", [in_starlette, in_fastapi, in_litestar])
def test_page_is_served_where_frameworks_mount_it(mount: Any) -> None:
    """With and without the last slash, the page finds its files beside it."""
    with Server(mount(LiveView())) as server, client(server) as session:
        for path in ("/live", "/live/"):
            page = session.get(path)
            assert (page.status_code, page.url.path) == (200, "/live/")
        for name in ("live.js", "live.css", "icon.svg", "state.json"):
            assert session.get(page.url.join(name)).status_code == 200
        assert session.get("/live/nothing").status_code == 404
        assert session.get("/live/", headers={"host": "evil.example"}).status_code == 403
        with session.stream("GET", "/live/events") as response:
            assert next(messages(response.iter_lines()))[0] == "state"


@pytest.mark.parametrize("kind", SERVERS)
def test_open_streams_end_when_the_server_shuts_down(kind: str) -> None:
    """Else uvicorn would wait for ever. A page that is mounted has no lifespan."""
    breaker = CircuitBreaker()
    pipeline = Pipeline(breaker, name="test-live-shutdown")
    view = LiveView()
    with Server(in_starlette(view), kind) as server, client(server) as session:
        with session.stream("GET", "/live/events") as response:
            received = messages(response.iter_lines())
            state = next(received)[1]
            breaker.isolate()
            while state["pipelines"][pipeline.name]["policies"]["0"]["circuit"]["state"] != "isolated":
                kind_of, data = next(received)
                state = apply(state, data) if kind_of == "change" else state
            server.stop()
            for _ in received:
                pass
        assert server.ended(20)
    assert view._feed.streams == 0


def test_stream_under_an_unknown_server_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a shutdown waits for it for a bounded time."""
    monkeypatch.setattr("resilient.observe.live.app.shutdown_check", lambda: None)
    monkeypatch.setattr("resilient.observe.live.app.LONGEST", 0.5)
    with Server(LiveView()) as server, client(server) as session:
        with session.stream("GET", "/events") as response:
            received = list(messages(response.iter_lines()))
        assert received[0][0] == "state"
        assert not server.ended(0)


def test_stream_ends_when_its_client_is_gone() -> None:
    """The server says so, and the thread ends with the last stream."""
    view = LiveView()
    with Server(view) as server:
        with client(server) as session, session.stream("GET", "/events") as response:
            received = messages(response.iter_lines())  # kept: without it httpx closes the connection
            next(received)
            threads = [view._feed._thread]
        assert threads[0] is not None
        threads[0].join(20)
        assert not view._feed.runs


def test_token_and_origin_are_checked_over_a_real_connection() -> None:
    """A program without Origin needs the token of the page."""
    pipeline = Pipeline(CircuitBreaker(), name="test-live-real")
    with Server(LiveView(controls=True)) as server, client(server) as session:
        page = session.get("/").text
        token = page.partition('name="resilient-token" content="')[2].partition('"')[0]
        pid = session.get("/state.json").json()["pid"]
        asked = {"pid": pid, "pipeline": pipeline.name, "policy": "", "action": "switch", "mode": "once"}
        assert session.post("/control", json=asked).status_code == 403
        headers = {"x-resilient-token": token}
        evil = {**headers, "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
        assert session.post("/control", json=asked, headers=evil).status_code == 403
        assert pipeline.own_mode is None
        assert session.post("/control", json=asked, headers=headers).status_code == 200
        assert pipeline.own_mode == "once"
