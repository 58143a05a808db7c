"""RateLimit: its bucket, its queue, the time in the queue, and tokens that come back when no call was made."""

from __future__ import annotations

import asyncio
import gc
import math
import pickle
import queue
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any, cast

import pytest
import trio
import trio.testing
import uvloop

from resilient import (
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    Classifier,
    Pipeline,
    PipelineWarning,
    RateLimit,
    RateLimited,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    events,
)
from resilient.core.call import Call, new_call
from resilient.core.context import PipelineContext
from resilient.runtime import virtual
from tests.properties.cancellation_driver import cancel_at_every_point, cancel_at_every_step_of_trio
from tests.worlds import WORLDS, Dependency, Slow, World


@pytest.fixture(params=WORLDS, ids=lambda kind: kind.name)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each runtime, and uvloop, whose clock counts milliseconds."""
    made: World = request.param()
    yield made
    made.close()


PATIENCE = 10
"""Seconds after which a test in threads has hung."""

LONG = 3600.0
"""Seconds in which no token comes."""


def refusal(world: World, guarded: Callable[..., Any]) -> RateLimited:
    """The error of a call that must be refused."""
    error = world.outcome(guarded).error
    assert isinstance(error, RateLimited)
    return error


def rest(world: World, seconds: float) -> None:
    """Let time pass."""
    if world.is_async:
        world.run(lambda: world.sleep(seconds))
    else:
        time.sleep(seconds)


def snapshot(world: World, limit: RateLimit) -> dict[str, Any]:
    """The limit's snapshot by the clock of the world."""

    async def look() -> dict[str, Any]:
        return limit.snapshot()

    state: dict[str, Any] = world.run(look if world.is_async else limit.snapshot)
    return state


def guard(dependency: Dependency, *limits: RateLimit) -> Callable[..., Any]:
    """The world's function behind these limits."""
    return Pipeline(*limits)(dependency.fn)


# -- the bucket -----------------------------------------------------------------------------------------------------


def test_full_bucket_lets_its_burst_through_and_refuses_the_next_at_once(world: World) -> None:
    """The refused call does not reach the dependency."""
    limit, dependency = RateLimit(3, per=LONG, burst=3), world.dependency(1, 2, 3)
    guarded = limit(dependency.fn)
    assert [world.call(guarded) for _ in range(3)] == [1, 2, 3]
    error = refusal(world, guarded)
    assert str(error).startswith("RateLimit of 3 per 3600 s is used up; the next token comes in 1.2e+03 s")
    assert error.retry_after == pytest.approx(1200, abs=PATIENCE)
    assert len(dependency.calls) == 3


def test_call_after_retry_after_gets_the_token(world: World) -> None:
    """The refusal has the exact time of the token, and rounding does not make it too early."""
    guarded = RateLimit(30, burst=1)(world.dependency(*range(100)).fn)
    refused = next(error for _ in range(99) if (error := world.outcome(guarded).error) is not None)
    assert isinstance(refused, RateLimited)
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 1 / 30
    rest(world, refused.retry_after)
    assert isinstance(world.call(guarded), int)


def test_rate_of_half_a_call_per_second_admits_a_call(world: World) -> None:
    """(nopanic's never admits one.)"""
    limit, dependency = RateLimit(0.5), world.dependency("served")
    guarded = limit(dependency.fn)
    assert world.call(guarded) == "served"
    assert refusal(world, guarded).retry_after == pytest.approx(2, abs=1.9)


def test_rate_of_one_call_per_minute_lets_one_through(world: World) -> None:
    """(pyresilience's lets five.)"""
    limit, dependency = RateLimit(1, per=60), world.dependency("served")
    guarded = limit(dependency.fn)
    assert world.call(guarded) == "served"
    for _ in range(5):
        assert refusal(world, guarded).retry_after == pytest.approx(60, abs=PATIENCE)


@pytest.mark.parametrize(
    ("rate", "per", "burst"), [(10, 1.0, 10), (2.5, 1.0, 2), (0.3, 0.1, 3), (100, 60.0, 1), (0.01, 1.0, 1)]
)
def test_burst_is_by_default_what_comes_in_a_second(rate: float, per: float, burst: int) -> None:
    """It is at least 1."""
    assert RateLimit(rate, per=per).snapshot()["burst"] == burst


def test_one_instance_has_one_bucket_whatever_it_guards(world: World) -> None:
    """Two functions in two pipelines share it; another instance has its own."""
    limit, dependency = RateLimit(1, per=LONG), world.dependency("first", "other")
    assert world.call(guard(dependency, limit)) == "first"
    refusal(world, guard(dependency, limit))
    assert world.call(guard(dependency, RateLimit(1, per=LONG))) == "other"


@pytest.mark.parametrize("error", [OSError(), TypeError(), Rejected()], ids=["failure", "callback_error", "rejection"])
def test_token_is_spent_however_a_call_ends(world: World, error: Exception) -> None:
    """The request was sent, and the other side has counted it."""
    limit, dependency = RateLimit(1, per=LONG, burst=2), world.dependency(error, "next")
    guarded = limit(dependency.fn)
    assert world.outcome(guarded).error is error
    assert world.call(guarded) == "next"
    refusal(world, guarded)


