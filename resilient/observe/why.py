"""Why a call ended as it did: `resilient.why(error)`, for a person or as data.

    try:
        await get_user(7)
    except Exception as error:
        print(resilient.why(error))

    ConnectionError: get_user failed in pipeline users
      retries ended: attempts spent (Retry, 3 attempts in 265 ms)

          0 ms  attempt 1        12 ms  ConnectionError
         12 ms  pause            87 ms
         99 ms  attempt 2        11 ms  ConnectionError
        110 ms  pause           143 ms
        253 ms  attempt 3        12 ms  ConnectionError

It takes every error that a guarded call has raised: of the function itself, `TimedOut`, all kinds of `Rejected`, groups
of errors, cancellations. It also takes a response of an HTTP transport. For the results of other functions there is
`recording()`.

An error carries no record. Its traceback leads to the gate layers through which it came, and these have the calls; so
an error costs nothing until `why` is called. That has three consequences:

- Ask while the error has its traceback. Without it (`error.with_traceback(None)`, `traceback.clear_frames`), little is
  known: of an error of this library its own attributes, of a `TimedOut` also the attempts before it.
- An error of this library takes the answer with it when it is pickled or copied. (A process pool removes the traceback
  before that.) Errors of other classes do not: they keep the note that a Retry has added. Send `why(error).as_json()`
  beside them.
- Of an error that is raised `from` another one outside a guarded call, the answer is that of the other one.

The answer has no argument, no result and no text of an error that is not of this library, because these may hold
secrets; and it keeps nothing of the error in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, overload

from resilient._validation import count
from resilient.core.call import Call, name_of, new_call
from resilient.core.call_key import key_of
from resilient.core.callbacks import is_callback_error
from resilient.core.context import PipelineContext
from resilient.core.current_call import guarded_frames
from resilient.core.history import Recorded, recorders, status_of, status_of_outcome, text_of
from resilient.errors import CircuitOpen, Rejected, ResilientError, TimedOut, bare, is_group, leaves, reason_of
from resilient.observe.call_report import as_json, report_of
from resilient.observe.call_steps import Step, Steps, steps_of
from resilient.observe.evidence import Evidence, evidence_of, qualified_name
from resilient.observe.timeline import timeline
from resilient.pipeline.attempts import block_of

__all__ = ["Records", "Why", "kept_with", "recording", "why"]

LINKS = 10
"""The most causes of an error that are followed."""

MEMBERS = 5
"""The most errors of a group that are reported."""


class Why:
    """The reason for which a call, or several around each other, ended as they did. Its text is a small timeline."""

    __slots__ = ("_data",)

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain data:

        {"error": "ConnectionError",   name of the error's class, with its module; None for a result
         "ended": "failure",           "success", "failure", "timeout", "rejected", "cancelled", or "fallback"
         "text": "",                   text of an error of this library
         "policy": "", "key": "",      of an error of this library: its policy, and the key of the call
         "code": "",                   of a refusal: its reason, as in the metric `resilient.rejections`
         "retry_after": None,          of a refusal: seconds until another try can make sense
         "evidence": None,             of a TimedOut: whether the dependency had the whole time
         "circuit": None,              of a CircuitOpen: {"opened": "7 of 10 calls failed", "ago": 2.0, "for": 5.0}
         "facts": {},                  facts by which other errors are classified: {"errno": 104}
         "notes": [],                  notes of a Retry of this library
         "calls": [],                  the guarded calls that raised it, outermost first: see `call_report`
         "cleared": False,             whether the frames were cleared from which the calls could be known
         "switched_off": [],           the pipelines around it that were switched off (unnamed ones as "")
         "members": [],                of a group: the same for each of up to 5 errors
         "cause": None}                for an error that no guarded call raised: the same for its cause, if one did
        """
        return self._data

    @property
    def guarded(self) -> bool:
        """Whether a guarded call raised the error, or one of its causes or members; or has a record of the result."""
        data = self._data
        inner = [*data["members"], *([data["cause"]] if data["cause"] else [])]
        return bool(data["calls"]) or any(Why(each).guarded for each in inner)

    def __str__(self) -> str:
        return timeline(self._data)

    def __repr__(self) -> str:
        return f"<{str(self).partition(chr(10))[0]}>"


def why(outcome: object) -> Why:
    """Return the reason for which a guarded call raised this error, or returned this HTTP response.

    An error that no guarded call has raised is reported as such. Raises `TypeError` for anything else.
    """
    if issubclass(type(outcome), BaseException):
        return Why(_of_error(outcome, LINKS, judge=True))  # type: ignore[arg-type]
    extensions = getattr(outcome, "extensions", None)
    if isinstance(extensions, Mapping) and status_of(outcome) is not None:
        report = extensions.get("resilient")
        return Why(_of_result(report if isinstance(report, dict) and "steps" in report else None))
    raise TypeError(
        f"why() takes an exception, or a response of an HTTP transport, got {type(outcome).__name__}: "
        "for other results write `with recording() as calls:` (resilient.observe.why)"
    )


