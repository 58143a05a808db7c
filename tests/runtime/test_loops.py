"""The runtime of the running event loop is found: of nested loops, of several in turn, and after loops are dropped."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from resilient import Bulkhead, Hedge, Pipeline, RateLimit, Retry, TimedOut, Timeout
from resilient.runtime.asyncio import AsyncioRuntime, running
from resilient.runtime.virtual import VirtualLoop

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    "virtual": VirtualLoop,
}
each_loop = pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
guard = Pipeline(Timeout(60), Retry(attempts=2, wait=0), Bulkhead(1, queue=1), RateLimit(1e6), Timeout(0.01))


@guard
async def hanging() -> None:
    """A function that never answers."""
    await asyncio.get_running_loop().create_future()


@guard
async def quick() -> AsyncioRuntime | None:
    """A function that returns the runtime of its call."""
    await asyncio.sleep(0)
    return running()


@contextmanager
def no_running_loop() -> Iterator[None]:
    """Run one event loop inside another, as nest_asyncio and notebooks do."""
    outer = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(outer)


def run_in(loop: asyncio.AbstractEventLoop, call: Callable[[], Any]) -> Any:
    """Run `call()` on `loop` to its end."""
    try:
        return loop.run_until_complete(asyncio.wait_for(call(), 10))
    finally:
        loop.close()


@each_loop
@pytest.mark.parametrize("inside", ["task", "callback"])
def test_nested_loop_has_its_own_timers(new_loop: Callable[[], asyncio.AbstractEventLoop], inside: str) -> None:
    """A Timeout in a loop that runs inside a task or a callback of another loop fires, and so does one outside."""

    def nested() -> None:
        with no_running_loop(), pytest.raises(TimedOut):
            run_in(new_loop(), hanging)

    async def outer() -> None:
        await quick()
        if inside == "task":
            nested()
        else:
            done = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(lambda: (nested(), done.set_result(None)))
            await done
        with pytest.raises(TimedOut):
            await hanging()
        assert (await quick()) is running()

    run_in(asyncio.new_event_loop(), outer)


async def test_hedge_in_a_nested_loop_begins_its_copy_there() -> None:
    """Copies are tasks of the loop that runs."""
    loops = []

    @Hedge(0.001)
    async def slow_at_first() -> int:
        loops.append(asyncio.get_running_loop())
        if len(loops) == 1:
            await asyncio.get_running_loop().create_future()
        return 7

    await quick()
    nested = asyncio.new_event_loop()
    with no_running_loop():
        assert run_in(nested, slow_at_first) == 7
    assert loops == [nested, nested]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, VirtualLoop])  # uvloop's keep themselves until closed
def test_loop_that_is_dropped_without_close_is_collected(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Nothing here keeps it, nor its descriptors; also when others have run since, and when its Timeouts have fired."""
    loops = []
    for call in (quick, hanging):
        loop = new_loop()
        try:
            loop.run_until_complete(call())
        except TimedOut:
            pass
        loops.append(weakref.ref(loop))
        del loop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # which the loops give when they are collected
        gc.collect()
    assert [loop() for loop in loops] == [None, None]


def test_no_runtime_where_no_loop_runs() -> None:
    """No runtime of a loop is found in another thread, nor after the loop has stopped."""
    found: list[object] = []

    async def main() -> None:
        assert running() is not None
        thread = threading.Thread(target=lambda: found.append(running()))
        thread.start()
        await asyncio.to_thread(thread.join)

    asyncio.run(main())
    assert found == [None]
    assert running() is None
