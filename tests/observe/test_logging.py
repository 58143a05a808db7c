"""The logging listener: each kind of event at its level, a limited number of lines, and no secrets."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from resilient import (
    Budget,
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    TimedOut,
    Timeout,
    events,
)
from resilient.events import (
    AbandonedEnded,
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    BudgetExhausted,
    CallEnded,
    CallRejected,
    CallTimedOut,
    ChaosHalted,
    CircuitChanged,
    Event,
    FaultInjected,
    FellBack,
    GaveUp,
    HedgeWon,
    Hedging,
    LimitChanged,
    Queued,
    Retrying,
    Waited,
)
from resilient.observe import logging as observed
from resilient.observe.logging import EventLog, log_events, text_of
from resilient.runtime import virtual
from tests.worlds import World


class Records(logging.Handler):
    """Keeps the records of a logger of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.logger = logging.getLogger("tests.observe")
        self.logger.propagate = False
        self.logger.setLevel(logging.DEBUG)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [f"{record.levelname} {record.getMessage()}" for record in self.records]


@pytest.fixture
def records() -> Iterator[Records]:
    records = Records()
    yield records
    for handler in list(records.logger.handlers):
        records.logger.removeHandler(handler)


def refused(at: float, *, pipeline: str = "users", policy: str = "circuit") -> CallRejected:
    return CallRejected(pipeline, at, policy, "circuit is open", 5.0)


SECRET = OSError("password=hunter2")

LINES: list[tuple[Event, str]] = [
    (AttemptStarted("users", 0, 2, "get_user"), "DEBUG users: attempt 2 of get_user"),
    (
        AttemptFailed("users", 0, 2, "get_user", SECRET, 0.5),
        "DEBUG users: attempt 2 of get_user failed after 0.5 s with OSError",
    ),
    (
        Retrying("users", 0, "Retry", 2, 0.25, SECRET),
        "INFO users: Retry: attempt 2 failed with OSError, the next follows in 0.25 s",
    ),
    (
        Retrying("users", 0, "Retry", 1, 0.25, None),
        "INFO users: Retry: attempt 1 failed, the next follows in 0.25 s",
    ),
    (
        Retrying("users", 0, "Retry", 1, 0.25, SECRET, shadow=True),
        "INFO users: Retry: attempt 1 failed with OSError, the next would have followed in 0.25 s",
    ),
    (Hedging("users", 0, "Hedge", 2, "delay"), "INFO users: Hedge: copy 2 of a call begins (delay)"),
    (
        Hedging("users", 0, "Hedge", 2, "failure", shadow=True),
        "INFO users: Hedge: copy 2 of a call would have begun (failure)",
    ),
    (
        FaultInjected("users", 0, "Chaos", "errors", "5% ConnectionError", 0.0),
        "INFO users: Chaos: injected a fault: 5% ConnectionError",
    ),
    (
        ChaosHalted("users", 0, "Chaos", "11 of the last 40 calls failed, which is more than 10% of 100"),
        "WARNING users: Chaos: halted: 11 of the last 40 calls failed, which is more than 10% of 100",
    ),
    (HedgeWon("users", 0, "Hedge", 2, 3), "DEBUG users: Hedge: copy 2 of 3 won"),
    (
        BudgetExhausted("users", 0, "Retry", "retry"),
        "WARNING users: Retry: no retry: the budget for extra requests is exhausted",
    ),
    (
        FellBack("users", 0, "Fallback", SECRET),
        "WARNING users: Fallback: answered in place of a call that failed with OSError",
    ),
    (FellBack("users", 0, "Fallback", None), "WARNING users: Fallback: answered in place of a call that failed"),
    (
        AbandonedEnded("users", 0, "Timeout", SECRET, 2.5),
        "WARNING users: Timeout: abandoned work ended after 2.5 s with OSError",
    ),
    (AbandonedEnded("users", 0, "Timeout", None, 2.5), "INFO users: Timeout: abandoned work ended after 2.5 s"),
    (Waited("users", 0, "Retry", "backoff", 0.25), "INFO users: Retry: a call waited 0.25 s (backoff)"),
    (Queued("users", 0, "Bulkhead", 3), "INFO users: Bulkhead: a call waits as number 3 in the queue"),
    (
        GaveUp("users", 0, "Retry", 3, "attempts spent", SECRET),
        "WARNING users: Retry: gave up after 3 attempts with OSError: attempts spent",
    ),
    (
        GaveUp("users", 0, "Retry", 1, "attempts spent", None),
        "WARNING users: Retry: gave up after 1 attempt: attempts spent",
    ),
    (refused(0), "WARNING users: circuit: refused a call: circuit is open"),
    (
        CallRejected("users", 0, "circuit", "circuit is open", 5.0, shadow=True),
        "INFO users: circuit: would have refused a call: circuit is open",
    ),
    (CallTimedOut("users", 0, "Timeout", 2.0), "WARNING users: Timeout: a call timed out after 2 s"),
    (
        LimitChanged("users", 0, "limit", 20, 24, "600 ended well"),
        "DEBUG users: limit: limit 20 -> 24: 600 ended well",
    ),
    (
        CircuitChanged("users", 0, "circuit", "closed", "open", "5 failures in a row"),
        "WARNING users: circuit: closed -> open: 5 failures in a row",
    ),
    (
        CircuitChanged("users", 0, "circuit", "closed", "isolated", "by hand"),
        "WARNING users: circuit: closed -> isolated: by hand",
    ),
    (
        CircuitChanged("users", 0, "circuit", "open", "half-open", "the break is over"),
        "INFO users: circuit: open -> half-open: the break is over",
    ),
    (
        CircuitChanged("", 0, "circuit", "half-open", "closed", "the probes succeeded"),
        "INFO circuit: half-open -> closed: the probes succeeded",
    ),
]


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


