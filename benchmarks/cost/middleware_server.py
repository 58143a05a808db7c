"""The server of `middleware`, and the client that keeps it busy.

The server is uvicorn in a process of its own. It serves a Starlette hello-world on several ports: plain, under
Starlette's `CORSMiddleware`, and under ours with several settings.

    python -m benchmarks.cost.middleware_server httptools|h11 asyncio|uvloop
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

__all__ = ["ADAPTIVE", "BULKHEAD", "HEADERS", "NOTHING", "PEER", "PLAIN", "Server", "applications", "settings"]

CONNECTIONS = 8
"""Connections to each port, all busy at once."""
PLAIN = "Starlette alone"
PEER = "Starlette's CORSMiddleware"
NOTHING = "nothing asked"
BULKHEAD = "deadline, priority, Bulkhead"
ADAPTIVE = "deadline, priority, AdaptiveLimit"
HEADERS = (
    ("host", "127.0.0.1"),
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate"),
    ("connection", "keep-alive"),
    ("user-agent", "python-httpx/0.28.1"),
    ("x-deadline-ms", "10000"),
    ("x-priority", "normal"),
    ("origin", "https://shop.example"),
)


def settings() -> dict[str, dict[str, Any]]:
    """The measured settings of our middleware, by the name of their row."""
    import resilient

    asked: dict[str, Any] = {"deadline_header": True, "priority": True, "max_deadline": 30}
    return {
        NOTHING: {},
        "deadline, priority": asked,
        BULKHEAD: {**asked, "limit": resilient.Bulkhead(100)},
        ADAPTIVE: {**asked, "limit": resilient.AdaptiveLimit()},
    }


def applications() -> dict[str, Any]:
    """The hello-world, plain and under each middleware, by name; the plain one first."""
    from starlette.applications import Starlette
    from starlette.middleware.cors import CORSMiddleware
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from resilient.server.asgi import ServerMiddleware

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("Hello, world")

    def made(middleware: Any = None, **options: Any) -> Starlette:
        application = Starlette(routes=[Route("/", hello)])
        if middleware is not None:
            application.add_middleware(middleware, **options)
        return application

    ours = {name: made(ServerMiddleware, **options) for name, options in settings().items()}
    return {PLAIN: made(), PEER: made(CORSMiddleware, allow_origins=["https://shop.example"]), **ours}


class Client:
    """A client that keeps `CONNECTIONS` connections to one port busy without pause."""

    def __init__(self, port: int) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        for each in self._sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setblocking(False)
        fields = "".join(f"{name}: {value}\r\n" for name, value in HEADERS)
        self._request = f"GET / HTTP/1.1\r\n{fields}\r\n".encode()

    def exchange(self, requests: int) -> None:
        """Send `requests` requests over all connections, and wait for the answers. Raises RuntimeError for another
        answer than the expected one."""
        answers = {}
        for each in self._sockets[:requests]:
            each.send(self._request)
            answers[each] = b""
        left = requests - len(answers)
        while answers:
            for each in list(answers):
                try:
                    part = each.recv(4096)
                except BlockingIOError:
                    continue
                answers[each] += part
                if not part or not answers[each].startswith(b"HTTP/1.1 200"[: len(answers[each])]):
                    raise RuntimeError(f"unexpected answer: {answers[each]!r}")
                if answers[each].endswith(b"Hello, world"):
                    del answers[each]
                    if left:
                        left -= 1
                        each.send(self._request)
                        answers[each] = b""

    def close(self) -> None:
        for each in self._sockets:
            each.close()


class Server:
    """The server's process, as a context manager. `clients` are by the name of the application."""

    def __init__(self, protocol: str, loop: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cost.middleware_server", protocol, loop],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ports = self._line().split()
        self.clients = {name: Client(int(port)) for name, port in zip(applications(), ports, strict=True)}

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server's process ended with {self._process.wait()}")
        return line

    def processor_time(self) -> int:
        """Nanoseconds of processor time that the server's process has used."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def avoid(self, core: int | None) -> None:
        """Keep the server's process off this core if it may run on another one."""
        if core is not None and (others := os.sched_getaffinity(self._process.pid) - {core}):
            os.sched_setaffinity(self._process.pid, others)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for client in self.clients.values():
            client.close()
        with self._process:  # closes the pipes, so the process ends, and waits for its end
            pass


def serve(protocol: str, loop: str) -> None:
    """Write the ports to stdout, and serve until stdin closes. For each line of stdin, write the processor time so
    far."""
    import uvicorn

    def answer() -> None:
        for _ in sys.stdin:
            print(time.process_time_ns(), flush=True)
        os._exit(0)

    servers, listeners = [], []
    for made in applications().values():
        # asyncio sets TCP_NODELAY only if the protocol is named; without it, answers take 40 ms more.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listeners.append(listener)
        config = uvicorn.Config(
            made,
            http=protocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=60,  # a connection waits less long for its turn, even on a busy machine
        )
        servers.append(uvicorn.Server(config))

    async def serve_all() -> None:
        await asyncio.gather(*(server.serve([listener]) for server, listener in zip(servers, listeners, strict=True)))

    print(*(listener.getsockname()[1] for listener in listeners), flush=True)
    threading.Thread(target=answer, daemon=True).start()
    factory: Any = importlib.import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve_all())


if __name__ == "__main__":
    serve(*sys.argv[1:])
