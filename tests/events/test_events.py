"""Events: each at its time with its fields, in every runtime; listeners cannot fail a call; without them no cost."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import tenacity

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    BulkheadFull,
    Chaos,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    TimedOut,
    Timeout,
    events,
    switch,
)
from resilient.core import emit
from resilient.errors import reason_of
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
from resilient.faults import Errors
from resilient.runtime import virtual
from tests.worlds import Hang, Joined, Slow, Until, World

KINDS = [
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
    FaultInjected,
    FellBack,
    GaveUp,
    HedgeWon,
    Hedging,
    LimitChanged,
    Queued,
    Retrying,
    Waited,
]


ENDS = (AttemptReturned, CallEnded)


class Unended(list[Any]):
    """A list of events without the ends of attempts and calls, which have tests of their own."""

    def append(self, event: Any) -> None:
        if not isinstance(event, ENDS):
            super().append(event)


def heard_by(pipeline: Pipeline) -> list[Any]:
    """Return a list that collects the events of a pipeline from now on, without ends of attempts and calls."""
    heard = Unended()
    pipeline.listen(heard.append)
    return heard


def ends_heard_by(pipeline: Pipeline) -> list[Any]:
    """Return a list that collects the ends of attempts and calls of a pipeline from now on."""
    heard: list[Any] = []
    pipeline.listen(lambda event: heard.append(event) if isinstance(event, ENDS) else None)
    return heard


def of(kind: type, heard: list[Any]) -> list[Any]:
    return [event for event in heard if type(event) is kind]


def names(heard: list[Any]) -> list[str]:
    return [type(event).__name__ for event in heard]


def tripping(**options: Any) -> CircuitBreaker:
    return CircuitBreaker(fail_max=1, failure_rate=None, **options)


@pytest.fixture
def everything() -> Iterator[list[Any]]:
    """A list of the events of all pipelines."""
    heard = Unended()
    stop = events.listen(heard.append)
    yield heard
    stop()


# -- each event, in every runtime -----------------------------------------------------------------------------------


def test_attempt_that_begins_is_told_of(world: World) -> None:
    """`AttemptStarted`, with the function's name, its number and the pipeline's name."""
    pipeline = Pipeline(Retry(), name="users")
    heard = heard_by(pipeline)
    dependency = world.dependency(7)
    world.call(pipeline(dependency.fn))
    (event,) = heard
    assert type(event) is AttemptStarted
    assert (event.pipeline, event.attempt, event.function) == ("users", 1, dependency.fn.__qualname__)


def test_attempt_that_returns_is_told_of_with_its_duration(world: World) -> None:
    """AttemptReturned has the duration and the verdict on the result; an attempt that raises has none."""
    pipeline = Pipeline(
        Retry(attempts=3, wait=0), name="users", classify=Classifier(results=lambda result: result == "bad")
    )
    heard = ends_heard_by(pipeline)
    dependency = world.dependency(OSError(), "bad", Slow(0.02, "good"))
    world.call(pipeline(dependency.fn))
    bad, good = of(AttemptReturned, heard)
    assert (bad.pipeline, bad.function, bad.attempt, bad.failed) == ("users", dependency.fn.__qualname__, 2, True)
    assert (good.attempt, good.failed) == (3, False)
    assert good.elapsed >= 0.019  # uvloop counts whole milliseconds
    assert bad.at <= good.at - good.elapsed


@pytest.mark.parametrize(
    ("policies", "script", "ending", "requests"),
    [
        ([Retry(attempts=3, wait=0)], [OSError(), KeyError(), 7], "success", 3),
        ([Retry(attempts=2, wait=0)], [OSError(), KeyError()], "failure", 2),
        ([Retry(attempts=2, wait=0)], ["bad", "bad"], "failure", 2),
        ([Fallback(7)], [OSError()], "success", 1),
        ([Retry()], [TypeError()], "failure", 1),
        ([Retry(attempts=1)], [TimeoutError()], "failure", 1),
        ([Bulkhead(1), Retry()], [BulkheadFull()], "rejected", 1),
        ([Hedge(0.02, thread=True)], [Joined(2, 1), 2], "success", 2),
        ([Hedge(5, thread=True)], [OSError(), OSError()], "failure", 2),
    ],
)
def test_call_that_ends_is_told_of_with_its_ending(
    world: World, policies: list[Any], script: list[Any], ending: str, requests: int
) -> None:
    """CallEnded has the ending as the caller sees it, the error, and what the call took."""
    pipeline = Pipeline(*policies, name="users", classify=Classifier(results=lambda result: result == "bad"))
    heard = ends_heard_by(pipeline)
    dependency = world.dependency(*script)
    begin = world.now()
    outcome = world.outcome(pipeline(dependency.fn))
    elapsed = world.now() - begin
    (event,) = of(CallEnded, heard)
    assert (event.pipeline, event.function) == ("users", dependency.fn.__qualname__)
    assert (event.ending, event.requests) == (ending, requests)
    assert event.error is outcome.error
    assert 0 <= event.elapsed <= elapsed + 0.002


def test_call_that_is_refused_ends_without_a_request(world: World) -> None:
    """A refused call ends with no request, because its function was not called."""
    pipeline = Pipeline(tripping())
    pipeline.policies[0].open()  # type: ignore[attr-defined]
    heard = ends_heard_by(pipeline)
    outcome = world.outcome(pipeline(world.dependency(7).fn))
    (event,) = heard
    assert (event.ending, event.requests, event.error) == ("rejected", 0, outcome.error)


def test_end_of_a_call_is_told_once_where_pipelines_are_nested(world: World) -> None:
    """Of nested pipelines only the one that guards the function emits CallEnded."""
    inner = Pipeline(Retry(attempts=2, wait=0), name="inner")
    outer = Pipeline(Timeout(5), inner, name="outer")
    heard, silent = ends_heard_by(outer), ends_heard_by(inner)
    world.call(outer(world.dependency(OSError(), 7).fn))
    assert [(event.pipeline, event.requests) for event in of(CallEnded, heard)] == [("outer", 2)]
    assert silent == []


def test_guarded_call_in_a_guarded_call_counts_its_own_requests(world: World) -> None:
    """Of two nested guarded functions each counts the requests of its own calls."""
    outer, inner = Pipeline(Retry(attempts=2, wait=0), name="outer"), Pipeline(Retry(attempts=3, wait=0), name="inner")
    heard: list[Any] = []
    for pipeline in (outer, inner):
        pipeline.listen(lambda event: heard.append(event) if isinstance(event, CallEnded) else None)
    fetch = inner(world.dependency(OSError(), 1, OSError(), OSError(), 2).fn)
    failed = []

    def fail_first() -> None:
        if not failed:
            failed.append(1)
            raise OSError

    async def fetch_later() -> None:
        await fetch()
        fail_first()

    def fetch_plainly() -> None:
        fetch()
        fail_first()

    world.call(outer(fetch_later if world.is_async else fetch_plainly))
    assert [(event.pipeline, event.requests) for event in heard] == [("inner", 2), ("inner", 3), ("outer", 2)]


@pytest.mark.every_loop
async def test_call_that_is_cancelled_has_ended() -> None:
    """A cancelled call ends as such, with an error that is no `Exception`."""
    pipeline = Pipeline(Retry())
    heard = ends_heard_by(pipeline)
    entered = asyncio.Event()

    @pipeline
    async def fetch() -> None:
        entered.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(fetch())
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (event,) = heard
    assert (event.ending, type(event.error)) == ("cancelled", asyncio.CancelledError)


def test_end_of_a_plain_call_has_the_functions_own_stop_iteration() -> None:
    """CallEnded has the StopIteration of the function, not the error that carries it out of coroutines."""
    pipeline = Pipeline(Retry())
    heard = ends_heard_by(pipeline)
    error = StopIteration(7)

    def stop() -> None:
        raise error

    with pytest.raises(StopIteration) as caught:
        pipeline.call(stop)
    assert caught.value is error
    assert [event.error for event in heard] == [error]


@pytest.mark.virtual_time
async def test_end_of_a_call_covers_its_waits() -> None:
    """From the caller's first moment to the last."""
    pipeline = Pipeline(Retry(attempts=2, wait=5), Timeout(3))
    heard = ends_heard_by(pipeline)

    @pipeline
    async def fetch() -> None:
        await asyncio.sleep(60)

    with pytest.raises(TimedOut):
        await fetch()
    (event,) = heard
    assert (type(event), event.at, event.elapsed, event.ending) == (CallEnded, 11, 11, "timeout")


