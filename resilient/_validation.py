"""Checks of what a caller configured, so that a bad value fails where it is written, not in an outage.

Each function returns the value, or raises `TypeError` (not that kind of thing at all) or `ValueError` (right kind,
impossible value), naming the argument, the value it got and what would be right. `bool` is never a number here.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from datetime import timedelta
from hashlib import blake2b
from numbers import Real
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

__all__ = [
    "amount",
    "by_name",
    "callback",
    "count",
    "flag",
    "hashable",
    "instance",
    "is_async",
    "legible",
    "meant",
    "name",
    "percent",
    "seconds",
    "share",
    "strategy",
    "without_unit",
]


def _unlike(argument: str, value: object, kind: str) -> TypeError:
    """Make the error for a value that is no number. It says what to write instead, if the value shows that."""
    instead = ""
    if isinstance(value, timedelta) and "seconds" in kind:
        instead = f": write {value.total_seconds():g}"
    elif isinstance(value, str):
        try:
            instead = f": write {float(value):g}, without quotes"
        except ValueError:
            instead = without_unit(value, kind)
    return TypeError(f"{argument} must be {kind}, got {value!r}{instead}")


_UNITS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
"""Seconds of the units that people write behind a number."""


def without_unit(value: str, kind: str) -> str:
    """Return the end of a message about a number with its unit ("500ms", "99%"): the number to write where `kind` is
    meant, of seconds or a share of 1; empty if the value does not show it."""
    digits = value.rstrip("abcdefghijklmnopqrstuvwxyz% ")
    unit = value[len(digits) :].strip()
    try:
        number = float(digits)
    except ValueError:
        return ""
    if unit in _UNITS and "seconds" in kind:
        return f": write {number * _UNITS[unit]:g}"
    return f": write {number / 100:g}" if unit == "%" and ("share" in kind or "from 0 to 1" in kind) else ""


def percent(number: float) -> str:
    """Return the end of a message about a share that may be a percentage: the percentage as a share, or nothing."""
    return f": {number:g}% is {number / 100:g}" if 1 < number <= 100 else ""


def _number(argument: str, value: object, kind: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _unlike(argument, value, kind)
    try:
        number = float(value)
    except OverflowError:  # an int beyond all floats
        number = math.inf
    if math.isnan(number):
        raise ValueError(f"{argument} must be {kind}, got {value!r}")
    return number


def seconds(argument: str, value: object, *, zero: bool = False) -> float:
    """Check a finite duration in seconds, above zero (or from zero on, with `zero=True`)."""
    kind = f"a finite number of seconds {'>= 0' if zero else '> 0'}"
    number = _number(argument, value, kind)
    if math.isinf(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{argument} must be {kind}, got {value!r}")
    return number


def amount(argument: str, value: object) -> float:
    """Check a finite number that is 0 or greater."""
    kind = "a finite number >= 0"
    number = _number(argument, value, kind)
    if math.isinf(number) or number < 0:
        raise ValueError(f"{argument} must be {kind}, got {value!r}")
    return number


def share(argument: str, value: object, *, zero: bool = False) -> float:
    """Check a ratio in (0, 1] (or from zero on, with `zero=True`)."""
    kind = "a share from 0 to 1" if zero else "a share above 0 and at most 1"
    number = _number(argument, value, kind)
    if not 0 <= number <= 1 or (number == 0 and not zero):
        raise ValueError(f"{argument} must be {kind}, got {value!r}{percent(number)}")
    return number


def count(argument: str, value: object, *, least: int = 1) -> int:
    """Check a whole number of at least `least`."""
    kind = f"a whole number >= {least}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise _unlike(argument, value, kind)
    if value < least:
        raise ValueError(f"{argument} must be {kind}, got {value!r}")
    return value


def meant(given: object, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the known name that is most similar, or nothing."""
    from difflib import get_close_matches  # only a mistake needs it

    close = get_close_matches(given, known, 1) if isinstance(given, str) else []
    return f"; did you mean {close[0]}?" if close else ""


