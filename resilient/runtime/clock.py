"""The monotonic clock of all real runtimes. It keeps running when a test freezes time.

freezegun replaces `time.monotonic` in each module that has it by name, and nowhere else. Some times of a library then
freeze and others do not, and a rate limit that was used in frozen time refuses calls for decades. So this module loads
a second copy of the module `time`, whose functions freezegun does not replace, even if time was frozen before the
import. (time-machine leaves `time.monotonic` alone.)

Wall-clock times (dates in headers and in shared storages) do not come from this clock: they follow the process, frozen
or not.
"""

from __future__ import annotations

import time
from importlib.machinery import BuiltinImporter
from importlib.util import module_from_spec

__all__ = ["monotonic"]

_spec = BuiltinImporter.find_spec("time")  # None where `time` is not built in
_time = time
if _spec is not None and _spec.loader is not None:
    _time = module_from_spec(_spec)
    _spec.loader.exec_module(_time)

monotonic = _time.monotonic
"""Seconds since an unspecified moment. The value never decreases."""
