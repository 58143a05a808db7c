"""Both kinds of client of both libraries behind one interface, so that each test is written once."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx
import httpx2

import resilient.http.httpx
import resilient.http.httpx2
from resilient import Pipeline

__all__ = ["ASYNC_CLIENTS", "CLIENTS", "Http", "is_free"]


TLS = ssl.create_default_context()
"""One for all, because to make one takes longer than most tests."""


def is_free(transport: Any) -> bool:
    """Whether no request has a connection of the pool, or waits for one."""
    pool = transport.transport._pool
    idle = all(connection.is_idle() or connection.is_closed() for connection in pool.connections)
    return idle and not pool._requests


class Http:
    """A client with one of our transports."""

    name: ClassVar[str]
    library: ClassVar[Any]
    """`httpx` or `httpx2`."""
    ours: ClassVar[Any]
    """Our module for it."""
    blocking: ClassVar[bool]
    client: Any

    def __init__(self) -> None:
        self.transport: Any = None

    def open(self, pipeline: Pipeline | None = None, *, timeout: Any = 5, **options: Any) -> Http:
        """Open the client, perhaps anew; `options` are the transport's."""
        self.end()
        if "transport" not in options:
            options.setdefault("verify", TLS)
        self.transport = self.make(pipeline, **options)
        self.client = self.client_of(transport=self.transport, timeout=timeout)
        return self

    def make(self, pipeline: Pipeline | None = None, **options: Any) -> Any:
        """Return one of our transports."""
        raise NotImplementedError

    def client_of(self, **options: Any) -> Any:
        """Return one of the library's clients."""
        raise NotImplementedError

    def send(self, method: str, url: str, **options: Any) -> Any:
        """Send one request, like `client.request`."""
        raise NotImplementedError

    def body(self, *parts: bytes) -> Any:
        """Return a body that can be sent once."""
        raise NotImplementedError

    @contextlib.contextmanager
    def file(self, path: Path) -> Iterator[Any]:
        """Return an open file of the kind that this client takes."""
        raise NotImplementedError

    def stream(self, url: str, between: Callable[[], object], *, method: str = "GET", **options: Any) -> list[bytes]:
        """Return the parts of a streamed response. A function is called after the first; if it raises, the rest stays
        unread."""
        raise NotImplementedError

    @property
    def connections(self) -> list[Any]:
        """The connections of the pool beneath."""
        return list(self.transport.transport._pool.connections)

    def all_free(self) -> bool:
        """Whether no request has a connection, or waits for one."""
        return is_free(self.transport)

    def end(self) -> None:
        """Close the client, if there is one."""
        if self.transport is not None:
            self.close_client()
        self.transport = None

    def close_client(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close everything at the end of the test."""
        self.end()


class AsyncHttp(Http):
    """The interface to an `AsyncClient`."""

    blocking = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()

    def make(self, pipeline: Pipeline | None = None, **options: Any) -> Any:
        return self.ours.AsyncTransport(pipeline, **options)

    def client_of(self, **options: Any) -> Any:
        return self.library.AsyncClient(**options)

    def send(self, method: str, url: str, **options: Any) -> Any:
        return self.runner.run(self.client.request(method, url, **options))

    def body(self, *parts: bytes) -> Any:
        async def body() -> Any:
            for part in parts:
                yield part

        return body()

    @contextlib.contextmanager
    def file(self, path: Path) -> Iterator[Any]:
        opened = self.runner.run(_opened(path))
        try:
            yield opened
        finally:
            self.runner.run(opened.aclose())

    def stream(self, url: str, between: Callable[[], object], *, method: str = "GET", **options: Any) -> list[bytes]:
        async def main() -> list[bytes]:
            async with self.client.stream(method, url, **options) as response:
                parts = response.aiter_raw()
                first = await anext(parts)
                between()
                return [first, *[part async for part in parts]]

        return self.runner.run(main())

    def close_client(self) -> None:
        self.runner.run(self.client.aclose())

    def close(self) -> None:
        super().close()
        self.runner.close()


async def _opened(path: Path) -> Any:
    return await anyio.open_file(path, "rb")


class SyncHttp(Http):
    """The interface to a `Client`."""

    blocking = True

    def make(self, pipeline: Pipeline | None = None, **options: Any) -> Any:
        return self.ours.Transport(pipeline, **options)

    def client_of(self, **options: Any) -> Any:
        return self.library.Client(**options)

    def send(self, method: str, url: str, **options: Any) -> Any:
        return self.client.request(method, url, **options)

    def body(self, *parts: bytes) -> Any:
        return iter(parts)

    @contextlib.contextmanager
    def file(self, path: Path) -> Iterator[Any]:
        with path.open("rb") as opened:
            yield opened

    def stream(self, url: str, between: Callable[[], object], *, method: str = "GET", **options: Any) -> list[bytes]:
        with self.client.stream(method, url, **options) as response:
            parts = response.iter_raw()
            first = next(parts)
            between()
            return [first, *parts]

    def close_client(self) -> None:
        self.client.close()


class AsyncHttpx(AsyncHttp):
    name = "httpx.AsyncClient"
    library = httpx
    ours = resilient.http.httpx


class AsyncHttpx2(AsyncHttp):
    name = "httpx2.AsyncClient"
    library = httpx2
    ours = resilient.http.httpx2


class SyncHttpx(SyncHttp):
    name = "httpx.Client"
    library = httpx
    ours = resilient.http.httpx


class SyncHttpx2(SyncHttp):
    name = "httpx2.Client"
    library = httpx2
    ours = resilient.http.httpx2


ASYNC_CLIENTS = (AsyncHttpx, AsyncHttpx2)
CLIENTS = (*ASYNC_CLIENTS, SyncHttpx, SyncHttpx2)
