"""The spans of calls and attempts: when they are current, what they say at their end, and why a further attempt began.

`resilient.observe.opentelemetry.spans` makes them, and has the table of their attributes.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from itertools import count
from typing import Any, Protocol

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Link, Span, SpanContext, StatusCode

from resilient._atomic import module_lock
from resilient.core.call import Call, Fork
from resilient.core.context import PipelineContext
from resilient.core.gate import NEARLY, Withdrawn
from resilient.core.history import status_of
from resilient.errors import TimedOut
from resilient.events.records import CallEnding, VerdictKind
from resilient.observe.opentelemetry.attributes import attribute
from resilient.observe.opentelemetry.span_events import ERROR_TYPE, type_name

__all__ = ["AttemptSpan", "CallSpan", "Owner", "Work", "timed_out"]

_ENDING, _VERDICT, _REQUESTS = (attribute(label) for label in ("ending", "verdict", "requests"))
_REASON, _CAUSE, _COPY = (attribute(label) for label in ("reason", "cause", "copy"))
_STATUS = "http.response.status_code"

_lock = module_lock()

_cut: ContextVar[AttemptSpan | None] = ContextVar("resilient_cut_attempt", default=None)
"""The attempt that was cancelled in this task or thread, if it is not known yet whether a Timeout did it."""

MOST = 100
"""The most calls and forks of one call of which the latest outcome is kept (copies of a hedge that run at once); and
the most cancelled attempts that are kept."""


class Owner(Protocol):
    """The maker of spans.

    Attributes:
        messages: whether messages of errors are recorded.
    """

    messages: bool

    def failed(self) -> None:
        """Log the current exception, which the tracer raised."""


class Work:
    """The requests of one call so far, for the reasons of further ones.

    Attributes:
        ordinals: the number of each request, from 1, hedges included.
        number: the number of the latest attempt.
        copies: the spans of the requests of that attempt, in the order in which they began.
        hedges: why each copy of the latest hedge began, by its number.
        ended: for the call and its forks, the latest attempt that has ended, and its `error.type`.
        latest: the latest of these.
        retried: the `error.type` for which a Retry has begun the latest further attempt; "" for a result.
    """

    __slots__ = ("_held", "_is_over", "copies", "ended", "hedges", "latest", "number", "ordinals", "retried")

    def __init__(self) -> None:
        self.ordinals = count(1)
        self.number = 0
        self.copies: tuple[SpanContext, ...] = ()
        self.hedges: dict[int, str] | None = None  # most calls need neither this nor the next one
        self.ended: dict[Call, tuple[int, str]] | None = None
        self._held: tuple[AttemptSpan, ...] = ()
        self._is_over = False
        self.latest = (0, "")
        self.retried = ""

    def hold(self, attempt: AttemptSpan) -> bool:
        """Keep an attempt that was cancelled: the event of a Timeout may follow. Returns False if the call is over."""
        oldest: AttemptSpan | None = None
        with _lock:
            if self._is_over:
                return False
            self._held = (*self._held, attempt)
            if len(self._held) > MOST:  # losers of hedges, in a call that goes on and on
                oldest, *rest = self._held
                self._held = (*rest,)
        if oldest is not None:
            oldest.cancelled()
        return True

    def let_go(self, attempt: AttemptSpan) -> bool:
        """Keep an attempt no longer: its outcome is known. Returns False if it was known before."""
        with _lock:
            if attempt not in self._held:
                return False
            self._held = tuple(each for each in self._held if each is not attempt)
            return True

    def leave(self) -> None:
        """The call is over: no Timeout has ended the attempts that are still kept."""
        with _lock:
            self._is_over = True
            held, self._held = self._held, ()
        for attempt in held:
            attempt.cancelled()
        self.ended = None  # it refers to the call

    def attempt_ended(self, call: Call, number: int, cause: str) -> None:
        """Keep how attempt `number` of a call or fork has ended."""
        if self._is_over:
            return
        if self.ended is None or len(self.ended) >= MOST:
            self.ended = {}
        self.latest = self.ended[call] = number, cause

    def hedged(self, copy: int, reason: str) -> None:
        """Keep why a copy of a hedge is about to begin."""
        if self.hedges is None:
            self.hedges = {}
        self.hedges[copy] = reason

    def cause(self, call: Call, fields: dict[str, Any]) -> list[Link] | None:
        """Add to `fields` why a further attempt begins. Returns its links to other copies of a hedge, or None."""
        ended = None if self.ended is None else self.ended.get(call)
        if isinstance(call, Fork) and call.copy > 1:
            fields[_COPY] = call.copy
            if ended is None:
                fields[_REASON] = "hedge"
                fields[_CAUSE] = "delay" if self.hedges is None else self.hedges.get(call.copy, "delay")
                return [Link(copy) for copy in self.copies]
        if call.attempt > 1:
            fields[_REASON] = "retry"
            before = call.attempt - 1
            if ended is not None and ended[0] == before:
                fields[_CAUSE] = ended[1]
            else:  # it was refused before its request, or was a race of copies
                fields[_CAUSE] = self.retried or (self.latest[1] if self.latest[0] == before else "result")
        return None


class _Scoped:
    """A span that is current for a while."""

    __slots__ = ("_current", "_token", "is_held", "owner", "span")

    def __init__(self, owner: Owner, span: Span) -> None:
        self.owner = owner
        self.span = span
        self.is_held = False
        self._token: Any = None
        self._current: Context | None = None

    def attach(self, current: Context) -> None:
        """Make the span current, as a part of this context."""
        self._current = current
        try:
            self._token = attach(current)
        except Exception:  # of a runtime context that is not ours
            self.owner.failed()

    def leave(self, error: BaseException | None) -> None:
        """Restore the context that was current before.

        A coroutine that the garbage collector closes may have to leave the context of other code alone; and a request
        of a server ends inside code which has made its own spans current, and will restore what it has found. Both
        restore only if this span is current.
        """
        token, mine = self._token, self._current
        self._token = self._current = None  # the context refers to this object
        if token is None:
            return
        try:
            if (self.is_held or type(error) is GeneratorExit) and get_current() is not mine:
                return
            if type(token) is not Token:  # of a runtime context that is not OpenTelemetry's own
                detach(token)
                return
            try:
                token.var.reset(token)
            except ValueError:  # in a copy of that context, as another task has
                if get_current() is mine:
                    before = token.old_value
                    attach(Context() if before is Token.MISSING else before)
        except Exception:
            self.owner.failed()

    def finish(
        self,
        ending: CallEnding,
        verdict: VerdictKind,
        error: BaseException | None,
        failed: bool,
        fields: dict[str, Any],
        at: int | None = None,
    ) -> None:
        """End the span. `failed`: its status is ERROR. `at`: nanoseconds since the epoch; None: now."""
        span = self.span
        try:
            if span.is_recording():
                fields[_ENDING] = ending
                fields[_VERDICT] = verdict
                span.set_attributes(fields)
                if failed:
                    span.set_status(StatusCode.ERROR)
                if error is not None and ending != "cancelled" and (failed or self.owner.messages):
                    if self.owner.messages:
                        span.record_exception(error)
                    else:
                        span.add_event("exception", {"exception.type": type_name(type(error))})
        except Exception:
            self.owner.failed()
        try:
            span.end(at)
        except Exception:
            self.owner.failed()


def _fields(ending: CallEnding, error: BaseException | None, result: Any, *, is_http: bool) -> dict[str, Any]:
    """The `error.type` of an outcome, if it has one, and the HTTP status of a result."""
    if error is not None:
        return {} if ending == "cancelled" else {ERROR_TYPE: type_name(type(error))}
    if ending != "failure" and not is_http:
        return {}
    status = status_of(result)
    fields: dict[str, Any] = {} if status is None else {_STATUS: status}
    if ending == "failure":
        fields[ERROR_TYPE] = "result" if status is None else str(status)
    return fields


class CallSpan(_Scoped):
    """The span of a call, or of its part in a nested pipeline.

    Attributes:
        pipeline: the context of the pipeline.
        operation: the last part of the span's name.
        origin: the id of the `Call`. (The span is in the context of each task that the call starts, and must not keep
            its arguments in memory.)
        outer: the span of the pipeline around a nested one, else None.
        work: of the call.
        is_recording: whether the span is sampled.
        is_http: whether it is an HTTP request.
        is_held: whether the call ends inside other code of its task.
    """

    __slots__ = ("_call", "_requests", "is_http", "is_recording", "operation", "origin", "outer", "pipeline", "work")

    def __init__(
        self,
        owner: Owner,
        span: Span,
        call: Call,
        context: PipelineContext,
        operation: str,
        outer: CallSpan | None,
        *,
        is_http: bool,
    ) -> None:
        super().__init__(owner, span)
        self.pipeline = context
        self.operation = operation
        self.origin = id(call.origin)
        self.outer = outer
        self.work: Work = Work() if outer is None else outer.work
        self.is_recording = span.is_recording()
        self.is_held = getattr(call.fn, "is_held", False)
        self.is_http = is_http
        self._call: Call | None = call if outer is None else None  # a nested pipeline does not count requests
        self._requests: int | None = None

    def leave(self, error: BaseException | None) -> None:
        super().leave(error)
        if self._call is not None:
            self._requests = self._call.requests
            self._call = None
            self.work.leave()

    def end(self, ending: CallEnding, verdict: VerdictKind, error: BaseException | None, result: Any) -> None:
        requests = self._requests if self._call is None else self._call.requests
        is_plain = ending == "success" and not self.is_http
        fields = {} if is_plain else _fields(ending, error, result, is_http=self.is_http)
        if requests is not None:
            fields[_REQUESTS] = requests
        failed = verdict == "failure" or ending in ("timeout", "rejected")
        self.finish(ending, verdict, error, failed, fields)


class AttemptSpan(_Scoped):
    """The span of an attempt.

    Attributes:
        ordinal: the number of this request among those of its call, from 1, hedges included.
        origin: the id of the `Call`, as of its `CallSpan`.
    """

    __slots__ = ("_begun", "_call", "_ended_at", "_is_http", "_number", "_seconds", "_work", "ordinal", "origin")

    def __init__(self, owner: Owner, span: Span, call: Call, outer: CallSpan, ordinal: int) -> None:
        super().__init__(owner, span)
        self.is_held = outer.is_held
        self.ordinal = ordinal
        self.origin = outer.origin
        self._call: Call | None = call
        self._number = call.attempt
        self._begun = 0.0 if call.runtime is None else call.runtime.now()  # without one there is no Timeout
        self._seconds = 0.0
        self._ended_at: int | None = None
        self._work = outer.work
        self._is_http = outer.is_http

    def leave(self, error: BaseException | None) -> None:
        super().leave(error)
        self._call = None

    def end(self, ending: CallEnding, verdict: VerdictKind, error: BaseException | None, result: Any) -> None:
        call = self._call
        if ending == "cancelled" and call is not None and not isinstance(error, GeneratorExit | Withdrawn):
            self._ended_at, self._seconds = time.time_ns(), self._elapsed(call)
            if self._work.hold(self):
                _cut.set(self)
                return
        is_plain = ending == "success" and not self._is_http
        fields = {} if is_plain else _fields(ending, error, result, is_http=self._is_http)
        if call is not None and ending not in {"cancelled", "success"}:
            self._work.attempt_ended(call, self._number, fields.get(ERROR_TYPE, "result"))
        self.finish(ending, verdict, error, verdict == "failure", fields)

    def _elapsed(self, call: Call) -> float:
        return 0.0 if call.runtime is None else call.runtime.now() - self._begun

    def cancelled(self) -> None:
        """End the span of a cancelled attempt that no Timeout has ended."""
        self.finish("cancelled", "nothing", None, False, {}, self._ended_at)

    def timed_out(self, seconds: float) -> None:
        """End the span of a cancelled attempt that a Timeout of `seconds` has ended. That is evidence about the
        dependency if the attempt has had these seconds, as for the policies (`Gate._cut`)."""
        if not self._work.let_go(self):
            return
        failed = self._seconds >= seconds * NEARLY
        fields = {ERROR_TYPE: type_name(TimedOut)}
        self.finish("timeout", "failure" if failed else "nothing", None, failed, fields, self._ended_at)


def timed_out(seconds: float) -> None:
    """A Timeout of `seconds` has expired in this task or thread: end the span of the attempt that it has cancelled."""
    attempt = _cut.get()
    if attempt is not None:
        _cut.set(None)
        attempt.timed_out(seconds)
