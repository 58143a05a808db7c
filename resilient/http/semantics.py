"""What HTTP itself says about repeating requests: which may be, when, how soon, and who it is that answers.

Everything here is pure and knows no client. What comes from the network is not believed: a `Retry-After` that makes no
sense is none.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from functools import lru_cache

__all__ = ["FAILURE_STATUSES", "IDEMPOTENT_METHODS", "LONGEST_PAUSE", "is_refusal", "origin", "retry_after"]

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods whose requests may be sent again when nobody knows whether they have arrived (RFC 9110, section 9.2.2)."""

FAILURE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Request Timeout, Too Early, Too Many Requests, Internal Server Error, Bad Gateway, Service Unavailable, Gateway
Timeout: the server's trouble, and perhaps gone in a moment. Other errors are answers."""

LONGEST_PAUSE = 366 * 86400.0
"""Seconds: whoever asks for more than a year has made a mistake."""

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20})?", re.ASCII)  # the RFC has whole ones, some servers have not
_LONGEST_DATE = 40  # RFC 850 with Wednesday has 33 characters; what is longer is two values, or none


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` field asks for, or None when it asks for nothing that makes sense.

    Args:
        value: of the field, which is a number of seconds or one of the three formats of an HTTP-date (RFC 9110, section
            10.2.3); None when there is none.
        now: the time (as `time.time()`), from which a date counts. One that has passed asks for nothing.
    """
    if value is None:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    elif len(value) <= _LONGEST_DATE:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, IndexError, OverflowError, OSError):
            return None
    else:
        return None
    return seconds if 0 <= seconds <= LONGEST_PAUSE else None


@lru_cache(maxsize=1024)  # of a few origins, over and over
def origin(scheme: str, host: str, port: int | None) -> str:
    """The origin of a URL (RFC 6454): scheme, host and port, which is the scheme's own when none is given."""
    if port is None:
        port = _DEFAULT_PORTS.get(scheme.lower())
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{scheme.lower()}://{host.lower()}" if port is None else f"{scheme.lower()}://{host.lower()}:{port}"


def is_refusal(status_line: str) -> bool:
    """Whether a proxy's answer ("407 Proxy Authentication Required") says that it will never do what it was asked."""
    status = status_line[:3]
    return status.isascii() and status.isdigit() and 400 <= int(status) < 500 and int(status) not in FAILURE_STATUSES