def test_end_of_a_block_is_told_of() -> None:
    """A guarded block emits the end of its last attempt, and CallEnded."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), name="users")
    heard = ends_heard_by(pipeline)
    for attempt in pipeline.attempts("save"):
        with attempt:
            if attempt.number == 1:
                raise OSError
    assert [type(event) for event in heard] == [AttemptReturned, CallEnded]
    assert (heard[1].function, heard[1].requests, heard[1].ending) == ("save", 2, "success")


def test_attempt_that_fails_is_told_of_with_its_error_and_duration(world: World) -> None:
    """The error is the object itself; `elapsed` is the attempt's own time."""
    pipeline = Pipeline(Retry(attempts=1), name="users")
    heard = heard_by(pipeline)
    error = OSError("down")
    world.outcome(pipeline(world.dependency(Slow(0.02, error)).fn))
    (failed,) = of(AttemptFailed, heard)
    assert failed.error is error
    assert (failed.pipeline, failed.attempt) == ("users", 1)
    assert failed.elapsed >= 0.019  # uvloop counts whole milliseconds
    assert failed.elapsed == failed.at - of(AttemptStarted, heard)[0].at


def test_events_of_a_call_that_is_repeated_come_in_order(world: World) -> None:
    """Started, failed, retrying, waited, started again; the numbers are the attempts'."""
    pipeline = Pipeline(Retry(attempts=3, wait=0.002))
    heard = heard_by(pipeline)
    world.call(pipeline(world.dependency(OSError(), KeyError(), 7).fn))
    assert [(type(event).__name__, getattr(event, "attempt", None)) for event in heard] == [
        ("AttemptStarted", 1),
        ("AttemptFailed", 1),
        ("Retrying", 1),
        ("Waited", None),
        ("AttemptStarted", 2),
        ("AttemptFailed", 2),
        ("Retrying", 2),
        ("Waited", None),
        ("AttemptStarted", 3),
    ]
    at = [event.at for event in heard]
    assert at == sorted(at)


