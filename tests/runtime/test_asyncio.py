"""Timeouts on asyncio's loops: cancellations keep their origin in every tick; timers lose nothing and never spin."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import threading
import time
import weakref
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import uvloop

from resilient import Bulkhead, Hedge, Pipeline, Retry, TimedOut, Timeout, deadline
from resilient.core.call import new_call
from resilient.runtime import virtual
from resilient.runtime.asyncio import AsyncioRuntime, running
from resilient.runtime.virtual import VirtualLoop

LIMIT = 0.02
LONG = 60.0

Order = Literal["before", "after"]
Poke = Callable[["asyncio.Task[Any]"], object]
Call = Callable[[], Coroutine[Any, Any, Any]]

both_orders = pytest.mark.parametrize("order", ["before", "after"])


async def forever() -> None:
    """Wait for a future that is never set."""
    await asyncio.get_running_loop().create_future()


async def answer() -> int:
    """Answer after one turn of the loop."""
    await asyncio.sleep(0)
    return 7


def soon(callback: Callable[..., object], *args: Any) -> None:
    """Call a function in the next tick of the event loop."""
    asyncio.get_running_loop().call_soon(callback, *args)


def in_tick_of_expiry(order: Order, action: Callable[[], object]) -> None:
    """Run `action` in the tick in which a Timeout of LIMIT that begins now expires: `before` or `after` its timer.

    In virtual time both timers are set for one instant; a real loop is held up until both are due.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        when = loop.time() + LIMIT
        if order == "before":
            loop.call_at(when, action)
        else:
            loop.call_soon(loop.call_at, when, action)
        return
    loop.call_later(LIMIT * (0.5 if order == "before" else 1.5), action)
    loop.call_soon(time.sleep, LIMIT * 2)


class Hanging:
    """A callee that never answers, and counts the cancellations that reach it."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def __call__(self) -> None:
        try:
            await forever()
        except CancelledError:
            self.cancelled += 1
            raise


@dataclass
class Ending:
    """How a call ended in its task: its result or error, the task's `cancelling()` then, and whether a cancellation
    was left over that hit the next await."""

    outcome: Any
    cancelling: int
    left_over: bool = False


async def end_of(call: Call, poke: Poke | None = None, *, cancelling: int = 0) -> Ending:
    """Await `call()` in a task with a count of `cancelling`; `poke(task)` is called just before."""

    async def run() -> Ending:
        task = asyncio.current_task()
        assert task is not None
        for _ in range(cancelling):
            task.cancel()
            with contextlib.suppress(CancelledError):
                await asyncio.sleep(0)
        if poke is not None:
            poke(task)
        try:
            outcome: Any = await call()
        except BaseException as error:
            outcome = error
        end = Ending(outcome, task.cancelling())
        try:
            await asyncio.sleep(0)
        except CancelledError:
            end.left_over = True
        while task.cancelling():
            task.uncancel()
        return end

    async with asyncio.timeout(10):
        return await asyncio.create_task(run())


def assert_timed_out(end: Ending, *, cancelling: int = 0) -> TimedOut:
    """Assert that a call ended by a Timeout, and left the state of its task unchanged."""
    assert isinstance(end.outcome, TimedOut)
    assert (end.cancelling, end.left_over) == (cancelling, False)
    return end.outcome


def assert_cancelled(end: Ending, *, cancelling: int) -> None:
    """Assert that a call ended by the caller's cancellation, which is still counted."""
    assert type(end.outcome) is CancelledError
    assert (end.cancelling, end.left_over) == (cancelling, False)


# -- cancel accounting -------------------------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_timeout_success_leaves_no_cancellation() -> None:
    """After a call that succeeds in time its task is not cancelling."""
    assert await end_of(Timeout(LONG)(answer)) == Ending(7, 0)


@pytest.mark.every_loop
async def test_timeout_own_error_of_the_callee_leaves_no_cancellation() -> None:
    """An error of the callee passes as the same object, and its task is not cancelling."""
    error = OSError()

    async def failing() -> None:
        await asyncio.sleep(0)
        raise error

    end = await end_of(Timeout(LONG)(failing))
    assert end == Ending(error, 0)
    assert end.outcome is error


@pytest.mark.every_loop
async def test_timeout_expiry_leaves_no_cancellation() -> None:
    """The cancellation that ended the callee is taken back, and there was one."""
    hang = Hanging()
    assert_timed_out(await end_of(Timeout(LIMIT)(hang)))
    assert hang.cancelled == 1


@pytest.mark.every_loop
async def test_timeout_callers_cancel_gets_through() -> None:
    """The caller's cancel gets through a Timeout, and stays counted."""
    assert_cancelled(await end_of(Timeout(LONG)(forever), lambda task: soon(task.cancel)), cancelling=1)


@pytest.mark.every_loop
async def test_timeout_callers_cancel_keeps_its_message() -> None:
    """The very exception that the loop threw."""
    end = await end_of(Timeout(LONG)(forever), lambda task: soon(task.cancel, "why"))
    assert end.outcome.args == ("why",)


@pytest.mark.every_loop
async def test_timeout_cancelled_twice_in_one_tick_stays_counted_twice() -> None:
    """Nothing is taken back that is not ours."""

    def twice(task: asyncio.Task[Any]) -> None:
        soon(task.cancel)
        soon(task.cancel)

    assert_cancelled(await end_of(Timeout(LONG)(forever), twice), cancelling=2)


