"""Transports for httpx: the same policies under any client, in two lines.

    transport = AsyncTransport(standard("users"))
    client = httpx.AsyncClient(transport=transport)

What an httpx user is used to stays: the answer to the last attempt comes back, an error status too; exceptions are
httpx's own, except for our refusals (`CircuitOpen`, ...) and `TimedOut`. Redirects, authentication and cookies are the
client's business, so each request of a redirect chain is a call of its own.

httpx ignores `verify=`, `limits=`, `http2=` and proxies of the environment where a client is given a transport, and
sends the requests of `proxy=` and `mounts=` past it: give those options to the transport instead.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from resilient import arguments
from resilient.http import semantics
from resilient.http.semantics import FAILURE_STATUSES, IDEMPOTENT_METHODS
from resilient.http.transport import fitted, guarded, once, uncut
from resilient.outcome import FAILURE, SUCCESS, Classifier, Verdict, bare
from resilient.pipeline import Pipeline
from resilient.presets import standard
from resilient.runtime import current_async
from resilient.runtime.threads import THREADS, drive

__all__ = ["AsyncTransport", "HttpxClassifier", "Transport"]

KEPT_BYTES = 65536
"""So much of an error's body is read at once, so that its connection is free for the next attempt."""

_WAITED = Verdict("nothing", retryable=True)


class HttpxClassifier(Classifier):
    """What a failure is, for pipelines under httpx; the judgement of those that are given none.

    - Failures worth repeating: the statuses 408, 425, 429, 500, 502, 503 and 504, with the pause that `Retry-After`
      asks for, and every other exception than these:
    - Nothing about the server, and not repeated: mistakes of the caller (`UnsupportedProtocol`, `LocalProtocolError`,
      `InvalidURL`, a stream used twice, a proxy's 4xx), rejections, and programming errors.
    - Nothing about the server, and repeated: `PoolTimeout`, a wait for one of our own connections.
    """

    def __init__(self) -> None:
        super().__init__(
            ignore=(httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL, httpx.StreamError)
        )

    @property
    def judges_results(self) -> bool:
        """It does."""
        return True

    def error(self, error: Exception) -> Verdict:
        """The verdict on an exception."""
        cause = bare(error)
        if isinstance(cause, httpx.PoolTimeout):
            return _WAITED
        if isinstance(cause, httpx.ProxyError) and semantics.is_refusal(str(cause)):
            return Verdict("nothing")
        return super().error(error)

    def result(self, result: Any) -> Verdict:
        """The verdict on a response."""
        if result.status_code not in FAILURE_STATUSES:
            return SUCCESS
        pause = semantics.retry_after(result.headers.get("Retry-After"), time.time())
        return FAILURE if pause is None else Verdict("failure", retryable=True, retry_after=pause)


HTTPX = HttpxClassifier()