# -- results ---------------------------------------------------------------------------------------------------------


class Records(Sequence[Why]):
    """The calls that a `recording` has seen, oldest first: a `Why` for each."""

    def __init__(self, recorded: deque[Recorded]) -> None:
        self._recorded = recorded

    @overload
    def __getitem__(self, at: int) -> Why: ...

    @overload
    def __getitem__(self, at: slice) -> list[Why]: ...

    def __getitem__(self, at: int | slice) -> Why | list[Why]:
        if isinstance(at, slice):
            return [Why(_of_result(as_json(each))) for each in list(self._recorded)[at]]
        return Why(_of_result(as_json(self._recorded[at])))

    def __len__(self) -> int:
        return len(self._recorded)


@contextmanager
def recording(most: int = 100) -> Iterator[Records]:
    """`with recording() as calls:` collect the calls in the block that returned a result, but not at once: after
    further attempts, from a further copy, or by the answer of a Fallback. (A call that is not among them succeeded at
    its first attempt. A call that raised has its error: `why(error)`.)

    It sees the calls of the block itself and of functions and tasks that are called or started in it. The last `most`
    calls are kept.
    """
    recorded: deque[Recorded] = deque(maxlen=count("most", most))
    recorders.any = True
    token = recorders.current.set(recorded)
    try:
        yield Records(recorded)
    finally:
        recorders.current.reset(token)


def _of_result(report: dict[str, Any] | None) -> dict[str, Any]:
    """The data about a result."""
    return _data(None, report["ended"] if report else "success", calls=[report] if report else [])


# -- errors ----------------------------------------------------------------------------------------------------------


def _data(error: str | None, ended: str, **known: Any) -> dict[str, Any]:
    """The data about an outcome, in the shape of `Why.as_json`."""
    return {
        "error": error,
        "ended": ended,
        "text": "",
        "policy": "",
        "key": "",
        "code": "",
        "retry_after": None,
        "evidence": None,
        "circuit": None,
        "facts": {},
        "notes": [],
        "calls": [],
        "cleared": False,
        "switched_off": [],
        "members": [],
        "cause": None,
        **known,
    }


def _of_error(error: BaseException, links: int, *, judge: bool) -> dict[str, Any]:
    """The data about an error. `judge`: whether the user's classifier and key function may be called."""
    calls, off = _calls(error, judge=judge)
    ours = _is(error, ResilientError)
    if ours and not calls:
        if (kept := vars(error).get("_why")) is not None:
            return kept  # type: ignore[no-any-return]
        calls = _carried(error, _ending(error))
    data = _data(qualified_name(type(error)), _ending(error), calls=calls, switched_off=off, notes=_notes(error))
    data["cleared"] = not (calls or off) and next(guarded_frames(_traceback(error)), None) is not None
    if ours:
        data |= _details(error)
    elif is_group(type(error)):
        if links:
            members = [_of_error(each, 0, judge=judge) for each, _ in zip(leaves(error), range(MEMBERS), strict=False)]
            data["members"] = members
    elif isinstance(found := evidence_of(error), Evidence):
        data["facts"] = dict(found.facts)
    behind = _cause(error)
    if behind is None and not _is_suppressed(error):
        behind = _context(error)
    if not calls and links and behind is not None:
        cause = _of_error(behind, links - 1, judge=judge)
        if Why(cause).guarded:
            data["cause"] = cause
    return data


_traceback: Any = vars(BaseException)["__traceback__"].__get__
_cause: Any = vars(BaseException)["__cause__"].__get__
_context: Any = vars(BaseException)["__context__"].__get__
_is_suppressed: Any = vars(BaseException)["__suppress_context__"].__get__
"""These read attributes of an error itself, whatever a subclass defines."""


def _is(error: BaseException, kind: type[BaseException]) -> bool:
    """`isinstance` by the class alone: an error may lie about its class, or raise when it is asked."""
    return issubclass(type(error), kind)


def _ending(error: BaseException) -> str:
    """How a call ended that raised `error`."""
    found = [*leaves(error)]
    if all(_is(leaf, Rejected) for leaf in found):
        return "rejected"
    if all(_is(leaf, TimedOut) for leaf in found):
        return "timeout"
    return "failure" if _is(error, Exception) else "cancelled"


def _notes(error: BaseException) -> list[str]:
    """The notes that Retries have added to an error."""
    try:
        notes = getattr(error, "__notes__", None)
    except Exception:
        return []
    if not isinstance(notes, list):
        return []
    return [str(note) for note in notes if isinstance(note, str) and note.startswith("resilient: ")][:MEMBERS]


