"""Timeout(abandon=True): the caller goes, the work runs on; and Timeout(thread=True), which can only leave it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    Pipeline,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    current_call,
    deadline,
    remaining,
)
from resilient.errors import reason_of
from resilient.events import AbandonedEnded, CallRejected, CallTimedOut
from resilient.testing import record
from tests.worlds import Hang, Until, World

LIMIT = 0.02
LONG = 60.0


def abandon(world: World, seconds: float = LIMIT, **options: Any) -> Timeout:
    """A Timeout that abandons its work in this world: in plain code with a thread."""
    return Timeout(seconds, abandon=True, thread=not world.is_async, **options)


def then_close(world: World, pipeline: Pipeline, fn: Callable[..., Any]) -> Any:
    """The outcome of a call, after which the pipeline is closed."""
    if not world.is_async:
        outcome = world.outcome(pipeline(fn))
        pipeline.close()
        return outcome.value if outcome.error is None else outcome.error

    async def main() -> Any:
        try:
            result: Any = await pipeline(fn)()
        except Exception as error:
            result = error
        await pipeline.aclose()
        return result

    return world.run(main)


# -- in time -----------------------------------------------------------------------------------------------------


def test_abandon_answer_in_time_is_returned(world: World) -> None:
    """Work that ends in time returns its result; nothing is abandoned, and no event is emitted."""
    policy = abandon(world, LONG)
    pipeline = Pipeline(policy)
    recorder = record(pipeline)
    dependency = world.dependency(7)
    assert world.call(pipeline(dependency.fn), 1, key="value") == 7
    assert dependency.arguments == [((1,), {"key": "value"})]
    assert recorder.of(AbandonedEnded) == []
    assert policy.snapshot() == {"abandoned": 0}


def test_abandon_error_in_time_is_raised_itself(world: World) -> None:
    """Work that fails in time raises the same error object."""
    error = TimeoutError("of the callee")
    assert world.outcome(abandon(world, LONG)(world.dependency(error).fn)).error is error


def test_abandon_work_in_time_writes_into_the_callers_context(world: World) -> None:
    """Context variables that the work sets in time are set in the caller."""
    written: contextvars.ContextVar[str] = contextvars.ContextVar("written")

    if world.is_async:

        async def work() -> None:
            written.set("by the work")

        async def main() -> str:
            await Timeout(LONG, abandon=True)(work)()
            return written.get()

        assert world.run(main) == "by the work"
    else:

        def plain() -> None:
            written.set("by the work")

        def main_def() -> str:
            Timeout(LONG, abandon=True, thread=True)(plain)()
            return written.get()

        assert contextvars.copy_context().run(main_def) == "by the work"


# -- too late ----------------------------------------------------------------------------------------------------


def test_abandon_at_the_limit_the_caller_goes_and_the_work_runs_on(world: World) -> None:
    """The caller gets TimedOut; the work goes on to its end, which is an event, and for which closing waits."""
    pipeline = Pipeline(abandon(world, name="patience"), name="users")
    recorder = record(pipeline)
    dependency = world.dependency(Until(lambda: recorder.of(CallTimedOut), "done"))
    error = then_close(world, pipeline, dependency.fn)

    assert isinstance(error, TimedOut)
    assert (error.seconds, error.policy, error.pipeline, error.evidence) == (LIMIT, "patience", "users", True)
    assert dependency.running == 0
    (ended,) = recorder.of(AbandonedEnded)
    assert (ended.pipeline, ended.policy, ended.error) == ("users", "patience", None)
    assert ended.elapsed >= LIMIT - 0.002
    recorder.assert_order(CallTimedOut, AbandonedEnded)


def test_abandon_error_of_the_work_goes_to_the_event(world: World) -> None:
    """An error of abandoned work is in the event AbandonedEnded only."""
    failure = OSError()
    pipeline = Pipeline(abandon(world))
    recorder = record(pipeline)
    dependency = world.dependency(Until(lambda: recorder.of(CallTimedOut), failure))
    assert isinstance(then_close(world, pipeline, dependency.fn), TimedOut)
    assert [event.error for event in recorder.of(AbandonedEnded)] == [failure]


@pytest.mark.every_loop
async def test_abandon_work_is_not_cancelled() -> None:
    """The work is not cancelled at the limit."""
    go = asyncio.Event()
    steps: list[str] = []

    async def commit() -> None:
        steps.append("begun")
        try:
            await go.wait()
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise
        steps.append("committed")

    policy = Timeout(LIMIT, abandon=True)
    pipeline = Pipeline(policy)
    with pytest.raises(TimedOut):
        await pipeline.call(commit)
    assert policy.snapshot() == {"abandoned": 1}
    go.set()
    await pipeline.aclose()
    assert steps == ["begun", "committed"]
    assert policy.snapshot() == {"abandoned": 0}


@pytest.mark.every_loop
async def test_abandon_cancelled_caller_goes_at_once_and_the_work_runs_on() -> None:
    """A cancelled caller gets its CancelledError at once; the end of the work is an event."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def commit() -> str:
        begun.set()
        await go.wait()
        return "committed"

    policy = Timeout(LONG, abandon=True)
    pipeline = Pipeline(policy)
    recorder = record(pipeline)
    task = asyncio.create_task(pipeline.call(commit))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1
    assert policy.snapshot() == {"abandoned": 1}
    go.set()
    await pipeline.aclose()
    assert [event.error for event in recorder.of(AbandonedEnded)] == [None]


