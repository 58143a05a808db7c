"""Shadow mode: a policy decides, counts and emits events, and changes nothing for its callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Classifier, Hedge, Pipeline, RateLimit, Retry, Timeout
from resilient.events import CallRejected, CircuitChanged, GaveUp, Hedging, Retrying
from tests.properties.cancellation_driver import assert_idle
from tests.worlds import Joined, Slow, World


def heard_by(pipeline: Pipeline, *kinds: type) -> list[Any]:
    """A list that gets the events of these kinds from now on."""
    heard: list[Any] = []
    pipeline.listen(lambda event: heard.append(event) if type(event) in kinds else None)
    return heard


def state(pipeline: Pipeline, at: int = 0) -> dict[str, Any]:
    return pipeline.snapshot()["policies"][at]  # type: ignore[no-any-return]


# -- gates ----------------------------------------------------------------------------------------------------------


def test_rate_limit_admits_all_and_counts(world: World) -> None:
    """Two of three calls would have been refused."""
    pipeline = Pipeline(RateLimit(1, per=1000, burst=1, shadow=True, name="quota"), name="users")
    heard = heard_by(pipeline, CallRejected)
    guarded = pipeline(world.dependency(1, 2, 3).fn)
    assert [world.call(guarded) for _ in range(3)] == [1, 2, 3]
    assert state(pipeline)["would_have_refused"] == 2
    assert [(event.pipeline, event.policy, event.shadow) for event in heard] == [("users", "quota", True)] * 2
    assert not any(event.would_wait for event in heard)


def test_rate_limit_queues_no_call_and_counts(world: World) -> None:
    """No call waits for the hour until its token. The event distinguishes a wait from a refusal."""
    pipeline = Pipeline(RateLimit(1, per=3600, burst=1, max_wait=7200, shadow=True))
    heard = heard_by(pipeline, CallRejected)
    guarded = pipeline(world.dependency(1, 2).fn)
    begin = world.now()
    assert [world.call(guarded) for _ in range(2)] == [1, 2]
    assert world.now() - begin < 60
    counted = state(pipeline)
    assert (counted["would_have_queued"], counted["would_have_refused"]) == (1, 0)
    assert [(event.shadow, event.would_wait) for event in heard] == [(True, True)]


def test_bulkhead_lets_all_in_and_counts(world: World) -> None:
    """Three calls run at a time, with one permit."""
    pipeline = Pipeline(Bulkhead(1, shadow=True, name="compartment"), name="users")
    heard = heard_by(pipeline, CallRejected)
    dependency = world.dependency(Joined(3, 1), Joined(3, 2), Joined(3, 3))
    guarded = pipeline(dependency.fn)
    assert [outcome.value for outcome in world.together(guarded, guarded, guarded)] == [1, 2, 3]
    assert dependency.most == 3
    assert state(pipeline)["would_have_refused"] == 2
    assert [(event.pipeline, event.policy, event.shadow) for event in heard] == [("users", "compartment", True)] * 2
    assert_idle(pipeline.snapshot())


def test_bulkhead_with_a_queue_queues_no_call_and_counts(world: World) -> None:
    """It counts the calls that it would have queued."""
    pipeline = Pipeline(Bulkhead(1, queue=5, shadow=True))
    dependency = world.dependency(Joined(2, 1), Joined(2, 2))
    guarded = pipeline(dependency.fn)
    world.together(guarded, guarded)
    assert dependency.most == 2
    assert state(pipeline)["would_have_queued"] == 1
    assert_idle(pipeline.snapshot())


def test_breaker_lets_all_pass_and_its_circuit_changes(world: World) -> None:
    """Its circuit opens as in earnest, and no call is refused."""
    pipeline = Pipeline(CircuitBreaker(fail_max=1, failure_rate=None, shadow=True, name="circuit"), name="users")
    heard = heard_by(pipeline, CallRejected, CircuitChanged)
    guarded = pipeline(world.dependency(OSError(), 1, 2).fn)
    assert isinstance(world.outcome(guarded).error, OSError)
    assert [world.call(guarded) for _ in range(2)] == [1, 2]
    assert state(pipeline)["state"] == "open"
    assert state(pipeline)["would_have_refused"] == 2
    changed, *refused = heard
    assert (changed.old, changed.new) == ("closed", "open")
    assert [(event.pipeline, event.policy, event.shadow) for event in refused] == [("users", "circuit", True)] * 2
    assert all(event.retry_after > 0 for event in refused)


@pytest.mark.parametrize(
    "make", [lambda shadow: Bulkhead(2, shadow=shadow), lambda shadow: RateLimit(5, shadow=shadow)]
)
def test_gate_that_is_no_shadow_does_not_tell_what_it_would_have_done(make: Callable[[bool], Any]) -> None:
    """Its snapshot has no `would_have_refused`."""
    assert "would_have_refused" not in make(False).snapshot()
    assert make(True).snapshot()["would_have_refused"] == 0


def test_shadows_among_gates_do_not_disturb_them(world: World) -> None:
    """The gates around it refuse as without it, and all permits come back."""
    bulkhead = Bulkhead(1)
    pipeline = Pipeline(
        RateLimit(1, per=1000, burst=1, shadow=True), bulkhead, CircuitBreaker(fail_max=1, shadow=True), Timeout(5)
    )
    guarded = pipeline(world.dependency(OSError(), Slow(0.05, 1), 2).fn)
    world.outcome(guarded)
    first, second = world.together(guarded, guarded)
    assert first.value == 1
    assert type(second.error).__name__ == "BulkheadFull"
    assert_idle(pipeline.snapshot())
    assert world.call(guarded) == 2
    assert state(pipeline, 0)["would_have_refused"] == 3


def test_exceptions_pass_a_shadow_unchanged(world: World) -> None:
    """The caller gets the same exception object, with a ticket and with `BYPASS`."""
    error = OSError()
    pipeline = Pipeline(RateLimit(1, per=1000, burst=1, shadow=True), Bulkhead(1, shadow=True))
    guarded = pipeline(world.dependency(error, error).fn)
    for _ in range(2):
        assert world.outcome(guarded).error is error
    assert_idle(pipeline.snapshot())


# -- wraps ----------------------------------------------------------------------------------------------------------


def test_retry_repeats_nothing_and_counts(world: World) -> None:
    """A call has one attempt and its own error, and the retry that would have followed is counted."""
    pipeline = Pipeline(Retry(3, wait=0.25, shadow=True, name="patience"), name="users")
    heard = heard_by(pipeline, Retrying)
    error = OSError()
    dependency = world.dependency(error, 7)
    guarded = pipeline(dependency.fn)
    assert world.outcome(guarded).error is error
    assert len(dependency.calls) == 1
    assert world.call(guarded) == 7
    assert (state(pipeline)["retried"], state(pipeline)["would_have_retried"]) == (0, 1)
    (event,) = heard
    assert (event.pipeline, event.policy, event.attempt, event.wait, event.shadow) == (
        "users",
        "patience",
        1,
        0.25,
        True,
    )
    assert event.error is error


def test_retry_in_shadow_repeats_no_result(world: World) -> None:
    """The failed result is returned unchanged."""
    pipeline = Pipeline(Retry(3, wait=0, shadow=True), classify=Classifier(results=lambda result: result == "bad"))
    assert world.call(pipeline(world.dependency("bad").fn)) == "bad"
    assert state(pipeline)["would_have_retried"] == 1


def test_retry_in_shadow_counts_nothing_that_it_would_not_have_repeated(world: World) -> None:
    """It would not repeat a programming error, or the last attempt."""
    for retry, error in ((Retry(3, shadow=True), TypeError()), (Retry(1, shadow=True), OSError())):
        pipeline = Pipeline(retry)
        heard = heard_by(pipeline, Retrying)
        assert world.outcome(pipeline(world.dependency(error).fn)).error is error
        assert state(pipeline)["would_have_retried"] == 0
        assert heard == []


def test_retry_that_is_no_shadow_says_so(world: World) -> None:
    """Its events have `shadow=False`, and its snapshot has no count."""
    pipeline = Pipeline(Retry(2, wait=0))
    heard = heard_by(pipeline, Retrying)
    world.call(pipeline(world.dependency(OSError(), 7).fn))
    assert [event.shadow for event in heard] == [False]
    assert "would_have_retried" not in state(pipeline)


def test_hedge_starts_no_copy_and_counts_those_that_are_late(world: World) -> None:
    """Calls that end in time are not counted."""
    pipeline = Pipeline(Hedge(0.02, shadow=True, name="haste"), name="users")
    heard = heard_by(pipeline, Hedging)
    dependency = world.dependency(Slow(0.05, 1), 2)
    guarded = pipeline(dependency.fn)
    assert [world.call(guarded) for _ in range(2)] == [1, 2]
    assert len(dependency.calls) == 2
    assert (state(pipeline)["started"], state(pipeline)["would_have_started"]) == (0, 1)
    (event,) = heard
    assert (event.pipeline, event.policy, event.copy, event.reason, event.shadow) == (
        "users",
        "haste",
        2,
        "delay",
        True,
    )


def test_hedge_in_shadow_counts_fast_failures(world: World) -> None:
    """A copy would have followed the failure at once; the error passes. A programming error is not counted."""
    pipeline = Pipeline(Hedge(5, shadow=True), classify=Classifier(results=lambda result: result == "bad"))
    heard = heard_by(pipeline, Hedging)
    error = OSError()
    guarded = pipeline(world.dependency(error, "bad", TypeError(), "good").fn)
    assert world.outcome(guarded).error is error
    assert world.call(guarded) == "bad"
    assert isinstance(world.outcome(guarded).error, TypeError)
    assert world.call(guarded) == "good"
    assert state(pipeline)["would_have_started"] == 2
    assert [(event.reason, event.shadow) for event in heard] == [("failure", True)] * 2


def test_hedge_in_shadow_guards_a_plain_def() -> None:
    """It needs no thread, since it starts no copy."""
    assert Hedge(5, shadow=True)(lambda: 7)() == 7


def test_whole_stack_in_shadow_changes_nothing(world: World) -> None:
    """Each call is made once, and its caller gets its outcome."""
    pipeline = Pipeline(
        Retry(3, wait=0, shadow=True),
        Hedge(5, shadow=True),
        RateLimit(1, per=1000, burst=1, shadow=True),
        Bulkhead(1, shadow=True),
        CircuitBreaker(fail_max=1, failure_rate=None, shadow=True),
    )
    gave_up = heard_by(pipeline, GaveUp)
    error = OSError()
    dependency = world.dependency(error, 1, error, 2)
    guarded = pipeline(dependency.fn)
    outcomes = [world.outcome(guarded) for _ in range(4)]
    assert [outcome.error or outcome.value for outcome in outcomes] == [error, 1, error, 2]
    assert len(dependency.calls) == 4
    assert_idle(pipeline.snapshot())
    assert all("shadow" in event.reason for event in gave_up)


@pytest.mark.parametrize(
    "policy",
    [
        Retry(shadow=True),
        Hedge(1, shadow=True),
        RateLimit(1, shadow=True),
        Bulkhead(1, shadow=True),
        CircuitBreaker(shadow=True),
    ],
)
def test_shadow_is_to_be_seen_in_the_description(policy: Any) -> None:
    """A reader sees why the policy does nothing."""
    assert "shadow" in repr(policy)
