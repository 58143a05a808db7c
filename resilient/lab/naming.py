"""What is examined: how `explain` and `simulate` find it, by its name or as an object, and see what it guards.

    shop:users                      a pipeline, or a single policy
    shop:get_user                   a guarded function, or a method: `shop:Users.get`
    shop:client                     an httpx or httpx2 client, or a transport, with a pipeline of ours
    shop:app                        a `ServerMiddleware`, or an application that was given one
    shop:Users                      whatever has a `.pipeline`
    shop:make_users                 a function without arguments that returns one of these
    shop:clients["eu"].users[0]     attributes and items of a module
    shop.py:users                   the same in a file

A guarded function stands for its pipeline and is never called. A function without arguments that nothing guards is
called, for it may make a pipeline; what it is annotated to return decides where that can be known.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import inspect
import sys
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import tenacity

from resilient import events
from resilient.call import name_of
from resilient.errors import PipelineWarning
from resilient.http.asgi import ServerMiddleware, Shared
from resilient.http.chaos import HttpChaos
from resilient.http.transport import HttpTransport, SyncHttpTransport
from resilient.lab.blame import told
from resilient.pipeline import Pipeline
from resilient.policies.timeout import Timeout
from resilient.policy import Policy

__all__ = ["Function", "Subject", "imported", "named", "subject_of"]

Function = Literal["async", "def"]
Kind = Literal["pipeline", "policy", "function", "transport", "client", "middleware", "decorator"]

WANTED = "a pipeline, a policy, a guarded function, a transport or client with a pipeline, or a function that makes one"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined, and what is known of the calls that it guards.

    Attributes:
        kind: what it was found as.
        policy: the pipeline, or the single policy. Of several decorators on one function, a pipeline of them all, the
            outermost first. None for a decorator of another library's.
        guards: whether that is an `async def` or a plain `def`; None where it does not show.
        function: the guarded function itself, for its signature; it is never called.
        transport: the transport whose requests it guards; for a client, that of its own requests.
        timeout: a client's own timeout.
        admission: the gate that a `ServerMiddleware` puts in front of its application, within its `max_deadline`; None
            where it has neither.
        make: makes another one of a decorator of another library's.
    """

    kind: Kind
    policy: Policy | None
    guards: Function | None = None
    function: Callable[..., Any] | None = None
    transport: HttpTransport[Any] | None = None
    timeout: Any = None
    admission: Policy | None = None
    make: Callable[[], Any] | None = None


def named(target: str, *, decorators: bool = True) -> Subject:
    """What `MODULE:NAME` names; `decorators` as for `subject_of`.

    Raises `ValueError`, in one line that says what it is and what would be right.
    """
    found = imported(target)
    try:
        return subject_of(repr(target), found, decorators=decorators)
    except TypeError as error:
        raise ValueError(str(error)) from None


def subject_of(name: str, thing: Any, *, decorators: bool = True) -> Subject:
    """What an object is, for those who examine it; `name` is what messages call it. With `decorators=False`, decorators
    of other libraries, of which nothing is known, are none that can be examined.

    Raises `TypeError` for what is none, and for a function that fails to make one, in one line.
    """
    found = thing if isinstance(thing, Subject) else _seen(name, thing)
    if found is not None:
        return found
    made = _called(name, thing)
    found = _seen(name, made)
    if found is not None:
        return found
    if decorators and callable(made) and not inspect.isclass(made):
        return Subject("decorator", None, make=thing)
    due = "a pipeline, a policy or a decorator" if decorators else "a pipeline or a policy"
    raise TypeError(f"{name} must return {due}, and returned an object of type {type(made).__name__}")


# -- as an object ---------------------------------------------------------------------------------------------------


def _seen(name: str, thing: Any) -> Subject | None:
    """What it can be seen to be, without calling anything."""
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
    guarded = _guarded(thing)
    if guarded is not None:
        return guarded
    try:
        held = getattr(thing, "pipeline", None)
    except Exception:  # of a property
        held = None
    return Subject("pipeline", held) if isinstance(held, Policy) else None


def _middleware(thing: Any) -> ServerMiddleware | Shared | None:
    """A middleware of ours: itself, or the one that an application of Starlette, FastAPI or Litestar was given."""
    if isinstance(thing, ServerMiddleware | Shared):
        return thing
    for each in (*_listed(thing, "user_middleware"), *_listed(thing, "middleware")):
        if isinstance(each, Shared):
            return each
        if getattr(each, "cls", None) is ServerMiddleware:  # the application makes it when its first request comes
            with events.apart():
                return ServerMiddleware(thing, *each.args, **each.kwargs)
    return None


