"""Events as lines of the log, each kind at a fitting level, and few lines while a dependency is down.

    from resilient.observe.logging import log_events

    stop = log_events()             # all pipelines; `log_events(users)` for one; `stop()` ends it
    stop = log_events(logger=structlog.get_logger())            # structlog, or a logger of the same kind

    level     what
    warning   a circuit opened or was isolated; retries gave up; a call was refused or timed out; a fallback answered;
              a budget was exhausted; abandoned work failed; chaos halted
    info      a circuit closed or half-opened; a retry, a hedge or a wait; abandoned work ended well; what a policy in
              shadow mode would have done; a fault that chaos injected
    debug     each attempt; each hedge that won; each new limit of an AdaptiveLimit

A returned attempt and an ended call have no line: every call has both, and failures have been logged before.

While a dependency is down, thousands of calls a second are refused, all for one reason. So of a kind of event from one
policy of one pipeline the first has a line, and then only some have one:

- by time (the default): one every `interval` seconds;
- by number (`every=1000`): every thousandth. After `interval` seconds without such an event the next is a first again.

Each line has the number of its event since the first (`count`), and how many were left out since the line before
(`suppressed`). Changes of a circuit are logged one by one, because the last one must not be missing; the line has the
refusals of this circuit that were left out until then (`refused`), so an outage ends with its full count. But there may
be many policies, one for each key (`Keyed`), and keys may come from outside: so a pipeline has no more than `LINES`
lines of a kind in `interval` seconds, changes included. At level debug there is no limit, because that level is for
every line.

A line of the standard log is a text; the record has the contents as attributes (`extra=`), for JSON formatters:
`event` (the kind, as "CircuitChanged"), `pipeline`, `count`, `suppressed`, and the event's own fields (`policy`,
`attempt`, `wait`, ...; of an error its `error_type`). A structlog logger gets the same as keys and values, and the kind
as its event: `logger.warning("CircuitChanged", pipeline="users", policy="CircuitBreaker", old="closed", new="open",
...)`. Values are strings, finite numbers, booleans or None; anything else is written as text. A field of a class of
your own that is called as an attribute of log records (`name`, `module`, ...) gets a prefix: `event_name`.

No argument and no result is ever logged. Of an error the type is logged, at debug too, and never the message, which may
quote what was sent: h11's messages quote header values, httpx's have queries. (Events have the error.)
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Protocol, cast

from resilient import _validation, events
from resilient._atomic import renew_in_forked_child
from resilient.events import Event
from resilient.observe.event_text import level_of, text_of
from resilient.pipeline import Pipeline

__all__ = ["EventLog", "KeyValueLogger", "log_events", "text_of"]

LINES = 100
"""The most lines of one kind from one pipeline in an interval, of all its policies together."""

UNLOGGED = (events.AttemptReturned, events.CallEnded)
"""Kinds of events that are not logged: every call and every attempt has one."""

ATTEMPTS = (events.AttemptStarted, events.AttemptFailed)
"""Kinds of events that are logged at level debug, and cost each call something."""

KINDS = 1_000
"""The most combinations of pipeline, policy and kind of which records are kept. With more, the record with no event for
the longest time is dropped."""

METHODS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning"}
"""The methods of a logger of keys and values, by level."""


class KeyValueLogger(Protocol):
    """A logger that takes an event and its values by name, as structlog's bound loggers do."""

    def debug(self, event: str, /, **values: Any) -> Any: ...
    def info(self, event: str, /, **values: Any) -> Any: ...
    def warning(self, event: str, /, **values: Any) -> Any: ...


