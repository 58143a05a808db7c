"""Atomic updates: how small compound updates stay whole when several threads share one instance.

On builds with a GIL a thread can lose its turn only at calls and backward jumps. The hot updates of gates and windows
are written so that none stands between a check and its update; they need no lock, and a lock would cost a fifth of a
whole guarded call. On free-threaded builds the same methods run under the instance's `_lock`.

Signal handlers and finalizers run between any two bytecodes of a thread, and may call every public function. So every
lock is re-entrant, also where nothing seems to call back (a plain lock, and `threading.Event` with it, would wait for
the interrupted frame); and code under a lock reads as late as possible what a handler may have changed.

A fork (`os.fork`; multiprocessing and ProcessPoolExecutor with "fork") copies the memory and keeps one thread. The
child finds calls in flight that continue in the parent only, event loops that do not run, and locks that are held by
threads that it does not have. What policies have learnt (windows, open circuits, tokens) is as true in the child, and
stays. What belongs to calls in flight (permits, probes, queues, stragglers) is the parent's, and the child drops it.
Objects with such state have a method `renew`. Policies are renewed through the contexts of their pipelines, so they
need not be registered themselves.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Protocol, TypeVar

__all__ = [
    "GIL",
    "Renewed",
    "Wake",
    "atomic",
    "in_forked_child",
    "locked",
    "members",
    "module_lock",
    "rare_lock",
    "renew_in_forked_child",
]

_log = logging.getLogger("resilient")

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether this interpreter has a global interpreter lock, and has it on."""


def locked(method: F) -> F:
    """Return `method` so that it runs under the re-entrant `_lock` of its instance."""

    @wraps(method)
    def under_lock(self: Any, *args: Any) -> Any:
        with self._lock:
            return method(self, *args)

    return under_lock  # type: ignore[return-value]


def atomic(method: F) -> F:
    """Mark a method that makes no call between a check and its update. It takes the lock only where there is no GIL."""
    return method if GIL else locked(method)


class Renewed(Protocol):
    """An object with state that belongs to one process."""

    def renew(self) -> None:
        """In a forked child: drop the calls in flight, and make new locks. A second call has no effect."""


def in_forked_child(function: Callable[[], None]) -> Callable[[], None]:
    """Call `function()` in each child process that is forked from now on, before other code runs in it. A decorator for
    functions of modules: it is never removed."""
    _functions.append(function)
    return function


def renew_in_forked_child(instance: Renewed) -> None:
    """Call `instance.renew()` in each child process that is forked while the instance lives."""
    _instances.add(instance)


def module_lock() -> AbstractContextManager[object]:
    """Return a new re-entrant lock of a module, which in a forked child no thread of the parent holds."""
    lock = threading.RLock()
    _locks.append(lock)
    return lock


_locks: list[AbstractContextManager[object]] = []
_functions: list[Callable[[], None]] = []
_instances: weakref.WeakSet[Renewed] = weakref.WeakSet()


def _renew() -> None:
    for lock in _locks:  # first, because the functions take them
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # as the standard library does
    for function in (*_functions, *(instance.renew for instance in list(_instances))):
        try:
            function()
        except Exception:  # the others are renewed all the same
            _log.exception("resilient: %r failed in a forked child", function)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_renew)


_rare = module_lock()


def rare_lock() -> AbstractContextManager[object]:
    """A re-entrant lock for rare and short changes of an instance's state. On builds with a GIL all instances share one
    (a lock each would be a tenth of a circuit's memory); on free-threaded builds each gets its own."""
    return _rare if GIL else threading.RLock()


def members(collection: Iterable[T]) -> list[T]:
    """Return a copy of a collection to which a signal handler, a finalizer or another thread may add meanwhile."""
    while True:
        try:
            return list(collection)
        except RuntimeError:
            pass


class Wake:
    """A pause of one thread, which any thread, signal handler or finalizer can end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the pause, or the next one if there is none now."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # `set` was called before

    def wait(self, seconds: float) -> None:
        """Pause for `seconds`, or until `set` is called."""
        self._lock.acquire(timeout=seconds)