def test_each_attempt_of_a_retry_around_it_takes_a_token(world: World) -> None:
    """When no token is left, the caller gets the last real error."""
    error = OSError("second")
    limit, dependency = RateLimit(1, per=LONG, burst=2), world.dependency(OSError("first"), error)
    guarded = Pipeline(Retry(3, wait=0), limit)(dependency.fn)
    assert world.outcome(guarded).error is error
    assert len(dependency.calls) == 2


@pytest.mark.virtual_time
async def test_tokens_are_saved_up_to_the_burst_and_no_further() -> None:
    """The bound holds after a pause of any length."""
    limit = RateLimit(4, burst=3)
    assert await admitted(limit, 9) == 3
    await asyncio.sleep(0.5)
    assert await admitted(limit, 9) == 2
    await asyncio.sleep(1000)
    assert await admitted(limit, 9) == 3


@pytest.mark.virtual_time
async def test_retry_after_is_exactly_the_time_until_the_next_token() -> None:
    """At any moment of the interval."""
    limit = RateLimit(2, burst=2)
    assert await admitted(limit, 9) == 2
    for wait, retry_after in ((0.0, 0.5), (0.125, 0.375), (0.25, 0.125)):
        await asyncio.sleep(wait)
        with pytest.raises(RateLimited) as caught:
            await limit(asyncio.sleep)(0)
        assert caught.value.retry_after == retry_after


@pytest.mark.parametrize("rate", [3, 7, 10, 0.3, 49, 1000])
@pytest.mark.parametrize("start", [0.0, 0.7, 123456.789])
def test_caller_that_always_comes_back_after_retry_after_is_always_served_at_the_rate(
    rate: float, start: float
) -> None:
    """Rounding refuses no such call, and lets none come earlier than the rate allows."""

    async def main() -> float:
        limit = RateLimit(rate, burst=1)
        guarded = limit(asyncio.sleep)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await guarded(0)
        for _ in range(300):
            with pytest.raises(RateLimited) as caught:
                await guarded(0)
            await asyncio.sleep(caught.value.retry_after or 0.0)
            assert limit.snapshot()["tokens"] == 1
            await guarded(0)
        return loop.time() - begin

    assert virtual.run(main(), start=start) == pytest.approx(300 / rate, abs=1e-6)


async def admitted(limit: RateLimit, calls: int) -> int:
    """How many of this many calls are admitted now."""
    ends = await asyncio.gather(*(limit(asyncio.sleep)(0) for _ in range(calls)), return_exceptions=True)
    assert all(end is None or isinstance(end, RateLimited) for end in ends)
    return ends.count(None)


@pytest.mark.virtual_time
async def test_snapshot_counts_tokens_and_queued_calls() -> None:
    """It also has the settings, with units in the names."""
    limit = RateLimit(2, burst=3, max_wait=1)
    seen: list[tuple[int, float, int]] = []

    def look() -> None:
        state = limit.snapshot()
        seen.append((state["tokens"], state["next_token_seconds"], state["queued"]))

    look()
    await limit(asyncio.sleep)(0)
    look()
    calls = asyncio.gather(*(limit(asyncio.sleep)(0) for _ in range(3)))
    await asyncio.sleep(0.125)
    look()
    await calls
    look()
    await asyncio.sleep(1000)
    look()
    assert seen == [(3, 0.0, 0), (2, 0.0, 0), (0, 0.375, 1), (0, 0.5, 0), (3, 0.0, 0)]
    assert limit.snapshot() == {
        "tokens": 3,
        "burst": 3,
        "rate_per_second": 2.0,
        "next_token_seconds": 0.0,
        "queued": 0,
        "max_wait_seconds": 1.0,
    }


@pytest.mark.virtual_time
async def test_limit_is_at_rest_when_its_bucket_is_full_and_its_queue_empty() -> None:
    """A new limit in its place would admit no more calls."""
    limit = RateLimit(2, burst=2, max_wait=9)
    assert limit._at_rest
    calls = asyncio.gather(*(limit(asyncio.sleep)(0) for _ in range(3)))
    await asyncio.sleep(0.25)
    assert not limit._at_rest
    await calls
    await asyncio.sleep(0.75)
    assert not limit._at_rest
    await asyncio.sleep(0.25)
    assert limit._at_rest


def test_description_says_rate_burst_and_wait() -> None:
    """The description has the values of its arguments."""
    assert RateLimit(10).describe() == "RateLimit(10 per second, burst 10)"
    assert RateLimit(0.5, per=60, max_wait=2, shadow=True).describe() == (
        "RateLimit(0.5 per 60 s, burst 1, waits up to 2 s, shadow)"
    )


# -- the queue ------------------------------------------------------------------------------------------------------


def test_calls_wait_for_their_tokens_in_order_of_arrival(world: World) -> None:
    """Of six calls at once at 50 per second, the last one waits for five tokens."""
    limit, dependency = RateLimit(50, burst=1, max_wait=5), world.dependency(*range(6))
    guarded = limit(dependency.fn)
    begin = world.now()
    outcomes = world.together(*(lambda number=number: guarded(number) for number in range(6)))
    assert [outcome.error for outcome in outcomes] == [None] * 6
    assert [args for args, _ in dependency.arguments] == [(number,) for number in range(6)]
    assert world.now() - begin >= 0.1 - 1e-6
    assert limit.snapshot()["queued"] == 0