class Response:
    """A result that must be closed, because it has a status."""

    status_code = 200

    def __init__(self) -> None:
        self.closed = 0

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.every_loop
async def test_abandon_result_that_no_caller_gets_is_closed() -> None:
    """A response of abandoned work is closed."""
    response, go = Response(), asyncio.Event()

    async def fetch() -> Response:
        await go.wait()
        return response

    pipeline = Pipeline(Timeout(LIMIT, abandon=True))
    with pytest.raises(TimedOut):
        await pipeline.call(fetch)
    go.set()
    await pipeline.aclose()
    assert response.closed == 1


@pytest.mark.virtual_time
async def test_abandon_work_that_ends_in_the_tick_of_the_callers_cancellation_is_told_and_closed() -> None:
    """The caller gets its CancelledError; the end of the work is an event, and its response is closed."""
    response, loop = Response(), asyncio.get_running_loop()
    answer: asyncio.Future[Response] = loop.create_future()

    async def fetch() -> Response:
        result = await answer
        loop.call_soon(task.cancel)  # before the caller has been woken with it
        return result

    policy = Timeout(LONG, abandon=True)
    pipeline = Pipeline(policy)
    recorder = record(pipeline)
    task = asyncio.create_task(pipeline.call(fetch))
    await asyncio.sleep(1)
    answer.set_result(response)
    with pytest.raises(asyncio.CancelledError):
        await task
    await pipeline.aclose()
    assert response.closed == 1
    assert [event.error for event in recorder.of(AbandonedEnded)] == [None]
    assert policy.snapshot() == {"abandoned": 0}


@pytest.mark.virtual_time
async def test_abandon_holds_the_permits_inside_until_the_work_has_ended() -> None:
    """Abandoned work holds the permit of a bulkhead inside, because the dependency is still working."""
    bulkhead = Bulkhead(1)
    pipeline = Pipeline(Timeout(1, abandon=True), bulkhead)
    guarded = pipeline(asyncio.sleep)
    with pytest.raises(TimedOut):
        await guarded(5)
    with pytest.raises(BulkheadFull):
        await guarded(0)
    await asyncio.sleep(4)
    assert bulkhead.snapshot()["in_use"] == 0
    await guarded(0)


@pytest.mark.virtual_time
async def test_abandon_with_too_many_left_behind_refuses() -> None:
    """Calls are refused before the function is called, until abandoned work has ended."""
    policy = Timeout(1, abandon=True, max_abandoned=2, name="patience")
    pipeline = Pipeline(policy, name="users")
    recorder = record(pipeline)
    guarded = pipeline(asyncio.sleep)
    for _ in range(2):
        with pytest.raises(TimedOut):
            await guarded(10)
    with pytest.raises(Rejected, match="2 calls that patience abandoned are still running") as caught:
        await guarded(0)
    assert (caught.value.pipeline, caught.value.policy) == ("users", "patience")
    refusals = recorder.of(CallRejected)
    assert [(event.policy, event.reason) for event in refusals] == [("patience", reason_of(caught.value))]
    await asyncio.sleep(10)
    await guarded(0)