def test_retrying_says_the_wait_and_the_error(world: World) -> None:
    """Retrying comes before the wait, and has its length and the error."""
    pipeline = Pipeline(Retry(attempts=2, wait=0.002, name="patience"), name="users")
    heard = heard_by(pipeline)
    error = OSError()
    world.call(pipeline(world.dependency(error, 7).fn))
    (event,) = of(Retrying, heard)
    assert (event.pipeline, event.policy, event.attempt, event.wait) == ("users", "patience", 1, 0.002)
    assert event.error is error


def test_retrying_for_a_result_has_no_error(world: World) -> None:
    """Retrying after a result that was judged a failure has no error."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), classify=Classifier(results=lambda result: result == "bad"))
    heard = heard_by(pipeline)
    world.call(pipeline(world.dependency("bad", "good").fn))
    (event,) = of(Retrying, heard)
    assert event.error is None
    assert of(AttemptFailed, heard) == []


def test_backoff_is_told_of_when_it_is_over(world: World) -> None:
    """`Waited`, because of backoff, with its seconds; not where there was none."""
    pipeline = Pipeline(Retry(attempts=2, wait=0.002, name="patience"), name="users")
    heard = heard_by(pipeline)
    world.call(pipeline(world.dependency(OSError(), 7).fn))
    (event,) = of(Waited, heard)
    assert (event.pipeline, event.policy, event.why, event.seconds) == ("users", "patience", "backoff", 0.002)
    assert event.at >= of(Retrying, heard)[0].at + 0.001
    unwaited = Pipeline(Retry(attempts=2, wait=0))
    heard = heard_by(unwaited)
    world.call(unwaited(world.dependency(OSError(), 7).fn))
    assert of(Waited, heard) == []


def test_giving_up_is_told_of_with_the_reason(world: World) -> None:
    """After the last attempt, with the error that comes back."""
    pipeline = Pipeline(Retry(attempts=2, wait=0, name="patience"), name="users")
    heard = heard_by(pipeline)
    last = OSError()
    world.outcome(pipeline(world.dependency(OSError(), last).fn))
    event = heard[-1]
    assert type(event) is GaveUp
    assert (event.pipeline, event.policy, event.attempts, event.reason) == ("users", "patience", 2, "attempts spent")
    assert event.error is last


class Busy(Exception):
    retry_after = 100.0


@pytest.mark.parametrize(
    ("retry", "outer", "error", "words"),
    [
        (Retry(stop=tenacity.stop_after_attempt(1)), Timeout(60), OSError(), "the stop strategy ended the attempts"),
        (Retry(attempts=3, wait=70, max_retry_after=0), Timeout(400), Busy(), "asked to wait 100 s, longer than 0 s"),
        (Retry(attempts=2, wait=7), Timeout(5), OSError(), "a wait of 7 s would outlive the deadline"),
    ],
    ids=["stop", "retry after", "deadline"],
)
@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_giving_up_says_why(world: World, retry: Retry, outer: Timeout, error: Exception, words: str) -> None:
    """Each way that retries can end has its own reason."""
    pipeline = Pipeline(outer, retry)
    heard = heard_by(pipeline)
    world.outcome(pipeline(world.dependency(error).fn))
    (event,) = of(GaveUp, heard)
    assert (event.reason, event.attempts) == (words, 1)


def test_giving_up_because_an_attempt_was_rejected_says_so(world: World) -> None:
    """The error is the last real one, the reason names the rejection."""
    pipeline = Pipeline(Retry(attempts=5, wait=0), tripping(name="circuit"))
    heard = heard_by(pipeline)
    error = OSError()
    world.outcome(pipeline(world.dependency(error).fn))
    (event,) = of(GaveUp, heard)
    assert event.error is error
    assert event.reason.startswith("attempt 2 was rejected: circuit is open")


def test_error_that_is_not_worth_repeating_is_no_giving_up(world: World) -> None:
    """Nothing was given up: there was nothing to repeat."""
    pipeline = Pipeline(Retry(attempts=3))
    heard = heard_by(pipeline)
    world.outcome(pipeline(world.dependency(TypeError()).fn))
    assert names(heard) == ["AttemptStarted", "AttemptFailed"]


def test_hedge_that_begins_and_wins_is_told_of(world: World) -> None:
    """Why it began, and which copy of how many had the answer."""
    pipeline = Pipeline(Hedge(5, copies=3, thread=True, name="haste"), name="users")
    heard = heard_by(pipeline)
    world.call(pipeline(world.dependency(OSError(), 7).fn))
    assert names(heard)[:3] == ["AttemptStarted", "AttemptFailed", "Hedging"]
    (began,), (won,) = of(Hedging, heard), of(HedgeWon, heard)
    assert (began.pipeline, began.policy, began.copy, began.reason, began.shadow) == (
        "users",
        "haste",
        2,
        "failure",
        False,
    )
    assert (won.pipeline, won.policy, won.copy, won.copies) == ("users", "haste", 2, 2)
    assert began.at <= won.at


def test_hedge_that_begins_because_of_its_delay_says_so(world: World) -> None:
    """A hedge begins when its delay is over, and gives that as its reason."""
    pipeline = Pipeline(Hedge(0.02, thread=True))
    heard = heard_by(pipeline)
    begin = world.now()
    world.call(pipeline(world.dependency(Joined(2, 1), 2).fn))
    (event,) = of(Hedging, heard)
    assert (event.copy, event.reason) == (2, "delay")
    assert event.at >= begin + 0.018


def test_call_that_is_not_hedged_tells_of_no_hedge(world: World) -> None:
    """A call that answers before the delay emits no event of a hedge."""
    pipeline = Pipeline(Hedge(5, thread=True))
    heard = heard_by(pipeline)
    world.call(pipeline(world.dependency(7).fn))
    assert names(heard) == ["AttemptStarted"]


def test_hedge_whose_copies_all_fail_tells_of_no_winner(world: World) -> None:
    """A hedge whose copies all fail emits no HedgeWon."""
    pipeline = Pipeline(Hedge(5, thread=True))
    heard = heard_by(pipeline)
    world.outcome(pipeline(world.dependency(OSError(), OSError()).fn))
    assert len(of(Hedging, heard)) == 1
    assert of(HedgeWon, heard) == []


@pytest.mark.parametrize(("policy", "what"), [(Retry, "retry"), (lambda **it: Hedge(5, thread=True, **it), "hedge")])
def test_exhausted_budget_is_told_of(world: World, policy: Any, what: str) -> None:
    """Once for each request that was not made."""
    pipeline = Pipeline(policy(budget=Budget(reserve=0), name="thrift"), name="users")
    heard = heard_by(pipeline)
    world.outcome(pipeline(world.dependency(OSError()).fn))
    (event,) = of(BudgetExhausted, heard)
    assert (event.pipeline, event.policy, event.what) == ("users", "thrift", what)
    assert of(Retrying, heard) == of(Hedging, heard) == []


def test_fallback_is_told_of_after_what_it_answers_for(world: World) -> None:
    """FellBack follows the failure, and has the error that the fallback hides."""
    pipeline = Pipeline(Fallback(7, name="stale"), Retry(2, wait=0), name="users")
    heard = heard_by(pipeline)
    last = OSError()
    world.call(pipeline(world.dependency(OSError(), last).fn))
    assert names(heard)[-2:] == ["GaveUp", "FellBack"]
    assert (heard[-1].pipeline, heard[-1].policy) == ("users", "stale")
    assert heard[-1].error is last


@pytest.mark.parametrize("error", [None, OSError()])
def test_end_of_abandoned_work_is_told_of(error: Exception | None) -> None:
    """Long after its caller has gone: with its error, if it has one, and its own duration."""
    pipeline = Pipeline(Timeout(1, abandon=True, name="patience"), name="commits")
    heard = heard_by(pipeline)

    @pipeline
    async def commit() -> None:
        await asyncio.sleep(5)
        if error is not None:
            raise error

    async def main() -> None:
        with pytest.raises(TimedOut):
            await commit()
        assert of(AbandonedEnded, heard) == []
        await pipeline.aclose()

    virtual.run(main())
    (event,) = of(AbandonedEnded, heard)
    assert (event.pipeline, event.policy, event.elapsed, event.at) == ("commits", "patience", 5, 5)
    assert event.error is error


def test_end_of_work_that_was_not_abandoned_is_not_told_of(world: World) -> None:
    """Work that ends in time emits no AbandonedEnded."""
    pipeline = Pipeline(Timeout(5, abandon=True, thread=True))
    heard = heard_by(pipeline)
    world.call(pipeline(world.dependency(7).fn))
    assert names(heard) == ["AttemptStarted"]


def test_call_in_a_queue_is_told_of_with_its_position_and_its_wait(world: World) -> None:
    """`Queued` when it begins to wait, `Waited` when it has its permit."""
    pipeline = Pipeline(Bulkhead(1, queue=2, name="compartment"), name="users")
    heard = heard_by(pipeline)
    fn = pipeline(world.dependency(Until(lambda: len(of(Queued, heard)) == 2), 8, 7).fn)
    world.together(fn, fn, fn)
    queued = of(Queued, heard)
    assert [(event.pipeline, event.policy, event.position) for event in queued] == [
        ("users", "compartment", 1),
        ("users", "compartment", 2),
    ]
    waited = of(Waited, heard)
    assert [(event.pipeline, event.policy, event.why) for event in waited] == [("users", "compartment", "queue")] * 2
    assert [event.seconds > 0 for event in waited] == [True, True]


def test_call_that_finds_a_permit_free_is_not_queued(world: World) -> None:
    """A call that finds a free permit emits neither Queued nor Waited."""
    pipeline = Pipeline(Bulkhead(1, queue=2))
    heard = heard_by(pipeline)
    world.call(pipeline(world.dependency(7).fn))
    assert names(heard) == ["AttemptStarted"]


def test_rejection_by_a_full_bulkhead_is_told_of(world: World) -> None:
    """CallRejected has the policy, the reason as in the error, and no `retry_after`, which is not known."""
    pipeline = Pipeline(Bulkhead(1, name="compartment"), name="users")
    heard = heard_by(pipeline)
    second = world.outcome(world.nested(pipeline))
    assert isinstance(second.error, BulkheadFull)
    (event,) = of(CallRejected, heard)
    assert (event.pipeline, event.policy, event.retry_after, event.shadow) == ("users", "compartment", None, False)
    assert event.reason == reason_of(second.error)


def test_rejection_after_a_queue_timeout_is_told_of(world: World) -> None:
    """Queued, and then rejected: it never had its turn."""
    pipeline = Pipeline(Bulkhead(1, queue=1, queue_timeout=0.01))
    heard = heard_by(pipeline)
    fn = pipeline(world.dependency(Until(lambda: of(CallRejected, heard))).fn)
    _, second = world.together(fn, fn)
    assert isinstance(second.error, BulkheadFull)
    assert names(heard) == ["AttemptStarted", "Queued", "CallRejected"]


def test_rejection_by_an_open_circuit_is_told_of_with_retry_after(world: World) -> None:
    """The seconds until it is worth asking again."""
    pipeline = Pipeline(tripping(name="circuit", break_duration=30), name="users")
    world.outcome(pipeline(world.dependency(OSError()).fn))
    heard = heard_by(pipeline)
    error = world.outcome(pipeline(world.dependency().fn)).error
    assert isinstance(error, CircuitOpen)
    (event,) = heard
    assert (type(event), event.pipeline, event.policy) == (CallRejected, "users", "circuit")
    assert event.retry_after == error.retry_after
    assert 0 < event.retry_after <= 30


def test_timeout_is_told_of_with_its_limit(world: World) -> None:
    """CallTimedOut has the limit that expired; the attempt inside it was cut short."""
    pipeline = Pipeline(Timeout(0.02, thread=True, name="patience"), name="users")
    heard = heard_by(pipeline)
    assert isinstance(world.outcome(pipeline(world.dependency(Hang()).fn)).error, TimedOut)
    (event,) = of(CallTimedOut, heard)
    assert (event.pipeline, event.policy, event.seconds) == ("users", "patience", 0.02)


def test_timeout_error_of_the_function_itself_is_no_timeout_of_ours(world: World) -> None:
    """A TimeoutError of the function is a failed attempt, and no CallTimedOut."""
    pipeline = Pipeline(Timeout(5))
    heard = heard_by(pipeline)
    world.outcome(pipeline(world.dependency(TimeoutError()).fn))
    assert names(heard) == ["AttemptStarted", "AttemptFailed"]


def test_circuit_that_opens_is_told_of_with_the_evidence(world: World) -> None:
    """After the attempt that tripped it, before the retry that it stops."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), tripping(name="circuit"), name="users")
    heard = heard_by(pipeline)
    world.outcome(pipeline(world.dependency(OSError()).fn))
    assert names(heard) == [
        "AttemptStarted",
        "AttemptFailed",
        "CircuitChanged",
        "Retrying",
        "CallRejected",
        "GaveUp",
    ]
    (event,) = of(CircuitChanged, heard)
    assert (event.pipeline, event.policy) == ("users", "circuit")
    assert (event.old, event.new, event.reason) == ("closed", "open", "1 failures in a row")


