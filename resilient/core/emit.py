"""Emits the events of attempts and calls, with the verdict that the policies use, when it is known.

The event of a result that is still open (the body of a streamed response) is emitted when it has ended; policies learn
the outcome then, too. The times in it are those of the beginning of the body, because the rest depends on the reader.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from math import log2
from typing import Any

from resilient._atomic import module_lock
from resilient.core.call import Call, name_of
from resilient.core.callbacks import CallbackError
from resilient.core.classify import IGNORED
from resilient.core.context import PipelineContext
from resilient.core.current_call import register_guard
from resilient.core.endings import Endings, ending_of, verdict_on_error, verdict_on_result
from resilient.core.gate import Withdrawn
from resilient.core.history import status_of
from resilient.errors import bare
from resilient.events import AttemptFailed, AttemptReturned, AttemptStarted, CallEnded, Event
from resilient.events.channel import log_listener_error
from resilient.stats.durations import FROM, PER_OCTAVE, SHORTEST, place_of

__all__ = [
    "Ends",
    "attempt_failed",
    "attempt_returned",
    "attempt_started",
    "count_request",
    "emit_event",
    "ending_of",
    "observed",
    "observed_call",
    "recorded_call",
    "verdict_on_error",
    "verdict_on_result",
]


def emit_event(call: Call, context: PipelineContext, event: Event) -> None:
    """Emit an event of a call. Its frame is registered as a guard of the call: listeners find the call by
    `current_call.enclosing`."""
    context.channel.emit(event)


register_guard(emit_event.__code__)

_lock = module_lock()

_new, _fill = object.__new__, vars(Event)["__dict__"].__set__
"""Make an event, and set all of its fields at once: that takes a quarter of the time of its `__init__`."""


# -- attempts -------------------------------------------------------------------------------------------------------


def observed(call: Call, context: PipelineContext, attempt: Awaitable[Any]) -> Awaitable[Any]:
    """Return the awaitable of an attempt that also emits its events, within its surrounds. Used while calls or attempts
    are observed (`channel.wants.observed`)."""
    wants = context.channel.wants
    if wants.attempts:
        attempt = _observed_attempt(call, context, attempt)
    else:
        count_request(call)
    for surround in wants.surrounds:
        attempt = surround.around_attempt(call, context, attempt)
    return attempt


async def _observed_attempt(call: Call, context: PipelineContext, attempt: Awaitable[Any]) -> Any:
    begin = attempt_started(call, context)
    if begin is None:  # the last listener was removed meanwhile
        return await attempt
    try:
        result = await attempt
    except Withdrawn:
        raise
    except BaseException as error:
        attempt_failed(call, context, begin, error)
        raise
    attempt_returned(call, context, begin, result)
    return result


def count_request(call: Call, change: int = 1) -> None:
    """Count a request of a call; -1: take back a counted one, because the call was withdrawn before it."""
    try:
        call.requests += change
    except AttributeError:  # a fork; or a call older than all listeners, whose `CallEnded` is not emitted
        with _lock:
            if hasattr(call.origin, "requests"):
                call.origin.requests += change


def attempt_started(call: Call, context: PipelineContext) -> float | None:
    """Count a request, and emit `AttemptStarted`. Returns the time; None if no event of attempts is wanted."""
    wants = context.channel.wants
    count_request(call)
    if not wants.attempts:
        return None
    begin = call.begin().now()
    if wants[AttemptStarted]:
        event = _new(AttemptStarted)
        values = event.__dict__
        values["pipeline"] = context.name
        values["at"] = begin
        values["attempt"] = call.attempt
        values["function"] = name_of(call.fn)
        emit_event(call, context, event)
    return begin


def attempt_returned(call: Call, context: PipelineContext, begin: float, result: Any) -> None:
    """Emit `AttemptReturned`: at once, or, for a result that is still open, when it has ended."""
    if not context.channel.wants[AttemptReturned]:
        return
    end, verdict = call.runtime.now(), verdict_on_result(call, context, result)
    failed = verdict.kind == "failure"
    event = _new(AttemptReturned)
    values = event.__dict__
    values["pipeline"] = context.name
    values["at"] = end
    values["attempt"] = call.attempt
    values["function"] = name_of(call.fn)
    values["elapsed"] = end - begin
    values["failed"] = failed
    values["status"] = status_of(result) if failed else None
    values["retry_after"] = verdict.retry_after if failed else None
    lifecycle = context.lifecycle
    if not failed and lifecycle.may_be_open and lifecycle.is_open(result):
        lifecycle.follow(result, _EmitLater(call, context, event, lambda error: replace(event, failed=True), event))
    else:
        emit_event(call, context, event)


def attempt_failed(call: Call, context: PipelineContext, begin: float, error: BaseException) -> None:
    """Emit `AttemptFailed` for an attempt that began at `begin`."""
    if not context.channel.wants[AttemptFailed]:
        return
    end, verdict = call.runtime.now(), verdict_on_error(call, context, error).kind
    error = error.error if type(error) is CallbackError else error
    event = AttemptFailed(context.name, end, call.attempt, name_of(call.fn), error, end - begin, verdict)
    emit_event(call, context, event)


# -- calls ----------------------------------------------------------------------------------------------------------


class Ends:
    """Reports the ends of the calls of one pipeline: counts them, and, for a call that began at a known time, records
    its duration and emits `CallEnded`, if that is wanted.

    The outermost gate layer sets `call.requests` when the call begins, and passes the time of the begin, or None.

    Args:
        substitutes: whether a policy of the pipeline can answer in place of the dependency.

    Attributes:
        endings: counts the calls.
        succeeded(call, begin, end, good, is_attempt): the call has succeeded at once, and is counted; `good` is
            `good_fields(function)`. `is_attempt`: nothing else records its only attempt.
        returned(call, begin, result, good): the call has returned, and is to be counted by its result.
        failed(call, begin, error): the call has raised, and is to be counted. `call`: None if there is none.
        emit_returned(call, begin, result, good), emit_failed(call, begin, error): the same for a call that is counted.
    """

    __slots__ = (
        "_pipeline",
        "emit_failed",
        "emit_returned",
        "endings",
        "failed",
        "returned",
        "substitutes",
        "succeeded",
    )

    def __init__(self, context: PipelineContext, *, substitutes: bool) -> None:
        lifecycle, channel, counters = context.lifecycle, context.channel, context.counters
        judges_results, may_be_open = context.classifier.judges_results, lifecycle.may_be_open
        self.endings = endings = Endings(context, substitutes=substitutes)

        def succeeded(call: Call, begin: float, end: float, good: dict[str, Any], is_attempt: bool) -> None:
            """Report a call that has succeeded at once, and is counted."""
            if counters.records:
                seconds = end - begin
                if SHORTEST < seconds < counters.slow:  # `Counters.record_call`, inlined
                    place = int(FROM - log2(seconds) * PER_OCTAVE)
                    durations = counters.call_durations["success"]
                    durations.places[place] += 1
                    durations.seconds += seconds
                    if is_attempt and counters.records_attempts:
                        seconds -= call.waited
                        durations = counters.attempt_durations["success"]
                        durations.places[place_of(seconds) if call.waited else place] += 1
                        durations.seconds += seconds
                else:
                    counters.record_call("success", seconds)
                    if is_attempt and counters.records_attempts:
                        counters.record_attempt("success", seconds - call.waited)
            wants = context.channel.wants
            if not wants.ended:
                return
            values = good.copy()
            values["at"] = end
            values["elapsed"] = end - begin
            values["requests"] = call.requests
            event = _new(CallEnded)
            _fill(event, values)
            if channel.later:
                channel.catch_up()
            for entry in wants.ended:  # as `emit`, without the cost of a call
                try:
                    entry.listener(event)
                except Exception:
                    log_listener_error(event)

        def returned(call: Call, begin: float | None, result: Any, good: dict[str, Any]) -> None:
            """Count a call that has returned `result`, and report it."""
            endings.call_returned(call, result)
            if begin is not None:
                emit_returned(call, begin, result, good)

        def emit_returned(call: Call, begin: float, result: Any, good: dict[str, Any]) -> None:
            """Report a call that has returned `result`: at once, or, if that is still open, when it has ended."""
            end = call.runtime.now()
            values = good.copy()
            values["at"] = end
            values["elapsed"] = end - begin
            values["requests"] = call.requests
            if judges_results:
                values["verdict"] = verdict = verdict_on_result(call, context, result).kind
                values["ending"] = "failure" if verdict == "failure" else "success"
                if not channel.wants.surrounds:
                    call.verdict = None
            if substitutes and call.is_substituted:
                values["verdict"] = "nothing"
            event = _new(CallEnded)
            _fill(event, values)
            if may_be_open and event.ending == "success" and lifecycle.is_open(result):
                left = replace(event, ending="cancelled", verdict="nothing")
                lifecycle.follow(
                    result, _EmitLater(call, context, event, lambda error: _broken_off(event, error), left)
                )
                return
            if counters.records:
                counters.record_call(event.ending, event.elapsed)
            if channel.wants.ended:
                channel.emit(event)

        def failed(call: Call | None, begin: float | None, error: BaseException) -> None:
            """Count a call that has raised `error`, and report it."""
            endings.call_failed(call, error)
            if begin is not None and call is not None:
                emit_failed(call, begin, error)

        def emit_failed(call: Call, begin: float, error: BaseException) -> None:
            """Report a call that has raised `error`."""
            judged = verdict_on_error(call, context, error)
            shown = bare(error) if issubclass(type(error), Exception) else error  # type: ignore[arg-type]
            end, ending = call.runtime.now(), ending_of(error, judged)
            if not channel.wants.surrounds:  # else the outermost of these still needs it
                call.verdict = None
            if counters.records:
                counters.record_call(ending, end - begin)
            if channel.wants.ended:
                channel.emit(
                    CallEnded(
                        context.name, end, name_of(call.fn), call.requests, end - begin, ending, shown, judged.kind
                    )
                )

        for reporter in (succeeded, emit_returned, emit_failed):
            register_guard(reporter.__code__)
        self._pipeline = context.name
        self.substitutes = substitutes
        self.succeeded = succeeded
        self.returned = returned
        self.emit_returned = emit_returned
        self.failed = failed
        self.emit_failed = emit_failed

    def good_fields(self, function: str) -> dict[str, Any]:
        """Return the fields of `CallEnded` for a successful call of a function. Those that differ from call to call are
        0."""
        return {
            "pipeline": self._pipeline,
            "at": 0.0,
            "function": function,
            "requests": 0,
            "elapsed": 0.0,
            "ending": "success",
            "error": None,
            "verdict": "success",
        }


async def observed_call(call: Call, ends: Ends, rest: Coroutine[Any, Any, Any]) -> Any:
    """Await `rest`, the whole call, which counts itself, and report its end. Used on the full path; the outermost gate
    layer reports the end itself."""
    begin = call.begin().now()
    call.requests = 0
    try:
        result = await rest
    except BaseException as error:
        ends.emit_failed(call, begin, error)
        raise
    ends.emit_returned(call, begin, result, ends.good_fields(name_of(call.fn)))
    return result


async def recorded_call(call: Call, endings: Endings, rest: Coroutine[Any, Any, Any]) -> Any:
    """Await `rest`, the part of a call in a nested pipeline, and record its duration."""
    begin, counters = call.begin().now(), endings.counters
    try:
        result = await rest
    except BaseException as error:
        counters.record_call(endings.of_error(call, error)[0], call.runtime.now() - begin)
        raise
    counters.record_call(endings.of_result(call, result), call.runtime.now() - begin)
    return result


def _broken_off(event: CallEnded, error: Exception) -> CallEnded:
    return replace(event, ending=ending_of(error, IGNORED), error=error, verdict="failure")


class _EmitLater:
    """Emits an event when an open result has ended: `good` if it ended well, `bad(error)` if it failed, `left` if its
    reader left it."""

    __slots__ = ("bad", "call", "context", "good", "left")

    def __init__(
        self, call: Call, context: PipelineContext, good: Event, bad: Callable[[Exception], Event], left: Event
    ) -> None:
        self.call = call
        self.context = context
        self.good = good
        self.bad = bad
        self.left = left

    def learn(self, error: Exception | None) -> None:
        self._emit(self.call, self.context, self.good if error is None else self.bad(error))

    def drop(self, *, collected: bool = False) -> None:
        if collected:
            self.context.channel.later.append(lambda: self._emit(self.call, self.context, self.left))
        else:
            self._emit(self.call, self.context, self.left)

    def _emit(self, call: Call, context: PipelineContext, event: Event) -> None:
        if isinstance(event, CallEnded) and context.counters.records:
            context.counters.record_call(event.ending, event.elapsed)
        emit_event(call, context, event)
