"""A deadline bounds all guarded calls inside it; the earliest holds, none is evidence, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Hedge,
    Pipeline,
    RateLimit,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    current_priority,
    deadline,
    detached,
    priority,
    remaining,
)
from resilient.events import CallTimedOut, Hedging
from resilient.runtime import virtual
from tests.properties.cancellation_driver import (
    assert_idle,
    cancel_at_every_point,
    cancel_at_every_step_of_trio,
    leave_alone,
)
from tests.worlds import Hang, Slow, Until, World, left_queue


def under(world: World, seconds: float, fn: Callable[[], Any]) -> Callable[[], Any]:
    """A function that calls `fn` under a deadline."""

    def call() -> Any:
        with deadline(seconds):
            return fn()

    async def call_async() -> Any:
        with deadline(seconds):
            return await fn()

    return call_async if world.is_async else call


def around(world: World, fn: Callable[[], Any]) -> Callable[[], Any]:
    """A function that calls `fn`, to be guarded itself."""

    def call() -> Any:
        return fn()

    async def call_async() -> Any:
        return await fn()

    return call_async if world.is_async else call


def looking(world: World) -> tuple[list[float | None], Callable[[], Any]]:
    """Return a function that notes the seconds that remain."""
    seen: list[float | None] = []

    def look() -> None:
        seen.append(remaining())

    async def look_async() -> None:
        seen.append(remaining())

    return seen, look_async if world.is_async else look


def tripping(**options: Any) -> CircuitBreaker:
    return CircuitBreaker(fail_max=1, failure_rate=None, **options)


# -- what remains ---------------------------------------------------------------------------------------------------


def test_without_a_deadline_nothing_is_said_to_remain(world: World) -> None:
    """Without a deadline `remaining()` is None, not 0."""
    seen, look = looking(world)
    world.call(look)
    assert seen == [None]


def test_remaining_counts_down_to_the_deadline() -> None:
    """On the clock of the event loop, and to nought."""

    async def main() -> list[float | None]:
        with deadline(2):
            seen = [remaining()]
            for pause in (0.5, 1.5, 1.0):
                await asyncio.sleep(pause)
                seen.append(remaining())
        return [*seen, remaining()]

    assert virtual.run(main(), start=100) == [2, 1.5, 0, 0, None]


def test_least_of_nested_deadlines_holds(world: World) -> None:
    """An inner one can shorten the time, not lengthen it; after it the outer one holds again."""
    seen, look = looking(world)

    def nested() -> None:
        with deadline(50):
            with deadline(5):
                look()
            look()
            with deadline(500):
                look()
            look()

    async def nested_async() -> None:
        with deadline(50):
            with deadline(5):
                await look()
            await look()
            with deadline(500):
                await look()
            await look()

    world.call(nested_async if world.is_async else nested)
    inner, after, longer, at_last = (time or 0.0 for time in seen)
    assert 0 < inner <= 5
    assert 40 < after <= 50
    assert 40 < longer <= 50
    assert 40 < at_last <= 50


def test_deadline_object_can_be_used_again(world: World) -> None:
    """One `with` after the other: each begins anew."""
    again = deadline(5)
    for _ in range(2):
        with again:
            left = remaining()
            assert left is not None
            assert 4 < left <= 5
    assert remaining() is None


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_deadline_that_is_impossible_is_refused(value: Any) -> None:
    """An impossible deadline is refused where it is made, with its argument and value."""
    with pytest.raises((TypeError, ValueError), match=r"^seconds must be a finite number of seconds > 0, got "):
        deadline(value)


# -- what it ends ---------------------------------------------------------------------------------------------------


def test_call_that_has_time_is_left_alone(world: World) -> None:
    """A deadline that is not reached changes nothing."""
    dependency = world.dependency(Slow(0.005, 7), OSError("its own"))
    guarded = Retry(1)(dependency.fn)
    assert world.call(under(world, 60, guarded)) == 7
    assert str(world.outcome(under(world, 60, guarded)).error) == "its own"


@pytest.mark.parametrize("kind", ["retry", "bulkhead", "breaker", "timeout", "nested"])
def test_call_that_outlives_the_deadline_is_ended(kind: str) -> None:
    """At that moment, whatever guards it; with an error that says whose limit it was."""
    policies: dict[str, Any] = {
        "retry": Retry(),
        "bulkhead": Bulkhead(1),
        "breaker": CircuitBreaker(),
        "timeout": Timeout(100),
        "nested": Pipeline(Retry(), name="inner"),
    }

    async def main() -> tuple[TimedOut, float]:
        @Pipeline(policies[kind], name="users")
        async def fetch() -> None:
            await asyncio.sleep(60)

        with deadline(2), pytest.raises(TimedOut) as caught:
            await fetch()
        return caught.value, asyncio.get_running_loop().time()

    error, at = virtual.run(main())
    assert at == 2
    assert (error.policy, error.pipeline, error.seconds, error.evidence) == ("deadline", "users", 2, False)
    assert str(error) == "users: the deadline of 2 s, set by the caller, has passed"


def test_call_that_hangs_is_ended(world: World) -> None:
    """In real time and on trio, too. A plain `def` cannot be stopped: its late result is returned."""
    if not world.is_async:
        assert world.call(under(world, 0.01, Retry()(world.dependency(Slow(0.03, 7)).fn))) == 7
        return
    error = world.outcome(under(world, 0.03, Retry()(world.dependency(Hang()).fn))).error
    assert isinstance(error, TimedOut)
    assert (error.policy, error.evidence) == ("deadline", False)


def test_deadline_that_has_passed_ends_a_call_before_it_is_sent(world: World) -> None:
    """At once, with the error and the event of any other call that it ends."""
    dependency = world.dependency()
    pipeline = Pipeline(Retry(), name="users")
    heard: list[Any] = []
    pipeline.listen(heard.append)
    guarded = pipeline(dependency.fn)
    pause = world.dependency(Slow(0.02)).fn

    def late() -> Any:
        with deadline(0.005):
            pause()
            guarded()

    async def late_async() -> Any:
        with deadline(0.005):
            await pause()
            await guarded()

    error = world.outcome(late_async if world.is_async else late).error
    assert isinstance(error, TimedOut)
    assert (error.policy, error.pipeline, error.evidence) == ("deadline", "users", False)
    assert len(dependency.calls) == 0
    event, ended = heard
    assert type(event) is CallTimedOut
    assert (event.pipeline, event.policy, event.seconds) == ("users", "deadline", 0.005)
    assert (ended.ending, ended.requests) == ("timeout", 0)


def test_pause_that_would_outlive_the_deadline_is_not_begun(world: World) -> None:
    """The last real error comes back at once, with a note."""
    error = OSError()
    dependency = world.dependency(error)
    begin = world.now()
    outcome = world.outcome(under(world, 20, Retry(3, wait=30)(dependency.fn)))
    assert outcome.error is error
    assert error.__notes__ == ["resilient: Retry gave up after 1 attempt: a wait of 30 s would outlive the deadline"]
    assert world.now() - begin < 15


def test_pause_that_fits_is_kept(world: World) -> None:
    """A pause that fits into the deadline is kept, and the next attempt is made."""
    dependency = world.dependency(OSError(), 7)
    assert world.call(under(world, 30, Retry(3, wait=0.01)(dependency.fn))) == 7


def test_wait_in_a_queue_ends_with_the_deadline(world: World) -> None:
    """Nothing is sent then, and the place in the queue is free again."""
    bulkhead = Bulkhead(1, queue=1)
    pipeline = Pipeline(bulkhead, name="users")
    dependency = world.dependency(Until(left_queue(bulkhead), 7), 8)
    guarded = pipeline(dependency.fn)
    first, second = world.together(guarded, under(world, 0.03, guarded))
    assert first.value == 7
    assert isinstance(second.error, TimedOut)
    assert (second.error.policy, second.error.pipeline, second.error.evidence) == ("deadline", "users", False)
    assert len(dependency.calls) == 1
    assert_idle(pipeline.snapshot())
    assert world.call(guarded) == 8


def test_wait_for_a_token_that_comes_too_late_is_not_begun(world: World) -> None:
    """The rate limit refuses at once, as the call could not use the token."""
    guarded = RateLimit(1, per=20, burst=1, max_wait=60)(world.dependency(7).fn)
    assert world.call(guarded) == 7
    begin = world.now()
    assert isinstance(world.outcome(under(world, 10, guarded)).error, Rejected)
    assert world.now() - begin < 8


@pytest.mark.virtual_time
async def test_hedges_end_with_the_deadline() -> None:
    """Both copies; and none is begun after it."""
    running = 0
    pipeline = Pipeline(Hedge([1, 3], name="haste"), name="users")
    heard: list[Any] = []
    pipeline.listen(heard.append)

    @pipeline
    async def fetch() -> None:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(60)
        finally:
            running -= 1

    with deadline(2), pytest.raises(TimedOut) as caught:
        await fetch()
    assert asyncio.get_running_loop().time() == 2
    assert (caught.value.policy, caught.value.pipeline) == ("deadline", "users")
    await pipeline.aclose()
    assert asyncio.get_running_loop().time() == 2
    assert running == 0
    assert [event.copy for event in heard if type(event) is Hedging] == [2]


@pytest.mark.virtual_time
async def test_several_calls_beneath_one_deadline_share_its_time() -> None:
    """Each has what the ones before it have left."""

    @Retry()
    async def fetch() -> None:
        await asyncio.sleep(1.5)

    with deadline(4):
        await fetch()
        await fetch()
        with pytest.raises(TimedOut):
            await fetch()
        assert asyncio.get_running_loop().time() == 4
        with pytest.raises(TimedOut):
            await fetch()
    assert asyncio.get_running_loop().time() == 4
    await fetch()


@pytest.mark.virtual_time
async def test_deadlines_expire_in_their_order_whatever_the_order_of_the_calls() -> None:
    """Shorter deadlines expire first, though they began later."""
    ended: list[tuple[float, float]] = []

    @Retry()
    async def fetch() -> None:
        await asyncio.sleep(60)

    async def bounded(seconds: float) -> None:
        with deadline(seconds):
            try:
                await fetch()
            except TimedOut:
                ended.append((seconds, asyncio.get_running_loop().time()))

    await asyncio.gather(*(bounded(seconds) for seconds in (5, 1, 3, 1, 4, 2)))
    assert ended == [(seconds, seconds) for seconds in (1, 1, 2, 3, 4, 5)]


@pytest.mark.virtual_time
async def test_timeout_of_the_pipeline_that_is_shorter_ends_the_call() -> None:
    """With its own error, which is evidence."""
    breaker = tripping()

    @Pipeline(breaker, Timeout(1))
    async def fetch() -> None:
        await asyncio.sleep(60)

    with deadline(2), pytest.raises(TimedOut) as caught:
        await fetch()
    assert (caught.value.policy, caught.value.evidence) == ("Timeout", True)
    assert breaker.state == "open"


def test_block_is_ended_by_the_deadline() -> None:
    """A deadline ends a guarded block as it ends a function."""

    async def main() -> float:
        with deadline(2), pytest.raises(TimedOut):
            async for attempt in Pipeline(Retry()).attempts():
                async with attempt:
                    await asyncio.sleep(60)
        return asyncio.get_running_loop().time()

    assert virtual.run(main()) == 2


@pytest.mark.every_loop
async def test_callers_cancellation_goes_before_the_deadline() -> None:
    """The caller's cancellation gets through, also while the deadline expires."""
    entered = asyncio.Event()

    @Retry()
    async def fetch() -> None:
        entered.set()
        await asyncio.sleep(60)

    async def call() -> None:
        with deadline(30):
            await fetch()

    task = asyncio.create_task(call())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1


