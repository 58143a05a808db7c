"""The contract of runtimes: the same methods with the same meanings, on every event loop and in threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

from resilient import TimedOut
from resilient.core.call import Call, new_call
from resilient.errors import VirtualTimeError
from resilient.runtime import Runtime, current, current_async
from resilient.runtime.threads import drive
from tests.worlds import Hang, Slow, World

SHORT = 0.03
LONG = 60.0


class Limit:
    """A limit as a runtime sees it, which remembers what it was asked."""

    total = False

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = None
        self.error = TimedOut("too late")
        self.waited: list[float] = []

    def expired(self, call: Any, waited: float) -> TimedOut:
        """The runtime found that the time is over."""
        self.waited.append(waited)
        return self.error


InnerCost = Callable[[Runtime, Call], Coroutine[Any, Any, Any]]


def inside(world: World, main: InnerCost) -> Any:
    """Run `main(runtime, call)` where policies run in this world: on its event loop, or in the caller's thread."""

    async def entry() -> Any:
        runtime = current()
        return await main(runtime, new_call(entry, (), {}, runtime))

    return world.run(entry if world.is_async else lambda: drive(entry()))


def leaf(world: World, *script: Any) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    """What a limit is put around: a dependency with a script."""
    fetch = world.dependency(*script).fn

    async def inner(call: Any) -> Any:
        if not world.is_async and isinstance(script[0], Hang):  # a thread cannot be stopped, but where it waits with us
            return await call.runtime.park().wait(None, call)
        answer = fetch()
        return await answer if world.is_async else answer

    return inner


# -- finding it --------------------------------------------------------------------------------------------------


def test_current_is_one_runtime_for_one_loop(world: World) -> None:
    """Each event loop has one runtime: two lookups find the same object."""

    async def main(runtime: Runtime, call: Call) -> None:
        assert current() is runtime
        if world.is_async:
            assert current_async() is runtime

    inside(world, main)


def test_current_async_without_a_loop_says_so() -> None:
    """In a plain thread current_async raises an error that says that no loop runs."""
    with pytest.raises(RuntimeError, match="needs a running asyncio or trio event loop"):
        current_async()


def test_now_is_the_worlds_clock(world: World) -> None:
    """`time.monotonic` everywhere but in virtual time, so that one instance may be used from all of them."""

    async def main(runtime: Runtime, call: Call) -> None:
        before, between, after = world.now(), runtime.now(), world.now()
        assert before <= between <= after

    inside(world, main)


# -- sleep -------------------------------------------------------------------------------------------------------


def test_sleep_takes_at_least_that_long(world: World) -> None:
    """On the runtime's own clock. (uvloop's counts milliseconds.)"""

    async def main(runtime: Runtime, call: Call) -> float:
        begin = runtime.now()
        await runtime.sleep(SHORT)
        return runtime.now() - begin

    assert inside(world, main) >= SHORT - 0.001


# -- park --------------------------------------------------------------------------------------------------------


def test_park_wake_before_wait_is_not_lost(world: World) -> None:
    """A wait that begins after its wake-up ends at once."""

    async def main(runtime: Runtime, call: Call) -> bool:
        parking = runtime.park()
        parking.wake()
        return await parking.wait(LONG, call)

    assert inside(world, main) is True


def test_park_wake_before_wait_without_limit_is_not_lost(world: World) -> None:
    """The same, where no time limits the wait."""

    async def main(runtime: Runtime, call: Call) -> bool:
        parking = runtime.park()
        parking.wake()
        return await parking.wait(None, call)

    assert inside(world, main) is True


def test_park_wake_twice_does_no_harm(world: World) -> None:
    """A second wake has no effect, before the wait and after it."""

    async def main(runtime: Runtime, call: Call) -> bool:
        parking = runtime.park()
        parking.wake()
        parking.wake()
        woken = await parking.wait(LONG, call)
        parking.wake()
        return woken

    assert inside(world, main) is True


@pytest.mark.parametrize("limit", [None, LONG])
def test_park_wake_from_another_thread_ends_the_wait(world: World, limit: float | None) -> None:
    """A wake-up reaches the waiting event loop or thread."""
    if world.name == "virtual":
        pytest.skip("virtual time refuses other threads")

    async def main(runtime: Runtime, call: Call) -> bool:
        parking = runtime.park()
        other = threading.Timer(SHORT, parking.wake)
        other.start()
        try:
            return await parking.wait(limit, call)
        finally:
            other.join()

    assert inside(world, main) is True


