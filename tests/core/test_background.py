"""Background calls: how they are taken, left, counted and closed, on each runtime."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilient import Bulkhead, Pipeline, TimedOut, Timeout
from resilient.core.background import BackgroundCall, Stragglers, _discarding, discard, is_own
from resilient.core.call import Call, new_call
from resilient.core.classify import Classifier
from resilient.core.context import PipelineContext
from resilient.core.result import CLOSING_SECONDS
from resilient.runtime import Runtime, current
from resilient.runtime.threads import THREADS
from tests.worlds import Hang, Slow, TrioWorld, World

LATER = 0.05


def call_of(fn: Callable[..., Any], *args: Any) -> Call:
    """A call of this runtime."""
    return new_call(fn, args, {}, current())


async def leaf(call: Call) -> Any:
    """A layer that calls the function."""
    result = call.fn(*call.args, **call.kwargs)
    return result if call.runtime is THREADS else await result


class ThreadStraggler:
    """A straggler in another thread."""

    runtime: Runtime = THREADS


class Race:
    """The caller of a BackgroundCall, which waits for it until it has `left`."""

    def __init__(self, runtime: Runtime) -> None:
        self.parking = runtime.park()
        self.left = False
        self.told = 0
        self.error: BaseException | None = None

    def ended(self, work: BackgroundCall) -> bool:
        """Called at the end of the work."""
        self.told += 1
        self.error = work.error
        self.parking.wake()
        return self.left


def started(fn: Callable[..., Any], stragglers: Stragglers | None = None) -> tuple[BackgroundCall, Race, Call]:
    """A background call that has begun."""
    call = call_of(fn)
    race = Race(call.runtime)
    work = BackgroundCall(call, leaf, PipelineContext("", Classifier()), stragglers or Stragglers(10), race.ended)
    work.run()
    return work, race, call


def run(world: World, main: Callable[[], Any]) -> Any:
    """Run a coroutine function in this world; in threads by `drive`."""
    if world.is_async:
        return world.run(main)
    try:
        main().send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a thread's coroutine suspended")


# -- what is taken -----------------------------------------------------------------------------------------------


def test_background_call_result_is_taken(world: World) -> None:
    """At its end, `ended` is called once, and `take` returns the result."""
    dependency = world.dependency(Slow(LATER, 7))

    async def main() -> Any:
        work, race, call = started(dependency.fn)
        await race.parking.wait(None, call)
        assert work.done
        assert race.told == 1
        return work.take()

    assert run(world, main) == 7


def test_background_call_error_is_raised_itself(world: World) -> None:
    """`take` raises the same error object, and drops the reference to it."""
    error = OSError()
    dependency = world.dependency(error)

    async def main() -> None:
        work, race, call = started(dependency.fn)
        await race.parking.wait(None, call)
        with pytest.raises(OSError) as caught:
            work.take()
        assert caught.value is error
        assert work.error is None

    run(world, main)


def test_background_call_works_on_a_fork_of_the_call(world: World) -> None:
    """Its time in queues shows in the caller's call only after `take`."""
    dependency = world.dependency(7)

    async def main() -> None:
        work, race, call = started(dependency.fn)
        assert work.call is not call
        work.call.waited = 3.0
        await race.parking.wait(None, call)
        assert call.waited == 0.0
        work.take()
        assert call.waited == 3.0

    run(world, main)


written: contextvars.ContextVar[str] = contextvars.ContextVar("written", default="nothing")


def test_background_call_has_a_context_of_its_own_that_is_merged_when_it_is_taken(world: World) -> None:
    """Context variables that it sets are set in the caller by `take`, and not before."""

    def plain() -> None:
        assert written.get() == "caller"
        written.set("work")

    async def coroutine() -> None:
        plain()

    async def main() -> list[str]:
        written.set("caller")
        work, race, call = started(coroutine if world.is_async else plain)
        await race.parking.wait(None, call)
        before = written.get()
        work.take()
        return [before, written.get()]

    assert contextvars.copy_context().run(run, world, main) == ["caller", "work"]


# -- what is left ------------------------------------------------------------------------------------------------


def test_background_call_straggler_is_counted_off_when_it_ends(world: World) -> None:
    """`leave` adds it to the stragglers, its end removes it, and `drain` waits for that."""
    dependency = world.dependency(Slow(LATER, 7))
    stragglers = Stragglers(1)

    async def main() -> None:
        work, race, call = started(dependency.fn, stragglers)
        race.left = True
        work.leave()
        assert stragglers.full
        await stragglers.drain(call.runtime)
        assert stragglers.count == 0
        assert not stragglers.full
        assert race.told == 1

    run(world, main)
    assert dependency.running == 0


