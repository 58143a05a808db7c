"""Events as lines of the standard log, each kind at a fitting level, and few lines while a dependency is down.

    from resilient.observe.logging import log_events

    stop = log_events()             # all pipelines; `log_events(users)` for one; `stop()` ends it

    level     what
    warning   a circuit opened or was isolated; retries gave up; a call was refused or timed out; a fallback answered;
              a budget was exhausted; abandoned work failed; chaos halted
    info      a circuit closed or half-opened; a retry, a hedge or a wait; abandoned work ended well; what a policy in
              shadow mode would have done; a fault that chaos injected
    debug     each attempt; each hedge that won; each new limit of an AdaptiveLimit

A returned attempt and an ended call have no line: every call has both, and failures have been logged before.

While a dependency is down, thousands of calls a second are refused, all for one reason. So one policy of one pipeline
has one line of a kind every few seconds, which says how many were left out since the line before. Changes of a circuit
are logged one by one, because the last one must not be missing. But there may be many policies, one for each key
(`Keyed`), and keys may come from outside: so a pipeline has no more than `LINES` lines of a kind in that time, changes
included. At level debug there is no limit, because that level is for every line.

No argument and no result is ever logged. Of an error the type is logged, at debug too, and never the message, which may
quote what was sent: h11's messages quote header values, httpx's have queries. (Events have the error.) For structured
logs the records have the contents of the line as attributes (`extra=`): `event`, `pipeline`, `suppressed`, and the
event's own fields (`policy`, `attempt`, `wait`, ...; of an error its `error_type`).
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields

from resilient import _validation, events
from resilient._atomic import renew_in_forked_child
from resilient.events import Event
from resilient.pipeline import Pipeline

__all__ = ["EventLog", "log_events", "text_of"]

LINES = 100
"""The most lines of one kind from one pipeline in an interval, of all its policies together."""

UNLOGGED = (events.AttemptReturned, events.CallEnded)
"""Kinds of events that are not logged: every call and every attempt has one."""

KINDS = 1_000
"""The most combinations of pipeline, policy and kind of which records are kept. With more, the record with no event for
the longest time is dropped."""


def log_events(
    pipeline: Pipeline | None = None, *, logger: logging.Logger | None = None, interval: float = 5.0
) -> Callable[[], None]:
    """Log the events of one pipeline, or of all. Returns a function that stops it.

    Args:
        pipeline: whose events; None: of every pipeline, also of those built later.
        logger: default the logger "resilient.events".
        interval: seconds between two lines of one kind from one policy of one pipeline, and in which one pipeline has
            at most 100 lines of a kind; 0: every event has its line.
    """
    if pipeline is not None and not isinstance(pipeline, Pipeline):
        raise TypeError(f"pipeline must be a Pipeline or None, got {pipeline!r}")
    listener = EventLog(logger, interval=interval)
    kinds = [kind for kind in Event.__subclasses__() if kind not in UNLOGGED]
    return (events.listen if pipeline is None else pipeline.listen)(listener, *kinds)


class EventLog:
    """The listener behind `log_events`. It takes the time from the events, so intervals are right in virtual time
    too."""

    def __init__(self, logger: logging.Logger | None = None, *, interval: float = 5.0) -> None:
        if logger is not None and not isinstance(logger, logging.Logger):
            raise TypeError(f"logger must be a logging.Logger or None, got {logger!r}")
        self.logger = logger or logging.getLogger("resilient.events")
        self.interval = _validation.seconds("interval", interval, zero=True)
        self._lock = threading.RLock()
        self._logged: OrderedDict[tuple[str, ...], _Line] = OrderedDict()  # by policy, longest silent first
        self._budgets: OrderedDict[tuple[str, ...], _Line] = OrderedDict()  # by pipeline, longest silent first

        renew_in_forked_child(self)

    def renew(self) -> None:
        """In a forked child: take a new lock."""
        self._lock = threading.RLock()

    def __call__(self, event: Event) -> None:
        if isinstance(event, UNLOGGED):
            return
        level = _level(event)
        if not self.logger.isEnabledFor(level):
            return
        limited = level > logging.DEBUG and not isinstance(event, events.ChaosHalted)
        suppressed = self._suppressed(event) if limited else 0
        if suppressed is None:
            return
        more = f" ({suppressed} more since the line before)" if suppressed else ""
        self.logger.log(level, "%s%s", text_of(event), more, extra=_attributes(event, suppressed))

    def _suppressed(self, event: Event) -> int | None:
        """None: do not log this event. Otherwise: how many events of this kind were left out since the last line."""
        kind = (event.pipeline, type(event).__name__)
        one_by_one = isinstance(event, events.CircuitChanged)
        with self._lock:
            line = self._line(self._logged, (*kind, "" if one_by_one else getattr(event, "policy", "")))
            if not one_by_one and self._is_recent(line, event):
                line.suppressed += 1
                return None
            budget = self._line(self._budgets, kind)
            if not self._is_recent(budget, event):
                budget.at, budget.lines = event.at, 0
            elif budget.lines >= LINES:
                budget.suppressed += 1
                return None
            budget.lines += 1
            line.at = event.at
            suppressed = line.suppressed + budget.suppressed
            line.suppressed = budget.suppressed = 0
            return suppressed

    def _is_recent(self, line: _Line, event: Event) -> bool:
        return 0 <= event.at - line.at < self.interval  # a time that went back is of another clock

    def _line(self, lines: OrderedDict[tuple[str, ...], _Line], key: tuple[str, ...]) -> _Line:
        """Return the record of a kind, made if it is new. With more than `KINDS` records, the one with no event for the
        longest time is dropped."""
        line = lines.get(key)
        if line is None:
            line = lines[key] = _Line()
            if len(lines) > KINDS:
                gone, old = lines.popitem(last=False)
                budget = self._budgets.get(gone[:2])
                if budget is not None:
                    budget.suppressed += old.suppressed
        else:
            lines.move_to_end(key)
        return line


class _Line:
    """The record of a kind of event: when it was last logged, and how many events came since. For a whole pipeline:
    since when its `lines` are counted."""

    __slots__ = ("at", "lines", "suppressed")

    def __init__(self) -> None:
        self.at = -math.inf
        self.lines = 0
        self.suppressed = 0


def _level(event: Event) -> int:
    match event:
        case events.AttemptStarted() | events.AttemptFailed() | events.HedgeWon() | events.LimitChanged():
            return logging.DEBUG
        case events.CircuitChanged(new="open" | "isolated") | events.GaveUp() | events.CallTimedOut():
            return logging.WARNING
        case events.ChaosHalted():
            return logging.WARNING
        case events.CallRejected(shadow=False) | events.BudgetExhausted() | events.FellBack():
            return logging.WARNING
        case events.AbandonedEnded(error=BaseException()):
            return logging.WARNING
    return logging.INFO


def text_of(event: Event) -> str:
    """Return a few words about an event, after the names of pipeline and policy."""
    match event:
        case events.AttemptStarted():
            what = f"attempt {event.attempt} of {event.function}"
        case events.AttemptFailed():
            what = f"attempt {event.attempt} of {event.function} failed after {event.elapsed:.3g} s{_by(event.error)}"
        case events.AttemptReturned():
            bad = ", with a result that is a failure" if event.failed else ""
            what = f"attempt {event.attempt} of {event.function} returned after {event.elapsed:.3g} s{bad}"
        case events.CallEnded():
            plural = "s"[: event.requests != 1]
            what = (
                f"{event.function} ended after {event.elapsed:.3g} s and {event.requests} request{plural}"
                f"{_by(event.error)}: {event.ending}"
            )
        case events.Retrying():
            follows = "would have followed" if event.shadow else "follows"
            what = f"attempt {event.attempt} failed{_by(event.error)}, the next {follows} in {event.wait:.3g} s"
        case events.GaveUp():
            what = (
                f"gave up after {event.attempts} attempt{'s'[: event.attempts != 1]}{_by(event.error)}: {event.reason}"
            )
        case events.Hedging():
            what = f"copy {event.copy} of a call {'would have begun' if event.shadow else 'begins'} ({event.reason})"
        case events.HedgeWon():
            what = f"copy {event.copy} of {event.copies} won"
        case events.BudgetExhausted():
            what = f"no {event.what}: the budget for extra requests is exhausted"
        case events.FellBack():
            what = f"answered in place of a call that failed{_by(event.error)}"
        case events.AbandonedEnded():
            what = f"abandoned work ended after {event.elapsed:.3g} s{_by(event.error)}"
        case events.Queued():
            what = f"a call waits as number {event.position} in the queue"
        case events.Waited():
            what = f"a call waited {event.seconds:.3g} s ({event.why})"
        case events.CallRejected():
            what = f"{'would have ' if event.shadow else ''}refused a call: {event.reason}"
        case events.CallTimedOut():
            what = f"a call timed out after {event.seconds:g} s"
        case events.FaultInjected():
            what = f"injected a fault: {event.fault}"
        case events.ChaosHalted():
            what = f"halted: {event.reason}"
        case events.LimitChanged():
            what = f"limit {event.old} -> {event.new}: {event.reason}"
        case events.CircuitChanged():
            what = f"{event.old} -> {event.new}: {event.reason}"
        case _:
            what = type(event).__name__
    return ": ".join(part for part in (event.pipeline, getattr(event, "policy", ""), what) if part)


def _by(error: BaseException | None) -> str:
    return "" if error is None else f" with {type(error).__name__}"


def _attributes(event: Event, suppressed: int) -> dict[str, object]:
    attributes: dict[str, object] = {"event": type(event).__name__, "suppressed": suppressed}
    for field in fields(event):
        value = getattr(event, field.name)
        if field.name == "error":
            attributes["error_type"] = None if value is None else type(value).__name__
        else:
            attributes[field.name] = value
    return attributes
