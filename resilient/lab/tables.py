"""Tables of a scenario file, read strictly: each key is taken once, and what is left over is an error.

Every mistake is a `ScenarioError` of one line, which begins with the path of the key: `load[1].rate must be ...`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any, TypeVar

__all__ = ["ScenarioError", "Table", "as_text", "as_whole", "build"]

T = TypeVar("T")


class ScenarioError(ValueError):
    """A scenario cannot be read; the message is one line that names the key, and says what is allowed."""


class Table:
    """A table whose keys are taken one by one; `end` complains of those that are left."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise ScenarioError(f"{where or 'a scenario'} must be a table, got {data!r}")
        self.left = dict(data)
        self.where = where
        self.known: list[str] = []

    def path(self, key: str) -> str:
        """A key with the path of its table: `service.link.loss`."""
        return f"{self.where}.{key}" if self.where else key

    def take(self, key: str, default: Any = MISSING) -> Any:
        """The value of a key, or `default` where it is missing. Raises `ScenarioError` where there is neither."""
        self.known.append(key)
        if key in self.left:
            return self.left.pop(key)
        if default is MISSING:
            raise ScenarioError(f"{self.path(key)} is missing")
        return default

    def choose(self, key: str, choices: Mapping[str, T], default: Any = None) -> T:
        """What the value of a key names among `choices`. Raises `ScenarioError` when it is none of them."""
        given = self.take(key, default)
        if not isinstance(given, str) or given not in choices:  # a list cannot be looked up in a mapping
            raise ScenarioError(f"{self.path(key)} must be one of {', '.join(sorted(choices))}, got {given!r}")
        return choices[given]

    def end(self) -> None:
        """Raise `ScenarioError` for a key that was not taken."""
        for key in self.left:
            raise ScenarioError(f"there is no {self.path(key)!r}: allowed are {', '.join(sorted(self.known))}")


def build(where: str, make: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What `make(*args, **kwargs)` returns. Its `TypeError` or `ValueError` becomes a `ScenarioError` with `where`."""
    try:
        return make(*args, **kwargs)
    except ScenarioError:
        raise
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"{where}.{error}" if where else str(error)) from None


def as_text(value: object, where: str) -> str:
    """The value, if it is a string. Raises `ScenarioError`."""
    if not isinstance(value, str):
        raise ScenarioError(f"{where} must be a text, got {value!r}")
    return value


def as_whole(value: object, where: str) -> int:
    """The value, if it is a whole number from 1 on. Raises `ScenarioError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ScenarioError(f"{where} must be a whole number >= 1, got {value!r}")
    return value
