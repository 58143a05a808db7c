"""Bodies of requests, which may have to be sent again.

A body may be bytes, a file, an iterator, or a form with files. Some can be sent twice as they are, some after they were
read or rewound, and some only once. `make_ready` finds out which. A body is never sent in part.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from resilient.core.call import new_call
from resilient.http.delegate import close_iterator, iterate, next_part
from resilient.runtime import Limit, Runtime
from resilient.runtime.threads import THREADS

__all__ = ["BodyClasses", "RewoundFile", "SingleUse", "TimeLimited", "make_ready"]


def is_file(source: Any) -> bool:
    """Whether `source` is a file that can be rewound."""
    try:
        return bool(source.seekable() and callable(source.read))
    except Exception:  # closed, or not a file
        return False


class RewoundFile:
    """A file as a body that can be sent again: each iteration begins at the file's original position."""

    def __init__(self, stream: Any, file: Any) -> None:
        self._stream = stream
        self._file = file
        self._position = file.tell()

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self._position)
        yield from self._stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._file.seek(self._position)
        for part in self._stream:
            yield part


def is_read_on(source: Any) -> bool:
    """Whether a second iteration goes on where the first one stopped, as with iterators and files."""
    return any(hasattr(type(source), name) for name in ("__next__", "__anext__", "read", "aread"))


class SingleUse:
    """A body that can be sent once: a part of it has been read, or a second iteration would only read on.

    A second iteration (after a redirect, or by authentication) does the same as the client's own stream: an iterable
    begins anew, and a generator raises `StreamConsumed`. An iterator or a file raises it, too, because the client would
    send only the rest of it, or nothing.

    Args:
        stream: the client's own.
        read: the parts that have been read.
        chunks: the iterator over the rest; None: nothing has been read.
    """

    consumed: type[Exception]

    def __init__(self, stream: Any, read: tuple[bytes, ...] = (), chunks: Any = None) -> None:
        self._stream = stream
        self._read = read
        self._chunks = chunks
        self._sent = False

    def _begin(self) -> tuple[tuple[bytes, ...], Any]:
        """Begin an iteration. Returns the parts that were read, and the iterable of the rest."""
        if self._sent and (is_read_on(self._stream) or is_read_on(source_of(self._stream))):
            raise self.consumed()
        self._sent = True
        begun = self._read, self._stream if self._chunks is None else self._chunks
        self._read, self._chunks = (), None
        return begun

    def __iter__(self) -> Iterator[bytes]:
        read, rest = self._begin()
        yield from read
        yield from rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read, rest = self._begin()
        for part in read:
            yield part
        chunks = aiter(rest)
        try:
            async for part in chunks:
                yield part
        finally:
            await close_iterator(chunks)


def source_of(stream: Any) -> Any:
    """Return the object that the user passed as the body, or None if the client keeps no reference to it."""
    return getattr(stream, "_stream", None)


class TimeLimited:
    """A body that a plain client sends. A read of its source cannot be interrupted, but no further part is read after
    the request's deadline.

    Args:
        stream: the client's own.
        limit: the deadline.
    """

    def __init__(self, stream: Any, limit: Limit) -> None:
        self._stream = stream
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            yield part
            if THREADS.now() >= self._limit.at:  # type: ignore[operator]
                raise self._limit.expired(None, 0.0)


class BodyClasses(Protocol):
    """The classes of request bodies for one client library, as `resilient.http.streams.Streams` has them."""

    bytes: Any
    rewound: Any
    single_use: Any


async def make_ready(
    request: Any, streams: BodyClasses, buffer: int | None, runtime: Runtime, limit: Limit | None = None
) -> tuple[bool, bool]:
    """Prepare a request's body to be sent again.

    Args:
        request: its `stream` may be replaced.
        streams: the classes of bodies of the client library.
        buffer: a stream is read up to this many bytes. None: it is not read, and only protected from being sent in
            part.
        runtime: waits for the parts of a stream.
        limit: the deadline for reading. In threads it is checked after each part.

    Returns whether two attempts may send the body at the same time, and whether it can be sent again. Raises `TimedOut`
    if reading takes until `limit`.
    """
    stream = request.stream
    if isinstance(stream, streams.bytes):
        return True, True
    if isinstance(stream, streams.rewound):
        return False, True
    fields = getattr(stream, "fields", None)  # of a multipart body, which rewinds its files itself
    if isinstance(fields, list):
        files = [field.file for field in fields if hasattr(field, "file")]
        if all(isinstance(file, str | bytes) or is_file(file) for file in files):
            return not files, True
    source = source_of(stream)
    if isinstance(source, list | tuple):
        return True, True
    if hasattr(stream, "__iter__") and is_file(source):  # asynchronous files are iterators to the clients
        request.stream = streams.rewound(stream, source)
        return False, True
    if isinstance(stream, streams.single_use):
        return False, False
    if buffer is None or not hasattr(stream, "__iter__" if runtime is THREADS else "__aiter__"):
        if is_read_on(stream) or is_read_on(source):
            request.stream = streams.single_use(stream)
        return False, False
    read: list[bytes] = []
    chunks, max_bytes = iterate(stream, runtime), buffer

    async def reading(_: Any) -> bool:
        size = 0
        while (part := await next_part(chunks)) is not None:
            read.append(part)
            size += len(part)
            if size > max_bytes:
                return False
            if limit is not None and runtime is THREADS and runtime.now() >= limit.at:  # type: ignore[operator]
                raise limit.expired(None, 0.0)
        return True

    if await (reading(None) if limit is None else runtime.within(new_call(reading, (), {}, runtime), reading, limit)):
        request.stream = streams.bytes(b"".join(read))
        return True, True
    request.stream = streams.single_use(stream, tuple(read), chunks)
    return False, False