@pytest.fixture
def strange() -> Iterator[Event]:
    @dataclass(frozen=True)
    class Ejected(Event):
        name: str
        event: str
        suppressed: int
        level: str
        seconds: float
        why: object
        cause: Exception

    yield Ejected("users", 0, "a", "b", 3, "c", math.inf, ("x", "y"), SECRET)
    del Ejected
    gc.collect()  # or `Event.__subclasses__()` of other tests has it


EXPECTED = {
    "event_name": "a",
    "event_event": "b",
    "event_suppressed": 3,
    "event_level": "c",
    "seconds": "inf",
    "why": "('x', 'y')",
    "cause": "OSError",
}


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


# -- no flood -------------------------------------------------------------------------------------------------------


def test_flood_of_one_kind_has_one_line_every_few_seconds(records: Records) -> None:
    """10,000 refusals in 12 s have three lines, which say how many more there were."""
    log = EventLog(records.logger)
    for number in range(10_000):
        log(refused(number * 0.0012))
    assert [record.suppressed for record in records.records] == [0, 4166, 4166]  # type: ignore[attr-defined]
    assert records.lines[1].endswith("refused a call: circuit is open (number 4168, 4166 more since the line before)")


def test_flood_of_a_real_pipeline_has_a_handful_of_lines(records: Records) -> None:
    """10,000 calls to an isolated circuit, through the front door."""
    breaker = CircuitBreaker()
    pipeline = Pipeline(Retry(), breaker, name="users")
    stop = log_events(pipeline, logger=records.logger)
    breaker.isolate()
    guarded = pipeline(lambda: None)
    for _ in range(10_000):
        with pytest.raises(Exception, match="is isolated"):
            guarded()
    stop()
    assert 2 <= len(records.records) <= 12


def test_flood_of_hedges_fallbacks_and_an_empty_budget_has_a_handful_of_lines(records: Records) -> None:
    """A thousand calls to a dependency that is down, through the front door."""

    async def fetch() -> None:
        raise OSError("down")

    async def flood() -> None:
        budget = Budget(reserve=2)
        pipeline = Pipeline(Fallback(7), Retry(3, wait=0, budget=budget), Hedge(1, budget=budget), name="users")
        stop = log_events(pipeline, logger=records.logger)
        records.logger.setLevel(logging.INFO)
        guarded = pipeline(fetch)
        for _ in range(1000):
            await guarded()
        stop()

    virtual.run(flood())
    told = [record.event for record in records.records]  # type: ignore[attr-defined]
    assert set(told) == {"Hedging", "Retrying", "BudgetExhausted", "GaveUp", "FellBack"}
    assert len(told) <= 6