def log_events(
    pipeline: Pipeline | None = None,
    *,
    logger: logging.Logger | KeyValueLogger | None = None,
    interval: float = 5.0,
    every: int | None = None,
    attempts: bool | None = None,
) -> Callable[[], None]:
    """Log the events of one pipeline, or of all. Returns a function that stops it.

    Args:
        pipeline: whose events; None: of every pipeline, also of those built later.
        logger: a `logging.Logger`, or a bound logger of structlog; default the logger "resilient.events" of `logging`.
        interval: seconds between two lines of one kind from one policy of one pipeline, and in which one pipeline has
            at most 100 lines of a kind; 0: every event has its line.
        every: lines by number, not by time: of a kind from one policy of one pipeline the first event has a line, and
            then the n-th, the 2n-th, ... After `interval` seconds without one, counting starts again.
        attempts: whether each attempt has its line, at level debug. None: if `logger` is a `logging.Logger` that writes
            that level now; a logger of structlog writes all levels by default, so there it means no. A listener of
            attempts makes every call, also one that succeeds, three times as expensive; without it a call that succeeds
            costs what it costs without a log.
    """
    if pipeline is not None and not isinstance(pipeline, Pipeline):
        raise TypeError(f"pipeline must be a Pipeline or None, got {pipeline!r}")
    listener = EventLog(logger, interval=interval, every=every)
    if attempts is None:
        attempts = isinstance(listener.logger, logging.Logger) and listener.logger.isEnabledFor(logging.DEBUG)
    left_out = UNLOGGED if _validation.flag("attempts", attempts) else (*UNLOGGED, *ATTEMPTS)
    kinds = [kind for kind in Event.__subclasses__() if kind not in left_out]
    return (events.listen if pipeline is None else pipeline.listen)(listener, *kinds)


class EventLog:
    """The listener behind `log_events`. It takes the time from the events, so intervals are right in virtual time
    too."""

    def __init__(
        self,
        logger: logging.Logger | KeyValueLogger | None = None,
        *,
        interval: float = 5.0,
        every: int | None = None,
    ) -> None:
        self.interval = _validation.seconds("interval", interval, zero=True)
        self.every = None if every is None else _validation.count("every", every)
        if every is not None and not self.interval:
            raise ValueError(f"every={every!r} needs an interval above 0: with interval=0 every event has its line")
        self.logger: logging.Logger | KeyValueLogger
        self.logger = logging.getLogger("resilient.events") if logger is None else _checked(logger)
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
        level = level_of(event)
        if not _is_enabled(self.logger, level):
            return
        limited = level > logging.DEBUG and not isinstance(event, events.ChaosHalted)
        counts = self._counts(event) if limited else {"count": 1, "suppressed": 0}
        if counts is None:
            return
        values = {**_attributes(event), **counts}
        if isinstance(self.logger, logging.Logger):
            self.logger.log(level, "%s%s", text_of(event), _left_out(counts), extra=values)
        else:
            getattr(self.logger, METHODS[level])(values.pop("event"), **values)

    def _counts(self, event: Event) -> dict[str, int] | None:
        """None: do not log this event. Otherwise: the counts that its line has."""
        kind = (event.pipeline, type(event).__name__)
        policy: str = getattr(event, "policy", "")
        one_by_one = isinstance(event, events.CircuitChanged)
        with self._lock:
            line = self._line(self._logged, (*kind, "" if one_by_one else policy))
            if not abs(event.at - line.seen) < self.interval:
                line.count = 0
            line.count += 1
            line.seen = event.at
            if not (one_by_one or self._is_due(line, event)):
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
            counts = {"count": line.count, "suppressed": line.suppressed + budget.suppressed}
            line.suppressed = budget.suppressed = 0
            if one_by_one:
                refusals = self._logged.get((event.pipeline, events.CallRejected.__name__, policy))
                counts["refused"] = 0
                if refusals is not None:
                    counts["refused"], refusals.suppressed = refusals.suppressed, 0
            return counts

    def _is_due(self, line: _Line, event: Event) -> bool:
        """Whether an event, which is counted already, has a line as far as its own kind and policy go."""
        if self.every is None:
            return not self._is_recent(line, event)
        return line.count == 1 or line.count % self.every == 0

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
    """The record of a kind of event: when it was last logged (`at`) and last seen, how many events came since the first
    (`count`) and since the last line (`suppressed`). For a whole pipeline: since when (`at`) its `lines` are counted,
    and the events left out since."""

    __slots__ = ("at", "count", "lines", "seen", "suppressed")

    def __init__(self) -> None:
        self.at = self.seen = -math.inf
        self.count = 0
        self.lines = 0
        self.suppressed = 0