# -- where it reaches -----------------------------------------------------------------------------------------------


async def test_deadline_reaches_a_thread_that_has_the_context() -> None:
    """A thread of `asyncio.to_thread` inherits the deadline."""
    seen: list[float | None] = []

    @Retry(3, wait=30)
    def fetch() -> None:
        seen.append(remaining())
        raise OSError

    with deadline(20):
        with pytest.raises(OSError):
            await asyncio.to_thread(fetch)
    (left,) = seen
    assert left is not None
    assert 0 < left <= 20


@pytest.mark.every_loop
async def test_deadline_reaches_tasks_begun_inside() -> None:
    """The deadline ends guarded calls of tasks that are started inside, also while their parent waits."""

    @Retry()
    async def fetch() -> None:
        await asyncio.sleep(60)

    with deadline(0.02):
        task = asyncio.create_task(fetch())
    with pytest.raises(TimedOut) as caught:
        await task
    assert caught.value.policy == "deadline"


def test_deadline_reaches_a_nursery() -> None:
    """trio's tasks have a copy of the context as well."""
    outcomes: list[Any] = []

    @Retry()
    async def fetch() -> None:
        await trio.sleep_forever()

    async def child() -> None:
        try:
            await fetch()
        except TimedOut as error:
            outcomes.append(error.policy)

    async def main() -> float:
        begin = trio.current_time()
        with deadline(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
                nursery.start_soon(child)
        return trio.current_time() - begin

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == pytest.approx(2)
    assert outcomes == ["deadline"] * 2


def test_deadline_does_not_reach_calls_beside_it() -> None:
    """Another task has a context of its own."""

    async def main() -> Any:
        inside = asyncio.Event()
        outside = asyncio.Event()

        async def bounded() -> None:
            with deadline(5):
                inside.set()
                await outside.wait()

        async def free() -> Any:
            await inside.wait()
            left = remaining()
            outside.set()
            return left

        return await asyncio.gather(bounded(), free())

    assert virtual.run(main()) == [None, None]


# -- a total Timeout sets one ---------------------------------------------------------------------------------------


def test_total_timeout_is_a_deadline_for_what_the_function_calls(world: World) -> None:
    """The nested guarded call sees what the outer pipeline has left, also on later attempts."""
    seen, look = looking(world)
    inner = Retry(1)(look)
    world.call(Pipeline(Timeout(20), Retry(2, wait=0))(around(world, inner)))
    (left,) = seen
    assert left is not None
    assert 0 < left <= 20
    seen.clear()
    world.call(look)
    assert seen == [None]


@pytest.mark.parametrize(
    "guard",
    [
        lambda: Timeout(20),
        lambda: Timeout(20, thread=True),
        lambda: Pipeline(Retry(2), Timeout(20)),
        lambda: Pipeline(Timeout(50), Retry(2), Timeout(20)),
        lambda: Pipeline(Timeout(20), Bulkhead(1)),
        lambda: Pipeline(Bulkhead(1), Timeout(20)),
        lambda: Pipeline(Retry(2), Pipeline(Timeout(20), Bulkhead(1))),
    ],
    ids=["lone", "thread", "attempt", "total and attempt", "outside a gate", "inside a gate", "nested"],
)
def test_every_timeout_is_a_deadline_for_what_is_beneath(world: World, guard: Callable[[], Any]) -> None:
    """`remaining()` says the least, in the function and in what it calls."""
    seen, look = looking(world)
    guarded = guard()(around(world, look))
    world.call(guarded)
    (left,) = seen
    assert left is not None
    assert 19 < left <= 20
    seen.clear()
    world.call(look)
    assert seen == [None]


def test_stacked_decorators_remain_for_as_long_as_the_least(world: World) -> None:
    """Under two decorators the shorter Timeout counts, whichever is outside."""
    seen, look = looking(world)
    world.call(Timeout(20)(around(world, Timeout(30)(look))))
    world.call(Timeout(60)(Retry(2)(Timeout(20)(look))))
    world.call(under(world, 10, Timeout(30)(look)))
    assert [left is not None and math.ceil(left) for left in seen] == [20, 20, 10]


def test_block_remains_for_as_long_as_its_timeout(world: World) -> None:
    """Code in a guarded block sees the time of the block's Timeout."""
    seen, look = looking(world)
    pipeline = Pipeline(Retry(2), Timeout(20))
    if world.is_async:

        async def main() -> None:
            async for attempt in pipeline.attempts():
                async with attempt:
                    await look()

        world.run(main)
    else:
        for attempt in pipeline.attempts():
            with attempt:
                look()
    assert [left is not None and math.ceil(left) for left in seen] == [20]


def test_no_retry_pauses_beyond_the_timeout_of_a_guarded_call_around(world: World) -> None:
    """The last real error comes back at once, and no sleep is begun that would outlive it."""
    dependency = world.dependency(OSError("down"))
    guarded = Timeout(20)(around(world, Retry(3, wait=30)(dependency.fn)))
    error = world.outcome(guarded).error
    assert isinstance(error, OSError)
    assert len(dependency.calls) == 1


def test_plain_function_waits_in_a_queue_for_no_longer_than_the_one_around_has() -> None:
    """A plain function leaves its queue when the time of the outer call is over: nothing else would end the wait."""
    bulkhead = Bulkhead(1, queue=1)
    inside, over = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        over.wait()

    thread = threading.Thread(target=bulkhead(hold))
    thread.start()
    inside.wait()
    inner = Pipeline(bulkhead, name="inner")(lambda: None)

    @Timeout(0.01)
    def work() -> None:
        inner()

    try:
        with pytest.raises(TimedOut) as caught:
            work()
    finally:
        over.set()
        thread.join()
    assert (caught.value.pipeline, caught.value.policy, caught.value.evidence) == ("inner", "deadline", False)


@pytest.mark.parametrize("guard", [lambda: Timeout(60, thread=True), lambda: Hedge(60, thread=True)])
def test_plain_function_waits_for_a_thread_for_no_longer_than_the_one_around_has(guard: Callable[[], Any]) -> None:
    """The thread goes on to its end."""
    over = threading.Event()
    inner = guard()(over.wait)

    @Timeout(0.01)
    def work() -> None:
        inner()

    try:
        with pytest.raises(TimedOut):
            work()
    finally:
        over.set()


# -- what is not under it -------------------------------------------------------------------------------------------


async def _look(seen: list[Any]) -> None:
    seen.append((remaining(), current_priority()))


@pytest.mark.virtual_time
async def test_detached_task_has_neither_deadline_nor_priority() -> None:
    """A task has neither the deadline nor the priority of the outer call; the block itself is still part of that
    call."""
    seen: list[Any] = []

    @Pipeline(Timeout(20), Retry(2))
    async def work() -> asyncio.Task[None]:
        with priority("sheddable"), deadline(10):
            with detached():
                await _look(seen)
                task = asyncio.create_task(_look(seen))
            await _look(seen)
        return task

    await (await work())
    assert seen == [(None, "normal"), (10, "sheddable"), (None, "normal")]


@pytest.mark.virtual_time
async def test_detached_guarded_task_outlives_the_deadline() -> None:
    """The deadline does not cut guarded calls of a detached task."""
    ended: list[float] = []
    tasks: list[asyncio.Task[None]] = []

    @Retry(2)
    async def refresh() -> None:
        await asyncio.sleep(5)
        ended.append(asyncio.get_running_loop().time())

    async def work() -> None:
        with detached():
            tasks.append(asyncio.create_task(refresh()))
        await asyncio.sleep(9)

    with deadline(1), pytest.raises(TimedOut):
        await Retry(1)(work)()
    await tasks[0]
    assert ended == [5]


def test_detached_task_on_trio_outlives_the_deadline() -> None:
    """A nursery takes the context of where the task was begun."""
    seen: list[Any] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with deadline(10), priority("critical"):
                with detached():
                    nursery.start_soon(_look, seen)

    trio.run(main)
    assert seen == [(None, "normal")]


def test_detached_block_has_what_is_set_in_it(world: World) -> None:
    """Deadlines and Timeouts inside it hold; those around it do not."""
    seen, look = looking(world)

    if world.is_async:

        async def main() -> None:
            with detached():
                await look()
                await Timeout(40)(look)()
                with deadline(30):
                    await look()
            await look()
    else:

        def main() -> None:  # type: ignore[misc]
            with detached():
                look()
                Timeout(40)(look)()
                with deadline(30):
                    look()
            look()

    world.call(Pipeline(Timeout(20), Retry(1))(main))
    assert [left and math.ceil(left) for left in seen] == [None, 40, 30, 20]


def test_nearer_deadline_holds_within_a_total_timeout_and_the_other_way_round(world: World) -> None:
    """Of a deadline and a total Timeout the nearer one holds."""
    seen, look = looking(world)
    guarded = Pipeline(Timeout(20), Retry(1))(look)
    world.call(under(world, 5, guarded))
    world.call(under(world, 500, guarded))
    inherited, own = (left or 0.0 for left in seen)
    assert 0 < inherited <= 5
    assert 5 < own <= 20


def test_nested_call_makes_no_pause_that_outlives_the_outer_total(world: World) -> None:
    """A nested Retry starts no pause that outlives the outer total: its last real error comes back in time."""
    inner_error = OSError()
    inner = Retry(3, wait=30)(world.dependency(inner_error).fn)
    outer = Pipeline(Timeout(10), Retry(1))(around(world, inner))
    assert world.outcome(outer).error is inner_error


def test_error_of_a_total_timeout_is_its_own(world: World) -> None:
    """A total Timeout raises its own error, not that of the deadline it sets, whatever waits inside."""
    bulkhead = Bulkhead(1, queue=1)
    dependency = world.dependency(Until(left_queue(bulkhead), 7))
    holding = bulkhead(dependency.fn)
    bounded = Pipeline(Timeout(0.03), Pipeline(bulkhead, name="inner"), name="outer")(world.dependency().fn)
    first, second = world.together(holding, bounded)
    assert first.value == 7
    assert isinstance(second.error, TimedOut)
    assert (second.error.policy, second.error.pipeline) == ("Timeout", "outer")


@pytest.mark.virtual_time
async def test_breaker_within_a_total_timeout_learns_though_a_nested_call_inherits_it() -> None:
    """A breaker inside a total Timeout learns of its expiry, also if a nested guarded call inherits the deadline."""
    breaker, inner_breaker = tripping(), tripping()

    @Pipeline(inner_breaker, name="inner")
    async def fetch() -> None:
        await asyncio.sleep(60)

    @Pipeline(Timeout(2), breaker, name="outer")
    async def work() -> None:
        await fetch()

    with pytest.raises(TimedOut) as caught:
        await work()
    assert (caught.value.policy, caught.value.pipeline) == ("Timeout", "outer")
    assert breaker.state == "open"
    assert inner_breaker.state == "closed"


# -- never evidence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("breaker", [{"fail_max": 1, "failure_rate": None}, {"failure_rate": 0.01, "min_calls": 1}])
def test_flood_of_short_deadlines_trips_no_breaker(breaker: dict[str, Any]) -> None:
    """1 ms each, a thousand times: the dependency is not to blame."""

    async def main() -> None:
        circuit = CircuitBreaker(**breaker)
        pipeline = Pipeline(Retry(3, wait=0), circuit, Timeout(5))

        @pipeline
        async def fetch() -> None:
            await asyncio.sleep(0.1)

        for _ in range(1000):
            with deadline(0.001), pytest.raises(TimedOut):
                await fetch()
        assert circuit.state == "closed"
        assert circuit.fail_counter == 0
        assert_idle(pipeline.snapshot())
        await fetch()

    virtual.run(main())


def test_deadline_of_a_nested_call_is_no_evidence_for_the_breaker_around_it(world: World) -> None:
    """The error comes to it as an exception, and says so itself."""
    breaker = tripping()
    inner = Bulkhead(1, queue=1)
    holding = inner(world.dependency(Until(left_queue(inner), 7)).fn)
    outer = Pipeline(breaker)(around(world, under(world, 0.03, inner(world.dependency().fn))))
    _, second = world.together(holding, outer)
    assert isinstance(second.error, TimedOut)
    assert breaker.state == "closed"


@pytest.mark.virtual_time
async def test_call_that_has_had_its_configured_limit_is_evidence_though_a_deadline_ends_it() -> None:
    """What counts is its age at the limit of its own pipeline."""
    breaker = tripping(slow=1.0, slow_rate=0.5)

    @breaker
    async def fetch() -> None:
        await asyncio.sleep(60)

    with deadline(2), pytest.raises(TimedOut):
        await fetch()
    assert breaker.state == "open"


# -- from process to process ----------------------------------------------------------------------------------------

NONSENSE = [None, "", " ", "soon", "-1", "+1", "nan", "inf", "1e3", "1,2", "1 2", "0x1", "²", ".5", "1.2.3", "9" * 400]
NONSENSE += [b"", b"\xb2", b"-1", -1, -0.5, float("nan"), float("inf"), 10**12, True, ["5"], object()]


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: repr(value)[:20])
def test_header_that_makes_no_sense_is_none(value: Any) -> None:
    """What comes from the network raises nothing, and sets nothing."""
    with deadline.from_header(value):
        assert remaining() is None
    with deadline.from_header(value, most=5):
        left = remaining()
    assert left is not None
    assert 4 < left <= 5


