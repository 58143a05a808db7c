"""How long a server asks to be left alone: `Retry-After`, and the fields like it.

What comes from the network is not believed: a value that makes no sense asks for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC

__all__ = ["FAILURE_STATUSES", "LONGEST_PAUSE", "header", "pause", "rate_limit_reset", "retry_after", "retry_after_ms"]

FAILURE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Request Timeout, Too Early, Too Many Requests, Internal Server Error, Bad Gateway, Service Unavailable, Gateway
Timeout: the server's trouble, and perhaps gone in a moment. Other errors are answers."""

LONGEST_PAUSE = 366 * 86400.0
"""Seconds: whoever asks for more than a year has made a mistake."""

_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20})?", re.ASCII)  # the RFC has whole ones, some servers have not
_LONGEST_DATE = 40  # RFC 850 with Wednesday has 33 characters
_SPAN = re.compile(
    r"(?:([0-9]{1,6}) ?h(?:ours?)?)? ?"
    r"(?:([0-9]{1,6}) ?m(?:in(?:ute)?s?)?)? ?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{0,9})?) ?s(?:ec(?:ond)?s?)?)? ?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{0,9})?) ?(?:ms|milliseconds?))?",
    re.ASCII | re.IGNORECASE,
)
_BETWEEN = re.compile(r",(?! *[0-9]{1,2}[ -][A-Z][a-z]{2}[ -])")
"""The comma between two values, where a field was sent twice: all but that of a date ("Tue, 24 Nov")."""
_MOST_VALUES = 10
_EPOCH = 1e9  # a "seconds from now" of thirty years is a moment
_EPOCH_MS = 1e12


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` field asks for, or None when it asks for nothing that makes sense.

    Args:
        value: of the field, None when there is none: a number of seconds, or one of the three formats of an HTTP-date
            (RFC 9110, section 10.2.3). Servers also send what `rate_limit_reset` understands. Of several values,
            separated by commas, the longest counts.
        now: the time (as `time.time()`), from which a date counts. One that has passed asks for nothing.
    """
    return _longest(value, lambda each: _date(each, now) if (asked := _reset(each, now)) is None else asked)


def retry_after_ms(value: str | None) -> float | None:
    """Seconds that a `retry-after-ms` field (Azure, OpenAI) asks for, or None."""
    return _longest(value, lambda each: None if (number := _number(each)) is None else number / 1000)


def rate_limit_reset(value: str | None, now: float) -> float | None:
    """Seconds until a `RateLimit-Reset` or `x-ratelimit-reset` field says that there is more, or None.

    There are servers that send seconds from now, seconds or milliseconds since 1970, and spans such as "6m0s" and
    "30 seconds".
    """
    return _longest(value, lambda each: _reset(each, now))


def _longest(value: str | None, seconds: Callable[[str], float | None]) -> float | None:
    """Of the values of a field, as it has them when it was sent more than once, the longest that makes sense."""
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
    from email.utils import parsedate_to_datetime  # for those who are never sent a date

    try:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now  # else the local zone's
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None


def pause(fields: Mapping[str, str], status: int, now: float) -> float | None:
    """Seconds that an answer asks to be left alone, or None when it does not.

    Args:
        fields: its header fields, under names in lower case.
        status: its status. Only "too many requests" (429) is about a rate limit; there the latest of the resets counts
            of which nothing remains, unless there is a `Retry-After`.
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
    """Seconds as a `Retry-After` field has them: 2.5, and never 1e+06."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


_RESET = re.compile(r"(x-)?ratelimit-reset(-|$)")