class Times:
    """Calls the guarded function in virtual time, and records when each call was admitted, by its number."""

    def __init__(self, *policies: Any) -> None:
        self.pipeline = Pipeline(*policies)
        self.guarded = self.pipeline(self.fetch)
        self.now = asyncio.get_running_loop().time
        self.begin = self.now()
        self.served: dict[int, float] = {}

    async def fetch(self, number: int, seconds: float = 0.0) -> None:
        self.served[number] = self.now() - self.begin
        await asyncio.sleep(seconds)

    def start(self, *numbers: int, seconds: float = 0.0) -> list[asyncio.Task[None]]:
        """Start a task for each call, in this order."""
        return [asyncio.ensure_future(self.guarded(number, seconds)) for number in numbers]


@pytest.mark.virtual_time
async def test_waiters_go_exactly_when_their_tokens_come() -> None:
    """After the burst, one call starts each quarter of a second."""
    times = Times(RateLimit(4, burst=2, max_wait=9))
    await asyncio.gather(*times.start(*range(6)))
    assert times.served == {0: 0.0, 1: 0.0, 2: 0.25, 3: 0.5, 4: 0.75, 5: 1.0}


@pytest.mark.virtual_time
async def test_new_call_does_not_overtake_waiters() -> None:
    """Also when it arrives at the moment of a token."""
    times = Times(RateLimit(4, burst=1, max_wait=9))
    calls = times.start(0, 1, 2)
    for newcomer in (3, 4, 5):
        await asyncio.sleep(0.25)
        calls += times.start(newcomer)
    await asyncio.gather(*calls)
    assert list(times.served) == [0, 1, 2, 3, 4, 5]
    assert list(times.served.values()) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


@pytest.mark.virtual_time
async def test_new_call_in_the_tick_of_a_token_just_before_the_first_waiter_does_not_overtake_it() -> None:
    """Its own timer was set first, so it runs first."""
    times = Times(RateLimit(4, burst=1, max_wait=9))

    async def come_late() -> None:
        await asyncio.sleep(0.25)
        assert not times.served.get(1)
        await times.guarded(2)

    newcomer = asyncio.ensure_future(come_late())
    await tick()
    await asyncio.gather(newcomer, *times.start(0, 1))
    assert times.served == {0: 0.0, 1: 0.25, 2: 0.5}


@pytest.mark.virtual_time
async def test_bucket_fills_again_only_when_the_queue_is_empty() -> None:
    """Waiting calls take each token as it comes."""
    limit = RateLimit(4, burst=4, max_wait=9)
    times = Times(limit)
    await asyncio.gather(*times.start(*range(12)))
    assert limit.snapshot()["tokens"] == 0
    await asyncio.sleep(1)
    assert limit.snapshot()["tokens"] == 4


# -- time in the queue ----------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_call_whose_token_comes_after_max_wait_is_refused_at_once() -> None:
    """Calls that already wait count; a wait of exactly `max_wait` is allowed."""
    times = Times(RateLimit(4, burst=1, max_wait=0.5))
    calls = times.start(0, 1, 2, 3)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert times.now() == times.begin
    with pytest.raises(RateLimited, match=r"the next token comes in 0\.75 s") as caught:
        await calls.pop()
    assert caught.value.retry_after == 0.75
    await asyncio.gather(*calls)
    assert times.served == {0: 0.0, 1: 0.25, 2: 0.5}


def test_wait_of_max_wait_is_not_refused_for_rounding() -> None:
    """A token that comes 0.03 s after 0.07 s is 0.03 s away, despite rounding errors."""

    async def main() -> None:
        guarded = RateLimit(10, burst=1, max_wait=0.03)(asyncio.sleep)
        await guarded(0)
        await asyncio.sleep(0.07)
        await guarded(0)
        await asyncio.sleep(0.0699)
        with pytest.raises(RateLimited):
            await guarded(0)

    for start in range(100):
        virtual.run(main(), start=start / 10)


def test_call_that_would_wait_for_longer_than_max_wait_is_refused_at_once(world: World) -> None:
    """In every world the error has the time of its token."""
    limit, dependency = RateLimit(1, per=LONG, max_wait=1), world.dependency("first")
    guarded = limit(dependency.fn)
    assert world.call(guarded) == "first"
    begin = world.now()
    assert refusal(world, guarded).retry_after == pytest.approx(LONG, abs=PATIENCE)
    assert world.now() - begin < PATIENCE
    assert limit.snapshot()["queued"] == 0


def test_call_whose_token_comes_after_its_deadline_is_refused_at_once(world: World) -> None:
    """It could not use the token; and it is no timeout, since no time has passed."""
    limit, dependency = RateLimit(1, per=LONG, max_wait=2 * LONG), world.dependency("first")
    guarded = Pipeline(Timeout(50), limit)(dependency.fn)
    assert world.call(guarded) == "first"
    begin = world.now()
    assert refusal(world, guarded).retry_after == pytest.approx(LONG, abs=PATIENCE)
    assert world.now() - begin < PATIENCE
    assert len(dependency.calls) == 1
    assert limit.snapshot()["queued"] == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize(("seconds", "expected"), [(0.49, RateLimited), (0.5, RateLimited), (0.51, None)])
async def test_deadline_of_an_outer_pipeline_is_respected_too(seconds: float, expected: type[Exception] | None) -> None:
    """A token that comes exactly at the deadline leaves no time for the call."""
    limit = RateLimit(2, burst=1, max_wait=9)
    outer = Pipeline(Timeout(seconds), Pipeline(limit))
    await limit(asyncio.sleep)(0)
    (end,) = await asyncio.gather(outer.call(asyncio.sleep, 0), return_exceptions=True)
    assert (type(end) if end else None) == expected


