"""The named pipelines of this process, for operations: look one up, switch it, see the state of all.

A pipeline that has a name is found here as long as somebody uses it. A second one of the same name takes its place.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from resilient.atomic import members
from resilient.forks import module_lock

if TYPE_CHECKING:
    from resilient.pipeline import Pipeline

__all__ = ["pipeline", "pipelines", "register", "snapshots"]

_lock = module_lock()
_named: weakref.WeakValueDictionary[str, Pipeline] = weakref.WeakValueDictionary()


def register(pipeline: Pipeline) -> None:
    """Make a named pipeline known, unless it was made apart from the program (`events.apart`)."""
    if pipeline._scope.channel.apart:
        return
    with _lock:
        _named[pipeline.name] = pipeline


def pipelines() -> dict[str, Pipeline]:
    """All named pipelines, by name, in order of their names."""
    with _lock:
        found = {name: _named.get(name) for name in sorted(members(_named))}
    return {name: each for name, each in found.items() if each is not None}


def pipeline(name: str) -> Pipeline:
    """The pipeline called `name`. Raises `KeyError`, with the names there are."""
    try:
        return _named[name]
    except KeyError:
        raise KeyError(f"no pipeline is called {name!r}; there are: {', '.join(pipelines()) or 'none'}") from None


def snapshots() -> dict[str, dict[str, Any]]:
    """The state of every named pipeline now, as plain data (see `Pipeline.snapshot`)."""
    return {name: each.snapshot() for name, each in pipelines().items()}
