"""The patterns of `peers`, as one writes them with the standard library alone."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from inspect import iscoroutinefunction
from typing import Any

from benchmarks.contenders.targets import Function

__all__ = ["Decorator", "asyncio_parts", "inside", "threading_parts"]

Decorator = Callable[[Any], Any]


def inside(manager: Callable[[float], AbstractContextManager[Any]], seconds: float) -> Decorator:
    """A decorator that makes each call inside its own `with manager(seconds)`."""

    def decorate(function: Function) -> Function:
        async def awaited(x: int) -> Any:
            with manager(seconds):
                return await function(x)

        def called(x: int) -> Any:
            with manager(seconds):
                return function(x)

        chosen = awaited if iscoroutinefunction(function) else called
        chosen.__code__ = chosen.__code__.replace()  # code objects are not shared: see `measure`
        return chosen

    return decorate


def asyncio_parts() -> dict[str, Decorator]:
    """Decorators of an `async def`, by pattern, with asyncio alone."""
    slots = asyncio.Semaphore(50)

    def semaphore(function: Function) -> Function:
        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            async with slots:
                return await function(*args, **kwargs)

        return guarded

    def timeout(function: Function) -> Function:
        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            async with asyncio.timeout(2.0):
                return await function(*args, **kwargs)

        return guarded

    def loop(function: Function) -> Function:
        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            for attempt in range(3):
                try:
                    return await function(*args, **kwargs)
                except Exception:
                    if attempt == 2:
                        raise
                await asyncio.sleep(0)

        return guarded

    return {"retry": loop, "retry, no wait": loop, "bulkhead": semaphore, "timeout": timeout}


def threading_parts() -> dict[str, Decorator]:
    """Decorators of a `def`, by pattern, with the standard library alone."""
    slots = threading.BoundedSemaphore(50)

    def semaphore(function: Function) -> Function:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            with slots:
                return function(*args, **kwargs)

        return guarded

    def loop(function: Function) -> Function:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            for attempt in range(3):
                try:
                    return function(*args, **kwargs)
                except Exception:
                    if attempt == 2:
                        raise
                time.sleep(0)

        return guarded

    return {"retry": loop, "retry, no wait": loop, "bulkhead": semaphore}