def test_circuit_that_recovers_is_told_of_in_two_steps(world: World) -> None:
    """Half-open before the probe, closed after it."""
    pipeline = Pipeline(tripping(break_duration=0.01, max_break=0.01))
    world.outcome(pipeline(world.dependency(OSError()).fn))
    world.call(world.dependency(Slow(0.03)).fn)
    heard = heard_by(pipeline)
    world.call(pipeline(world.dependency(7).fn))
    assert names(heard) == ["CircuitChanged", "AttemptStarted", "CircuitChanged"]
    assert [(event.old, event.new, event.reason) for event in of(CircuitChanged, heard)] == [
        ("open", "half-open", "the break is over"),
        ("half-open", "closed", "the probes succeeded"),
    ]


def test_circuit_changed_by_hand_is_told_of() -> None:
    """A change by hand emits CircuitChanged, also outside of calls; a change to the same state does not."""
    breaker = tripping()
    heard = heard_by(Pipeline(breaker, name="users"))
    assert heard == []
    pipeline = Pipeline(breaker, name="users")
    heard = heard_by(pipeline)
    breaker.isolate()
    breaker.isolate()
    breaker.close()
    assert [(event.old, event.new, event.reason) for event in heard] == [
        ("closed", "isolated", "by hand"),
        ("isolated", "closed", "by hand"),
    ]


