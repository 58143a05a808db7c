"""CircuitBreaker around real functions: when it opens, which calls may probe, and what counts as evidence."""

from __future__ import annotations

import asyncio
import pickle
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pybreaker
import pytest

from resilient import (
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Pipeline,
    PipelineWarning,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    Verdict,
    events,
)
from tests.worlds import Slow, Until, World


async def ends(call: Awaitable[Any]) -> Any:
    """The outcome of a call: its result, or its error."""
    try:
        return await call
    except Exception as error:
        return error


async def up() -> str:
    return "up"


async def down() -> str:
    raise OSError("down")


async def hang() -> None:
    await asyncio.Event().wait()


async def trip(breaker: CircuitBreaker, failures: int = 1) -> None:
    for _ in range(failures):
        with pytest.raises(OSError):
            await breaker(down)()
    assert breaker.state == "open"


# -- opening and closing ------------------------------------------------------------------------------------------


def test_breaker_after_failures_in_a_row_refuses_calls_until_a_probe_succeeds(world: World) -> None:
    """A whole cycle in every runtime: closed, open, half-open, closed."""
    breaker = CircuitBreaker(None, fail_max=2, break_duration=0.05)
    dependency = world.dependency(1, OSError(), OSError(), 4, 5)
    guarded = breaker(dependency.fn)
    assert world.call(guarded) == 1
    for _ in range(2):
        assert isinstance(world.outcome(guarded).error, OSError)
    assert breaker.state == "open"
    refusal = world.outcome(guarded).error
    assert isinstance(refusal, CircuitOpen)
    assert len(dependency.calls) == 3
    begin = world.now()
    while breaker.state == "open" and world.now() < begin + 10:
        outcome = world.outcome(guarded)
        if isinstance(outcome.error, CircuitOpen):
            wait(world, outcome.error.retry_after or 0.0)
    assert outcome.value == 4
    assert breaker.state == "closed"
    assert world.call(guarded) == 5


def wait(world: World, seconds: float) -> None:
    if world.is_async:
        world.run(lambda: world.sleep(seconds))
    else:
        time.sleep(seconds)


def test_breaker_with_a_failed_probe_opens_again(world: World) -> None:
    """One failed probe is enough; the calls after it are refused at once."""
    breaker = CircuitBreaker(None, fail_max=5, success_threshold=2, break_duration=5)
    dependency = world.dependency(1, OSError())
    guarded = breaker(dependency.fn)
    breaker.half_open()
    assert world.call(guarded) == 1
    assert isinstance(world.outcome(guarded).error, OSError)
    assert isinstance(world.outcome(guarded).error, CircuitOpen)
    assert breaker.state == "open"


def test_breaker_with_fail_max_counts_failures_in_a_row_only(world: World) -> None:
    """A success sets the count of failures in a row to 0."""
    breaker = CircuitBreaker(None, fail_max=3)
    dependency = world.dependency(OSError(), OSError(), "up", OSError(), OSError(), OSError())
    guarded = breaker(dependency.fn)
    for failures in (1, 2, 0, 1, 2):
        world.outcome(guarded)
        assert breaker.fail_counter == failures
    assert breaker.state == "closed"
    world.outcome(guarded)
    assert breaker.state == "open"


@pytest.mark.virtual_time
async def test_breaker_open_becomes_half_open_at_an_admission_and_not_by_itself() -> None:
    """No timer waits for the end of the break, so an idle circuit costs nothing."""
    breaker = CircuitBreaker(None, fail_max=1, break_duration=5.0)
    await trip(breaker)
    await asyncio.sleep(3600)
    assert breaker.state == "open"
    assert await breaker(up)() == "up"
    assert breaker.state == "closed"


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "window", [{"window_calls": 20}, {"window_seconds": 10.0}, {}], ids=["count", "time", "default"]
)
async def test_breaker_opens_at_its_failure_rate_in_the_window(window: dict[str, Any]) -> None:
    """Half of the calls, once there are ten: the defaults."""
    breaker = CircuitBreaker(**window)
    for _ in range(5):
        await breaker(up)()
    for _ in range(4):
        await ends(breaker(down)())
    assert breaker.state == "closed"
    await ends(breaker(down)())
    assert breaker.state == "open"


@pytest.mark.virtual_time
async def test_breaker_forgets_failures_that_are_older_than_its_window() -> None:
    """Nine failures an hour ago and a tenth now are no outage."""
    breaker = CircuitBreaker(window_seconds=10.0)
    for _ in range(9):
        await ends(breaker(down)())
    await asyncio.sleep(3600)
    for _ in range(9):
        await breaker(up)()
    await ends(breaker(down)())
    assert breaker.state == "closed"


