"""Calls and attempts as spans of OpenTelemetry: opt-in, by one function.

    from resilient.observe.opentelemetry import trace_calls

    stop = trace_calls()            # all pipelines, later ones too; `trace_calls(users)` for one

    span                            kind      its attributes, besides `resilient.pipeline.name`
    users get_user                  INTERNAL  code.function.name; resilient.ending, .verdict, .requests; error.type
    └─ attempt get_user             INTERNAL  resilient.attempt, .ending, .verdict; error.type
       └─ (spans of the function: an instrumented client's CLIENT span, your own)
    └─ attempt get_user             INTERNAL  also resilient.reason: "retry" or "hedge"; resilient.cause, .copy

- A call has one span, whatever its policies do, and each attempt a child. While an attempt runs its span is the current
  one, so that spans of the function become its children, in copies of a hedge and in threads, too. While policies work,
  the call's span is current. A nested pipeline has a span between the two.
- Waits, retries, hedges, refusals, timeouts, fallbacks, faults, and circuits that the call has changed are events of
  the call's span (`resilient.observe.opentelemetry.span_events`).
- An attempt that is not the first says why it was made. With `resilient.reason` "retry", `resilient.cause` is the
  `error.type` of the attempt before, or of the refusal; "result" for a good result that a predicate did not accept.
  With "hedge" the cause is "delay" or "failure", and the span has links to the copies that began before it.
- The status is that of the verdict which the policies used. An attempt has the status ERROR if the verdict is
  "failure". A call has it, too, if it ends with a refusal or a timeout, because its caller then has no answer. An error
  that the classifier ignores ("nothing") has `error.type`, but leaves the status unset, as a cancellation does.
- `error.type` is the class of the error, or for a result that is a failure its HTTP status, else "result".
- *Messages of errors are not recorded*, because they may quote what was sent: h11's messages quote header values,
  httpx's have queries. A failure has the event `exception` with only its type. `messages=True` records messages, notes
  and tracebacks, as `Span.record_exception` does.
- A streamed response is one attempt until its body has ended: then the spans end. But they are current only until the
  response is returned; what the reader does then is not inside them.
- A call that is not sampled has one span that does not record, and none for its attempts.

Under our HTTP transports the spans are named by the method (`users GET`), and have `http.request.method`,
`server.address`, `server.port` and `http.response.status_code`; no URL. They stay INTERNAL: the CLIENT span of each
request is that of the client's instrumentation, which also sends `traceparent`. (For `http.request.resend_count` on it,
see `resilient.observe.opentelemetry.resends`.) A call of a pipeline that is switched off has no spans.

An error of the tracer never fails a call: it is logged, the first time with its traceback, and the call has no span.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, attach, create_key, get_current
from opentelemetry.trace import INVALID_SPAN, TracerProvider

from resilient import _validation, events
from resilient.core.call import Call, name_of
from resilient.core.context import PipelineContext
from resilient.core.surround import Part, Scope, ScopedSurround
from resilient.events import Event
from resilient.observe.opentelemetry.attributes import attribute
from resilient.observe.opentelemetry.call_spans import AttemptSpan, CallSpan, timed_out
from resilient.observe.opentelemetry.library import NAME, release
from resilient.observe.opentelemetry.span_events import NAMES, attributes_of, type_name
from resilient.pipeline import Pipeline

__all__ = ["ATTEMPT", "trace_calls"]

_log = logging.getLogger("resilient")

_CALL = create_key("resilient call")
ATTEMPT = create_key("resilient attempt")
"""The key under which the context of an attempt has its `AttemptSpan`."""

(_SPAN,) = trace.set_span_in_context(INVALID_SPAN, Context())
"""The key of the current span. A context with several new values is made at once: each `set_value` copies it."""

_PIPELINE, _ATTEMPT = attribute("pipeline"), attribute("attempt")


def trace_calls(
    pipeline: Pipeline | None = None, *, tracer_provider: TracerProvider | None = None, messages: bool = False
) -> Callable[[], None]:
    """Record the calls of one pipeline, or of all, as spans. Returns a function that ends that.

    A call has one span, also if `trace_calls` was called for its pipeline and for all.

    Args:
        pipeline: whose calls; None: of every pipeline, also of those built later.
        tracer_provider: makes the spans. Default None: the global one, even if it is set later.
        messages: whether messages, notes and tracebacks of errors are recorded. They may quote what was sent.
    """
    if pipeline is not None and not isinstance(pipeline, Pipeline):
        raise TypeError(f"pipeline must be a Pipeline or None, got {pipeline!r}")
    if tracer_provider is not None and not isinstance(tracer_provider, TracerProvider):
        raise TypeError(f"tracer_provider must be a TracerProvider or None, got {tracer_provider!r}")
    tracing = Tracing(tracer_provider, messages=_validation.flag("messages", messages))
    return (events.listen if pipeline is None else pipeline.listen)(tracing, *NAMES)


class Tracing(ScopedSurround):
    """The surround behind `trace_calls`.

    Attributes:
        messages: as for `trace_calls`.
    """

    def __init__(self, tracer_provider: TracerProvider | None, *, messages: bool) -> None:
        self._tracer = trace.get_tracer(NAME, release(), tracer_provider)
        self._has_logged = False
        self.messages = messages

    def enter(self, call: Call, context: PipelineContext, part: Part) -> Scope | None:
        try:
            around = get_current()
            outer: CallSpan | None = around.get(_CALL)  # type: ignore[assignment]
            if part == "attempt":
                return self._attempt(call, context, outer, around)
            return self._call(call, context, outer, around, nested=part == "nested")
        except Exception:
            self.failed()
            return None

    def _call(
        self, call: Call, context: PipelineContext, outer: CallSpan | None, around: Context, *, nested: bool
    ) -> CallSpan | None:
        if outer is not None and outer.origin != id(call.origin):
            outer = None  # a call of the user's function
        if outer is not None and outer.owner is not self and outer.pipeline is context:
            return None  # `trace_calls` was called twice
        fields: dict[str, Any] = {_PIPELINE: context.name}
        requested = context.call_options.attributes(call)
        if requested:
            operation = requested["http.request.method"]
            operation = "HTTP" if operation == "_OTHER" else operation
            fields |= requested
        else:
            function = name_of(call.fn)
            operation = function.rpartition("<locals>.")[2]
            module = getattr(call.fn, "__module__", None)
            fields["code.function.name"] = f"{module}.{function}" if module else function
        span = self._tracer.start_span(
            f"{context.name or 'resilient'} {operation}",
            around,
            attributes=fields,
            record_exception=False,
            set_status_on_exception=False,
        )
        outer = outer if nested else None
        scope = CallSpan(self, span, call, context, str(operation), outer, is_http=bool(requested))
        scope.attach(Context({**around, _SPAN: span, _CALL: scope}))
        return scope

    def _attempt(
        self, call: Call, context: PipelineContext, outer: CallSpan | None, around: Context
    ) -> AttemptSpan | None:
        if outer is None or outer.owner is not self or outer.origin != id(call.origin) or not outer.is_recording:
            return None
        work, number = outer.work, call.attempt
        ordinal = next(work.ordinals)
        fields: dict[str, Any] = {_PIPELINE: context.name, _ATTEMPT: number}
        links = None
        if ordinal > 1:
            links = work.cause(call, fields)
        held = outer.is_held and ordinal > 1  # it begins inside code that has spans of its own
        span = self._tracer.start_span(
            f"attempt {outer.operation}",
            Context({**around, _SPAN: outer.span}) if outer.is_held else around,
            attributes=fields,
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        )
        scope = AttemptSpan(self, span, call, outer, ordinal)
        if number > work.number:
            work.number, work.copies = number, ()
        work.copies += (span.get_span_context(),)
        if not held:
            scope.attach(Context({**around, _SPAN: span, ATTEMPT: scope}))
        return scope

    def __call__(self, event: Event) -> None:
        try:
            self._add(event)
        except Exception:
            self.failed()

    def _add(self, event: Event) -> None:
        """Add an event to the span of its call."""
        span: CallSpan | None = get_current().get(_CALL)  # type: ignore[assignment]
        while span is not None and (span.owner is not self or span.pipeline.name != event.pipeline):
            span = span.outer
        if span is None or not span.span.is_recording():
            return
        if isinstance(event, events.Hedging):
            span.work.hedged(event.copy, event.reason)
        elif isinstance(event, events.Retrying):
            span.work.retried = "" if event.error is None else type_name(type(event.error))
        elif isinstance(event, events.CallTimedOut):
            timed_out(event.seconds)
        span.span.add_event(NAMES[type(event)], attributes_of(event))

    def exchange(self, saved: Context | None) -> Context:
        before = get_current()
        if saved is not None and saved is not before:
            attach(saved)
        return before

    def failed(self) -> None:
        """Log the current exception, which the tracer raised: the first one with its traceback, others at level
        debug."""
        _log.log(
            logging.DEBUG if self._has_logged else logging.ERROR,
            "resilient: the tracer raised; calls go on without some of their spans",
            exc_info=not self._has_logged,
        )
        self._has_logged = True