def test_circuit_change_is_told_to_every_pipeline_that_shares_it_in_its_name(everything: list[Any]) -> None:
    """Each pipeline's listeners hear of it under their pipeline's name, and global ones once for each name."""
    breaker = tripping()
    users, orders = Pipeline(breaker, name="users"), Pipeline(Timeout(5), Pipeline(breaker, name="orders"), name="all")
    alone = Pipeline(breaker)
    by_users, by_outer, by_unnamed = heard_by(users), heard_by(orders), heard_by(alone)
    by_orders: list[Any] = []
    orders.policies[1].listen(by_orders.append)  # type: ignore[attr-defined]
    breaker.open()
    assert [event.pipeline for event in by_users] == ["users"]
    assert [event.pipeline for event in by_orders] == ["orders"]
    assert [event.pipeline for event in by_unnamed] == [""]
    assert by_outer == []  # its policies are the inner pipeline's
    assert sorted(event.pipeline for event in everything) == ["", "orders", "users"]


def test_circuit_change_is_told_once_where_a_variation_shares_name_and_circuit(everything: list[Any]) -> None:
    """Two call sites of one pipeline are not two circuits."""
    breaker = tripping()
    original = Pipeline(Retry(), breaker, name="users")
    variation = original.with_(Retry(attempts=2))
    breaker.open()
    assert [event.pipeline for event in everything] == ["users"]
    assert variation.name == original.name


