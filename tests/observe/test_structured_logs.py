"""Events in structured logs: structlog's loggers, JSON formatters of `logging`, and both together."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from resilient import CircuitBreaker, CircuitOpen, Pipeline, Retry
from resilient.events import CallRejected, CircuitChanged, Event
from resilient.observe.logging import EventLog, log_events
from tests.observe.log_records import EXPECTED, LINES, SECRET, refused, strange

__all__ = ["strange"]  # the fixture


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


class Lines(io.StringIO):
    """What a JSON renderer wrote: one object in each line."""

    @property
    def objects(self) -> list[dict[str, Any]]:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        return [json.loads(line, parse_constant=refuse) for line in self.getvalue().splitlines()]


@pytest.fixture
def lines() -> Lines:
    return Lines()


def configure(lines: Lines, level: int = logging.DEBUG, **options: Any) -> None:
    """Configure structlog as services do: level and time added, one JSON object a line."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=lines),
        **options,
    )


def test_structlog_gets_the_kind_as_event_and_the_rest_as_values(lines: Lines) -> None:
    """The keys are those of `extra` in the standard log."""
    configure(lines)
    EventLog(structlog.get_logger())(
        CircuitChanged("users", 7.5000000001, "circuit", "closed", "open", "5 failures in a row")
    )
    (found,) = lines.objects
    assert found.pop("timestamp")
    assert found == {
        "event": "CircuitChanged",
        "level": "warning",
        "pipeline": "users",
        "policy": "circuit",
        "at": 7.5,
        "old": "closed",
        "new": "open",
        "reason": "5 failures in a row",
        "count": 1,
        "suppressed": 0,
        "refused": 0,
    }


@pytest.mark.parametrize("cached", [False, True])
def test_outage_of_a_real_pipeline_through_structlog(lines: Lines, cached: bool) -> None:
    """Values bound to the logger and to the context are in each line, and the counts add up to the 2,000 refusals."""
    configure(lines, cache_logger_on_first_use=cached)
    breaker = CircuitBreaker(name="circuit")
    pipeline = Pipeline(Retry(), breaker, name="users")
    stop = log_events(pipeline, logger=structlog.get_logger(service="shop"), interval=60)
    with structlog.contextvars.bound_contextvars(request="r1"):
        breaker.isolate()
        for _ in range(2000):
            with pytest.raises(CircuitOpen):
                pipeline.call(lambda: None)
        breaker.close()
    stop()
    breaker.isolate()
    changes = [each for each in lines.objects if each["event"] == "CircuitChanged"]
    assert [(each["new"], each["refused"]) for each in changes] == [("isolated", 0), ("closed", 1999)]
    assert [each["event"] for each in lines.objects].count("CallRejected") == 1
    assert {(each["service"], each["request"]) for each in lines.objects} == {("shop", "r1")}


@pytest.mark.parametrize(("event", "line"), LINES, ids=lambda value: type(value).__name__)
def test_every_event_has_its_level_in_structlog_and_no_secret(event: Event, line: str, lines: Lines) -> None:
    """One object for each kind of event, at the level of the standard log."""
    configure(lines)
    EventLog(structlog.get_logger())(event)
    (found,) = lines.objects
    assert found["level"].upper() == line.split(maxsplit=1)[0]
    assert found["event"] == type(event).__name__
    assert str(SECRET) not in lines.getvalue()


def test_fields_that_structlog_has_already_get_a_prefix(strange: Event, lines: Lines) -> None:
    """A field `event` or `level` of a user's event neither raises nor replaces the logger's own."""
    configure(lines)
    EventLog(structlog.get_logger())(strange)
    (found,) = lines.objects
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    assert (found["event"], found["level"]) == ("Ejected", "info")


def stdlib_logger() -> Any:
    """A structlog logger over `logging`, at level warning."""
    logger = logging.getLogger("tests.structured")
    logger.setLevel(logging.WARNING)
    return structlog.stdlib.get_logger("tests.structured")


@pytest.mark.parametrize(("attempts", "events"), [(None, []), (True, ["AttemptStarted"])])
def test_structlog_that_writes_every_level_has_attempts_only_on_request(
    lines: Lines, attempts: bool | None, events: list[str]
) -> None:
    """Without a configuration structlog writes level debug, and a line for each call is not what its users want."""
    configure(lines, logging.DEBUG)
    pipeline = Pipeline(Retry(2, wait=0))
    stop = log_events(pipeline, logger=structlog.get_logger(), attempts=attempts)
    pipeline.call(lambda: 7)
    stop()
    assert [line["event"] for line in lines.objects] == events