def _left_out(counts: dict[str, int]) -> str:
    """Return the end of a line of text: the counts that are not 0."""
    suppressed, refused = counts["suppressed"], counts.get("refused", 0)
    said = []
    if suppressed:
        number = "" if "refused" in counts else f"number {counts['count']}, "
        said.append(f"{number}{suppressed} more since the line before")
    if refused:
        said.append(f"{refused} more calls refused")
    return f" ({'; '.join(said)})" if said else ""


def _checked(logger: object) -> logging.Logger | KeyValueLogger:
    """Check a logger: one of `logging`, or any object with the methods of a structlog logger.

    An adapter of `logging` is refused, because up to Python 3.12 it drops `extra`. So is an async logger, because
    nothing would await it.
    """
    if isinstance(logger, logging.Logger):
        return logger
    if isinstance(logger, logging.LoggerAdapter):
        raise TypeError(f"logger must be a logger, not an adapter, which can drop attributes: write {logger!r}.logger")
    try:
        methods = {name: None if isinstance(logger, type) else getattr(logger, name, None) for name in METHODS.values()}
    except Exception as error:  # a proxy binds its logger first
        raise TypeError(
            f"logger must be usable in plain code, got {logger!r}, which raised {_validation.in_a_line(error)}"
        ) from error
    lacking = ", ".join(f"{name}()" for name, method in methods.items() if not callable(method))
    if lacking:
        raise TypeError(
            "logger must be a logging.Logger, a bound logger of structlog (structlog.get_logger()), or None, "
            f"got {logger!r}, which has no {lacking}"
        )
    if any(_validation.is_async(cast("Callable[..., Any]", method)) for method in methods.values()):
        raise TypeError(
            f"logger must have plain methods, got {logger!r}, whose methods are async and would not be awaited: "
            "write structlog.get_logger() with wrapper_class=structlog.stdlib.BoundLogger"
        )
    return cast("KeyValueLogger", logger)


def _is_enabled(logger: Any, level: int) -> bool:
    """Whether a logger would write a line of this level; True where it cannot say."""
    if isinstance(logger, logging.Logger):
        return logger.isEnabledFor(level)
    bind = getattr(logger, "bind", None)
    bound = bind() if callable(bind) else logger  # the loggers of structlog.get_logger() are proxies
    kind = type(bound)  # some bound loggers have every method, and log the arguments
    asked = getattr(kind, "is_enabled_for", None) or getattr(kind, "isEnabledFor", None)
    return asked is None or bool(asked(bound, level))


TAKEN = frozenset(vars(logging.makeLogRecord({}))) | {
    *("message", "asctime", "taskName"),  # set by formatters, and from Python 3.12 on
    *("event", "count", "suppressed", "refused"),
    *("level", "logger", "timestamp", "exception", "positional_args", "self", "extra", "stacklevel"),  # of structlog
}
"""Names that a field of an event must not have as an attribute of a record, or as a key of structlog."""


def _attributes(event: Event) -> dict[str, Any]:
    attributes: dict[str, Any] = {"event": type(event).__name__}
    for field in fields(event):
        value = getattr(event, field.name)
        if field.name == "error":
            attributes["error_type"] = None if value is None else type(value).__name__
        else:
            name = f"event_{field.name}" if field.name in TAKEN else field.name
            attributes[name] = _plain(value)
    return attributes


def _plain(value: object) -> str | int | float | bool | None:
    """Return a value as JSON can have it: numbers that are not finite, and other objects, as text; of an error only its
    type. Times have microseconds."""
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, float) and math.isfinite(value):
        return round(value, 6)
    if value is None or isinstance(value, str | int):
        return value
    return _validation.legible(value)
