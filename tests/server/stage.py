"""Signals between handlers and tests, and one application in three frameworks.

/left       answers with the time that remains, and the priority
/hang       never answers
/hold       answers when the test allows it
/work       a plain `def`, in a thread: answers when the test allows it
/stream     sends its first part at once, the second when the test allows it, each with the time that remains
/fail       raises
/bad        answers 503 itself
/call       sends a guarded request to another server, and answers with its result
/after      answers, and has a background task that waits for the test
/upload     a POST: answers with the number of bytes of its body
/health     a health check
/echo       a websocket: sends back each message, with the time that remains
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from fastapi import BackgroundTasks as FastAPIBackgroundTasks
from fastapi import FastAPI, WebSocket
from fastapi import Request as FastAPIRequest
from fastapi.responses import PlainTextResponse as FastAPIText
from fastapi.responses import StreamingResponse as FastAPIStream
from litestar import Litestar, MediaType
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar import post as litestar_post
from litestar import websocket as litestar_websocket
from litestar.background_tasks import BackgroundTask as LitestarBackgroundTask
from litestar.connection import WebSocket as LitestarWebSocket
from litestar.response import Response as LitestarResponse
from litestar.response import Stream as LitestarStream
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from resilient import Pipeline, Retry, current_priority, remaining
from resilient.http.httpx import AsyncTransport
from resilient.runtime import current_async
from resilient.server.asgi import ServerMiddleware

__all__ = ["FRAMEWORKS", "Signal", "Stage", "build"]

LONG = 20.0
"""Seconds after which a test has failed."""


class Signal:
    """An event that a test sets, for handlers on any event loop and in any thread."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._lock = threading.Lock()
        self._parked: list[Any] = []

    def set(self) -> None:
        with self._lock:
            self._set.set()
            for each in self._parked:
                each.wake()

    async def wait(self) -> None:
        parking = current_async().park()
        with self._lock:
            if self._set.is_set():
                return
            self._parked.append(parking)
        await parking.wait(None, None)  # type: ignore[arg-type]

    def block(self) -> None:
        assert self._set.wait(LONG)


