"""Policies around a block of code: the same policies act in the same way, in async and in plain code."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.lowlevel

from resilient import (
    Budget,
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Pipeline,
    PipelineClosed,
    Retry,
    TimedOut,
    Timeout,
    current_call,
    deadline,
)
from resilient.events import AttemptFailed, AttemptStarted, Queued
from resilient.runtime.inherited_deadline import inherited
from tests.worlds import WORLDS, VirtualWorld, World


def run_block(world: World, pipeline: Pipeline, body: Callable[[Any], Any]) -> Any:
    """Run `body(attempt)` as the block, in async or plain code. Returns the last result of `body`."""
    if not world.is_async:
        for attempt in pipeline.attempts():
            with attempt:
                result = body(attempt)
        return result

    async def main() -> Any:
        async for attempt in pipeline.attempts():
            async with attempt:
                result = body(attempt)
        return result

    return world.run(main)


def in_use(bulkhead: Bulkhead) -> int:
    return bulkhead.snapshot()["in_use"]


class Body:
    """A block that does what its script says: raises exceptions, returns the rest."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.numbers: list[int] = []

    def __call__(self, attempt: Any) -> Any:
        self.numbers.append(attempt.number)
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step


# -- retry ------------------------------------------------------------------------------------------------------------


def test_block_that_succeeds_runs_once(world: World) -> None:
    """One attempt, number 1, and the loop ends."""
    body = Body("fine")
    assert run_block(world, Pipeline(Retry(attempts=3)), body) == "fine"
    assert body.numbers == [1]


def test_block_that_fails_is_run_again(world: World) -> None:
    """Its error is swallowed while another attempt follows, and attempts are numbered from 1."""
    body = Body(OSError(), OSError(), "fine")
    assert run_block(world, Pipeline(Retry(attempts=3, wait=0.001)), body) == "fine"
    assert body.numbers == [1, 2, 3]


def test_block_whose_attempts_are_spent_raises_its_own_last_error(world: World) -> None:
    """The very object comes out, with a note of the attempts."""
    last = OSError("last")
    with pytest.raises(OSError, match="last") as caught:
        run_block(world, Pipeline(Retry(attempts=2, wait=0), name="blocks"), Body(OSError("first"), last))
    assert caught.value is last
    assert last.__notes__ == ["resilient: pipeline 'blocks' gave up after 2 attempts: attempts spent"]


def test_block_error_that_is_not_worth_repeating_comes_out_at_once(world: World) -> None:
    """A programming error in a block is raised after one attempt."""
    error = TypeError("mine")
    body = Body(error)
    with pytest.raises(TypeError, match="mine") as caught:
        run_block(world, Pipeline(Retry(attempts=3)), body)
    assert caught.value is error
    assert body.numbers == [1]


def test_block_result_is_classified_when_it_is_set(world: World) -> None:
    """The classifier gets `attempt.result`; the block is repeated as long as that is a failure."""
    answers = [503, 503, 200]

    def body(attempt: Any) -> int:
        attempt.result = answers.pop(0)
        return attempt.result

    pipeline = Pipeline(Retry(attempts=5, wait=0), classify=Classifier(results=lambda status: status >= 500))
    assert run_block(world, pipeline, body) == 200
    assert answers == []


def test_block_result_not_set_is_not_classified(world: World) -> None:
    """A block without a result is a success. A predicate of results is not called with None."""
    classified: list[Any] = []

    def is_failure(result: Any) -> bool:
        classified.append(result)
        return result.status >= 500  # type: ignore[no-any-return]

    def body(attempt: Any) -> None:
        if attempt.number == 1:
            raise OSError

    pipeline = Pipeline(
        Retry(attempts=3, wait=0, budget=Budget()),
        Bulkhead(5),
        CircuitBreaker(),
        classify=Classifier(results=is_failure),
    )
    run_block(world, pipeline, body)
    assert classified == []


def test_block_result_set_to_none_is_classified(world: World) -> None:
    """None is a result once it is set, and an attempt does not keep the result of the one before."""
    classified: list[Any] = []

    def is_failure(result: Any) -> bool:
        classified.append(result)
        return result is None

    def body(attempt: Any) -> None:
        if attempt.number == 1:
            attempt.result = None

    run_block(world, Pipeline(Retry(attempts=3, wait=0), classify=Classifier(results=is_failure)), body)
    assert classified == [None]


