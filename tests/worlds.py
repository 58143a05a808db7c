"""Worlds: one test on every runtime. A `World` runs guarded functions, and makes the scripted dependency they call.

    def test_repeats(world):
        dependency = world.dependency(OSError(), 7)          # fails, then answers 7
        guarded = Retry(attempts=2, wait=0)(dependency.fn)   # `async def`, or `def` in the world of threads
        assert world.call(guarded) == 7
        assert len(dependency.calls) == 2

Times are real seconds, except in virtual time: keep them around 0.05, and let events, not sleeps, order what happens.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import trio
import trio.testing
import uvloop

from resilient import testing
from resilient.runtime import Runtime
from resilient.testing import Hang, Slow, VirtualLoop

__all__ = [
    "WORLDS",
    "Dependency",
    "Hang",
    "Joined",
    "Outcome",
    "Slow",
    "Until",
    "UntilCancelled",
    "UvloopWorld",
    "World",
    "left_queue",
]

MOMENT = 0.001
"""Seconds between two looks of `Joined` and `Until` at what they wait for."""


@dataclass(frozen=True)
class Joined:
    """A step that waits until `calls` calls have come (or 5,000 moments have passed), and then does `then`."""

    calls: int
    then: Any = None


@dataclass(frozen=True)
class Until:
    """A step that waits until `met()` is true (or 5,000 moments have passed), and then does `then`."""

    met: Callable[[], object]
    then: Any = None


def left_queue(gate: Any) -> Callable[[], bool]:
    """For `Until`: whether a call has stood in the gate's queue since, and has left it; or half a second has passed, in
    case the machine stood still while the call was in the queue."""
    stood, began = False, 0.0

    def met() -> bool:
        nonlocal stood, began
        queued = gate.snapshot()["queued"]
        stood, began = stood or queued > 0, began or time.monotonic()
        return (stood and not queued) or time.monotonic() - began > 0.5

    return met


_PASSED_ON = object()


@dataclass(frozen=True)
class UntilCancelled:
    """Run until the call is cancelled, take `seconds` for the clean-up, and then do `then`; by default the cancellation
    is passed on. (For async worlds; in trio without `seconds`, because a cancelled scope cancels each wait in it.)"""

    seconds: float = 0.0
    then: Any = _PASSED_ON


@dataclass(frozen=True)
class Outcome:
    """How a call ended: its value, or its error."""

    value: Any = None
    error: BaseException | None = None


class Dependency(testing.Dependency):
    """`resilient.testing.Dependency` as tests of the library use it: with three more steps.

    Attributes:
        fn: the function to guard, as its world needs it: `async def`, or `def`.
    """

    def __init__(self, script: Sequence[Any], *, is_async: bool) -> None:
        super().__init__(*script)
        self.fn: Callable[..., Any] = self if is_async else self.plain

    @property
    def arguments(self) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The positional and keyword arguments of each call so far."""
        return [(call.args, call.kwargs) for call in self.calls]

    @property
    def ended(self) -> int:
        """How many calls have ended. Others still run."""
        return sum(call.ended is not None for call in self.calls)

    async def _do(self, step: Any, runtime: Runtime) -> Any:
        if isinstance(step, UntilCancelled):
            try:
                await runtime.sleep(3600)
            except runtime.cancelled:
                if step.seconds:
                    await runtime.sleep(step.seconds)
                if step.then is _PASSED_ON:
                    raise
            return await super()._do(step.then, runtime)
        if not isinstance(step, Joined | Until):
            return await super()._do(step, runtime)
        for _ in range(5000):
            if len(self.calls) >= step.calls if isinstance(step, Joined) else step.met():
                break
            await runtime.sleep(MOMENT)
        return await super()._do(step.then, runtime)


