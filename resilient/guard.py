"""What can be guarded, and how a guarded function keeps looking like itself.

Coroutine functions, plain functions, methods, class and static methods, partials and objects with `__call__` are
guarded; whatever else can be called is refused when it is decorated, in a sentence. Nothing is silently unguarded: a
`def` that turns out to return an awaitable raises a `TypeError` at the call.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, Literal

from resilient.call import Call, name_of
from resilient.events import AttemptFailed, AttemptStarted, Channel
from resilient.policy import Layer
from resilient.runtime.threads import Stopped

__all__ = ["async_leaf", "dress", "kind_of", "observed", "sync_leaf"]

_KIND_FLAGS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE


def kind_of(fn: Any) -> Literal["async", "sync"]:
    """How `fn` must be called. Raises `TypeError` when it cannot be guarded."""
    if type(fn) is FunctionType and not fn.__dict__:  # nor marked by `inspect.markcoroutinefunction`
        flags = fn.__code__.co_flags & _KIND_FLAGS
        if not flags & ~inspect.CO_COROUTINE:
            return "async" if flags else "sync"
    if inspect.isawaitable(fn):
        raise TypeError(f"got {fn!r}: pass the function itself, not the coroutine that calling it made")
    if not callable(fn):
        raise TypeError(f"cannot guard {fn!r}: it cannot be called")
    if inspect.isclass(fn):
        raise TypeError(f"cannot guard the class {fn.__qualname__}: guard its methods, or a function that makes one")
    target = fn
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target) and not inspect.iscoroutinefunction(target):  # a mark goes before `__call__`
        target = type(target).__call__
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        raise TypeError(
            f"cannot guard the generator {name_of(fn)}: its items are made after the call has returned, "
            "where no policy would see them; guard the function that fetches one item or the whole list"
        )
    return "async" if inspect.iscoroutinefunction(target) else "sync"


def dress(guarded: Callable[..., Any], fn: Any) -> Callable[..., Any]:
    """Give `guarded` the name, docstring, signature and annotations of `fn`."""
    if inspect.isroutine(fn):
        return functools.update_wrapper(guarded, fn)
    target = fn
    while isinstance(target, functools.partial):
        target = target.func
    functools.update_wrapper(guarded, target, updated=())
    call = target if inspect.isroutine(target) else type(target).__call__
    guarded.__annotations__ = getattr(call, "__annotations__", {})
    guarded.__doc__ = target.__doc__ if fn.__doc__ == functools.partial.__doc__ else fn.__doc__
    guarded.__name__ = name_of(fn).rpartition(".")[2]
    guarded.__qualname__ = name_of(fn)
    guarded.__wrapped__ = fn  # type: ignore[attr-defined]  # whose signature it has
    return guarded


def async_leaf(call: Call) -> Any:
    """Call a coroutine function."""
    return call.fn(*call.args, **call.kwargs)


async def sync_leaf(call: Call) -> Any:
    """Call a plain function, whose `StopIteration` must get past the coroutines around it."""
    try:
        result = call.fn(*call.args, **call.kwargs)
    except StopIteration as error:
        raise Stopped(error) from None
    if hasattr(result, "__await__"):
        _refuse_awaitable(call, result)
    return result


def _refuse_awaitable(call: Call, result: Any) -> None:
    if inspect.iscoroutine(result):
        result.close()
    raise TypeError(
        f"{name_of(call.fn)} is a plain def but returned {type(result).__name__}, which must be awaited and would "
        "run unguarded: make it an async def"
    )


def observed(leaf: Layer, channel: Channel, pipeline: str) -> Layer:
    """`leaf`, telling of each attempt while somebody listens."""

    async def attempt(call: Call) -> Any:
        now, function = call.runtime.now, name_of(call.fn)
        begin = now()
        channel.emit(AttemptStarted(pipeline, begin, call.attempt, function))
        try:
            return await leaf(call)
        except BaseException as error:
            end = now()
            channel.emit(AttemptFailed(pipeline, end, call.attempt, function, error, end - begin))
            raise

    return lambda call: attempt(call) if channel.listeners else leaf(call)