@pytest.mark.every_loop
async def test_timeout_cancelled_again_while_the_callee_cleans_up() -> None:
    """A second cancellation by the caller ends the clean-up of the callee."""
    tasks: list[asyncio.Task[Any]] = []
    cleaning: list[str] = []

    async def tidy() -> None:
        soon(tasks[0].cancel)
        try:
            await forever()
        finally:
            cleaning.append("begun")
            soon(tasks[0].cancel)
            await forever()
            cleaning.append("ended")

    assert_cancelled(await end_of(Timeout(LONG)(tidy), tasks.append), cancelling=2)
    assert cleaning == ["begun"]


@pytest.mark.every_loop
@both_orders
async def test_timeout_callers_cancel_in_the_tick_of_the_expiry_goes_first(order: Order) -> None:
    """Whichever of the two came first, the callee sees one cancellation and the caller its own."""
    hang = Hanging()
    end = await end_of(Timeout(LIMIT)(hang), lambda task: in_tick_of_expiry(order, task.cancel))
    assert_cancelled(end, cancelling=1)
    assert hang.cancelled == 1


@pytest.mark.every_loop
async def test_timeout_callers_cancel_before_the_expiry_goes_first_though_clean_up_outlives_the_limit() -> None:
    """The limit ends the clean-up, and the caller still gets its cancellation."""

    async def tidy() -> None:
        try:
            await forever()
        finally:
            await forever()

    end = await end_of(Timeout(LIMIT)(tidy), lambda task: soon(task.cancel))
    assert_cancelled(end, cancelling=1)


@pytest.mark.every_loop
async def test_timeout_callers_cancel_during_the_clean_up_after_an_expiry_goes_first() -> None:
    """A caller's cancel during the clean-up after an expiry comes out, not the TimedOut."""
    tasks: list[asyncio.Task[Any]] = []

    async def tidy() -> None:
        try:
            await forever()
        finally:
            soon(tasks[0].cancel)
            await forever()

    end = await end_of(Timeout(LIMIT)(tidy), tasks.append)
    assert_cancelled(end, cancelling=1)


@pytest.mark.every_loop
async def test_timeout_callers_cancel_in_the_tick_of_the_result_gets_through() -> None:
    """The answer is there, but the caller has said stop."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait() -> int:
        return await future

    def poke(task: asyncio.Task[Any]) -> None:
        soon(future.set_result, 7)
        soon(task.cancel)

    assert_cancelled(await end_of(Timeout(LONG)(wait), poke), cancelling=1)


@pytest.mark.every_loop
@both_orders
async def test_timeout_result_in_the_tick_of_the_expiry_leaves_no_cancellation(order: Order) -> None:
    """asyncio drops a result that a cancelled task has not taken yet; what counts is that nothing is left over."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait() -> int:
        return await future

    def arrive() -> None:
        if not future.done():
            future.set_result(7)

    assert_timed_out(await end_of(Timeout(LIMIT)(wait), lambda task: in_tick_of_expiry(order, arrive)))


@pytest.mark.every_loop
@both_orders
async def test_timeout_error_in_the_tick_of_the_expiry_leaves_no_cancellation(order: Order) -> None:
    """The callee turns the cancellation into an error of its own, in that very tick."""
    error = OSError()

    async def failing() -> None:
        try:
            await forever()
        except CancelledError:
            raise error from None

    end = await end_of(Timeout(LIMIT)(failing), lambda task: in_tick_of_expiry(order, int))
    assert end == Ending(error, 0)


# -- a callee that swallows the cancellation ---------------------------------------------------------------------


@pytest.mark.every_loop
async def test_timeout_swallowed_cancel_returns_the_result() -> None:
    """Late, but a result; and nothing is left over for the caller's next await."""

    async def stubborn() -> int:
        with contextlib.suppress(CancelledError):
            await forever()
        return 7

    assert await end_of(Timeout(LIMIT)(stubborn)) == Ending(7, 0)


@pytest.mark.every_loop
async def test_timeout_swallowed_cancel_is_not_repeated() -> None:
    """An entry is cancelled once, however long the callee goes on."""
    cancelled = 0

    async def stubborn() -> int:
        nonlocal cancelled
        for _ in range(4):
            try:
                await asyncio.sleep(LIMIT)
            except CancelledError:
                cancelled += 1
        return 7

    assert await end_of(Timeout(LIMIT * 1.5)(stubborn)) == Ending(7, 0)
    assert cancelled == 1


@pytest.mark.every_loop
async def test_timeout_swallowed_cancel_leaves_the_callers_working() -> None:
    """A cancellation by the caller after that is the caller's."""
    tasks: list[asyncio.Task[Any]] = []

    async def stubborn() -> None:
        with contextlib.suppress(CancelledError):
            await forever()
        soon(tasks[0].cancel)
        await forever()

    assert_cancelled(await end_of(Timeout(LIMIT)(stubborn), tasks.append), cancelling=1)


@pytest.mark.every_loop
async def test_timeout_swallowed_inner_cancel_leaves_the_outer_timeout_working() -> None:
    """The inner expiry is gone, the outer one comes."""

    async def stubborn() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await forever()
        except CancelledError:
            if task.cancelling() > 1:  # the machine stood still until the outer was due, too
                raise
        await forever()

    guarded = Timeout(LIMIT * 2, name="outer")(Timeout(LIMIT, name="inner")(stubborn))
    assert assert_timed_out(await end_of(guarded)).policy == "outer"


