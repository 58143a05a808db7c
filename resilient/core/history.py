"""The history of a call that did not succeed at once: its attempts, pauses and copies, and the reason that they ended.

A call has no history until something of it has failed, or a further copy of it has started: Retry, Hedge, Timeout and
Fallback record it then, on the call. `resilient.observe.why` makes a report of it when a person or an exporter asks.

A history is plain data: times, numbers, the class of an error, the status of a response, the text of an error of this
library. It refers to no argument, result, error or traceback, so it keeps none of them in memory, and can hold no
secret of theirs. It is bounded: of many steps the first and the last are kept.

While a call fails, records must be cheap. So they are tuples in a list (`Call.history`), and
`resilient.observe.call_steps` computes the rest of a step when a report is wanted:

    ATTEMPT     at, attempt, begin, waited, error, status, text, asked
    SUCCESS     at, attempt, begin, waited
    PAUSE       at, policy, seconds, asked
    ENDED       at, policy, reason, deadline_left
    STARTED     at, copy, reason
    FAILED      at, copy, error, status, text, asked
    WON         at, copy
    TIMEOUT     at, attempt, policy, seconds, waited
    FALLBACK    at, policy
    LEFT_OUT    at, how many
"""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

from resilient.core.call import Call, Fork
from resilient.core.call_key import key_of
from resilient.core.context import PipelineContext
from resilient.errors import CircuitOpen, ResilientError, Stopped, TimedOut, bare, reason_of

__all__ = [
    "ATTEMPT",
    "ENDED",
    "FAILED",
    "FALLBACK",
    "FIRST",
    "LAST",
    "LEFT_OUT",
    "MOST",
    "PAUSE",
    "STARTED",
    "SUCCESS",
    "TIMEOUT",
    "WON",
    "History",
    "Recorded",
    "StepKind",
    "attempt_failed",
    "copy_failed",
    "copy_started",
    "copy_won",
    "fell_back",
    "keep",
    "paused",
    "publish",
    "recorders",
    "retries_ended",
    "status_of",
    "status_of_outcome",
    "text_of",
    "timed_out",
]

FIRST = 5
LAST = 10
"""How many of the first and of the last steps a report has."""

MOST = 3 * (FIRST + LAST)
"""The records of a history after which those between the first and the last are dropped."""

StepKind = Literal[
    "attempt", "success", "pause", "ended", "copy started", "copy failed", "copy won", "timeout", "fallback"
]

ATTEMPT: StepKind = "attempt"
SUCCESS: StepKind = "success"
PAUSE: StepKind = "pause"
ENDED: StepKind = "ended"
STARTED: StepKind = "copy started"
FAILED: StepKind = "copy failed"
WON: StepKind = "copy won"
TIMEOUT: StepKind = "timeout"
FALLBACK: StepKind = "fallback"
LEFT_OUT = "left out"

History = list[Any]
"""The records of a call, oldest first."""


# -- what a call records ---------------------------------------------------------------------------------------------


def _of(call: Call) -> History:
    """The history of a call, which its forks share; made if there is none."""
    if type(call) is Fork:
        call = call.origin
    history: History | None = getattr(call, "history", None)
    if history is None:
        history = call.history = []
    elif len(history) > MOST:
        _shorten(history)
    return history


def _shorten(history: History) -> None:
    """Drop the records between the first and the last, and count them."""
    first, last = 2 * FIRST, 2 * LAST
    middle = history[first:-last]
    dropped = sum(record[2] if record[0] is LEFT_OUT else record[0] is not ENDED for record in middle)
    history[first:-last] = [(LEFT_OUT, middle[0][1], dropped)]


_Outcome = tuple[type[BaseException] | None, int | None, str]