@pytest.mark.virtual_time
async def test_breaker_with_slow_rate_opens_on_slow_successes() -> None:
    """A success that takes exactly `slow` seconds is slow."""
    breaker = CircuitBreaker(None, slow=2.0, slow_rate=0.5, min_calls=4, window_calls=4)
    answer = breaker(asyncio.sleep)
    for seconds in (1.9, 2.0, 0.0):
        await answer(seconds)
    assert breaker.state == "closed"
    await answer(2.5)
    assert breaker.state == "open"


@pytest.mark.virtual_time
async def test_breaker_without_slow_rate_takes_slow_successes_for_successes() -> None:
    """`slow` alone is only the age from which a call that was cut short is a failure."""
    breaker = CircuitBreaker(None, fail_max=1, slow=2.0, min_calls=1)
    for _ in range(20):
        await breaker(asyncio.sleep)(100.0)
    assert breaker.state == "closed"


@pytest.mark.virtual_time
async def test_breaker_grows_its_break_with_each_failed_probe_and_shortens_it_after_closing() -> None:
    """The `retry_after` of refusals shows the length of the break."""
    random.seed(7)
    breaker = CircuitBreaker(None, fail_max=1, break_duration=4.0, max_break=20.0)
    await trip(breaker)
    for least, most in ((4.0, 8.0), (8.0, 16.0), (10.0, 20.0), (10.0, 20.0)):
        refusal = await ends(breaker(up)())
        await asyncio.sleep(refusal.retry_after)
        assert isinstance(await ends(breaker(down)()), OSError)
        refusal = await ends(breaker(up)())
        assert least <= refusal.retry_after <= most
    await asyncio.sleep(20.0)
    assert await breaker(up)() == "up"
    await trip(breaker)
    assert (await ends(breaker(up)())).retry_after == 4.0


# -- probes -------------------------------------------------------------------------------------------------------