@pytest.mark.parametrize("value", ["2000", "2000.0", " 2000\t", b"2000", 2000, 2000.0])
@pytest.mark.virtual_time
async def test_header_says_how_many_milliseconds_are_left(value: Any) -> None:
    """The milliseconds in a header are read from a text, from bytes, or from a number."""
    with deadline.from_header(value):
        assert remaining() == 2
    assert remaining() is None


@pytest.mark.parametrize(
    ("value", "options", "left"),
    [
        ("2000", {"most": 5}, 2),
        ("9000", {"most": 5}, 5),
        ("2000", {"elapsed": 0.5}, 1.5),
        ("9000", {"elapsed": 0.5, "most": 5}, 5),
        ("2000", {"elapsed": 2}, 0),
        ("2000", {"elapsed": float("inf")}, 0),
        ("2000", {"elapsed": -3600}, 2),  # clocks differ
        ("2000", {"elapsed": float("nan")}, 2),
        ("0", {}, 0),
        ("0", {"most": 5}, 0),
    ],
)
@pytest.mark.virtual_time
async def test_header_is_bounded_and_its_journey_counts(value: str, options: Any, left: float) -> None:
    """The server's own limit, and the time in the queue, shorten the received deadline."""
    with deadline.from_header(value, **options):
        assert remaining() == left


