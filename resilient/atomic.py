"""How small compound updates stay whole when several threads share one instance.

On builds with a GIL a thread can lose its turn only at calls and backward jumps. The hot updates of gates and windows
are written so that none stands between a check and its update; they need no lock, and a lock would cost a fifth of a
whole guarded call. On free-threaded builds the same methods run under the instance's `_lock`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

__all__ = ["GIL", "atomic", "locked"]

F = TypeVar("F", bound=Callable[..., Any])

GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether this interpreter has a global interpreter lock, and has it on."""


def locked(method: F) -> F:
    """`method` under its instance's re-entrant `_lock`."""

    @wraps(method)
    def under_lock(self: Any, *args: Any) -> Any:
        with self._lock:
            return method(self, *args)

    return under_lock  # type: ignore[return-value]


def atomic(method: F) -> F:
    """Marks a method that makes no call between a check and its update: locked only where there is no GIL."""
    return method if GIL else locked(method)