# -- the time of an event -------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_events_have_the_time_of_the_calls_runtime() -> None:
    """Events have the time of the call's runtime, which is exact in virtual time."""
    pipeline = Pipeline(Timeout(30), Retry(attempts=2, wait=5), tripping(), Timeout(3))
    heard = heard_by(pipeline)

    @pipeline
    async def fetch() -> None:
        await asyncio.sleep(60)

    with pytest.raises(TimedOut):
        await fetch()
    assert [(type(event).__name__, event.at) for event in heard] == [
        ("AttemptStarted", 0.0),
        ("AttemptFailed", 3.0),
        ("CallTimedOut", 3.0),
        ("CircuitChanged", 3.0),
        ("Retrying", 3.0),
        ("Waited", 8.0),
        ("CircuitChanged", 8.0),
        ("AttemptStarted", 8.0),
        ("AttemptFailed", 11.0),
        ("CallTimedOut", 11.0),
        ("CircuitChanged", 11.0),
        ("GaveUp", 11.0),
    ]


def test_events_are_timed_between_the_begin_and_the_end_of_the_call(world: World) -> None:
    """On the clock of the world that the call ran in."""
    pipeline = Pipeline(Retry(attempts=2, wait=0.002))
    heard = heard_by(pipeline)
    begin = world.now()
    world.call(pipeline(world.dependency(Slow(0.01, OSError()), 7).fn))
    assert begin <= heard[0].at <= heard[-1].at <= world.now()


@pytest.mark.every_loop
async def test_attempt_that_is_cancelled_is_told_of_as_failed() -> None:
    """A cancelled attempt is an AttemptFailed, with an error that is no `Exception`."""
    pipeline = Pipeline(Retry())
    heard = heard_by(pipeline)
    entered = asyncio.Event()

    @pipeline
    async def fetch() -> None:
        entered.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(fetch())
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert names(heard) == ["AttemptStarted", "AttemptFailed"]
    assert isinstance(heard[1].error, asyncio.CancelledError)


# -- what an event is -----------------------------------------------------------------------------------------------


def test_every_kind_of_event_is_public() -> None:
    """All kinds of events are public, and listed here: a new kind needs tests here."""
    found = {each for each in vars(events).values() if isinstance(each, type) and issubclass(each, events.Event)}
    assert found - {events.Event} == set(KINDS)
    assert {kind.__name__ for kind in KINDS} < set(events.__all__)