def _details(error: Any) -> dict[str, Any]:
    """What an error of this library carries."""
    found: dict[str, Any] = {"text": str(reason_of(error)), "policy": error.policy, "key": error.key}
    if _is(error, Rejected):
        found |= {"retry_after": error.retry_after, "code": error.code}
    if _is(error, TimedOut):
        found["evidence"] = error.evidence
    if _is(error, CircuitOpen) and error.opening is not None:
        opening, left = error.opening, error.retry_after
        ago = None if left is None or left > opening.seconds else round(opening.seconds - left, 6)
        found["circuit"] = {
            "opened": opening.reason,
            "ago": ago,
            "for": round(opening.seconds, 6) if opening.seconds < float("inf") else None,
        }
    return found


def _carried(error: Any, ended: str) -> list[dict[str, Any]]:
    """The report of the call that raised an error of this library, from the error alone: its traceback is gone."""
    recorded: Recorded | None = vars(error).get("_recorded")
    if recorded is not None:
        found = steps_of(recorded.history, recorded.elapsed)
        return [report_of(recorded, found, ended, max(1, found.attempts))]
    if not (error.pipeline or error.policy):
        return []  # made by hand
    return [report_of(Recorded(error.pipeline, "a call", error.key, [], None), Steps(), ended, 1)]


def _calls(error: BaseException, *, judge: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The reports of the guarded calls through which an error came, outermost first; and the names of pipelines around
    it that were switched off."""
    reports: list[dict[str, Any]] = []
    off: list[str] = []
    seen: set[int] = set()
    for guard in _guards(error):
        call = new_call(guard.fn, (), {}, None) if guard.call is None else guard.call.origin
        if guard.off:
            off.append(guard.context.name)
        elif guard.call is None or id(call) not in seen:
            seen.add(id(call))
            reports.append(_report(call, guard, error, judge=judge))
    return reports, off


class _Guard(NamedTuple):
    """A guarded call in the traceback of an error.

    Attributes:
        call: None for a call that was not made because nothing needed it.
        context: of its pipeline.
        fn: its function.
        begin: the time at which it began, if a listener or an exporter needs that; else None.
        off: whether the pipeline was switched off.
    """

    call: Call | None
    context: PipelineContext
    fn: Any
    begin: float | None = None
    off: bool = False


def _guards(error: BaseException) -> Iterator[_Guard]:
    """The guarded calls in the traceback of an error."""
    for frame in guarded_frames(_traceback(error)):
        names = frame.f_locals
        call, context = names.get("call"), names.get("context")
        if context is not None:  # else the frame was cleared
            off = call is None and "count" not in names
            yield _Guard(call, context, names["fn"], names.get("since"), off)
    trace = _traceback(error)
    while trace is not None:
        block = block_of(trace.tb_frame)
        if block is not None:
            call, context = block
            yield _Guard(call, context, call.fn)
        trace = trace.tb_next


def _report(call: Call, guard: _Guard, error: BaseException, *, judge: bool) -> dict[str, Any]:
    """The report of one call that raised `error`."""
    context = guard.context
    history: list[Any] = getattr(call, "history", None) or []
    elapsed: float | None = getattr(call, "elapsed", None)
    found = steps_of(history, elapsed)
    if guard.begin is not None and found.steps and (first := found.steps[0]).kind == "attempt" and not first.seconds:
        found.steps[0] = replace(first, seconds=max(0.0, first.at - guard.begin - first.queued))
    shown: Any = bare(error) if _is(error, Exception) else error  # type: ignore[arg-type]
    if not found.steps and not _is(shown, Rejected):
        status = status_of_outcome(shown)
        seconds = getattr(call, "elapsed", None)
        found.steps = [Step("attempt", 0.0, call.attempt, seconds, call.waited, type(shown), status, text_of(shown))]
    key = key_of(call, context) if judge else getattr(error, "key", "")
    words = context.call_options.words(call) if judge or call.args else name_of(call.fn)
    report = report_of(Recorded(context.name, words, key, history, elapsed), found, _ending(error), call.attempt)
    if judge and not report["reason"] and _is(error, Exception) and report["ended"] == "failure":
        report["reason"] = _not_repeated(call, context, error)
    return report


def _not_repeated(call: Call, context: PipelineContext, error: Any) -> str:
    """The reason for which no policy has repeated a call that raised `error` at its first attempt; "" if it is not
    known."""
    if is_callback_error(error):
        return "your own code raised it, which the pipeline calls: a classifier, a predicate, a key, a hook"
    if not context.repeats:
        return "no policy of the pipeline repeats a call"
    try:
        verdict = context.classifier.error(bare(error))
        if verdict.final:
            return "it must not be sent again"
        if not verdict.worth_repeating:
            return "not worth repeating"
        return "" if getattr(call, "history", None) else "no policy of the pipeline repeats this error"
    except Exception:  # of the user's classifier
        return ""


def kept_with(error: ResilientError) -> dict[str, Any] | None:
    """The data that goes with an error of this library when it is pickled or copied; None: nothing is known beyond the
    attributes of the error."""
    known: Any = vars(error).keys() & {"_recorded", "_why"} or next(_guards(error), None)
    try:
        return _of_error(error, LINKS, judge=False) if known else None
    except Exception:  # an attribute that raises: the error pickles without
        return None
