"""Queues over several event loops: no permit is lost with a call that cannot run, and the others keep their order."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from resilient import AdaptiveLimit, Bulkhead, Keyed, RateLimit
from resilient.core import wait_queue
from resilient.core.gate import Gate
from resilient.core.wait_queue import WaitQueue
from resilient.runtime import current_async

GATES: dict[str, Callable[[], Gate]] = {
    "Bulkhead": lambda: Bulkhead(1, queue=10),
    "AdaptiveLimit": lambda: AdaptiveLimit(1, max_limit=1, queue=10),
    "Keyed": lambda: Keyed(lambda: Bulkhead(1, queue=10), key=lambda *args: 1),
}
each_gate = pytest.mark.parametrize("make", GATES.values(), ids=GATES)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocked loop is passed over soon."""
    monkeypatch.setattr(wait_queue, "STALLED", 0.002)
    monkeypatch.setattr(wait_queue, "PATIENCE", 0.004)


@contextmanager
def silent() -> Iterator[None]:
    """Silence asyncio's log of the tasks of dropped loops."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class Calls:
    """Calls of one gate, by name, and the order in which they were served."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.served: list[str] = []
        self.go = asyncio.Event()
        self.guarded = gate(self._serve)

    async def _serve(self, name: str) -> None:
        self.served.append(name)
        if name == "holder":
            await self.go.wait()

    async def hold(self) -> asyncio.Task[None]:
        """Start a call that holds the permit until `go` is set."""
        task = asyncio.ensure_future(self.guarded("holder"))
        await ticks()
        assert self.served == ["holder"]
        return task

    async def queue(self, *names: str) -> list[asyncio.Task[None]]:
        """Start calls that must wait."""
        tasks = [asyncio.ensure_future(self.guarded(name)) for name in names]
        await ticks()
        return tasks

    async def end(self, *tasks: asyncio.Task[None]) -> None:
        """Let the holder end, and wait for these calls."""
        self.go.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def ticks() -> None:
    """Run the loop until no call can go on."""
    for _ in range(5):
        await asyncio.sleep(0)


@each_gate
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "stopped"])
def test_permit_of_a_loop_that_does_not_run_goes_to_the_next_waiter_at_once(
    make: Callable[[], Gate], closed: bool
) -> None:
    """Any number of its calls may stand before the next one, which may come before or after that."""
    calls = Calls(make())
    here, there = asyncio.new_event_loop(), asyncio.new_event_loop()
    holder = here.run_until_complete(calls.hold())
    stranded = there.run_until_complete(calls.queue("a", "b"))
    behind = here.run_until_complete(calls.queue("c", "d"))
    if closed:
        with silent():
            there.close()
            stranded.clear()
    here.run_until_complete(calls.end(holder, *behind))
    here.run_until_complete(calls.end(*here.run_until_complete(calls.queue("e"))))
    assert calls.served == ["holder", "c", "d", "e"]
    if not closed:
        there.run_until_complete(calls.end(*stranded))
        assert calls.served[4:] == ["a", "b"]
        there.close()
    here.close()
    assert calls.gate.snapshot().get("queued", 0) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bulkhead(1, queue=10, queue_timeout=0.001),
        lambda: AdaptiveLimit(1, max_limit=1, queue=10, queue_timeout=0.001),
    ],
    ids=["Bulkhead", "AdaptiveLimit"],
)
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "stopped"])
def test_permit_with_which_a_loop_stops_goes_to_the_next_caller_at_once(make: Callable[[], Gate], closed: bool) -> None:
    """Also if that caller waits for a very short time: otherwise callers with short deadlines would be refused for
    ever."""
    calls = Calls(make())
    here, there = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def stop_with_a_turn() -> list[asyncio.Task[None]]:
        await calls.hold()
        stranded = await calls.queue("a")
        calls.go.set()
        there.call_soon(there.stop)  # after the holder has ended, and before the next one has begun
        return stranded

    calls.gate.queue_timeout = 10.0  # type: ignore[attr-defined]  # of those there
    beginning = there.create_task(stop_with_a_turn())
    there.run_forever()
    stranded = beginning.result()
    assert calls.served == ["holder"]
    if closed:
        with silent():
            there.close()
            stranded.clear()
    calls.gate.queue_timeout = 0.001  # type: ignore[attr-defined]
    here.run_until_complete(calls.guarded("b"))
    assert calls.served == ["holder", "b"]
    if not closed:
        there.run_until_complete(calls.end(*stranded))
        assert calls.served == ["holder", "b", "a"]
        there.close()
    here.close()


