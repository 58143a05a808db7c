"""Counts the calls and attempts of a pipeline by how they ended, for metrics.

Each ending has the verdict that the policies use (see `resilient.events.CallEnded`). A call that succeeds at once is
counted by the outermost gate layer itself (`CallCount.at_once`), and an attempt that succeeds by the layer around it;
the functions here count everything else. A result that is still open (the body of a streamed response) is counted when
it has ended.
"""

from __future__ import annotations

import asyncio
from typing import Any

from resilient import errors
from resilient._atomic import GIL
from resilient.core.call import Call, new_call
from resilient.core.callbacks import CallbackError
from resilient.core.classify import IGNORED, SUCCESS, Verdict
from resilient.core.context import PipelineContext
from resilient.core.gate import Withdrawn
from resilient.core.known_errors import has_only_message
from resilient.errors import TimedOut, is_group, leaves
from resilient.events.counters import Counters
from resilient.events.records import CallEnding

__all__ = ["CutByDeadline", "Endings", "ending_of", "verdict_on_error", "verdict_on_result"]

_REFUSALS = (
    errors.BulkheadFull,
    errors.CircuitOpen,
    errors.LimitExceeded,
    errors.PipelineClosed,
    errors.RateLimited,
    errors.Rejected,
)

_KNOWN: dict[type, tuple[CallEnding, str]] = {
    **dict.fromkeys(_REFUSALS, ("rejected", "nothing")),
    asyncio.CancelledError: ("cancelled", "nothing"),
    GeneratorExit: ("cancelled", "nothing"),
}
"""The ending and the verdict by the class of an error, where the class decides: asking costs more than an open circuit
takes to refuse a call."""


class CutByDeadline(asyncio.CancelledError):
    """A cancellation by a deadline, as the code that drives a call raises it into the call. Gates treat it as a
    cancellation: the age of the call decides whether it is a failure. The call counts as `error`, a `TimedOut`."""

    def __init__(self, error: TimedOut) -> None:
        super().__init__()
        self.error = error


class Endings:
    """Counts the calls of one pipeline, and the attempts inside it.

    Args:
        context: of the pipeline, whose classifier decides what an outcome means.
        attempts: the counters of the attempts; default those of `context`. (For a nested pipeline: those of the
            outermost one.)
        substitutes: whether a policy of the pipeline can answer in place of the dependency.
    """

    __slots__ = ("_attempts", "_context", "_counters", "_judges", "_lifecycle", "_may_be_open", "_substitutes")

    def __init__(
        self, context: PipelineContext, attempts: Counters | None = None, *, substitutes: bool = False
    ) -> None:
        self._context = context
        self._counters = context.counters
        self._attempts = attempts or context.counters
        self._judges = context.classifier.judges_results
        self._lifecycle = context.lifecycle
        self._may_be_open = context.lifecycle.may_be_open
        self._substitutes = substitutes

    # -- calls ------------------------------------------------------------------------------------------------------

    def call_failed(self, call: Call | None, error: BaseException) -> None:
        """Count a call that has raised `error`. `call`: None if the pipeline has made none."""
        ending, verdict = _KNOWN.get(type(error)) or self._of_error(call, error)
        if GIL:  # `Counters.count`, inlined
            self._counters.counts["calls", ending, verdict] += 1
        else:
            self._counters.count("calls", ending, verdict)

    def call_returned(self, call: Call, result: Any) -> None:
        """Count a call that has returned `result`: at once, or, if that is still open, when it has ended."""
        if self._substitutes and call.is_substituted:
            self._counters.count("calls", "success", "nothing")
            return
        kind = verdict_on_result(call, self._context, result).kind if self._judges else "success"
        if kind == "failure":
            self._counters.count("calls", "failure", kind)
        elif self._may_be_open and self._lifecycle.is_open(result):
            self._lifecycle.follow(result, _CountLater(self._counters, "calls", kind))
        else:
            self._counters.count("calls", "success", kind)

    # -- attempts ---------------------------------------------------------------------------------------------------

    def attempt_failed(self, call: Call, error: BaseException, begin: float | None) -> None:
        """Count an attempt that has raised `error`. `begin`: the time at which it began, if that was read."""
        kind = type(error)
        if kind is Withdrawn:
            return
        ending, verdict = _KNOWN.get(kind) or self._of_error(call, error)
        counters = self._attempts
        if GIL:
            counters.counts["attempts", ending, verdict] += 1
        else:
            counters.count("attempts", ending, verdict)
        if begin is not None and counters.records_attempts:
            counters.record_attempt(ending, call.begin().now() - begin)

    def attempt_returned(self, call: Call, result: Any, begin: float | None) -> None:
        """Count an attempt that has returned `result`, as for calls."""
        counters = self._attempts
        kind = verdict_on_result(call, self._context, result).kind if self._judges else "success"
        if begin is not None and counters.records_attempts:
            counters.record_attempt("failure" if kind == "failure" else "success", call.begin().now() - begin)
        if kind == "failure":
            counters.count("attempts", "failure", kind)
        elif self._may_be_open and self._lifecycle.is_open(result):
            self._lifecycle.follow(result, _CountLater(counters, "attempts", kind))
        else:
            counters.count("attempts", "success", kind)

    def _of_error(self, call: Call | None, error: BaseException) -> tuple[str, str]:
        """The ending and the verdict of an error whose class does not decide them for all pipelines."""
        kind, context = type(error), self._context
        known = None if call is None else call.verdict
        if known is not None and known[1] is error and known[0] is context.classifier:
            verdict: Any = known[2]
            if type(verdict) is Verdict:
                return ending_of(error, verdict), verdict.kind
        usual = context.usual.get(kind)
        if usual is not None and has_only_message(error):  # as `PipelineContext.on_error`
            return "timeout" if issubclass(kind, TimedOut) else "failure", usual.kind
        if kind is CutByDeadline:
            error = error.error  # type: ignore[attr-defined]
        if call is None:
            call = new_call(_unknown, (), {}, None)
        verdict = verdict_on_error(call, context, error)
        return ending_of(error, verdict), verdict.kind


