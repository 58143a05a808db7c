"""Virtual time: its clock jumps, its runs are the same each time, and it detects deadlocks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
import tenacity

from resilient import Bulkhead, CircuitBreaker, Deadlock, Pipeline, Retry, TimedOut, Timeout
from resilient.runtime import virtual
from resilient.runtime.virtual import VirtualLoop


def clock() -> float:
    """Return the time of the running event loop."""
    return asyncio.get_running_loop().time()


async def forever() -> None:
    """Wait for a future that is never set."""
    await asyncio.get_running_loop().create_future()


# -- time --------------------------------------------------------------------------------------------------------


def test_run_clock_starts_at_zero_and_jumps_to_the_next_timer() -> None:
    """A sleep of an hour moves the clock by an hour exactly."""

    async def main() -> list[float]:
        times = [clock()]
        await asyncio.sleep(3600)
        return [*times, clock()]

    assert virtual.run(main()) == [0.0, 3600.0]


def test_run_jump_takes_no_real_time() -> None:
    """A year of sleep is over at once. (The bound is wide; a clock that runs would take a year.)"""

    async def main() -> None:
        for _ in range(365):
            await asyncio.sleep(86_400)

    begin = time.monotonic()
    virtual.run(main())
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize("start", [0, 12.5, 1e7, 1_700_000_000.0, 1e12])
def test_run_start_is_where_the_clock_begins(start: float) -> None:
    """Any start works, epoch seconds too, where a float is too coarse for nanoseconds."""

    async def main() -> list[float]:
        times = [clock()]
        await asyncio.sleep(2)
        called = asyncio.Event()
        asyncio.get_running_loop().call_later(0, called.set)
        await called.wait()
        return [*times, clock()]

    assert virtual.run(main(), start=start) == [start, start + 2]


@pytest.mark.parametrize(
    ("start", "error"), [(math.nan, ValueError), (math.inf, ValueError), (-1, ValueError), ("1", TypeError)]
)
def test_run_impossible_start_is_refused_with_its_value(start: Any, error: type[Exception]) -> None:
    """The message names the argument and what it got."""
    main = forever()
    with pytest.raises(error, match=f"start.*{start!r}"):
        virtual.run(main, start=start)
    main.close()


def test_run_ready_work_goes_before_time() -> None:
    """The clock stands still as long as anything can run."""

    async def main() -> float:
        timer = asyncio.ensure_future(asyncio.sleep(0.001))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not timer.done()
        return clock()

    assert virtual.run(main()) == 0.0


def test_run_timers_fire_in_order_of_their_times() -> None:
    """Timers fire in the order of their times, each at its own time, in whatever order they were set."""
    delays = [3.0, 0.5, 2.0, 0.25, 60.0, 1.0, 0.75]

    async def main() -> list[tuple[float, float]]:
        fired: list[tuple[float, float]] = []

        async def sleeper(delay: float) -> None:
            await asyncio.sleep(delay)
            fired.append((delay, clock()))

        await asyncio.gather(*map(sleeper, delays))
        return fired

    assert virtual.run(main()) == [(delay, delay) for delay in sorted(delays)]


def test_run_cancelled_timer_does_not_move_the_clock() -> None:
    """A cancelled timer does not move the clock, because nothing waits for it."""

    async def main() -> float:
        handles = [asyncio.get_running_loop().call_later(delay, list) for delay in (1, 2, 1000)]
        for handle in handles:
            handle.cancel()
        await asyncio.sleep(5)
        return clock()

    assert virtual.run(main()) == 5.0


def test_run_same_program_twice_leaves_the_same_trace() -> None:
    """Hundreds of calls through every policy, with random delays, failures and expiries: equal to the last digit."""

    async def main() -> list[Any]:
        dice = random.Random(7)
        trace: list[Any] = []
        pipeline = Pipeline(
            Timeout(2), Retry(attempts=3, wait=0.1), Bulkhead(5, queue=50), CircuitBreaker(), Timeout(0.5)
        )

        @pipeline
        async def service(number: int) -> int:
            await asyncio.sleep(dice.expovariate(4))
            if dice.random() < 0.3:
                raise OSError(number)
            return number

        async def client(number: int) -> None:
            await asyncio.sleep(dice.uniform(0, 20))
            try:
                ended: Any = await service(number)
            except Exception as error:
                ended = f"{type(error).__name__}: {error}"
            trace.append((clock(), number, ended))

        await asyncio.gather(*(client(number) for number in range(200)))
        return trace

    first, second = virtual.run(main()), virtual.run(main())
    assert first == second
    assert {type(ended) for _, _, ended in first} == {int, str}, "some calls fail and some do not"


def test_run_ten_minutes_of_backoff_take_no_time() -> None:
    """Ten attempts a minute apart end at 540 s of virtual time."""

    async def main() -> float:
        @Retry(attempts=11, wait=60)
        async def service() -> None:
            raise OSError

        with pytest.raises(OSError):
            await service()
        return clock()

    begin = time.monotonic()
    assert virtual.run(main()) == 600.0
    assert time.monotonic() - begin < 60


# -- deadlocks ---------------------------------------------------------------------------------------------------


def test_deadlock_is_raised_at_once_with_what_waits_where() -> None:
    """Every task by name, with the functions and lines it waits in, and the time."""

    async def inner() -> None:
        await asyncio.Queue[int]().get()

    async def outer() -> None:
        await inner()

    async def main() -> None:
        await asyncio.sleep(7)
        helper = asyncio.create_task(outer(), name="helper")
        await asyncio.wait([helper])

    with pytest.raises(Deadlock) as caught:
        virtual.run(main())

    text = str(caught.value)
    assert "nothing can ever run again at t = 7 s; 2 task(s) wait:" in text
    helper_line = next(line for line in text.splitlines() if line.strip().startswith("helper:"))
    places = [place.split()[0] for place in helper_line.partition(": ")[2].split(" > ")]
    assert [place.rpartition(".")[2] for place in places] == ["outer", "inner", "get"]
    assert "(test_virtual.py:" in helper_line
    assert "(queues.py:" in helper_line


def test_deadlock_two_tasks_hold_what_the_other_needs() -> None:
    """Two tasks that each hold the lock that the other needs are a deadlock."""

    async def main() -> None:
        first, second = asyncio.Lock(), asyncio.Lock()

        async def take(one: asyncio.Lock, other: asyncio.Lock) -> None:
            async with one:
                await asyncio.sleep(1)
                async with other:
                    pass

        await asyncio.gather(take(first, second), take(second, first))

    with pytest.raises(Deadlock, match=r"at t = 1 s; 3 task\(s\) wait"):
        virtual.run(main())


def test_deadlock_sleep_without_end_is_none_that_a_timer_ends() -> None:
    """`sleep(math.inf)` is how people wait for ever; the clock does not jump to infinity."""
    with pytest.raises(Deadlock, match="at t = 0 s"):
        virtual.run(asyncio.sleep(math.inf))


def test_deadlock_endless_sleep_beside_a_timer_is_none() -> None:
    """An endless sleep is no deadlock as long as another timer will fire."""

    async def main() -> float:
        idle = asyncio.create_task(asyncio.sleep(math.inf))
        await asyncio.sleep(3)
        idle.cancel()
        return clock()

    assert virtual.run(main()) == 3.0


def test_deadlock_is_not_hidden_by_a_cancelled_timer() -> None:
    """An `asyncio.timeout` that is over leaves a cancelled timer behind."""

    async def main() -> None:
        async with asyncio.timeout(100):
            await asyncio.sleep(0)
        await forever()

    with pytest.raises(Deadlock, match="at t = 0 s"):
        virtual.run(main())


def test_deadlock_is_not_hidden_by_idle_shared_timers() -> None:
    """The timers of guarded calls that have ended keep no program alive and do not move its clock."""

    async def main() -> None:
        async def quick() -> None:
            await asyncio.sleep(1)

        for seconds in (10, 3600):
            await Timeout(seconds)(quick)()
        await forever()

    with pytest.raises(Deadlock, match="at t = 2 s"):
        virtual.run(main())


def test_deadlock_caller_in_a_queue_that_nobody_leaves() -> None:
    """The message shows the wait in the bulkhead's queue."""

    async def main() -> None:
        bulkhead = Bulkhead(1, queue=1, name="narrow")
        hanging = bulkhead(forever)
        holder = asyncio.create_task(hanging(), name="holder")
        queued = asyncio.create_task(hanging(), name="queued")
        await asyncio.wait([holder, queued])

    with pytest.raises(Deadlock, match=r"queued: .*Bulkhead\.wait \(bulkhead\.py:\d+\)"):
        virtual.run(main())


