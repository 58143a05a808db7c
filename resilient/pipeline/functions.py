"""Functions: which can be guarded, how a guarded one keeps its signature, and the innermost layer, which calls it.

Coroutine functions, plain functions, methods, class and static methods, partials and objects with `__call__` are
guarded. Everything else that can be called is refused when it is decorated, and the message says what to do instead.
Nothing is silently unguarded: a `def` that returns an awaitable raises a `TypeError` at the call.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, Literal

from resilient.core.call import Call, name_of
from resilient.core.context import PipelineContext
from resilient.core.emit import attempt_failed, attempt_returned, attempt_started, count_request, observed
from resilient.core.layer import BoundLayer
from resilient.core.result import is_awaitable
from resilient.errors import Stopped

__all__ = ["async_leaf", "call_kind", "copy_signature", "plain_types", "refuse_awaitable", "sync_leaf", "unwrapped"]

_KIND_FLAGS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE


def call_kind(fn: Any) -> Literal["async", "sync"]:
    """Whether `fn` must be awaited ("async") or not ("sync"). Raises `TypeError` if it cannot be guarded."""
    if type(fn) is FunctionType and not fn.__dict__:  # `inspect.markcoroutinefunction` would set one
        flags = fn.__code__.co_flags & _KIND_FLAGS
        if not flags & ~inspect.CO_COROUTINE:
            return "async" if flags else "sync"
    if is_awaitable(fn):
        raise TypeError(f"got {fn!r}: pass the function itself, not the coroutine that it returns")
    if isinstance(fn, property | functools.cached_property):
        kind = type(fn).__name__
        raise TypeError(f"cannot guard {fn!r}: write the policy below @{kind}, where it guards the function")
    if not callable(fn):
        raise TypeError(f"cannot guard {fn!r}: it cannot be called")
    if inspect.isclass(fn):
        raise TypeError(f"cannot guard the class {fn.__qualname__}: guard its methods, or a function that makes one")
    target = fn
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target) and not inspect.iscoroutinefunction(target):  # the mark comes first
        target = type(target).__call__
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        raise TypeError(
            f"cannot guard the generator {name_of(fn)}: its items are made after the call has returned, "
            "where no policy would see them; guard the function that fetches one item or the whole list"
        )
    return "async" if inspect.iscoroutinefunction(target) else "sync"


def copy_signature(guarded: Callable[..., Any], fn: Any) -> Callable[..., Any]:
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


MOST_WRAPPED = 1_000
"""The most functions that `unwrapped` returns."""


def unwrapped(fn: Any) -> Iterator[Any]:
    """A function, and the functions that it wraps by decorators, outermost first. An object that answers to every
    attribute (a mock) seems to wrap others without end; so the number of functions is limited."""
    for _ in range(MOST_WRAPPED):
        if fn is None:
            return
        yield fn
        fn = getattr(fn, "__wrapped__", None)


def async_leaf(context: PipelineContext, attempt: BoundLayer | None = None) -> BoundLayer:
    """The innermost layer around a coroutine function. It calls the function; or, in its place, `attempt` with the
    call. An `attempt` that emits its own events (`BoundLayer.observes_itself`) needs no layer around it."""
    channel = context.channel

    def call_it(call: Call) -> Any:
        if channel.wants.observed:
            if channel.wants.attempts or channel.wants.surrounds:
                return observed(call, context, call.fn(*call.args, **call.kwargs))
            try:
                call.requests += 1  # `count_request`, inlined
            except AttributeError:
                count_request(call)
        kwargs = call.kwargs
        return call.fn(*call.args, **kwargs) if kwargs else call.fn(*call.args)

    if attempt is None:
        return BoundLayer(call_it, is_leaf=True, is_direct=True, attempts=context.counters)
    run = attempt.run

    def make_attempt(call: Call) -> Any:
        return observed(call, context, run(call)) if channel.wants.observed else run(call)

    attempts = context.counters
    return BoundLayer(run if attempt.observes_itself else make_attempt, is_leaf=True, waits=True, attempts=attempts)


def sync_leaf(context: PipelineContext, attempt: BoundLayer | None = None) -> BoundLayer:
    """The innermost layer around a plain function, in both forms. It calls the function, or `attempt` in place of
    it."""
    channel = context.channel
    make_attempt = None if attempt is None else attempt.run

    def plainly(call: Call, is_surrounded: bool = False) -> Any:
        begin = None
        if channel.wants.observed:
            if channel.wants.surrounds and not is_surrounded:
                return surrounded(call)
            begin = attempt_started(call, context)
        try:
            if make_attempt is None:
                kwargs = call.kwargs
                result = call.fn(*call.args, **kwargs) if kwargs else call.fn(*call.args)
            else:
                result = make_attempt(call)
        except BaseException as error:
            if begin is not None:
                attempt_failed(call, context, begin, error)
            if issubclass(type(error), StopIteration):
                raise Stopped(error) from None  # type: ignore[arg-type]  # a coroutine would turn it into a RuntimeError
            raise
        if type(result) not in plain_types:
            refuse_awaitable(call.fn, result)
        if begin is not None:
            attempt_returned(call, context, begin, result)
        return result

    def surrounded(call: Call) -> Any:
        run = functools.partial(plainly, call, True)
        for surround in channel.wants.surrounds:
            run = functools.partial(surround.run_attempt, call, context, run)
        return run()

    async def call_it(call: Call) -> Any:
        return plainly(call)

    direct = attempt is None
    return BoundLayer(call_it, plainly, is_leaf=True, is_direct=direct, waits=not direct, attempts=context.counters)


plain_types: set[type] = set()
"""Types of results that cannot be awaited, as seen so far: inspecting a type costs five times as much as this set."""

MOST_PLAIN = 256
"""The most types in `plain_types`, because some programs make new classes without end."""


def refuse_awaitable(fn: Callable[..., Any], result: Any) -> None:
    """Raise `TypeError` if the result of a plain function is awaitable; else add its type to `plain_types`."""
    if not is_awaitable(result):
        if len(plain_types) >= MOST_PLAIN:
            plain_types.clear()
        plain_types.add(type(result))
        return
    if inspect.iscoroutine(result):
        result.close()
    raise TypeError(
        f"{name_of(fn)} is a plain def but returned {type(result).__name__}, which must be awaited and would "
        "run unguarded: make it an async def"
    )