def test_stragglers_drain_of_none_does_not_wait(world: World) -> None:
    """Without stragglers `drain` returns at once."""

    async def main() -> None:
        await Stragglers(1).drain(current())

    run(world, main)


def test_stragglers_drain_waits_for_the_last(world: World) -> None:
    """`drain` waits until the last of several stragglers has ended."""
    dependency = world.dependency(Slow(LATER, 1), Slow(LATER * 2, 2))
    stragglers = Stragglers(5)

    async def main() -> None:
        for _ in range(2):
            work, race, call = started(dependency.fn, stragglers)
            race.left = True
            work.leave()
        await stragglers.drain(call.runtime)

    run(world, main)
    assert (len(dependency.calls), dependency.running) == (2, 0)


def test_stragglers_of_another_thread_wake_those_who_drain_here(world: World) -> None:
    """Stragglers of all loops and threads count together, and each can end the wait of `drain`."""
    stragglers = Stragglers(5)
    work = ThreadStraggler()
    stragglers.add(work)

    def end() -> None:
        time.sleep(LATER)
        stragglers.remove(work)

    async def main() -> None:
        await stragglers.drain(current())

    if world.name == "virtual":  # has no other threads
        return
    thread = threading.Thread(target=end)
    thread.start()
    run(world, main)
    assert stragglers.count == 0
    thread.join()


@pytest.mark.every_loop
async def test_background_call_cancelled_before_it_began_is_counted_off_and_never_called() -> None:
    """A call that is cancelled before it begins ends with a CancelledError."""
    calls: list[int] = []

    async def fetch() -> None:
        calls.append(1)

    stragglers = Stragglers(5)
    work, race, call = started(fetch, stragglers)
    race.left = True
    work.leave()
    work.cancel()
    await stragglers.drain(call.runtime)
    assert calls == []
    assert work.done
    assert isinstance(work.error, asyncio.CancelledError)
    assert race.told == 1


def test_background_call_on_trio_cancelled_before_it_began_is_never_called() -> None:
    """In trio, where a cancelled task begins all the same, the function is not called either."""
    world = TrioWorld()
    dependency = world.dependency()
    stragglers = Stragglers(5)

    async def main() -> None:
        work, race, call = started(dependency.fn, stragglers)
        race.left = True
        work.leave()
        work.cancel()
        await stragglers.drain(call.runtime)

    world.run(main)
    assert (len(dependency.calls), stragglers.count) == (0, 0)


def test_background_call_cancelled_while_it_runs_is_counted_off(world: World) -> None:
    """On event loops, a running call that is cancelled is no straggler any more after its end."""
    if not world.is_async:  # a thread cannot be cancelled
        return
    dependency = world.dependency(Hang())
    stragglers = Stragglers(5)

    async def main() -> None:
        work, race, call = started(dependency.fn, stragglers)
        while not dependency.running:
            await world.sleep(0)
        race.left = True
        work.leave()
        work.cancel()
        await stragglers.drain(call.runtime)
        assert isinstance(race.error, call.runtime.cancelled)

    world.run(main)
    assert (len(dependency.calls), dependency.running) == (1, 0)


# -- what is closed ----------------------------------------------------------------------------------------------


class Closable:
    """A response that can be closed in one way and counts how often."""

    status_code = 200

    def __init__(self) -> None:
        self.closed: list[str] = []


class Both(Closable):
    """A response with `close` and `aclose`, as httpx's."""

    async def aclose(self) -> None:
        self.closed.append("aclose")

    def close(self) -> None:
        self.closed.append("close")


class Plain(Closable):
    """A response with a plain `close`, as sockets and files."""

    def close(self) -> None:
        self.closed.append("close")


class Awaited(Closable):
    """A response whose `close` is a coroutine function, as in other libraries."""

    async def close(self) -> None:
        self.closed.append("awaited close")


@pytest.mark.parametrize(
    ("kind", "how"), [(Both, ["aclose"]), (Plain, ["close"]), (Awaited, ["awaited close"])], ids=str
)
async def test_discard_closes_as_the_result_can(kind: type[Closable], how: list[str]) -> None:
    """`aclose` is called if there is one, else `close`, which may be awaitable."""
    result = kind()
    await discard(result, current())
    assert result.closed == how


def test_discard_in_a_thread_closes_without_awaiting() -> None:
    """In plain code `close` is called, although there is an `aclose`."""
    result = Both()
    with pytest.raises(StopIteration):
        discard(result, THREADS).send(None)
    assert result.closed == ["close"]


@pytest.mark.parametrize("result", [None, 7, "text", object(), {"close": 1}], ids=repr)
async def test_discard_leaves_alone_what_cannot_be_closed(result: object) -> None:
    """A result without a closing method is left alone."""
    await discard(result, current())


async def test_discard_does_not_call_what_is_no_function() -> None:
    """An attribute `close` that is a number is not called."""

    class Candle:
        close = 101.5

    await discard(Candle(), current())


