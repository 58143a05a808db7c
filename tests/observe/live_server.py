"""Real servers that end as they do at a signal: they wait for open responses, and nothing is forced."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import hypercorn
import hypercorn.asyncio
import hypercorn.trio
import trio
import uvicorn

__all__ = ["SERVERS", "Server"]

SERVERS = ("uvicorn", "uvicorn-uvloop", "hypercorn", "hypercorn-trio")


class Server:
    """A context: the server runs inside it, in a thread of its own.

    Attributes:
        port, origin: its port, and its address as `http://127.0.0.1:PORT`.
        stop: begins its shutdown, from any thread.
    """

    def __init__(self, app: Any, kind: str = "uvicorn", port: int = 0) -> None:
        self.app = app
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", port))
        self.socket.listen()
        self.port = int(self.socket.getsockname()[1])
        self.origin = f"http://127.0.0.1:{self.port}"
        self.stop: Callable[[], object]
        name, _, variant = kind.partition("-")
        run = self._uvicorn(variant) if name == "uvicorn" else self._hypercorn(variant)
        self._thread = threading.Thread(target=run)

    def ended(self, seconds: float) -> bool:
        """Whether the server has ended; waits for it for so many seconds at most."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _uvicorn(self, loop: str) -> Callable[[], object]:
        http: Any = "httptools" if loop else "h11"
        config = uvicorn.Config(self.app, loop=loop or "asyncio", http=http, log_config=None, access_log=False)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        self.stop = lambda: setattr(server, "should_exit", True)
        return lambda: server.run([self.socket])

    def _hypercorn(self, loop: str) -> Callable[[], object]:
        config = hypercorn.Config()
        config.bind = [f"fd://{self.socket.fileno()}"]
        config.errorlog = None
        config.graceful_timeout = 30
        return self._on_trio(config) if loop == "trio" else self._on_asyncio(config)

    def _on_asyncio(self, config: hypercorn.Config) -> Callable[[], object]:
        loop, over = asyncio.new_event_loop(), asyncio.Event()
        self.stop = lambda: loop.call_soon_threadsafe(over.set)

        def run() -> None:
            loop.run_until_complete(hypercorn.asyncio.serve(self.app, config, shutdown_trigger=over.wait))
            loop.close()

        return run

    def _on_trio(self, config: hypercorn.Config) -> Callable[[], object]:
        began, over = threading.Event(), trio.Event()
        token: list[trio.lowlevel.TrioToken] = []

        async def main() -> None:
            token.append(trio.lowlevel.current_trio_token())
            began.set()
            await hypercorn.trio.serve(self.app, config, shutdown_trigger=over.wait)

        def stop() -> None:
            began.wait()
            token[0].run_sync_soon(over.set)

        self.stop = stop
        return lambda: trio.run(main)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._thread.is_alive():
            self.stop()
        self._thread.join()
        with contextlib.suppress(OSError):  # hypercorn has closed it
            self.socket.close()
