"""What a result is, by its type.

A result may be any object. Some answer every attribute (`addict.Dict`, a proxy of xmlrpc), some do work when they are
asked for one (a lazy object, werkzeug's `LocalProxy`). So no result is asked what it is: its type is looked at.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import GeneratorType
from typing import Any

__all__ = ["CLOSING_SECONDS", "closing_of", "is_awaitable", "is_of_one_use"]

CLOSING_SECONDS = 1.0
"""So long a caller waits for a result to be closed that it does not get. The closing itself goes on after that."""


def _of_type(result: Any, name: str) -> Any:
    """The attribute `name` as the classes of `result` define it, or None. A class that defines `__class__`, too, passes
    everything on to an object behind it, of which this says nothing."""
    for kind in type(result).__mro__:
        if name in vars(kind):
            return None if "__class__" in vars(kind) else vars(kind)[name]
    return None


def is_awaitable(result: Any) -> bool:
    """Whether `result` can be awaited."""
    if _of_type(result, "__await__") is not None:
        return True
    return type(result) is GeneratorType and bool(result.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def is_of_one_use(result: Any) -> bool:
    """Whether `result` is a response (it has an HTTP status) or a stream (an iterator, a file): what one caller reads,
    once. Sessions, connections and clients are not: others may use them too."""
    if any(_of_type(result, name) is not None for name in ("__anext__", "__next__", "status_code")):
        return True
    found = (inspect.getattr_static(result, name, None) for name in ("status_code", "status"))
    return any(type(status) is int and 100 <= status <= 599 for status in found)


def closing_of(result: Any, *, awaits: bool) -> Callable[[], Any] | None:
    """What closes `result`: its `aclose` where that can be awaited, else its `close`; None: it cannot be closed."""
    for name in ("aclose", "close") if awaits else ("close",):
        if callable(_of_type(result, name)):
            return getattr(result, name)  # type: ignore[no-any-return]
    return None