def test_block_whose_last_result_is_a_failure_ends_without_an_error(world: World) -> None:
    """When attempts are spent, the loop just ends, as a function returns its last result."""
    seen: list[int] = []

    def body(attempt: Any) -> None:
        seen.append(attempt.number)
        attempt.result = False

    run_block(world, Pipeline(Retry(attempts=2, wait=0), classify=Classifier(results=lambda ok: ok is False)), body)
    assert seen == [1, 2]


def test_block_in_mode_off_runs_once_unguarded(world: World) -> None:
    """While the pipeline is switched off, a block runs once, without policies."""
    pipeline = Pipeline(Retry(attempts=3, wait=0), Bulkhead(1))
    error = OSError()
    body = Body(error)
    with pipeline.switch("off"), pytest.raises(OSError) as caught:
        run_block(world, pipeline, body)
    assert caught.value is error
    assert body.numbers == [1]


# -- gates ------------------------------------------------------------------------------------------------------------


def test_block_holds_its_permit_while_it_runs(world: World) -> None:
    """The permit is taken before the block and released after it, however it ends."""
    bulkhead = Bulkhead(1)
    held: list[int] = []
    run_block(world, Pipeline(bulkhead), lambda attempt: held.append(in_use(bulkhead)))
    with pytest.raises(KeyError):
        run_block(world, Pipeline(bulkhead), Body(KeyError()))
    assert held == [1]
    assert in_use(bulkhead) == 0


def test_attempt_outside_its_loop_cannot_be_entered() -> None:
    """When the loop is gone, its permit is released, and its attempts cannot be entered."""
    bulkhead = Bulkhead(1)
    attempt = next(iter(Pipeline(bulkhead).attempts()))
    assert in_use(bulkhead) == 0
    with pytest.raises(RuntimeError, match="only in the loop that made it"):
        attempt.__enter__()


def test_breaker_learns_from_blocks(world: World) -> None:
    """An error of a block counts as a failure; an open circuit refuses the next block before it is entered."""
    pipeline = Pipeline(CircuitBreaker(fail_max=1, failure_rate=None))
    with pytest.raises(OSError):
        run_block(world, pipeline, Body(OSError()))
    body = Body("never")
    with pytest.raises(CircuitOpen):
        run_block(world, pipeline, body)
    assert body.numbers == []


def test_block_of_a_closed_pipeline_is_refused(world: World) -> None:
    """A closed pipeline refuses blocks, too."""
    pipeline = Pipeline(Retry())
    pipeline.close()
    with pytest.raises(PipelineClosed):
        run_block(world, pipeline, Body("never"))


def test_block_is_counted_as_in_flight(world: World) -> None:
    """A pipeline that is being closed waits for its blocks, too."""
    pipeline = Pipeline(Retry())
    seen: list[int] = []
    run_block(world, pipeline, lambda attempt: seen.append(pipeline.snapshot()["in_flight"]))
    assert seen == [1]
    assert pipeline.snapshot()["in_flight"] == 0


def test_block_in_nested_pipelines_passes_both(world: World) -> None:
    """Both pipelines guard the block if one is nested in the other."""
    bulkhead = Bulkhead(1)
    held: list[int] = []
    body = Body(OSError(), "fine")

    def watched(attempt: Any) -> Any:
        held.append(in_use(bulkhead))
        return body(attempt)

    assert run_block(world, Pipeline(Retry(attempts=2, wait=0), Pipeline(bulkhead)), watched) == "fine"
    assert held == [1, 1]
    assert in_use(bulkhead) == 0


def test_block_emits_events_under_its_name(world: World) -> None:
    """Events name a block like a function called "block", or by the name given to `attempts()`."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), name="p")
    seen: list[Any] = []
    pipeline.listen(seen.append)
    run_block(world, pipeline, Body(OSError(), "fine"))
    started = [event for event in seen if isinstance(event, AttemptStarted)]
    failed = [event for event in seen if isinstance(event, AttemptFailed)]
    assert [(event.function, event.attempt) for event in started] == [("block", 1), ("block", 2)]
    assert [(event.function, event.attempt, type(event.error)) for event in failed] == [("block", 1, OSError)]
    seen.clear()
    for attempt in pipeline.attempts("save"):
        with attempt:
            pass
    assert {event.function for event in seen} == {"save"}


@pytest.mark.parametrize(("name", "error"), [("", ValueError), (" ", ValueError), (7, TypeError)])
def test_block_with_a_bad_name_is_refused(name: Any, error: type[Exception]) -> None:
    """The name is checked by `attempts()` itself."""
    with pytest.raises(error, match="name must"):
        Pipeline(Retry()).attempts(name)


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_block_is_ended_by_a_timeout_and_run_again() -> None:
    """A Timeout inside Retry ends each attempt of the block; the next one begins."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), Timeout(0.02))
    numbers = []
    async for attempt in pipeline.attempts():
        async with attempt:
            numbers.append(attempt.number)
            if attempt.number == 1:
                await asyncio.sleep(60)
    assert numbers == [1, 2]
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