def _unknown() -> None:
    """The function of a call that is made only to keep a verdict."""


def ending_of(error: BaseException, verdict: Verdict) -> CallEnding:
    """How a call ended that has raised `error`."""
    kind = type(error)
    if verdict.refused:
        return "rejected"
    if issubclass(kind, TimedOut):
        return "timeout"
    if is_group(kind) and all(issubclass(type(leaf), TimedOut) for leaf in leaves(error)):
        return "timeout"
    return "failure" if issubclass(kind, Exception) else "cancelled"


class _CountLater:
    """Counts a result that was open when it was returned: an `EndObserver`. If its reader leaves it, the call was
    cancelled."""

    __slots__ = ("counters", "kind", "metric")

    def __init__(self, counters: Counters, metric: str, kind: str) -> None:
        self.counters = counters
        self.metric = metric
        self.kind = kind

    def learn(self, error: Exception | None) -> None:
        if error is None:
            self.counters.count(self.metric, "success", self.kind)
        else:
            self.counters.count(self.metric, ending_of(error, IGNORED), "failure")

    def drop(self, *, collected: bool = False) -> None:
        self.counters.count(self.metric, "cancelled", "nothing")


# -- verdicts --------------------------------------------------------------------------------------------------------


def verdict_on_result(call: Call, context: PipelineContext, result: Any) -> Verdict:
    """Return the verdict of the policies on a result. An error of the classifier is raised by the first policy that
    needs the verdict, not here."""
    if not context.classifier.judges_results:
        return SUCCESS
    try:
        return context.on_result(call, result)
    except CallbackError:
        return IGNORED


def verdict_on_error(call: Call, context: PipelineContext, error: BaseException) -> Verdict:
    """Return the verdict of the policies on an error, as for results. A BaseException that is no Exception is
    ignored."""
    if not issubclass(type(error), Exception):
        return IGNORED
    known = call.verdict
    if known is not None and known[1] is error and known[0] is context.classifier and known[2] is IGNORED:
        return IGNORED  # `raise_callback_error` has marked it: the type of the error does not show the mistake
    try:
        return context.on_error(call, error)  # type: ignore[arg-type]
    except CallbackError:
        return IGNORED