@pytest.mark.every_loop
@pytest.mark.parametrize("probes", [1, 3])
async def test_breaker_half_open_admits_exactly_its_probes_of_200_concurrent_callers(probes: int) -> None:
    """All others are refused at once; the probes close the circuit."""
    breaker = CircuitBreaker(None, fail_max=1, probes=probes, success_threshold=probes)
    answer = asyncio.Event()
    inside = 0

    @breaker
    async def fetch() -> str:
        nonlocal inside
        inside += 1
        await answer.wait()
        return "up"

    breaker.half_open()
    calls = [asyncio.create_task(ends(fetch())) for _ in range(200)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert inside == probes
    assert sum(call.done() and isinstance(call.result(), CircuitOpen) for call in calls) == 200 - probes
    answer.set()
    assert (await asyncio.gather(*calls)).count("up") == probes
    assert breaker.state == "closed"


def test_breaker_half_open_admits_exactly_its_probes_of_50_threads() -> None:
    """Concurrent plain functions in threads get no more probes than the circuit allows."""
    breaker = CircuitBreaker(None, fail_max=1, probes=2, success_threshold=2)
    together, refused, answer = threading.Barrier(50), threading.Semaphore(0), threading.Event()
    results: list[str] = []

    @breaker
    def fetch() -> str:
        answer.wait(10)
        return "up"

    def caller() -> None:
        together.wait(10)
        try:
            results.append(fetch())
        except CircuitOpen:
            refused.release()

    breaker.half_open()
    threads = [threading.Thread(target=caller) for _ in range(50)]
    for thread in threads:
        thread.start()
    assert all(refused.acquire(timeout=10) for _ in range(48))
    assert not refused.acquire(blocking=False)
    answer.set()
    for thread in threads:
        thread.join()
    assert results == ["up", "up"]
    assert breaker.state == "closed"


@pytest.mark.virtual_time
async def test_breaker_with_a_hung_probe_gives_its_place_away_after_the_lease_and_drops_its_late_result() -> None:
    """A probe that never ends does not block the circuit, and the result of one that ends late is dropped."""
    breaker = CircuitBreaker(None, fail_max=1, lease=30.0)
    late = asyncio.Event()

    @breaker
    async def hangs() -> None:
        await late.wait()
        raise OSError("late")

    breaker.half_open()
    hung = asyncio.create_task(ends(hangs()))
    await asyncio.sleep(29.0)
    refusal = await ends(breaker(up)())
    assert isinstance(refusal, CircuitOpen)
    assert refusal.retry_after == 1.0
    await asyncio.sleep(refusal.retry_after)
    assert await breaker(up)() == "up"
    assert breaker.state == "closed"
    late.set()
    assert isinstance(await hung, OSError)
    assert breaker.state == "closed"
    assert breaker.fail_counter == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("wrap", [lambda call: call, Timeout(60.0)], ids=["alone", "timeout"])
async def test_breaker_with_a_cancelled_probe_gives_its_place_back_and_learns_nothing(wrap: Any) -> None:
    """The next call after a cancelled probe is a probe."""
    breaker = CircuitBreaker(None, fail_max=1)
    breaker.half_open()
    probe = asyncio.create_task(wrap(breaker(hang))())
    await asyncio.sleep(1.0)
    assert isinstance(await ends(breaker(up)()), CircuitOpen)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert breaker.state == "half-open"
    assert await breaker(up)() == "up"
    assert breaker.state == "closed"


@pytest.mark.virtual_time
async def test_breaker_with_a_probe_cut_at_its_limit_opens_again() -> None:
    """A probe that is cut at its Timeout is a failure: the dependency had its full time."""
    breaker = CircuitBreaker(None, fail_max=1)
    breaker.half_open()
    with pytest.raises(TimedOut):
        await Pipeline(Timeout(2.0), breaker).call(hang)
    assert breaker.state == "open"


@pytest.mark.parametrize("error", [TypeError("ours"), KeyboardInterrupt(), SystemExit()])
def test_breaker_with_a_probe_that_says_nothing_gives_its_place_back(error: BaseException) -> None:
    """Programming errors, and errors that are no `Exception`, pass unchanged, and the circuit learns nothing from
    them."""
    breaker = CircuitBreaker(None, fail_max=1)
    breaker.half_open()

    def fetch(error: BaseException | None) -> str:
        if error is not None:
            raise error
        return "up"

    with pytest.raises(type(error)) as caught:
        breaker(fetch)(error)
    assert caught.value is error
    assert breaker.state == "half-open"
    assert breaker(fetch)(None) == "up"
    assert breaker.state == "closed"


def raising(*_: object) -> bool:
    raise LookupError("the classifier is broken")


@pytest.mark.virtual_time
@pytest.mark.parametrize("option", ["failures", "ignore", "fatal", "results"])
async def test_breaker_with_a_classifier_that_raises_on_a_probe_loses_nothing(option: str) -> None:
    """The caller gets the classifier's error, and the next call is a probe."""
    breaker = CircuitBreaker(None, fail_max=1)
    broken = Pipeline(breaker, classify=Classifier(**{option: raising}))
    breaker.half_open()
    for _ in range(3):
        with pytest.raises(LookupError, match="the classifier is broken"):
            await broken.call(up if option == "results" else down)
    assert breaker.state == "half-open"
    assert await breaker(up)() == "up"
    assert breaker.state == "closed"


# -- late results -------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_breaker_late_results_of_an_earlier_state_neither_trip_nor_close_it() -> None:
    """Calls from before the outage end, with success and failure, while the circuit is open, half-open, and closed
    again."""
    breaker = CircuitBreaker(None, fail_max=1, break_duration=10.0)

    @breaker
    async def answer(seconds: float, error: Exception | None) -> str:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return "up"

    early = [
        asyncio.create_task(ends(answer(seconds, error)))
        for seconds in (5.0, 12.0, 20.0)
        for error in (None, OSError("late"))
    ]
    await asyncio.sleep(1.0)
    await trip(breaker)
    await asyncio.sleep(5.0)
    assert breaker.state == "open"
    await asyncio.sleep(5.0)
    probe = asyncio.create_task(answer(4.0, None))
    await asyncio.sleep(2.0)
    assert breaker.state == "half-open"
    await probe
    assert breaker.state == "closed"
    await asyncio.gather(*early)
    assert breaker.state == "closed"
    assert breaker.snapshot()["calls"] == 0


# -- by hand ------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_breaker_isolated_refuses_until_it_is_closed_by_hand() -> None:
    """Its refusals have no `retry_after`, and its state in pybreaker's terms is "open"."""
    breaker = CircuitBreaker(None, fail_max=1)
    breaker.isolate()
    await asyncio.sleep(1e6)
    breaker.open()
    breaker.half_open()
    refusal = await ends(breaker(up)())
    assert isinstance(refusal, CircuitOpen)
    assert refusal.retry_after is None
    assert (breaker.state, breaker.current_state) == ("isolated", "open")
    breaker.close()
    assert await breaker(up)() == "up"


@pytest.mark.virtual_time
async def test_breaker_opened_by_hand_probes_after_its_break() -> None:
    """`open()` has the same effect as failures."""
    breaker = CircuitBreaker(break_duration=5.0)
    breaker.open()
    refusal = await ends(breaker(up)())
    assert refusal.retry_after == 5.0
    await asyncio.sleep(5.0)
    assert await breaker(up)() == "up"
    assert breaker.state == "closed"


# -- shadow -------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_breaker_in_shadow_refuses_nothing_and_counts_what_it_would_have_refused() -> None:
    """Its circuit opens, probes and closes as in earnest, and every call goes through."""
    breaker = CircuitBreaker(None, fail_max=1, break_duration=5.0, shadow=True)
    await trip(breaker)
    for _ in range(3):
        assert await breaker(up)() == "up"
    assert isinstance(await ends(breaker(down)()), OSError)
    assert breaker.state == "open"
    assert breaker.snapshot()["would_have_refused"] == 4
    assert breaker.snapshot()["refused"] == 0
    await asyncio.sleep(5.0)
    assert await breaker(up)() == "up"
    assert breaker.state == "closed"
    assert breaker.snapshot()["would_have_refused"] == 4


@pytest.mark.virtual_time
async def test_breaker_in_shadow_emits_what_it_would_have_refused() -> None:
    """The event is a `CallRejected` with `shadow=True`."""
    breaker = CircuitBreaker(None, fail_max=1, break_duration=5.0, shadow=True)
    pipeline = Pipeline(breaker, name="users")
    await trip(breaker)
    heard: list[Any] = []
    pipeline.listen(heard.append)
    assert await pipeline.call(up) == "up"
    rejections = [event for event in heard if isinstance(event, events.CallRejected)]
    assert rejections == [
        events.CallRejected(
            "users", 0.0, "CircuitBreaker", "CircuitBreaker is open; try again in 5 s", 5.0, shadow=True
        )
    ]


@pytest.mark.virtual_time
async def test_breaker_in_shadow_learns_from_probes_only_while_half_open() -> None:
    """Calls that it would have refused are no evidence."""
    breaker = CircuitBreaker(None, fail_max=1, success_threshold=2, shadow=True)
    breaker.half_open()
    probe = asyncio.create_task(breaker(asyncio.sleep)(1.0))
    await asyncio.sleep(0)
    assert isinstance(await ends(breaker(down)()), OSError)
    assert await breaker(up)() == "up"
    await probe
    assert breaker.state == "half-open"
    assert breaker.snapshot()["would_have_refused"] == 2


# -- what callers and listeners get -------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_circuit_open_carries_what_a_handler_needs_and_pickles() -> None:
    """The error is one of ours and one of pybreaker's, and pickling keeps all of its attributes."""
    breaker = CircuitBreaker(None, fail_max=1, break_duration=5.0, name="users-circuit")
    pipeline = Pipeline(breaker, name="users")
    await trip(breaker)
    await asyncio.sleep(2.0)
    error = await ends(pipeline.call(up))
    copy = pickle.loads(pickle.dumps(error))
    for each in (error, copy):
        assert isinstance(each, CircuitOpen)
        assert isinstance(each, Rejected)
        assert isinstance(each, pybreaker.CircuitBreakerError)
        assert (each.pipeline, each.policy, each.retry_after) == ("users", "users-circuit", 3.0)
        assert str(each) == "users: users-circuit is open; try again in 3 s"


@pytest.mark.virtual_time
async def test_breaker_emits_its_changes_in_every_pipeline_that_shares_it() -> None:
    """Each pipeline emits one event with its own name, also where the call of another one caused the change."""
    breaker = CircuitBreaker(None, fail_max=1, break_duration=5.0, name="shared")
    first, second = Pipeline(breaker, name="first"), Pipeline(Timeout(1), breaker, name="second")
    heard: list[tuple[str, Any]] = []
    for pipeline in (first, second):
        pipeline.listen(lambda event, name=pipeline.name: heard.append((name, event)))
    await ends(first.call(down))
    await asyncio.sleep(5.0)
    await second.call(up)
    changes = [
        (name, event.pipeline, event.at, event.policy, event.old, event.new, event.reason)
        for name, event in heard
        if isinstance(event, events.CircuitChanged)
    ]
    expected = [
        (0.0, "shared", "closed", "open", "1 failures in a row"),
        (5.0, "shared", "open", "half-open", "the break is over"),
        (5.0, "shared", "half-open", "closed", "the probes succeeded"),
    ]
    for name in ("first", "second"):
        assert [change[1:] for change in changes if change[0] == name] == [(name, *change) for change in expected]


@pytest.mark.virtual_time
async def test_breaker_refusal_is_an_event_with_its_reason() -> None:
    """Only the pipeline of the refused call emits the event."""
    breaker = CircuitBreaker(None, fail_max=1, break_duration=5.0)
    pipeline = Pipeline(breaker, name="users")
    await trip(breaker)
    heard: list[Any] = []
    pipeline.listen(heard.append)
    await ends(pipeline.call(up))
    assert heard[:-1] == [
        events.CallRejected("users", 0.0, "CircuitBreaker", "CircuitBreaker is open; try again in 5 s", 5.0)
    ]
    assert (heard[-1].ending, heard[-1].requests) == ("rejected", 0)


@pytest.mark.virtual_time
async def test_breaker_snapshot_shows_state_evidence_and_refusals() -> None:
    """A snapshot is plain data."""
    breaker = CircuitBreaker(None, fail_max=3, slow=1.0, slow_rate=1.0, break_duration=5.0)
    await breaker(asyncio.sleep)(1.0)
    for _ in range(3):
        await ends(breaker(down)())
    await ends(breaker(up)())
    assert breaker.snapshot() == {
        "state": "open",
        "calls": 4,
        "failures": 3,
        "slow": 1,
        "failures_in_a_row": 3,
        "probes": 0,
        "refused": 1,
        "would_have_refused": 0,
        "retry_after_seconds": 5.0,
    }


@pytest.mark.parametrize(
    ("breaker", "text"),
    [
        (CircuitBreaker(), "CircuitBreaker(50% failures of >= 10 in 10 s, break 5 s: closed)"),
        (CircuitBreaker(None, fail_max=3), "CircuitBreaker(3 failures in a row, break 5 s: closed)"),
        (
            CircuitBreaker(0.25, fail_max=3, slow=2, slow_rate=0.5, window_calls=100, min_calls=20, shadow=True),
            "CircuitBreaker(3 failures in a row or 25% failures or 50% slower than 2 s of >= 20 in 100 calls, "
            "break 5 s, shadow: closed)",
        ),
    ],
)
def test_breaker_describes_what_opens_it(breaker: CircuitBreaker, text: str) -> None:
    """The description is one line, for people."""
    assert breaker.describe() == text


# -- evidence: what counts ----------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_breaker_counts_failures_as_its_pipelines_classifier_judges_them() -> None:
    """The classifier can judge results as failures, errors as no failures, and outcomes as no evidence."""

    def judge(result: Any) -> bool | Verdict:
        return result if isinstance(result, Verdict) else result == 503

    breaker = CircuitBreaker(None, fail_max=2)
    pipeline = Pipeline(breaker, classify=Classifier(ignore=KeyError, results=judge))

    async def answer(result: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    for result in (503, KeyError("not found"), Verdict("nothing"), 503):
        assert breaker.state == "closed"
        await ends(pipeline.call(answer, result))
    assert breaker.state == "open"


@pytest.mark.parametrize("error", [TypeError(), AttributeError(), NameError(), AssertionError(), NotImplementedError()])
def test_breaker_takes_programming_errors_for_no_evidence(error: Exception) -> None:
    """They count neither as failures nor as successes: failures in a row stay in a row."""
    breaker = CircuitBreaker(None, fail_max=2)

    def fetch(error: Exception) -> None:
        raise error

    for each in (OSError(), error):
        with pytest.raises(type(each)):
            breaker(fetch)(each)
    assert breaker.state == "closed"
    assert breaker.fail_counter == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "inner",
    [[Bulkhead(1)], [Timeout(10.0), Bulkhead(1)], [Pipeline(Bulkhead(1))]],
    ids=["next to it", "behind a timeout", "nested"],
)
async def test_breaker_takes_local_rejections_for_no_evidence(inner: list[Any]) -> None:
    """The refusal of a full bulkhead inside it is no evidence about the dependency."""
    breaker = CircuitBreaker(None, fail_max=1)
    pipeline = Pipeline(breaker, *inner)
    first = asyncio.create_task(pipeline.call(asyncio.sleep, 1.0))
    await asyncio.sleep(0)
    for _ in range(10):
        assert isinstance(await ends(pipeline.call(up)), BulkheadFull)
    await first
    assert breaker.state == "closed"
    assert breaker.snapshot()["calls"] == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("policies", "seconds", "failures"),
    [
        ([Timeout(10.0)], 9.5, 0),  # younger than its limit
        ([Timeout(10.0)], 9.95, 1),  # its limit, but for the time that a Timeout's clock begins earlier
        ([], 1000.0, 0),  # no limit at all
    ],
)
async def test_breaker_counts_a_call_that_its_caller_cancels_by_its_age(
    policies: list[Timeout], seconds: float, failures: int
) -> None:
    """A young cancelled call is no evidence; one that had reached its configured limit is a failure."""
    breaker = CircuitBreaker(None, fail_max=5)
    call = asyncio.create_task(Pipeline(*policies, breaker).call(hang))
    await asyncio.sleep(seconds)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert breaker.snapshot()["calls"] == failures
    assert breaker.fail_counter == failures


