"""The table of named pipelines, which users read through `resilient.registry`.

It holds weak references: a pipeline is in it as long as something else refers to the pipeline.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from resilient._atomic import members, module_lock
from resilient.core.context import PipelineContext

__all__ = ["Named", "named", "register"]


class Named(Protocol):
    """The part of a pipeline that this table needs."""

    name: str
    _context: PipelineContext


_lock = module_lock()
_named: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def register(pipeline: Named) -> None:
    """Enter a pipeline under its name, in place of an earlier one of the same name. A pipeline of a simulation is not
    entered (`events.channel.hidden`)."""
    if pipeline._context.channel.hidden:
        return
    with _lock:
        _named[pipeline.name] = pipeline


def named() -> dict[str, Any]:
    """All named pipelines, by name, in the order of their names."""
    with _lock:
        found = {name: _named.get(name) for name in sorted(members(_named))}
    return {name: each for name, each in found.items() if each is not None}