# -- a task that is already cancelling ---------------------------------------------------------------------------


@pytest.mark.every_loop
@pytest.mark.parametrize("before", [1, 3])
async def test_timeout_in_a_cancelling_task_expires_as_ever(before: int) -> None:
    """A guarded call in the clean-up code of a cancelled task times out."""
    assert_timed_out(await end_of(Timeout(LIMIT)(forever), cancelling=before), cancelling=before)


@pytest.mark.every_loop
async def test_timeout_in_a_cancelling_task_succeeds_as_ever() -> None:
    """A guarded call in a cancelled task leaves its count of cancellations unchanged."""
    assert await end_of(Timeout(LONG)(answer), cancelling=2) == Ending(7, 2)


@pytest.mark.every_loop
async def test_timeout_in_a_cancelling_task_lets_a_new_cancel_through() -> None:
    """A new cancellation of a cancelled task gets through, because the count is then higher."""
    end = await end_of(Timeout(LONG)(forever), lambda task: soon(task.cancel), cancelling=1)
    assert_cancelled(end, cancelling=2)


@pytest.mark.every_loop
@both_orders
async def test_timeout_in_a_cancelling_task_a_cancel_in_the_tick_of_the_expiry_goes_first(order: Order) -> None:
    """A new cancel of a cancelled task takes precedence over an expiry in the same tick."""
    end = await end_of(Timeout(LIMIT)(forever), lambda task: in_tick_of_expiry(order, task.cancel), cancelling=1)
    assert_cancelled(end, cancelling=2)


# -- entries, not tasks ------------------------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_recursion_end_of_the_inner_call_leaves_the_outer_one_timed() -> None:
    """Both are in one queue, by one task."""

    @Timeout(LIMIT)
    async def countdown(depth: int) -> None:
        if depth:
            await countdown(depth - 1)
            await forever()

    assert_timed_out(await end_of(lambda: countdown(1)))


@pytest.mark.every_loop
async def test_recursion_expiry_at_the_bottom_leaves_no_cancellation() -> None:
    """Ten entries of one task expire at about one time; all are taken back."""
    hang = Hanging()

    @Timeout(LIMIT)
    async def dive(depth: int) -> None:
        await (dive(depth - 1) if depth else hang())

    assert_timed_out(await end_of(lambda: dive(10)))
    assert hang.cancelled == 1


@pytest.mark.every_loop
async def test_recursion_callers_cancel_gets_through_all_levels() -> None:
    """The caller's cancel gets through all levels of a recursion, also when limits expire in the same tick."""

    @Timeout(LIMIT)
    async def dive(depth: int) -> None:
        await (dive(depth - 1) if depth else forever())

    end = await end_of(lambda: dive(10), lambda task: in_tick_of_expiry("after", task.cancel))
    assert_cancelled(end, cancelling=1)


@pytest.mark.every_loop
async def test_recursion_success_at_every_level() -> None:
    """Nothing is timed any more when it is done."""

    @Timeout(LIMIT * 5)
    async def dive(depth: int) -> int:
        return await (dive(depth - 1) if depth else answer())

    async def and_stay() -> int:
        result = await dive(10)
        await asyncio.sleep(LIMIT * 6)
        return result

    assert await end_of(and_stay) == Ending(7, 0)


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
@pytest.mark.every_loop
async def test_nested_timeouts_of_one_length_expire_as_the_outer() -> None:
    """Of two nested Timeouts of one length the outer, which began first, expires, also in one tick."""
    guarded = Timeout(LIMIT, name="outer")(Timeout(LIMIT, name="inner")(forever))
    assert assert_timed_out(await end_of(guarded)).policy == "outer"


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
@pytest.mark.every_loop
@pytest.mark.parametrize(("outer", "inner", "expired"), [(LIMIT, LONG, "outer"), (LONG, LIMIT, "inner")])
async def test_nested_timeouts_of_two_lengths_expire_as_the_shorter(outer: float, inner: float, expired: str) -> None:
    """Each length has a queue of its own."""
    guarded = Timeout(outer, name="outer")(Timeout(inner, name="inner")(forever))
    assert assert_timed_out(await end_of(guarded)).policy == expired


@pytest.mark.every_loop
async def test_nested_timeout_inner_expiry_can_be_handled_inside_the_outer() -> None:
    """The outer goes on, and has its own end."""
    seen: list[str] = []

    @Timeout(LIMIT * 3, name="outer")
    async def careful() -> None:
        for _ in range(2):
            try:
                await Timeout(LIMIT / 4, name="inner")(forever)()
            except TimedOut as error:
                seen.append(error.policy)
        await forever()

    for _ in range(5):
        seen.clear()
        assert assert_timed_out(await end_of(careful)).policy == "outer"
        if len(seen) == 2:
            break  # else the machine stood still until the outer was due, too
    assert seen == ["inner", "inner"]


# -- others' cancellations: TaskGroup, asyncio.timeout, wait_for, gather -----------------------------------------


@pytest.mark.every_loop
async def test_task_group_inside_is_cancelled_at_the_limit() -> None:
    """All its children end before the caller hears of it."""
    hangs = [Hanging() for _ in range(3)]

    async def fan_out() -> None:
        async with asyncio.TaskGroup() as group:
            for hang in hangs:
                group.create_task(hang())

    assert_timed_out(await end_of(Timeout(LIMIT)(fan_out)))
    assert [hang.cancelled for hang in hangs] == [1, 1, 1]