@pytest.mark.every_loop
async def test_block_that_is_timed_out_raises_timed_out() -> None:
    """Without a Retry, `TimedOut` is raised out of the block, and the task is not cancelled."""
    with pytest.raises(TimedOut) as caught:
        async for attempt in Pipeline(Timeout(0.02), name="p").attempts():
            async with attempt:
                await asyncio.sleep(60)
    assert (caught.value.pipeline, caught.value.seconds) == ("p", 0.02)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    await asyncio.sleep(0)


def test_block_is_ended_by_a_timeout_on_trio() -> None:
    """On trio a Timeout ends a block, too."""
    numbers = []

    async def main() -> None:
        async for attempt in Pipeline(Retry(attempts=2, wait=0), Timeout(0.02)).attempts():
            async with attempt:
                numbers.append(attempt.number)
                if attempt.number == 1:
                    await trio.sleep(60)

    trio.run(main)
    assert numbers == [1, 2]


@pytest.mark.virtual_time
async def test_block_waits_between_attempts() -> None:
    """The pause of a Retry lies between the end of one attempt and the beginning of the next."""
    loop = asyncio.get_running_loop()
    begun = []
    async for attempt in Pipeline(Retry(attempts=3, wait=10)).attempts():
        async with attempt:
            begun.append(loop.time())
            if attempt.number < 3:
                raise OSError
    assert begun == [0, 10, 20]


# -- between blocks ---------------------------------------------------------------------------------------------------

LIMIT, LONGER = 0.01, 0.02