def test_header_that_has_expired_ends_guarded_calls_at_once(world: World) -> None:
    """Under an expired header guarded calls send nothing, and their errors are no evidence."""
    breaker = tripping()
    dependency = world.dependency()
    guarded = breaker(dependency.fn)

    def late() -> Any:
        with deadline.from_header("0"):
            guarded()

    async def late_async() -> Any:
        with deadline.from_header("0"):
            await guarded()

    error = world.outcome(late_async if world.is_async else late).error
    assert isinstance(error, TimedOut)
    assert (error.policy, error.evidence) == ("deadline", False)
    assert len(dependency.calls) == 0
    assert breaker.state == "closed"


@pytest.mark.virtual_time
async def test_header_cannot_lengthen_the_deadline_around_it() -> None:
    """The least of all holds; and without one, what is around does."""
    with deadline(5):
        with deadline.from_header("9000"):
            assert remaining() == 5
        with deadline.from_header(None):
            assert remaining() == 5
        with deadline.from_header("2000"):
            assert remaining() == 2
        assert remaining() == 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"most": 0}, ValueError, "most must be a finite number of seconds > 0, got 0"),
        ({"most": "5"}, TypeError, "most must be a finite number of seconds > 0, got '5'"),
        ({"elapsed": "5"}, TypeError, "elapsed must be a number of seconds, got '5'"),
        ({"elapsed": None}, TypeError, "elapsed must be a number of seconds, got None"),
    ],
)
def test_mistakes_of_whoever_reads_the_header_are_raised(options: Any, error: type[Exception], message: str) -> None:
    """Wrong arguments of `from_header` raise errors, because they do not come from the network."""
    for value in (None, "2000"):
        with pytest.raises(error, match=message):
            deadline.from_header(value, **options)