def test_deadlock_under_a_timeout_is_none() -> None:
    """A running timeout ends the wait at its time."""

    async def main() -> float:
        with pytest.raises(TimedOut):
            await Timeout(30)(forever)()
        return clock()

    assert virtual.run(main()) == 30.0


def test_deadlock_lets_the_tasks_clean_up() -> None:
    """Like any error that ends a loop: the tasks left over are cancelled."""
    cleaned = []

    async def main() -> None:
        try:
            await forever()
        finally:
            cleaned.append("main")

    with pytest.raises(Deadlock):
        virtual.run(main())
    assert cleaned == ["main"]


# -- runs without an end -----------------------------------------------------------------------------------------


async def beat(seconds: float) -> None:
    """Sleep again and again, as a heartbeat does."""
    for _ in itertools.count():
        await asyncio.sleep(seconds)


async def wait_beside_a_heartbeat(seconds: float = 30) -> None:
    """Wait for what never comes, while another task goes on for ever."""
    heart = asyncio.create_task(beat(seconds))
    await asyncio.Event().wait()
    await heart


async def poll() -> None:
    """Look for what never comes, again and again."""
    await beat(30)


@pytest.mark.parametrize("main", [wait_beside_a_heartbeat, poll])
def test_endless_run_is_a_deadlock_at_its_limit(main: Callable[[], Any]) -> None:
    """Before the first timer beyond it; the message says what waits where, and how to go on."""
    with pytest.raises(Deadlock, match=r"has not ended within 60 s of virtual time \(a higher limit=") as caught:
        virtual.run(main(), limit=60)
    assert "at t = 60 s;" in str(caught.value)
    assert f"{main.__name__} (test_virtual.py:" in str(caught.value)


