"""Checks of what a caller configured, so that a bad value fails where it is written, not in an outage.

Each function returns the value, or raises `TypeError` (not that kind of thing at all) or `ValueError` (right kind,
impossible value), naming the argument, the value it got and what would be right. `bool` is never a number here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

__all__ = ["callback", "count", "name", "seconds", "share"]


def _number(argument: str, value: object, kind: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be {kind}, got {value!r}")
    number = float(value)
    if math.isnan(number):
        raise ValueError(f"{argument} must be {kind}, got {value!r}")
    return number


def seconds(argument: str, value: object, *, zero: bool = False) -> float:
    """A finite duration in seconds, above zero (or from zero on, with `zero=True`)."""
    kind = f"a finite number of seconds {'>= 0' if zero else '> 0'}"
    number = _number(argument, value, kind)
    if math.isinf(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{argument} must be {kind}, got {value!r}")
    return number


def share(argument: str, value: object) -> float:
    """A ratio in (0, 1]."""
    kind = "a share above 0 and at most 1"
    number = _number(argument, value, kind)
    if not 0 < number <= 1:
        raise ValueError(f"{argument} must be {kind}, got {value!r}")
    return number


def count(argument: str, value: object, *, least: int = 1) -> int:
    """A whole number of at least `least`."""
    kind = f"a whole number >= {least}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be {kind}, got {value!r}")
    if value < least:
        raise ValueError(f"{argument} must be {kind}, got {value!r}")
    return value


def name(argument: str, value: object) -> str:
    """A string that is not blank."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, got {value!r}")
    if not value.strip():
        raise ValueError(f"{argument} must not be empty or blank, got {value!r}")
    return value


def callback(argument: str, value: object) -> Callable[..., Any]:
    """Something that can be called, and is not the coroutine that calling it would have made."""
    if not callable(value):
        raise TypeError(f"{argument} must be callable, got {value!r}")
    return value
