"""The headers in which a client sends a server the time left, the priority and the number of the attempt.

Transports write them and the server's middleware reads them. The names are defaults: both sides can use others.
"""

from __future__ import annotations

import re

from resilient import _validation

__all__ = [
    "ATTEMPT_HEADER",
    "DEADLINE_HEADER",
    "PRIORITY_HEADER",
    "header_name",
    "is_field_name",
    "is_field_value",
]

DEADLINE_HEADER = "X-Deadline-Ms"
"""The default name of the header with the milliseconds that are left."""

ATTEMPT_HEADER = "X-Attempt"
"""The default name of the header with the number of the attempt, from 1."""

PRIORITY_HEADER = "X-Priority"
"""The default name of the header with the priority of a request."""


def header_name(argument: str, value: bool | str, default: str) -> str:
    """Return the name of the header that an argument asks for, or "" for none. Raises `ValueError` for an invalid name.

    Args:
        argument: the name of the argument, for the error.
        value: True asks for `default`, False for none.
    """
    if isinstance(value, bool):
        return default if value else ""
    name = _validation.name(argument, value)
    if not is_field_name(name):
        raise ValueError(f"{argument} must be True, False or the name of a header, got {value!r}")
    return name


def is_field_name(name: str) -> bool:
    """Whether `name` can be the name of a header field (RFC 9110, section 5.1)."""
    return re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) is not None


def is_field_value(text: str) -> bool:
    """Whether `text` can be the value of a header field: printable ASCII, without spaces around it (section 5.5)."""
    return re.fullmatch(r"[!-~]([\t -~]*[!-~])?", text) is not None
