"""The history of a call that did not succeed at once: its attempts, pauses and copies, and the reason that they ended.

A call has no history until something of it has failed, or a further copy of it has started: Retry, Hedge, Timeout and
Fallback record it then, on the call. `resilient.observe.why` makes a report of it when a person or an exporter asks.

A history is plain data: times, numbers, the class of an error, the status of a response, the text of an error of this
library. It refers to no argument, result, error or traceback, so it keeps none of them in memory, and can hold no
secret of theirs. It is bounded: of many steps the first `FIRST` and the last `LAST` are kept.
"""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

from resilient.core.call import Call
from resilient.core.call_key import key_of
from resilient.core.context import PipelineContext
from resilient.core.verdict import Verdict
from resilient.errors import CircuitOpen, ResilientError, TimedOut, bare, reason_of

__all__ = [
    "FIRST",
    "LAST",
    "History",
    "Recorded",
    "Step",
    "attempt_failed",
    "copy_failed",
    "copy_started",
    "copy_won",
    "fell_back",
    "paused",
    "publish",
    "recorders",
    "retries_ended",
    "status_of",
    "text_of",
    "timed_out",
]

FIRST = 5
LAST = 10

StepKind = Literal["attempt", "pause", "copy started", "copy failed", "copy won", "timeout", "fallback", "success"]


class Step(NamedTuple):
    """One step of a call.

    Attributes:
        kind: what happened.
        at: when, in seconds on the clock of the call's runtime: at its end; a pause, at its begin.
        number: of the attempt, or of the copy (from 1).
        seconds: how long it took, without the time in local queues; None: not known.
        queued: the seconds in local queues before it.
        error: the class of the error; None: there was a result, or it is no failure.
        status: the HTTP status of a response, or of an error that has one; else None.
        text: the text of an error of this library; the reason of a copy; the name of the policy for the other kinds.
        asked: of a failure, the pause in seconds that the dependency asked for; else None.
    """

    kind: StepKind
    at: float
    number: int
    seconds: float | None = None
    queued: float = 0.0
    error: type[BaseException] | None = None
    status: int | None = None
    text: str = ""
    asked: float | None = None


class History:
    """The steps of one call so far, oldest first.

    Attributes:
        steps: the first and the last ones.
        left_out: the number of steps between these that are not kept.
        attempt: the number of the last attempt that was recorded.
        waited: `Call.waited` at that time.
        policy, reason: of the Retry that ended the attempts; "" while none has.
        left: the seconds until the deadline of the call at that time; None: it had none.
    """

    __slots__ = ("attempt", "left", "left_out", "policy", "reason", "steps", "waited")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.left_out = 0
        self.attempt = 0
        self.waited = 0.0
        self.policy = self.reason = ""
        self.left: float | None = None

    def add(self, step: Step) -> None:
        """Append a step. Drops the oldest one that is neither among the first nor among the last."""
        self.steps.append(step)
        if len(self.steps) > FIRST + LAST:
            del self.steps[FIRST]
            self.left_out += 1


def _of(call: Call) -> History:
    """The history of a call, which its forks share; made if there is none."""
    origin = call.origin
    history: History | None = getattr(origin, "history", None)
    if history is None:
        history = origin.history = History()
    return history


def status_of(outcome: object) -> int | None:
    """Return the HTTP status of a response, or of an error with a status or a response; None: it has none."""
    try:
        for source in (outcome, getattr(outcome, "response", None)):
            for name in ("status_code", "status"):
                status = getattr(source, name, None)
                if type(status) is int:
                    return status
    except Exception:
        pass  # a property that raises says nothing
    return None


def _outcome(error: BaseException | None, result: Any, verdict: Verdict) -> dict[str, Any]:
    """The fields of a step that describe an outcome."""
    shown: object = result
    text = ""
    if error is not None:
        shown = error = bare(error) if issubclass(type(error), Exception) else error  # type: ignore[arg-type]
        text = text_of(error)
    kind = None if error is None else type(error)
    return {"error": kind, "status": status_of(shown), "text": text, "asked": verdict.retry_after}


def text_of(error: BaseException) -> str:
    """Return the text of an error of this library, without the name of its pipeline; "" for any other error, whose text
    may quote what was sent."""
    if not issubclass(type(error), ResilientError):  # not `isinstance`: a class may lie about itself
        return ""
    ours: Any = error
    opening = ours.opening if issubclass(type(error), CircuitOpen) else None
    return str(reason_of(ours)) if opening is None else f"{reason_of(ours)} (opened: {opening.reason})"


