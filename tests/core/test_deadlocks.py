"""Deadlocks: a wait that nothing could end is refused, and no other wait is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

from resilient import (
    AdaptiveLimit,
    Bulkhead,
    BulkheadFull,
    Deadlock,
    Hedge,
    Keyed,
    LimitExceeded,
    Pipeline,
    Retry,
    TimedOut,
    Timeout,
    deadline,
    events,
)
from resilient.core.gate import Gate
from resilient.core.wait_queue import PermitQueue
from resilient.events import Queued

PATIENCE = 10
"""Seconds after which a thread has hung."""

GATES: dict[str, Callable[[], Gate]] = {
    "bulkhead": lambda: Bulkhead(1, queue=5),
    "adaptive": lambda: AdaptiveLimit(1, queue=5),
    "keyed": lambda: Keyed(lambda: Bulkhead(1, queue=5), key=lambda *_: "one"),
}

every_gate = pytest.mark.parametrize("gate", [pytest.param(make, id=name) for name, make in GATES.items()])


def within_time(function: Callable[[], object]) -> None:
    """Run a function in a thread of its own, and fail if it hangs."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for ever"
    if errors:
        raise errors[0]


def work() -> str:
    return "done"


def on_asyncio(*policies: Any, then: Callable[[], None]) -> None:
    """Call `then` in the thread of an asyncio loop, one of whose tasks is inside the gate."""

    async def main() -> None:
        inside, go = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            inside.set()
            await go.wait()

        task = asyncio.create_task(Pipeline(*policies).call(hold))
        await inside.wait()
        try:
            then()
        finally:
            go.set()
            await task

    asyncio.run(main())


def on_trio(*policies: Any, then: Callable[[], None]) -> None:
    """Call `then` in the thread of a trio loop, one of whose tasks is inside the gate."""

    async def main() -> None:
        inside, go = trio.Event(), trio.Event()

        async def hold() -> None:
            inside.set()
            await go.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(Pipeline(*policies).call, hold)
            await inside.wait()
            try:
                then()
            finally:
                go.set()

    trio.run(main)


LOOPS = pytest.mark.parametrize("on_loop", [on_asyncio, on_trio], ids=["asyncio", "trio"])


@every_gate
@LOOPS
def test_plain_def_in_the_thread_of_a_loop_does_not_wait_for_a_task_of_that_loop(
    on_loop: Callable[..., None], gate: Callable[[], Gate]
) -> None:
    """No task of the loop could continue during the wait: `Deadlock` is raised, and no permit is lost."""
    policy = gate()

    def then() -> None:
        with pytest.raises(Deadlock, match=r"would wait in the queue of .* for ever.*asyncio\.to_thread"):
            policy(work)()

    within_time(lambda: on_loop(policy, then=then))
    assert policy(work)() == "done"
    assert policy._at_rest


@LOOPS
def test_such_a_wait_is_found_behind_other_policies_in_copies_and_in_lines_further_in(
    on_loop: Callable[..., None],
) -> None:
    """A call that waits in an inner queue holds the permits of outer gates."""
    bulkhead = Bulkhead(1, queue=5)

    def then() -> None:
        with pytest.raises(Deadlock):
            bulkhead(work)()

    within_time(lambda: on_loop(Retry(2), Hedge(30), bulkhead, Timeout(60), then=then))

    async def main() -> None:
        outer, inner = Bulkhead(1), Bulkhead(1, queue=5)
        go = asyncio.Event()
        inside = asyncio.create_task(inner(go.wait)())
        await asyncio.sleep(0)
        in_line = asyncio.create_task(Pipeline(bulkhead, outer, inner).call(asyncio.sleep, 0))
        await asyncio.sleep(0)
        assert inner.snapshot()["queued"] == 1
        then()
        go.set()
        await asyncio.gather(inside, in_line)

    within_time(lambda: asyncio.run(main()))


