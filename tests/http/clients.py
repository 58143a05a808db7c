"""Both kinds of httpx client behind one plain face, so that each test is written once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import httpx

from resilient import Pipeline
from resilient.http.httpx import AsyncTransport, Transport

__all__ = ["CLIENTS", "AsyncHttp", "Http", "SyncHttp"]


class Http:
    """A client whose transport is one of ours."""

    name: ClassVar[str]
    client: Any

    def __init__(self) -> None:
        self.transport: Any = None

    def open(self, pipeline: Pipeline | None = None, **options: Any) -> Http:
        """Begin, perhaps anew; `options` are the transport's."""
        self.end()
        self.transport = self.make(pipeline, **options)
        self.client = self.client_of(transport=self.transport, timeout=5)
        return self

    make: ClassVar[Callable[..., Any]]
    client_of: ClassVar[Callable[..., Any]]

    def send(self, method: str, url: str, **options: Any) -> httpx.Response:
        """One request, as `client.request`."""
        raise NotImplementedError

    def body(self, *parts: bytes) -> Any:
        """A body that can be sent once."""
        raise NotImplementedError

    def stream(self, url: str, between: Callable[[], object]) -> list[bytes]:
        """The parts of a streamed answer, with something done after the first."""
        raise NotImplementedError

    @property
    def connections(self) -> list[Any]:
        """Those of the pool beneath."""
        return list(self.transport.transport._pool.connections)

    def all_free(self) -> bool:
        """Whether nobody has a connection."""
        return all(connection.is_idle() or connection.is_closed() for connection in self.connections)

    def end(self) -> None:
        """Close the client, if there is one."""
        if self.transport is not None:
            self.close_client()
        self.transport = None

    def close_client(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End of the test."""
        self.end()


class AsyncHttp(Http):
    """`httpx.AsyncClient`."""

    name = "AsyncClient"
    make = AsyncTransport
    client_of = httpx.AsyncClient

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()

    def send(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self.runner.run(self.client.request(method, url, **options))

    def body(self, *parts: bytes) -> Any:
        async def body() -> Any:
            for part in parts:
                yield part

        return body()

    def stream(self, url: str, between: Callable[[], object]) -> list[bytes]:
        async def main() -> list[bytes]:
            async with self.client.stream("GET", url) as response:
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


class SyncHttp(Http):
    """`httpx.Client`."""

    name = "Client"
    make = Transport
    client_of = httpx.Client

    def send(self, method: str, url: str, **options: Any) -> httpx.Response:
        response: httpx.Response = self.client.request(method, url, **options)
        return response

    def body(self, *parts: bytes) -> Any:
        return iter(parts)

    def stream(self, url: str, between: Callable[[], object]) -> list[bytes]:
        with self.client.stream("GET", url) as response:
            parts = response.iter_raw()
            first = next(parts)
            between()
            return [first, *parts]

    def close_client(self) -> None:
        self.client.close()


CLIENTS = (AsyncHttp, SyncHttp)
