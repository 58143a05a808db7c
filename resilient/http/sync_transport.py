"""The transport of a plain client: one request and one attempt (`resilient.http.transport` has the rest)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Generic

from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.deadline import holding
from resilient.errors import Rejected, TimedOut
from resilient.http import reading
from resilient.http.delegate import SyncDelegatingTransport
from resilient.http.semantics import IDEMPOTENT_METHODS
from resilient.http.time_limits import is_in_time
from resilient.http.transport import Attempt, HttpTransport, Inner, Request, Response
from resilient.runtime.inherited_deadline import hold, let_go, seen
from resilient.runtime.threads import THREADS, drive

__all__ = ["SyncHttpTransport"]


class SyncHttpTransport(SyncDelegatingTransport, HttpTransport[Inner], Generic[Request, Response, Inner]):
    """The transport for plain clients; each client library derives its own from it (`resilient.http.httpx`)."""

    transport: Any

    def _unguarded(self) -> Callable[[Any], Any]:
        def send(request: Any) -> Any:
            return self.transport.handle_request(request)

        send.__qualname__ = "Transport.handle_request"  # for events
        return send

    def _attempt(self, context: PipelineContext) -> Attempt:
        simple, full_attempt = self._simple, self._full_attempt

        def attempt(call: Call) -> Any:
            request = call.args[0]
            if simple and (call.deadline is None or is_in_time(request, call.deadline - THREADS.now())):
                return self.transport.handle_request(request)
            return drive(full_attempt(call, context, self._handle, True, THREADS))

        return attempt

    def _reading_attempt(self, context: PipelineContext) -> Attempt:
        simple, full_attempt, expired, streams = self._simple, self._full_attempt, self._expired, self.library.streams
        is_open, on_result, read, max_bytes = streams.is_open, context.on_result, reading.read_plainly, self._buffer

        def reading_attempt(call: Call) -> Any:
            request, deadline = call.args[0], call.deadline
            begin = None if deadline is None else THREADS.now()
            if simple and (begin is None or is_in_time(request, deadline - begin)):  # type: ignore[operator]
                response = self.transport.handle_request(request)
            else:
                response = drive(full_attempt(call, context, self._handle, False, THREADS))
            if is_open(response) and not (
                on_result(call, response).kind == "success"
                and read(response, streams, max_bytes, functools.partial(expired, call, begin))
            ):
                self._bound_body(call, begin, response)
            return response

        return reading_attempt

    def _expired(self, call: Call, begin: float | None) -> TimedOut | None:
        """Return the `TimedOut` of an attempt that has passed its deadline, or None."""
        if begin is None or call.deadline is None or (now := THREADS.now()) < call.deadline:
            return None
        return self._out_of_time(call, now - begin, None)

    def handle_request(self, request: Request) -> Response:
        """Send one request through the pipeline, and return its response."""
        streamed = self.library.is_streamed()
        held = None
        if seen.limits and (limit := holding()) is not None:  # nothing else would end it by then
            held = hold(limit)
        try:
            if (
                request.method in IDEMPOTENT_METHODS
                and type(request.stream) is self._bytes
                and "resilient" not in request.extensions
            ):
                send = self._send_repeatable_streamed if streamed else self._send_repeatable
                return send(request)  # type: ignore[no-any-return]
            with ExitStack() as stack:
                send, prepared = drive(self._prepare(request, streamed, THREADS, stack))
                return send(prepared)  # type: ignore[no-any-return]
        except (Rejected, TimedOut) as error:
            self.library.claim(error, request)
            raise
        finally:
            if held is not None:
                let_go(held)

    def _drain(self) -> None:
        drive(self.pipeline._drain(THREADS))
