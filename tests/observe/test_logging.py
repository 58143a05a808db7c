"""The logging listener: each kind of event at its level, a limited number of lines, and no secrets."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Pipeline,
    Retry,
    events,
)
from resilient.events import (
    AttemptReturned,
    CallEnded,
    Event,
    Retrying,
)
from resilient.observe.logging import EventLog, log_events, text_of
from tests.observe.log_records import EXPECTED, LINES, SECRET, Records, records, refused, strange
from tests.worlds import World

__all__ = ["records", "strange"]  # the fixtures


@pytest.mark.parametrize(("event", "line"), LINES, ids=lambda value: type(value).__name__)
def test_event_has_its_level_and_its_line(event: Event, line: str, records: Records) -> None:
    """Who, what and why, in one line."""
    EventLog(records.logger)(event)
    assert records.lines == [line]


def test_event_of_a_kind_unknown_here_has_a_line_all_the_same(records: Records) -> None:
    """Later policies bring events of their own."""

    class Ejected(Event):
        pass

    EventLog(records.logger)(Ejected("users", 0))
    assert records.lines == ["INFO users: Ejected"]


def test_every_kind_of_event_has_a_line_of_its_own() -> None:
    """Each kind of event has a text and a level of its own."""
    kinds = {each for each in vars(events).values() if isinstance(each, type) and issubclass(each, Event)}
    assert kinds - {Event, AttemptReturned, CallEnded} == {type(event) for event, _ in LINES}


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (AttemptReturned("users", 0, 2, "get_user", 0.5, False), "users: attempt 2 of get_user returned after 0.5 s"),
        (
            AttemptReturned("users", 0, 2, "get_user", 0.5, True),
            "users: attempt 2 of get_user returned after 0.5 s, with a result that is a failure",
        ),
        (
            CallEnded("users", 0, "get_user", 2, 1.5, "failure", SECRET),
            "users: get_user ended after 1.5 s and 2 requests with OSError: failure",
        ),
        (
            CallEnded("users", 0, "get_user", 1, 0.5, "success", None),
            "users: get_user ended after 0.5 s and 1 request: success",
        ),
    ],
)
def test_ends_have_words_and_no_line(records: Records, event: Event, words: str) -> None:
    """Each call has them; what went wrong with it has been logged by then."""
    EventLog(records.logger, interval=0)(event)
    assert records.lines == []
    assert text_of(event) == words


# -- no secrets -----------------------------------------------------------------------------------------------------


def test_message_of_an_error_is_never_logged(records: Records) -> None:
    """The message of an error, which may quote what was sent, is not logged; its type is, at debug too."""
    log = EventLog(records.logger)
    for event, _ in LINES:
        log(event)
    assert any(type(SECRET).__name__ in record.getMessage() and record.levelno == 10 for record in records.records)
    for record in records.records:
        assert "hunter2" not in f"{record.getMessage()} {vars(record)}"
        assert not any(isinstance(value, BaseException) for value in vars(record).values())


def test_arguments_and_results_are_never_logged(world: World, records: Records) -> None:
    """No line has an argument or a result of a call, not even at debug."""
    pipeline = Pipeline(Retry(attempts=2, wait=0))
    log_events(pipeline, logger=records.logger)
    world.call(pipeline(world.dependency(OSError(), "secret result").fn), "secret", token="secret")
    assert len(records.records) == 4
    assert not any("secret" in str(vars(record)) for record in records.records)


# -- structured -----------------------------------------------------------------------------------------------------


def test_record_carries_the_event_as_attributes(records: Records) -> None:
    """For structured logs: the event's fields, of an error its type."""
    EventLog(records.logger)(Retrying("users", 7.5, "Retry", 2, 0.25, SECRET))
    (record,) = records.records
    expected = {
        "event": "Retrying",
        "pipeline": "users",
        "policy": "Retry",
        "at": 7.5,
        "attempt": 2,
        "wait": 0.25,
        "error_type": "OSError",
        "suppressed": 0,
    }
    assert {key: getattr(record, key) for key in expected} == expected
    assert not hasattr(record, "error")


@pytest.mark.parametrize(("event", "line"), LINES, ids=lambda value: type(value).__name__)
def test_every_event_can_be_a_record(event: Event, line: str) -> None:
    """No field has the name of an attribute that records have already: logging would raise."""
    logger = logging.getLogger("resilient.test")
    logger.setLevel(logging.DEBUG)
    try:
        EventLog(logger)(event)
    finally:
        logger.setLevel(logging.NOTSET)


def test_fields_that_records_have_already_get_a_prefix(strange: Event, records: Records) -> None:
    """`logging` raises KeyError for them; values that JSON lacks are text."""
    EventLog(records.logger)(strange)
    (record,) = records.records
    assert {name: vars(record)[name] for name in EXPECTED} == EXPECTED
    assert record.name == "tests.observe"
    assert vars(record)["event"] == "Ejected"


