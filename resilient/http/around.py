"""Transports around another one, and bodies around a client's own: what both have to pass on."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

__all__ = ["Around", "AsyncAround", "SyncAround"]


class AsyncAround:
    """A transport of an asynchronous client, around another."""

    transport: Any

    async def _drain(self) -> None:
        """Wait for what has to end before the inner one is closed."""

    async def aclose(self) -> None:
        """Wait for what a call has left behind to end, and close the transport that sends."""
        try:
            await self._drain()
        finally:
            await self.transport.aclose()

    async def __aenter__(self) -> Self:
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            await self._drain()
        finally:
            await self.transport.__aexit__(exc_type, exc_value, traceback)


class SyncAround:
    """A transport of a plain client, around another."""

    transport: Any

    def _drain(self) -> None:
        """Wait for what has to end before the inner one is closed."""

    async def _handle(self, request: Any) -> Any:
        """For what is written once, as a coroutine."""
        return self.transport.handle_request(request)

    def close(self) -> None:
        """Wait for what a call has left behind to end, and close the transport that sends."""
        try:
            self._drain()
        finally:
            self.transport.close()

    def __enter__(self) -> Self:
        self.transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            self._drain()
        finally:
            self.transport.__exit__(exc_type, exc_value, traceback)


class Around:
    """A body around the client's own."""

    _stream: Any

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()
