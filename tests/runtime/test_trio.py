"""trio: the same policies on cancel scopes, on its mock clock, and woken from other threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import tenacity
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from resilient import Bulkhead, BulkheadFull, CircuitBreaker, CircuitOpen, Pipeline, Retry, TimedOut, Timeout
from resilient.events import Event, Queued, Waited

LIMIT = 0.02


def run_mocked(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run it with trio's mock clock, which jumps when nothing can run."""
    return trio.run(main, clock=MockClock(autojump_threshold=0))


def elapsed() -> float:
    """The seconds since the mock clock began."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    return clock.current_time()


def answers(*script: Any) -> tuple[Callable[[], Awaitable[Any]], list[float]]:
    """A function that follows a script of numbers (answers), exceptions, and `...` (hangs); and when it was called."""
    steps = iter(script)
    calls: list[float] = []

    async def fetch() -> Any:
        calls.append(trio.current_time())
        step = next(steps)
        await trio.lowlevel.checkpoint()
        if step is ...:
            await trio.sleep_forever()
        if isinstance(step, Exception):
            raise step
        return step

    return fetch, calls


# -- the four policies -------------------------------------------------------------------------------------------


def test_timeout_expires_at_its_time() -> None:
    """A Timeout expires at its limit, with all that its error says."""
    fetch, _ = answers(...)

    async def main() -> TimedOut:
        with pytest.raises(TimedOut) as caught:
            await Pipeline(Timeout(5, name="slow"), name="users").call(fetch)
        assert elapsed() == 5
        return caught.value

    error = run_mocked(main)
    assert (error.seconds, error.policy, error.pipeline, error.evidence) == (5, "slow", "users", True)


def test_timeout_result_and_error_pass() -> None:
    """Results and errors of the callee pass a Timeout unchanged."""
    error = trio.TooSlowError()
    fetch, _ = answers(7, error)

    async def main() -> None:
        guarded = Timeout(5)(fetch)
        assert await guarded() == 7
        with pytest.raises(trio.TooSlowError) as caught:
            await guarded()
        assert caught.value is error

    trio.run(main)


def test_timeout_swallowed_cancel_returns_the_result() -> None:
    """A callee that swallows its cancellation has its late result returned."""

    async def stubborn() -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        return 7

    async def main() -> None:
        assert await Timeout(5)(stubborn)() == 7
        assert elapsed() == 10
        await trio.sleep(1)

    run_mocked(main)


def test_retry_waits_on_trios_clock() -> None:
    """Ten minutes of backoff take no time on the mock clock of trio."""
    fetch, calls = answers(*(OSError() for _ in range(10)), 7)

    async def main() -> list[float]:
        assert await Retry(attempts=11, wait=60)(fetch)() == 7
        return [call - calls[0] for call in calls]

    assert run_mocked(main) == pytest.approx([60 * number for number in range(11)])


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_retry_starts_no_backoff_that_outlives_the_total() -> None:
    """The deadline is on the same clock."""
    error = OSError()
    fetch, calls = answers(OSError(), error)

    async def main() -> None:
        with pytest.raises(OSError) as caught:
            await Pipeline(Timeout(15), Retry(attempts=3, wait=tenacity.wait_fixed(10))).call(fetch)
        assert caught.value is error
        assert elapsed() == 10

    run_mocked(main)
    assert len(calls) == 2


def test_breaker_opens_and_recovers_on_trios_clock() -> None:
    """The break is over when that much time has passed there."""
    fetch, calls = answers(OSError(), OSError(), 7, 8)

    async def main() -> None:
        guarded = CircuitBreaker(None, fail_max=2, break_duration=30)(fetch)
        for _ in range(2):
            with pytest.raises(OSError):
                await guarded()
        with pytest.raises(CircuitOpen) as caught:
            await guarded()
        assert caught.value.retry_after is not None
        await trio.sleep(caught.value.retry_after)
        assert await guarded() == 7
        assert await guarded() == 8

    run_mocked(main)
    assert len(calls) == 4


def test_bulkhead_queues_in_order_and_refuses_the_rest() -> None:
    """Waiting calls get permits in the order in which they came; calls beyond the queue are refused."""
    served: list[int] = []

    async def main() -> None:
        bulkhead = Bulkhead(1, queue=2)

        @bulkhead
        async def serve(number: int) -> None:
            served.append(number)
            await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(serve, number)
                await wait_all_tasks_blocked()
            with pytest.raises(BulkheadFull):
                await serve(3)
        assert elapsed() == 3
        assert bulkhead.snapshot() == {"in_use": 0, "max_concurrent": 1, "queued": 0, "queue": 2}

    run_mocked(main)
    assert served == [0, 1, 2]


def test_bulkhead_queue_timeout_is_kept() -> None:
    """A wait in the queue ends at its timeout on the clock of trio."""

    async def main() -> None:
        bulkhead = Bulkhead(1, queue=1, queue_timeout=5)
        hang = bulkhead(trio.sleep_forever)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang)
            await wait_all_tasks_blocked()
            with pytest.raises(BulkheadFull, match="no permit within 5 s"):
                await hang()
            assert elapsed() == 5
            nursery.cancel_scope.cancel()
        assert bulkhead.snapshot()["in_use"] == 0

    run_mocked(main)


def test_stack_runs_a_whole_outage_on_the_mock_clock() -> None:
    """Attempts time out, the circuit opens, calls are refused, and after the break it closes: at exact times."""
    told: list[Event] = []
    healthy: list[bool] = []

    async def main() -> None:
        breaker = CircuitBreaker(None, fail_max=3, break_duration=60)
        pipeline = Pipeline(
            Timeout(20), Retry(attempts=3, wait=1), Bulkhead(2, queue=2), breaker, Timeout(4), name="stack"
        )
        pipeline.listen(told.append)

        @pipeline
        async def service() -> int:
            if not healthy:
                await trio.sleep_forever()
            return 7

        with pytest.raises(TimedOut) as caught:
            await service()
        assert caught.value.seconds == 4
        assert elapsed() == 3 * 4 + 2 * 1
        assert breaker.snapshot()["state"] == "open"
        with pytest.raises(CircuitOpen):
            await service()
        healthy.append(True)
        await trio.sleep(120)
        assert await service() == 7
        assert breaker.snapshot()["state"] == "closed"

    run_mocked(main)
    assert [event.seconds for event in told if isinstance(event, Waited)] == [1, 1]
    assert [event.at for event in told if isinstance(event, Waited)] == [5, 10]


# -- cancel scopes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policies",
    [
        pytest.param(lambda: [Timeout(60)], id="timeout"),
        pytest.param(lambda: [Retry(attempts=3, wait=0)], id="retry"),
        pytest.param(lambda: [Bulkhead(1, name="permits")], id="bulkhead"),
        pytest.param(lambda: [CircuitBreaker(None, fail_max=1)], id="breaker"),
        pytest.param(
            lambda: [Timeout(60), Retry(attempts=3, wait=0), Bulkhead(1), CircuitBreaker(None, fail_max=1), Timeout(9)],
            id="stack",
        ),
    ],
)
def test_cancel_from_outside_gets_through(policies: Callable[[], list[Any]]) -> None:
    """The scope that was cancelled catches it; nothing is repeated, counted or kept."""
    fetch, calls = answers(..., 7)

    async def main() -> None:
        pipeline = Pipeline(*policies())
        guarded = pipeline(fetch)
        with trio.move_on_after(2) as scope:
            await guarded()
        assert scope.cancelled_caught
        assert elapsed() == 2
        assert len(calls) == 1
        assert await guarded() == 7

    run_mocked(main)


def test_cancel_in_a_queue_leaves_it() -> None:
    """A cancelled call in the queue gives its permit to the next call."""

    async def main() -> None:
        bulkhead = Bulkhead(1, queue=2)
        release = trio.Event()
        ran: list[str] = []

        @bulkhead
        async def work(name: str) -> None:
            ran.append(name)
            await release.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, "holder")
            await wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(work, "leaves")
                    await wait_all_tasks_blocked()
                    nursery.start_soon(work, "next")
                    await wait_all_tasks_blocked()
                    scope.cancel()
            release.set()
        assert ran == ["holder", "next"]
        assert bulkhead.snapshot()["in_use"] == 0

    trio.run(main)


def test_cancel_during_backoff_gets_through() -> None:
    """A cancellation during backoff gets through, and no attempt follows."""
    fetch, calls = answers(OSError(), 7)

    async def main() -> None:
        with trio.move_on_after(2) as scope:
            await Retry(attempts=2, wait=60)(fetch)()
        assert scope.cancelled_caught

    run_mocked(main)
    assert len(calls) == 1


def test_outer_scope_of_the_same_instant_goes_first() -> None:
    """Of an outer scope and a Timeout of the same instant the caller's scope wins: no TimedOut comes out."""
    fetch, _ = answers(...)

    async def main() -> None:
        with trio.move_on_after(5) as scope:
            await Timeout(5)(fetch)()
        assert scope.cancelled_caught

    run_mocked(main)