async def test_discard_forgives_a_close_that_raises() -> None:
    """An error of the closing is logged and not raised."""

    class Broken:
        async def aclose(self) -> None:
            raise OSError

    await discard(Broken(), current())


async def test_discard_lets_a_cancellation_through() -> None:
    """A cancellation of the caller during the closing gets through."""

    class Slowly:
        async def aclose(self) -> None:
            await asyncio.sleep(60)

    task = asyncio.create_task(discard(Slowly(), current()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_discard_goes_on_when_its_caller_is_cancelled() -> None:
    """The closing goes on although its caller is cancelled twice."""
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slowly:
        async def aclose(self) -> None:
            begun.set()
            await may_end.wait()
            ended.set()

    task = asyncio.create_task(discard(Slowly(), current()))
    await begun.wait()
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_end.set()
    async with asyncio.timeout(10):
        await ended.wait()


@pytest.mark.virtual_time
async def test_discard_waits_for_a_second_at_the_most() -> None:
    """The caller waits for a closing that hangs for a second; it goes on as a straggler."""
    may_end, stragglers = asyncio.Event(), Stragglers(5)

    class Hanging:
        async def aclose(self) -> None:
            await may_end.wait()

    begin = asyncio.get_running_loop().time()
    await discard(Hanging(), current(), stragglers)
    assert asyncio.get_running_loop().time() - begin == CLOSING_SECONDS
    assert stragglers.count == 1
    may_end.set()
    await stragglers.drain(current())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin at once since Python 3.12")
async def test_discard_keeps_nothing_where_tasks_begin_at_once() -> None:
    """With eager tasks, whose work may have ended when the task is returned, no straggler stays."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    result = Both()
    await discard(result, current())
    assert result.closed == ["aclose"]
    assert _discarding.count == 0


class Session:
    """A result that can be closed, but may be shared with other calls."""

    def close(self) -> None: ...


@pytest.mark.parametrize("given", ["position", "name", "not"])
def test_result_that_the_call_was_given_is_not_its_own(given: str) -> None:
    """A result that is an argument of the call is not closed."""
    response = Both()
    call = call_of(print, *([response] if given == "position" else []))
    call.kwargs = {"response": response} if given == "name" else {}
    assert is_own(response, call, Classifier()) == (given == "not")


def test_session_is_not_closed_unless_the_classifier_says_so() -> None:
    """A session is closed only if `Classifier.closes` is overridden to say so."""

    class Closes(Classifier):
        def closes(self, result: object) -> bool:
            return isinstance(result, Session)

    call = call_of(print)
    assert not is_own(Session(), call, Classifier())
    assert is_own(Session(), call, Closes())
    assert not is_own(Both(), call, Closes())


def test_background_call_result_that_no_caller_waits_for_is_closed(world: World) -> None:
    """The result of a straggler is closed before it is removed from the stragglers."""
    result = Both()
    dependency = world.dependency(Slow(LATER, result))
    stragglers = Stragglers(5)

    async def main() -> None:
        work, race, call = started(dependency.fn, stragglers)
        race.left = True
        work.leave()
        await stragglers.drain(call.runtime)
        assert result.closed == [("aclose" if world.is_async else "close")]

    run(world, main)


def test_background_call_close_closes_a_result_that_was_waited_for_in_vain(world: World) -> None:
    """`close` closes a result in the background, as a straggler."""
    result = Both()
    dependency = world.dependency(result)
    stragglers = Stragglers(5)

    async def main() -> None:
        work, race, call = started(dependency.fn, stragglers)
        await race.parking.wait(None, call)
        assert result.closed == []
        work.close()
        await stragglers.drain(call.runtime)

    run(world, main)
    assert result.closed == [("aclose" if world.is_async else "close")]
    assert stragglers.count == 0


def test_work_on_a_closed_loop_is_left_to_the_garbage_collector() -> None:
    """A straggler of a closed loop never ends: closing the pipeline does not wait for it, and its permit comes back."""
    timeout, bulkhead = Timeout(0.001, abandon=True), Bulkhead(1)
    pipeline = Pipeline(timeout, bulkhead)
    loop = asyncio.new_event_loop()

    async def main() -> None:
        with pytest.raises(TimedOut):
            await pipeline(asyncio.Event().wait)()

    loop.run_until_complete(main())
    assert timeout.snapshot()["abandoned"] == 1
    logging.disable(logging.CRITICAL)  # asyncio logs of its task
    loop.close()
    del loop
    asyncio.run(asyncio.wait_for(pipeline.aclose(), 10))
    gc.collect()
    logging.disable(logging.NOTSET)
    assert (timeout.snapshot()["abandoned"], bulkhead.snapshot()["in_use"]) == (0, 0)
