"""The pause that a server asks for before the next request: `Retry-After`, and header fields like it.

The values come from the network and may be anything, so a value that makes no sense is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC

__all__ = ["FAILURE_STATUSES", "LONGEST_PAUSE", "header", "pause", "rate_limit_reset", "retry_after", "retry_after_ms"]

FAILURE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that are failures worth repeating: Request Timeout, Too Early, Too Many Requests, Internal Server
Error, Bad Gateway, Service Unavailable, Gateway Timeout. The server may have recovered a moment later. Other statuses
are answers."""

LONGEST_PAUSE = 366 * 86400.0
"""The longest pause, in seconds, that is believed: a value above a year is an error of the server."""

_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20})?", re.ASCII)  # whole numbers in the RFC; some servers send fractions
_LONGEST_DATE = 40  # RFC 850 with Wednesday has 33 characters
_SPAN = re.compile(
    r"(?:([0-9]{1,6}) ?h(?:ours?)?)? ?"
    r"(?:([0-9]{1,6}) ?m(?:in(?:ute)?s?)?)? ?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{0,9})?) ?s(?:ec(?:ond)?s?)?)? ?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{0,9})?) ?(?:ms|milliseconds?))?",
    re.ASCII | re.IGNORECASE,
)
_BETWEEN = re.compile(r",(?! *[0-9]{1,2}[ -][A-Z][a-z]{2}[ -])")
"""The comma between two values of a field that was sent twice; not the comma of a date ("Tue, 24 Nov")."""
_MOST_VALUES = 10
_EPOCH = 1e9
"""From this number on, a value is not seconds from now (that would be 30 years) but seconds since 1970."""
_EPOCH_MS = 1e12
"""From this number on, the value of a field is in milliseconds since 1970."""


def retry_after(value: str | None, now: float) -> float | None:
    """The pause of a `Retry-After` field in seconds; None: there is no value that makes sense.

    Args:
        value: of the field, or None: a number of seconds, or a date in one of the three formats of HTTP (RFC 9110,
            section 10.2.3). Servers also send what `rate_limit_reset` understands. Of several values, separated by
            commas, the longest counts.
        now: the time, as `time.time()`, at which the pause begins. A date in the past is ignored.
    """
    return _longest(value, lambda each: _date(each, now) if (asked := _reset(each, now)) is None else asked)


def retry_after_ms(value: str | None) -> float | None:
    """The pause of a `retry-after-ms` field (Azure, OpenAI) in seconds; None: there is no value that makes sense."""
    return _longest(value, lambda each: None if (number := _number(each)) is None else number / 1000)


def rate_limit_reset(value: str | None, now: float) -> float | None:
    """Seconds until the quota is renewed, by a `RateLimit-Reset` or `x-ratelimit-reset` field; None: there is no value
    that makes sense.

    Servers send seconds from now, seconds or milliseconds since 1970, or durations such as "6m0s" and "30 seconds".
    """
    return _longest(value, lambda each: _reset(each, now))


def _longest(value: str | None, seconds: Callable[[str], float | None]) -> float | None:
    """The longest of the pauses in the values of a header field, which may have been sent more than once; None: no
    value is valid."""
    if value is None:
        return None
    asked = (seconds(each.strip()) for each in _BETWEEN.split(value, _MOST_VALUES))
    return max((each for each in asked if each is not None and 0 <= each <= LONGEST_PAUSE), default=None)


def _number(value: str) -> float | None:
    return float(value) if _SECONDS.fullmatch(value) else None


def _reset(value: str, now: float) -> float | None:
    number = _number(value)
    if number is not None:
        if number >= _EPOCH_MS:
            number /= 1000
        return number - now if number >= _EPOCH else number
    span = _SPAN.fullmatch(value)
    if span is None or not value:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in span.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _date(value: str, now: float) -> float | None:
    if len(value) > _LONGEST_DATE:
        return None
    from email.utils import parsedate_to_datetime  # it takes time, and most servers send no dates

    try:
        date = parsedate_to_datetime(value)
        return (
            date if date.tzinfo else date.replace(tzinfo=UTC)
        ).timestamp() - now  # without a zone it would be local time
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None


def pause(fields: Mapping[str, str], status: int, now: float) -> float | None:
    """The pause that a response asks for, in seconds; None: it asks for none.

    Args:
        fields: the header fields of the response, with names in lower case.
        status: of the response. For 429 (too many requests) the resets of rate limits count as well, unless there is a
            `Retry-After`: the latest reset of the limits of which nothing remains.
        now: the time, as `time.time()`.
    """
    asked = retry_after_ms(fields.get("retry-after-ms"))
    if asked is None:
        asked = retry_after(fields.get("retry-after"), now)
    if asked is None and status == 429:
        resets = [
            rate_limit_reset(value, now)
            for name, value in fields.items()
            if _RESET.match(name) and (fields.get(name.replace("-reset", "-remaining")) or "0").strip() == "0"
        ]
        asked = max((reset for reset in resets if reset is not None), default=None)
    return asked


def header(seconds: float) -> str:
    """Seconds as the value of a `Retry-After` field: for example 2.5, and never 1e+06."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


_RESET = re.compile(r"(x-)?ratelimit-reset(-|$)")