@pytest.fixture(params=[world for world in WORLDS if world.is_async], ids=lambda kind: kind.name)
def loop(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each runtime that has an event loop."""
    made: World = request.param()
    yield made
    made.close()


@pytest.fixture
def virtual() -> Iterator[World]:
    """Virtual time, for tests whose outcome must not depend on how busy the machine is."""
    made = VirtualWorld()
    yield made
    made.close()


LIMITS: list[Any] = [
    [Timeout(LIMIT)],
    [Retry(2, wait=0), Timeout(LIMIT)],
    [Timeout(LIMIT), Retry(2, wait=0)],
    [Timeout(LIMIT), Pipeline(Retry(2, wait=0), Bulkhead(5))],
]


@pytest.mark.parametrize("policies", LIMITS, ids=["lone", "each attempt", "total", "nested"])
def test_code_before_the_first_block_has_no_limit(loop: World, policies: Any) -> None:
    """The Timeout begins with the first block. Code before it is neither cancelled nor counted."""

    async def main() -> str:
        async for attempt in Pipeline(*policies).attempts():
            await loop.sleep(LONGER)
            async with attempt:
                await loop.sleep(0)
                return "sent"
        raise AssertionError

    assert loop.run(main) == "sent"


def test_code_between_blocks_is_not_cancelled_by_the_next_attempt(loop: World) -> None:
    """The Timeout of an attempt begins when its block is entered."""

    async def main() -> list[int]:
        numbers = []
        async for attempt in Pipeline(Retry(3, wait=0), Timeout(LIMIT)).attempts():
            await loop.sleep(LONGER)
            async with attempt:
                numbers.append(attempt.number)
                await loop.sleep(0)
                if attempt.number < 3:
                    raise OSError
        return numbers

    assert loop.run(main) == [1, 2, 3]


@pytest.mark.parametrize("inherited", [False, True], ids=["total Timeout", "deadline"])
def test_limit_of_the_whole_that_passes_between_blocks_ends_the_next_one(virtual: World, inherited: bool) -> None:
    """The code between blocks runs to its end, and the next block is not entered."""
    did: list[str] = []
    pipeline = Pipeline(Retry(2, wait=0)) if inherited else Pipeline(Timeout(LIMIT), Retry(2, wait=0))

    async def main() -> None:
        with deadline(LIMIT) if inherited else contextlib.nullcontext():
            async for attempt in pipeline.attempts():
                if attempt.number > 1:
                    await virtual.sleep(LONGER)
                    did.append("between")
                async with attempt:
                    did.append("block")
                    raise OSError("first")

    with pytest.raises(TimedOut) as caught:
        virtual.run(main)
    assert did == ["block", "between"]
    assert isinstance(caught.value.__cause__, OSError)


def test_limit_of_the_whole_ends_a_later_block(virtual: World) -> None:
    """A total Timeout acts again when a later block is entered."""

    async def main() -> None:
        async for attempt in Pipeline(Timeout(LIMIT), Retry(2, wait=0)).attempts():
            async with attempt:
                if attempt.number > 1:
                    await virtual.sleep(60)
                raise OSError

    with pytest.raises(TimedOut):
        virtual.run(main)


def test_plain_limit_of_the_whole_that_passes_between_blocks_ends_the_next_one() -> None:
    """In plain code, too, the next block is not entered after the total limit."""
    did = []
    with pytest.raises(TimedOut):
        for attempt in Pipeline(Timeout(LIMIT), Retry(2, wait=0)).attempts():
            if attempt.number > 1:
                time.sleep(LONGER)
            with attempt:
                did.append(attempt.number)
                raise OSError
    assert did == [1]


@pytest.mark.parametrize("policies", LIMITS, ids=["lone", "each attempt", "total", "nested"])
@pytest.mark.parametrize("failures", [0, 1])
def test_attempts_that_are_kept_cancel_no_task(loop: World, policies: Any, failures: int) -> None:
    """After a `break`, in the first round or a later one, no Timeout of the loop cancels the task."""

    async def main() -> str:
        attempts = Pipeline(*policies).attempts()
        with contextlib.suppress(OSError, TimedOut):  # where there is no second attempt
            async for attempt in attempts:
                if attempt.number > failures:
                    break
                async with attempt:
                    raise OSError
        await loop.sleep(LONGER)
        return "slept"

    assert loop.run(main) == "slept"


def test_total_is_a_deadline_in_its_blocks_only(loop: World) -> None:
    """Calls between the blocks, and after a `break`, do not inherit the deadline of the loop."""

    async def main() -> list[bool]:
        seen = []
        attempts = Pipeline(Timeout(30), Retry(3, wait=0), Bulkhead(5)).attempts()
        async for attempt in attempts:
            seen.append(inherited() is not None)
            if attempt.number == 3:
                break
            async with attempt:
                seen.append(inherited() is not None)
                raise OSError
        return [*seen, inherited() is not None]

    assert loop.run(main) == [False, True, False, True, False, False]


def test_permit_is_taken_when_the_block_is_entered(world: World) -> None:
    """The permit is taken, or refused, by `with attempt`, not by code before it."""
    bulkhead = Bulkhead(1)
    pipeline = Pipeline(Retry(2, wait=0), bulkhead)
    free = []

    def before(attempt: Any) -> None:
        free.append(in_use(bulkhead))

    def body(attempt: Any) -> None:
        free.append(in_use(bulkhead))
        if attempt.number == 1:
            raise OSError

    if world.is_async:

        async def main() -> None:
            async for attempt in pipeline.attempts():
                before(attempt)
                async with attempt:
                    body(attempt)

        world.run(main)
    else:
        for attempt in pipeline.attempts():
            before(attempt)
            with attempt:
                body(attempt)
    assert free == [0, 1, 0, 1]


def test_block_inside_a_cancel_scope_of_its_user_nests_on_trio() -> None:
    """The pipeline's cancel scopes open and close with the block, inside those that the user opens in the loop."""

    async def main() -> list[int]:
        numbers = []
        async for attempt in Pipeline(Timeout(30), Retry(3, wait=0), Timeout(10)).attempts():
            with trio.move_on_after(5):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 0)
                    async with attempt:
                        numbers.append(attempt.number)
                        await trio.lowlevel.checkpoint()
                        if attempt.number < 3:
                            raise OSError
        return numbers

    assert trio.run(main) == [1, 2, 3]


# -- exit stacks ------------------------------------------------------------------------------------------------------