def test_fail_after_inside_stays_what_it_is() -> None:
    """The callee's own `TooSlowError` is none of ours; and a longer one lets ours through."""

    async def impatient() -> None:
        with trio.fail_after(2):
            await trio.sleep_forever()

    async def main() -> None:
        with pytest.raises(trio.TooSlowError):
            await Timeout(5)(impatient)()
        with pytest.raises(TimedOut):
            await Timeout(1)(impatient)()
        assert elapsed() == 3

    run_mocked(main)


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_nested_timeouts_expire_as_the_shorter_or_the_outer() -> None:
    """Of two nested Timeouts the shorter one expires; of two equal ones the outer."""

    async def main() -> None:
        for outer, inner, expired in ((1, 2, "outer"), (2, 1, "inner"), (1, 1, "outer")):
            guarded = Timeout(outer, name="outer")(Timeout(inner, name="inner")(trio.sleep_forever))
            with pytest.raises(TimedOut) as caught:
                await guarded()
            assert caught.value.policy == expired
        assert elapsed() == 3

    run_mocked(main)


def test_nursery_inside_is_cancelled_at_the_limit() -> None:
    """All its children end before the caller hears of it."""
    ended: list[int] = []

    async def child(number: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(number)

    async def fan_out() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(child, number)

    async def main() -> None:
        with pytest.raises(TimedOut):
            await Timeout(5)(fan_out)()
        assert sorted(ended) == [0, 1, 2]

    run_mocked(main)


def test_nursery_outside_cancels_a_guarded_child() -> None:
    """What comes out is the sibling's failure alone."""

    async def failing() -> None:
        await trio.sleep(1)
        raise OSError

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Timeout(60)(trio.sleep_forever))
                nursery.start_soon(failing)
        assert [type(error) for error in caught.value.exceptions] == [OSError]

    run_mocked(main)