@pytest.mark.virtual_time
async def test_header_for_another_process_has_what_is_left() -> None:
    """In whole milliseconds, never more than there are."""
    assert deadline.to_header() is None
    with deadline(2.0009):
        assert deadline.to_header() == "2000"
        await asyncio.sleep(1.5)
        assert deadline.to_header() == "500"
        with deadline.from_header(deadline.to_header()):
            assert remaining() == 0.5
        await asyncio.sleep(1)
        assert deadline.to_header() == "0"
    assert deadline.to_header() is None


# -- what it leaves behind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["success", "error", "expiry", "rejection"])
def test_what_held_before_holds_again(world: World, end: str) -> None:
    """After a total Timeout, however its call ended, and after the block."""
    steps: dict[str, Any] = {"success": 7, "error": OSError(), "expiry": Slow(0.1, 7), "rejection": 7}
    breaker = tripping()
    if end == "rejection":
        breaker.isolate()
    guarded = Pipeline(Timeout(0.02), Retry(1), breaker, Timeout(0.01))(world.dependency(steps[end]).fn)
    left: list[float | None] = []

    def call() -> None:
        with deadline(500):
            try:
                guarded()
            except Exception:
                pass
            left.append(remaining())
        left.append(remaining())

    async def call_async() -> None:
        with deadline(500):
            try:
                await guarded()
            except Exception:
                pass
            left.append(remaining())
        left.append(remaining())

    world.call(call_async if world.is_async else call)
    inside, outside = left
    assert inside is not None
    assert 400 < inside <= 500
    assert outside is None