def test_name_with_a_line_break_stays_in_its_line(records: Records) -> None:
    """A name cannot forge a line, nor send codes to the terminal."""
    EventLog(records.logger)(refused(0, pipeline="users\nINFO all is well", policy="\x1b[2Jcircuit"))
    (line,) = records.lines
    assert line == r"WARNING users\nINFO all is well: \x1b[2Jcircuit: refused a call: circuit is open"


# -- switched on and off --------------------------------------------------------------------------------------------


def test_log_events_of_one_pipeline_until_stopped(world: World, records: Records) -> None:
    """The events of one pipeline are logged, and no others, until it is stopped."""
    pipeline, other = Pipeline(Retry(), name="users"), Pipeline(Retry(), name="orders")
    stop = log_events(pipeline, logger=records.logger)
    guarded = pipeline(world.dependency(1, 2).fn)
    world.call(guarded)
    world.call(other(world.dependency(1).fn))
    stop()
    world.call(guarded)
    assert [record.pipeline for record in records.records] == ["users"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("level", "attempts", "listens"),
    [
        (logging.DEBUG, None, True),
        (logging.INFO, None, False),
        (logging.INFO, True, True),
        (logging.DEBUG, False, False),
    ],
)
def test_attempts_are_listened_to_only_where_they_are_logged(
    records: Records, level: int, attempts: bool | None, listens: bool
) -> None:
    """They make every call more expensive, also one that succeeds."""
    records.logger.setLevel(level)
    pipeline = Pipeline(Retry(2, wait=0))
    stop = log_events(pipeline, logger=records.logger, attempts=attempts)
    records.logger.setLevel(logging.DEBUG)
    pipeline.call(lambda: 7)
    assert [vars(record)["event"] for record in records.records] == ["AttemptStarted"] * listens

    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        pipeline.call(fail)
    assert "WARNING Retry: gave up after 2 attempts with ConnectionError: " in "\n".join(records.lines)
    stop()


def test_log_events_of_all_pipelines_until_stopped(world: World, records: Records) -> None:
    """The events of all pipelines are logged, later ones included, until it is stopped."""
    stop = log_events(logger=records.logger)
    world.call(Pipeline(Retry(), name="later")(world.dependency(1).fn))
    stop()
    world.call(Pipeline(Retry(), name="later")(world.dependency(1).fn))
    assert [record.pipeline for record in records.records] == ["later"]  # type: ignore[attr-defined]


@pytest.fixture
def library_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "resilient"):
        yield caplog


def test_log_events_goes_to_the_librarys_own_logger(library_log: pytest.LogCaptureFixture) -> None:
    """Where nothing else is said: "resilient.events", which follows "resilient"."""
    breaker = CircuitBreaker(name="circuit")
    stop = log_events(Pipeline(breaker, Bulkhead(1), name="users"))
    stop()
    pipeline = Pipeline(breaker, name="orders")
    log_events(pipeline)
    breaker.isolate()
    assert [(record.name, record.levelname, record.getMessage()) for record in library_log.records] == [
        ("resilient.events", "WARNING", "orders: circuit: closed -> isolated: by hand")
    ]


def test_handler_that_fails_does_not_fail_the_call(records: Records, caplog: pytest.LogCaptureFixture) -> None:
    """A log handler that raises does not fail the call."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    records.logger.addHandler(Broken())
    pipeline = Pipeline(Retry())
    log_events(pipeline, logger=records.logger)
    assert pipeline.call(lambda: 7) == 7
    complaints = [record.getMessage() for record in caplog.records if record.name == "resilient"]
    assert complaints == ["resilient: a listener raised on AttemptStarted"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pipeline": "users"}, TypeError, "pipeline must be a Pipeline or None, got 'users'"),
        ({"logger": "resilient"}, TypeError, "logger must be .*, got 'resilient', which has no debug"),
        ({"logger": logging.Logger}, TypeError, "logger must be .*, got <class 'logging.Logger'>, which has no debug"),
        ({"logger": logging.LoggerAdapter(logging.getLogger("x"))}, TypeError, "not an adapter, .*: write <Log"),
        ({"every": 0}, ValueError, "every must be a whole number >= 1, got 0"),
        ({"every": 2.5}, TypeError, "every must be a whole number >= 1, got 2.5"),
        ({"every": 10, "interval": 0}, ValueError, "every=10 needs an interval above 0"),
        ({"attempts": "no"}, TypeError, "attempts must be True or False, got 'no'"),
        ({"interval": -1}, ValueError, "interval must be .* got -1"),
        ({"interval": float("nan")}, ValueError, "interval must be .* got nan"),
        ({"interval": True}, TypeError, "interval must be .* got True"),
    ],
)
def test_bad_option_is_refused(options: Any, error: type[Exception], words: str) -> None:
    """A bad option is refused with a message that names the argument and the value."""
    with pytest.raises(error, match=words):
        log_events(**options)
