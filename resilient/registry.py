"""The named pipelines of this process, for operations: look one up, switch it, see the state of all.

A pipeline with a name is found here as long as something refers to it. A second one of the same name replaces it.
"""

from __future__ import annotations

from typing import Any, cast

from resilient.pipeline.names import named, register
from resilient.pipeline.pipeline import Pipeline

__all__ = ["pipeline", "pipelines", "register", "snapshots"]


def pipelines() -> dict[str, Pipeline]:
    """Return all named pipelines, by name, in order of their names."""
    return cast("dict[str, Pipeline]", named())


def pipeline(name: str) -> Pipeline:
    """Return the pipeline called `name`. Raises `KeyError` with the known names."""
    found = pipelines()
    try:
        return found[name]
    except KeyError:
        raise KeyError(f"no pipeline is called {name!r}; there are: {', '.join(found) or 'none'}") from None


def snapshots() -> dict[str, dict[str, Any]]:
    """Return the present state of every named pipeline, as plain data (see `Pipeline.snapshot`)."""
    return {name: each.snapshot() for name, each in pipelines().items()}