def test_block_form_expires_and_repeats() -> None:
    """A guarded block times out and is repeated as a call is."""

    async def main() -> None:
        numbers = []
        async for attempt in Pipeline(Retry(attempts=3, wait=1), Timeout(5)).attempts():
            async with attempt:
                numbers.append(attempt.number)
                if attempt.number < 3:
                    await trio.sleep_forever()
        assert numbers == [1, 2, 3]
        assert elapsed() == 12

    run_mocked(main)


# -- clocks ------------------------------------------------------------------------------------------------------


def test_real_clock_expires_not_before_the_limit() -> None:
    """On the real clock of trio a Timeout does not expire before its limit."""
    fetch, _ = answers(...)
    begin = time.monotonic()
    with pytest.raises(TimedOut):
        trio.run(Timeout(LIMIT)(fetch))
    assert time.monotonic() - begin >= LIMIT


def test_runs_with_different_clocks_one_after_the_other() -> None:
    """Each call uses the clock of the run that it is in."""
    timeout = Timeout(5)

    async def mocked() -> None:
        with pytest.raises(TimedOut):
            await timeout(trio.sleep_forever)()
        assert elapsed() == 5

    run_mocked(mocked)
    fetch, _ = answers(7)
    assert trio.run(timeout(fetch)) == 7
    run_mocked(mocked)