@pytest.mark.virtual_time
async def test_unknown_deadline_that_passes_in_the_queue_ends_the_wait_with_timed_out() -> None:
    """The deadline is asyncio's own timeout, which the limit cannot know."""
    limit = RateLimit(1, burst=1, max_wait=9)
    await limit(asyncio.sleep)(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await limit(asyncio.sleep)(0)
    assert limit.snapshot()["queued"] == 0


@pytest.mark.virtual_time
async def test_call_that_is_refused_leaves_the_queue_as_it_was() -> None:
    """Later calls with a longer `max_wait` get their tokens no later for it."""
    limit = RateLimit(4, burst=1, max_wait=9)
    times = Times(limit)
    calls = times.start(0, 1)
    await asyncio.sleep(0)
    with pytest.raises(RateLimited):
        await Pipeline(Timeout(0.3), limit).call(asyncio.sleep, 0)
    calls += times.start(2)
    await asyncio.gather(*calls)
    assert times.served == {0: 0.0, 1: 0.25, 2: 0.5}


class Clockwork:
    """A runtime whose timers are fired by the test; its time stands still."""

    def __init__(self) -> None:
        self.home = self
        self.time = 0.0
        self.asked: list[float | None] = []

    def now(self) -> float:
        return self.time

    def park(self) -> Clockwork:
        return self

    def wake(self) -> None:
        pass

    @types.coroutine
    def wait(self, seconds: float | None, call: Any) -> Generator[None, bool, bool]:
        """Wait until the test sends whether it was woken."""
        self.asked.append(seconds)
        return (yield)


def call_at(clock: Clockwork) -> Call:
    """A call of that runtime."""
    return new_call(print, (), {}, cast("Any", clock))


def in_line_at(clock: Clockwork, limit: RateLimit) -> Any:
    """A call that waits at the limit, as a coroutine to be driven by hand."""
    waiting = limit.wait(call_at(clock), PipelineContext("", Classifier()))
    waiting.send(None)
    return waiting


def test_timer_that_comes_too_early_is_not_set_again_for_less_than_it_can_count() -> None:
    """uvloop's timers count milliseconds: a shorter one would fire at once, again and again."""
    clock, limit = Clockwork(), RateLimit(10, burst=1, max_wait=9)
    assert limit.admit(call_at(clock)) is not None
    waiting = in_line_at(clock, limit)
    clock.time = 0.0998
    waiting.send(False)
    clock.time = 0.1008
    with pytest.raises(StopIteration):
        waiting.send(False)
    assert clock.asked == [pytest.approx(0.1), 0.001]


def test_only_the_first_waiter_sets_a_timer_for_its_token() -> None:
    """The others are woken by those before them, and only check now and then whether these are stalled."""
    clock, limit = Clockwork(), RateLimit(10, burst=1, max_wait=9)
    assert limit.admit(call_at(clock)) is not None
    first, second = in_line_at(clock, limit), in_line_at(clock, limit)
    assert clock.asked == [pytest.approx(0.1), pytest.approx(0.25)]
    first.close()
    second.close()


def test_process_that_stands_still_for_a_while_does_not_change_the_order_of_the_queue() -> None:
    """A waiter passes over the first one only after it has seen its token unused for a while."""
    clock, limit = Clockwork(), RateLimit(10, burst=1, max_wait=99)
    assert limit.admit(call_at(clock)) is not None
    first, second = in_line_at(clock, limit), in_line_at(clock, limit)
    clock.time = 10.0  # after which those may run first who came last
    newcomer = in_line_at(clock, limit)
    second.send(False)
    assert clock.asked[2:] == [0.05, 0.05]
    with pytest.raises(StopIteration):
        first.send(False)
    second.close()
    newcomer.close()


def test_first_waiter_that_does_not_use_its_token_is_passed_over() -> None:
    """It is first again when its loop runs again."""
    clock, limit = Clockwork(), RateLimit(10, burst=1, max_wait=99)
    assert limit.admit(call_at(clock)) is not None
    first, second = in_line_at(clock, limit), in_line_at(clock, limit)
    clock.time = 0.25
    second.send(False)
    clock.time = 0.3125
    with pytest.raises(StopIteration):
        second.send(False)
    first.send(False)
    clock.time = 0.5
    assert limit.admit(call_at(clock)) is None
    with pytest.raises(StopIteration):
        first.send(False)
    clock.time = 0.75
    assert limit.admit(call_at(clock)) is not None  # there is no line any more


# -- errors and events ----------------------------------------------------------------------------------------------


def test_rate_limited_names_pipeline_and_policy_and_survives_pickling(world: World) -> None:
    """The error has the names of pipeline and policy, also behind a process pool."""
    limit = RateLimit(1, per=LONG, name="quota")
    guarded = Pipeline(limit, name="users-of-quota")(world.dependency(1).fn)
    world.call(guarded)
    error = refusal(world, guarded)
    assert (error.pipeline, error.policy) == ("users-of-quota", "quota")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is RateLimited
    assert (str(twin), twin.policy, twin.retry_after) == (str(error), "quota", error.retry_after)


@pytest.mark.virtual_time
async def test_queued_waited_and_refused_calls_are_events() -> None:
    """Events have positions from one, and seconds."""
    heard: list[Any] = []
    pipeline = Pipeline(RateLimit(2, burst=1, max_wait=1, name="quota"), name="listened to quota")
    news = (events.Queued, events.Waited, events.CallRejected)
    pipeline.listen(lambda event: heard.append(event) if isinstance(event, news) else None)
    begin = asyncio.get_running_loop().time()
    await asyncio.gather(*(pipeline.call(asyncio.sleep, 0) for _ in range(4)), return_exceptions=True)
    reason = "quota of 2 per second is used up; the next token comes in 1.5 s"
    assert heard == [
        events.Queued(pipeline.name, begin, "quota", 1),
        events.Queued(pipeline.name, begin, "quota", 2),
        events.CallRejected(pipeline.name, begin, "quota", reason, 1.5),
        events.Waited(pipeline.name, begin + 0.5, "quota", "queue", 0.5),
        events.Waited(pipeline.name, begin + 1.0, "quota", "queue", 1.0),
    ]


def test_refusal_is_no_evidence_for_a_breaker_around_it(world: World) -> None:
    """A local limit says nothing about the dependency."""
    limit, breaker = RateLimit(1, per=LONG), CircuitBreaker(fail_max=1)
    guarded = Pipeline(breaker, limit)(world.dependency(1).fn)
    world.call(guarded)
    refusal(world, guarded)
    assert breaker.state == "closed"
    assert breaker.snapshot()["calls"] == 1


@pytest.mark.virtual_time
async def test_time_in_the_queue_is_no_part_of_the_age_of_a_call() -> None:
    """A call that waited for its token is not slow."""
    limit = RateLimit(1, burst=1, max_wait=9)
    breaker = CircuitBreaker(failure_rate=None, slow=0.5, slow_rate=0.1, min_calls=1)
    with pytest.warns(PipelineWarning):
        pipeline = Pipeline(breaker, limit)
    await asyncio.gather(*(pipeline.call(asyncio.sleep, 0) for _ in range(5)))
    state = breaker.snapshot()
    assert (state["calls"], state["slow"]) == (5, 0)


# -- a token that was not used --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_token_of_a_call_that_a_gate_behind_refused_comes_back(world: World) -> None:
    """No request was sent, so no token is used."""
    limit = RateLimit(1, per=LONG, burst=3)
    pipeline = Pipeline(limit, Bulkhead(1))
    refused = pipeline(world.dependency().fn)

    async def hold() -> Any:
        return await refused()

    outcome = world.outcome(pipeline(hold if world.is_async else refused))
    assert isinstance(outcome.error, BulkheadFull)
    assert snapshot(world, limit)["tokens"] == 2


@pytest.mark.virtual_time
async def test_token_of_a_call_that_is_cancelled_in_a_queue_behind_comes_back() -> None:
    """The limit had admitted it, and it was cancelled before the request."""
    limit = RateLimit(1, per=LONG, burst=3)
    times = Times(limit, Bulkhead(1, queue=1))
    holder, waiter = times.start(0, 1, seconds=10)
    await asyncio.sleep(1)
    assert limit.snapshot()["tokens"] == 1
    waiter.cancel()
    await asyncio.wait([waiter])
    assert limit.snapshot()["tokens"] == 2
    await holder


@pytest.mark.virtual_time
async def test_token_that_comes_back_goes_to_the_first_waiter_at_once() -> None:
    """Also where the next token is far away."""
    limit = RateLimit(1, per=100, burst=1, max_wait=300)
    heard: list[tuple[str, float]] = []
    times = Times(limit, Bulkhead(1, queue=9))
    times.pipeline.listen(
        lambda event: heard.append((event.policy, event.at - times.begin)) if isinstance(event, events.Waited) else None
    )
    holder = times.start(0, seconds=150)
    queued = times.start(1)  # gets a token after 100 s, and then waits for the permit
    in_line = times.start(2, 3)
    await asyncio.sleep(130)
    queued[0].cancel()
    await asyncio.gather(*holder, *in_line)
    assert heard == [("RateLimit", 100.0), ("RateLimit", 130.0), ("Bulkhead", 150.0), ("RateLimit", 230.0)]
    assert times.served == {0: 0.0, 2: 150.0, 3: 230.0}  # the bucket of one was full at 130 s


@pytest.mark.virtual_time
async def test_token_that_comes_back_does_not_overfill_the_bucket() -> None:
    """The bucket has filled up meanwhile."""
    limit = RateLimit(1, burst=2)
    times = Times(limit, Bulkhead(1, queue=1))
    holder, waiter = times.start(0, 1, seconds=100)
    await asyncio.sleep(50)
    assert limit.snapshot()["tokens"] == 2
    waiter.cancel()
    await asyncio.wait([waiter])
    assert limit.snapshot()["tokens"] == 2
    await holder
    assert await admitted(limit, 5) == 2


# -- shadow ---------------------------------------------------------------------------------------------------------


def test_shadow_admits_all_and_counts_calls_it_would_have_refused(world: World) -> None:
    """A call that is admitted without a token takes none."""
    limit, dependency = RateLimit(1, per=LONG, burst=2, shadow=True), world.dependency(*range(5))
    guarded = limit(dependency.fn)
    assert [world.call(guarded) for _ in range(5)] == [0, 1, 2, 3, 4]
    state = snapshot(world, limit)
    assert (state["would_have_refused"], state["would_have_queued"], state["tokens"]) == (3, 0, 0)


def test_shadow_queues_no_call_and_counts_those_it_would_have_queued(world: World) -> None:
    """No call is in the queue."""
    limit, dependency = RateLimit(1, per=LONG, max_wait=2 * LONG, shadow=True), world.dependency(*range(3))
    heard: list[Any] = []
    pipeline = Pipeline(limit)
    pipeline.listen(lambda event: heard.append(event) if isinstance(event, events.CallRejected) else None)
    guarded = pipeline(dependency.fn)
    assert [world.call(guarded) for _ in range(3)] == [0, 1, 2]
    state = limit.snapshot()
    assert (state["would_have_refused"], state["would_have_queued"], state["queued"]) == (0, 2, 0)
    assert [event.shadow for event in heard] == [True, True]


# -- bad configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rate": 0}, ValueError, "rate must be a finite number > 0"),
        ({"rate": -1}, ValueError, "rate"),
        ({"rate": math.nan}, ValueError, "rate"),
        ({"rate": math.inf}, ValueError, "rate"),
        ({"rate": True}, TypeError, "rate"),
        ({"rate": "10"}, TypeError, "rate"),
        ({"rate": 1e-320}, ValueError, "rate"),
        ({"per": 0}, ValueError, "per"),
        ({"per": -1.0}, ValueError, "per"),
        ({"per": math.nan}, ValueError, "per"),
        ({"per": False}, TypeError, "per"),
        ({"burst": 0}, ValueError, "burst"),
        ({"burst": 1.5}, TypeError, "burst"),
        ({"burst": True}, TypeError, "burst"),
        ({"max_wait": -0.1}, ValueError, "max_wait"),
        ({"max_wait": math.inf}, ValueError, "max_wait"),
        ({"max_wait": None}, TypeError, "max_wait"),
        ({"shadow": 1}, TypeError, "shadow"),
        ({"name": " "}, ValueError, "name"),
        ({"burts": 2}, TypeError, "burts"),
    ],
)
def test_bad_configuration_is_refused_with_the_argument_and_its_value(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The constructor raises."""
    with pytest.raises(error, match=message):
        RateLimit(**{"rate": 10, **arguments})


# -- cancellation ---------------------------------------------------------------------------------------------------


class Line:
    """A scene for the cancellation driver: calls in line, of which one is cancelled at some point.

    At every moment until the last is served somebody waits; so however early one of them leaves, no token may be lost:
    those that are served are served at 0, 1/4, 2/4 ... seconds, without a gap.
    """

    starts = (0.0, 0.0, 0.0, 0.25, 0.375)

    def __init__(self, *behind: Any) -> None:
        self.limit = RateLimit(4, burst=1, max_wait=9)
        self.served: list[float] = []
        self.pipeline = Pipeline(self.limit, *behind)
        self.guarded = self.pipeline(self.fetch)
        self.drain = self.pipeline.aclose

    async def call(self, number: int) -> None:
        """The call of this number."""
        await self.guarded()

    async def fetch(self) -> None:
        """The guarded function."""
        try:
            now = asyncio.get_running_loop().time()
        except RuntimeError:
            now = trio.current_time()
        self.served.append(now)

    def assert_idle(self) -> None:
        """Assert that no call waits, and that no token was lost."""
        begin = self.served[0]
        assert [time - begin for time in self.served] == pytest.approx([0.25 * at for at in range(len(self.served))])
        assert len(self.served) >= len(self.starts) - 1
        assert self.limit.snapshot()["queued"] == 0
        assert self.pipeline.snapshot()["in_flight"] == 0


@pytest.mark.parametrize("victim", range(5))
def test_waiter_cancelled_at_any_point_gives_its_place_back(victim: int) -> None:
    """It is the first or a later one, in the tick of its token or not, cancelled once and twice: the others move up,
    and no token is lost."""
    assert cancel_at_every_point(Line, victim) >= 1


@pytest.mark.parametrize("victim", range(5))
def test_trio_waiter_cancelled_at_any_step_gives_its_place_back(victim: int) -> None:
    """Trio's cancel scopes cancel it."""
    assert cancel_at_every_step_of_trio(Line, victim) >= 1


@pytest.mark.parametrize("victim", range(5))
def test_waiter_with_gates_behind_cancelled_at_any_point_gives_its_place_back(victim: int) -> None:
    """The token also comes back when the call is cancelled at a gate inside, before it was made."""
    assert cancel_at_every_point(lambda: Line(Bulkhead(1, queue=9), CircuitBreaker()), victim) >= 1


async def tick() -> None:
    """Let the loop run once."""
    await asyncio.sleep(0)


@pytest.mark.every_loop
async def test_first_waiter_that_is_cancelled_leaves_its_token_to_the_next() -> None:
    """Real loops behave as virtual time does."""
    limit = RateLimit(25, burst=1, max_wait=9)
    served: list[str] = []

    async def fetch(name: str) -> None:
        served.append(name)

    guarded = limit(fetch)
    now = asyncio.get_running_loop().time
    begin = now()
    await guarded("holder")
    tasks = [asyncio.ensure_future(guarded(name)) for name in "abc"]
    await tick()
    assert limit.snapshot()["queued"] == 3
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, False, False]
    assert served == ["holder", "b", "c"]
    assert now() - begin >= 0.08 - 0.002  # uvloop's clock counts milliseconds
    assert limit.snapshot()["queued"] == 0


