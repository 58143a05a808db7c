"""The shadow report: what shadowed policies would have done, summed up from live calls or from a trace."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Hedge, Pipeline, RateLimit, Retry
from resilient.observe.shadow import ShadowReport, WouldHaveDone, report_shadows
from resilient.observe.trace import read_trace, record_trace
from resilient.testing import Dependency, Slow, run
from tests.worlds import World


def would(report: ShadowReport, policy: str, pipeline: str = "users") -> WouldHaveDone:
    return report.policies[pipeline, policy]


def test_refused_calls_are_counted_with_how_they_went(world: World) -> None:
    """A circuit that would have refused good calls is set wrongly."""
    pipeline = Pipeline(CircuitBreaker(fail_max=1, failure_rate=None, shadow=True, name="circuit"), name="users")
    guarded = pipeline(world.dependency(OSError(), 1, OSError(), 2).fn)
    with report_shadows(pipeline) as report:
        for _ in range(4):
            world.outcome(guarded)
    assert (report.calls, report.requests) == ({"users": 4}, {"users": 4})
    assert would(report, "circuit") == WouldHaveDone(refused=3, went_well=2, opened=1)


def test_retries_hedges_and_queues_are_counted() -> None:
    """Would-be retries, hedges and waits are counted for each policy."""
    pipeline = Pipeline(
        Retry(attempts=2, wait=1, shadow=True), Hedge(0.5, shadow=True), Bulkhead(1, queue=5, shadow=True), name="users"
    )
    guarded = pipeline(Dependency(OSError(), Slow(1), Slow(1)))

    async def main() -> None:
        await asyncio.gather(*(guarded() for _ in range(3)), return_exceptions=True)

    with report_shadows(pipeline) as report:
        run(main())
    assert would(report, "Retry").retried == 1
    assert would(report, "Hedge").hedged == 3  # one failed at once, two were late
    assert (would(report, "Bulkhead").queued, would(report, "Bulkhead").refused) == (1, 0)


def test_call_refused_by_several_counts_once_for_each() -> None:
    """A call that several policies would refuse counts once for each; concurrent calls are not mixed up."""
    pipeline = Pipeline(
        RateLimit(1, per=1000, burst=1, shadow=True, name="quota"), Bulkhead(1, shadow=True, name="room"), name="users"
    )
    guarded = pipeline(Dependency(Slow(1), Slow(2, OSError()), Slow(3)))

    async def main() -> None:
        await asyncio.gather(*(guarded() for _ in range(3)), return_exceptions=True)

    with report_shadows(pipeline) as report:
        run(main())
    for policy in ("quota", "room"):
        assert would(report, policy) == WouldHaveDone(refused=2, went_well=1)
    assert report._refused == {}


def test_policies_that_act_are_not_in_the_report() -> None:
    """Policies without shadow mode are not in the report."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), Bulkhead(1, shadow=True), name="users")
    with report_shadows(pipeline) as report:
        pipeline.call(Dependency(OSError(), 7).plain)
    assert list(report.policies) == [("users", "Bulkhead")]
    assert would(report, "Bulkhead") == WouldHaveDone()
    assert report.requests == {"users": 2}


def test_report_of_everything_and_its_end() -> None:
    """Pipelines made later too, until it is stopped."""

    def refuse_one(name: str) -> None:
        pipeline = Pipeline(RateLimit(1, per=1000, burst=1, shadow=True), name=name)
        for _ in range(2):
            pipeline.call(lambda: 7)

    with report_shadows() as report:
        refuse_one("first")
        refuse_one("second")
    refuse_one("after")
    assert report.calls == {"first": 2, "second": 2}
    assert [would(report, "RateLimit", name).refused for name in ("first", "second")] == [1, 1]


def test_block_is_counted_with_how_it_went() -> None:
    """A guarded block counts as a call, with its success or failure."""
    pipeline = Pipeline(RateLimit(1, per=1000, burst=1, shadow=True), name="users")
    with report_shadows(pipeline) as report:
        for _ in range(2):
            for attempt in pipeline.attempts():
                with attempt:
                    pass
    assert would(report, "RateLimit") == WouldHaveDone(refused=1, went_well=1)