def test_lines_by_number_are_the_first_then_every_nth_with_its_count(records: Records) -> None:
    """`every=1000`: 3,500 refusals in half a second have the lines 1, 1000, 2000 and 3000."""
    log = EventLog(records.logger, every=1000)
    for number in range(3500):
        log(refused(number / 7000))
    counts = [(vars(record)["count"], vars(record)["suppressed"]) for record in records.records]
    assert counts == [(1, 0), (1000, 998), (2000, 999), (3000, 999)]
    assert records.lines[2].endswith(": circuit is open (number 2000, 999 more since the line before)")


def test_lines_by_number_begin_again_after_a_quiet_time(records: Records) -> None:
    """The first refusal of the next outage has its line at once, with those left out of the last outage."""
    log = EventLog(records.logger, every=1000, interval=5)
    for at in (0, 1, 2, 6.9, 12, 13):
        log(refused(at))
    counts = [(vars(record)["count"], vars(record)["suppressed"]) for record in records.records]
    assert counts == [(1, 0), (1, 3)]


def test_lines_by_number_are_bounded_too(records: Records) -> None:
    """A hundred lines of a kind in an interval, however small `every` is."""
    log = EventLog(records.logger, every=1)
    for number in range(1000):
        log(refused(number * 0.001))
    assert len(records.records) == observed.LINES
    log(refused(20))
    assert vars(records.records[-1])["suppressed"] == 1000 - observed.LINES


def test_times_out_of_order_do_not_begin_the_count_again(records: Records) -> None:
    """Events of several threads arrive in another order than their times."""
    log = EventLog(records.logger, every=100)
    for at in (1.0, 1.2, 1.1, 1.3, 1.05):
        log(refused(at))
    assert len(records.records) == 1


def test_change_of_a_circuit_has_the_refusals_left_out_before(records: Records) -> None:
    """So the lines of an outage add up when it ends; refusals of other circuits are not in it."""
    log = EventLog(records.logger, interval=60)
    log(CircuitChanged("users", 0, "circuit", "closed", "open", "5 failures in a row"))
    log(refused(0.1, policy="other"))
    log(refused(0.2, policy="other"))
    for number in range(500):
        log(refused(1 + number * 0.001))
    log(CircuitChanged("users", 6, "circuit", "open", "half-open", "the break is over"))
    log(CircuitChanged("users", 7, "circuit", "half-open", "closed", "the probes succeeded"))
    assert records.lines[-2:] == [
        "INFO users: circuit: open -> half-open: the break is over (499 more calls refused)",
        "INFO users: circuit: half-open -> closed: the probes succeeded",
    ]
    assert vars(records.records[-2])["refused"] == 499


def test_line_after_a_quiet_time_is_logged_at_once(records: Records) -> None:
    """After a quiet time the next event has its line at once, and a new interval begins."""
    log = EventLog(records.logger, interval=5)
    for at in (0, 1, 4.9, 100, 200):
        log(refused(at))
    assert [record.suppressed for record in records.records] == [0, 2, 0]  # type: ignore[attr-defined]


def test_kinds_policies_and_pipelines_do_not_silence_each_other(records: Records) -> None:
    """What is limited is one kind from one policy of one pipeline."""
    log = EventLog(records.logger)
    for event in (
        refused(0),
        refused(0, policy="compartment"),
        refused(0, pipeline="orders"),
        CallTimedOut("users", 0, "circuit", 1.0),
    ):
        log(event)
        log(event)
    assert len(records.records) == 4


def test_changes_of_a_circuit_are_all_logged(records: Records) -> None:
    """The last one must not be missing: it is what holds now."""
    log = EventLog(records.logger)
    for at in range(10):
        log(CircuitChanged("users", at * 0.01, "circuit", "closed", "open", "by hand"))
        log(CircuitChanged("users", at * 0.01, "circuit", "open", "closed", "by hand"))
    assert len(records.records) == 20


