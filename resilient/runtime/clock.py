"""The clock of all real runtimes, which goes on while a test has frozen time.

freezegun puts its own function wherever a module has `time.monotonic` by name, and nowhere else. Of a library's times
it then changes some and not others, and a limit that was used in frozen time refuses calls for decades. So the clock is
taken from a `time` module of our own, whose functions freezegun does not know, also when it froze time before we were
imported. (time-machine leaves `time.monotonic` alone.)

The wall clock (dates in headers, in shared storages) is not this one: it says what the process says, frozen or not.
"""

from __future__ import annotations

import time
from importlib.machinery import BuiltinImporter
from importlib.util import module_from_spec

__all__ = ["monotonic"]

_spec = BuiltinImporter.find_spec("time")  # None where it is not built in
_time = time
if _spec is not None and _spec.loader is not None:
    _time = module_from_spec(_spec)
    _spec.loader.exec_module(_time)

monotonic = _time.monotonic
"""Seconds, from a moment that is not known. It never goes back."""
