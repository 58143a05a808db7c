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
from resilient.events.counters import Counter, Counters
from resilient.events.records import CallEnding, VerdictKind

__all__ = ["CutByDeadline", "Endings", "ending_of", "verdict_on_error", "verdict_on_result"]

_REFUSALS = (
    errors.BulkheadFull,
    errors.CircuitOpen,
    errors.LimitExceeded,
    errors.PipelineClosed,
    errors.RateLimited,
    errors.Rejected,
)

_KNOWN: dict[type, tuple[CallEnding, VerdictKind]] = {
    **dict.fromkeys(_REFUSALS, ("rejected", "nothing")),
    asyncio.CancelledError: ("cancelled", "nothing"),
    GeneratorExit: ("cancelled", "nothing"),
}
"""The ending and the verdict by the class of an error, where the class decides."""


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

    Attributes:
        counters: of the pipeline.
        succeeded: the counter of calls that succeeded, if every result is a success that is known at once; else None.
        decided: the counter of calls that raised an error of this class, for classes that decide how a call ended. Not
            to be used without a GIL.
    """

    __slots__ = (
        "_attempts",
        "_attempts_by_class",
        "_attempts_returned",
        "_calls_by_class",
        "_calls_returned",
        "_context",
        "_judges",
        "_lifecycle",
        "_may_be_open",
        "_substitutes",
        "counters",
        "decided",
        "succeeded",
    )

    def __init__(
        self, context: PipelineContext, attempts: Counters | None = None, *, substitutes: bool = False
    ) -> None:
        self._context = context
        self.counters = context.counters
        self._attempts = attempts or context.counters
        self._judges = context.classifier.judges_results
        self._lifecycle = context.lifecycle
        self._may_be_open = context.lifecycle.may_be_open
        self._substitutes = substitutes
        self.decided = {kind: self.counters.counter("calls", *known) for kind, known in _KNOWN.items()} if GIL else {}
        self._calls_by_class: _ByClass = {
            kind: (self.counters.counter("calls", *known), True) for kind, known in _KNOWN.items()
        }
        is_plain = GIL and not (self._judges or self._may_be_open or substitutes)
        self.succeeded = self.counters.counter("calls", "success", "success") if is_plain else None
        self._calls_returned = _by_verdict(self.counters, "calls")
        self._attempts_returned = _by_verdict(self._attempts, "attempts")
        self._attempts_by_class = {
            kind: (self._attempts.counter("attempts", *known), True) for kind, known in _KNOWN.items()
        }

    # -- calls ------------------------------------------------------------------------------------------------------

    def call_failed(self, call: Call | None, error: BaseException) -> None:
        """Count a call that has raised `error`. `call`: None if the pipeline has made none."""
        counter, by_class = self._calls_by_class.get(type(error), _UNSEEN)
        if not (by_class or (counter is not None and has_only_message(error))):
            counter = self._counter_of(self.counters, "calls", self._calls_by_class, call, error)
        if GIL:
            counter.number += 1  # type: ignore[union-attr]  # `Counter.add`, inlined
        else:
            counter.add()  # type: ignore[union-attr]

    def call_returned(self, call: Call, result: Any) -> None:
        """Count a call that has returned `result`: at once, or, if that is still open, when it has ended."""
        if self._substitutes and call.is_substituted:
            self._calls_returned["nothing"].add()
            return
        kind = self._kind_of(call, result) if self._judges else "success"
        if kind != "failure" and self._may_be_open and self._lifecycle.is_open(result):
            self._lifecycle.follow(result, _CountLater(self.counters, "calls", kind))
        else:
            self._calls_returned[kind].add()

    # -- attempts ---------------------------------------------------------------------------------------------------

    def attempt_failed(self, call: Call | None, error: BaseException, begin: float | None) -> None:
        """Count an attempt that has raised `error`. `begin`: the time at which it began, if that was read."""
        counter, by_class = self._attempts_by_class.get(type(error), _UNSEEN)
        counters = self._attempts
        if not (by_class or (counter is not None and has_only_message(error))):
            if type(error) is Withdrawn:
                return
            counter = self._counter_of(counters, "attempts", self._attempts_by_class, call, error)
        if GIL:
            counter.number += 1  # type: ignore[union-attr]
        else:
            counter.add()  # type: ignore[union-attr]
        if begin is not None and counters.records_attempts and call is not None:
            counters.record_attempt(self.of_error(call, error)[0], call.begin().now() - begin)

    def attempt_returned(self, call: Call, result: Any, begin: float | None) -> None:
        """Count an attempt that has returned `result`, as for calls."""
        counters = self._attempts
        kind = self._kind_of(call, result) if self._judges else "success"
        if begin is not None and counters.records_attempts:
            counters.record_attempt("failure" if kind == "failure" else "success", call.begin().now() - begin)
        if kind != "failure" and self._may_be_open and self._lifecycle.is_open(result):
            self._lifecycle.follow(result, _CountLater(counters, "attempts", kind))
        else:
            self._attempts_returned[kind].add()

    def of_result(self, call: Call, result: Any) -> CallEnding:
        """The ending of a call that has returned `result`."""
        return "failure" if self._judges and self._kind_of(call, result) == "failure" else "success"

    def _kind_of(self, call: Call, result: Any) -> VerdictKind:
        """The verdict on a result."""
        known = call.verdict
        if known is not None and known[1] is result and known[0] is self._context.classifier:
            verdict = known[2]
            return verdict.kind if type(verdict) is Verdict else "nothing"
        return verdict_on_result(call, self._context, result).kind

    def _counter_of(
        self, counters: Counters, metric: str, by_class: _ByClass, call: Call | None, error: BaseException
    ) -> Counter:
        """The counter of an error that `by_class` does not decide. Adds its class, if it decides for others."""
        counter = counters.counter(metric, *self.of_error(call, error))
        kind = type(error)
        if kind in self._context.usual and has_only_message(error) and len(by_class) < MOST_CLASSES:
            by_class[kind] = counter, False
        return counter

    def of_error(self, call: Call | None, error: BaseException) -> tuple[CallEnding, VerdictKind]:
        """The ending and the verdict of an error whose class does not decide them for all pipelines."""
        kind, context = type(error), self._context
        if kind in _KNOWN:
            return _KNOWN[kind]
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


def _by_verdict(counters: Counters, metric: str) -> dict[VerdictKind, Counter]:
    """The counters of calls or attempts that have returned, by the verdict on their result."""
    endings: dict[VerdictKind, CallEnding] = {"success": "success", "failure": "failure", "nothing": "success"}
    return {verdict: counters.counter(metric, ending, verdict) for verdict, ending in endings.items()}


_ByClass = dict[type, tuple[Counter, bool]]

_UNSEEN: tuple[Counter | None, bool] = None, False

MOST_CLASSES = 256
"""The most classes of errors for which a counter is kept, because some programs make new classes without end."""


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
