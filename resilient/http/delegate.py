"""Base classes of transports around another one, and of bodies around the client's own.

They pass on the operations that they do not change: closing, entering and leaving, and reading.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from sys import modules
from types import ModuleType, TracebackType
from typing import Any, NoReturn, Self

from resilient.runtime import Runtime
from resilient.runtime.threads import THREADS

__all__ = [
    "AsyncDelegatingTransport",
    "DelegatingBody",
    "PartIterator",
    "SyncDelegatingTransport",
    "checked",
    "close_iterator",
    "iterate",
    "next_part",
    "wrong_library",
]

LIBRARIES = frozenset(("httpx", "httpx2"))


class AsyncDelegatingTransport:
    """A transport of an asynchronous client, around another one.

    Attributes:
        transport: the other one.
    """

    transport: Any

    def handle_request(self, request: Any) -> NoReturn:
        """Raise `TypeError`: a plain client, which calls this, cannot use this transport."""
        raise TypeError(f"{_name(self)} is for an AsyncClient; a plain Client needs {_counterpart(self)}")

    def __enter__(self) -> NoReturn:
        raise TypeError(f"{_name(self)} is for an AsyncClient; a plain Client needs {_counterpart(self)}")

    async def _drain(self) -> None:
        """Wait for calls that must end before the inner transport is closed."""

    async def aclose(self) -> None:
        """Wait for the background calls that earlier calls have left, and close the inner transport."""
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


class SyncDelegatingTransport:
    """A transport of a plain client, around another one.

    Attributes:
        transport: the other one.
    """

    transport: Any

    async def handle_async_request(self, request: Any) -> NoReturn:
        """Raise `TypeError`: an asynchronous client, which calls this, cannot use this transport."""
        raise TypeError(f"{_name(self)} is for a plain Client; an AsyncClient needs {_counterpart(self)}")

    async def __aenter__(self) -> NoReturn:
        raise TypeError(f"{_name(self)} is for a plain Client; an AsyncClient needs {_counterpart(self)}")

    def _drain(self) -> None:
        """Wait for calls that must end before the inner transport is closed."""

    async def _handle(self, request: Any) -> Any:
        """Send a request: `handle_request` as a coroutine, for code that both kinds of transport share."""
        return self.transport.handle_request(request)

    def close(self) -> None:
        """Wait for the background calls that earlier calls have left, and close the inner transport."""
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


class DelegatingBody:
    """A body around the client's own. Subclasses replace `_next` and `__iter__`."""

    _stream: Any

    def __aiter__(self) -> PartIterator:
        return PartIterator(aiter(self._stream), self._next)

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        """Return the next part, from the iterator of the inner body. Raises `StopAsyncIteration` at the end."""
        return await anext(chunks)

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


class PartIterator(AsyncGenerator[bytes, None]):
    """The asynchronous iterator of a body around another one. Closing it closes the inner iterator.

    It is no Python generator, because httpx leaves a generator to the garbage collector when its reader stops early:
    closing it then costs a task on asyncio, and a warning on trio. It is an `AsyncGenerator`, because httpx2 closes
    those.

    Args:
        chunks: the iterator of the inner body.
        read_part: returns the next part, given `chunks`.
    """

    __slots__ = ("_chunks", "_read_part")

    def __init__(self, chunks: AsyncIterator[bytes], read_part: Callable[[Any], Coroutine[Any, Any, bytes]]) -> None:
        self._chunks = chunks
        self._read_part = read_part

    def __anext__(self) -> Coroutine[Any, Any, bytes]:
        return self._read_part(self._chunks)

    async def asend(self, value: None) -> bytes:
        return await self._read_part(self._chunks)

    async def athrow(self, kind: Any, error: Any = None, traceback: Any = None) -> bytes:
        await self.aclose()
        raise kind if error is None else error

    async def aclose(self) -> None:
        await close_iterator(self._chunks)


def iterate(stream: Any, runtime: Runtime) -> Any:
    """Return an iterator over a body: a plain one in threads, else an asynchronous one."""
    return iter(stream) if runtime is THREADS else aiter(stream)


async def next_part(chunks: Any) -> bytes | None:
    """Return the next part of a body, from either kind of iterator; None at the end."""
    return next(chunks, None) if isinstance(chunks, Iterator) else await anext(chunks, None)


async def close_iterator(chunks: Any) -> None:
    """Close an asynchronous iterator that is not read to its end, unless it is running."""
    if hasattr(chunks, "aclose") and not getattr(chunks, "ag_running", False):
        await chunks.aclose()


def checked(transport: Any, library: ModuleType, *, is_async: bool) -> Any:
    """Return `transport` if it can send requests of a client of `library`.

    Raises `TypeError` for a class, a transport of the other kind of client, or of the other client library.
    """
    prefix, wrong, right = (
        ("Async", SyncDelegatingTransport, AsyncDelegatingTransport)
        if is_async
        else ("", AsyncDelegatingTransport, SyncDelegatingTransport)
    )
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


def wrong_library(request: Any, transport: Any, library: ModuleType) -> TypeError:
    """Return the error for a request of another library, whose client was given this transport of `library`."""
    ours, theirs, name = library.__name__, library_of(type(request)), type(transport).__qualname__
    given = f"{name} of resilient.http.{ours} was given a {type(request).__qualname__} of {theirs}"
    return TypeError(f"{given}: its clients need the transports of resilient.http.{theirs}")


def library_of(kind: type[Any]) -> str:
    """Return the name of the library of a class.

    The libraries' own names are looked up first, because other packages may claim a class that they re-export: with
    openai 3, the `__module__` of `httpx2.BaseTransport` is "openai".
    """
    for library in LIBRARIES:
        if getattr(modules.get(library), kind.__name__, None) is kind:
            return library
    return kind.__module__.partition(".")[0]


def _name(transport: object) -> str:
    return type(transport).__qualname__


def _counterpart(transport: object) -> str:
    """Return the name of the transport for the other kind of client."""
    name = _name(transport)
    return name.removeprefix("Async") if name.startswith("Async") else f"Async{name}"
