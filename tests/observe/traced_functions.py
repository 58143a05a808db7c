"""Functions whose calls are traced in tests."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["named", "returns", "scripted"]


def named(fn: Any, name: str = "get_user") -> Any:
    """The function, under a name of its own."""
    fn.__name__ = fn.__qualname__ = name
    return fn


def scripted(*steps: Any) -> Any:
    """A coroutine function whose calls follow the steps: it raises an error, sleeps for seconds, or hangs ("hang")."""
    left = list(steps)

    async def get_user() -> str:
        step = left.pop(0) if left else None
        if isinstance(step, BaseException):
            raise step
        if step == "hang":
            await asyncio.Event().wait()
        if isinstance(step, float):
            await asyncio.sleep(step)
        return step if isinstance(step, str) else "Ada"

    return named(get_user)


def returns(value: Any) -> Any:
    async def get_user() -> Any:
        return value

    return named(get_user)
