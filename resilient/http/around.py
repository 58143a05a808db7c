"""Transports around another one, and bodies around a client's own: what both have to pass on."""

from __future__ import annotations

from types import ModuleType, TracebackType
from typing import Any, NoReturn, Self

__all__ = ["Around", "AsyncAround", "SyncAround", "checked", "library_of"]

LIBRARIES = frozenset(("httpx", "httpx2"))


class AsyncAround:
    """A transport of an asynchronous client, around another."""

    transport: Any

    def handle_request(self, request: Any) -> NoReturn:
        """What a plain client calls. Raises `TypeError`: this is not for one."""
        raise TypeError(f"{_name(self)} is for an AsyncClient; a plain Client needs {_twin(self)}")

    def __enter__(self) -> NoReturn:
        raise TypeError(f"{_name(self)} is for an AsyncClient; a plain Client needs {_twin(self)}")

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

    async def handle_async_request(self, request: Any) -> NoReturn:
        """What an asynchronous client calls. Raises `TypeError`: this is not for one."""
        raise TypeError(f"{_name(self)} is for a plain Client; an AsyncClient needs {_twin(self)}")

    async def __aenter__(self) -> NoReturn:
        raise TypeError(f"{_name(self)} is for a plain Client; an AsyncClient needs {_twin(self)}")

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


def checked(transport: Any, library: ModuleType, *, is_async: bool) -> Any:
    """`transport`, if it sends requests of such a client.

    Raises `TypeError` for a class, a transport of the other kind of client, or of the other client library.
    """
    prefix, wrong, right = ("Async", SyncAround, AsyncAround) if is_async else ("", AsyncAround, SyncAround)
    wanted = f"transport must be one for {library.__name__}.{prefix}Client, such as {prefix}HTTPTransport"
    if isinstance(transport, type):
        raise TypeError(f"{wanted}, got the class {transport.__qualname__}: an instance is due")
    others = {library_of(kind) for kind in type(transport).__mro__} & LIBRARIES
    if others and library.__name__ not in others:
        raise TypeError(f"{wanted}, got one of {others.pop()}: {transport!r}")
    method = "handle_async_request" if is_async else "handle_request"
    ours_for_the_other = isinstance(transport, wrong) and not isinstance(transport, right)
    if ours_for_the_other or not callable(getattr(transport, method, None)):
        raise TypeError(f"{wanted}, got one without {method}: {transport!r}")
    return transport


def library_of(kind: type[Any]) -> str:
    """The library that a class is of."""
    return kind.__module__.partition(".")[0]


def _name(transport: object) -> str:
    return type(transport).__qualname__


def _twin(transport: object) -> str:
    """The name of what the other kind of client needs instead."""
    name = _name(transport)
    return name.removeprefix("Async") if name.startswith("Async") else f"Async{name}"
