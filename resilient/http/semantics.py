"""The rules of HTTP about repeating requests: which requests may be repeated, and which server answers them. (For when
to repeat them, see `resilient.core.pushback`.)

All functions are pure, and independent of a client library.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from functools import lru_cache

from resilient.core.pushback import FAILURE_STATUSES

__all__ = [
    "DEFAULT_PORTS",
    "IDEMPOTENCY_HEADER",
    "IDEMPOTENT_METHODS",
    "KNOWN_METHODS",
    "is_refusal",
    "is_repeated",
    "is_same_server",
    "new_idempotency_key",
    "origin",
]

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods whose requests may be sent again when it is unknown whether they have arrived (RFC 9110, section 9.2.2)."""

IDEMPOTENCY_HEADER = "Idempotency-Key"
"""The header by which a server recognises a repeated request (draft-ietf-httpapi-idempotency-key-header)."""

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
"""The ports of URLs that name none, by their schemes."""

KNOWN_METHODS = IDEMPOTENT_METHODS | {"CONNECT", "PATCH", "POST", "QUERY"}
"""The methods that OpenTelemetry's conventions know. The conventions call any other one `_OTHER`."""


def new_idempotency_key() -> str:
    """Return a new, unique idempotency key: a random UUID."""
    return str(uuid.uuid4())


def is_repeated(fields: Iterable[tuple[str, str]]) -> bool:
    """Whether the header fields of a request show that its sender, an SDK, repeats it.

    The SDKs of Stainless (OpenAI, Anthropic, ...) send `x-stainless-retry-count`, which shows it from the first
    repetition on; botocore sends `amz-sdk-request: attempt=1; max=3`.
    """
    for name, value in fields:
        if name.lower() == "x-stainless-retry-count" and value.strip() not in ("", "0"):
            return True
        if name.lower() == "amz-sdk-request":
            attempts = re.search(r"max=([0-9]{1,4})", value)
            return attempts is not None and int(attempts[1]) > 1
    return False


@lru_cache(maxsize=1024)  # most clients use a few origins again and again
def origin(scheme: str, host: str, port: int | None) -> str:
    """Return the origin of a URL (RFC 6454): scheme, host and port. The default port is that of the scheme."""
    if port is None:
        port = DEFAULT_PORTS.get(scheme.lower())
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{scheme.lower()}://{host.lower()}" if port is None else f"{scheme.lower()}://{host.lower()}:{port}"


def is_same_server(origin: str, other: str) -> bool:
    """Whether data for one origin, such as an idempotency key, may be sent to `other`: to the same origin, or to the
    same host by HTTPS instead of HTTP, both on their default ports (httpx's rule for `Authorization`)."""
    return other in (origin, re.sub(r"^http://(.*):80$", r"https://\1:443", origin))


def is_refusal(status_line: str) -> bool:
    """Whether the status line of a proxy ("407 Proxy Authentication Required") is a refusal that a repetition cannot
    change."""
    status = status_line[:3]
    return status.isascii() and status.isdigit() and 400 <= int(status) < 500 and int(status) not in FAILURE_STATUSES