@each_gate
def test_permit_of_a_blocked_loop_goes_to_the_next_waiter(make: Callable[[], Gate]) -> None:
    """The calls of the blocked loop are served when it runs again, in their order."""
    calls = Calls(make())
    in_line, held_up, over = threading.Event(), threading.Event(), threading.Event()

    async def elsewhere() -> None:
        tasks = await calls.queue("a", "b")
        in_line.set()
        held_up.set()
        over.wait(10)
        await asyncio.wait_for(asyncio.gather(*tasks), 10)

    async def here() -> None:
        holder = await calls.hold()
        thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
        thread.start()
        assert in_line.wait(10)
        behind = await calls.queue("c", "d")
        await calls.end(holder, *behind)
        await calls.end(*await calls.queue("e"))
        assert calls.served == ["holder", "c", "d", "e"]
        over.set()
        await asyncio.to_thread(thread.join, 10)
        assert calls.served[4:] == ["a", "b"]

    asyncio.run(here())


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "stopped"])
def test_token_that_comes_back_goes_past_loops_that_do_not_run(closed: bool) -> None:
    """The first waiter that can use it gets it."""
    limit = RateLimit(1, per=3600, burst=1, max_wait=1e6)
    calls = Calls(limit)
    here, there = asyncio.new_event_loop(), asyncio.new_event_loop()
    assert here.run_until_complete(calls.guarded("first")) is None
    stranded = there.run_until_complete(calls.queue("a", "b"))
    behind = here.run_until_complete(calls.queue("c"))
    if closed:
        with silent():
            there.close()
            stranded.clear()

    async def give_back() -> None:
        limit.undo(limit)
        await calls.end(*behind)

    here.run_until_complete(give_back())
    assert calls.served == ["first", "c"]
    assert limit.snapshot()["queued"] == 0
    here.close()
    there.close()


def test_loop_that_runs_again_takes_its_old_places() -> None:
    """Its calls go before those that came later."""
    bulkhead = Bulkhead(1, queue=10)
    calls = Calls(bulkhead)
    here, there = asyncio.new_event_loop(), asyncio.new_event_loop()
    ticket: Any = bulkhead.admit(None)  # type: ignore[arg-type]  # it does not look at the call
    stranded = there.run_until_complete(calls.queue("a", "b"))
    bulkhead.release(ticket)  # passes them over
    assert bulkhead._at_rest
    ticket = bulkhead.admit(None)  # type: ignore[arg-type]
    late = here.run_until_complete(calls.queue("c"))

    async def run_again() -> None:
        await ticks()
        assert bulkhead.snapshot()["queued"] == 2  # the other loop stands still by now
        bulkhead.release(ticket)
        await calls.end(*stranded)

    there.run_until_complete(run_again())
    here.run_until_complete(calls.end(*late))
    assert calls.served == ["a", "b", "c"]
    here.close()
    there.close()


def test_call_in_a_trio_run_that_is_over_loses_no_permit() -> None:
    """trio ends its calls with the run, and they leave the queue."""
    bulkhead = Bulkhead(1, queue=10)

    async def main() -> None:
        with trio.move_on_after(0.01):
            await bulkhead(trio.sleep)(0)

    ticket: Any = bulkhead.admit(None)  # type: ignore[arg-type]
    trio.run(main)
    assert bulkhead.snapshot()["queued"] == 0
    bulkhead.release(ticket)
    assert bulkhead._at_rest


@each_gate
def test_loop_that_is_dropped_with_its_calls_gives_their_permits_back(make: Callable[[], Gate]) -> None:
    """Its waiting calls keep it in memory no longer, with the calls inside, once another call joins the queue."""
    calls = Calls(make())
    there = asyncio.new_event_loop()
    there.run_until_complete(calls.hold())
    there.run_until_complete(calls.queue("a"))
    calls.go = asyncio.Event()  # the old one knows who waits for it
    there.close()
    dropped = weakref.ref(there)
    del there

    async def here() -> None:
        behind = await calls.queue("b")
        with silent():
            gc.collect()
        await calls.end(*behind)

    asyncio.run(here())
    assert dropped() is None
    assert calls.served == ["holder", "b"]


def test_stopped_loop_that_is_dropped_is_collected() -> None:
    """Once it was passed over, the queue does not keep it in memory."""
    bulkhead = Bulkhead(1, queue=10)
    there = asyncio.new_event_loop()
    ticket: Any = bulkhead.admit(None)  # type: ignore[arg-type]
    there.run_until_complete(Calls(bulkhead).queue("a", "b"))
    bulkhead.release(ticket)
    there.close()
    dropped = weakref.ref(there)
    del there
    with silent():
        gc.collect()
    assert dropped() is None


async def test_queue_orders_by_rank_and_then_by_arrival_and_so_do_those_that_come_back() -> None:
    """The order in which they come back does not matter."""
    waiters, runtime = WaitQueue(), current_async()
    third, first, second = (waiters.join(runtime, rank) for rank in (1, 0, 0))
    assert (waiters.first(), waiters.last(), len(waiters), waiters.count_to(0)) == (first, third, 3, 2)
    waiters.pass_over(first.home)
    assert (waiters.first(), len(waiters), waiters.rank) == (None, 0, float("inf"))
    for waiter in (second, third, first):
        waiters.insert(waiter)
    left: list[Any] = []
    while (waiter := waiters.first()) is not None:
        left.append(waiter)
        waiters.remove(waiter)
    assert left == [first, second, third]