@pytest.mark.parametrize("keys", [150, 1_000, 3_000])
def test_flood_of_many_keys_has_a_hundred_lines_of_a_kind_every_few_seconds(keys: int, records: Records) -> None:
    """Policies of ever new keys have `LINES` lines together; the next line counts those left out, and other pipelines
    have theirs."""
    log = EventLog(records.logger)

    def flood(begin: float) -> None:
        for turn in range(3):
            for key in range(keys):
                at = begin + turn * 0.1 + key * 1e-5
                log(refused(at, policy=f"circuit[{key}]"))
                log(CircuitChanged("users", at, f"circuit[{key}]", "closed", "open", "5 failures in a row"))

    flood(0)
    assert len(records.records) == 200
    log(refused(1.0, pipeline="orders"))
    assert len(records.records) == 201
    flood(10)
    assert len(records.records) == 401
    log(refused(20.0, policy="circuit[new]"))
    log(CircuitChanged("users", 20.0, "circuit[new]", "closed", "open", "5 failures in a row"))
    mine = [vars(record) for record in records.records if vars(record)["pipeline"] == "users"]
    told = sum(1 + record["suppressed"] + record.get("refused", 0) for record in mine)
    untold = sum(line.suppressed for line in log._logged.values())  # of keys of which nothing was heard since
    assert told + untold == 2 * 2 * 3 * keys + 2


def test_debug_lines_are_all_logged_once_debug_is_on(records: Records) -> None:
    """At debug level every attempt has a line."""
    log = EventLog(records.logger)
    for _ in range(10):
        log(AttemptStarted("users", 0, 1, "fetch"))
    assert len(records.records) == 10


def test_interval_of_nought_gives_every_event_its_line(records: Records) -> None:
    """With interval=0 every event has its line, for tests and small services."""
    log = EventLog(records.logger, interval=0)
    for _ in range(10):
        log(refused(0))
    assert len(records.records) == 10


def test_level_that_is_off_leaves_no_trace(records: Records) -> None:
    """Nothing is counted as suppressed that would not have been logged."""
    log = EventLog(records.logger)
    records.logger.setLevel(logging.ERROR)
    log(refused(0))
    records.logger.setLevel(logging.WARNING)
    log(refused(0))
    log(Retrying("users", 0, "Retry", 1, 0, None))
    assert records.lines == ["WARNING users: circuit: refused a call: circuit is open"]


def test_clock_that_went_back_does_not_silence_the_log(records: Records) -> None:
    """Events of a new run in virtual time begin at 0 again."""
    log = EventLog(records.logger)
    log(refused(1_000_000))
    log(refused(0))
    log(refused(1))
    assert len(records.records) == 2


@pytest.mark.virtual_time
async def test_flood_is_limited_by_the_time_of_the_events(records: Records) -> None:
    """Twenty seconds of virtual time are twenty seconds."""
    pipeline = Pipeline(Timeout(1), name="users")
    log_events(pipeline, logger=records.logger)
    records.logger.setLevel(logging.INFO)

    @pipeline
    async def fetch() -> None:
        await asyncio.sleep(60)

    for _ in range(20):
        with pytest.raises(TimedOut):
            await fetch()
    assert [record.at for record in records.records] == [1, 6, 11, 16]  # type: ignore[attr-defined]


def test_memory_is_bounded(records: Records) -> None:
    """Names without end do not fill it: the longest silent kinds are forgotten, the lively ones kept."""
    log = EventLog(records.logger)
    log(refused(0, pipeline="lively"))
    for number in range(3 * observed.KINDS):
        log(refused(number * 0.01, pipeline=f"pipeline {number}"))
        log(refused(number * 0.01, pipeline="lively"))
    lively = [record for record in records.records if record.pipeline == "lively"]  # type: ignore[attr-defined]
    assert len(lively) == 6
    log(refused(0, pipeline="pipeline 0"))  # forgotten, so logged again
    assert records.records[-1].pipeline == "pipeline 0"  # type: ignore[attr-defined]


def test_threads_lose_no_count(records: Records) -> None:
    """Every event is either logged or counted as suppressed."""
    log = EventLog(records.logger, interval=1)
    clock = iter(range(10**9))
    begin = threading.Barrier(4)

    def flood() -> None:
        begin.wait()
        for _ in range(2_500):
            log(refused(next(clock) * 0.001))

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records.logger.setLevel(logging.WARNING)
    log(refused(1_000_000))
    told = sum(1 + record.suppressed for record in records.records)  # type: ignore[attr-defined]
    assert told == 10_001
    assert len(records.records) < 100


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