def _outcome(error: BaseException | None, result: Any) -> _Outcome:
    """The class of an error, the status of the outcome, and the text of an error of this library."""
    if error is None:
        return None, status_of_outcome(result), ""
    kind = type(error)
    try:
        if _is_plain(kind) and not error.__dict__:
            return kind, None, ""
    except Exception:
        pass  # its `__dict__` raises
    error = bare(error) if issubclass(kind, Exception) else error  # type: ignore[arg-type]
    return type(error), status_of_outcome(error), text_of(error)


_plain: set[type] = set()
"""Classes of errors in which there is nothing to read but the attributes of an instance, as seen so far."""

_MOST_PLAIN = 1_000
"""The most classes in `_plain`, because some programs make new classes without end."""

_READ = frozenset(("status_code", "status", "response", "__getattr__", "__getattribute__"))


def _is_plain(kind: type[BaseException]) -> bool:
    """Whether there is nothing to read in a class of errors. If so, adds it to `_plain`."""
    if kind in _plain:
        return True
    if issubclass(kind, ResilientError | Stopped):
        return False
    if any(not _READ.isdisjoint(vars(each)) for each in kind.__mro__ if each not in (BaseException, object)):
        return False
    if len(_plain) >= _MOST_PLAIN:
        _plain.clear()
    _plain.add(kind)
    return True


def status_of(response: object) -> int | None:
    """Return the HTTP status of a response, by the attribute names of several clients; None: it has none."""
    for name in ("status_code", "status"):
        try:
            status = getattr(response, name, None)
        except Exception:
            continue  # a property that raises says nothing
        if isinstance(status, int) and not isinstance(status, bool):
            return int(status)
    return None


def status_of_outcome(outcome: object) -> int | None:
    """Return the HTTP status of a response, or of an error with a status or a response; None: it has none."""
    status = status_of(outcome)
    if status is None:
        try:
            status = status_of(getattr(outcome, "response", None))
        except Exception:
            pass  # a property that raises says nothing
    return status


def text_of(error: BaseException) -> str:
    """Return the text of an error of this library, without the name of its pipeline; "" for any other error, whose text
    may quote what was sent."""
    if not issubclass(type(error), ResilientError):  # not `isinstance`: a class may lie about itself
        return ""
    ours: Any = error
    opening = ours.opening if issubclass(type(error), CircuitOpen) else None
    return str(reason_of(ours)) if opening is None else f"{reason_of(ours)} (opened: {opening.reason})"


def attempt_failed(
    steps: History, call: Call, error: Exception | None, result: Any, asked: float | None, begin: float | None
) -> float:
    """Record an attempt of a Retry that failed just now. Returns the time.

    Args:
        steps: the records of this Retry, which `keep` adds to those of the call.
        asked: the pause in seconds that the dependency asked for, if it did.
        begin: the time at which the attempt began, queues included. None: it was the first one of its Retry; its
            duration is that which the gates have measured (`Call.elapsed`), if they have.
    """
    at: float = (call.runtime or call.begin()).now()
    kind = type(error)
    try:
        is_plain = kind in _plain and not error.__dict__
    except Exception:
        is_plain = False
    if is_plain:
        steps.append((ATTEMPT, at, call.attempt, begin, call.waited, kind, None, "", asked))
    else:
        steps.append((ATTEMPT, at, call.attempt, begin, call.waited, *_outcome(error, result), asked))
    if len(steps) > MOST:
        _shorten(steps)
    return at


def paused(steps: History, at: float, policy: str, seconds: float, asked: float | None) -> None:
    """Record the pause of a Retry, which begins now. `asked`: the part for which the dependency has asked."""
    steps.append((PAUSE, at, policy, seconds, asked))


def retries_ended(steps: History, call: Call, policy: str, reason: str) -> None:
    """Record the reason for which a Retry makes no further attempt, after an attempt that was recorded."""
    at = steps[-1][1]
    steps.append((ENDED, at, policy, reason, None if call.deadline is None else call.deadline - at))
    keep(steps, call)