class World:
    """One runtime in which tests run calls. Each subclass is one."""

    name: ClassVar[str]
    is_async: ClassVar[bool] = True

    def run(self, main: Callable[[], Any]) -> Any:
        """Run a coroutine function (in threads: a plain function) to its end."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` inside an async world."""
        raise NotImplementedError

    def now(self) -> float:
        """Return the clock of this world, in seconds. In virtual time it goes on from call to call."""
        return time.monotonic()

    def close(self) -> None:
        """Release what the world holds, at the end of a test."""

    def dependency(self, *script: Any) -> Dependency:
        """Return a dependency that follows `script`: values, exceptions, `Slow`, `Hang`, `Joined`, `Until`."""
        return Dependency(script, is_async=self.is_async)

    def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a guarded function and return its result, or raise its error."""
        return self.run(lambda: fn(*args, **kwargs))

    def outcome(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        """Call a guarded function, and return how it ended."""
        try:
            return Outcome(self.call(fn, *args, **kwargs))
        except Exception as error:
            return Outcome(error=error)

    def nested(self, guard: Callable[[Any], Any]) -> Callable[[], Any]:
        """Return a function that `guard` guards twice: a call that makes another one while it holds its places."""

        async def fetch() -> Any:
            return "served"

        @guard
        async def outer() -> Any:
            return await guarded()

        guarded = guard(fetch)
        return outer

    def together(self, *calls: Callable[[], Any]) -> list[Outcome]:
        """Run all calls at once (each in its own task or thread, begun in this order), and return how each ended."""
        raise NotImplementedError


class _AsyncioWorld(World):
    def __init__(self) -> None:
        self.runner = asyncio.Runner(loop_factory=self.new_loop)

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def run(self, main: Callable[[], Any]) -> Any:
        async def entry() -> Any:
            return await main()

        return self.runner.run(entry())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def close(self) -> None:
        self.runner.close()

    def together(self, *calls: Callable[[], Any]) -> list[Outcome]:
        async def all_of_them() -> list[Outcome]:
            return await asyncio.gather(*(_outcome(call) for call in calls))

        return self.run(all_of_them)


class AsyncioWorld(_AsyncioWorld):
    """Calls on the event loop of asyncio."""

    name = "asyncio"


class UvloopWorld(_AsyncioWorld):
    """Calls on uvloop, whose clock counts milliseconds."""

    name = "uvloop"

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()


class VirtualWorld(_AsyncioWorld):
    """Calls in virtual time."""

    name = "virtual"

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return VirtualLoop()

    def now(self) -> float:
        return self.runner.get_loop().time()


class TrioWorld(World):
    """Calls on trio; each `run` is a loop of its own."""

    name = "trio"

    def run(self, main: Callable[[], Any]) -> Any:
        async def entry() -> Any:
            return await main()

        return trio.run(entry)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def together(self, *calls: Callable[[], Any]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(calls)

        async def one(number: int, call: Callable[[], Any]) -> None:
            outcomes[number] = await _outcome(call)

        async def all_of_them() -> None:
            async with trio.open_nursery() as nursery:
                for number, call in enumerate(calls):
                    nursery.start_soon(one, number, call)
                    await trio.testing.wait_all_tasks_blocked()

        trio.run(all_of_them)
        return [outcome or Outcome() for outcome in outcomes]


class ThreadWorld(World):
    """Calls of plain functions, in the caller's thread."""

    name = "threads"
    is_async = False

    def __init__(self) -> None:
        self._dependencies: list[Dependency] = []

    def close(self) -> None:
        for dependency in self._dependencies:
            dependency.release()

    def run(self, main: Callable[[], Any]) -> Any:
        return main()

    def dependency(self, *script: Any) -> Dependency:
        dependency = super().dependency(*script)
        self._dependencies.append(dependency)
        return dependency

    def nested(self, guard: Callable[[Any], Any]) -> Callable[[], Any]:
        @guard
        def outer() -> Any:
            return guarded()

        guarded = guard(lambda: "served")
        return outer

    def together(self, *calls: Callable[[], Any]) -> list[Outcome]:
        outcomes: list[Outcome] = [Outcome()] * len(calls)

        def one(number: int, call: Callable[[], Any]) -> None:
            try:
                outcomes[number] = Outcome(call())
            except Exception as error:
                outcomes[number] = Outcome(error=error)

        threads = []
        for number, call in enumerate(calls):
            thread = threading.Thread(target=one, args=(number, call))
            thread.start()
            threads.append(thread)
            thread.join(0.01)  # long enough to begin its wait
        for thread in threads:
            thread.join()
        return outcomes


async def _outcome(call: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(await call())
    except Exception as error:
        return Outcome(error=error)


WORLDS: tuple[type[World], ...] = (AsyncioWorld, UvloopWorld, VirtualWorld, TrioWorld, ThreadWorld)
"""All worlds; the fixture `world` runs a test in each but uvloop."""
