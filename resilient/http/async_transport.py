"""The transport of an asynchronous client: one request and one attempt (`resilient.http.transport` has the rest)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Generic

from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.emit import observed
from resilient.core.gate import NEARLY
from resilient.core.layer import BoundLayer
from resilient.errors import Rejected, TimedOut
from resilient.http import reading
from resilient.http.delegate import AsyncDelegatingTransport
from resilient.http.semantics import IDEMPOTENT_METHODS
from resilient.http.time_limits import is_in_time
from resilient.http.transport import Attempt, HttpTransport, Inner, Request, Response
from resilient.runtime import current_async

__all__ = ["AsyncHttpTransport"]


class AsyncHttpTransport(AsyncDelegatingTransport, HttpTransport[Inner], Generic[Request, Response, Inner]):
    """The transport for asynchronous clients; each client library derives its own from it (`resilient.http.httpx`)."""

    transport: Any

    def _unguarded(self) -> Callable[[Any], Any]:
        async def send(request: Any) -> Any:
            return await self.transport.handle_async_request(request)

        send.__qualname__ = "AsyncTransport.handle_async_request"  # for events
        return send

    def _attempt(self, context: PipelineContext) -> Attempt:
        simple, full_attempt, channel = self._simple, self._full_attempt, context.channel

        def attempt(call: Call, is_observed: bool = False) -> Any:
            if channel.wants.observed and not is_observed:
                return observed(call, context, attempt(call, True))
            request = call.args[0]
            deadline = call.deadline
            if simple and (deadline is None or is_in_time(request, (deadline - call.runtime.now()) / NEARLY)):
                return self.transport.handle_async_request(request)
            return full_attempt(call, context, self.transport.handle_async_request, True, call.begin())

        return BoundLayer(attempt, observes_itself=True)

    def _reading_attempt(self, context: PipelineContext) -> Attempt:
        simple, full_attempt, channel, streams = self._simple, self._full_attempt, context.channel, self.library.streams
        is_open, on_result, read, max_bytes = streams.is_open, context.on_result, reading.read, self._buffer

        async def reading_attempt(call: Call, is_observed: bool = False) -> Any:
            if channel.wants.observed and not is_observed:
                return await observed(call, context, reading_attempt(call, True))
            request, deadline = call.args[0], call.deadline
            begin = None if deadline is None else call.runtime.now()
            if simple and (begin is None or is_in_time(request, (deadline - begin) / NEARLY)):  # type: ignore[operator]
                response = await self.transport.handle_async_request(request)
            else:
                response = await full_attempt(call, context, self.transport.handle_async_request, False, call.begin())
            if is_open(response) and not (
                on_result(call, response).kind == "success" and await read(response, streams, max_bytes, call)
            ):
                self._bound_body(call, begin, response)
            return response

        return BoundLayer(reading_attempt, observes_itself=True)

    async def handle_async_request(self, request: Request) -> Response:
        """Send one request through the pipeline, and return its response."""
        streamed = self.library.is_streamed()
        try:
            if (
                request.method in IDEMPOTENT_METHODS
                and type(request.stream) is self._bytes
                and "resilient" not in request.extensions
            ):
                send = self._send_repeatable_streamed if streamed else self._send_repeatable
                return await send(request)  # type: ignore[no-any-return]
            with ExitStack() as stack:
                send, prepared = await self._prepare(request, streamed, current_async(), stack)
                return await send(prepared)  # type: ignore[no-any-return]
        except (Rejected, TimedOut) as error:
            self.library.claim(error, request)
            raise

    async def _drain(self) -> None:
        await self.pipeline._drain(current_async())
