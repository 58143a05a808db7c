"""What a forked child process makes of what it finds in memory.

A fork (`os.fork`; multiprocessing and ProcessPoolExecutor with "fork") copies the memory and keeps one thread. The
child finds calls in flight that go on in the parent only, event loops that do not run, and locks that are held by
threads that it does not have. What was learnt (windows, open circuits, tokens) is as true in the child, and stays.
What belongs to calls in flight (permits, probes, lines, stragglers) is the parent's: in the child there is none of it.

Objects with such state have a method `renew`. Policies are reached by the scopes of their pipelines, so that they need
not be registered themselves.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

__all__ = ["Renewed", "in_forked_child", "module_lock", "renew_in_forked_child"]

_log = logging.getLogger("resilient")


class Renewed(Protocol):
    """What has state that belongs to one process."""

    def renew(self) -> None:
        """In a forked child: forget the calls in flight, and take new locks. More than once does no harm."""


def in_forked_child(function: Callable[[], None]) -> Callable[[], None]:
    """Call `function()` in each child process that is forked from now on, before other code runs in it. A decorator for
    functions of modules: it is for good."""
    _functions.append(function)
    return function


def renew_in_forked_child(instance: Renewed) -> None:
    """Call `instance.renew()` in each child process that is forked while the instance lives."""
    _instances.add(instance)


def module_lock() -> AbstractContextManager[object]:
    """A lock of a module, re-entrant, which no thread of the parent holds in a forked child."""
    lock = threading.RLock()
    _locks.append(lock)
    return lock


_locks: list[AbstractContextManager[object]] = []
_functions: list[Callable[[], None]] = []
_instances: weakref.WeakSet[Renewed] = weakref.WeakSet()


def _renew() -> None:
    for lock in _locks:  # others take them
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # as the standard library does
    for function in (*_functions, *(instance.renew for instance in list(_instances))):
        try:
            function()
        except Exception:  # the others are renewed all the same
            _log.exception("resilient: %r failed in a forked child", function)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_renew)
