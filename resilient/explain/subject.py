"""The subject of `explain` and `simulate`: an object, its policies, and the calls that they guard.

A guarded function stands for its pipeline and is never called. A function without arguments and without a guard is
called, because it may make a pipeline, unless its return annotation excludes that.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import FunctionType, MethodType
from typing import Any, Literal

import tenacity

from resilient.core.call import name_of
from resilient.core.policy import Policy
from resilient.errors import PipelineWarning
from resilient.events.channel import hidden_pipelines
from resilient.explain.error_location import located
from resilient.http.chaos import HttpChaos
from resilient.http.sync_transport import SyncHttpTransport
from resilient.http.transport import HttpTransport
from resilient.pipeline import Pipeline
from resilient.pipeline.functions import unwrapped
from resilient.policies.timeout import Timeout
from resilient.server.asgi import ServerMiddleware, Shared

__all__ = ["Function", "Subject", "guarded", "quiet_stdout", "seen", "subject_of"]

Function = Literal["async", "def"]
Kind = Literal["pipeline", "policy", "function", "transport", "client", "middleware", "decorator"]

WANTED = "a pipeline, a policy, a guarded function, a transport or client with a pipeline, or a function that makes one"


@dataclass(frozen=True, slots=True)
class Subject:
    """An object with policies, and the facts that are known about the calls that they guard.

    Attributes:
        kind: of the object.
        policy: the pipeline, or the single policy. Of several decorators on one function, a pipeline of all of them,
            the outermost first. None for a decorator of another library.
        guards: whether the object guards an `async def` or a plain `def`; None if unknown.
        function: the guarded function itself, for its signature; it is never called.
        transport: the transport whose requests the policies guard; of a client, the transport of its own requests.
        timeout: of a client.
        admission: the gate that a `ServerMiddleware` puts in front of its application, within its `max_deadline`; None
            without both.
        make: makes a new decorator of another library.
    """

    kind: Kind
    policy: Policy | None
    guards: Function | None = None
    function: Callable[..., Any] | None = None
    transport: HttpTransport[Any] | None = None
    timeout: Any = None
    admission: Policy | None = None
    make: Callable[[], Any] | None = None


def subject_of(name: str, thing: Any, *, decorators: bool = True) -> Subject:
    """The subject that an object is.

    Args:
        name: of the object in messages.
        decorators: whether decorators of other libraries, whose policies are unknown, are accepted.

    Raises `TypeError`, in one line, for an object without policies, and for a function that fails to make one.
    """
    if type(thing) is Subject:
        return thing
    try:
        with hidden_pipelines():  # pipelines made here, of several decorators or of a middleware, are not registered
            found = seen(name, thing)
    except TypeError:
        raise
    except Exception as error:  # for example, a proxy without its object
        raise TypeError(f"{name} cannot be examined: {located(error)}") from None
    if found is not None:
        return found
    made = _called(name, thing)
    with hidden_pipelines():
        found = seen(name, made)
    if found is not None:
        return found
    if decorators and callable(made) and not inspect.isclass(made):
        return Subject("decorator", None, make=thing)
    due = "a pipeline, a policy or a decorator" if decorators else "a pipeline or a policy"
    raise TypeError(f"{name} must return {due}, and returned an object of type {type(made).__name__}")


def seen(name: str, thing: Any) -> Subject | None:
    """The subject that an object is, found without calling anything; None if it is not a subject."""
    if isinstance(thing, Policy):
        return Subject("pipeline" if isinstance(thing, Pipeline) else "policy", thing)
    if isinstance(thing, HttpTransport):
        return _of_transport(thing)
    middleware = _middleware(thing)
    if middleware is not None:
        return Subject("middleware", middleware.pipeline, "async", admission=_admission(middleware.pipeline))
    if isinstance(thing, HttpChaos):
        raise TypeError(f"{name} is a {type(thing).__name__}, which has no pipeline: name the transport around it")
    if {"_mounts", "_transport"} <= getattr(thing, "__dict__", {}).keys():
        return _of_client(name, thing)
    around = guarded(thing)
    if around is not None:
        return around
    try:
        held = getattr(thing, "pipeline", None)
    except Exception:  # of a property
        held = None
    return Subject("pipeline", held) if isinstance(held, Policy) else None


def _middleware(thing: Any) -> ServerMiddleware | Shared | None:
    """The middleware that an object is, or that an application of Starlette, FastAPI or Litestar has."""
    if isinstance(thing, ServerMiddleware | Shared):
        return thing
    for each in (*_listed(thing, "user_middleware"), *_listed(thing, "middleware")):
        if isinstance(each, Shared):
            return each
        if getattr(each, "cls", None) is ServerMiddleware:  # the application makes it at its first request
            with hidden_pipelines():
                return ServerMiddleware(thing, *each.args, **each.kwargs)
    return None


def _listed(thing: Any, name: str) -> list[Any]:
    """The attribute of this name, if it is a list; else an empty list."""
    try:
        found = getattr(thing, name, None)
    except Exception:  # of a property
        return []
    return found if isinstance(found, list) else []


def _admission(pipeline: Pipeline) -> Policy | None:
    """The part of a middleware's pipeline that acts on requests: its gate, within its `max_deadline`."""
    until, *gates = pipeline.policies
    if until.facts.time_limit is None:
        return gates[0] if gates else None
    return Pipeline(Timeout(until.facts.time_limit, name=until.name), *gates, classify=pipeline.classify)