class Stage:
    """The record of what handlers have done, and the signals that they wait for.

    Attributes:
        go: the signal that handlers wait for.
        called, ended: paths of handlers, as they were called, and as they ended.
        notes: texts that handlers record.
        origin: of the server that /call sends its request to.
    """

    def __init__(self) -> None:
        self.go = Signal()
        self.called: list[str] = []
        self.ended: list[str] = []
        self.notes: list[Any] = []
        self.origin = ""
        self._changed = threading.Condition()

    def note(self, place: list[Any], what: Any) -> None:
        with self._changed:
            place.append(what)
            self._changed.notify_all()

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until a condition holds that a handler brings about."""
        with self._changed:
            assert self._changed.wait_for(true, LONG), (self.called, self.ended, self.notes)

    def left(self) -> str:
        self.note(self.called, "/left")
        return f"{remaining()} {current_priority()}"

    async def hang(self) -> str:
        self.note(self.called, "/hang")
        try:
            await Signal().wait()
        finally:
            self.note(self.ended, "/hang")
        return "never"

    async def hold(self) -> str:
        self.note(self.called, "/hold")
        await self.go.wait()
        return "held"

    def work(self) -> str:
        self.note(self.called, "/work")
        self.go.block()
        self.note(self.ended, "/work")
        return "worked"

    async def stream(self) -> AsyncIterator[bytes]:
        self.note(self.called, "/stream")
        yield f"first {remaining()}".encode()
        await self.go.wait()
        yield f", second {remaining()}".encode()

    async def call(self) -> str:
        self.note(self.called, "/call")
        pipeline = Pipeline(Retry(attempts=2, wait=0))
        transport = AsyncTransport(pipeline, deadline_header=True, priority_header=True, verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=None) as client:
            return (await client.get(self.origin)).text

    async def after(self) -> None:
        await self.go.wait()
        self.note(self.notes, ("after", remaining()))


def _starlette(stage: Stage, options: dict[str, Any] | None) -> Any:
    def text(handle: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            return PlainTextResponse(await handle())

        return endpoint

    async def left(request: Request) -> Response:
        return PlainTextResponse(stage.left())

    def work(request: Request) -> Response:
        return PlainTextResponse(stage.work())

    async def stream(request: Request) -> Response:
        return StreamingResponse(stage.stream())

    async def fail(request: Request) -> Response:
        raise ValueError("a mistake")

    async def bad(request: Request) -> Response:
        return PlainTextResponse("its own", 503)

    async def after(request: Request) -> Response:
        return PlainTextResponse("answered", background=BackgroundTask(stage.after))

    async def upload(request: Request) -> Response:
        stage.note(stage.called, "/upload")
        return PlainTextResponse(str(sum([len(part) async for part in request.stream()])))

    async def health(request: Request) -> Response:
        return PlainTextResponse("alive")

    async def echo(websocket: Any) -> None:
        await websocket.accept()
        await websocket.send_text(f"{await websocket.receive_text()} {remaining()}")
        await websocket.close()

    app = Starlette(
        routes=[
            Route("/left", left, methods=["GET", "HEAD"]),
            Route("/hang", text(stage.hang)),
            Route("/hold", text(stage.hold)),
            Route("/work", work),
            Route("/stream", stream),
            Route("/fail", fail),
            Route("/bad", bad),
            Route("/call", text(stage.call)),
            Route("/after", after),
            Route("/upload", upload, methods=["POST"]),
            Route("/health", health),
            WebSocketRoute("/echo", echo),
        ]
    )
    if options is not None:
        app.add_middleware(ServerMiddleware, **options)  # type: ignore[arg-type]
    return app


def _fastapi(stage: Stage, options: dict[str, Any] | None) -> Any:
    app = FastAPI(openapi_url=None)
    if options is not None:
        app.add_middleware(ServerMiddleware, **options)  # type: ignore[arg-type]

    @app.get("/left", response_class=FastAPIText)
    async def left() -> str:
        return stage.left()

    @app.get("/hang", response_class=FastAPIText)
    async def hang() -> str:
        return await stage.hang()

    @app.get("/hold", response_class=FastAPIText)
    async def hold() -> str:
        return await stage.hold()

    @app.get("/work", response_class=FastAPIText)
    def work() -> str:
        return stage.work()

    @app.get("/stream")
    async def stream() -> FastAPIStream:
        return FastAPIStream(stage.stream())

    @app.get("/fail")
    async def fail() -> None:
        raise ValueError("a mistake")

    @app.get("/bad")
    async def bad() -> FastAPIText:
        return FastAPIText("its own", 503)

    @app.get("/call", response_class=FastAPIText)
    async def call() -> str:
        return await stage.call()

    @app.get("/after", response_class=FastAPIText)
    async def after(tasks: FastAPIBackgroundTasks) -> str:
        tasks.add_task(stage.after)
        return "answered"

    @app.post("/upload", response_class=FastAPIText)
    async def upload(request: FastAPIRequest) -> str:
        stage.note(stage.called, "/upload")
        return str(len(await request.body()))

    @app.get("/health", response_class=FastAPIText)
    async def health() -> str:
        return "alive"

    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(f"{await websocket.receive_text()} {remaining()}")
        await websocket.close()

    return app


def _litestar(stage: Stage, options: dict[str, Any] | None) -> Any:
    text: dict[str, Any] = {"media_type": MediaType.TEXT}

    @litestar_get("/left", sync_to_thread=False, **text)
    def left() -> str:
        return stage.left()

    @litestar_get("/hang", **text)
    async def hang() -> str:
        return await stage.hang()

    @litestar_get("/hold", **text)
    async def hold() -> str:
        return await stage.hold()

    @litestar_get("/work", sync_to_thread=True, **text)
    def work() -> str:
        return stage.work()

    @litestar_get("/stream")
    async def stream() -> LitestarStream:
        return LitestarStream(stage.stream())

    @litestar_get("/fail")
    async def fail() -> None:
        raise ValueError("a mistake")

    @litestar_get("/bad")
    async def bad() -> LitestarResponse[str]:
        return LitestarResponse("its own", status_code=503, media_type=MediaType.TEXT)

    @litestar_get("/call", **text)
    async def call() -> str:
        return await stage.call()

    @litestar_get("/after")
    async def after() -> LitestarResponse[str]:
        return LitestarResponse("answered", media_type=MediaType.TEXT, background=LitestarBackgroundTask(stage.after))

    @litestar_post("/upload", status_code=200, **text)
    async def upload(request: LitestarRequest[Any, Any, Any]) -> str:
        stage.note(stage.called, "/upload")
        return str(len(await request.body()))

    @litestar_get("/health", **text)
    async def health() -> str:
        return "alive"

    @litestar_websocket("/echo")
    async def echo(socket: LitestarWebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text(f"{await socket.receive_text()} {remaining()}")
        await socket.close()

    return Litestar(
        [left, hang, hold, work, stream, fail, bad, call, after, upload, health, echo],
        middleware=[] if options is None else [ServerMiddleware.shared(**options)],
        openapi_config=None,
        logging_config=None,
    )


FRAMEWORKS: dict[str, Callable[[Stage, dict[str, Any] | None], Any]] = {
    "starlette": _starlette,
    "fastapi": _fastapi,
    "litestar": _litestar,
}


def build(framework: str, stage: Stage, **options: Any) -> Any:
    """Return the application under a `ServerMiddleware` with these options, which trusts its clients."""
    return FRAMEWORKS[framework](stage, {"deadline_header": True, "priority": True, **options})
