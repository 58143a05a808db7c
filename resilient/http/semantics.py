"""What HTTP itself says about repeating requests: which may be, and who it is that answers. (How soon: see
`resilient.core.pushback`.)

Everything here is pure and knows no client.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from functools import lru_cache

from resilient.core.pushback import FAILURE_STATUSES

__all__ = [
    "ATTEMPT_HEADER",
    "DEADLINE_HEADER",
    "IDEMPOTENCY_HEADER",
    "IDEMPOTENT_METHODS",
    "PRIORITY_HEADER",
    "is_field_name",
    "is_field_value",
    "is_refusal",
    "is_repeated",
    "is_same_server",
    "new_idempotency_key",
    "origin",
]

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods whose requests may be sent again when nobody knows whether they have arrived (RFC 9110, section 9.2.2)."""

IDEMPOTENCY_HEADER = "Idempotency-Key"
"""With it a server recognises a request that it has seen (draft-ietf-httpapi-idempotency-key-header)."""

DEADLINE_HEADER = "X-Deadline-Ms"
"""Our name for the milliseconds that are left, where none is given."""

ATTEMPT_HEADER = "X-Attempt"
"""Our name for the number of the attempt, from 1, where none is given."""

PRIORITY_HEADER = "X-Priority"
"""Our name for the priority of a request, where none is given."""

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}


def new_idempotency_key() -> str:
    """One that no other request has."""
    return str(uuid.uuid4())


def is_field_name(name: str) -> bool:
    """Whether it can be the name of a header field (RFC 9110, section 5.1)."""
    return re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) is not None


def is_field_value(text: str) -> bool:
    """Whether it can be the value of a header field: printable ASCII, without spaces around it (section 5.5)."""
    return re.fullmatch(r"[!-~]([\t -~]*[!-~])?", text) is not None


def is_repeated(fields: Iterable[tuple[str, str]]) -> bool:
    """Whether the header fields of a request say that its sender repeats it himself.

    The SDKs of Stainless (OpenAI, Anthropic, ...) send `x-stainless-retry-count`, which says so from the first
    repetition on; botocore sends `amz-sdk-request: attempt=1; max=3`.
    """
    for name, value in fields:
        if name.lower() == "x-stainless-retry-count" and value.strip() not in ("", "0"):
            return True
        if name.lower() == "amz-sdk-request":
            most = re.search(r"max=([0-9]{1,4})", value)
            return most is not None and int(most[1]) > 1
    return False


@lru_cache(maxsize=1024)  # of a few origins, over and over
def origin(scheme: str, host: str, port: int | None) -> str:
    """The origin of a URL (RFC 6454): scheme, host and port, which is the scheme's own when none is given."""
    if port is None:
        port = _DEFAULT_PORTS.get(scheme.lower())
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{scheme.lower()}://{host.lower()}" if port is None else f"{scheme.lower()}://{host.lower()}:{port}"


def is_same_server(origin: str, other: str) -> bool:
    """Whether what was meant for an origin may go to another one: the same, or the same host by HTTPS instead of HTTP,
    both on their usual ports (so does httpx with `Authorization`)."""
    return other in (origin, re.sub(r"^http://(.*):80$", r"https://\1:443", origin))


def is_refusal(status_line: str) -> bool:
    """Whether a proxy's answer ("407 Proxy Authentication Required") says that it will never do what it was asked."""
    status = status_line[:3]
    return status.isascii() and status.isdigit() and 400 <= int(status) < 500 and int(status) not in FAILURE_STATUSES