@pytest.mark.every_loop
async def test_what_held_before_holds_again_after_a_cancellation() -> None:
    """Of a call whose caller goes on."""
    entered = asyncio.Event()
    left: list[float | None] = []

    @Pipeline(Timeout(20), Retry(1))
    async def fetch() -> None:
        entered.set()
        await asyncio.sleep(60)

    async def call() -> None:
        try:
            await fetch()
        finally:
            left.append(remaining())

    task = asyncio.create_task(call())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left == [None]


async def test_coroutine_that_is_dropped_and_closed_elsewhere_does_no_harm() -> None:
    """In another context, where its deadline never held: what holds there goes on holding."""

    @Pipeline(Timeout(20), Retry(1))
    async def fetch() -> None:
        await asyncio.sleep(60)

    coroutine: Any = fetch()
    contextvars.copy_context().run(coroutine.send, None)
    with deadline(500):
        coroutine.close()
        left = remaining()
    assert left is not None
    assert 400 < left <= 500
    assert remaining() is None


def test_deadline_ends_no_other_that_was_begun_in_its_block() -> None:
    """A block that is left by an error restores what was, too."""
    with pytest.raises(OSError):
        with deadline(5):
            raise OSError
    assert remaining() is None


@pytest.mark.virtual_time
async def test_no_timer_is_left_in_virtual_time() -> None:
    """Virtual time does not move to a deadline that nothing waits for."""

    @Pipeline(Retry(), Timeout(5))
    async def fetch() -> None:
        await asyncio.sleep(1)

    with deadline(1000):
        await fetch()
    other = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(other)
    asyncio.get_running_loop().call_later(2, other.set_result, None)
    await waiting
    assert asyncio.get_running_loop().time() == 3