def test_level_that_is_off_in_structlog_counts_nothing_as_left_out(lines: Lines) -> None:
    """A refusal that its level hid is not counted as left out later."""
    configure(lines, logging.ERROR)
    log = EventLog(structlog.get_logger())
    log(refused(0))
    configure(lines, logging.WARNING)
    log(refused(0))
    log(refused(0))
    assert [(each["event"], each["count"], each["suppressed"]) for each in lines.objects] == [("CallRejected", 1, 0)]


@pytest.mark.parametrize("wrapper", [structlog.stdlib.BoundLogger, structlog.BoundLogger])
def test_structlog_over_the_standard_log(wrapper: Any, lines: Lines) -> None:
    """The bound logger of `logging`, and the generic one, which makes any attribute a method that logs."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.processors.JSONRenderer()],
        wrapper_class=wrapper,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(lines)
    log = EventLog(stdlib_logger())
    logging.getLogger("tests.structured").addHandler(handler)
    try:
        log(CircuitChanged("users", 0, "circuit", "open", "half-open", "the break is over"))  # info: off
        log(refused(0))
    finally:
        logging.getLogger("tests.structured").removeHandler(handler)
    assert [each["event"] for each in lines.objects] == ["CallRejected"]


class JsonFormatter(logging.Formatter):
    """As the JSON formatters that people use: the message, and each attribute that is no standard one."""

    def format(self, record: logging.LogRecord) -> str:
        usual = {*vars(logging.makeLogRecord({})), "message", "asctime"}
        extra = {name: value for name, value in vars(record).items() if name not in usual}
        return json.dumps({"message": record.getMessage(), "level": record.levelname, **extra}, allow_nan=False)


def processor_formatter() -> logging.Formatter:
    """structlog's formatter for records of `logging`, with their `extra`."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), structlog.stdlib.add_log_level],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )


@pytest.mark.parametrize("formatter", [JsonFormatter, processor_formatter])
def test_records_of_the_standard_log_through_a_json_formatter(
    formatter: Callable[[], logging.Formatter], strange: Event, lines: Lines
) -> None:
    """Each record is one JSON object with the fields of its event."""
    logger = logging.getLogger("tests.structured.json")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    handler = logging.StreamHandler(lines)
    handler.setFormatter(formatter())
    logger.addHandler(handler)
    try:
        log = EventLog(logger, interval=0)
        for event, _ in LINES:
            log(event)
        log(strange)
    finally:
        logger.removeHandler(handler)
    assert [each["event"] for each in lines.objects] == [*(type(event).__name__ for event, _ in LINES), "Ejected"]
    assert [each["level"].upper() for each in lines.objects] == [
        *(line.split(maxsplit=1)[0] for _, line in LINES),
        "INFO",
    ]
    assert lines.objects[-1].items() >= EXPECTED.items()
    assert str(SECRET) not in lines.getvalue()


async def test_async_logger_is_refused() -> None:
    """Nothing would await its methods; and without a running loop it cannot be bound at all."""
    structlog.configure(
        wrapper_class=structlog.stdlib.AsyncBoundLogger, logger_factory=structlog.stdlib.LoggerFactory()
    )
    with pytest.raises(TypeError, match=r"plain methods, got .*, whose methods are async"):
        log_events(logger=structlog.get_logger())
    with pytest.raises(TypeError, match=r"usable in plain code, got .*RuntimeError: no running event loop"):
        await asyncio.to_thread(log_events, logger=structlog.get_logger())


def test_logger_that_raises_does_not_fail_the_call(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    """A processor that raises is logged by the library's own logger, and the call goes on."""

    def broken(logger: object, method: str, values: Any) -> Any:
        raise OSError("disk full")

    structlog.configure(processors=[broken])
    pipeline = Pipeline(Retry())
    stop = log_events(pipeline, logger=structlog.get_logger(), attempts=True)
    assert pipeline.call(lambda: 7) == 7
    stop()
    assert [record.getMessage() for record in caplog.records] == ["resilient: a listener raised on AttemptStarted"]


def test_any_logger_with_these_methods_will_do() -> None:
    """No dependency on structlog: three methods are all that is asked for."""

    class Plain:
        def __init__(self) -> None:
            self.said: list[tuple[str, str, dict[str, Any]]] = []

        def debug(self, event: str, /, **values: Any) -> None:
            self.said.append(("debug", event, values))

        def info(self, event: str, /, **values: Any) -> None:
            self.said.append(("info", event, values))

        def warning(self, event: str, /, **values: Any) -> None:
            self.said.append(("warning", event, values))

    plain = Plain()
    EventLog(plain)(CallRejected("users", 0, "circuit", "circuit is open", None))
    assert [(method, event, values["pipeline"]) for method, event, values in plain.said] == [
        ("warning", "CallRejected", "users")
    ]
