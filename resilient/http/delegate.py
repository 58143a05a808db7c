"""Transports around another one, and bodies around a client's own: what both have to pass on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from sys import modules
from types import ModuleType, TracebackType
from typing import Any, NoReturn, Self

from resilient.runtime import Runtime
from resilient.runtime.threads import THREADS

__all__ = ["Around", "AsyncAround", "Parts", "SyncAround", "begun", "checked", "end", "following", "library_of"]

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

    def __aiter__(self) -> Parts:
        return Parts(aiter(self._stream), self._next)

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        """The next part, made of the next one of the body inside. Raises `StopAsyncIteration` at the end."""
        return await anext(chunks)

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Parts(AsyncGenerator[bytes, None]):
    """The parts of a body around another one, whose iterator is closed with this one.

    It is not a generator of Python's: httpx leaves those that it has begun to the garbage collector when a reader stops
    early, and each costs a task to close it on asyncio, and a warning on trio. It is an `AsyncGenerator` because httpx2
    closes those.
    """

    __slots__ = ("_chunks", "_following")

    def __init__(self, chunks: AsyncIterator[bytes], following: Callable[[Any], Coroutine[Any, Any, bytes]]) -> None:
        self._chunks = chunks
        self._following = following

    def __anext__(self) -> Coroutine[Any, Any, bytes]:
        return self._following(self._chunks)

    async def asend(self, value: None) -> bytes:
        return await self._following(self._chunks)

    async def athrow(self, kind: Any, error: Any = None, traceback: Any = None) -> bytes:
        await self.aclose()
        raise kind if error is None else error

    async def aclose(self) -> None:
        await end(self._chunks)


def begun(stream: Any, runtime: Runtime) -> Any:
    """An iterator over a body: a plain one in threads, else an asynchronous one."""
    return iter(stream) if runtime is THREADS else aiter(stream)


async def following(chunks: Any) -> bytes | None:
    """The next part of a body, from either kind of iterator; None at the end."""
    return next(chunks, None) if isinstance(chunks, Iterator) else await anext(chunks, None)


async def end(chunks: Any) -> None:
    """Close an iterator that is not read to its end, unless its reader is in the midst of it."""
    if hasattr(chunks, "aclose") and not getattr(chunks, "ag_running", False):
        await chunks.aclose()


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
    """The library that a class is of. One that it has by its name, since packages that hand a class on may call it
    theirs: with openai 3, the `__module__` of `httpx2.BaseTransport` is "openai"."""
    for library in LIBRARIES:
        if getattr(modules.get(library), kind.__name__, None) is kind:
            return library
    return kind.__module__.partition(".")[0]


def _name(transport: object) -> str:
    return type(transport).__qualname__


def _twin(transport: object) -> str:
    """The name of what the other kind of client needs instead."""
    name = _name(transport)
    return name.removeprefix("Async") if name.startswith("Async") else f"Async{name}"
