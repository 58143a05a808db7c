"""Bodies of responses, which may end badly; and the classes of bodies for each client library. (For bodies of requests
see `resilient.http.request_bodies`.)

A client takes only streams of its own classes. So what is done with a stream is written here once, and `Streams`
derives the classes for a client from it. The client's module is passed in, not imported.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Self

from resilient.core.background import discard
from resilient.core.call import Call, new_call
from resilient.core.classify import Classifier
from resilient.core.lifecycle import EndObserver
from resilient.core.result import CLOSING_SECONDS
from resilient.errors import TimedOut
from resilient.http.delegate import Around, Parts, begun, end, following
from resilient.http.request_bodies import Once, Punctual, Rewound
from resilient.runtime import Runtime, current_async
from resilient.runtime.threads import THREADS, drive

__all__ = ["KEPT_BYTES", "KEPT_SECONDS", "Streams", "read", "read_plainly", "set_aside"]

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


class Followed(Around):
    """A body that notifies observers, once, of its end: it ended well (also when its reader stopped early), or failed,
    or its end says nothing (the reader was cancelled, or dropped the response).

    Args:
        stream: the client's.
        observer: is notified; others may `join`.
        classifier: of errors. It is asked once, for all observers.
    """

    def __init__(self, stream: Any, observer: EndObserver, classifier: Classifier) -> None:
        self._stream = stream
        self._observers: tuple[EndObserver, ...] = (observer,)
        self._classifier = classifier

    def join(self, observer: EndObserver, classifier: Classifier) -> bool:
        """Notify `observer`, too, after the others. False: the body has ended, or has another classifier."""
        if not self._observers or classifier is not self._classifier:
            return False
        self._observers += (observer,)
        return True

    def _ended(self) -> None:
        waiting, self._observers = self._observers, ()
        for observer in waiting:
            observer.learn(None)

    def _failed(self, error: BaseException) -> None:
        waiting, self._observers = self._observers, ()
        if not waiting:
            return
        kind = "nothing"
        try:
            if isinstance(error, Exception):
                kind = self._classifier.error(error).kind
        finally:
            for observer in waiting:
                if kind == "nothing":
                    observer.drop()
                else:
                    observer.learn(error if kind == "failure" else None)  # type: ignore[arg-type]

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
        waiting, self._observers = getattr(self, "_observers", ()), ()
        for observer in waiting:
            observer.drop(collected=True)


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
    """A body that has been read; also a `ByteStream` of the client.

    Closing it closes the stream it was read from, and frees the connection. The client does that, outside the attempt:
    an attempt can be cut short, and httpcore loses a connection whose closing is cut short.

    It is its own iterator, for one reader at a time: an async generator would take twice as long, because event loops
    register each one.
    """

    def __init__(self, body: bytes, source: Any) -> None:
        self._stream = body  # the attribute in which a `ByteStream` has its bytes
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
        """Returns the awaitable of the source's own `aclose`, without a coroutine around it."""
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
    """Read the body of a response, up to `most` bytes. Returns whether that was all; the rest is left to its reader. An
    error closes the response."""
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
