"""Labels of exemplars: which trace shows a call that failed or was slow."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from resilient._validation import callback
from resilient.observe.prometheus.internal_errors import InternalErrors
from resilient.observe.trace_ids import trace_ids

__all__ = ["LIMIT", "Labels", "are_allowed", "exemplar_labels"]

Labels = Callable[[], Mapping[str, str] | None]
"""Returns the labels of an exemplar for the current call, or None for no exemplar."""

LIMIT = 128
"""Characters that OpenMetrics allows for all names and values of one exemplar."""

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def exemplar_labels(wanted: bool | Labels, errors: InternalErrors) -> Labels | None:
    """Return the function that yields an exemplar's labels, or None if there is none. The function never raises.

    Args:
        wanted: True: the identifiers of the current span, where OpenTelemetry's API is installed. False: no exemplars.
            A function: its labels.
        errors: counts and logs what the function raises, and labels that OpenMetrics does not allow.
    """
    if isinstance(wanted, bool):
        labels = trace_ids() if wanted else None
        return labels if labels is None else _guarded(labels, errors)
    return _guarded(callback("exemplars", wanted), errors)


def _guarded(labels: Labels, errors: InternalErrors) -> Labels:
    """Return a function that yields the labels if they are allowed, and None for anything else."""

    def allowed() -> dict[str, str] | None:
        try:
            found = labels()
            return None if found is None else _checked(found)
        except Exception as error:
            errors.report("the labels of an exemplar", error)
            return None

    return allowed


def are_allowed(labels: Mapping[str, str]) -> bool:
    """Whether OpenMetrics allows these labels for an exemplar."""
    try:
        _checked(labels)
    except (TypeError, ValueError):
        return False
    return True


def _checked(labels: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(labels, Mapping):
        raise TypeError(f"an exemplar's labels must be a mapping of names to strings, or None, got {labels!r:.200}")
    copied = dict(labels)
    length = 0
    for name, value in copied.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError(
                f"names and values of an exemplar's labels must be strings, got {name!r:.100}: {value!r:.100}"
            )
        if not _NAME.fullmatch(name):
            raise ValueError(f"the name of an exemplar's label must be letters, digits and _, got {name!r:.100}")
        value.encode()  # a lone surrogate would break the whole scrape
        length += len(name) + len(value)
    if length > LIMIT:
        raise ValueError(f"an exemplar's labels must have at most {LIMIT} characters in all, got {length}")
    return copied
