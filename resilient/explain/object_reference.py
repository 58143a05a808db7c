"""Object references, `MODULE:NAME`: how `explain`, `simulate` and scenario files name pipelines and other code.

shop:users                      a pipeline, or a single policy
shop:get_user                   a guarded function, or a method: `shop:Users.get`
shop:client                     an httpx or httpx2 client, or a transport, with a pipeline
shop:app                        a `ServerMiddleware`, or an application with one
shop:Users                      an object with a `.pipeline`
shop:make_users                 a function without arguments that returns one of these
shop:clients["eu"].users[0]     attributes and items of a module
shop.py:users                   the same in a file
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from resilient._validation import meant
from resilient.explain.error_location import located
from resilient.explain.subject import Subject, guarded, quiet_stdout, seen, subject_of

__all__ = ["PIPELINES", "Wanted", "imported", "named"]


def named(target: str, *, decorators: bool = True) -> Subject:
    """The subject that `MODULE:NAME` refers to; `decorators` as in `subject_of`.

    Raises `ValueError`, in one line with what is wrong and what would be right.
    """
    found = imported(target)
    try:
        return subject_of(repr(target), found, decorators=decorators)
    except TypeError as error:
        raise ValueError(str(error)) from None


Wanted = tuple[str, Callable[[str, Any], bool]]
"""The kind of object to look for: its name in messages, and a test of the name and the value of an attribute."""
PIPELINES: Wanted = ("pipelines", lambda name, value: seen(name, value) is not None)


def imported(path: str, wanted: Wanted = PIPELINES) -> Any:
    """The object that `MODULE:NAME` or `FILE.py:NAME` refers to. Modules in the working directory are found too. Output
    of the module while it is imported goes to standard error.

    Args:
        wanted: what a message lists if there is no such name.

    Raises `ValueError`, in one line; for an error in the module's code, with the file and the line.
    """
    file, suffix, rest = path.partition(".py:")
    module_name, colon, name = (file + ".py", suffix, rest) if suffix else path.partition(":")
    if not (colon and module_name and name):
        raise ValueError(f"{path!r} must be MODULE:NAME{_missing_name(path)}")
    with _importing(path):
        module = _of_file(path, Path(module_name)) if suffix else _module(path, module_name)
    found: Any = module
    for part in _parts(path, name):
        found = _step(path, module, found, part, wanted)
    return found


def _missing_name(path: str) -> str:
    module = path.removesuffix(":").removesuffix(".py").replace("/", ".").strip(".")
    return f", as in {module}:users" if module and ":" not in module else ""


@contextlib.contextmanager
def _importing(path: str) -> Iterator[None]:
    """Within this context, imports look in the working directory first, and their errors become a `ValueError` of one
    line."""
    try:
        here = str(Path.cwd())
    except OSError as error:  # it was removed
        raise ValueError(f"{path!r} cannot be imported: the working directory: {error.strerror}") from None
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with quiet_stdout():
            yield
    except _NotFound as error:
        raise ValueError(str(error)) from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path!r} cannot be imported: {located(error)}") from None


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
            raise _NotFound(
                f"there is no module {name!r}, of {path!r}{meant(error.name, _beside(error.name))}"
            ) from None
        raise


def _beside(missing: str) -> list[str]:
    """Full names of the modules beside a missing one, in its package or in the working directory."""
    package, _, _ = missing.rpartition(".")
    places = [str(Path.cwd())] if not package else getattr(sys.modules.get(package), "__path__", [])
    return [f"{package}.{each.name}" if package else each.name for each in pkgutil.iter_modules(places)]


def _of_file(path: str, file: Path) -> ModuleType:
    """The module of a file, imported under the name that it has in its package."""
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
    """The attributes (strings) and items (constants) from a module to the named object."""
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
            raise ValueError(f"{path!r} must be MODULE:NAME: write it without (): the function is called anyway")
        else:
            raise ValueError(wrong)
    return iter([node.id, *reversed(found)])


def _step(path: str, module: ModuleType, found: Any, part: str | ast.Constant, wanted: Wanted) -> Any:
    """An attribute or an item of the object found so far."""
    try:
        if not isinstance(part, str):
            return found[part.value]
        still = inspect.getattr_static(found, part, None)
        if isinstance(still, property | functools.cached_property) and guarded(still) is not None:
            return still  # reading it would call the guarded function
        with quiet_stdout():
            return getattr(found, part)
    except (AttributeError, LookupError, TypeError):
        pass
    except Exception as error:  # of a property
        raise ValueError(f"{path!r} cannot be read: {located(error)}") from None
    if isinstance(found, ModuleType) and hasattr(found, "__path__") and isinstance(part, str):
        below = f"{found.__name__}.{part}"
        with contextlib.suppress(ModuleNotFoundError), _importing(path):
            if importlib.util.find_spec(below) is not None:
                return importlib.import_module(below)
    shown = repr(part if isinstance(part, str) else part.value)
    owner = repr(module.__name__) if found is module else f"{module.__name__}'s {type(found).__name__}"
    raise ValueError(f"there is no {shown} in {owner}{_there(found, part, wanted)}")


def _there(found: Any, part: str | ast.Constant, wanted: Wanted) -> str:
    """The end of a message, with the names that exist; empty if there are none."""
    names = []
    for key, value in sorted(getattr(found, "__dict__", {}).items()):
        with contextlib.suppress(Exception):
            if not key.startswith("_") and wanted[1](key, value):
                names.append(key)
    return f"; its {wanted[0]} are {', '.join(names)}{meant(part, names)}" if names else ""