def _listed(thing: Any, name: str) -> list[Any]:
    """The attribute of this name, where it is a list."""
    try:
        found = getattr(thing, name, None)
    except Exception:  # of a property
        return []
    return found if isinstance(found, list) else []


def _admission(pipeline: Pipeline) -> Policy | None:
    """What a middleware does to requests that have come: its gate, within its `max_deadline`."""
    until, *gates = pipeline.policies
    if until.limit is None:
        return gates[0] if gates else None
    return Pipeline(Timeout(until.limit, name=until.name), *gates, classify=pipeline.classify)


def _of_transport(transport: HttpTransport[Any]) -> Subject:
    guards: Function = "def" if isinstance(transport, SyncHttpTransport) else "async"
    return Subject("transport", transport.pipeline, guards, transport=transport)


def _of_client(name: str, client: Any) -> Subject:
    """The pipeline of an httpx or httpx2 client: of its own transport, or else of all that are mounted."""
    mounted = (client._transport, *client._mounts.values())
    ours = [each for each in mounted if isinstance(each, HttpTransport)]
    if not ours:
        kind = f"{type(client).__module__.partition('.')[0]}.{type(client).__name__}"
        raise TypeError(f"{name} is a plain {kind}: no transport of resilient.http guards its requests")
    if ours[0] is not client._transport and len({id(each.pipeline._flow) for each in ours}) > 1:
        raise TypeError(f"{name} has mounts with several pipelines: name the transport of one of them")
    return replace(_of_transport(ours[0]), kind="client", timeout=client.timeout)


def _guarded(thing: Any) -> Subject | None:
    """The pipelines around a function: a method, a partial, an object with `__call__`, also behind other decorators."""
    while isinstance(thing, functools.partial | functools.cached_property):
        thing = thing.func
    if isinstance(thing, property):
        thing = thing.fget
    if not inspect.isroutine(thing) and not inspect.isclass(thing) and not hasattr(thing, "__wrapped__"):
        thing = type(thing).__call__ if callable(thing) else None
    stack: list[Pipeline] = []
    while thing is not None:
        around = getattr(thing, "__pipeline__", None)
        if isinstance(around, Pipeline) and (not stack or stack[-1] is not around):
            stack.append(around)
        function, thing = thing, getattr(thing, "__wrapped__", None)
    if not stack:
        return None
    guards: Function = "async" if inspect.iscoroutinefunction(function) else "def"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)  # it was given where the function was decorated
        policy = stack[0] if len(stack) == 1 else Pipeline(*stack)
    return Subject("function", policy, guards, function)


def _called(name: str, make: Any) -> Any:
    """What a function without arguments makes. Raises `TypeError` for whatever else it may be."""
    if inspect.isclass(make):
        hint = f": write {make.__name__}(...)" if issubclass(make, Policy) else ""
        raise TypeError(f"{name} must be {WANTED}, and is the class {make.__qualname__}{hint}")
    if not callable(make):
        raise TypeError(f"{name} must be {WANTED}, and is of type {type(make).__name__}")
    what = f"the function {name_of(make)}"
    why = _why_no_factory(make)
    if why is not None:
        raise TypeError(f"{name} must be {WANTED}, and is {what}, {why}")
    try:
        with _quiet_stdout(), events.apart():
            return make()
    except (Exception, SystemExit) as error:
        raise TypeError(f"{name} is {what}, which failed when it was called: {told(error)}") from None


