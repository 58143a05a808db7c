"""Bodies of requests, which may have to be sent again.

What a user gives as a body may be bytes, a file, an iterator, or a form with files: some can be sent twice as they are,
some after they were read or rewound, and some only once. `make_ready` finds out, and no body is ever sent in part.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from resilient.call import new_call
from resilient.http.around import begun, end, following
from resilient.runtime import Limit, Runtime
from resilient.runtime.threads import THREADS

if TYPE_CHECKING:
    from resilient.http.bodies import Streams

__all__ = ["Once", "Punctual", "Rewound", "make_ready"]


def is_file(source: Any) -> bool:
    """Whether it can be read again from where it is."""
    try:
        return bool(source.seekable() and callable(source.read))
    except Exception:  # closed, or not a file
        return False


class Rewound:
    """A file, from where it was."""

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
    """Whether iterating it a second time goes on where the first time has stopped, as with iterators and files."""
    return any(hasattr(type(source), name) for name in ("__next__", "__anext__", "read", "aread"))


class Once:
    """A request's body of which a part has been read, or that a second iteration would only read on.

    Iterated again (after a redirect, or by authentication), it is what the client's own is then: an iterable begins
    anew, and a generator raises `StreamConsumed`. So does an iterator or a file, of which the client would send what is
    left, perhaps nothing.
    """

    consumed: type[Exception]

    def __init__(self, stream: Any, read: tuple[bytes, ...] = (), chunks: Any = None) -> None:
        self._stream = stream
        self._read = read
        self._chunks = chunks
        self._sent = False

    def _begin(self) -> tuple[tuple[bytes, ...], Any]:
        """What was read of it, and where the rest is."""
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
            await end(chunks)


def source_of(stream: Any) -> Any:
    """What the user gave as the body, if the client made a stream of it."""
    return getattr(stream, "_stream", None)


class Punctual:
    """A request's body that a plain client sends: its source cannot be interrupted, but is not asked on when the time
    of the request is over."""

    def __init__(self, stream: Any, limit: Limit) -> None:
        self._stream = stream
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            yield part
            if THREADS.now() >= self._limit.at:  # type: ignore[operator]
                raise self._limit.expired(None, 0.0)


async def make_ready(
    request: Any, streams: Streams, buffer: int | None, runtime: Runtime, limit: Limit | None = None
) -> tuple[bool, bool]:
    """See to it that a body can be sent again: one that is a stream is read, up to `buffer` bytes; None: it is not, and
    is left alone unless a second iteration would send only a part of it. Raises `TimedOut` when that takes until
    `limit`; in threads with the next part.

    Returns whether two may read it at once, and whether it can be sent again.
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
    if isinstance(stream, streams.once):
        return False, False
    if buffer is None or not hasattr(stream, "__iter__" if runtime is THREADS else "__aiter__"):
        if is_read_on(stream) or is_read_on(source):
            request.stream = streams.once(stream)
        return False, False
    read: list[bytes] = []
    chunks, most = begun(stream, runtime), buffer

    async def reading(_: Any) -> bool:
        size = 0
        while (part := await following(chunks)) is not None:
            read.append(part)
            size += len(part)
            if size > most:
                return False
            if limit is not None and runtime is THREADS and runtime.now() >= limit.at:  # type: ignore[operator]
                raise limit.expired(None, 0.0)
        return True

    if await (reading(None) if limit is None else runtime.within(new_call(reading, (), {}, runtime), reading, limit)):
        request.stream = streams.bytes(b"".join(read))
        return True, True
    request.stream = streams.once(stream, tuple(read), chunks)
    return False, False
