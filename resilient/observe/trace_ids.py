"""The identifiers of the current OpenTelemetry span, as labels of exemplars: they lead from a histogram to a trace."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["trace_ids"]


def trace_ids() -> Callable[[], dict[str, str] | None] | None:
    """Return a function that returns the `trace_id` and `span_id` of the current span, or None for a span that is not
    sampled, which no backend has. None: OpenTelemetry's API is not installed."""
    try:
        from opentelemetry.trace import format_span_id, format_trace_id, get_current_span
    except ImportError:
        return None

    def current_ids() -> dict[str, str] | None:
        span = get_current_span().get_span_context()
        if not (span.is_valid and span.trace_flags.sampled):
            return None
        return {"trace_id": format_trace_id(span.trace_id), "span_id": format_span_id(span.span_id)}

    return current_ids