def test_endless_run_is_a_deadlock_without_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour, when the clock has moved often."""
    monkeypatch.setattr(virtual, "MOVES", 1000)
    for seconds, end in ((0.1, 3600.0), (30, 30_000.0)):
        with pytest.raises(Deadlock, match="within 3600 s of virtual time") as caught:
            virtual.run(wait_beside_a_heartbeat(seconds))
        moment = float(str(caught.value).partition(" at t = ")[2].partition(" s;")[0])
        assert moment == pytest.approx(end, rel=1e-3)


def test_limit_is_of_each_run_of_a_loop() -> None:
    """The time of earlier runs of the same loop does not count."""
    with contextlib.closing(VirtualLoop(limit=10)) as loop:
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(9))
        with pytest.raises(Deadlock, match="within 10 s"):
            loop.run_until_complete(asyncio.sleep(11))


def test_limit_may_be_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an infinite limit a run may go on for ever."""
    monkeypatch.setattr(virtual, "MOVES", 0)

    async def main() -> None:
        await asyncio.sleep(1e6)

    virtual.run(main(), limit=math.inf)
    with pytest.raises(Deadlock):
        virtual.run(main())


@pytest.mark.parametrize(
    ("limit", "error"), [(0, ValueError), (-1, ValueError), (math.nan, ValueError), ("", TypeError)]
)
def test_impossible_limit_is_refused_with_its_value(limit: Any, error: type[Exception]) -> None:
    """Both `run` and the loop itself say which value they got."""
    main = forever()
    with pytest.raises(error, match=f"limit.*{limit!r}"):
        virtual.run(main, limit=limit)
    main.close()
    with pytest.raises(error, match=f"limit.*{limit!r}"):
        VirtualLoop(limit=limit)


async def sleep_no_time() -> None:
    """Sleep again and again without any time going by."""
    for _ in itertools.count():
        await asyncio.sleep(0)


async def call_later_at_once() -> None:
    """A callback that schedules itself again without delay."""
    loop = asyncio.get_running_loop()

    def again() -> None:
        loop.call_later(0, again)

    again()
    await forever()


async def sleep_next_to_no_time() -> None:
    """Zeno's loop: time goes by, but nothing of it."""
    await beat(1e-9)