@pytest.mark.every_loop
async def test_task_group_inside_failure_of_a_child_passes() -> None:
    """The failure of a child of a TaskGroup passes as the error of the group."""

    async def failing() -> None:
        await asyncio.sleep(0)
        raise OSError

    async def fan_out() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())
            await forever()

    end = await end_of(Timeout(LONG)(fan_out))
    assert isinstance(end.outcome, ExceptionGroup)
    assert (end.cancelling, end.left_over) == (0, False)


@pytest.mark.every_loop
@both_orders
async def test_task_group_inside_failure_of_a_child_in_the_tick_of_the_expiry(order: Order) -> None:
    """Of two cancellations of one task either may win, and no cancellation is left over."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def failing() -> None:
        await future

    async def fan_out() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())
            await forever()

    def fail() -> None:
        if not future.done():
            future.set_exception(OSError())

    end = await end_of(Timeout(LIMIT)(fan_out), lambda task: in_tick_of_expiry(order, fail))
    assert isinstance(end.outcome, TimedOut | ExceptionGroup)
    assert (end.cancelling, end.left_over) == (0, False)


@pytest.mark.every_loop
async def test_task_group_outside_gets_the_expiry_of_a_child() -> None:
    """A TaskGroup gets the TimedOut of a child, and cancels the guarded siblings, which let that through."""
    sibling = Hanging()
    ended: list[BaseException] = []

    async def watched() -> None:
        try:
            await Timeout(LONG)(sibling)()
        except BaseException as error:
            ended.append(error)
            raise

    async def fan_out() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(Timeout(LIMIT)(forever)())
            group.create_task(watched())
            await forever()

    end = await end_of(fan_out)
    assert isinstance(end.outcome, ExceptionGroup)
    assert [type(error) for error in end.outcome.exceptions] == [TimedOut]
    assert [type(error) for error in ended] == [CancelledError]
    assert (end.cancelling, end.left_over) == (0, False)


@pytest.mark.every_loop
async def test_task_group_outside_cancels_a_guarded_call_in_its_body() -> None:
    """What comes out is the child's failure, not a `TimedOut`."""

    async def failing() -> None:
        await asyncio.sleep(0)
        raise OSError

    async def fan_out() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())
            await Timeout(LONG)(forever)()

    end = await end_of(fan_out)
    assert isinstance(end.outcome, ExceptionGroup)
    assert [type(error) for error in end.outcome.exceptions] == [OSError]
    assert (end.cancelling, end.left_over) == (0, False)


@pytest.mark.every_loop
async def test_asyncio_timeout_inside_stays_what_it_is() -> None:
    """The callee's own TimeoutError is none of ours."""

    async def impatient() -> None:
        async with asyncio.timeout(LIMIT):
            await forever()

    end = await end_of(Timeout(LONG)(impatient))
    assert type(end.outcome) is TimeoutError
    assert (end.cancelling, end.left_over) == (0, False)


@pytest.mark.every_loop
async def test_asyncio_timeout_inside_that_is_longer_lets_ours_through() -> None:
    """A longer asyncio.timeout inside a Timeout lets the cancellation through, which is not its own."""

    async def patient() -> None:
        async with asyncio.timeout(LONG):
            await forever()

    assert_timed_out(await end_of(Timeout(LIMIT)(patient)))


@pytest.mark.every_loop
async def test_asyncio_timeout_outside_that_is_shorter_gets_its_own() -> None:
    """Ours sees a cancellation that is not its own."""

    async def impatient() -> None:
        async with asyncio.timeout(LIMIT):
            await Timeout(LONG)(forever)()

    end = await end_of(impatient)
    assert type(end.outcome) is TimeoutError
    assert (end.cancelling, end.left_over) == (0, False)


@pytest.mark.every_loop
async def test_asyncio_timeout_outside_that_is_longer_lets_ours_through() -> None:
    """An outer asyncio.timeout that is longer lets our TimedOut through, and does not expire."""
    scopes: list[asyncio.Timeout] = []

    async def patient() -> None:
        async with asyncio.timeout(LONG) as scope:
            scopes.append(scope)
            await Timeout(LIMIT)(forever)()

    assert_timed_out(await end_of(patient))
    assert not scopes[0].expired()


@pytest.mark.virtual_time
@pytest.mark.parametrize("outside", ["ours", "asyncio's"])
async def test_asyncio_timeout_of_the_same_instant_the_outer_one_wins(outside: str) -> None:
    """Both timeouts expire, and the count of cancellations is right."""

    async def ours_inside() -> None:
        async with asyncio.timeout(LIMIT):
            await Timeout(LIMIT)(forever)()

    async def asyncios_inside() -> None:
        async with asyncio.timeout(LIMIT):
            await forever()

    end = await end_of(ours_inside if outside == "asyncio's" else Timeout(LIMIT)(asyncios_inside))
    assert type(end.outcome) is (TimedOut if outside == "ours" else TimeoutError)
    assert (end.cancelling, end.left_over) == (0, False)


@pytest.mark.every_loop
async def test_wait_for_outside_gets_its_own() -> None:
    """An outer `wait_for` that expires first raises its own TimeoutError."""
    hang = Hanging()
    end = await end_of(lambda: asyncio.wait_for(Timeout(LONG)(hang)(), LIMIT))
    assert type(end.outcome) is TimeoutError
    assert hang.cancelled == 1