def _why_no_factory(make: Callable[..., Any]) -> str | None:
    """Why a function that nothing guards is not called to see what it makes; None: it may make a pipeline."""
    target = inspect.unwrap(make)
    if isinstance(getattr(make, "retry", None), tenacity.BaseRetrying):
        return "which tenacity guards, and no pipeline: a Retry takes the same strategies"
    if inspect.iscoroutinefunction(target) or inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        return "which no pipeline guards"
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # a builtin's
        return "which no pipeline guards"
    needed = [
        each.name
        for each in signature.parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if needed:
        return f"which no pipeline guards, and which needs {', '.join(needed)}"
    try:
        returns = typing.get_type_hints(make).get("return", object)
    except Exception:  # a name that is there for type checkers only
        return None
    kind = typing.get_origin(returns) or returns
    plain = isinstance(kind, type) and kind is not object and kind.__module__ == "builtins"
    return f"which no pipeline guards, and which returns {kind.__name__}" if plain else None


# -- by its name ----------------------------------------------------------------------------------------------------


def imported(path: str) -> Any:
    """What `MODULE:NAME` or `FILE.py:NAME` names; modules in the working directory count. What a module prints while it
    is imported goes to standard error.

    Raises `ValueError`, in one line; of an error in the module's code it has the file and the line.
    """
    file, suffix, rest = path.partition(".py:")
    module_name, colon, name = (file + ".py", suffix, rest) if suffix else path.partition(":")
    if not (colon and module_name and name):
        raise ValueError(f"{path!r} must be MODULE:NAME{_missing_name(path)}")
    with _importing(path):
        module = _of_file(path, Path(module_name)) if suffix else _module(path, module_name)
    found: Any = module
    for part in _parts(path, name):
        found = _step(path, module, found, part)
    return found


def _missing_name(path: str) -> str:
    module = path.removesuffix(":").removesuffix(".py").replace("/", ".").strip(".")
    return f", as in {module}:users" if module and ":" not in module else ""


@contextlib.contextmanager
def _importing(path: str) -> Iterator[None]:
    """Imports find the working directory first, and their errors are told in a line."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with _quiet_stdout():
            yield
    except _NotFound as error:
        raise ValueError(str(error)) from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path!r} cannot be imported: {told(error)}") from None


class _NotFound(Exception):
    """There is no such module; the message is for the user."""


def _module(path: str, name: str) -> ModuleType:
    if "/" in name or "\\" in name:
        right = name.replace("\\", "/").strip("./").replace("/", ".")
        raise _NotFound(f"{path!r} must be MODULE:NAME: write {right}:{path.partition(':')[2]}")
    if not all(part.isidentifier() for part in name.split(".")):
        hint = f": write {name.strip('.')}:{path.partition(':')[2]}" if name.startswith(".") else ""
        raise _NotFound(f"{path!r} must be MODULE:NAME, with the full name of a module, got {name!r}{hint}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise _NotFound(f"there is no module {name!r}, of {path!r}") from None
        raise


def _of_file(path: str, file: Path) -> ModuleType:
    """The module of a file, by the name that it has in its package."""
    if not file.is_file():
        raise _NotFound(f"there is no file {str(file)!r}, of {path!r}")
    file = file.resolve()
    parts = [] if file.stem == "__init__" else [file.stem]
    root = file.parent
    while (root / "__init__.py").exists():
        parts.insert(0, root.name)
        root = root.parent
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    module = importlib.import_module(".".join(parts))
    if Path(getattr(module, "__file__", None) or "").resolve() != file:
        where = getattr(module, "__file__", None) or "no file"
        raise _NotFound(f"{path!r} cannot be imported: another module is called {module.__name__!r} ({where})")
    return module


def _parts(path: str, name: str) -> Iterator[str | ast.Constant]:
    """The attributes (strings) and items (constants) on the way from a module to what is named."""
    wrong = f"{path!r} must be MODULE:NAME, where NAME is of attributes and items, as in users or clients['eu'].users"
    try:
        node: ast.AST = ast.parse(name, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(wrong) from None
    found: list[str | ast.Constant] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            found.append(node.attr)
            node = node.value
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            found.append(node.slice)
            node = node.value
        elif isinstance(node, ast.Call) and not (node.args or node.keywords):
            raise ValueError(f"{path!r} must be MODULE:NAME: write it without (), the function is called to see")
        else:
            raise ValueError(wrong)
    return iter([node.id, *reversed(found)])


def _step(path: str, module: ModuleType, found: Any, part: str | ast.Constant) -> Any:
    """The attribute or the item of what has been found so far."""
    try:
        if not isinstance(part, str):
            return found[part.value]
        still = inspect.getattr_static(found, part, None)
        if isinstance(still, property | functools.cached_property) and _guarded(still) is not None:
            return still  # reading it would call what is guarded
        with _quiet_stdout():
            return getattr(found, part)
    except (AttributeError, LookupError, TypeError):
        pass
    except Exception as error:  # of a property
        raise ValueError(f"{path!r} cannot be had: {told(error)}") from None
    if isinstance(found, ModuleType) and hasattr(found, "__path__") and isinstance(part, str):
        below = f"{found.__name__}.{part}"
        with contextlib.suppress(ModuleNotFoundError), _importing(path):
            if importlib.util.find_spec(below) is not None:
                return importlib.import_module(below)
    shown = repr(part if isinstance(part, str) else part.value)
    owner = repr(module.__name__) if found is module else f"{module.__name__}'s {type(found).__name__}"
    raise ValueError(f"there is no {shown} in {owner}{_there(found)}")


def _there(found: Any) -> str:
    """What could have been meant."""
    names = []
    for key, value in sorted(getattr(found, "__dict__", {}).items()):
        with contextlib.suppress(Exception):
            if not key.startswith("_") and _seen(key, value) is not None:
                names.append(key)
    return f"; its pipelines are {', '.join(names)}" if names else ""


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """What the user's code prints goes to standard error: the other may be data for a program."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