class Scene:
    """Calls under a deadline that is near, that is far, and none; some hold, some queue, some repeat."""

    def __init__(self, seconds: float) -> None:
        self.starts = (0.0, 0.0, 0.125, 0.25)
        self.seconds = seconds
        self.bulkhead = Bulkhead(1, queue=3)
        self.pipeline = Pipeline(
            Timeout(4), Retry(2, wait=0.125), self.bulkhead, CircuitBreaker(fail_max=50, failure_rate=None), Timeout(1)
        )
        self.running = 0
        self.left: list[float | None] = []
        self.outcomes = [OSError(), None] * 8

        @self.pipeline
        async def fetch() -> None:
            self.running += 1
            outcome = self.outcomes.pop(0)
            try:
                await (trio.sleep if trio_runs() else asyncio.sleep)(0.25)
                if outcome is not None:
                    raise outcome
            finally:
                self.running -= 1

        self.fetch = fetch

    def call(self, number: int) -> Awaitable[Any]:
        return self._call(number)

    async def _call(self, number: int) -> None:
        try:
            if number == 3:
                await self.fetch()
                return
            with deadline(self.seconds):
                await self.fetch()
        finally:
            self.left.append(remaining())

    async def drain(self) -> None:
        """Do nothing: nothing runs on by itself."""

    def assert_idle(self) -> None:
        assert_idle(self.pipeline.snapshot())
        assert self.running == 0
        assert set(self.left) <= {None}


def trio_runs() -> bool:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("seconds", [0.25, 0.3, 0.6, 30.0])
def test_everything_comes_back_wherever_a_call_under_a_deadline_is_cancelled(seconds: float) -> None:
    """At every scheduling point, before, in and after the tick of its expiry; no task and no timer is left."""
    leave_alone(lambda: Scene(seconds))
    for victim in range(4):
        assert cancel_at_every_point(lambda: Scene(seconds), victim) > 3


@pytest.mark.parametrize("seconds", [0.3, 30.0])
def test_everything_comes_back_wherever_a_call_under_a_deadline_is_cancelled_on_trio(seconds: float) -> None:
    """A call under a deadline on trio gives everything back, at whichever step it is cancelled."""
    for victim in range(3):
        assert cancel_at_every_step_of_trio(lambda: Scene(seconds), victim) > 2


async def test_deadlines_that_are_over_are_forgotten() -> None:
    """A thousand blocks leave no timer each until their time would have come."""
    loop: Any = asyncio.get_running_loop()

    @Retry()
    async def fetch() -> None: ...

    before = len(loop._scheduled)
    for _ in range(1000):
        with deadline(300):
            await fetch()
    gc.collect()
    assert len(loop._scheduled) - before < 50