@pytest.mark.every_loop
async def test_gather_inside_is_cancelled_at_the_limit() -> None:
    """At the limit gather is cancelled, with all of its children."""
    hangs = [Hanging() for _ in range(3)]

    async def fan_out() -> None:
        await asyncio.gather(*(hang() for hang in hangs))

    assert_timed_out(await end_of(Timeout(LIMIT)(fan_out)))
    await asyncio.sleep(0)
    assert [hang.cancelled for hang in hangs] == [1, 1, 1]


@pytest.mark.every_loop
async def test_child_task_inside_that_is_cancelled_by_somebody_is_no_expiry() -> None:
    """A CancelledError that is neither ours nor the caller's passes as it is."""
    child = asyncio.create_task(forever())

    async def wait() -> None:
        await child

    end = await end_of(Timeout(LONG)(wait), lambda task: soon(child.cancel))
    assert_cancelled(end, cancelling=0)


@pytest.mark.every_loop
async def test_block_form_accounts_as_a_call_does() -> None:
    """A guarded block takes its own cancellation back, and lets the caller's cancel through."""

    async def block(seconds: float) -> None:
        async for attempt in Pipeline(Timeout(seconds)).attempts():
            async with attempt:
                await forever()

    assert_timed_out(await end_of(lambda: block(LIMIT)))
    assert_cancelled(await end_of(lambda: block(LONG), lambda task: soon(task.cancel)), cancelling=1)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
async def test_eager_tasks_are_timed_too() -> None:
    """A task whose first step runs inside `create_task`."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    assert_timed_out(await end_of(Timeout(LIMIT)(forever)))
    assert await end_of(Timeout(LONG)(answer)) == Ending(7, 0)


# -- many at once ------------------------------------------------------------------------------------------------


def now() -> float:
    """The clock that limits are kept by."""
    loop = asyncio.get_running_loop()
    return loop.time() if isinstance(loop, VirtualLoop) else time.monotonic()


@pytest.mark.every_loop
async def test_many_timeouts_expire_in_order_and_none_is_lost_or_early() -> None:
    """One hundred of one length, which begin one after the other."""
    ended: list[int] = []
    timeout = Timeout(LIMIT)

    async def client(number: int) -> None:
        begin = now()
        with pytest.raises(TimedOut):
            await timeout(forever)()
        assert now() - begin >= LIMIT
        ended.append(number)

    tasks = []
    for number in range(100):
        tasks.append(asyncio.create_task(client(number)))
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    assert ended == list(range(100))


@pytest.mark.every_loop
async def test_many_timeouts_of_which_some_end_early_expire_none_of_those() -> None:
    """Calls leave the queue in any order, from its front, its middle and its end."""
    dice = random.Random(3)
    timeout = Timeout(LIMIT * 20)
    futures: list[asyncio.Future[int]] = [asyncio.get_running_loop().create_future() for _ in range(60)]

    @timeout
    async def wait(number: int) -> int:
        return await futures[number]

    tasks = [asyncio.create_task(wait(number)) for number in range(60)]
    early = dice.sample(range(60), 40)
    for number in early:
        await asyncio.sleep(0)
        futures[number].set_result(number)
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert {number for number in range(60) if outcomes[number] == number} == set(early)
    assert {type(outcome) for outcome in outcomes} == {int, TimedOut}


@pytest.mark.virtual_time
async def test_timer_of_a_call_that_ended_is_set_for_the_next_in_line() -> None:
    """Exactly for its time, not a length later."""
    timeout = Timeout(1)
    loop = asyncio.get_running_loop()
    ends: list[float] = []

    async def hang() -> None:
        with pytest.raises(TimedOut):
            await timeout(forever)()
        ends.append(loop.time())

    first = asyncio.create_task(timeout(asyncio.sleep)(0.5))
    await asyncio.sleep(0.25)
    second = asyncio.create_task(hang())
    await asyncio.sleep(0.5)
    third = asyncio.create_task(hang())
    await asyncio.gather(first, second, third)
    assert ends == [1.25, 1.75]


def test_one_instance_in_several_loops_in_several_threads_at_once() -> None:
    """Each loop has timers of its own, of whatever kind it is."""
    kinds = [asyncio.new_event_loop, uvloop.new_event_loop, VirtualLoop, asyncio.new_event_loop]
    together = threading.Barrier(len(kinds), timeout=10)
    timeout = Timeout(0.1)
    results: dict[int, list[Any]] = {}

    @timeout
    async def service(number: int) -> int:
        if number % 2:
            await forever()
        return number

    def work(at: int) -> None:
        async def main() -> list[Any]:
            together.wait()
            rounds: list[Any] = []
            for _ in range(2):
                async with asyncio.timeout(10):
                    rounds += await asyncio.gather(*map(service, range(20)), return_exceptions=True)
            return rounds

        with asyncio.Runner(loop_factory=kinds[at]) as runner:
            results[at] = runner.run(main())

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(kinds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    expected = [TimedOut if number % 2 else number for number in range(20)] * 2
    for at in range(len(kinds)):
        assert [type(each) if isinstance(each, Exception) else each for each in results[at]] == expected


# -- what is armed -----------------------------------------------------------------------------------------------


class Watched:
    """A loop that keeps the timers which are set on it."""

    def __init__(self) -> None:
        super().__init__()
        self._handles: dict[int, asyncio.TimerHandle] = {}

    def call_at(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        return self._keep(super().call_at(*args, **kwargs))  # type: ignore[misc]

    def call_later(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        return self._keep(super().call_later(*args, **kwargs))  # type: ignore[misc]

    def _keep(self, handle: asyncio.TimerHandle) -> asyncio.TimerHandle:
        self._handles[id(handle)] = handle
        return handle

    @property
    def armed(self) -> int:
        """The number of timers that were ever set."""
        return len(self._handles)

    @property
    def pending(self) -> int:
        """The number of timers that have not fired yet."""
        time_ = self.time()  # type: ignore[attr-defined]

        def still_to_fire(handle: asyncio.TimerHandle) -> bool:
            try:
                return not handle.cancelled() and handle.when() > time_
            except AttributeError:  # uvloop's, which has fired
                return False

        return sum(map(still_to_fire, self._handles.values()))


class WatchedAsyncio(Watched, asyncio.SelectorEventLoop):
    """The event loop of asyncio, with its timers counted."""


class WatchedUvloop(Watched, uvloop.Loop):
    """uvloop, whose clock counts milliseconds, with its timers counted."""


class WatchedVirtual(Watched, VirtualLoop):
    """The virtual event loop, with its timers counted."""


every_watched_loop = pytest.mark.parametrize("kind", [WatchedAsyncio, WatchedUvloop, WatchedVirtual])


def run_watched(kind: type[Any], main: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run `main(loop)` on a loop of that kind."""
    with asyncio.Runner(loop_factory=kind) as runner:
        runner.run(main(runner.get_loop()))


