"""What a copy of a hedged call sees and leaves behind: context variables, the current call, deadlines, memory."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from resilient import (
    Hedge,
    Pipeline,
    Retry,
    Timeout,
    current_call,
    deadline,
    remaining,
)
from tests.policies.hedge.modes import (
    LONG,
    Mode,
    bad_is_unacceptable,
)

written: contextvars.ContextVar[str] = contextvars.ContextVar("written", default="nothing")


@pytest.mark.virtual_time
@pytest.mark.parametrize("winner", [1, 2])
async def test_hedge_only_the_winners_context_is_merged_back(winner: int) -> None:
    """Each copy sets context variables in a context of its own, which begins as the caller's."""
    seen: list[str] = []
    calls = 0

    async def fetch() -> None:
        nonlocal calls
        calls += 1
        mine = calls
        seen.append(written.get())
        written.set(f"copy {mine}")
        await asyncio.sleep(2 if mine == winner else LONG)

    written.set("caller")
    await Hedge(1)(fetch)()
    assert seen == ["caller", "caller"]
    assert written.get() == f"copy {winner}"


def test_hedge_winners_context_is_merged_back_from_a_thread() -> None:
    """Context variables that a copy sets in its thread are set in the caller."""

    def fetch() -> None:
        written.set("thread")

    def main() -> str:
        Hedge(LONG, thread=True)(fetch)()
        return written.get()

    assert contextvars.copy_context().run(main) == "thread"


@pytest.mark.virtual_time
async def test_hedge_context_of_a_copy_that_failed_is_merged_back_with_its_error() -> None:
    """Where a copy's error comes back, so do the context variables that it has set."""

    async def fetch() -> None:
        written.set("failed")
        raise KeyError

    with pytest.raises(KeyError):
        await Pipeline(Hedge(1), classify=bad_is_unacceptable()).call(fetch)
    assert written.get() == "failed"


@pytest.mark.virtual_time
async def test_hedge_inline_first_copy_runs_in_the_callers_task_and_context() -> None:
    """What an inline first copy sets in its context stays, although another copy wins."""
    tasks: list[Any] = []

    async def fetch() -> None:
        tasks.append(asyncio.current_task())
        if len(tasks) == 1:
            written.set("first copy")
            await asyncio.sleep(LONG)

    await Hedge(1, inline=True)(fetch)()
    assert tasks[0] is asyncio.current_task()
    assert tasks[1] is not tasks[0]
    assert written.get() == "first copy"


@pytest.mark.virtual_time
async def test_hedge_copy_has_not_the_time_of_a_timeout_inside_the_first_one(inline: bool) -> None:
    """Each copy has the full time of the Timeout inside the hedge, and its Retry pauses within that."""
    seen: list[float | None] = []

    async def fetch() -> str:
        seen.append(remaining())
        await asyncio.sleep(2 if len(seen) > 2 else LONG)
        return "answer"

    guarded = Pipeline(Timeout(60), Hedge(1, inline=inline), Retry(2, wait=3), Timeout(5))(fetch)

    assert await guarded() == "answer"
    assert seen == [5, 5, 5, 5]


@pytest.mark.virtual_time
async def test_hedge_copies_of_calls_side_by_side_have_their_own_callers_context(inline: bool) -> None:
    """Copies get the context of their own caller, although one timer starts the copies of several calls."""
    seen: list[tuple[str, str]] = []

    async def fetch(who: str) -> None:
        seen.append((who, written.get()))
        await asyncio.sleep(10)

    guarded = Hedge(1, inline=inline)(fetch)

    async def caller(who: str, start: float) -> None:
        written.set(who)
        await asyncio.sleep(start)
        await guarded(who)

    await asyncio.gather(caller("a", 0), caller("b", 0.5), caller("c", 0.75))
    assert seen == [("a", "a"), ("b", "b"), ("c", "c")] * 2


@pytest.mark.virtual_time
async def test_hedge_copies_know_which_call_they_are_of(inline: bool) -> None:
    """`current_call()` has one id in all copies, and the call around them; after the call there is none."""
    seen: list[Any] = []

    async def fetch() -> None:
        seen.append(current_call())
        await asyncio.sleep(10)

    inner = Pipeline(Hedge(1, inline=inline), name="inner")(fetch)
    await Pipeline(Timeout(50), name="outer").call(inner)
    assert [view.pipeline for view in seen] == ["inner", "inner"]
    assert [view.outer.pipeline for view in seen] == ["outer", "outer"]
    assert seen[0].id == seen[1].id
    assert seen[0].outer.id == seen[1].outer.id
    assert current_call() is None


@pytest.mark.virtual_time
async def test_hedge_copies_see_the_deadline(inline: bool) -> None:
    """Each copy sees what is left of the caller's deadline when it begins."""
    left: list[float | None] = []

    async def fetch() -> None:
        left.append(remaining())
        await asyncio.sleep(3)

    with deadline(8):
        await Hedge(1, inline=inline)(fetch)()
    assert left == [8, 7]


@pytest.mark.virtual_time
async def test_hedge_leaves_no_cycle_behind_where_it_did_not_fire(inline: bool) -> None:
    """Calls that are not late leave nothing for the garbage collector."""

    async def fetch() -> None:
        await asyncio.sleep(0.5)

    guarded = Hedge(1, inline=inline)(fetch)
    await guarded()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await guarded()
        assert gc.collect() < 20
    finally:
        gc.enable()


class Body:
    """An object in the frame of a copy."""

    def __init__(self) -> None:
        BODIES.add(self)


BODIES: weakref.WeakSet[Body] = weakref.WeakSet()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Switches the garbage collector off, so that objects in a cycle stay alive."""
    gc.collect()
    BODIES.clear()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("ending", ["all fail", "the second fails later", "the last wins"])
def test_hedge_lets_go_of_copies_that_failed(mode: Mode, ending: str) -> None:
    """The frames of failed copies, and the objects in them, are freed without the garbage collector."""
    calls = 0

    def step() -> str:
        nonlocal calls
        body, calls = Body(), calls + 1
        if ending == "the last wins" and calls == 3:
            return "good"
        raise OSError(body)

    async def fetch() -> str:
        return step()

    guarded = Pipeline(mode.hedge(0 if ending == "the second fails later" else LONG, copies=3))(
        fetch if mode.world.is_async else step
    )

    async def main() -> None:
        try:
            assert await guarded() == "good"
        except OSError:
            pass

    def main_def() -> None:
        try:
            assert guarded() == "good"
        except OSError:
            pass

    mode.world.run(main if mode.world.is_async else main_def)
    assert calls == 3
    assert len(BODIES) == 0


@pytest.mark.usefixtures("uncollected")
def test_hedge_lets_go_of_a_loser_that_was_cancelled(async_mode: Mode) -> None:
    """The frame and the arguments of a cancelled loser are freed at its end, without the garbage collector."""
    calls = 0

    async def fetch(argument: Body) -> int:
        nonlocal calls
        body, calls = Body(), calls + 1
        if calls == 1:
            await async_mode.world.sleep(LONG)
        return len([body, argument])

    async def main() -> None:
        pipeline = Pipeline(async_mode.hedge(0))
        assert await pipeline.call(fetch, Body()) == 2
        await pipeline.aclose()

    async_mode.world.run(main)
    assert len(BODIES) == 0