def keep(steps: History, call: Call) -> None:
    """Add the records of a Retry to the history of its call, by time. Of two Retries around an attempt only the inner
    one counts. To be called when the Retry ends; a second call does nothing."""
    if not steps:
        return
    owner = call.origin if type(call) is Fork else call
    history: History | None = getattr(owner, "history", None)
    if history is None:
        owner.history = steps
    elif history is not steps:
        known = {record[2] for record in history if record[0] is ATTEMPT} if owner is call else ()
        new = [record for record in steps if record[0] is not ATTEMPT or record[2] not in known]
        history[:] = sorted([*history, *new], key=_time)
        steps.clear()


def _time(record: tuple[Any, ...]) -> float:
    return record[1]  # type: ignore[no-any-return]


def timed_out(call: Call, context: PipelineContext, error: TimedOut, waited: float) -> None:
    """Record that a Timeout has ended the call, or an attempt of it, with `error`, of which it `waited` some in local
    queues. The error keeps the record, for when it is pickled."""
    history = _of(call)
    history.append((TIMEOUT, call.begin().now(), call.attempt, error.policy, error.seconds, waited))
    words = context.call_options.words(call)
    elapsed = getattr(call, "elapsed", None)
    error._recorded = Recorded(context.name, words, error.key, history, elapsed)  # type: ignore[attr-defined]


def copy_started(call: Call, number: int, reason: str) -> None:
    """Record that a Hedge starts a further copy of the call. `reason`: "delay" or "failure"."""
    _of(call).append((STARTED, call.begin().now(), number, reason))


def copy_failed(call: Call, number: int, error: BaseException | None, result: Any, asked: float | None) -> None:
    """Record that a copy of the call has failed. (The failure of an only copy is that of the attempt.)"""
    _of(call).append((FAILED, call.begin().now(), number, *_outcome(error, result), asked))


def copy_won(call: Call, number: int) -> None:
    """Record that the caller gets the outcome of this copy, of several."""
    _of(call).append((WON, call.begin().now(), number))


def fell_back(call: Call, context: PipelineContext, policy: str, error: Exception | None, result: Any) -> None:
    """Record that a Fallback answers in place of the call, which ended with `error` or `result`. Only where the answer
    can be explained (`publish`)."""
    if not (context.lifecycle.explains or recorders.any):
        return
    history = _of(call)
    if not history:
        attempt_failed(history, call, error, result, None, None)
    history.append((FALLBACK, call.begin().now(), policy))


# -- calls that have returned ----------------------------------------------------------------------------------------


class Recorded(NamedTuple):
    """A call with a history.

    Attributes:
        function: a few words for the call (`CallOptions.words`).
        elapsed: the duration of the first attempt, if gates have measured it.
    """

    pipeline: str
    function: str
    key: str
    history: History
    elapsed: float | None


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


def publish(
    call: Call, context: PipelineContext, result: Any, steps: History | None = None, begin: float | None = None
) -> None:
    """Hand the history of a call to the caller that gets `result`: with the result, if its kind can carry it
    (`ResultLifecycle.explain`), and to the records of this context. Does nothing for a call without a history.

    Args:
        steps: the records of the Retry that returns the result.
        begin: the time at which the attempt began that has succeeded; None: it is not to be recorded.
    """
    lifecycle = context.lifecycle
    if not (lifecycle.explains or recorders.any):
        return
    if steps is not None:
        if begin is not None:
            steps.append((SUCCESS, call.begin().now(), call.attempt, begin, call.waited))
        keep(steps, call)
    history: History | None = getattr(call.origin, "history", None)
    records = recorders.current.get()
    if history is None or not (lifecycle.explains or records is not None):
        return
    words, key = context.call_options.words(call), key_of(call, context)
    recorded = Recorded(context.name, words, key, history, getattr(call, "elapsed", None))
    if lifecycle.explains:
        lifecycle.explain(result, recorded)
    if records is not None:
        if records and records[-1].history is history:  # a policy outside has gone on with the call
            records.pop()
        records.append(recorded)
