"""Bodies of responses: classes around a client's own body, each of which adds one thing.

    Followed   notifies observers of its end
    Bounded    must be complete by a given time
    Held       begins with what has been read of it
    Whole      has been read to its end

A client takes only streams of its own classes, so `resilient.http.streams` derives one class for each client from each
of these. (For bodies of requests see `resilient.http.request_bodies`.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, Self

from resilient.core.call import new_call
from resilient.core.classify import Classifier
from resilient.core.lifecycle import EndObserver
from resilient.errors import TimedOut
from resilient.http.delegate import DelegatingBody, PartIterator, close_iterator, next_part
from resilient.runtime import current_async
from resilient.runtime.threads import THREADS

__all__ = ["BodyLimit", "Bounded", "Followed", "Held", "Whole"]


class Followed(DelegatingBody):
    """A body that notifies observers, once, of its end: it ended well (also when its reader stopped early), it failed,
    or its end says nothing (the reader was cancelled, or dropped the response).

    Args:
        stream: the client's own.
        observer: is notified of the end; others may `join`.
        classifier: of the error that breaks off the body; called once for all observers.
    """

    def __init__(self, stream: Any, observer: EndObserver, classifier: Classifier) -> None:
        self._stream = stream
        self._observers: tuple[EndObserver, ...] = (observer,)
        self._classifier = classifier

    def join(self, observer: EndObserver, classifier: Classifier) -> bool:
        """Notify `observer`, too, after the others. Returns False, and does nothing, if the body has ended or has
        another classifier."""
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


class Bounded(DelegatingBody):
    """A body that must be complete by a given time. Raises `TimedOut` to its reader if it is not.

    A read that blocks a thread is not interrupted: there the error is raised after the next part, or when the client's
    own read timeout expires, which is no longer than the limit.

    Args:
        stream: the client's own.
        limit: the time, on the runtime's clock.
    """

    def __init__(self, stream: Any, limit: BodyLimit) -> None:
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
        call = new_call(next_part, (), {}, runtime)
        part: bytes | None = await runtime.within(call, lambda _: next_part(chunks), self._limit)
        if part is None:
            raise StopAsyncIteration
        return part


class BodyLimit:
    """The time by which a body must be complete (a `resilient.runtime.Limit`).

    Args:
        at: on the runtime's clock. seconds: from the begin of the body, for the error.
        kind: the class of the error.
        evidence: whether a slow body is evidence against the server: not if the limit is an inherited deadline.
    """

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
    """A body that has been read to its end; also a `ByteStream` of the client.

    Closing it closes the stream that it was read from, which frees the connection. The client does that, outside the
    attempt: an attempt can be cut short, and httpcore loses a connection whose closing is cut short.

    It is its own iterator, for one reader at a time: an async generator would take twice as long, because event loops
    register each one.

    Args:
        body: what was read.
        source: the stream that it was read from.
    """

    def __init__(self, body: bytes, source: Any) -> None:
        self._stream = body  # a `ByteStream` has its bytes in this attribute
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
        """The awaitable of the source's own `aclose`, without a coroutine around it."""
        return self._source.aclose()  # type: ignore[no-any-return]


class Held(DelegatingBody):
    """A body of which a part has been read: the reader gets that part again, then the rest, or the error that ended it.

    Args:
        stream: the client's own.
        read: the parts that have been read.
        chunks: the iterator over the rest.
        error: the error that the next read has raised; None: the rest has not been read.
    """

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

    def __aiter__(self) -> PartIterator:
        return PartIterator(self._chunks, self._next)

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        if self._read:
            return self._read.pop(0)
        if self._error is not None:
            raise self._error
        return await anext(chunks)

    async def aclose(self) -> None:
        try:
            await close_iterator(self._chunks)
        finally:
            await super().aclose()