@pytest.mark.virtual_time
async def test_abandon_closing_waits_for_all_that_was_left() -> None:
    """Closing the pipeline waits for all abandoned work."""
    loop = asyncio.get_running_loop()
    pipeline = Pipeline(Pipeline(Timeout(1, abandon=True)))
    guarded = pipeline(asyncio.sleep)
    for seconds in (5, 50):
        with pytest.raises(TimedOut):
            await guarded(seconds)
    await pipeline.aclose()
    assert loop.time() == 51


@pytest.mark.virtual_time
async def test_abandon_work_sees_its_call_and_has_no_deadline() -> None:
    """`current_call().remaining` in the work is the time until its caller stops waiting; `remaining()`, its own
    deadline, is None."""
    views: list[Any] = []

    async def work() -> None:
        views.append((current_call(), remaining()))

    pipeline = Pipeline(Timeout(8, abandon=True), Bulkhead(1), name="inner")
    await Pipeline(Retry(2), name="outer").call(pipeline(work))
    ((view, left),) = views
    assert (view.pipeline, view.outer.pipeline) == ("inner", "outer")
    assert (view.remaining, left) == (8, None)
    assert current_call() is None


@pytest.mark.virtual_time
@pytest.mark.parametrize("around", [None, 1])
@pytest.mark.parametrize(
    "policies",
    [
        lambda: [Timeout(1, abandon=True)],
        lambda: [Timeout(1, abandon=True), Bulkhead(10)],
        lambda: [Timeout(1, abandon=True), Retry(2)],
        lambda: [Timeout(1), Timeout(0.9, abandon=True)],
        lambda: [Timeout(5), Timeout(1, abandon=True), Bulkhead(10)],
    ],
    ids=["lone", "outside a gate", "outside a retry", "inside", "between"],
)
async def test_abandon_guarded_calls_in_the_work_are_not_cut(policies: Callable[[], Any], around: float | None) -> None:
    """Guarded calls in the work are ended neither by the limit at which it was abandoned, nor by one around that."""
    did: list[str] = []

    @Retry(3)
    async def step(name: str) -> None:
        await asyncio.sleep(2)
        did.append(name)

    async def commit() -> None:
        await step("one")
        await step("two")

    pipeline = Pipeline(*policies())
    with pytest.raises(TimedOut), deadline(around) if around else contextlib.nullcontext():
        await pipeline.call(commit)
    await pipeline.aclose()
    assert did == ["one", "two"]


@pytest.mark.virtual_time
async def test_abandon_limits_inside_the_work_hold() -> None:
    """A Timeout or a deadline inside the work ends it."""
    pipeline = Pipeline(Timeout(1, abandon=True), Timeout(0.5))
    left: list[Any] = []

    async def work() -> None:
        left.append(remaining())
        await asyncio.sleep(9)

    with pytest.raises(TimedOut):
        await pipeline.call(work)
    assert left == [0.5]


@pytest.mark.virtual_time
async def test_abandon_retries_go_on_when_the_caller_has_gone() -> None:
    """A Retry inside goes on after the limit, because the caller's deadline does not limit it."""
    pipeline = Pipeline(Timeout(1, abandon=True), Retry(3, wait=0.1))
    calls: list[float] = []

    async def work() -> None:
        calls.append(asyncio.get_running_loop().time())
        await asyncio.sleep(2)
        raise OSError

    with pytest.raises(TimedOut):
        await pipeline.call(work)
    await pipeline.aclose()
    assert calls == pytest.approx([0, 2.1, 4.2])


@pytest.mark.virtual_time
async def test_abandon_leaves_the_callers_deadline_to_the_caller() -> None:
    """The work's context, which is merged back with its result, does not lift the caller's deadline."""
    with deadline(10):
        await Timeout(5, abandon=True)(asyncio.sleep)(1)
        assert remaining() == 9