@pytest.mark.parametrize("kind", KINDS)
def test_event_is_frozen(kind: type) -> None:
    """Each of several listeners gets the event."""
    values = {field.name: 0 for field in dataclasses.fields(kind)}
    event = kind(**values)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.at = 1.0
    assert event == kind(**values)
    assert {"pipeline", "at"} < set(values)


# -- listeners ------------------------------------------------------------------------------------------------------


def test_listener_of_a_pipeline_hears_that_pipeline_only(world: World) -> None:
    """A listener of one pipeline gets no events of another that shares a policy."""
    shared = Retry(attempts=2, wait=0)
    listened, other = Pipeline(shared, name="listened"), Pipeline(shared, name="other")
    heard = heard_by(listened)
    world.call(other(world.dependency(OSError(), 7).fn))
    assert heard == []
    world.call(listened(world.dependency(7).fn))
    assert [event.pipeline for event in heard] == ["listened"]


def test_global_listener_hears_every_pipeline_also_of_later(everything: list[Any], world: World) -> None:
    """A global listener gets events of later pipelines, too, and of decorators without a name."""
    world.call(Pipeline(Retry(), name="later")(world.dependency(7).fn))
    world.call(Retry()(world.dependency(7).fn))
    assert [event.pipeline for event in everything] == ["later", ""]


def test_listener_added_after_decorating_is_told_of_the_next_call(world: World) -> None:
    """A listener that is added after decorating gets the events of the next call."""
    pipeline = Pipeline(Retry())
    dependency = world.dependency(1, 2, 3)
    guarded = pipeline(dependency.fn)
    world.call(guarded)
    heard = heard_by(pipeline)
    world.call(guarded)
    assert names(heard) == ["AttemptStarted"]


def test_listener_that_stops_hears_no_more(world: World) -> None:
    """However often the stop function is called, and no other registration ends with it."""
    pipeline = Pipeline(Retry())
    heard = Unended()
    stop, stop_other = pipeline.listen(heard.append), pipeline.listen(heard.append)
    guarded = pipeline(world.dependency(1, 2, 3).fn)
    world.call(guarded)
    assert len(heard) == 2
    stop()
    stop()
    world.call(guarded)
    assert len(heard) == 3
    stop_other()
    world.call(guarded)
    assert len(heard) == 3


def test_global_listener_that_stops_hears_no_more() -> None:
    """Here as well one of two equal registrations ends by itself, for old and new pipelines."""
    old = Pipeline(Retry())
    heard: list[Any] = []
    heard = Unended()
    stop, stop_other = events.listen(heard.append), events.listen(heard.append)
    stop()
    stop()
    old.call(lambda: 1)
    Pipeline(Retry()).call(lambda: 1)
    assert len(heard) == 2
    stop_other()
    old.call(lambda: 1)
    Pipeline(Retry()).call(lambda: 1)
    assert len(heard) == 2


def test_global_and_own_listeners_do_not_displace_each_other(everything: list[Any]) -> None:
    """To end a global listener leaves those of the pipeline, and the other way round."""
    pipeline = Pipeline(Retry())
    own = Unended()
    stop_own = pipeline.listen(own.append)
    stop_global = events.listen(lambda event: None)
    stop_global()
    pipeline.call(lambda: 1)
    assert (len(own), len(everything)) == (1, 1)
    stop_own()
    pipeline.call(lambda: 1)
    assert (len(own), len(everything)) == (1, 2)