def name(argument: str, value: object) -> str:
    """Check a string that must not be blank."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, got {value!r}")
    if not value.strip():
        raise ValueError(f"{argument} must not be empty or blank, got {value!r}")
    return value if type(value) is str else str.__str__(value)  # a member of an Enum of strings, for example


def instance(argument: str, value: Any, kind: type[K]) -> K | None:
    """Check an object that must be of this class, or None."""
    if value is not None and not isinstance(value, kind):
        hint = f": write {value.__name__}()" if isinstance(value, type) and issubclass(value, kind) else ""
        raise TypeError(f"{argument} must be a {kind.__name__}, got {value!r}{hint}")
    return value


def flag(argument: str, value: object) -> bool:
    """Check a value that must be True or False itself: a number or a text is refused."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False, got {value!r}")
    return value


def hashable(argument: str, value: K) -> K:
    """Check an object that is to be a key, or part of one."""
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"{argument} must be hashable, got {value!r}") from None
    return value


LEGIBLE = 100
"""Characters of a key in names."""


def legible(key: object) -> str:
    """Return a key as printable text of at most 100 characters, for names: keys may come from outside."""
    try:
        text = key if isinstance(key, str) and key.isprintable() else repr(key)
    except Exception:  # its __repr__ fails
        text = f"a {type(key).__name__}"
    if len(text) <= LEGIBLE:
        return text
    tail = "..." + blake2b(text.encode(errors="surrogatepass"), digest_size=4).hexdigest()  # keys may begin alike
    return text[: LEGIBLE - len(tail)] + tail


LONGEST = 500
"""Characters of the text of an error in a message."""


def in_a_line(error: BaseException, text: object = None) -> str:
    """Return the class of an error and its text, in one line of bounded length: `OSError: disk full`. `text`: a text to
    use in place of its own."""
    try:
        said = " ".join(str(error if text is None else text).split())
    except Exception:  # its __str__ fails
        said = ""
    if len(said) > LONGEST:
        said = f"{said[:LONGEST]}..."
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def by_name(items: Iterable[tuple[str, V]]) -> dict[str, V]:
    """Return the items as a dict. Where several have one name (`1` and `"1"` are both legible as 1), those after the
    first are numbered: "1", "1 (2)"."""
    named: dict[str, V] = {}
    for name, value in items:
        number, unique = 1, name
        while unique in named:
            number += 1
            unique = f"{name} ({number})"
        named[unique] = value
    return named


def strategy(argument: str, value: object) -> Callable[..., Any]:
    """Check a callable whose answer may have to be awaited.

    Refuses a class where its instance is meant, a coroutine where its function is meant, and a generator function.
    """
    if not callable(value):
        raise TypeError(f"{argument} must be callable, got {value!r}")
    if inspect.isclass(value):
        raise TypeError(f"{argument} must be a function or an instance, got the class {value!r}")
    if _is(value, inspect.isgeneratorfunction) or _is(value, inspect.isasyncgenfunction):
        raise TypeError(f"{argument} must be a function that returns its answer, got the generator {value!r}")
    return value


def callback(argument: str, value: object) -> Callable[..., Any]:
    """Check a callable as `strategy` does, and refuse one that is async: nothing would await its answer, and a
    coroutine is always true."""
    function = strategy(argument, value)
    if is_async(function):
        raise TypeError(f"{argument} must be a plain function, whose answer is not awaited, got {value!r}")
    return function


def is_async(function: Callable[..., Any]) -> bool:
    """Whether the answer of a callable has to be awaited: it is a coroutine function, or an object whose `__call__` is
    one, also inside a partial."""
    return _is(function, inspect.iscoroutinefunction)


def _is(value: Callable[..., Any], kind: Callable[[object], bool]) -> bool:
    """Whether the function inside a callable, which may be a partial or have `__call__`, is of a kind."""
    while isinstance(value, functools.partial):
        value = value.func
    return kind(value) or kind(type(value).__call__)