@pytest.mark.virtual_time
@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")  # the inner limit is the longer one
async def test_abandoned_work_has_the_time_of_the_timeout_inside() -> None:
    """The work, and guarded calls in it, have the time of a Timeout inside, not the limit at which it was abandoned."""
    told: list[float | None] = []

    @Retry(attempts=2, wait=0)
    async def part() -> None:
        told.append(remaining())
        await asyncio.sleep(0.8)
        told.append(remaining())

    with pytest.raises(TimedOut):
        await Pipeline(Timeout(0.5, abandon=True), Timeout(1), Retry(attempts=2, wait=0)).call(part)
    await asyncio.sleep(1)
    assert told == pytest.approx([1, 0.2])


@pytest.mark.virtual_time
async def test_abandon_inherited_deadline_ends_the_wait_and_not_the_work() -> None:
    """An inherited deadline ends the caller's wait; the work goes on."""
    pipeline = Pipeline(Timeout(50, abandon=True))
    recorder = record(pipeline)
    with deadline(2), pytest.raises(TimedOut) as caught:
        await pipeline.call(asyncio.sleep, 5)
    assert caught.value.policy == "deadline"
    await pipeline.aclose()
    assert [(event.error, event.elapsed) for event in recorder.of(AbandonedEnded)] == [(None, 5)]


@pytest.mark.virtual_time
async def test_abandon_expiry_opens_a_circuit_outside() -> None:
    """The TimedOut of abandoned work is a failure for a breaker outside."""
    breaker = CircuitBreaker(None, fail_max=1)
    pipeline = Pipeline(breaker, Timeout(1, abandon=True))
    with pytest.raises(TimedOut):
        await pipeline.call(asyncio.sleep, 5)
    assert breaker.snapshot()["state"] == "open"
    await pipeline.aclose()


@pytest.mark.virtual_time
async def test_abandon_work_that_was_left_teaches_a_breaker_inside_how_it_ended() -> None:
    """For a breaker inside, work that answers after its limit is a failure."""
    breaker = CircuitBreaker(None, fail_max=1)
    pipeline = Pipeline(Timeout(1, abandon=True), breaker)
    with pytest.raises(TimedOut):
        await pipeline.call(asyncio.sleep, 5)
    assert breaker.snapshot()["state"] == "closed"
    await pipeline.aclose()
    assert breaker.snapshot()["state"] == "open"


@pytest.mark.virtual_time
async def test_abandon_time_in_a_queue_is_no_evidence() -> None:
    """The dependency was not called, so the TimedOut is no evidence."""
    bulkhead = Bulkhead(1, queue=1)
    holder = asyncio.create_task(bulkhead(asyncio.sleep)(6))
    await asyncio.sleep(0)
    pipeline = Pipeline(Timeout(4, abandon=True), bulkhead)
    with pytest.raises(TimedOut) as caught:
        await pipeline.call(asyncio.sleep, 1)
    assert caught.value.evidence is False
    await holder
    await pipeline.aclose()


# -- in threads --------------------------------------------------------------------------------------------------


def test_thread_expiry_in_a_queue_is_no_evidence_in_any_run() -> None:
    """It is no evidence whichever of the two threads notices the limit first (an earlier version failed in every other
    run)."""
    over = threading.Event()
    bulkhead = Bulkhead(1, queue=50)
    inside = threading.Event()

    def hold() -> None:
        inside.set()
        over.wait(5)

    holder = threading.Thread(target=bulkhead(hold))
    holder.start()
    inside.wait(5)
    pipeline = Pipeline(Timeout(0.03, thread=True), bulkhead)
    guarded = pipeline(time.monotonic)
    evidence = []
    for _ in range(20):
        with pytest.raises(TimedOut) as caught:
            guarded()
        evidence.append(caught.value.evidence)
    over.set()
    holder.join()
    pipeline.close()
    assert sum(evidence) < 5  # a machine that stands still between a thread's begin and its queue makes one true
    assert (bulkhead.snapshot()["in_use"], bulkhead.snapshot()["queued"]) == (0, 0)


def test_thread_expiry_of_a_function_that_runs_is_evidence() -> None:
    """The function had the whole time, so the TimedOut is evidence, although other calls wait in a queue."""
    over = threading.Event()
    pipeline = Pipeline(Timeout(0.01, thread=True), Bulkhead(1, queue=1))
    with pytest.raises(TimedOut) as caught:
        pipeline.call(over.wait, 5)
    assert caught.value.evidence is True
    over.set()
    pipeline.close()