def test_block_that_an_exit_stack_entered_belongs_to_the_function_that_fills_it(world: World) -> None:
    """The function that fills the exit stack is inside the block; no other function is."""
    outer, inner = Pipeline(Retry(2, wait=0), name="outer"), Retry(3, wait=0, nested="once")
    seen: list[Any] = []
    tries: list[int] = []

    def looks() -> None:
        seen.append(current_call())

    def look(attempt: Any) -> None:
        looks()
        call = current_call()
        assert call is not None
        assert call.pipeline == "outer"

    if world.is_async:

        @inner
        async def unrelated() -> None:
            tries.append(1)
            raise ConnectionError

        async def elsewhere() -> None:
            for _ in range(20):
                with pytest.raises(ConnectionError):
                    await unrelated()

        async def main() -> None:
            async for attempt in outer.attempts():
                async with contextlib.AsyncExitStack() as stack:
                    await stack.enter_async_context(attempt)
                    look(attempt)
                    if world.name != "trio":
                        await asyncio.create_task(elsewhere())
            looks()

        world.run(main)
        assert len(tries) in (0, 60)
    else:
        for attempt in outer.attempts():
            with contextlib.ExitStack() as stack:
                stack.enter_context(attempt)
                look(attempt)
        looks()
    assert [call and call.pipeline for call in seen] == ["outer", None]


def test_block_that_a_function_entered_and_left_open_belongs_to_no_other_function() -> None:
    """If the function that entered a block has returned, no other function is taken to be inside the block."""
    pipeline = Pipeline(Retry(2, wait=0), name="p")
    stack = contextlib.ExitStack()

    def fill(attempt: Any) -> None:
        stack.enter_context(attempt)

    def other() -> Any:
        return current_call()

    for attempt in pipeline.attempts():
        fill(attempt)
        assert [other() for _ in range(5)] == [None] * 5
        stack.close()


# -- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_block_cancelled_inside_lets_the_cancellation_through() -> None:
    """A cancellation by the caller is neither classified nor repeated, and the permit is released."""
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(fail_max=1, failure_rate=None)
    entered, numbers = asyncio.Event(), []

    async def work() -> None:
        pipeline = Pipeline(Timeout(60), Retry(attempts=3, wait=0), bulkhead, breaker, Timeout(15))
        async for attempt in pipeline.attempts():
            async with attempt:
                numbers.append(attempt.number)
                entered.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert numbers == [1]
    assert (in_use(bulkhead), breaker.state) == (0, "closed")


@pytest.mark.every_loop
async def test_block_cancelled_between_attempts_lets_the_cancellation_through() -> None:
    """A cancellation during the pause before the next attempt gets through, too."""
    bulkhead = Bulkhead(1)
    failed, numbers = asyncio.Event(), []

    async def work() -> None:
        pipeline = Pipeline(Retry(attempts=3, wait=60), bulkhead)
        pipeline.listen(lambda event: failed.set() if isinstance(event, AttemptFailed) else None)
        async for attempt in pipeline.attempts():
            async with attempt:
                numbers.append(attempt.number)
                raise OSError

    task = asyncio.create_task(work())
    await failed.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert numbers == [1]
    assert in_use(bulkhead) == 0


@pytest.mark.every_loop
async def test_block_cancelled_in_a_queue_is_never_entered() -> None:
    """A block that is cancelled while it waits for its permit leaves the queue."""
    bulkhead = Bulkhead(1, queue=1)
    inside, in_line, leave, second_entered = asyncio.Event(), asyncio.Event(), asyncio.Event(), []
    pipeline = Pipeline(bulkhead)
    pipeline.listen(lambda event: in_line.set() if isinstance(event, Queued) else None)

    async def first() -> None:
        async for attempt in pipeline.attempts():
            async with attempt:
                inside.set()
                await leave.wait()

    async def second() -> None:
        async for attempt in pipeline.attempts():
            async with attempt:
                second_entered.append(True)

    holder = asyncio.create_task(first())
    await inside.wait()
    queued = asyncio.create_task(second())
    await in_line.wait()
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    leave.set()
    await holder
    assert second_entered == []
    assert (in_use(bulkhead), bulkhead.snapshot()["queued"]) == (0, 0)


