"""Our transports in all four kinds (httpx and httpx2, asynchronous and plain), around an inner transport with a script.

Asynchronous kinds run in virtual time, so their waits are exact and cost nothing; plain kinds wait in real time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, ClassVar

import httpx
import httpx2

import resilient.http.httpx
import resilient.http.httpx2
from resilient.runtime.virtual import VirtualLoop

__all__ = ["KINDS", "URL", "Kind", "Script", "heard_by", "named"]

URL = "http://example.com/"


class Script:
    """The script of an inner transport. Each step answers a status, or a status with headers; raises an error; or calls
    a function with the request. After the last step it answers 200.

    Attributes:
        sent: the requests, as they arrived.
        at: when each arrived, on the clock of its kind.
        inner: the transport.
    """

    def __init__(self, kind: Kind, *steps: Any) -> None:
        self.sent: list[Any] = []
        self.at: list[float] = []
        self._headers: list[Any] = []
        library, clock = kind.library, kind.now
        self._steps = list(steps)

        def begin(request: Any) -> Any:
            self.sent.append(request)
            self._headers.append(request.headers.copy())  # a client may send the same object again, changed
            self.at.append(clock())
            step = self._steps.pop(0) if self._steps else 200
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, int):
                step = step, {}
            if isinstance(step, tuple):
                status, headers = step
                return library.Response(status, headers=headers, content=b"status %d" % status)
            return step(request)

        class Inner(library.AsyncBaseTransport, library.BaseTransport):  # type: ignore[misc,name-defined]
            def handle_request(self, request: Any) -> Any:
                request.read()
                return begin(request)

            async def handle_async_request(self, request: Any) -> Any:
                await request.aread()
                answer = begin(request)
                return await answer if asyncio.iscoroutine(answer) else answer

        self.inner = Inner()

    def waits(self) -> list[float]:
        """The seconds between one request and the next."""
        return [later - earlier for earlier, later in zip(self.at, self.at[1:], strict=False)]

    def headers(self, name: str) -> list[str | None]:
        """Return the value of a header in each request."""
        return [headers.get(name) for headers in self._headers]


class Kind:
    """A client library, and one of its two kinds of client.

    Attributes:
        library: the client's module.
        ours: our module for it.
        transport_of, client_of, guarded_client_of: our transport, its client, and our client.
    """

    name: ClassVar[str]
    library: ClassVar[ModuleType]
    ours: ClassVar[ModuleType]
    is_async: ClassVar[bool]

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self.real = False
        self._clients: list[Any] = []
        self._over = threading.Event()

    @property
    def transport_of(self) -> Callable[..., Any]:
        return self.ours.AsyncTransport if self.is_async else self.ours.Transport  # type: ignore[no-any-return]

    @property
    def client_of(self) -> Callable[..., Any]:
        return self.library.AsyncClient if self.is_async else self.library.Client  # type: ignore[no-any-return]

    @property
    def guarded_client_of(self) -> Callable[..., Any]:
        return self.ours.AsyncClient if self.is_async else self.ours.Client  # type: ignore[no-any-return]

    @property
    def runner(self) -> asyncio.Runner:
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop if self.real else VirtualLoop)
        return self._runner

    def now(self) -> float:
        return self.runner.get_loop().time() if self.is_async else time.monotonic()

    def script(self, *steps: Any) -> Script:
        return Script(self, *steps)

    def keep(self, client: Any) -> Any:
        """Close an object at the end of the test."""
        self._clients.append(client)
        return client

    def open(
        self, pipeline: Any, script: Script | None = None, *, client: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Open a client; `options` are our transport's."""
        if script is not None:
            options["transport"] = script.inner
        return self.keep(self.client_of(transport=self.transport_of(pipeline, **options), **(client or {})))

    def run(self, main: Callable[[], Any], inside: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Any:
        """Call a function to its end, within a context."""
        if not self.is_async:
            with inside():
                return main()

        async def entry() -> Any:
            with inside():
                return await main()

        return self.runner.run(entry())

    def send(self, client: Any, method: str = "GET", url: str = URL, **options: Any) -> Any:
        """Send one request."""
        return self.run(lambda: client.request(method, url, **options))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def sleep_plainly(self, seconds: float) -> None:
        time.sleep(seconds)

    def pause(self, seconds: float) -> Callable[[], Any]:
        """Let time pass, within `run`."""
        return lambda: asyncio.sleep(seconds) if self.is_async else time.sleep(seconds)  # type: ignore[func-returns-value]

    def body(self, *parts: bytes) -> Any:
        """Return a body that can be sent once."""

        async def body() -> Any:
            for part in parts:
                yield part

        return body() if self.is_async else iter(parts)

    def slow_stream(self, seconds: float, *parts: bytes) -> Any:
        """Return a response's stream with a wait before each part."""

        class Slow(self.library.AsyncByteStream, self.library.SyncByteStream):  # type: ignore[misc,name-defined]
            def __iter__(self) -> Any:
                for part in parts:
                    time.sleep(seconds)
                    yield part

            async def __aiter__(self) -> Any:
                for part in parts:
                    await asyncio.sleep(seconds)
                    yield part

        return Slow()

    def wait(self, seconds: float, then: Any) -> Any:
        """A step of a script that answers later."""

        def plainly(request: Any) -> Any:
            time.sleep(seconds)
            return self.library.Response(then)

        async def later(request: Any) -> Any:
            await asyncio.sleep(seconds)
            return self.library.Response(then)

        return later if self.is_async else plainly

    def late(self, then: Any) -> Any:
        """A step of a script that answers when the test is over."""

        def plainly(request: Any) -> Any:
            self._over.wait(10)
            return self.library.Response(then)

        return self.wait(10, then) if self.is_async else plainly

    def close(self) -> None:
        """Close everything at the end of the test. A second call does nothing."""
        self._over.set()
        while self._clients:
            client = self._clients.pop()
            self.run(client.aclose if self.is_async else client.close)
        if self._runner is not None:
            self._runner.close()
            self._runner = None


class AsyncHttpx(Kind):
    name, library, ours, is_async = "httpx.AsyncClient", httpx, resilient.http.httpx, True


class SyncHttpx(Kind):
    name, library, ours, is_async = "httpx.Client", httpx, resilient.http.httpx, False


class AsyncHttpx2(Kind):
    name, library, ours, is_async = "httpx2.AsyncClient", httpx2, resilient.http.httpx2, True


class SyncHttpx2(Kind):
    name, library, ours, is_async = "httpx2.Client", httpx2, resilient.http.httpx2, False


KINDS: tuple[type[Kind], ...] = (AsyncHttpx, SyncHttpx, AsyncHttpx2, SyncHttpx2)


def heard_by(pipeline: Any) -> list[Any]:
    """Return a list that collects the events of a pipeline."""
    heard: list[Any] = []
    pipeline.listen(heard.append)
    return heard


def named(heard: list[Any], kind: str) -> list[Any]:
    """Return the events of a class."""
    return [event for event in heard if type(event).__name__ == kind]
