"""The key of a call, for errors and notes: which of several dependencies behind one pipeline the call was for.

A pipeline may serve many dependencies: the origins of an HTTP client, the shards behind a `Keyed`. An error that names
the key shows which one failed, and an error tracker that groups by text has one issue for each dependency.
"""

from __future__ import annotations

from resilient import _validation
from resilient.core.call import Call
from resilient.core.callbacks import CallbackError
from resilient.core.context import PipelineContext
from resilient.core.policy import Policy

__all__ = ["key_of"]


def key_of(call: Call, context: PipelineContext) -> str:
    """Return the key of a call as text: of the first `Keyed` of its pipeline, or else the dependency that the call is
    for, as the origin of a request; "" without either.

    Only for calls that have failed: it calls the user's key function, and ignores an error of that.
    """
    try:
        for part in context.parts:
            if isinstance(part, Policy) and (key := part._key_text(call)):
                return key
        dependency = context.call_options.dependency(call)
        return "" if dependency is None else _validation.legible(dependency)
    except (Exception, CallbackError):  # no request, a key whose `repr` raises
        return ""