@pytest.mark.parametrize("main", [sleep_no_time, call_later_at_once, sleep_next_to_no_time])
def test_clock_that_stands_still_is_a_deadlock(main: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still for `STEPS` steps is a deadlock, whatever the limit."""
    monkeypatch.setattr(virtual, "STEPS", 10_000)
    with pytest.raises(Deadlock, match=r"the clock has stood still for 10,000 steps at t = .*") as caught:
        virtual.run(main(), limit=math.inf)
    assert f"{main.__name__} (test_virtual.py:" in str(caught.value)


def test_many_steps_are_no_deadlock_while_the_clock_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only steps within one moment count, however many there are in all."""
    monkeypatch.setattr(virtual, "STEPS", 1000)

    async def main() -> float:
        for _ in range(20):
            await asyncio.sleep(0.01)
            for _ in range(400):
                await asyncio.sleep(0)
        return clock()

    assert virtual.run(main()) == pytest.approx(0.2)


def test_deadlock_of_many_tasks_shows_some() -> None:
    """The message ends with how many more there are."""

    async def main() -> None:
        await asyncio.gather(*(forever() for _ in range(99)))

    with pytest.raises(Deadlock, match=r"100 task\(s\) wait") as caught:
        virtual.run(main())
    assert str(caught.value).splitlines()[-1] == "  and 50 more"


# -- the library's idle timers -----------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_idle_shared_timer_does_not_move_the_clock() -> None:
    """A call that ended early leaves the time of its limit untouched."""

    async def quick() -> None:
        await asyncio.sleep(1)

    await Timeout(3600)(quick)()
    await asyncio.sleep(1)
    assert clock() == 2.0


@pytest.mark.virtual_time
async def test_idle_shared_timer_beside_a_running_one_leaves_the_running_one_exact() -> None:
    """One length is idle, the other expires at its own time."""

    async def quick() -> None:
        pass

    await Timeout(2)(quick)()
    await Timeout(3600)(quick)()
    with pytest.raises(TimedOut):
        await Timeout(5)(forever)()
    assert clock() == 5.0


@pytest.mark.virtual_time
async def test_shared_timer_serves_again_after_it_was_dropped() -> None:
    """After the clock has jumped over an idle timer, the next call of its length still expires."""

    async def quick() -> None:
        pass

    timeout = Timeout(2)
    for round_ in range(3):
        await timeout(quick)()
        await asyncio.sleep(10)
        with pytest.raises(TimedOut):
            await timeout(forever)()
        assert clock() == 12.0 * (round_ + 1)


@pytest.mark.virtual_time
async def test_shared_timer_expiry_is_exact_whatever_went_before() -> None:
    """Calls that begin at odd times and end early never shift the expiry of a later one."""
    timeout = Timeout(0.3)
    for delay in (0.1, 0.2, 0.0003, 0.29999999, 1 / 3):

        async def quick(delay: float = delay) -> None:
            await asyncio.sleep(min(delay, 0.29))

        await asyncio.sleep(delay)
        await timeout(quick)()
        begin = clock()
        with pytest.raises(TimedOut):
            await timeout(forever)()
        assert clock() - begin == pytest.approx(0.3, abs=1e-9)


# -- plain asyncio on it -----------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_asyncio_timeout_expires_at_its_time() -> None:
    """`asyncio.timeout` and `wait_for` expire at their time."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await forever()
    assert clock() == 2.0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(forever(), 3)
    assert clock() == 5.0


@pytest.mark.virtual_time
async def test_asyncio_task_group_cancels_the_siblings_of_a_failure() -> None:
    """A TaskGroup cancels the siblings at the time of the failure."""
    ended: list[float] = []

    async def sibling() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(clock())

    async def failing() -> None:
        await asyncio.sleep(1)
        raise OSError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling())
            group.create_task(failing())

    assert [type(error) for error in caught.value.exceptions] == [OSError]
    assert ended == [1.0]


@pytest.mark.virtual_time
async def test_asyncio_queues_and_events_work() -> None:
    """A producer and a consumer with a bounded queue."""
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    taken: list[tuple[int, float]] = []

    async def consumer() -> None:
        for _ in range(4):
            await asyncio.sleep(1)
            taken.append((await queue.get(), clock()))

    task = asyncio.create_task(consumer())
    for number in range(4):
        await queue.put(number)
    await task
    assert taken == [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]


@pytest.mark.virtual_time
async def test_asyncio_debug_mode_works() -> None:
    """A run passes with the checks of `PYTHONASYNCIODEBUG`."""
    asyncio.get_running_loop().set_debug(True)
    with pytest.raises(TimedOut):
        await Timeout(5)(forever)()
    assert clock() == 5.0


def test_run_closes_async_generators() -> None:
    """A run closes async generators at its end, as `asyncio.run` does."""
    closed = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)
            closed.append("closed")

    async def main() -> Any:
        generator = numbers()
        await anext(generator)
        return generator

    kept = virtual.run(main())
    assert closed == ["closed"]
    del kept


def test_run_passes_results_and_errors_on() -> None:
    """A run returns the result or raises the error of its coroutine, as `asyncio.run` does."""
    error = OSError()

    async def good() -> int:
        return 7

    async def bad() -> None:
        raise error

    assert virtual.run(good()) == 7
    with pytest.raises(OSError) as caught:
        virtual.run(bad())
    assert caught.value is error


def test_run_cancels_what_is_left_over() -> None:
    """Background tasks end with their main coroutine."""
    left = []

    async def background() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            left.append("cancelled")

    async def main() -> Any:
        task = asyncio.create_task(background())
        await asyncio.sleep(1)
        return task

    assert virtual.run(main()).cancelled()
    assert left == ["cancelled"]


def test_run_in_two_threads_at_once_keeps_two_clocks() -> None:
    """Virtual loops in two threads have independent clocks."""
    together = threading.Barrier(2, timeout=5)
    clocks: dict[int, float] = {}

    def work(seconds: int) -> None:
        async def main() -> float:
            together.wait()
            for _ in range(100):
                await asyncio.sleep(seconds)
            return clock()

        clocks[seconds] = virtual.run(main())

    threads = [threading.Thread(target=work, args=(seconds,)) for seconds in (1, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clocks == {1: 100.0, 1000: 100_000.0}


def test_loop_keeps_its_time_between_runs() -> None:
    """One loop may be run several times; guarded calls keep working on it."""
    loop = VirtualLoop(10)
    with contextlib.closing(loop):
        for _ in range(2):
            with pytest.raises(TimedOut):
                loop.run_until_complete(Timeout(5)(forever)())
        assert loop.time() == 20.0


# -- other people's code on it -----------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_tenacity_sleeps_on_the_virtual_clock() -> None:
    """Ten minutes of tenacity's own backoff take no real time."""

    @tenacity.retry(wait=tenacity.wait_fixed(60), stop=tenacity.stop_after_attempt(11), reraise=True)
    async def service() -> None:
        raise OSError

    with pytest.raises(OSError):
        await service()
    assert clock() == 600.0


@pytest.mark.virtual_time
async def test_tenacity_stop_after_delay_in_our_retry_counts_virtual_seconds() -> None:
    """A strategy that looks at the time sees the clock of the runtime."""
    calls = []

    @Retry(stop=tenacity.stop_after_delay(100), wait=tenacity.wait_fixed(30))
    async def service() -> None:
        calls.append(clock())
        raise OSError

    with pytest.raises(OSError):
        await service()
    assert calls == [0.0, 30.0, 60.0, 90.0, 120.0]


@pytest.mark.virtual_time
async def test_anyio_scopes_and_groups_work() -> None:
    """Cancel scopes and task groups of anyio, on which httpx is built, work in virtual time."""
    with anyio.move_on_after(2) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 100)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert clock() == 2.0


@pytest.mark.virtual_time
async def test_breaker_opens_and_recovers_on_the_virtual_clock() -> None:
    """The break is over when that much virtual time has passed."""
    healthy = False

    @CircuitBreaker(None, fail_max=3, break_duration=30, name="service")
    async def service() -> int:
        if not healthy:
            raise OSError
        return 7

    for _ in range(3):
        with pytest.raises(OSError):
            await service()
    with pytest.raises(Exception, match="service is open; try again in"):
        await service()
    healthy = True
    await asyncio.sleep(40)
    assert await service() == 7
    assert await service() == 7