@pytest.mark.virtual_time
@pytest.mark.parametrize(("seconds", "failures"), [(1.9, 0), (2.0, 1)])
async def test_breaker_without_a_timeout_counts_a_cut_call_from_slow_on(seconds: float, failures: int) -> None:
    """`slow` is the limit in a pipeline without a Timeout."""
    breaker = CircuitBreaker(None, fail_max=5, slow=2.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await breaker(hang)()
    assert breaker.fail_counter == failures


@pytest.mark.virtual_time
async def test_breaker_counts_by_the_nearest_timeout_of_its_own_pipeline() -> None:
    """The limit of each attempt counts, not that of the whole call, and not `slow`."""
    breaker = CircuitBreaker(None, fail_max=5, slow=0.1)
    pipeline = Pipeline(Timeout(100.0), breaker, Timeout(2.0))
    for seconds in (1.0, 1.9, 2.5):
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await pipeline.call(hang)
        assert breaker.fail_counter == (seconds > 2.0)


def test_breaker_counts_a_result_that_came_after_the_limit_as_a_failure(world: World) -> None:
    """A function that runs on beyond its limit is a failure, even where its caller gets the result."""
    breaker = CircuitBreaker(None, fail_max=1)
    dependency = world.dependency(Slow(0.1, "late"))
    outcome = world.outcome(Pipeline(Timeout(0.05), breaker)(dependency.fn))
    assert outcome.value == "late" if world.name == "threads" else isinstance(outcome.error, TimedOut)
    assert breaker.state == "open"


@pytest.mark.virtual_time
async def test_breaker_takes_the_callees_own_timeout_error_for_a_failure() -> None:
    """A `TimeoutError` of the function is an answer of the dependency, like any other error."""
    breaker = CircuitBreaker(None, fail_max=1)

    async def answer() -> None:
        raise TimeoutError("from the dependency")

    with pytest.raises(TimeoutError, match="from the dependency"):
        await Pipeline(Timeout(10.0), breaker).call(answer)
    assert breaker.state == "open"


# -- evidence: the four orders ------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "stack",
    [
        lambda breaker: Pipeline(Timeout(3.0), breaker),
        lambda breaker: Pipeline(Timeout(3.0), Bulkhead(10, queue=10), breaker),
        lambda breaker: Pipeline(Timeout(3.0), Retry(attempts=3, wait=0), breaker),
        lambda breaker: Pipeline(Timeout(3.0), Pipeline(breaker, Timeout(2.0))),
    ],
    ids=["alone", "queue", "retry", "nested"],
)
async def test_order_timeout_outside_breaker_with_a_hanging_dependency_opens(
    stack: Callable[[CircuitBreaker], Pipeline],
) -> None:
    """The breaker learns from the calls that an outer Timeout of its pipeline ends."""
    breaker = CircuitBreaker(None, fail_max=3)
    guarded = stack(breaker)(hang)
    for _ in range(3):
        assert breaker.state == "closed"
        assert isinstance(await ends(guarded()), TimedOut)
    assert breaker.state == "open"
    assert isinstance(await ends(guarded()), CircuitOpen)