def test_park_wake_from_many_threads_at_once_does_no_harm(world: World) -> None:
    """One of them ends the wait; none of them fails."""
    failed: list[Exception] = []

    async def main(runtime: Runtime, call: Call) -> bool:
        parking = runtime.park()

        def wake() -> None:
            try:
                parking.wake()
            except Exception as error:
                failed.append(error)

        others = [threading.Thread(target=wake) for _ in range(8)]
        for other in others:
            other.start()
        if world.name == "virtual":  # where other threads are refused, and end the run
            parking.wake()
        woken = await parking.wait(LONG, call)
        for other in others:
            other.join()
        return woken

    with pytest.raises(VirtualTimeError) if world.name == "virtual" else contextlib.nullcontext():
        assert inside(world, main) is True
    assert failed == []


def test_park_wait_ends_after_its_seconds(world: World) -> None:
    """A wait without a wake-up returns False, and not before its time."""

    async def main(runtime: Runtime, call: Call) -> tuple[bool, float]:
        begin = runtime.now()
        woken = await runtime.park().wait(SHORT, call)
        return woken, runtime.now() - begin

    woken, took = inside(world, main)
    assert woken is False
    assert took >= SHORT - 0.001


def test_park_wake_after_the_wait_has_ended_does_no_harm(world: World) -> None:
    """A wake-up after the end of the wait has no effect, and raises nothing."""

    async def main(runtime: Runtime, call: Call) -> bool:
        parking = runtime.park()
        woken = await parking.wait(SHORT, call)
        parking.wake()
        return woken

    assert inside(world, main) is False


def test_park_wake_after_the_loop_has_ended_does_no_harm(world: World) -> None:
    """Neither from the thread it ran in, nor from another."""
    failed: list[Exception] = []

    async def main(runtime: Runtime, call: Call) -> Any:
        return runtime.park()

    parking = inside(world, main)
    world.close()

    def wake() -> None:
        try:
            parking.wake()
        except Exception as error:
            failed.append(error)

    wake()
    other = threading.Thread(target=wake)
    other.start()
    other.join()
    assert failed == []


def test_park_places_are_woken_each_by_itself(world: World) -> None:
    """To wake one waiting call leaves the others waiting."""

    async def main(runtime: Runtime, call: Call) -> list[bool]:
        first, second = runtime.park(), runtime.park()
        second.wake()
        return [await first.wait(SHORT, call), await second.wait(SHORT, call)]

    assert inside(world, main) == [False, True]


# -- within ------------------------------------------------------------------------------------------------------


def test_within_returns_the_result(world: World) -> None:
    """A result in time is returned, and the limit makes no error."""
    limit = Limit(LONG)

    async def main(runtime: Runtime, call: Call) -> Any:
        return await runtime.within(call, leaf(world, 7), limit)

    assert inside(world, main) == 7
    assert limit.waited == []


@pytest.mark.parametrize("error", [OSError(), TimeoutError(), TimedOut("another's"), KeyError()], ids=repr)
def test_within_passes_an_error_unchanged(world: World, error: Exception) -> None:
    """An error of any kind passes as the same object."""
    limit = Limit(LONG)

    async def main(runtime: Runtime, call: Call) -> Any:
        return await runtime.within(call, leaf(world, error), limit)

    with pytest.raises(type(error)) as caught:
        inside(world, main)
    assert caught.value is error
    assert limit.waited == []


def test_within_raises_what_the_limit_says_when_the_time_is_over(world: World) -> None:
    """The error object of the limit is raised, once, and not before its time."""
    limit = Limit(SHORT)
    took: list[float] = []

    async def main(runtime: Runtime, call: Call) -> Any:
        begin = runtime.now()
        try:
            return await runtime.within(call, leaf(world, Hang()), limit)
        finally:
            took.append(runtime.now() - begin)

    with pytest.raises(TimedOut) as caught:
        inside(world, main)
    assert caught.value is limit.error
    assert limit.waited == [0.0]
    assert took[0] >= SHORT - 0.001


def test_within_blames_the_last_failure(world: World) -> None:
    """The error of the limit has the last failure of the call as its cause."""
    failure = OSError()

    async def main(runtime: Runtime, call: Call) -> Any:
        call.error = failure
        return await runtime.within(call, leaf(world, Hang()), Limit(SHORT))

    with pytest.raises(TimedOut) as caught:
        inside(world, main)
    assert caught.value.__cause__ is failure


