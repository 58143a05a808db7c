"""Checks of the fields of a fault: each returns the value, or raises `TypeError` or `ValueError` in one line that names
the field, the value and what would be right.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from resilient import _validation
from resilient.core.pushback import LONGEST_PAUSE

__all__ = ["CHECKS", "Target"]

Target: TypeAlias = int | str
"""The number of a server (from 1), or a key: a host, a path, a tenant, the name of a service."""


def _from_zero(argument: str, value: object) -> float:
    return _validation.seconds(argument, value, zero=True)


def _end(argument: str, value: object) -> float | None:
    return None if value is None else _validation.seconds(argument, value)


def _asked(argument: str, value: object) -> float | None:
    if value is None:
        return None
    seconds = _from_zero(argument, value)
    if seconds > LONGEST_PAUSE:  # clients ignore a longer one, or read it as a point in time
        raise ValueError(f"{argument} must be at most {LONGEST_PAUSE:.0f} seconds (a year), got {value!r}")
    return seconds


def _share(argument: str, value: object) -> float:
    return _validation.share(argument, value, zero=True)


def _size(argument: str, value: object) -> int:
    return _validation.count(argument, value, least=0)


def _factor(argument: str, value: object) -> float:
    number = _validation.amount(argument, value)
    if not number:
        raise ValueError(f"{argument} must be a finite number > 0, got {value!r}")
    return number


def _targets(argument: str, value: object) -> tuple[Target, ...]:
    if isinstance(value, int | str):
        value = (value,)
    if not isinstance(value, tuple | list):
        raise TypeError(f"{argument} must be a number of a server, a key, or several of them, got {value!r}")
    return tuple(
        _validation.name(argument, each) if isinstance(each, str) else _validation.count(argument, each)
        for each in value
    )


def _status(argument: str, value: object) -> int | None:
    if value is None:
        return None
    status = _validation.count(argument, value)
    if not 400 <= status <= 599:
        raise ValueError(f"{argument} must be an HTTP status from 400 to 599, got {value!r}")
    return status


def _error(argument: str, value: object) -> Callable[[str], Exception] | None:
    """A class of exceptions, or a function that makes an exception from a message."""
    if value is None:
        return None
    found = _named(argument, value) if isinstance(value, str) else value
    if isinstance(found, type):
        fits = issubclass(found, Exception) and not issubclass(found, StopIteration)
    else:
        fits = callable(found)
    if not fits:
        instead = f": write {type(found).__name__}" if isinstance(found, Exception) else _with_colon(value)
        kind = 'an exception\'s class or its name ("ConnectionError", "package.module:Name")'
        raise ValueError(f"{argument} must be {kind}, or a function that makes one, got {value!r}{instead}")
    return found if isinstance(found, type) else _validation.callback(argument, found)


def _call(argument: str, value: object) -> Callable[..., Any] | None:
    if value is None:
        return None
    found = _named(argument, value) if isinstance(value, str) else value
    if not callable(found):
        kind = 'a function or its name ("package.module:name")'
        raise ValueError(f"{argument} must be {kind}, got {value!r}{_with_colon(value)}")
    return _validation.callback(argument, found)


def _named(argument: str, name: str) -> object:
    """The object of this name, or None if there is none."""
    module, _, path = name.rpartition(":")
    try:
        found: Any = importlib.import_module(module or "builtins")
        return functools.reduce(getattr, path.split("."), found)
    except (AttributeError, ValueError):
        return None
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            return None
        raise ValueError(_unimportable(argument, name, error)) from None
    except (Exception, SystemExit) as error:
        raise ValueError(_unimportable(argument, name, error)) from None


def _unimportable(argument: str, name: str, error: BaseException) -> str:
    return f"{argument} must be something that can be imported, got {name!r}: {_validation.in_a_line(error)}"


def _with_colon(value: object) -> str:
    """For messages: the right form of "package.module.Name"."""
    if not isinstance(value, str) or ":" in value or "." not in value:
        return ""
    module, _, name = value.rpartition(".")
    return f': write "{module}:{name}"'


def _any(argument: str, value: object) -> object:
    return value


def _phase(argument: str, value: object) -> str:
    if value not in ("connect", "read"):
        raise ValueError(f'{argument} must be "connect" or "read", got {value!r}')
    return str(value)


CHECKS: Mapping[str, Callable[[str, object], Any]] = {
    "start": _from_zero,
    "end": _end,
    "targets": _targets,
    "share": _share,
    "status": _status,
    "error": _error,
    "retry_after": _asked,
    "value": _any,
    "call": _call,
    "low": _from_zero,
    "high": _from_zero,
    "factor": _factor,
    "phase": _phase,
    "keep": _size,
    "piece": _validation.count,
    "pause": _from_zero,
}