def test_order_queue_before_a_dead_dependency_sends_nothing_after_opening(world: World) -> None:
    """Calls that already wait are refused when they get their permits, and give them back."""
    breaker = CircuitBreaker(None, fail_max=1)
    bulkhead = Bulkhead(1, queue=10)
    in_line = Until(lambda: bulkhead.snapshot()["queued"] == 7, OSError("down"))
    dependency = world.dependency(in_line)  # a second call would fail the test
    guarded = Pipeline(bulkhead, breaker)(dependency.fn)
    outcomes = world.together(*[guarded] * 8)
    assert isinstance(outcomes[0].error, OSError)
    assert [type(outcome.error) for outcome in outcomes[1:]] == [CircuitOpen] * 7
    assert len(dependency.calls) == 1
    assert bulkhead.snapshot()["in_use"] == bulkhead.snapshot()["queued"] == 0


@pytest.mark.virtual_time
async def test_order_queue_before_a_hanging_dependency_sends_nothing_after_opening() -> None:
    """With a Timeout for each attempt, three of fifty calls are sent: those that open the circuit."""
    breaker = CircuitBreaker(None, fail_max=3)
    sent = 0

    async def hangs() -> None:
        nonlocal sent
        sent += 1
        await hang()

    guarded = Pipeline(Timeout(10.0), Bulkhead(1, queue=100), breaker, Timeout(1.0))(hangs)
    outcomes = await asyncio.gather(*(ends(guarded()) for _ in range(50)))
    assert sent == 3
    assert [type(outcome) for outcome in outcomes] == [TimedOut] * 3 + [CircuitOpen] * 47


