"""How small compound updates stay whole when several threads share one instance.

On builds with a GIL a thread can lose its turn only at calls and backward jumps. The hot updates of gates and windows
are written so that none stands between a check and its update; they need no lock, and a lock would cost a fifth of a
whole guarded call. On free-threaded builds the same methods run under the instance's `_lock`.

Signal handlers and finalizers run in the midst of whatever the thread does, between any two bytecodes, and may call
all that is public. So every lock is re-entrant, also where nothing seems to call back (a plain one, and
`threading.Event` with it, would wait for the frame that was interrupted); and what is done under a lock reads at the
last moment what a handler may have changed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar

from resilient.forks import module_lock

__all__ = ["GIL", "Wake", "atomic", "locked", "members", "rare_lock"]

T = TypeVar("T")
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


_rare = module_lock()


def rare_lock() -> AbstractContextManager[object]:
    """A re-entrant lock for rare and short changes of an instance's state. On builds with a GIL all instances share one
    (a lock each would be a tenth of a circuit's memory); on free-threaded builds each gets its own."""
    return _rare if GIL else threading.RLock()


def members(collection: Iterable[T]) -> list[T]:
    """A copy of a collection to which a signal handler, a finalizer or another thread may add meanwhile."""
    while True:
        try:
            return list(collection)
        except RuntimeError:
            pass


class Wake:
    """Ends the pause of a thread, from any thread, signal handler or finalizer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the pause, or the next one if there is none now."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it is set already

    def wait(self, seconds: float) -> None:
        """Pause for `seconds` at the most."""
        self._lock.acquire(timeout=seconds)
