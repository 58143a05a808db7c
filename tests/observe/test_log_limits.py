"""The limits of the log: few lines while a dependency is down, by time or by number, and nothing lost in the counts."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from resilient import (
    Budget,
    CircuitBreaker,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    TimedOut,
    Timeout,
)
from resilient.events import (
    AttemptStarted,
    CallTimedOut,
    CircuitChanged,
    Retrying,
)
from resilient.observe import logging as observed
from resilient.observe.logging import EventLog, log_events
from resilient.runtime import virtual
from tests.observe.log_records import Records, records, refused

__all__ = ["records"]  # the fixture


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