@every_gate
def test_plain_def_does_not_wait_for_itself(gate: Callable[[], Gate]) -> None:
    """A function that calls itself needs two permits where there is one."""
    policy = gate()

    @policy
    def recursive(left: int) -> None:
        if left:
            recursive(left - 1)

    def run() -> None:
        with pytest.raises(Deadlock):
            recursive(1)

    within_time(run)
    assert policy._at_rest


@LOOPS
def test_plain_def_in_the_thread_of_a_loop_waits_for_other_threads(on_loop: Callable[..., None]) -> None:
    """Other threads release their permits, whatever the loop does."""
    bulkhead = Bulkhead(2, queue=5)
    began, go = threading.Event(), threading.Event()

    def elsewhere() -> None:
        began.set()
        assert go.wait(PATIENCE)

    def then() -> None:
        thread = threading.Thread(target=bulkhead(elsewhere))
        thread.start()
        assert began.wait(PATIENCE)
        threading.Timer(0.01, go.set).start()
        assert bulkhead(work)() == "done"
        thread.join()

    within_time(lambda: on_loop(bulkhead, then=then))


@pytest.mark.parametrize("permits", [1, 2])
def test_permit_that_another_thread_gives_back_just_now_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, permits: int
) -> None:
    """A permit that is being released is held by no call of this thread, so there is no deadlock."""
    bulkhead = Bulkhead(permits, queue=5)
    began, go, freed, waiting = (threading.Event() for _ in range(4))
    grant, wait = PermitQueue.grant, PermitQueue.wait

    def in_its_own_time(queue: PermitQueue) -> None:
        if threading.current_thread() is thread:
            freed.set()
            assert waiting.wait(PATIENCE)
        grant(queue)

    async def told(queue: PermitQueue, *args: Any) -> bool:
        waiting.set()
        return await wait(queue, *args)

    def elsewhere() -> None:
        began.set()
        assert go.wait(PATIENCE)

    def in_line(event: Queued) -> None:
        go.set()
        assert freed.wait(PATIENCE)

    @Pipeline(bulkhead)
    def recursive(left: int) -> str:
        return recursive(left - 1) if left else "done"

    monkeypatch.setattr(PermitQueue, "grant", in_its_own_time)
    monkeypatch.setattr(PermitQueue, "wait", told)
    thread = threading.Thread(target=bulkhead(elsewhere))
    thread.start()
    assert began.wait(PATIENCE)
    stop = events.listen(lambda event: in_line(event) if isinstance(event, Queued) else None)
    within_time(lambda: recursive(permits - 1))
    stop()
    thread.join()
    assert bulkhead._at_rest


@LOOPS
def test_plain_def_in_the_thread_of_a_loop_waits_as_long_as_it_may(on_loop: Callable[..., None]) -> None:
    """A wait that ends is no deadlock: by `queue_timeout`, a Timeout or a deadline."""
    impatient, patient = Bulkhead(1, queue=5, queue_timeout=0.001), Bulkhead(1, queue=5)
    adaptive = AdaptiveLimit(1, queue=5, queue_timeout=0.001)

    def then() -> None:
        with pytest.raises(BulkheadFull):
            impatient(work)()
        with pytest.raises(LimitExceeded):
            adaptive(work)()
        with pytest.raises(TimedOut):
            Pipeline(Timeout(0.001), patient).call(work)
        with deadline(0.001), pytest.raises(TimedOut):
            patient(work)()

    within_time(lambda: on_loop(impatient, patient, adaptive, then=then))


def test_deadlock_is_neither_repeated_nor_evidence() -> None:
    """A deadlock is an error of the caller's own code."""
    bulkhead, calls = Bulkhead(1, queue=5), 0

    @Pipeline(Retry(3, wait=0), bulkhead)
    def recursive(left: int) -> None:
        nonlocal calls
        calls += 1
        if left:
            recursive(left - 1)

    def run() -> None:
        with pytest.raises(Deadlock):
            recursive(1)

    within_time(run)
    assert calls == 1