def test_block_cancelled_on_trio_lets_the_cancellation_through() -> None:
    """Cancel scopes of trio work across a block."""
    bulkhead = Bulkhead(1)
    numbers = []

    async def main() -> bool:
        with trio.CancelScope() as scope:
            async for attempt in Pipeline(Timeout(60), Retry(attempts=3, wait=0), bulkhead).attempts():
                async with attempt:
                    numbers.append(attempt.number)
                    scope.cancel()
                    await trio.sleep(60)
        return scope.cancelled_caught

    assert trio.run(main)
    assert numbers == [1]
    assert in_use(bulkhead) == 0


# -- leaving early ----------------------------------------------------------------------------------------------------


async def test_async_block_left_by_break_is_a_success() -> None:
    """`break` in the block is the end of a successful attempt: the permit is released, and nothing is repeated."""
    bulkhead, numbers = Bulkhead(1), []
    async for attempt in Pipeline(Retry(attempts=3), bulkhead).attempts():
        async with attempt:
            numbers.append(attempt.number)
            break
    assert numbers == [1]
    assert in_use(bulkhead) == 0


def test_plain_block_left_by_break_is_a_success() -> None:
    """In plain code, too, `break` in the block is a success."""
    bulkhead, numbers = Bulkhead(1), []
    for attempt in Pipeline(Retry(attempts=3), bulkhead).attempts():
        with attempt:
            numbers.append(attempt.number)
            break
    assert numbers == [1]
    assert in_use(bulkhead) == 0


async def test_async_block_left_by_return_is_a_success() -> None:
    """`return` in the block returns from the function, through the policies."""
    bulkhead = Bulkhead(1)

    async def fetch() -> str | None:
        async for attempt in Pipeline(Retry(attempts=3, wait=0), bulkhead).attempts():
            async with attempt:
                if attempt.number == 1:
                    raise OSError
                return "returned"
        return None

    assert await fetch() == "returned"
    assert in_use(bulkhead) == 0


def test_plain_block_left_by_return_is_a_success() -> None:
    """In plain code, too, `return` in the block is a success."""
    bulkhead = Bulkhead(1)

    def fetch() -> str | None:
        for attempt in Pipeline(Retry(attempts=3, wait=0), bulkhead).attempts():
            with attempt:
                if attempt.number == 1:
                    raise OSError
                return "returned"
        return None

    assert fetch() == "returned"
    assert in_use(bulkhead) == 0


@pytest.mark.every_loop
async def test_async_block_never_entered_releases_its_permit() -> None:
    """A loop that is left before `async with` holds no permit when it is gone."""
    bulkhead = Bulkhead(1)
    async for _ in Pipeline(Timeout(5), bulkhead).attempts():
        break
    assert in_use(bulkhead) == 0


def test_plain_block_broken_out_of_after_a_failure_releases_its_permit() -> None:
    """A loop that is left after a failed attempt holds no permit for the next one."""
    bulkhead = Bulkhead(1)
    for attempt in Pipeline(Retry(attempts=3, wait=0), bulkhead).attempts():
        with attempt:
            raise OSError
        break
    assert in_use(bulkhead) == 0


# -- wrong use --------------------------------------------------------------------------------------------------------


async def test_async_attempt_not_entered_is_refused_in_the_next_round() -> None:
    """A loop body without `async with` would run unguarded: the second round raises, and the permit is released."""
    bulkhead, rounds = Bulkhead(1), 0
    with pytest.raises(RuntimeError, match="was not entered: write `with attempt:` in the loop"):
        async for _ in Pipeline(Retry(), bulkhead).attempts():
            rounds += 1
    assert rounds == 1
    assert in_use(bulkhead) == 0


def test_plain_attempt_not_entered_is_refused_in_the_next_round() -> None:
    """In plain code, too, a loop body without `with` is refused."""
    bulkhead, rounds = Bulkhead(1), 0
    with pytest.raises(RuntimeError, match="was not entered: write `with attempt:` in the loop"):
        for _ in Pipeline(Retry(), bulkhead).attempts():
            rounds += 1
    assert rounds == 1
    assert in_use(bulkhead) == 0


def test_attempt_entered_twice_is_refused() -> None:
    """An attempt guards one run of the block."""
    for attempt in Pipeline(Retry()).attempts():
        with attempt:
            pass
        with pytest.raises(RuntimeError, match="entered once"):
            attempt.__enter__()


def test_attempt_inside_itself_is_refused() -> None:
    """An attempt that is entered again inside its block raises."""
    for attempt in Pipeline(Retry(attempts=1)).attempts():
        with pytest.raises(RuntimeError, match="entered once"):
            with attempt, attempt:
                raise AssertionError("never here")