def attempt_failed(
    call: Call, error: Exception | None, result: Any, verdict: Verdict, begin: float | None = None
) -> None:
    """Record an attempt that failed just now, for a Retry. (Of two Retries around it only the inner one records it.)

    `begin`: the time at which the attempt began, queues included. None: it was the first one of the Retry; its duration
    is that which the gates have measured, if they have.
    """
    history = _of(call)
    if call.origin is call and call.attempt <= history.attempt:
        return
    now = call.begin().now()
    queued = max(0.0, call.waited - history.waited)
    seconds = getattr(call, "elapsed", None) if begin is None else max(0.0, now - begin - queued)
    history.attempt, history.waited = call.attempt, call.waited
    if history.steps and history.steps[-1].kind == "timeout":
        limit = history.steps.pop()  # of this attempt
        seconds = limit.seconds if begin is None else seconds
    history.add(Step("attempt", now, call.attempt, seconds, queued, **_outcome(error, result, verdict)))


def paused(call: Call, policy: str, seconds: float, asked: float | None) -> None:
    """Record a pause of a Retry that begins now. `asked`: the part for which the dependency has asked."""
    if seconds > 0:
        _of(call).add(Step("pause", call.begin().now(), call.attempt, seconds, text=policy, asked=asked))


def retries_ended(call: Call, policy: str, reason: str) -> None:
    """Record the reason for which a Retry makes no further attempt."""
    history = _of(call)
    history.policy, history.reason = policy, reason
    history.left = None if call.deadline is None else call.deadline - call.begin().now()


def timed_out(call: Call, context: PipelineContext, error: TimedOut, waited: float) -> None:
    """Record that a Timeout has ended the call, or an attempt of it, with `error`, of which it `waited` some in local
    queues. The error keeps the record, for when it is pickled."""
    history = _of(call)
    history.add(Step("timeout", call.begin().now(), call.attempt, error.seconds, waited, text=error.policy))
    words = context.call_options.words(call)
    error._recorded = Recorded(context.name, words, error.key, history)  # type: ignore[attr-defined]


def copy_started(call: Call, number: int, reason: str) -> None:
    """Record that a Hedge has started a further copy of the call."""
    _of(call).add(Step("copy started", call.begin().now(), number, text=reason))


def copy_failed(call: Call, number: int, error: BaseException | None, result: Any, verdict: Verdict) -> None:
    """Record that a copy of the call has failed. A failure of the only copy is recorded by a Retry, if there is one."""
    _of(call).add(Step("copy failed", call.begin().now(), number, **_outcome(error, result, verdict)))


def copy_won(call: Call, number: int) -> None:
    """Record that the caller gets the outcome of this copy, of several."""
    _of(call).add(Step("copy won", call.begin().now(), number))


def fell_back(call: Call, policy: str) -> None:
    """Record that a Fallback answers in place of the call."""
    _of(call).add(Step("fallback", call.begin().now(), call.attempt, text=policy))


# -- calls that have returned --------------------------------------------------------------------------------------


class Recorded(NamedTuple):
    """A call with a history, which has returned a result."""

    pipeline: str
    function: str
    key: str
    history: History


class _Recorders:
    """The records of the current context.

    Attributes:
        any: whether there were ever any in this process.
        current: those of this context.
    """

    def __init__(self) -> None:
        self.any = False
        self.current: ContextVar[deque[Recorded] | None] = ContextVar("resilient_recorded", default=None)


recorders = _Recorders()


def publish(call: Call, context: PipelineContext, result: Any, begin: float | None = None) -> None:
    """Hand the history of a call to the caller that gets `result`: with the result, if its kind can carry it
    (`ResultLifecycle.explain`), and to the records of this context. Does nothing for a call without a history.

    `begin`: the time at which the attempt began that has succeeded; None: it is not to be recorded.
    """
    history = getattr(call.origin, "history", None)
    if history is None:
        return
    if begin is not None:
        now, queued = call.begin().now(), max(0.0, call.waited - history.waited)
        history.add(Step("success", now, call.attempt, max(0.0, now - begin - queued), queued))
    lifecycle = context.lifecycle
    records = recorders.current.get() if recorders.any else None
    if not lifecycle.explains and records is None:
        return
    recorded = Recorded(context.name, context.call_options.words(call), key_of(call, context), history)
    if lifecycle.explains:
        lifecycle.explain(result, recorded)
    if records is not None:
        if records and records[-1].history is history:  # a policy outside has gone on with the call
            records.pop()
        records.append(recorded)