@pytest.mark.every_loop
@pytest.mark.parametrize("ticks", [0, 1, 2])
async def test_first_waiter_that_is_cancelled_around_the_tick_of_its_token_leaves_it_to_the_next(ticks: int) -> None:
    """Its timer has fired, and the call has not run yet, or has just begun to."""
    limit = RateLimit(1, per=LONG, burst=2, max_wait=9 * LONG)
    pipeline = Pipeline(limit, Bulkhead(1, queue=1))
    served: list[str] = []
    over = asyncio.Event()

    async def fetch(name: str) -> None:
        served.append(name)
        await over.wait()

    tasks = [asyncio.ensure_future(pipeline.call(fetch, name)) for name in ("inside", "behind", "first", "second")]
    await tick()
    await tick()
    assert limit.snapshot()["queued"] == 2
    tasks[1].cancel()  # its token comes back in the next tick, and goes to the first
    for _ in range(ticks):
        await tick()
    tasks[2].cancel()
    over.set()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [False, True, True, False]
    assert served == ["inside", "second"]
    assert limit.snapshot()["queued"] == 0
    assert limit.snapshot()["tokens"] == 0


# -- one queue for all loops and threads ----------------------------------------------------------------------------


@pytest.fixture
def hasty_switches() -> Iterator[None]:
    """Threads switch 500 times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Crowd:
    """Eight threads and four loops of three kinds, with four tasks each, that call what is guarded.

    Attributes:
        served: when, on the one clock of all real runtimes.
        refused: how many.
    """

    threads = 8
    loops = ("asyncio", "asyncio", "uvloop", "trio")
    tasks = 4

    def __init__(self, pipeline: Pipeline, rounds: int) -> None:
        self.rounds = rounds
        self.sync, self.on_loop = pipeline(self.fetch), pipeline(self.fetch_async)
        self.served: list[float] = []
        self.refused: list[Rejected] = []
        self.calls = rounds * (self.threads + len(self.loops) * self.tasks)
        self._start = threading.Barrier(self.threads + len(self.loops))
        self._mistakes: list[BaseException] = []

    def fetch(self) -> None:
        self.served.append(time.monotonic())

    async def fetch_async(self) -> None:
        self.served.append(time.monotonic())

    def run(self) -> None:
        """Run all threads and loops to their end."""
        works = [self.in_thread] * self.threads
        works += [lambda kind=kind: self.in_loop(kind) for kind in self.loops]
        threads = [threading.Thread(target=self.work, args=(work,), daemon=True) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "somebody was never woken"
        assert self._mistakes == []
        assert len(self.served) + len(self.refused) == self.calls

    def work(self, work: Callable[[], object]) -> None:
        try:
            self._start.wait(60)
            work()
        except BaseException as error:
            self._mistakes.append(error)

    def in_thread(self) -> None:
        for _ in range(self.rounds):
            try:
                self.sync()
            except Rejected as error:
                self.refused.append(error)

    def in_loop(self, kind: str) -> None:
        async def task() -> None:
            for _ in range(self.rounds):
                try:
                    await self.on_loop()
                except Rejected as error:
                    self.refused.append(error)

        async def in_trio() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(self.tasks):
                    nursery.start_soon(task)

        async def in_asyncio() -> None:
            await asyncio.gather(*(task() for _ in range(self.tasks)))

        if kind == "trio":
            trio.run(in_trio)
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop if kind == "uvloop" else None) as runner:
                runner.run(in_asyncio())


@pytest.mark.usefixtures("hasty_switches")
@pytest.mark.parametrize("max_wait", [0.0, 60.0])
def test_eight_threads_and_four_loops_never_exceed_the_rate(max_wait: float) -> None:
    """At no time were more calls admitted than the burst and the tokens since; and each waiter is served."""
    limit = RateLimit(4000, burst=5, max_wait=max_wait)
    crowd = Crowd(Pipeline(limit), rounds=25)
    begin = time.monotonic()
    crowd.run()
    for number, at in enumerate(sorted(crowd.served), start=1):
        assert number <= 5 + 4000 * (at - begin) + 0.01
    assert not (max_wait and crowd.refused)
    assert limit.snapshot()["queued"] == 0


@pytest.mark.usefixtures("hasty_switches")
def test_eight_threads_and_four_loops_take_each_token_once() -> None:
    """No update of one thread is lost to another: exactly as many calls are admitted as there were tokens."""
    limit = RateLimit(1, per=1e9, burst=3000)
    crowd = Crowd(Pipeline(limit), rounds=200)
    crowd.run()
    assert len(crowd.served) == 3000
    assert limit.snapshot()["tokens"] == 0


@pytest.mark.usefixtures("hasty_switches")
def test_tokens_that_come_back_from_threads_and_loops_all_do() -> None:
    """A bulkhead inside is often full: calls that were not made use no tokens."""
    limit = RateLimit(1, per=1e9, burst=100_000)
    crowd = Crowd(Pipeline(limit, Bulkhead(1)), rounds=200)
    crowd.run()
    assert limit.snapshot()["tokens"] == 100_000 - len(crowd.served)


class Outsiders:
    """Calls from elsewhere: each in its own thread, with an event loop or none."""

    def __init__(self, limit: RateLimit) -> None:
        self.pipeline = Pipeline(limit)
        self.arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.served: list[str] = []
        self.threads: list[threading.Thread] = []
        ends = (events.AttemptReturned, events.CallEnded)
        self.pipeline.listen(lambda event: None if isinstance(event, ends) else self.arrived.put(event))

    def come(self, name: str) -> None:
        """Make one more call, of the kind that its name says; return when it is queued or served."""

        async def fetch() -> None:
            self.served.append(name)

        async def call() -> None:
            await self.pipeline.call(fetch)

        def on_asyncio(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(call())

        runs: dict[str, Callable[[], object]] = {
            "asyncio": lambda: on_asyncio(asyncio.new_event_loop),
            "uvloop": lambda: on_asyncio(uvloop.new_event_loop),
            "trio": lambda: trio.run(call),
            "thread": lambda: self.pipeline.call(self.served.append, name),
        }
        thread = threading.Thread(target=runs[name.partition(" ")[0]])
        self.threads.append(thread)
        thread.start()
        self.arrived.get(timeout=PATIENCE)

    def end(self) -> None:
        """Wait for all threads."""
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_waiters_of_all_loops_and_threads_are_in_one_queue() -> None:
    """They are served in order of arrival. (State shared between loops breaks interlock's limit, and doubles
    pyresilience's.)"""
    limit = RateLimit(20, burst=1, max_wait=60)
    outsiders = Outsiders(limit)
    names = ["thread 0", "asyncio 1", "trio 1", "thread 1", "uvloop 1", "thread 2", "trio 2", "asyncio 2"]
    begin = time.monotonic()
    for name in names:
        outsiders.come(name)
    outsiders.end()
    assert outsiders.served == names
    assert time.monotonic() - begin >= 0.35 - 0.002
    assert limit.snapshot()["queued"] == 0


def test_first_waiter_whose_loop_is_blocked_does_not_hold_up_those_behind() -> None:
    """They pass it over, and it is first again when its loop goes on."""
    limit = RateLimit(5, burst=1, max_wait=60)
    pipeline = Pipeline(limit)
    in_line: queue.SimpleQueue[events.Queued] = queue.SimpleQueue()
    go_on, served = threading.Event(), []
    pipeline.listen(lambda event: in_line.put(event) if isinstance(event, events.Queued) else None)

    def blocked_loop() -> None:
        async def fetch() -> None:
            served.append("blocked")

        async def main() -> None:
            call = asyncio.ensure_future(pipeline.call(fetch))
            await tick()
            assert go_on.wait(PATIENCE)  # blocks the loop while the call is the first waiter
            await call

        asyncio.run(main())

    pipeline.call(served.append, "before")
    threads = [threading.Thread(target=blocked_loop)]
    threads[0].start()
    in_line.get(timeout=PATIENCE)
    pipeline.call(served.append, "past it")
    in_line.get(timeout=PATIENCE)
    threads.append(threading.Thread(target=pipeline.call, args=(served.append, "after it")))
    threads[1].start()
    in_line.get(timeout=PATIENCE)
    go_on.set()  # a fifth of a second before the next token
    for thread in threads:
        thread.join(PATIENCE)
    assert served == ["before", "past it", "blocked", "after it"]
    assert limit.snapshot()["queued"] == 0


def test_waiter_that_a_closed_loop_left_behind_does_not_hold_up_those_behind() -> None:
    """A loop that is closed with pending tasks runs none of their clean-up."""
    limit = RateLimit(25, burst=1, max_wait=60)

    async def fetch() -> None: ...

    left_behind: list[asyncio.Future[None]] = []

    async def leave_behind() -> None:
        await limit(fetch)()
        left_behind.append(asyncio.ensure_future(limit(fetch)()))
        await tick()
        assert limit.snapshot()["queued"] == 1

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # or it logs that a task was destroyed
    loop.run_until_complete(leave_behind())
    loop.close()
    for _ in range(3):
        limit(time.monotonic)()
    assert limit.snapshot()["queued"] == 0
    left_behind.clear()
    gc.collect()
    assert limit.snapshot()["queued"] == 0
    limit(time.monotonic)()


VIRTUAL = """
import asyncio, resilient
from resilient.core.call import Call, new_call
from resilient.core.policy import PipelineContext
from resilient.runtime import virtual

async def main():
    guarded = resilient.RateLimit(1, per=1000)(asyncio.sleep)
    await guarded(0)
    await asyncio.sleep(1000)
    await guarded(0)

virtual.run(main())
"""

MOCKED = """
import trio, trio.testing, resilient

async def main():
    guarded = resilient.RateLimit(1, per=1000)(trio.sleep)
    await guarded(0)
    await trio.sleep(1000)
    await guarded(0)

trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
"""


@pytest.mark.parametrize("program", [VIRTUAL, MOCKED], ids=["virtual time", "trio's mock clock"])
def test_call_goes_by_the_clock_of_its_loop(program: str) -> None:
    """It does not use the machine's clock, also where nothing else reads the loop's. (A fresh interpreter has read no
    other.)"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


@pytest.mark.virtual_time
async def test_slow_calls_overlap_as_they_like() -> None:
    """It limits how many calls begin, not how many are inside."""
    times = Times(RateLimit(4, burst=4, max_wait=1))
    await asyncio.gather(*times.start(*range(8), seconds=100))
    assert times.now() - times.begin == 101


def test_timeout_inside_ends_the_call_and_keeps_the_token(world: World) -> None:
    """The request was sent."""
    limit, dependency = RateLimit(1, per=LONG), world.dependency(Slow(0.05, "late"))
    guarded = Pipeline(limit, Timeout(0.01))(dependency.fn)
    error = world.outcome(guarded).error
    assert isinstance(error, TimedOut) or not world.is_async  # a plain def is not interrupted
    refusal(world, guarded)