def test_listener_that_raises_is_logged_and_harmless(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The call gets its result, and the other listeners get the event."""

    def broken(event: events.Event) -> None:
        raise ValueError("a bug in the listener")

    pipeline = Pipeline(Retry(attempts=2, wait=0), Bulkhead(1), tripping())
    pipeline.listen(broken)
    heard = heard_by(pipeline)
    with caplog.at_level(logging.ERROR, "resilient"):
        assert world.call(pipeline(world.dependency(7).fn)) == 7
    assert names(heard) == ["AttemptStarted"]
    record, *_ = caplog.records
    assert [each.getMessage() for each in caplog.records] == [
        f"resilient: a listener raised on {kind}" for kind in ("AttemptStarted", "AttemptReturned", "CallEnded")
    ]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert pipeline.snapshot()["policies"][1]["in_use"] == 0


def test_listener_that_raises_on_a_failure_does_not_replace_the_error(world: World) -> None:
    """The caller gets the function's own error."""
    logging.getLogger("resilient").disabled = True
    try:
        pipeline = Pipeline(Retry(attempts=2, wait=0), tripping())
        pipeline.listen(lambda event: 1 / 0)
        error = OSError()
        assert world.outcome(pipeline(world.dependency(error).fn)).error is error
    finally:
        logging.getLogger("resilient").disabled = False


@pytest.mark.parametrize("listener", [None, "print", 7])
def test_listener_that_cannot_be_called_is_refused(listener: Any) -> None:
    """Where it is given, with what was given."""
    for listen in (events.listen, Pipeline(Retry()).listen):
        with pytest.raises(TypeError, match=f"listener must be callable, got {listener!r}"):
            listen(listener)


def test_listener_that_would_have_to_be_awaited_is_refused() -> None:
    """An async listener is refused, because nothing would await it."""

    async def listener(event: Any) -> None: ...

    for listen in (events.listen, Pipeline(Retry()).listen):
        with pytest.raises(TypeError, match="listener must be a plain function"):
            listen(listener)


def test_listener_may_listen_guard_and_look_while_it_is_told() -> None:
    """No lock is held: it may call whatever it likes, in the thread of the call."""
    breaker = tripping()
    pipeline = Pipeline(Bulkhead(5), breaker, name="busy")
    threads: list[int] = []
    other = Pipeline(Retry())

    def listener(event: Any) -> None:
        threads.append(threading.get_ident())
        stop = pipeline.listen(lambda event: None)
        events.listen(lambda event: None)()
        other.call(lambda: 1)
        pipeline.snapshot()
        stop()
        if isinstance(event, CircuitChanged) and event.new == "open":
            breaker.close()

    pipeline.listen(listener)

    def fetch() -> None:
        raise OSError

    with pytest.raises(OSError):
        pipeline.call(fetch)
    assert breaker.state == "closed"
    assert set(threads) == {threading.get_ident()}


def test_nothing_is_told_of_calls_that_run_unguarded() -> None:
    """A pipeline that is switched off emits no events."""
    pipeline = Pipeline(Retry())
    heard = heard_by(pipeline)
    with switch("off"):
        pipeline.call(lambda: 1)
    assert heard == []


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_no_event_is_built_while_nobody_listens() -> None:
    """Without listeners no event object is made on any path; with one, an object for each event; and of
    those that no listener wants, none."""
    makers = {kind.__init__.__code__ for kind in KINDS}  # type: ignore[misc]
    new, file = object.__new__, emit.__file__
    built: list[FrameType] = []

    def watch(frame: FrameType, what: str, argument: Any) -> None:
        of_frequent = what == "c_call" and argument is new and frame.f_code.co_filename == file
        if of_frequent or (what == "call" and frame.f_code in makers):
            built.append(frame)

    def exercise(listener: Any, *wanted: Any) -> None:
        breaker = tripping()
        pipeline = Pipeline(Timeout(0.05), Retry(attempts=3, wait=0.002), Bulkhead(1, queue=1), breaker, name="silent")
        if listener is not None:
            pipeline.listen(listener, *wanted)
        pipeline.call(lambda: 1)
        for error in (OSError, TypeError):

            def fetch(error: type[Exception] = error) -> None:
                raise error

            with pytest.raises(error):
                pipeline.call(fetch)
            breaker.close()
        breaker.isolate()
        with pytest.raises(CircuitOpen):
            pipeline.call(lambda: 1)

        def full() -> None:
            pipeline.call(lambda: 1)  # waits for the permit that its caller holds, until the time is over

        breaker.close()
        with pytest.raises(TimedOut):
            pipeline.call(full)
        chaos = Pipeline(Chaos(Errors(), enabled=True, halt_rate=0.0), name="chaos")
        if listener is not None:
            chaos.listen(listener, *wanted)
        with pytest.raises(ConnectionError):
            chaos.call(lambda: 1)
        virtual.run(exercise_what_runs_beside(listener, *wanted))

    async def exercise_what_runs_beside(listener: Any, *wanted: Any) -> None:
        budget = Budget(reserve=1)
        hedged = Pipeline(Fallback(7), Hedge(1, copies=3, budget=budget), name="hedged")
        commits = Pipeline(Timeout(1, abandon=True), name="commits")
        limited = Pipeline(AdaptiveLimit(1), name="limited")
        if listener is not None:
            for each in (limited, hedged, commits):
                each.listen(listener, *wanted)
        outcomes: list[Any] = [OSError(), 1, OSError()]

        async def fetch() -> Any:
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        await hedged.call(fetch)
        await hedged.call(fetch)
        for _ in range(30):
            await limited.call(asyncio.sleep, 0.1)

        async def commit() -> None:
            await asyncio.sleep(5)

        with pytest.raises(TimedOut):
            await commits.call(commit)
        await commits.aclose()

    for wanted in ((), KINDS, KINDS[::2], KINDS[1::2]):
        heard: list[Any] = []
        built.clear()
        sys.setprofile(watch)
        try:
            exercise(heard.append if wanted else None, *wanted)
        finally:
            sys.setprofile(None)
        assert len(built) == len(heard)
        assert {type(event) for event in heard} == set(wanted)
