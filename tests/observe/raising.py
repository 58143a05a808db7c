"""The error of a call, for tests of reports of errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["raised"]


async def raised(call: Callable[..., Any], *args: Any) -> BaseException:
    """The error that a call raises."""
    try:
        await call(*args)
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")
