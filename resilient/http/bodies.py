"""Bodies on their way: those of requests, which may have to be sent again, and those of responses, which may end badly.

Streams of a client must be of its own classes. So what is here is written once, as what to do with a stream, and
`Streams` makes the classes of a client from it; the client's module is given, not imported.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Self

from resilient.beside import discard
from resilient.call import Call, new_call
from resilient.errors import TimedOut
from resilient.http.around import Around, Parts, end
from resilient.outcome import Classifier, Unsettled
from resilient.result import CLOSING_SECONDS
from resilient.runtime import Limit, Runtime, current_async
from resilient.runtime.threads import THREADS, drive

__all__ = ["KEPT_BYTES", "KEPT_SECONDS", "Streams", "make_ready", "read", "read_plainly", "set_aside"]

KEPT_BYTES = 65536
"""So much of the body of a response that is about to be superseded is read, so that its connection is free again."""

KEPT_BYTES_HTTP2 = 1 << 20
"""The same for HTTP/2. There a body that is not read to its end costs the connection, which goes on, that much of its
flow-control window for ever (of 16 MiB): httpcore neither resets the stream nor gives credit for what still comes."""

KEPT_SECONDS = 1.0
"""Seconds that reading such a body may take."""


class Streams:
    """The classes of one client's streams.

    Args:
        library: the client's module.
        timed_out: what a body that takes too long raises.
    """

    def __init__(self, library: Any, timed_out: type[TimedOut]) -> None:
        self.timed_out = timed_out
        self.bytes = library.ByteStream
        both = (library.AsyncByteStream, library.SyncByteStream)
        self.rewound = type("Rewound", (Rewound, *both), {})
        self.once = type("Once", (Once, *both), {"consumed": library.StreamConsumed})
        self.followed = type("Followed", (Followed, *both), {})
        self.bounded = type("Bounded", (Bounded, *both), {})
        self.held = type("Held", (Held, *both), {})
        self.punctual = type("Punctual", (Punctual, library.SyncByteStream), {})
        self.whole = type("Whole", (Whole, library.ByteStream), {})

    def limit(self, at: float, seconds: float, *, evidence: bool = True) -> _BodyLimit:
        """The moment by which a body has to be there, for `bounded`; `seconds` after it began to count."""
        return _BodyLimit(at, seconds, self.timed_out, evidence)

    def is_open(self, result: Any) -> bool:
        """Whether something of a response's body is still to come."""
        return not (isinstance(result.stream, self.bytes) or result.is_closed or result.is_stream_consumed)


def begun(stream: Any, runtime: Runtime) -> Any:
    """An iterator over a body, for plain code or for an event loop, as the runtime is."""
    return iter(stream) if runtime is THREADS else aiter(stream)


async def following(chunks: Any) -> bytes | None:
    """The next part, or None at the end."""
    return next(chunks, None) if isinstance(chunks, Iterator) else await anext(chunks, None)


# -- requests -------------------------------------------------------------------------------------------------------


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


# -- responses ------------------------------------------------------------------------------------------------------


class Followed(Around):
    """Tells, once, how the body ended: well (also when its reader had enough), with an error, or not for its own part
    (the reader was cancelled, or forgot it).

    Args:
        stream: the client's.
        unsettled: who is told; others may `join`.
        judge: of errors. It is asked once, for all.
    """

    def __init__(self, stream: Any, unsettled: Unsettled, judge: Classifier) -> None:
        self._stream = stream
        self._unsettled: tuple[Unsettled, ...] = (unsettled,)
        self._judge = judge

    def join(self, unsettled: Unsettled, judge: Classifier) -> bool:
        """Have `unsettled` told, too, after the others. False: it is over, or another one judges."""
        if not self._unsettled or judge is not self._judge:
            return False
        self._unsettled += (unsettled,)
        return True

    def _ended(self) -> None:
        waiting, self._unsettled = self._unsettled, ()
        for unsettled in waiting:
            unsettled.learn(None)

    def _failed(self, error: BaseException) -> None:
        waiting, self._unsettled = self._unsettled, ()
        if not waiting:
            return
        kind = "nothing"
        try:
            if isinstance(error, Exception):
                kind = self._judge.error(error).kind
        finally:
            for unsettled in waiting:
                if kind == "nothing":
                    unsettled.drop()
                else:
                    unsettled.learn(error if kind == "failure" else None)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except GeneratorExit:
            raise  # its reader stopped; `close` follows
        except BaseException as error:
            self._failed(error)
            raise
        self._ended()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        try:
            return await anext(chunks)
        except StopAsyncIteration:
            self._ended()
            raise
        except GeneratorExit:
            raise
        except BaseException as error:
            self._failed(error)
            raise

    def close(self) -> None:
        self._ended()
        self._stream.close()

    async def aclose(self) -> None:
        self._ended()
        await self._stream.aclose()

    def __del__(self) -> None:
        waiting, self._unsettled = getattr(self, "_unsettled", ()), ()
        for unsettled in waiting:
            unsettled.drop(collected=True)


class Bounded(Around):
    """A body that has to be there in time.

    Args:
        stream: the client's.
        limit: by when, on the runtime's clock.

    Raises `TimedOut`. A read that blocks a thread is not interrupted: there the end comes with the next part, or with
    the client's own read timeout, which is no longer than this.
    """

    def __init__(self, stream: Any, limit: _BodyLimit) -> None:
        self._stream = stream
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        try:
            for part in self._stream:
                if THREADS.now() >= self._limit.at:
                    raise self._limit.expired(None, 0.0)
                yield part
        except Exception as error:
            if isinstance(error, TimedOut) or THREADS.now() < self._limit.at:
                raise
            raise self._limit.expired(None, 0.0) from error

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        runtime = current_async()
        call = new_call(following, (), {}, runtime)
        part: bytes | None = await runtime.within(call, lambda _: following(chunks), self._limit)
        if part is None:
            raise StopAsyncIteration
        return part