@every_watched_loop
def test_timer_is_shared_by_a_thousand_calls(kind: type[Any]) -> None:
    """A thousand calls arm one timer, once: that is what makes a Timeout cheap."""

    async def main(loop: Watched) -> None:
        guarded = Timeout(LONG)(answer)
        for _ in range(500):
            await guarded()
        await asyncio.gather(*(guarded() for _ in range(500)))
        assert loop.armed == 1

    run_watched(kind, main)


@every_watched_loop
def test_timer_is_gone_after_all_calls_have_ended(kind: type[Any]) -> None:
    """However they ended: the idle timer fires once more, and no other is armed."""

    async def main(loop: Watched) -> None:
        async def failing() -> None:
            raise OSError

        cancelled = asyncio.create_task(Timeout(LIMIT)(forever)())
        await asyncio.sleep(0)
        cancelled.cancel()
        for call in (answer, failing, forever):
            await asyncio.gather(Timeout(LIMIT)(call)(), Timeout(LIMIT * 1.5)(call)(), return_exceptions=True)
        await asyncio.gather(cancelled, return_exceptions=True)
        await asyncio.sleep(LIMIT * 3)
        assert loop.pending == 0
        armed = loop.armed
        await asyncio.sleep(LIMIT)
        assert loop.pending == 0
        assert loop.armed == armed + 1, "only the sleep's own"

    run_watched(kind, main)


@every_watched_loop
def test_timer_does_not_spin_when_the_next_is_due_within_a_tick_of_the_clock(kind: type[Any]) -> None:
    """uvloop rounds a wait below a millisecond to none: re-armed for that, a timer would fire thousands of times."""
    calls = 20

    async def main(loop: Watched) -> None:
        timeout = Timeout(LIMIT)
        tasks = []
        for _ in range(calls):
            tasks.append(asyncio.create_task(timeout(forever)()))
            await asyncio.sleep(0)
            await hold(0.0004)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in outcomes} == {TimedOut}
        assert loop.armed <= 4 * calls

    async def hold(seconds: float) -> None:
        held = asyncio.get_running_loop().create_future()
        soon(time.sleep, seconds)
        soon(held.set_result, None)
        await held

    run_watched(kind, main)


@every_watched_loop
@pytest.mark.parametrize("call", [answer, forever], ids=["success", "expiry"])
def test_timer_keeps_nothing_of_a_call_alive(kind: type[Any], call: Call) -> None:
    """Neither its task nor its arguments, although the timer stays armed."""

    class Argument:
        pass

    async def main(loop: Watched) -> None:
        async def take(argument: Argument) -> None:
            await call()

        argument = Argument()
        task = asyncio.create_task(Timeout(LIMIT)(take)(argument))
        references = [weakref.ref(argument), weakref.ref(task)]
        await asyncio.wait([task])
        task.exception()
        del argument, task
        await asyncio.sleep(0)
        gc.collect()
        assert [reference() for reference in references] == [None, None]

    run_watched(kind, main)


# -- loops that come and go --------------------------------------------------------------------------------------

KINDS = [asyncio.new_event_loop, uvloop.new_event_loop, VirtualLoop]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=["asyncio", "uvloop", "virtual"])


async def expire(timeout: Timeout) -> float:
    """Let it expire on the running loop; how long it took there."""
    begin = now()
    async with asyncio.timeout(10):
        with pytest.raises(TimedOut):
            await timeout(forever)()
    return now() - begin


@every_kind
def test_loop_closed_with_calls_inside_leaves_the_others_alone(kind: Callable[[], Any]) -> None:
    """The same instance goes on in the next loop, and the abandoned calls are collected without a word."""
    timeout = Timeout(LIMIT)
    bulkhead = Bulkhead(5)
    told: list[dict[str, Any]] = []

    async def begin() -> list[asyncio.Task[Any]]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        tasks = [asyncio.create_task(Pipeline(timeout, bulkhead).call(forever)) for _ in range(3)]
        await asyncio.sleep(0)
        return tasks

    loop = kind()
    abandoned = loop.run_until_complete(begin())
    assert bulkhead.snapshot()["in_use"] == 3
    loop.close()

    with contextlib.closing(kind()) as next_loop:
        assert next_loop.run_until_complete(expire(timeout)) >= LIMIT
    del loop, abandoned
    gc.collect()
    assert bulkhead.snapshot()["in_use"] == 0
    assert {context["message"] for context in told} <= {"Task was destroyed but it is pending!"}


