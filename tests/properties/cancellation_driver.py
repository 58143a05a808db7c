"""Cancels a call at every scheduling point in turn, and counts what has not come back.

`PointLoop` runs virtual time callback by callback. The driver runs the same scene again and again, and cancels its
victim just before the first callback, then before the second, and so on until the victim has ended by itself: so also
before and after the callback that resolves what it waits for, within one tick. It does that once, and then twice (the
second cancel one tick later). After each run everything must be back to idle, and the caller must have got his
cancellation. `TrioPoints` does the same on trio, task step by task step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import trio
import trio.testing

from resilient import Deadlock
from resilient.runtime.virtual import VirtualLoop

__all__ = ["PointLoop", "Scene", "assert_idle", "cancel_at_every_point", "cancel_at_every_step_of_trio", "leave_alone"]

TOO_MANY = 2000
"""Scheduling points; a scene that has more does not end."""


class Scene(Protocol):
    """What is run again and again, each time made afresh."""

    starts: Sequence[float]
    """When each of its calls begins, in seconds."""

    def call(self, number: int) -> Awaitable[Any]:
        """Call number `number`. May raise any `Exception`."""

    async def drain(self) -> None:
        """Wait for what its calls have left behind."""

    def assert_idle(self) -> None:
        """All permits, probes and tickets are back."""


class PointLoop(VirtualLoop):
    """Virtual time that calls `at_point()` before each callback it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.at_point: Callable[[], object] = lambda: None

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return super().call_soon(self._point, callback, args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return super().call_at(when, self._point, callback, args, context=context)

    def _point(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.at_point()
        callback(*args)


def cancel_at_every_point(make: Callable[[], Scene], victim: int = 0) -> int:
    """Run the scene once for each point at which call number `victim` can be cancelled, and again with two cancels.

    Returns the number of points. Raises `AssertionError` where something did not come back, naming the point.
    """
    for point in range(TOO_MANY):
        for times in (1, 2):
            accepted = _run(make(), victim, point, times)
        if not accepted:
            return point
    raise AssertionError(f"the call did not end within {TOO_MANY} scheduling points")


def leave_alone(make: Callable[[], Scene]) -> None:
    """Run the scene without any cancellation; everything must be back to idle too. Its callees may be stubborn."""
    _run(make(), victim=0, cancel_at=-1, times=1)


def _run(scene: Scene, victim: int, cancel_at: int, times: int) -> int:
    """One run, in which the victim is cancelled at one point; returns how many cancels it took."""
    loop = PointLoop()
    try:
        tasks, accepted = loop.run_until_complete(_play(scene, victim, cancel_at, times))
        for number, task in enumerate(tasks):
            cancels = accepted if number == victim else 0
            assert task.cancelled() == (cancels > 0), f"after {cancels} cancels, call {number} ended as {task!r}"
            assert task.cancelling() == cancels, f"{cancels} cancels of call {number} count as {task.cancelling()}"
        assert not asyncio.all_tasks(loop), "tasks are left"
        assert not _timer_is_left(loop), "a timer is left"
        scene.assert_idle()
    except AssertionError as error:
        error.add_note(f"call {victim} was cancelled {'once' if times == 1 else 'twice'}, at point {cancel_at}")
        raise
    finally:
        loop.close()
    return accepted


def _timer_is_left(loop: PointLoop) -> bool:
    try:
        loop.jump()
    except Deadlock:
        return False
    return True


async def _play(scene: Scene, victim: int, cancel_at: int, times: int) -> tuple[list[asyncio.Task[Any]], int]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PointLoop)
    tasks: dict[int, asyncio.Task[Any]] = {}
    begun = asyncio.Event()
    points = accepted = 0

    def begin(number: int) -> None:
        tasks[number] = loop.create_task(_outcome(scene, number))
        if len(tasks) == len(scene.starts):
            begun.set()

    def cancel() -> None:
        nonlocal accepted
        accepted += tasks[victim].cancel()

    def at_point() -> None:
        nonlocal points
        if victim in tasks:
            if points == cancel_at:
                cancel()
                if times == 2:
                    loop.call_soon(cancel)
            points += 1

    loop.at_point = at_point
    for number, start in enumerate(scene.starts):
        loop.call_at(start, begin, number)
    await begun.wait()
    await asyncio.wait(tasks.values())
    await scene.drain()
    return [tasks[number] for number in range(len(tasks))], accepted


async def _outcome(scene: Scene, number: int) -> Any:
    try:
        return await scene.call(number)
    except Exception as error:
        return error


class TrioPoints(trio.abc.Instrument):
    """Cancels a scope just before the `cancel_at`-th step of one task."""

    def __init__(self, cancel_at: int) -> None:
        self.cancel_at = cancel_at
        self.steps = 0
        self.task: Any = None
        self.scope = trio.CancelScope()

    def before_task_step(self, task: Any) -> None:
        if task is self.task:
            if self.steps == self.cancel_at:
                self.scope.cancel()
            self.steps += 1


def cancel_at_every_step_of_trio(make: Callable[[], Scene], victim: int = 0) -> int:
    """The same on trio with a mock clock. Returns the number of steps at which the call could be cancelled."""
    for step in range(TOO_MANY):
        scene = make()
        points = TrioPoints(step)
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(_play_on_trio, scene, victim, points, clock=clock, instruments=[points])
        try:
            scene.assert_idle()
        except AssertionError as error:
            error.add_note(f"cancelled before step {step} on trio")
            raise
        if points.steps <= step:
            return step
        # It finishes the step that it was in, and gets its cancellation in the next one.
        assert points.steps <= step + 2, f"cancelled before step {step}, it went on for {points.steps - step} steps"
    raise AssertionError(f"the call did not end within {TOO_MANY} steps")


async def _play_on_trio(scene: Scene, victim: int, points: TrioPoints) -> None:
    async def one(number: int, start: float) -> None:
        await trio.sleep(start)
        if number == victim:
            points.task = trio.lowlevel.current_task()
            with points.scope:
                await trio.lowlevel.checkpoint()
                await _outcome(scene, number)
            points.task = None
        else:
            await _outcome(scene, number)

    async with trio.open_nursery() as nursery:
        for number, start in enumerate(scene.starts):
            nursery.start_soon(one, number, start)
    await scene.drain()


def assert_idle(snapshot: dict[str, Any]) -> None:
    """Assert that a snapshot, and those nested in it, count no calls inside, none in a queue, and no permits in use."""
    for count in ("in_flight", "in_use", "queued", "probes", "out"):
        assert snapshot.get(count, 0) == 0, f"{count} is {snapshot[count]} in {snapshot}"
    for policy in snapshot.get("policies", ()):
        assert_idle(policy)
