"""Attribute keys, the same on metrics and on spans, so that a backend can lead from one to the other.

Each key is derived from a label of the table of metrics (`resilient.observe.metrics.TABLE`). The conventions of
OpenTelemetry ask for a namespace, because a backend may keep one column for all attributes of one key, and `state` or
`reason` alone would mix with those of other libraries. Pipelines and policies are entities, so the key of their names
ends in `.name`.

`error.type` is not set on metrics. Its values should be classes of errors, which are the user's own and without a
bound; how a call ended is `resilient.ending`, with five values.
"""

from __future__ import annotations

__all__ = ["NAMESPACE", "attribute"]

NAMESPACE = "resilient."

_NAMES = {"pipeline": "pipeline.name", "policy": "policy.name"}


def attribute(label: str) -> str:
    """Return the attribute key of a label: `resilient.pipeline.name` of `pipeline`, `resilient.ending` of `ending`."""
    return NAMESPACE + _NAMES.get(label, label)