def test_loops_that_alternate_in_one_thread_each_get_their_own_timers() -> None:
    """The thread's latest loop is not the one that runs."""
    timeout = Timeout(LIMIT)
    with contextlib.ExitStack() as stack:
        loops = [stack.enter_context(contextlib.closing(kind())) for kind in KINDS + KINDS[:1]]
        for _ in range(2):
            for loop in loops:
                assert loop.run_until_complete(expire(timeout)) >= LIMIT


@every_kind
def test_loop_that_was_left_in_the_middle_of_a_call_goes_on_with_it(kind: Callable[[], Any]) -> None:
    """Another loop ran and timed calls in the same thread meanwhile."""
    timeout = Timeout(LIMIT)

    async def begin() -> asyncio.Task[float]:
        task = asyncio.create_task(expire(timeout))
        await asyncio.sleep(0)
        return task

    with contextlib.closing(kind()) as first, contextlib.closing(kind()) as second:
        task = first.run_until_complete(begin())
        assert second.run_until_complete(expire(timeout)) >= LIMIT
        assert first.run_until_complete(task) >= LIMIT


@every_kind
def test_loops_of_threads_that_come_and_go_each_get_their_own_timers(kind: Callable[[], Any]) -> None:
    """A new thread may have the number of one that is gone."""
    timeout = Timeout(LIMIT)
    loops: list[Any] = []
    took: list[float] = []

    def work() -> None:
        loops.append(kind())
        took.append(loops[-1].run_until_complete(expire(timeout)))

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    took += [loop.run_until_complete(expire(timeout)) for loop in loops]
    for loop in loops:
        loop.close()
    assert len(took) == 6
    assert min(took) >= LIMIT


class Ring:
    """A timer that records when it fires."""

    def __init__(self, at: float, runtime: AsyncioRuntime) -> None:
        self.at = at
        self.runtime = runtime
        self.rung: list[float] = []

    def fire(self) -> None:
        self.rung.append(self.runtime.now())


def test_timers_of_moments_fire_at_them_unless_taken_out() -> None:
    """Timers fire at their moments unless removed, in whatever order they came, before and after the shared timer has
    fired."""

    async def main() -> None:
        runtime = running()
        assert runtime is not None
        begin = runtime.now()
        third, first, gone = (Ring(begin + after, runtime) for after in (3, 1, 2))
        for each in (third, first, gone):
            left = runtime.until(each)
        await asyncio.sleep(1.5)
        left.pop(gone)
        await asyncio.sleep(5)
        assert [each.rung for each in (first, gone, third)] == [[begin + 1], [], [begin + 3]]
        assert not any(timers.entries for timers in runtime.timers.values())

    virtual.run(main())


class Moving:
    """A limit whose moment moves twice, each time when it has come."""

    seconds = LIMIT / 5
    total = False

    def __init__(self, now: float) -> None:
        self.at = now + self.seconds
        self.moves = 2

    def strikes(self) -> bool:
        self.moves -= 1
        if self.moves < 0:
            return True
        self.at += self.seconds
        return False

    def expired(self, call: Any, waited: float) -> TimedOut:
        return TimedOut("too late")


@every_kind
def test_limit_that_moves_ends_its_call_at_its_last_moment(kind: Callable[[], Any]) -> None:
    """A limit that moves is called at each of its moments, ends its call at the last, and leaves nothing behind."""

    async def main() -> float:
        runtime = running()
        assert runtime is not None
        begin = runtime.now()
        limit = Moving(begin)
        with pytest.raises(TimedOut, match="too late"):
            await runtime.within(new_call(forever, (), {}, runtime), lambda call: forever(), limit)
        assert not any(timers.entries for timers in runtime.timers.values())
        assert limit.moves == -1
        return runtime.now() - begin

    with contextlib.closing(kind()) as loop:
        assert loop.run_until_complete(main()) >= 3 * Moving.seconds - 1e-9


async def test_limit_that_moves_to_a_moment_in_the_past_is_asked_again_at_once() -> None:
    """A busy event loop comes to it after that moment."""
    runtime = running()
    assert runtime is not None
    limit = Moving(runtime.now())
    limit.seconds = 1e-9
    with pytest.raises(TimedOut, match="too late"):
        await runtime.within(new_call(forever, (), {}, runtime), lambda call: forever(), limit)
    assert limit.moves == -1


def test_def_inside_a_running_loop_is_a_plain_call() -> None:
    """A guarded plain function in a coroutine blocks the loop, and runs on the runtime of threads."""

    @Pipeline(Timeout(LONG), Retry(attempts=2, wait=0))
    def plain() -> int:
        return 7

    async def main() -> int:
        return plain()

    assert asyncio.run(main()) == 7


def test_async_def_without_a_loop_is_refused() -> None:
    """A guarded async function without an event loop raises an error that says so."""
    coroutine = Timeout(LONG)(answer)()
    with pytest.raises(RuntimeError, match="needs a running asyncio or trio event loop"):
        coroutine.send(None)


