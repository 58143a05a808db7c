"""How often an instrumented HTTP client has sent a request again: `http.request.resend_count` on its own spans.

    HTTPXClientInstrumentor().instrument(request_hook=count_resends, async_request_hook=count_resends_async)

The instrumentation (`opentelemetry-instrumentation-httpx`) makes a CLIENT span for each request and calls these hooks
with it. They set the attribute on a request that a Retry or a Hedge has sent again, as OpenTelemetry's conventions ask:
1 on the first such request. While `trace_calls` records the call, copies of a hedge count; without it they count as the
attempt to which they belong. Redirects do not count: the client sends them as further calls.

The span must be *inside* the attempt. That is so for `instrument()`, which instruments the transports of httpx, also
the one inside our `AsyncTransport`; for a client that is used in a guarded function; and for
`AsyncTransport(users, transport=AsyncOpenTelemetryTransport(...))`. `instrument_client(client)` instruments the
transport that the client has. If that is ours, the CLIENT span is around the whole call, attempts included: it has no
count, and the requests of all attempts carry its id.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.context import get_current
from opentelemetry.trace import Span

from resilient.core.current_call import enclosing
from resilient.observe.opentelemetry.call_spans import AttemptSpan
from resilient.observe.opentelemetry.spans import ATTEMPT

__all__ = ["count_resends", "count_resends_async"]

RESENDS = "http.request.resend_count"


def count_resends(span: Span, request: Any) -> None:
    """Set `http.request.resend_count` on the span of a request that is sent again. A `request_hook`."""
    if not span.is_recording():
        return
    calls = enclosing(2)
    if not calls:
        return
    call = calls[0][0]
    attempt: AttemptSpan | None = get_current().get(ATTEMPT)  # type: ignore[assignment]
    is_current = attempt is not None and attempt.origin == id(call.origin)
    resends = (attempt.ordinal if attempt is not None and is_current else call.attempt) - 1
    if resends:
        span.set_attribute(RESENDS, resends)


async def count_resends_async(span: Span, request: Any) -> None:
    """As `count_resends`, for asynchronous clients. An `async_request_hook`."""
    count_resends(span, request)