def _of_transport(transport: HttpTransport[Any]) -> Subject:
    guards: Function = "def" if isinstance(transport, SyncHttpTransport) else "async"
    return Subject("transport", transport.pipeline, guards, transport=transport)


def _of_client(name: str, client: Any) -> Subject:
    """The pipeline of an httpx or httpx2 client: of its own transport, or else of its mounts."""
    mounted = (client._transport, *client._mounts.values())
    ours = [each for each in mounted if isinstance(each, HttpTransport)]
    if not ours:
        kind = f"{type(client).__module__.partition('.')[0]}.{type(client).__name__}"
        raise TypeError(f"{name} is a plain {kind}: no transport of resilient.http guards its requests")
    if ours[0] is not client._transport and len({id(each.given) for each in ours}) > 1:
        raise TypeError(f"{name} has mounts with several pipelines: name the transport of one of them")
    return replace(_of_transport(ours[0]), kind="client", timeout=client.timeout)


def guarded(thing: Any) -> Subject | None:
    """The pipelines around a function, a method, a partial, or an object with `__call__`, also behind other decorators;
    None without one."""
    while isinstance(thing, functools.partial | functools.cached_property):
        thing = thing.func
    owner = getattr(thing, "__self__", None)
    if isinstance(owner, Policy):  # a method of a policy, such as `call` or `close`
        return Subject("function", owner)
    if isinstance(thing, property):
        thing = thing.fget
    if not inspect.isroutine(thing) and not inspect.isclass(thing) and not hasattr(thing, "__wrapped__"):
        thing = type(thing).__call__ if callable(thing) else None
    stack: list[Pipeline] = []
    function = thing
    for function in unwrapped(thing):
        around = getattr(function, "__pipeline__", None)
        if isinstance(around, Pipeline) and (not stack or stack[-1] is not around):
            stack.append(around)
    if not stack:
        return None
    guards: Function = "async" if inspect.iscoroutinefunction(function) else "def"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)  # the warning was given where the function was decorated
        policy = stack[0] if len(stack) == 1 else Pipeline(*stack)
    return Subject("function", policy, guards, function)


def _called(name: str, make: Any) -> Any:
    """The result of a function without arguments. Raises `TypeError` for anything else."""
    if inspect.isclass(make):
        hint = f": write {make.__name__}(...)" if issubclass(make, Policy) else ""
        raise TypeError(f"{name} must be {WANTED}, and is the class {make.__qualname__}{hint}")
    if not _is_function(make):
        raise TypeError(f"{name} must be {WANTED}, and is of type {type(make).__name__}")
    what = f"the function {name_of(make)}"
    why = _why_no_factory(make)
    if why is not None:
        raise TypeError(f"{name} must be {WANTED}, and is {what}, {why}")
    try:
        with quiet_stdout(), hidden_pipelines():
            return make()
    except (Exception, SystemExit) as error:
        raise TypeError(f"{name} is {what}, which failed when it was called: {located(error)}") from None


_FUNCTIONS = FunctionType, MethodType, type(functools.cache(lambda: None))


def _is_function(make: Any) -> bool:
    """Whether an object is defined as a function. Other callable objects (tasks, commands, applications) and builtins
    are not called."""
    while isinstance(make, functools.partial):
        make = make.func
    return isinstance(make, _FUNCTIONS)


def _why_no_factory(make: Callable[..., Any]) -> str | None:
    """The reason why a function without a guard is not called; None: it may be called, because it may make a
    pipeline."""
    *_, target = unwrapped(make)
    if isinstance(getattr(make, "retry", None), tenacity.BaseRetrying):
        return "which tenacity guards, and no pipeline: a Retry takes the same strategies"
    if inspect.iscoroutinefunction(target) or inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        return "which no pipeline guards"
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # a builtin's
        return "which no pipeline guards"
    needed = [str(each) for each in signature.parameters.values() if each.default is each.empty]
    if needed:  # with *args it may be a decorator around anything
        return f"which no pipeline guards, and which needs {', '.join(needed)}"
    try:
        returns = typing.get_type_hints(make).get("return", object)
    except Exception:  # a name that only type checkers know
        return None
    kind = typing.get_origin(returns) or returns
    plain = isinstance(kind, type) and kind is not object and kind.__module__ == "builtins"
    return f"which no pipeline guards, and which returns {kind.__name__}" if plain else None


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send the output of the user's code to standard error, because standard output may be data for a program."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