# -- what goes wrong when a timer fires ------------------------------------------------------------------------------


class Refusing:
    """A task factory that refuses while `on`."""

    def __init__(self) -> None:
        self.on = False

    def __call__(self, loop: Any, coroutine: Any, **options: Any) -> Any:
        if self.on:
            raise RuntimeError("no more tasks")
        return asyncio.Task(coroutine, loop=loop, **options)


@pytest.mark.every_loop
@pytest.mark.parametrize("inline", [True, False])
async def test_hedge_whose_copy_cannot_begin_goes_on_with_the_first(inline: bool) -> None:
    """A hedge whose copy cannot begin has no straggler, and loses neither its timer nor others of the same length."""
    loop, factory = asyncio.get_running_loop(), Refusing()
    loop.set_task_factory(factory)  # type: ignore[arg-type]
    hedge, go = Hedge(LIMIT, inline=inline), asyncio.Event()

    async def fetch() -> int:
        factory.on = True
        loop.call_later(2 * LIMIT, go.set)
        await go.wait()
        return 7

    try:
        assert await hedge(fetch)() == 7
    finally:
        factory.on = False
    assert hedge.snapshot() == {"started": 0, "won": 0, "stragglers": 0}
    assert_timed_out(await end_of(Timeout(LIMIT)(forever)))
    loop.set_task_factory(None)


@pytest.mark.every_loop
@pytest.mark.parametrize("others", [0, 200], ids=["own timer", "heap"])
async def test_timer_that_raises_is_reported_and_takes_no_other_with_it(others: int) -> None:
    """When a timer raises, those due in the same tick fire, and so do later ones."""
    loop = asyncio.get_running_loop()
    runtime = running()
    assert runtime is not None
    kept = [runtime.after(LONG + number, Ringing()) for number in range(others)]
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    failing, later = Ringing(OSError()), Ringing()
    runtime.after(LIMIT, failing)
    runtime.after(LIMIT, later)
    await asyncio.wait_for(later.rang.wait(), 10)
    assert [context["exception"] for context in reported] == [failing.error]
    assert_timed_out(await end_of(Timeout(LIMIT)(forever)))
    assert len(kept) == others


@pytest.mark.virtual_time
async def test_timer_that_leaves_and_comes_back_fires_at_its_new_moment() -> None:
    """A timer that joins again with a later time fires then, also in the queue that many lengths share."""
    runtime = running()
    assert runtime is not None
    begin, kept = runtime.now(), [runtime.after(LONG + number, Ringing()) for number in range(200)]
    first, back = Ringing(), Ringing()
    runtime.after(1, first)
    left = runtime.after(2, back)
    await first.rang.wait()
    del left[back]
    runtime.after(3, back)
    await back.rang.wait()
    assert runtime.now() == begin + 4
    assert len(kept) == 200


@pytest.mark.virtual_time
@pytest.mark.parametrize("others", [0, 200], ids=["own timer", "heap"])
async def test_timers_fire_though_others_leave_in_the_midst_of_it(others: int) -> None:
    """Timers fire though others leave meanwhile, as when the coroutine of a call is collected and closed."""
    runtime = running()
    assert runtime is not None
    kept = [runtime.after(LONG + number, Ringing()) for number in range(others)]
    leaving, later = Ringing(), Ringing()

    class Meddling(Ringing):
        @property
        def at(self) -> float:  # type: ignore[override]
            waiting.pop(leaving, None)
            return self.moment

        @at.setter
        def at(self, moment: float) -> None:
            self.moment = moment

    meddling = Meddling()
    for timer in (leaving, meddling, later):
        waiting = runtime.after(1, timer)
    await asyncio.gather(meddling.rang.wait(), later.rang.wait())
    assert not leaving.rang.is_set()
    assert len(kept) == others


@pytest.mark.virtual_time
async def test_call_that_ends_before_its_deadline_is_forgotten() -> None:
    """The task of a call that ends before its deadline is not kept until then."""
    with deadline(1000):
        task = asyncio.create_task(Retry(attempts=2)(asyncio.sleep)(20))
    with deadline(10), pytest.raises(TimedOut):
        await Retry(attempts=2)(forever)()
    await task
    ended = weakref.ref(task)
    del task
    await asyncio.sleep(0)  # it is what this step was woken with
    gc.collect()
    assert ended() is None


class Ringing:
    """A timer that records its call, and can raise."""

    at: float

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.rang = asyncio.Event()

    def fire(self) -> None:
        self.rang.set()
        if self.error is not None:
            raise self.error


@pytest.mark.every_loop
async def test_lengths_without_number_share_one_timer() -> None:
    """Each Timeout still ends its own call, at its own time."""
    runtime = running()
    assert runtime is not None

    async def ends_first(seconds: float) -> float:
        with contextlib.suppress(TimedOut):
            await Timeout(seconds)(forever)()
        return seconds

    lengths = [LIMIT + number * 1e-4 for number in range(40)]
    for number in range(300):
        await Timeout(LONG + number)(answer)()
    assert len(runtime.timers) <= 101
    calls = [asyncio.ensure_future(ends_first(seconds)) for seconds in reversed(lengths)]
    ended = [await call for call in asyncio.as_completed(calls)]
    assert len(ended) == len(lengths)
    assert ended[0] == lengths[0] or not isinstance(asyncio.get_running_loop(), VirtualLoop)