def test_report_from_a_trace_has_the_same_counts(tmp_path: Path) -> None:
    """All but how refused calls went, which is not in it."""
    pipeline = Pipeline(
        Retry(attempts=2, wait=1, shadow=True),
        Hedge(0.5, shadow=True),
        RateLimit(1, per=1000, burst=1, shadow=True),
        name="users",
    )
    guarded = pipeline(Dependency(OSError(), Slow(1), 7))

    async def main() -> None:
        for _ in range(3):
            await asyncio.gather(guarded(), return_exceptions=True)

    with report_shadows(pipeline) as live, record_trace(tmp_path / "a.trace", pipeline):
        run(main())
    recorded = ShadowReport.of(read_trace(tmp_path / "a.trace"))
    assert (recorded.calls, recorded.requests) == (live.calls, live.requests)
    for (name, policy), done in live.policies.items():
        assert recorded.policies[name, policy].as_json() == {**done.as_json(), "went_well": None}


def test_report_from_a_trace_has_calls_that_would_be_refused_in_line(tmp_path: Path) -> None:
    """A report from a trace counts calls that a queue would refuse, as a live report does."""
    pipeline = Pipeline(Bulkhead(1, queue=3, queue_timeout=1.5, shadow=True), name="users")
    guarded = pipeline(Dependency(default=Slow(1)))

    async def main() -> None:
        await asyncio.gather(*(guarded() for _ in range(6)))

    with report_shadows(pipeline) as live, record_trace(tmp_path / "a.trace", pipeline):
        run(main())
    recorded = ShadowReport.of(read_trace(tmp_path / "a.trace"))
    assert would(live, "Bulkhead") == WouldHaveDone(refused=4, queued=3, went_well=4)
    assert would(recorded, "Bulkhead") == WouldHaveDone(refused=4, queued=3, went_well=None)


def test_report_is_made_for_reading() -> None:
    """A report as text has a line for each policy."""
    report = ShadowReport()
    report.calls, report.requests = {"users": 1000, "": 1}, {"users": 1200, "": 2}
    report.policies = {
        ("users", "Retry"): WouldHaveDone(retried=24),
        ("users", "CircuitBreaker"): WouldHaveDone(refused=131, went_well=96, opened=2),
        ("users", "Hedge"): WouldHaveDone(hedged=1),
        ("users", "Bulkhead"): WouldHaveDone(refused=1, queued=3, went_well=None),
        ("users", "RateLimit"): WouldHaveDone(),
    }
    assert str(report).splitlines() == [
        "pipeline: 1 call, 2 requests",
        "  no policy in shadow mode has emitted an event",
        "users: 1,000 calls, 1,200 requests",
        "  Retry           would have repeated 24 attempts (2% more requests)",
        "  CircuitBreaker  would have refused 131 calls (13%), of which 96 went well; opened 2 times",
        "  Hedge           would have begun 1 further copy (0.083% more requests)",
        "  Bulkhead        would have refused 1 call (0.1%), and made 3 calls wait (0.3%)",
        "  RateLimit       would have done nothing",
    ]


def test_names_from_a_trace_do_nothing_to_a_terminal() -> None:
    """Nor can they be none of the terminal's letters."""
    name, policy = "us\x1b[31mers", "limit\ud800"
    report = ShadowReport()
    report.calls[name] = report.requests[name] = 1
    report.policies[name, policy] = WouldHaveDone(refused=1)
    assert str(report).isascii()
    assert all(line.isprintable() for line in str(report).splitlines())
    assert "refused 1 call (100%)" in str(report)


@pytest.mark.parametrize("wrong", ["users", Retry(shadow=True)])
def test_what_is_no_pipeline_is_refused(wrong: Any) -> None:
    """An object that is no pipeline is refused with a message that names it."""
    with pytest.raises(TypeError, match="pipelines must be Pipelines, got"):
        report_shadows(wrong)
