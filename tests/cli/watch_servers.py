"""Servers that `resilient watch` is pointed at, and what its readings are awaited with."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from resilient.cli.watch import sources

__all__ = ["answering", "quick", "serving", "take"]


@asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncIterator[str]:
    """Serve an ASGI application in this event loop. Yields its address."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(app, log_config=None, log_level="critical", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    server.force_exit = True
    task = asyncio.ensure_future(server.serve([listener]))
    try:
        while not server.started:
            assert not task.done()
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


def answering(status: int, kind: str, body: bytes) -> Any:
    """Return an application that gives each request the same answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No real pause before the next try."""
    monkeypatch.setattr(sources, "PAUSE", 0.01)
    monkeypatch.setattr(sources, "POLL", 0.05)


async def take(items: AsyncIterator[Any], wanted: Any) -> Any:
    """Return the first item for which `wanted` is true; all others are passed over."""
    async with asyncio.timeout(20):
        async for item in items:
            if wanted(item):
                return item
    raise AssertionError("the source has ended")