def test_order_healthy_dependency_behind_a_long_local_queue_stays_closed(world: World) -> None:
    """Deadlines that end in the queue, or soon after it, are no evidence."""
    for _ in range(5):
        breaker = CircuitBreaker(None, fail_max=1)
        dependency = world.dependency(*[Slow(0.1, "up")] * 6)
        guarded = Pipeline(Timeout(0.25), Bulkhead(1, queue=10), breaker)(dependency.fn)
        outcomes = world.together(*[guarded] * 6)
        if outcomes[0].value == "up" and breaker.state == "closed":
            break  # else the machine stood still while a call was sent, which had its time then
    assert outcomes[0].value == "up"
    assert sum(isinstance(outcome.error, TimedOut) for outcome in outcomes) >= 2
    assert breaker.state == "closed"
    assert breaker.fail_counter == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "stack",
    [
        lambda breaker: Pipeline(Timeout(1.0), breaker, Bulkhead(1, queue=10)),
        lambda breaker: Pipeline(breaker, Timeout(1.0), Bulkhead(1, queue=10)),
        lambda breaker: Pipeline(breaker, Pipeline(Timeout(1.0), Bulkhead(1, queue=10))),
    ],
    ids=["timeout, breaker, queue", "breaker, timeout, queue", "nested"],
)
async def test_order_queue_inside_breaker_is_warned_of_and_yet_no_evidence(
    stack: Callable[[CircuitBreaker], Pipeline],
) -> None:
    """The time in a queue does not count as the age of a call, also where the queue is inside the breaker."""
    breaker = CircuitBreaker(None, fail_max=1)
    with pytest.warns(PipelineWarning):
        guarded = stack(breaker)(asyncio.sleep)
    outcomes = await asyncio.gather(*(ends(guarded(0.6)) for _ in range(4)))
    assert [type(outcome) for outcome in outcomes] == [type(None), TimedOut, TimedOut, TimedOut]
    assert breaker.state == "closed"
    assert breaker.fail_counter == 0


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
@pytest.mark.every_loop
@pytest.mark.parametrize(
    "stack",
    [
        Pipeline,
        lambda breaker: Pipeline(Timeout(60.0), breaker),
        lambda breaker: Pipeline(breaker, Timeout(60.0)),
        lambda breaker: Pipeline(Retry(attempts=2, wait=0), Bulkhead(1000), breaker, Timeout(60.0)),
    ],
    ids=["alone", "timeout outside", "timeout inside", "all four"],
)
@pytest.mark.parametrize("by", ["an outer pipeline", "asyncio.timeout"])
async def test_order_flood_of_calls_with_inherited_deadlines_of_a_millisecond_leaves_the_circuit_closed(
    by: str, stack: Callable[[CircuitBreaker], Pipeline]
) -> None:
    """Short deadlines of callers are no evidence about a dependency that answers within its limit."""
    breaker = CircuitBreaker(0.1, fail_max=3, min_calls=5)
    inner = stack(breaker)(asyncio.sleep)
    outer = Pipeline(Timeout(0.001))(inner)

    async def impatient() -> None:
        if by == "an outer pipeline":
            await outer(30.0)
        else:
            async with asyncio.timeout(0.001):
                await inner(30.0)

    outcomes = await asyncio.gather(*(ends(impatient()) for _ in range(200)))
    assert all(isinstance(outcome, TimeoutError) for outcome in outcomes)
    assert breaker.state == "closed"
    assert breaker.snapshot()["calls"] == 0
    assert await inner(0.0) is None