def test_thread_time_in_a_queue_inside_is_no_age_for_a_breaker_outside() -> None:
    """Time in a queue in the other thread does not count as slowness of the dependency."""
    breaker = CircuitBreaker(None, slow=0.05, slow_rate=0.5, min_calls=1, window_calls=4)
    bulkhead = Bulkhead(1, queue=1)
    inside = threading.Event()

    def hold() -> None:
        inside.set()
        time.sleep(0.1)

    holder = threading.Thread(target=bulkhead(hold))
    holder.start()
    inside.wait(5)
    queued = Pipeline(Timeout(5, thread=True), bulkhead)
    with pytest.warns(Warning, match="stands outside"):
        pipeline = Pipeline(breaker, queued)
    pipeline.call(time.monotonic)
    holder.join()
    assert (breaker.snapshot()["calls"], breaker.snapshot()["slow"]) == (1, 0)


def test_thread_that_was_left_is_counted_capped_and_waited_for() -> None:
    """A thread cannot be stopped: those that go on are counted, limited in number, and awaited at close."""
    over = threading.Event()
    policy = Timeout(0.01, thread=True, max_abandoned=2)
    pipeline = Pipeline(policy)
    recorder = record(pipeline)
    guarded = pipeline(over.wait)
    for _ in range(2):
        with pytest.raises(TimedOut):
            guarded(5)
    assert policy.snapshot() == {"abandoned": 2}
    with pytest.raises(Rejected):
        guarded(0)
    over.set()
    pipeline.close()
    assert policy.snapshot() == {"abandoned": 0}
    assert [event.error for event in recorder.of(AbandonedEnded)] == [None, None]


# -- what it cannot guard, and configuration ---------------------------------------------------------------------


def test_abandon_plain_def_needs_a_thread() -> None:
    """The TypeError says to write `thread=True`."""
    with pytest.raises(TypeError, match="a plain def can only run on in a thread of its own: say thread=True too"):
        Timeout(1, abandon=True)(print)


def test_abandon_block_is_refused() -> None:
    """A block is its caller's own code, and cannot go on without it."""
    pipeline = Pipeline(Timeout(1, abandon=True, thread=True))
    with pytest.raises(TypeError, match="cannot guard this"):
        for attempt in pipeline.attempts():
            with attempt:
                pass


async def test_abandon_async_block_is_refused() -> None:
    """An async block is its caller's own code, and cannot go on without it."""
    pipeline = Pipeline(Timeout(1, abandon=True))
    with pytest.raises(TypeError, match="a block cannot run on without its caller"):
        async for attempt in pipeline.attempts():
            async with attempt:
                pass


@pytest.mark.parametrize("flag", [1, "yes", None], ids=repr)
def test_abandon_that_is_no_flag_is_refused_with_its_value(flag: Any) -> None:
    """`abandon` must be True or False."""
    with pytest.raises(TypeError, match=f"abandon must be True or False, got {flag!r}"):
        Timeout(1, abandon=flag)


@pytest.mark.parametrize(("cap", "kind"), [(0, ValueError), (-1, ValueError), (True, TypeError), (1.5, TypeError)])
def test_abandon_impossible_cap_is_refused_with_its_value(cap: Any, kind: type[Exception]) -> None:
    """`max_abandoned` must be a whole number of at least 1."""
    with pytest.raises(kind, match=f"max_abandoned must .*got {cap!r}"):
        Timeout(1, abandon=True, max_abandoned=cap)


def test_abandon_describes_itself() -> None:
    """The `repr` names the seconds and the flags."""
    assert repr(Timeout(2, abandon=True)) == "Timeout(2 s, abandon)"
    assert repr(Timeout(2, abandon=True, thread=True)) == "Timeout(2 s, thread, abandon)"
    assert Timeout(2).snapshot() == {}


def test_abandon_hanging_work_is_left_behind_and_the_next_call_served(world: World) -> None:
    """The same Timeout answers the next call while abandoned work hangs."""
    guarded = abandon(world)(world.dependency(Hang(), 7).fn)
    assert isinstance(world.outcome(guarded).error, TimedOut)
    assert world.call(guarded) == 7
