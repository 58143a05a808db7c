"""Tables of a scenario file, read strictly: each key is taken once, and a key that remains is an error.

Every error is a `ScenarioError` of one line that begins with the path of the key: `load[1].rate must be ...`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar
from unicodedata import category

from resilient._validation import meant

__all__ = ["ScenarioError", "Source", "Table", "as_text", "as_whole", "build", "check_values", "key_path"]

T = TypeVar("T")

DEEPEST, MOST_ENTRIES, LONGEST_KEY, LONGEST_TEXT = 16, 1000, 100, 10_000


class ScenarioError(ValueError):
    """A scenario cannot be read; the message is one line with the key and the allowed values."""


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of a scenario, which decides what the scenario may name.

    Attributes:
        directory: in which files are looked up.
        imports: whether it may name code of any module, which is then imported and so run.
    """

    directory: Path
    imports: bool

    def code(self, name: str, where: str, harmless: Collection[str] = ()) -> str:
        """A name of code, `MODULE:NAME` or a builtin, if it may be imported.

        Args:
            where: the path of the key.
            harmless: modules that any scenario may name.

        Raises `ScenarioError` otherwise.
        """
        module = name.rpartition(":")[0] or "builtins"
        if not self.imports and module not in harmless:
            raise ScenarioError(
                f"{where} names code, {name!r}, and reading a scenario runs none: "
                "--allow-imports (in Python imports=True) lets it, if you trust the file"
            )
        return name


def key_path(where: str, key: str) -> str:
    """The path of a key in the table `where`, as TOML writes it: `pipelines."two words".preset`."""
    shown = key if re.fullmatch(r"[\w-]+", key) else json.dumps(key, ensure_ascii=False)
    return f"{where}.{shown}" if where else shown


class Table:
    """A table whose keys are taken one by one; `end` refuses keys that remain."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise ScenarioError(f"{where or 'a scenario'} must be a table, got {data!r}")
        self.left = dict(data)
        self.where = where
        self.known: list[str] = []

    def path(self, key: str) -> str:
        """The path of a key in the file, as `service.link.loss`, for messages."""
        return key_path(self.where, key)

    def take(self, key: str, default: Any = MISSING) -> Any:
        """The value of a key, or `default`. Raises `ScenarioError` if the key is missing and there is no default."""
        self.known.append(key)
        if key in self.left:
            return self.left.pop(key)
        if default is MISSING:
            instead = next((f": there is {other!r}" for other in self.left if meant(other, [key])), "")
            raise ScenarioError(f"{self.path(key)} is missing{instead}")
        return default

    def choose(self, key: str, choices: Mapping[str, T], default: Any = None) -> T:
        """The one of `choices` that the value of a key names. Raises `ScenarioError` for another value."""
        given = self.take(key, default)
        if not isinstance(given, str) or given not in choices:  # a list is not hashable
            raise ScenarioError(
                f"{self.path(key)} must be one of {', '.join(sorted(choices))}, got {given!r}{meant(given, choices)}"
            )
        return choices[given]

    def end(self) -> None:
        """Raise `ScenarioError` for a key that was not taken."""
        for key in self.left:
            hint = meant(key, self.known) or _belongs(key)
            raise ScenarioError(f"there is no {self.path(key)!r}: allowed are {', '.join(sorted(self.known))}{hint}")


PLACES = {
    **{"instances": "clients", "keys": "clients", "rate": "load", "users": "load"},
    **{"service_time": "service", "servers": "service", "workers": "service"},
}
"""Keys that are often written into the wrong table, and the right one."""


def _belongs(key: str) -> str:
    return f"; {key} belongs in [{PLACES[key]}]" if key in PLACES else ""


def build(where: str, make: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call `make(*args, **kwargs)`. A `TypeError` or `ValueError` becomes a `ScenarioError` with the path `where`."""
    try:
        return make(*args, **kwargs)
    except ScenarioError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        begin = re.match(r"\w*", str(error))
        is_key = begin is not None and begin[0] in inspect.signature(make).parameters
        raise ScenarioError(f"{where}{'.' if is_key else ': '}{error}" if where else str(error)) from None


def as_text(value: object, where: str) -> str:
    """The value, if it is a string. Raises `ScenarioError`."""
    if not isinstance(value, str):
        raise ScenarioError(f"{where} must be a text, got {value!r}")
    return value


def as_whole(value: object, where: str) -> int:
    """The value, if it is a whole number >= 1. Raises `ScenarioError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ScenarioError(f"{where} must be a whole number >= 1, got {value!r}")
    return value


def check_values(data: object, where: str = "", depth: int = 0) -> None:
    """Raise `ScenarioError` for a value that no key of a scenario can have, and that no message could show in one line:
    too deep nesting, a thousand tables, a number of more than 64 bits, a long key or text, or control characters."""
    at = where or "a scenario"
    if isinstance(data, str):
        _check_text(data, at)
    elif isinstance(data, int) and data.bit_length() > 63:
        raise ScenarioError(f"{at} must be a number of 64 bits, got one of {data.bit_length():,} bits")
    elif isinstance(data, Mapping | list | tuple):
        if depth > DEEPEST:
            raise ScenarioError(f"{at} must not be nested deeper than {DEEPEST} levels")
        if isinstance(data, Mapping):
            for key in data:
                _check_key(key, at)
            parts = [(key_path(where, key), value) for key, value in data.items()]
        else:
            parts = [(f"{where}[{number}]", value) for number, value in enumerate(data)]
        tables = sum(isinstance(value, Mapping) for _, value in parts)
        if tables > MOST_ENTRIES:
            raise ScenarioError(f"{at} must have at most {MOST_ENTRIES:,} tables, got {tables:,}")
        for path, value in parts:
            check_values(value, path, depth + 1)


def _check_key(key: object, where: str) -> None:
    if not isinstance(key, str) or not key.strip() or len(key) > LONGEST_KEY or _steering(key):
        shown = repr(key)
        shown = shown if len(shown) <= LONGEST_KEY else f"{shown[:LONGEST_KEY]}... ({len(shown):,} characters)"
        raise ScenarioError(f"{where}: a key must have 1 to {LONGEST_KEY} visible characters, got {shown}")


def _check_text(text: str, where: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise ScenarioError(f"{where} must have at most {LONGEST_TEXT:,} characters, got {len(text):,}")
    if found := _steering(text.replace("\n", " ").replace("\t", " ").replace("\r", " ")):
        raise ScenarioError(f"{where} must have no control characters, got {found!r} in it")


def _steering(text: str) -> str | None:
    """The first character that controls a terminal or is invisible; None without one."""
    return next((each for each in text if not each.isprintable() and category(each) != "Zs"), None)