# -- one instance, many threads and loops -------------------------------------------------------------------------


@contextmanager
def hurried() -> Iterator[None]:
    """Threads switch as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def in_8_threads_and_4_loops(work: Callable[[], object], async_work: Callable[[], Awaitable[object]]) -> None:
    """Call `work` in eight threads, and `async_work` ten times concurrently in each of four event loops, all
    together."""
    together = threading.Barrier(12)
    errors: list[BaseException] = []

    def plain() -> None:
        work()

    def loop() -> None:
        async def tasks() -> None:
            await asyncio.gather(*(async_work() for _ in range(10)))

        asyncio.run(tasks())

    def run(main: Callable[[], None]) -> None:
        together.wait(10)
        try:
            main()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(main,)) for main in [plain] * 8 + [loop] * 4]
    with hurried():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


@pytest.mark.parametrize("window", [{"window_calls": 100_000}, {"window_seconds": 1000.0}], ids=["count", "time"])
def test_breaker_in_8_threads_and_4_loops_counts_every_call(window: dict[str, Any]) -> None:
    """The sums of the window are equal to the recorded calls."""
    breaker = CircuitBreaker(1.0, slow=0.0001, slow_rate=1.0, min_calls=100_000, **window)

    def fetch(number: int) -> None:
        if number % 3 == 0:
            raise OSError

    async def fetch_async(number: int) -> None:
        await asyncio.sleep(0)
        fetch(number)

    guarded, guarded_async = breaker(fetch), breaker(fetch_async)

    def work() -> None:
        for number in range(300):
            with suppress(OSError):
                guarded(number)

    async def async_work() -> None:
        for number in range(60):
            with suppress(OSError):
                await guarded_async(number)

    in_8_threads_and_4_loops(work, async_work)
    snapshot = breaker.snapshot()
    assert snapshot["calls"] == 8 * 300 + 40 * 60
    assert snapshot["failures"] == 8 * 100 + 40 * 20


def test_breaker_in_8_threads_and_4_loops_admits_no_more_probes_than_it_may() -> None:
    """Each other call is refused and counted."""
    breaker = CircuitBreaker(None, fail_max=1, probes=3, success_threshold=10**9)
    breaker.half_open()
    lock = threading.Lock()
    inside = most = admitted = refused = 0

    def enter() -> None:
        nonlocal inside, most, admitted
        with lock:
            inside += 1
            admitted += 1
            most = max(most, inside)

    def leave() -> None:
        nonlocal inside
        with lock:
            inside -= 1

    def count_refusal() -> None:
        nonlocal refused
        with lock:
            refused += 1

    @breaker
    def fetch() -> None:
        enter()
        time.sleep(0)
        leave()

    @breaker
    async def fetch_async() -> None:
        enter()
        await asyncio.sleep(0)
        leave()

    def work() -> None:
        for _ in range(200):
            try:
                fetch()
            except CircuitOpen:
                count_refusal()

    async def async_work() -> None:
        for _ in range(40):
            try:
                await fetch_async()
            except CircuitOpen:
                count_refusal()
                await asyncio.sleep(0)

    in_8_threads_and_4_loops(work, async_work)
    assert 1 <= most <= 3
    assert admitted + refused == 8 * 200 + 40 * 40
    snapshot = breaker.snapshot()
    assert (snapshot["refused"], snapshot["probes"]) == (refused, 0)


@pytest.mark.parametrize("window", [{"window_calls": 10}, {"window_seconds": 0.001}], ids=["count", "time"])
def test_breaker_in_8_threads_and_4_loops_survives_everything_at_once(window: dict[str, Any]) -> None:
    """Circuits open and close all the time, by evidence and by hand, in pipelines that are made and dropped."""
    breaker = CircuitBreaker(0.5, fail_max=3, min_calls=2, break_duration=0.0001, max_break=0.001, probes=2, **window)
    chance = random.Random(5)

    def fetch() -> None:
        if chance.random() < 0.4:
            raise OSError

    async def fetch_async() -> None:
        await asyncio.sleep(0)
        fetch()

    changes: list[Any] = []

    def work() -> None:
        for number in range(100):
            pipeline = Pipeline(breaker)
            pipeline.listen(changes.append)
            with suppress(OSError, CircuitOpen):
                pipeline.call(fetch)
            if number % 10 == 0:
                [breaker.open, breaker.close, breaker.half_open, breaker.isolate][number // 10 % 4]()

    async def async_work() -> None:
        for _ in range(30):
            with suppress(OSError, CircuitOpen):
                await Pipeline(breaker).call(fetch_async)

    in_8_threads_and_4_loops(work, async_work)
    assert changes
    breaker.close()
    assert [breaker(lambda: "up")() for _ in range(20)] == ["up"] * 20
    snapshot = breaker.snapshot()
    assert (snapshot["state"], snapshot["failures"], snapshot["probes"]) == ("closed", 0, 0)


# -- another of the same settings -----------------------------------------------------------------------------------


def test_fresh_circuit_has_the_settings_and_listeners_and_no_history() -> None:
    """A `Keyed` makes such a circuit for each key."""
    listener = pybreaker.CircuitBreakerListener()
    breaker = CircuitBreaker(0.25, slow=2, slow_rate=0.5, window_calls=20, probes=3, name="users")
    breaker.add_listener(listener)
    breaker.isolate()
    fresh = breaker.clone()
    assert (fresh.state, fresh.name, fresh.listeners) == ("closed", "users", (listener,))
    assert fresh.describe() == breaker.describe().replace("isolated", "closed")
    assert breaker.state == "isolated"


def test_circuit_with_a_storage_has_no_fresh_one() -> None:
    """Two circuits with one storage would be the same circuit."""
    breaker = CircuitBreaker(state_storage=pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED))
    with pytest.raises(ValueError, match="same circuit"):
        breaker.clone()
