"""Real servers on free ports of the loopback interface, each in its own thread: uvicorn on asyncio (with h11) and on
uvloop (with httptools), and hypercorn on asyncio and on trio. The application can be replaced while they run.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import httpx
import hypercorn
import hypercorn.asyncio
import hypercorn.trio
import trio
import uvicorn

__all__ = ["SERVERS", "Running"]

SERVERS = ("uvicorn", "uvicorn-uvloop", "hypercorn", "hypercorn-trio")


class Running:
    """A context: the server runs inside it.

    Attributes:
        app: the application; set it before a request.
    """

    app: Any

    def __init__(self, kind: str) -> None:
        self.kind = kind
        # The protocol is named, because asyncio sets TCP_NODELAY only then: otherwise answers take 40 ms more.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()  # connections before the server starts wait
        self.address = self._socket.getsockname()
        self.origin = f"http://{self.address[0]}:{self.address[1]}"
        self._end: Callable[[], object]
        name, _, variant = kind.partition("-")
        prepare = self._uvicorn if name == "uvicorn" else self._hypercorn
        self._thread = threading.Thread(target=prepare(variant))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Call the application: this is the one that the server was given."""
        await self.app(scope, receive, send)

    def _uvicorn(self, loop: str) -> Callable[[], object]:
        server = uvicorn.Server(
            uvicorn.Config(
                self,
                http="httptools" if loop == "uvloop" else "h11",
                ws="wsproto",
                loop=loop or "asyncio",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
            )
        )

        def end() -> None:
            server.should_exit = server.force_exit = True

        self._end = end
        return lambda: server.run([self._socket])

    def _hypercorn(self, loop: str) -> Callable[[], object]:
        config = hypercorn.Config()
        config.bind = [f"fd://{self._socket.fileno()}"]
        config.errorlog = None
        config.graceful_timeout = 0
        config.keep_alive_max_requests = 1_000_000
        return self._run_on_trio(config) if loop == "trio" else self._run_on_asyncio(config)

    def _run_on_asyncio(self, config: hypercorn.Config) -> Callable[[], object]:
        loop, over = asyncio.new_event_loop(), asyncio.Event()
        loop.set_exception_handler(lambda *_: None)  # asyncio's streams report the cancelled tasks at the end
        self._end = lambda: loop.call_soon_threadsafe(over.set)

        def run() -> None:
            loop.run_until_complete(hypercorn.asyncio.serve(self, config, shutdown_trigger=over.wait))  # type: ignore[arg-type]
            loop.close()

        return run

    def _run_on_trio(self, config: hypercorn.Config) -> Callable[[], object]:
        began, over = threading.Event(), trio.Event()
        token: list[trio.lowlevel.TrioToken] = []

        async def main() -> None:
            token.append(trio.lowlevel.current_trio_token())
            began.set()
            await hypercorn.trio.serve(self, config, shutdown_trigger=over.wait)  # type: ignore[arg-type]

        def end() -> None:
            began.wait()
            token[0].run_sync_soon(over.set)

        self._end = end
        return lambda: trio.run(main)

    def client(self) -> httpx.Client:
        """Return a new client, with a timeout that is longer than every test."""
        return httpx.Client(base_url=self.origin, timeout=20)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._socket.close()