async def test_async_attempts_used_twice_are_refused() -> None:
    """One object serves one loop; a second loop over it would silently do nothing."""
    attempts = Pipeline(Retry()).attempts()
    async for attempt in attempts:
        async with attempt:
            pass
    with pytest.raises(RuntimeError, match="used up: call attempts\\(\\) again"):
        async for _ in attempts:
            pass


def test_plain_attempts_used_twice_are_refused() -> None:
    """In plain code, too, one object serves one loop."""
    attempts = Pipeline(Retry()).attempts()
    for attempt in attempts:
        with attempt:
            pass
    with pytest.raises(RuntimeError, match="used up: call attempts\\(\\) again"):
        for _ in attempts:
            pass


async def test_plain_with_in_an_async_loop_is_refused() -> None:
    """It could not wait for the next attempt. No permit is taken, and the block is not entered."""
    bulkhead, entered = Bulkhead(1), []
    with pytest.raises(RuntimeError, match="write `async with attempt:` in a loop of `async for attempt in"):
        async for attempt in Pipeline(bulkhead, Retry(attempts=2)).attempts():
            with attempt:
                entered.append(1)
    assert not entered
    assert bulkhead.snapshot()["in_use"] == 0


async def test_plain_loop_in_an_async_def_is_refused() -> None:
    """It would block the event loop while it waits, and no Timeout could end its block. So it is in a generator."""
    pipeline = Pipeline(Retry(attempts=2), Timeout(1))

    async def generator() -> Any:
        for attempt in pipeline.attempts():
            with attempt:
                yield attempt

    with pytest.raises(RuntimeError, match="in an `async def` write"):
        for attempt in pipeline.attempts():
            with attempt:
                await asyncio.sleep(1)
    with pytest.raises(RuntimeError, match="in an `async def` write"):
        await anext(generator())


async def test_plain_loop_in_a_plain_function_is_fine_in_the_thread_of_a_loop() -> None:
    """A plain function that a coroutine calls may have a plain loop."""

    def work() -> list[int]:
        numbers = []
        for attempt in Pipeline(Retry(attempts=2, wait=0)).attempts():
            with attempt:
                numbers.append(attempt.number)
                if attempt.number == 1:
                    raise OSError
        return numbers

    assert work() == [1, 2]


def test_async_with_in_a_plain_loop_is_refused() -> None:
    """`async with` needs a loop of `async for`."""
    attempts = Pipeline(Retry(attempts=2)).attempts()
    attempt = next(iter(attempts))

    async def enter() -> None:
        async with attempt:
            pass

    with pytest.raises(RuntimeError, match="write `with attempt:` in a loop of `for attempt in"):
        asyncio.run(enter())


# -- several at once --------------------------------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_blocks_of_several_tasks_share_the_state_of_their_policies() -> None:
    """Blocks queue for the permits of one bulkhead, as calls do."""
    pipeline = Pipeline(Bulkhead(2, queue=10))
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        async for attempt in pipeline.attempts():
            async with attempt:
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.002)
                running -= 1

    await asyncio.gather(*(work() for _ in range(8)))
    assert most == 2


def test_blocks_of_several_threads_share_the_state_of_their_policies() -> None:
    """Blocks in threads queue for the permits of one bulkhead, too."""
    pipeline = Pipeline(Bulkhead(2, queue=10))
    lock, running, most = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=5)

    def work() -> None:
        nonlocal running, most
        for attempt in pipeline.attempts():
            with attempt:
                with lock:
                    running += 1
                    most = max(most, running)
                both.wait()  # so two are inside together
                with lock:
                    running -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2
    assert pipeline.snapshot()["policies"][0]["in_use"] == 0


def test_block_sees_context_variables_set_in_it(world: World) -> None:
    """The block runs in its caller's context, so context variables set in it stay."""
    import contextvars

    variable = contextvars.ContextVar("variable", default="before")
    seen = []

    def body(attempt: Any) -> None:
        variable.set(f"attempt {attempt.number}")

    if world.is_async:

        async def main() -> None:
            async for attempt in Pipeline(Timeout(5)).attempts():
                async with attempt:
                    body(attempt)
            seen.append(variable.get())

        world.run(main)
    else:
        for attempt in Pipeline(Timeout(5)).attempts():
            with attempt:
                body(attempt)
        seen.append(variable.get())
    assert seen == ["attempt 1"]
