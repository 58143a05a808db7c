"""The time of a test: reading it, and letting it pass."""

from __future__ import annotations

import asyncio
import time
import unittest
from typing import Any

import pytest

from resilient import Retry
from resilient.errors import Deadlock
from resilient.testing import VirtualLoop, advance, now, run
from tests.worlds import World


def test_now_is_the_clock_of_the_policies(world: World) -> None:
    """Virtual time begins at 0, and goes by in no time."""
    seen: list[float] = []

    async def look() -> None:
        seen.append(now())
        await world.sleep(0.02)
        seen.append(now())

    if world.is_async:
        world.call(look)
    else:
        seen += [now(), time.monotonic()]
    if world.name == "virtual":
        assert seen == [0, 0.02]
    else:
        assert seen[0] <= seen[1]


@pytest.mark.virtual_time
async def test_advance_lets_happen_what_was_to_happen_until_then() -> None:
    """Everything that is due by then happens, and nothing later."""
    happened = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(1)
            happened.append(now())

    ticking = asyncio.create_task(tick())
    await advance(3.5)
    assert (happened, now()) == ([1, 2, 3], 3.5)
    ticking.cancel()


@pytest.mark.virtual_time
async def test_advance_includes_all_of_the_moment_itself() -> None:
    """`advance` includes all that is due at its last moment, and all that follows from that in no time."""
    happened = []

    async def chain() -> None:
        await asyncio.sleep(2)
        for step in range(50):
            await asyncio.sleep(0)
            happened.append(step)

    task = asyncio.create_task(chain())
    await advance(2)
    assert task.done()
    assert (len(happened), now()) == (50, 2)


@pytest.mark.virtual_time
async def test_advance_by_nothing_lets_everybody_run_who_can() -> None:
    """A task that was just begun is where it waits."""
    retried = Retry(attempts=2, wait=5)
    calls = []

    @retried
    async def fetch() -> int:
        calls.append(now())
        if len(calls) == 1:
            raise OSError
        return 7

    task = asyncio.create_task(fetch())
    await advance()
    assert (calls, now()) == ([0], 0)
    await advance(4.999)
    assert not task.done()
    await advance(0.001)
    assert (calls, task.result()) == ([0, 5], 7)


@pytest.mark.virtual_time
async def test_advance_of_several_tasks_at_a_time() -> None:
    """Each goes on at its own time."""
    back = []

    async def wait(seconds: float) -> None:
        await advance(seconds)
        back.append((seconds, now()))

    await asyncio.gather(wait(2), wait(0), wait(1), wait(2))
    assert back == [(0, 0), (1, 1), (2, 2), (2, 2)]


@pytest.mark.virtual_time
async def test_advance_that_is_cancelled_holds_nobody_up() -> None:
    """Time goes on for other tasks when an `advance` is cancelled."""
    task = asyncio.create_task(advance())
    await asyncio.sleep(0)
    task.cancel()
    await advance(1)
    assert task.cancelled()
    assert now() == 1


def test_deadlock_is_still_found_after_an_advance() -> None:
    """A test that can never end says so."""

    async def main() -> None:
        await advance(1)
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="main"):
        run(main())


async def test_advance_of_real_time_is_refused() -> None:
    """In real time `advance` is refused with a message that says what to do instead."""
    with pytest.raises(RuntimeError, match=r"only virtual time can be advanced.*virtual_time"):
        await advance(1)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("seconds", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)])
async def test_advance_refuses_what_is_no_time(seconds: Any, error: type[Exception]) -> None:
    """An invalid time is refused with a message that names the value."""
    with pytest.raises(error, match="seconds must be"):
        await advance(seconds)


@pytest.mark.skipif(not hasattr(unittest.IsolatedAsyncioTestCase, "loop_factory"), reason="unittest of Python 3.13")
def test_virtual_loop_is_a_loop_factory_for_unittest() -> None:
    """unittest takes VirtualLoop as its loop factory, and an hour takes no time."""

    class Case(unittest.IsolatedAsyncioTestCase):
        loop_factory = VirtualLoop

        async def test_hour(self) -> None:
            await asyncio.sleep(3600)
            assert now() == 3600

    result = unittest.TestResult()
    Case("test_hour").run(result)
    assert (result.testsRun, result.failures, result.errors) == (1, [], [])