def test_asyncio_and_trio_in_turn_in_one_thread() -> None:
    """One instance serves asyncio and trio, one after the other, in one thread."""
    timeout = Timeout(LIMIT)

    async def hang() -> None:
        await asyncio.sleep(60)

    for _ in range(2):
        with pytest.raises(TimedOut):
            asyncio.run(timeout(hang)())
        with pytest.raises(TimedOut):
            trio.run(timeout(trio.sleep_forever))


# -- other threads -----------------------------------------------------------------------------------------------


def test_call_in_a_queue_is_woken_by_a_thread() -> None:
    """A plain function in another thread held the permit."""
    bulkhead = Bulkhead(1, queue=1)
    begun, release = threading.Event(), threading.Event()

    @bulkhead
    def hold() -> None:
        begun.set()
        assert release.wait(5)

    async def ask() -> int:
        return 7

    async def main() -> int:
        result: list[int] = []

        async def client() -> None:
            result.append(await bulkhead(ask)())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            await wait_all_tasks_blocked()
            assert bulkhead.snapshot()["queued"] == 1
            release.set()
        return result[0]

    holder = threading.Thread(target=hold)
    holder.start()
    assert begun.wait(5)
    assert trio.run(main) == 7
    holder.join()
    assert bulkhead.snapshot()["in_use"] == 0


def test_thread_in_a_queue_is_woken_by_trio() -> None:
    """A call of trio wakes a thread in the queue that they share."""
    pipeline = Pipeline(Bulkhead(1, queue=1))
    queued = threading.Event()
    pipeline.listen(lambda event: queued.set() if isinstance(event, Queued) else None)
    results: list[int] = []
    client = threading.Thread(target=lambda: results.append(pipeline.call(lambda: 7)))

    async def hold() -> None:
        client.start()
        assert await trio.to_thread.run_sync(queued.wait, 5)
        assert results == []

    trio.run(pipeline(hold))
    client.join(5)
    assert results == [7]


def test_call_that_left_the_queue_before_its_run_ended_disturbs_nobody() -> None:
    """A permit that comes back after the run has ended wakes nothing, and is free."""
    bulkhead = Bulkhead(1, queue=1)
    begun, release = threading.Event(), threading.Event()
    errors: list[Exception] = []

    @bulkhead
    def hold() -> None:
        begun.set()
        assert release.wait(5)

    def holder() -> None:
        try:
            hold()
        except Exception as error:
            errors.append(error)

    async def main() -> None:
        with trio.move_on_after(LIMIT):
            await bulkhead(trio.sleep_forever)()

    thread = threading.Thread(target=holder)
    thread.start()
    assert begun.wait(5)
    trio.run(main)
    release.set()
    thread.join()
    assert errors == []
    assert bulkhead.snapshot()["in_use"] == bulkhead.snapshot()["queued"] == 0


def test_asyncio_and_trio_share_one_limit() -> None:
    """Two loops in two threads, one bulkhead: never more inside than it says, and everyone is served."""
    bulkhead = Bulkhead(2, queue=100)
    inside: list[int] = []
    most: list[int] = []
    served: list[str] = []

    def enter(name: str) -> None:
        inside.append(1)
        most.append(len(inside))
        served.append(name)

    @bulkhead
    async def on_trio() -> None:
        enter("trio")
        await trio.sleep(0.001)
        inside.pop()

    @bulkhead
    async def on_asyncio() -> None:
        enter("asyncio")
        await asyncio.sleep(0.001)
        inside.pop()

    async def trio_main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(on_trio)

    async def asyncio_main() -> None:
        await asyncio.gather(*(on_asyncio() for _ in range(30)))

    thread = threading.Thread(target=lambda: asyncio.run(asyncio_main()))
    thread.start()
    trio.run(trio_main)
    thread.join()
    assert max(most) <= 2
    assert sorted(served) == ["asyncio"] * 30 + ["trio"] * 30
    assert bulkhead.snapshot()["in_use"] == 0