class _BodyLimit:
    """A limit, as a runtime knows one."""

    total = False

    def __init__(self, at: float, seconds: float, kind: type[TimedOut], evidence: bool = True) -> None:
        self.at = at
        self.seconds = seconds
        self._kind = kind
        self._evidence = evidence

    def expired(self, call: Any, waited: float) -> TimedOut:
        """The error of a body that was too slow."""
        return self._kind(
            f"the body took more than {self.seconds:.3g} s",
            policy="body_timeout" if self._evidence else "deadline",
            seconds=self.seconds,
            evidence=self._evidence,
        )


class Whole:
    """A body that has been read, a `ByteStream` of the client's. Its connection is free when the client has closed it,
    as ever: httpcore forgets a connection for ever whose closing is cut short, and attempts are cut short.

    It is its own iterator, for one reader at a time. (An event loop keeps account of an async generator, which takes as
    long as all else.)
    """

    def __init__(self, body: bytes, source: Any) -> None:
        self._stream = body  # where a `ByteStream` has its bytes
        self._source = source
        self._next: bytes | None = None

    def __aiter__(self) -> Self:
        self._next = self._stream
        return self

    async def __anext__(self) -> bytes:
        part, self._next = self._next, None
        if part is None:
            raise StopAsyncIteration
        return part

    def close(self) -> None:
        self._source.close()

    def aclose(self) -> Awaitable[None]:
        """What closes it when it is awaited: the source's own, without a coroutine around it."""
        return self._source.aclose()  # type: ignore[no-any-return]


class Held(Around):
    """A body of which a part has been read, or as much as there was until an error."""

    def __init__(self, stream: Any, read: list[bytes], chunks: Any, error: Exception | None = None) -> None:
        self._stream = stream
        self._read = read
        self._chunks = chunks
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        yield from self._read
        if self._error is not None:
            raise self._error
        yield from self._chunks

    def __aiter__(self) -> Parts:
        return Parts(self._chunks, self._next)

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        if self._read:
            return self._read.pop(0)
        if self._error is not None:
            raise self._error
        return await anext(chunks)

    async def aclose(self) -> None:
        try:
            await end(self._chunks)
        finally:
            await super().aclose()


async def read(response: Any, streams: Streams, most: int, call: Call) -> bool:
    """Read the body of a response here and now, up to `most` bytes of it. Returns whether that was all: what is beyond
    them is left to its reader. An error closes the response."""
    stream, parts, size = response.stream, [], 0
    try:
        chunks = aiter(stream)
        async for part in chunks:
            parts.append(part)
            size += len(part)
            if size > most:
                response.stream = streams.held(stream, parts, chunks)
                return False
    except BaseException as error:
        failed = isinstance(error, Exception)  # else it is cancelled, and its Timeout has no time left
        await discard(stream, call.begin(), patience=CLOSING_SECONDS if failed else 0.0)
        raise
    response.stream = streams.whole(b"".join(parts), stream)
    return True


def read_plainly(response: Any, streams: Streams, most: int, late: Callable[[], Exception | None]) -> bool:
    """`read` for a plain client. Nothing interrupts it, so `late` is asked after each part, and its error raised."""
    stream, parts, size = response.stream, [], 0
    try:
        chunks = iter(stream)
        for part in chunks:
            parts.append(part)
            size += len(part)
            if (expired := late()) is not None:
                raise expired
            if size > most:
                response.stream = streams.held(stream, parts, chunks)
                return False
    except BaseException as error:
        drive(discard(stream, THREADS))
        if isinstance(error, Exception) and (expired := late()) is not None:
            raise expired from error
        raise
    response.stream = streams.whole(b"".join(parts), stream)
    return True


async def set_aside(response: Any, streams: Streams, runtime: Runtime) -> None:
    """Read the body of a response that is about to be superseded, and free its connection. Should it come back all the
    same, it is to its reader as it was; but a body that took longer than `KEPT_SECONDS` ends there with `TimedOut`.
    One that is longer than `KEPT_BYTES` (`KEPT_BYTES_HTTP2`) keeps its connection until the response is closed.
    """
    if not streams.is_open(response):
        return
    stream, read = response.stream, []
    most = KEPT_BYTES_HTTP2 if response.http_version == "HTTP/2" else KEPT_BYTES
    chunks = begun(stream, runtime)
    limit = _BodyLimit(runtime.now() + KEPT_SECONDS, KEPT_SECONDS, streams.timed_out)

    async def reading(_: Any) -> bool:
        size = 0
        while (part := await following(chunks)) is not None:
            read.append(part)
            size += len(part)
            if size > most or runtime.now() >= limit.at:
                return False
        return True

    error: Exception | None = None
    try:
        whole = await runtime.within(new_call(reading, (), {}, runtime), reading, limit)
    except Exception as caught:
        whole, error = False, caught.with_traceback(None)  # it leads to this frame, which has it
    if not whole:
        response.stream = streams.held(stream, read, chunks, error)
        return
    await discard(stream, runtime)
    response.stream = streams.bytes(b"".join(read))
