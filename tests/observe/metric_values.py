"""Metrics of one pipeline for tests, and functions that fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient import registry

__all__ = ["attempt", "fails", "values"]


def values(metric: str, pipeline: str, *, keys: int = 0) -> dict[tuple[str, ...], Any]:
    """The values of a metric of one pipeline, by the values of the labels after the pipeline; of a counter those that
    are not 0."""
    found = registry.metrics(keys=keys).get(f"resilient.{metric}", {"series": []})
    return {
        tuple(series["labels"].values())[1:]: series.get("value", series.get("count"))
        for series in found["series"]
        if series["labels"].get("pipeline") == pipeline and (found["kind"] != "counter" or series["value"])
    }


def fails(error: Exception) -> Callable[..., Any]:
    """A function that raises this error."""

    def function(*args: Any) -> None:
        raise error

    return function


def attempt(guarded: Callable[..., Any], *args: Any) -> None:
    """Call, and ignore an error."""
    try:
        guarded(*args)
    except Exception:
        pass
