"""The functions that get guarded: one succeeds, one fails, one alternates, one stays in flight.

Each exists as `async def` and as `def`. They do as little as possible, so that the cost of the guard shows; a real call
costs thousands of times more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Self

__all__ = ["Failed", "Function", "Stage", "bare", "fail", "failing", "flaky", "plain"]

Function = Callable[[int], Any]


class Failed(Exception):
    """The error that the guarded functions of the benchmarks raise."""


async def bare(x: int) -> int:
    """Return the argument: the bare await that async figures are multiples of."""
    return x


def plain(x: int) -> int:
    """Return the argument: the plain call that figures of `def` are multiples of."""
    return x


async def failing(x: int) -> int:
    """Raise `Failed` at every call, from an `async def`."""
    raise Failed


def fail(x: int) -> int:
    """Raise `Failed` at every call, from a plain `def`."""
    raise Failed


def flaky(is_async: bool) -> Function:
    """A function that fails on every second call, so a call that a Retry guards is one failure and one success."""
    fails = False

    async def alternating(x: int) -> int:
        nonlocal fails
        fails = not fails
        if fails:
            raise Failed
        return x

    def alternate(x: int) -> int:
        nonlocal fails
        fails = not fails
        if fails:
            raise Failed
        return x

    return alternating if is_async else alternate


class Stage:
    """Calls functions, in one event loop if they are async, and keeps calls in flight. A context manager: at its end,
    those calls end, too."""

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async
        self.runner = asyncio.Runner()
        self._leave = threading.Event()
        self._inside: set[asyncio.Task[Any]] = set()  # an event loop keeps only weak references

    def __enter__(self) -> Self:
        self.runner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._leave.set()
        self.runner.close()

    def call(self, function: Callable[[Any], Any], argument: Any = 1) -> Any:
        """Call the function once, and return its result."""

        async def once() -> Any:
            return await function(argument)

        return self.runner.run(once()) if self.is_async else function(argument)

    def trip(self, decorate: Callable[[Function], Function]) -> Function:
        """A guarded function whose circuit is open. Raises AssertionError if 200 failures do not open it."""
        guarded = decorate(failing if self.is_async else fail)
        for _ in range(200):
            try:
                self.call(guarded)
            except Failed:
                continue
            except Exception:
                return guarded
        raise AssertionError("200 consecutive failures did not open the circuit")

    def fill(self, decorate: Callable[[Function], Function]) -> Function:
        """A guarded function with one call in flight until the stage ends."""
        entered = threading.Event()

        async def staying(x: int) -> int:
            entered.set()
            await asyncio.get_running_loop().create_future()
            return x

        def stay(x: int) -> int:
            entered.set()
            self._leave.wait()
            return x

        async def start() -> None:
            async def enter() -> None:
                await guarded(1)

            self._inside.add(asyncio.get_running_loop().create_task(enter()))
            for _ in range(20):
                await asyncio.sleep(0)

        guarded = decorate(staying if self.is_async else stay)
        if self.is_async:
            self.runner.run(start())
        else:
            threading.Thread(target=guarded, args=(1,), daemon=True).start()
        assert entered.wait(5), "the call that should fill the bulkhead never began"
        return guarded