def test_within_sets_the_deadline_while_it_lasts(world: World) -> None:
    """For those inside; and takes it back, however it ends."""
    seen: list[float | None] = []

    async def main(runtime: Runtime, call: Call) -> None:
        for ending in (7, OSError()):

            async def look(call: Any, ending: Any = ending) -> Any:
                seen.append(call.deadline)
                return await leaf(world, ending)(call)

            before = runtime.now()
            try:
                await runtime.within(call, look, Limit(LONG))
            except OSError:
                pass
            after = runtime.now()
            deadline = seen.pop()
            assert deadline is not None
            assert before + LONG <= deadline <= after + LONG
            assert call.deadline is None
        with pytest.raises(TimedOut):
            await runtime.within(call, leaf(world, Hang()), Limit(SHORT))
        assert call.deadline is None

    inside(world, main)


def test_within_only_lowers_the_deadline(world: World) -> None:
    """A deadline that is nearer than the limit stays."""
    seen: list[float | None] = []

    async def look(call: Any) -> None:
        seen.append(call.deadline)

    async def main(runtime: Runtime, call: Call) -> None:
        call.deadline = near = runtime.now() + LONG / 2
        await runtime.within(call, look, Limit(LONG))
        assert seen == [near]
        assert call.deadline == near

    inside(world, main)


def test_within_nested_expires_as_the_shorter(world: World) -> None:
    """Of two nested limits the shorter one expires, whichever is outside."""
    for outer, inner in ((Limit(SHORT), Limit(LONG)), (Limit(LONG), Limit(SHORT))):
        shorter = min(outer, inner, key=lambda limit: limit.seconds)

        async def main(runtime: Runtime, call: Call, outer: Limit = outer, inner: Limit = inner) -> Any:
            return await runtime.within(call, lambda call: runtime.within(call, leaf(world, Hang()), inner), outer)

        with pytest.raises(TimedOut) as caught:
            inside(world, main)
        assert caught.value is shorter.error


def test_within_ends_a_wait_for_a_turn(world: World) -> None:
    """The error of the limit gets the time in the queue."""
    limit = Limit(SHORT)

    async def main(runtime: Runtime, call: Call) -> Any:
        async def queue(call: Any) -> None:
            begin = runtime.now()
            try:
                await runtime.park().wait(None, call)
            finally:
                call.waited += runtime.now() - begin

        call.waited = 5.0  # of an earlier queue, which is not this limit's
        return await runtime.within(call, queue, limit)

    with pytest.raises(TimedOut):
        inside(world, main)
    assert limit.waited[0] >= SHORT * 0.9
    assert limit.waited[0] < 5


def test_within_a_wait_for_a_turn_that_is_shorter_ends_by_itself(world: World) -> None:
    """A wait with a timeout before the limit ends by that timeout."""

    async def main(runtime: Runtime, call: Call) -> Any:
        return await runtime.within(call, lambda call: runtime.park().wait(SHORT, call), Limit(LONG))

    assert inside(world, main) is False


def test_within_late_result_of_one_that_cannot_be_stopped_is_returned() -> None:
    """A `def` in its caller's thread; a coroutine that swallows the cancellation."""

    async def late(call: Any) -> Any:
        await call.runtime.sleep(SHORT * 2)
        return 7

    async def stubborn(call: Any) -> Any:
        try:
            await call.runtime.sleep(LONG)
        except asyncio.CancelledError:
            return 7

    async def shielded(call: Any) -> Any:
        with trio.CancelScope(shield=True):
            return await late(call)

    def within(inner: Callable[[Any], Any]) -> Coroutine[Any, Any, Any]:
        async def main() -> Any:
            limit = Limit(SHORT)
            runtime = current()
            return await runtime.within(new_call(main, (), {}, runtime), inner, limit)

        return main()

    assert drive(within(late)) == 7
    assert asyncio.run(within(stubborn)) == 7
    assert trio.run(lambda: within(shielded)) == 7


def test_within_a_slow_answer_inside_the_limit_is_in_time(world: World) -> None:
    """A slow answer inside the limit takes its time, and no more."""

    async def main(runtime: Runtime, call: Call) -> Any:
        return await runtime.within(call, leaf(world, Slow(SHORT, 7)), Limit(LONG))

    begin = time.monotonic()
    assert inside(world, main) == 7
    assert time.monotonic() - begin < LONG / 2
