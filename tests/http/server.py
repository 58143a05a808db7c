"""A server on a free port of the loopback interface, in its own thread: starlette under uvicorn, or under hypercorn.

Each request gets the next step of the script, and after the last a 200 with the request's own body.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import hypercorn
import hypercorn.asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

__all__ = ["Answer", "Seen", "Server"]

METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"]


@dataclass(frozen=True)
class Answer:
    """A step of a script."""

    status: int = 200
    body: bytes = b"scripted"
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """Before it answers."""


@dataclass(frozen=True)
class Seen:
    """One request, as it arrived."""

    method: str
    path: str
    body: bytes


class Server:
    """A context: the server runs inside.

    Args:
        protocol: "h11" or "httptools", under uvicorn; or "h2", under hypercorn, for clients that expect HTTP/2.
    """

    def __init__(self, protocol: str = "h11") -> None:
        self.protocol = protocol
        # The protocol is named, because asyncio sets TCP_NODELAY only then: otherwise answers take 40 ms more.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()  # connections before the server starts wait
        port = self._socket.getsockname()[1]
        self.origin = f"http://127.0.0.1:{port}"
        self.script: deque[Answer | int] = deque()
        self.seen: list[Seen] = []
        self.peers: set[Any] = set()
        self._send_rest: Callable[[], object] = lambda: None
        routes = [Route("/parts", self._parts), Route("/{path:path}", self._answer, methods=METHODS)]
        self.application = Starlette(routes=routes)
        self._end: Callable[[], object]
        self._thread = threading.Thread(target=self._hypercorn() if protocol == "h2" else self._uvicorn())

    def _uvicorn(self) -> Callable[[], object]:
        server = uvicorn.Server(
            uvicorn.Config(
                self.application,
                http=self.protocol,  # type: ignore[arg-type]
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
            )
        )

        def end() -> None:
            server.should_exit = server.force_exit = True  # slow answers are not waited for

        self._end = end
        return lambda: server.run([self._socket])

    def _hypercorn(self) -> Callable[[], object]:
        config = hypercorn.Config()
        config.bind = [f"fd://{self._socket.fileno()}"]
        config.errorlog = None
        config.graceful_timeout = 0
        config.keep_alive_max_requests = 1_000_000  # by default GOAWAY follows after 1,000
        loop, over = asyncio.new_event_loop(), asyncio.Event()
        loop.set_exception_handler(lambda *_: None)  # asyncio's streams report the cancelled tasks at the end
        self._end = lambda: loop.call_soon_threadsafe(over.set)

        def run() -> None:
            serving = hypercorn.asyncio.serve(self.application, config, shutdown_trigger=over.wait)  # type: ignore[arg-type]
            loop.run_until_complete(serving)
            loop.close()

        return run

    def reset(self) -> None:
        """Clear the script and the requests."""
        self.script.clear()
        self.seen.clear()
        self.peers.clear()

    def send_rest(self) -> None:
        """Send the second half of a body in parts."""
        self._send_rest()

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append(Seen(request.method, request.url.path, body))
        self.peers.add(request.client)
        step = self.script.popleft() if self.script else Answer(body=b"sent: " + body)
        if isinstance(step, int):
            step = Answer(step, b"status %d" % step)
        await asyncio.sleep(step.seconds)
        return Response(step.body, step.status, step.headers)

    async def _parts(self, request: Request) -> Response:
        """Return a body whose second half is sent when the test allows it."""
        wanted, loop = asyncio.Event(), asyncio.get_running_loop()
        self._send_rest = lambda: loop.call_soon_threadsafe(wanted.set)

        async def parts() -> AsyncIterator[bytes]:
            yield b"first "
            await wanted.wait()
            yield b"second"

        self.seen.append(Seen(request.method, request.url.path, b""))
        return StreamingResponse(parts())

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._socket.close()
