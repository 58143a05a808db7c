"""The named pipelines of this process, for operations: look one up, switch it, see the state of all.

A pipeline with a name is found here as long as something refers to it. A second one of the same name replaces it.
"""

from __future__ import annotations

from typing import Any, cast

from resilient.pipeline.names import named, register
from resilient.pipeline.pipeline import Pipeline

__all__ = ["metrics", "pipeline", "pipelines", "register", "snapshots"]


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


def metrics(*, keys: int = 0) -> dict[str, dict[str, Any]]:
    """Return all metrics of all pipelines now, as plain data.

    By name: its kind ("counter", "gauge" or "histogram"), its unit, a sentence of `help`, the names of its `labels`,
    and its `series`. Each of these has `labels` and a `value`; or, of a histogram, `count`, `sum` (seconds) and
    `buckets` (see `resilient.observe.metrics.Histogram`).

    Args:
        keys: the most keys of a `Keyed` that have series of their own. Default 0: none; the figures of all keys of a
            policy are summed.
    """
    from resilient.observe.metrics import plain

    return plain(keys=keys)
