"""Facts about a result, found from its type: whether it can be awaited, is a response or stream, and how it is closed.

A result may be any object. Some objects have every attribute (`addict.Dict`, a proxy of xmlrpc), some do work when an
attribute is read (a lazy object, werkzeug's `LocalProxy`). So no attribute of a result is read here: only its type is
examined.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import GeneratorType
from typing import Any

__all__ = ["CLOSING_SECONDS", "closing_of", "is_awaitable", "is_of_one_use"]

CLOSING_SECONDS = 1.0
"""The most seconds that a caller waits for the closing of a result that it does not get. The closing goes on after
that."""


def _of_type(result: Any, name: str) -> Any:
    """The attribute `name` as a class of `result` defines it; None: no class does. None, too, for a class that defines
    `__class__`: it is a proxy, and its methods say nothing about the object behind it."""
    for kind in type(result).__mro__:
        if name in vars(kind):
            return None if "__class__" in vars(kind) else vars(kind)[name]
    return None


def is_awaitable(result: Any) -> bool:
    """Whether `result` can be awaited: it has `__await__`, or is a coroutine made of a generator."""
    if _of_type(result, "__await__") is not None:
        return True
    return type(result) is GeneratorType and bool(result.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def is_of_one_use(result: Any) -> bool:
    """Whether `result` is a response (it has an HTTP status) or a stream (an iterator, a file), which one caller reads,
    once. Sessions, connections and clients are not: other callers may use them too."""
    if any(_of_type(result, name) is not None for name in ("__anext__", "__next__", "status_code")):
        return True
    found = (inspect.getattr_static(result, name, None) for name in ("status_code", "status"))
    return any(type(status) is int and 100 <= status <= 599 for status in found)


def closing_of(result: Any, *, awaits: bool) -> Callable[[], Any] | None:
    """The method that closes `result`: its `aclose`, if the caller `awaits` and it has one, else its `close`; None:
    `result` has neither."""
    for name in ("aclose", "close") if awaits else ("close",):
        if callable(_of_type(result, name)):
            return getattr(result, name)  # type: ignore[no-any-return]
    return None
