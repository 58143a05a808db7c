"""A client of the live page without a server: requests as ASGI messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from resilient.observe.live import LiveView, apply

__all__ = ["Answer", "Stream", "request", "stream"]

LOCAL = ("127.0.0.1", 50_000)


class Answer:
    """The answer of one request."""

    def __init__(self, messages: list[Any]) -> None:
        start, *rest = messages
        self.status: int = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.body = b"".join(each.get("body", b"") for each in rest)
        self.text = self.body.decode()

    def json(self) -> Any:
        """Return the body, which is JSON."""
        return json.loads(self.body)


def scope_of(
    path: str,
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    *,
    method: str = "GET",
    client: Any = LOCAL,
    query: str = "",
    root: str = "",
) -> dict[str, Any]:
    """Return the scope of a request; without other headers it has the Host of this machine."""
    fields = list(headers.items() if isinstance(headers, dict) else headers or ())
    if not any(name == "host" for name, _ in fields):
        fields.insert(0, ("host", "127.0.0.1:8000"))
    return {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": root,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in fields if value],
        "client": client,
    }


async def request(app: Any, path: str, headers: Any = None, *, body: bytes = b"", **options: Any) -> Answer:
    """Send a request, and return its answer."""
    sent: list[Any] = []
    received = iter([{"type": "http.request", "body": body}])

    async def receive() -> Any:
        message = next(received, None)
        return message or await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of(path, headers, **options), receive, send)
    return Answer(sent)


class Stream:
    """An open stream of events.

    Attributes:
        state: the state after all messages so far.
        lines: all lines so far.
        kinds: the kinds of the messages so far.
        changes: the differences so far.
        ended: set when the application has ended the response.
        dropped: set when the application has returned.
        left: set it to leave, as a client does.
        free: clear it to hold up the application's `send`.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.lines: list[dict[str, Any]] = []
        self.kinds: list[str] = []
        self.changes: list[dict[str, Any]] = []
        self.ended = asyncio.Event()
        self.left = asyncio.Event()
        self.dropped = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        self._news = asyncio.Event()

    async def receive(self) -> Any:
        """Receive as the application does: nothing, until the client leaves."""
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Take a message of the application."""
        await self.free.wait()
        for part in message.get("body", b"").decode().split("\n\n"):
            self._take(dict(line.split(": ", 1) for line in part.splitlines()))
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.ended.set()
        self._news.set()

    def _take(self, fields: dict[str, str]) -> None:
        if not fields:
            return
        kind, data = fields["event"], json.loads(fields["data"])
        self.kinds.append(kind)
        if kind == "lines":
            self.lines += data
        elif kind == "state":
            self.state = data
        else:
            self.changes.append(data)
            self.state = apply(self.state, data)

    async def until(self, found: Any) -> None:
        """Wait until `found(stream)` is true. Raises `TimeoutError` after 20 seconds, for a busy machine."""
        async with asyncio.timeout(20):
            while not found(self):
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def stream(app: LiveView, **options: Any) -> AsyncIterator[Stream]:
    """Open a stream, and leave it at the end of the block."""
    opened = Stream()
    task = asyncio.ensure_future(app(scope_of("/events", **options), opened.receive, opened.send))
    task.add_done_callback(lambda _: opened.dropped.set())
    try:
        yield opened
    finally:
        opened.left.set()
        opened.free.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                await task
        assert task.done()