class AsyncTransport(httpx.AsyncBaseTransport):
    """Guards all requests of an `httpx.AsyncClient` with a pipeline.

    Args:
        pipeline: default `standard()`. Where it was given no `classify`, `HttpxClassifier` judges. Each
            `CircuitBreaker` in it becomes one circuit for each origin (scheme, host, port).
        transport: what sends the requests; default a new `httpx.AsyncHTTPTransport`.
        options: for that one (`verify`, `http2`, `limits`, `proxy`, `uds`, ...).

    Sent more than once (by Retry, Hedge) are only requests of an idempotent method (GET, HEAD, OPTIONS, TRACE, PUT,
    DELETE) with a body that can be sent again (bytes, text, JSON, a form; no stream, no file); the other policies guard
    all requests. When attempts end, the last response is what comes back, or the last error.

    An error's body is read at once, up to 64 KiB, where the request may be sent again: attempts that wait hold no
    connection. A transport's pipeline may serve other transports too. Closing the transport closes the one that sends,
    after what a Hedge left behind has ended.
    """

    def __init__(
        self,
        pipeline: Pipeline | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> None:
        _refuse_both(transport, options)
        self.pipeline = _fitted(pipeline)
        """The one in use, with its circuits."""
        self.transport = httpx.AsyncHTTPTransport(**options) if transport is None else transport
        self._repeatedly = self.pipeline(self._sender(hold=True))
        self._once = guarded(once(self.pipeline), self._sender(hold=False))

    def _sender(self, *, hold: bool) -> Callable[[httpx.Request], Coroutine[Any, Any, httpx.Response]]:
        handle, judge = self.transport.handle_async_request, self.pipeline.classify

        async def send(request: httpx.Request) -> httpx.Response:
            response = await handle(request)
            try:
                if judge.result(response).kind != "success" and hold:
                    await _hold(response, aiter)
            except GeneratorExit:  # nothing can be awaited any more
                raise
            except BaseException:
                await uncut(response.aclose)
                raise
            return response

        send.__qualname__ = "AsyncTransport.handle_async_request"  # for events
        return send

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request, guarded."""
        if request.method in IDEMPOTENT_METHODS and isinstance(request.stream, httpx.ByteStream):
            return await self._repeatedly(request)
        return await self._once(request)

    async def aclose(self) -> None:
        """Wait for losers of hedges to end, and close the transport that sends."""
        try:
            await self.pipeline.drain(current_async())
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
            await self.pipeline.drain(current_async())
        finally:
            await self.transport.__aexit__(exc_type, exc_value, traceback)


class Transport(httpx.BaseTransport):
    """Guards all requests of an `httpx.Client`, as `AsyncTransport` does those of an `httpx.AsyncClient`.

    Args:
        pipeline, transport, options: as there; the default is a new `httpx.HTTPTransport`.

    Around plain functions a Timeout bounds waits and further attempts only; httpx's own timeouts end a request. A Hedge
    needs threads: `Hedge(..., thread=True)`.
    """

    def __init__(
        self,
        pipeline: Pipeline | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        **options: Any,
    ) -> None:
        _refuse_both(transport, options)
        self.pipeline = _fitted(pipeline)
        """The one in use, with its circuits."""
        self.transport = httpx.HTTPTransport(**options) if transport is None else transport
        self._repeatedly = self.pipeline(self._sender(hold=True))
        self._once = guarded(once(self.pipeline), self._sender(hold=False))

    def _sender(self, *, hold: bool) -> Callable[[httpx.Request], httpx.Response]:
        handle, judge = self.transport.handle_request, self.pipeline.classify

        def send(request: httpx.Request) -> httpx.Response:
            response = handle(request)
            try:
                if judge.result(response).kind != "success" and hold:
                    drive(_hold(response, iter))
            except BaseException:
                response.close()
                raise
            return response

        send.__qualname__ = "Transport.handle_request"  # for events
        return send

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request, guarded."""
        if request.method in IDEMPOTENT_METHODS and isinstance(request.stream, httpx.ByteStream):
            return self._repeatedly(request)
        return self._once(request)

    def close(self) -> None:
        """Wait for losers of hedges to end, and close the transport that sends."""
        try:
            drive(self.pipeline.drain(THREADS))
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
            drive(self.pipeline.drain(THREADS))
        finally:
            self.transport.__exit__(exc_type, exc_value, traceback)


def _fitted(pipeline: Pipeline | None) -> Pipeline:
    given = arguments.instance("pipeline", pipeline, Pipeline)
    return fitted(standard() if given is None else given, HTTPX, _origin)


def _origin(request: httpx.Request) -> str:
    url = request.url
    return semantics.origin(url.scheme, url.host, url.port)


def _refuse_both(transport: object, options: dict[str, Any]) -> None:
    if transport is not None and options:
        raise TypeError(f"give transport= or the options of a new one ({', '.join(sorted(options))}), not both")


Chunks = AsyncIterator[bytes] | Iterator[bytes]


async def _hold(response: httpx.Response, begin: Callable[[Any], Chunks]) -> None:
    """Read the body of a response that may not be the last one, and free its connection; with a longer body than
    `KEPT_BYTES` it stays taken until the response is closed. To its reader the response is as it was.
    """
    stream = response.stream
    if response.is_closed or response.is_stream_consumed or isinstance(stream, httpx.ByteStream):
        return
    chunks, read, size = begin(stream), [], 0
    try:
        while (chunk := next(chunks, None) if isinstance(chunks, Iterator) else await anext(chunks, None)) is not None:
            read.append(chunk)
            size += len(chunk)
            if size > KEPT_BYTES:
                response.stream = _Begun(stream, read, chunks)
                return
    except Exception as error:
        response.stream = _Begun(stream, read, chunks, error)
        return
    if isinstance(stream, httpx.AsyncByteStream) and not isinstance(chunks, Iterator):
        await uncut(stream.aclose)
    elif isinstance(stream, httpx.SyncByteStream):
        stream.close()
    response.stream = httpx.ByteStream(b"".join(read))


class _Begun(httpx.AsyncByteStream, httpx.SyncByteStream):
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

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._read:
            yield chunk
        if self._error is not None:
            raise self._error
        async for chunk in self._chunks:
            yield chunk

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()
