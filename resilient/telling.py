"""What is told of attempts and calls: by the verdict that the policies have, and when it is known.

A result with an open end (the body of a streamed response) is told of when it has ended, as the policies learn of it:
with the times of its beginning, for what comes later is its reader's time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from resilient.call import Call, name_of
from resilient.current import is_guard
from resilient.errors import TimedOut
from resilient.events import AttemptFailed, AttemptReturned, AttemptStarted, CallEnded, Event, unheard
from resilient.forks import module_lock
from resilient.groups import leaves
from resilient.mistakes import Mistake
from resilient.outcome import IGNORED, SUCCESS, Verdict, bare
from resilient.policy import Scope, Withdrawn
from resilient.records import Ending

__all__ = [
    "Ends",
    "attempt_failed",
    "attempt_returned",
    "attempt_started",
    "count_request",
    "observed",
    "tell",
    "told_call",
]


def tell(call: Call, scope: Scope, event: Event) -> None:
    """Tell those who listen to the pipeline; from here they find out which call it is (`enclosing`)."""
    scope.channel.emit(event)


is_guard(tell.__code__)

_lock = module_lock()

_new, _fill = object.__new__, vars(Event)["__dict__"].__set__
"""Make an event that every call has, and give it its fields: that takes a quarter of the time of its `__init__`."""


# -- attempts -------------------------------------------------------------------------------------------------------


def observed(call: Call, scope: Scope, attempt: Awaitable[Any]) -> Awaitable[Any]:
    """What to await for an attempt of a pipeline whose calls or attempts are told of (`channel.wants.observed`)."""
    if scope.channel.wants.attempts:
        return _told_attempt(call, scope, attempt)
    count_request(call)
    return attempt


async def _told_attempt(call: Call, scope: Scope, attempt: Awaitable[Any]) -> Any:
    begin = attempt_started(call, scope)
    if begin is None:  # the last listener has just gone
        return await attempt
    try:
        result = await attempt
    except Withdrawn:
        raise
    except BaseException as error:
        attempt_failed(call, scope, begin, error)
        raise
    attempt_returned(call, scope, begin, result)
    return result


def count_request(call: Call, change: int = 1) -> None:
    """The function is being called once more; or -1: the call was withdrawn before it came to that."""
    try:
        call.requests += change
    except AttributeError:  # it is a fork, or began before anybody listened: then its end is not told
        with _lock:
            if hasattr(call.origin, "requests"):
                call.origin.requests += change


def attempt_started(call: Call, scope: Scope) -> float | None:
    """Count a request, and tell that the function is being called. Returns when; None: attempts are not told of."""
    wants = scope.channel.wants
    count_request(call)
    if not wants.attempts:
        return None
    begin = call.begin().now()
    if wants[AttemptStarted]:
        event = _new(AttemptStarted)
        values = event.__dict__
        values["pipeline"] = scope.name
        values["at"] = begin
        values["attempt"] = call.attempt
        values["function"] = name_of(call.fn)
        tell(call, scope, event)
    return begin


def attempt_returned(call: Call, scope: Scope, begin: float, result: Any) -> None:
    """Tell that the function has returned, at once or when its result has ended."""
    if not scope.channel.wants[AttemptReturned]:
        return
    end, verdict = call.runtime.now(), _verdict_on_result(call, scope, result)
    failed = verdict.kind == "failure"
    event = _new(AttemptReturned)
    values = event.__dict__
    values["pipeline"] = scope.name
    values["at"] = end
    values["attempt"] = call.attempt
    values["function"] = name_of(call.fn)
    values["elapsed"] = end - begin
    values["failed"] = failed
    values["status"] = _status(result) if failed else None
    values["retry_after"] = verdict.retry_after if failed else None
    if not failed and scope.judge.follows and scope.judge.is_open(result):
        scope.judge.follow(result, _Late(call, scope, event, lambda error: replace(event, failed=True), event))
    else:
        tell(call, scope, event)


def _status(response: Any) -> int | None:
    """The HTTP status of a response, by the names that clients have for it; None: it has none."""
    for name in ("status_code", "status"):
        try:
            status = getattr(response, name, None)
        except Exception:
            continue  # a property that raises says nothing
        if isinstance(status, int) and not isinstance(status, bool):
            return int(status)
    return None


def attempt_failed(call: Call, scope: Scope, begin: float, error: BaseException) -> None:
    """Tell that the function has raised."""
    if not scope.channel.wants[AttemptFailed]:
        return
    end, verdict = call.runtime.now(), _verdict_on_error(call, scope, error).kind
    error = error.error if type(error) is Mistake else error
    event = AttemptFailed(scope.name, end, call.attempt, name_of(call.fn), error, end - begin, verdict)
    tell(call, scope, event)


# -- calls ----------------------------------------------------------------------------------------------------------


class Ends:
    """Tells listeners that want `CallEnded` how the calls of one pipeline have ended.

    The frame that guards a call sets `call.requests = 0` at its begin, and passes the time of that begin.

    Args:
        stood_in: a policy of the pipeline may answer in the dependency's place.

    Attributes:
        returned(call, begin, end, result, good): the call has returned; `good` is `of_good(function)`.
        failed(call, begin, error): the call has raised.
    """

    __slots__ = ("_pipeline", "failed", "returned")

    def __init__(self, scope: Scope, *, stood_in: bool) -> None:
        judge, channel = scope.judge, scope.channel
        judges, follows = judge.judges_results, judge.follows

        def returned(call: Call, begin: float, end: float, result: Any, good: dict[str, Any]) -> None:
            """Tell that the call has returned `result`, at once or when that has ended."""
            values = good.copy()
            values["at"] = end
            values["elapsed"] = end - begin
            values["requests"] = call.requests
            if judges:
                values["verdict"] = verdict = _verdict_on_result(call, scope, result).kind
                values["ending"] = "failure" if verdict == "failure" else "success"
                call.verdict = None
            if stood_in and call.is_stood_in_for:
                values["verdict"] = "nothing"
            event = _new(CallEnded)
            _fill(event, values)
            if follows and event.ending == "success" and judge.is_open(result):
                left = replace(event, ending="cancelled", verdict="nothing")
                judge.follow(result, _Late(call, scope, event, lambda error: _broken_off(event, error), left))
                return
            if channel.later:
                channel.catch_up()
            for entry in channel.wants.ended:  # as `emit`, without its frame
                try:
                    entry.listener(event)
                except Exception:
                    unheard(event)

        def failed(call: Call, begin: float, error: BaseException) -> None:
            """Tell that the call has raised `error`."""
            judged = _verdict_on_error(call, scope, error)
            shown = bare(error) if issubclass(type(error), Exception) else error  # type: ignore[arg-type]
            end, ending = call.runtime.now(), _ending(error, judged)
            call.verdict = None
            channel.emit(
                CallEnded(scope.name, end, name_of(call.fn), call.requests, end - begin, ending, shown, judged.kind)
            )

        is_guard(returned.__code__)
        is_guard(failed.__code__)
        self._pipeline = scope.name
        self.returned = returned
        self.failed = failed

    def of_good(self, function: str) -> dict[str, Any]:
        """The fields of `CallEnded` for a good call of a function, with zeros where each call has its own."""
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


async def told_call(call: Call, ends: Ends, rest: Coroutine[Any, Any, Any]) -> Any:
    """Await `rest`, the whole call, and tell how it has ended. (Frames of guarded functions do so themselves, unless
    there is more that is special about the call.)"""
    begin = call.begin().now()
    call.requests = 0
    try:
        result = await rest
    except BaseException as error:
        ends.failed(call, begin, error)
        raise
    ends.returned(call, begin, call.runtime.now(), result, ends.of_good(name_of(call.fn)))
    return result


def _broken_off(event: CallEnded, error: Exception) -> CallEnded:
    return replace(event, ending=_ending(error, IGNORED), error=error, verdict="failure")


def _ending(error: BaseException, verdict: Verdict) -> Ending:
    if verdict.refused:
        return "rejected"
    if all(issubclass(type(leaf), TimedOut) for leaf in leaves(error)):
        return "timeout"
    return "failure" if issubclass(type(error), Exception) else "cancelled"


# -- what the policies know -----------------------------------------------------------------------------------------


def _verdict_on_result(call: Call, scope: Scope, result: Any) -> Verdict:
    """As the policies have it. What the classifier raises is raised by the first policy that asks."""
    if not scope.judge.judges_results:
        return SUCCESS
    try:
        return scope.on_result(call, result)
    except Mistake:
        return IGNORED


def _verdict_on_error(call: Call, scope: Scope, error: BaseException) -> Verdict:
    """The same for what was raised."""
    if not issubclass(type(error), Exception):
        return IGNORED
    try:
        return scope.on_error(call, error)  # type: ignore[arg-type]
    except Mistake:
        return IGNORED


class _Late:
    """An event that is told when a result has ended: as `good`; as `bad` makes it of an error; or as `left`, where
    nobody knows."""

    __slots__ = ("bad", "call", "good", "left", "scope")

    def __init__(self, call: Call, scope: Scope, good: Event, bad: Callable[[Exception], Event], left: Event) -> None:
        self.call = call
        self.scope = scope
        self.good = good
        self.bad = bad
        self.left = left

    def learn(self, error: Exception | None) -> None:
        tell(self.call, self.scope, self.good if error is None else self.bad(error))

    def drop(self, *, collected: bool = False) -> None:
        call, scope, left = self.call, self.scope, self.left
        if collected:
            scope.channel.later.append(lambda: tell(call, scope, left))
        else:
            tell(call, scope, left)
