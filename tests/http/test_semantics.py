"""The rules of HTTP about repeating: methods, statuses, pauses, origins."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import CircuitOpen, Pipeline, Retry, TimedOut
from resilient.core.headers import is_field_value
from resilient.core.pushback import (
    FAILURE_STATUSES,
    LONGEST_PAUSE,
    pause,
    rate_limit_reset,
    retry_after,
    retry_after_ms,
)
from resilient.http.httpx import AsyncTransport, HttpClassifier
from resilient.http.options import key_by, origin_of
from resilient.http.semantics import (
    IDEMPOTENT_METHODS,
    is_refusal,
    is_repeated,
    is_same_server,
    origin,
)
from resilient.runtime import virtual
from tests.hypothesis_settings import search

NOW = datetime(2026, 11, 24, 14, 31, tzinfo=UTC)


def asked(value: str | None) -> float | None:
    return retry_after(value, NOW.timestamp())


def test_idempotent_methods_are_those_of_the_rfc() -> None:
    """They are the safe ones, PUT and DELETE (RFC 9110, 9.2.2)."""
    assert {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"} == IDEMPOTENT_METHODS


def test_failure_statuses_are_the_servers_trouble() -> None:
    """404, 501 or 505 are none: the next response would be the same."""
    assert {408, 425, 429, 500, 502, 503, 504} == FAILURE_STATUSES


# -- Retry-After ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0.0), ("120", 120.0), (" 7 ", 7.0), ("0.5", 0.5), ("3.", 3.0), ("31622400", 31622400)]
)
def test_seconds_are_understood(value: str, seconds: float) -> None:
    """Whole seconds, as in the RFC, and the fractions that some servers send."""
    assert asked(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "Tue, 24 Nov 2026 14:31:30 GMT",
        "Tuesday, 24-Nov-26 14:31:30 GMT",
        "Tue Nov 24 14:31:30 2026",
        "Tue, 24 Nov 2026 16:31:30 +0200",
    ],
)
def test_dates_are_understood_in_every_format(value: str) -> None:
    """The three formats of the RFC; the one without a zone is in GMT, in every local time zone."""
    assert asked(value) == 30.0


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            "",
            " ",
            "-1",
            "-0.5",
            "+5",
            "1e3",
            "inf",
            "Infinity",
            "nan",
            "NaN",
            "0x10",
            "1_000",
            "5 apples",
            "soon",
        ),
        *("soon, later", "1.2.3", ".5", "\u0663", "\uff15", "9" * 21, "9" * 5000, "31622401"),
        "Tue, 24 Nov 2026 14:30:59 GMT",  # has passed
        "Fri, 24 Nov 2034 14:31:00 GMT",  # in eight years
        str(int(NOW.timestamp()) - 1),  # has passed, too
        "Tue, 32 Nov 2026 14:31:30 GMT",
        "Tue, 24 Nov 2026 25:31:30 GMT",
        "Tue, 24 Nov 99999 14:31:30 GMT",
        "Tue, 24 Nov 0001 14:31:30 +2359",
    ],
)
def test_invalid_retry_after_is_ignored(value: str | None) -> None:
    """Negative, infinite, absurd and past values, no number, no date."""
    assert asked(value) is None


@pytest.mark.parametrize(
    "value",
    [
        *("30s", "30 s", "30 seconds", "30 Sec", "30000ms", "0m30s", "0 minutes 30 seconds", "0h0m30s"),
        str(int(NOW.timestamp()) + 30),
        str((int(NOW.timestamp()) + 30) * 1000),
    ],
)
def test_units_and_moments_since_1970_are_understood(value: str) -> None:
    """Servers send them, and a wait that can be understood is kept."""
    assert asked(value) == 30.0


@pytest.mark.parametrize(
    "value",
    [
        *("30, 30", "30,5", "5, 30, 7", "soon, 30", "30s, 5 seconds", ", 30", "30,"),
        "Tue, 24 Nov 2026 14:31:30 GMT, Tue, 24 Nov 2026 14:31:05 GMT",
        "5, Tue, 24 Nov 2026 14:31:30 GMT",
        "Tuesday, 24-Nov-26 14:31:30 GMT, 5",
        "Tue Nov 24 14:31:30 2026, 5",
    ],
)
def test_longest_counts_of_repeated_retry_after(value: str) -> None:
    """A server and a proxy may both send one; the wait is never too short."""
    assert asked(value) == 30.0


@search(300)
@given(st.one_of(st.text(max_size=60), st.from_regex(r"\A[A-Za-z]{3}, [0-9]{1,3} [A-Za-z]{3} [0-9 :GMT+-]{0,24}\Z")))
def test_every_value_of_a_server_is_a_pause_of_a_year_at_most_or_none(value: str) -> None:
    """No value raises, and no pause is negative or infinite."""
    seconds = asked(value)
    assert seconds is None or (math.isfinite(seconds) and 0 <= seconds <= LONGEST_PAUSE)


@search(200)
@given(st.integers(min_value=0, max_value=int(LONGEST_PAUSE)))
def test_number_and_date_of_the_same_moment_ask_for_the_same(seconds: int) -> None:
    """They are equal to the second, the precision of a date."""
    assert asked(str(seconds)) == seconds
    assert asked(format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)) == seconds


# -- retry-after-ms and resets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0.0), ("1500", 1.5), (" 20.5 ", 0.0205), ("31622400000", LONGEST_PAUSE)]
)
def test_milliseconds_are_understood(value: str, seconds: float) -> None:
    """Azure and OpenAI send `retry-after-ms`."""
    assert retry_after_ms(value) == seconds


@pytest.mark.parametrize("value", [None, "", "-1", "nan", "inf", "1e3", "31622400001", "9" * 21, "20ms", "\u0663"])
def test_invalid_milliseconds_are_ignored(value: str | None) -> None:
    """Negative, infinite and absurd values, no number."""
    assert retry_after_ms(value) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("0", 0.0), ("20", 20.0), ("0.5", 0.5), ("6m0s", 360.0), ("1h2m3.5s", 3723.5), ("20ms", 0.02)),
        *(("1s250ms", 1.25), ("8.64s", 8.64), ("2m59.56s", 179.56), (" 7s ", 7.0), ("2h", 7200.0)),
        (str(int(NOW.timestamp()) + 90), 90.0),
        (str(int(NOW.timestamp()) * 1000 + 90_000), 90.0),
    ],
)
def test_reset_is_understood_in_every_form(value: str, seconds: float) -> None:
    """Seconds from now, seconds or milliseconds since 1970, and OpenAI's spans."""
    assert rate_limit_reset(value, NOW.timestamp()) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", " ", "-1", "nan", "inf", "1e3", "s", "m", "1  s", "s1", "1s1m", "1d", "9" * 21, "999999h"),
        *(str(int(NOW.timestamp()) - 1), "99999999999", "1000000000000000", "2026-11-24T14:31:00Z", "\u0663s"),
    ],
)
def test_invalid_reset_is_ignored(value: str | None) -> None:
    """A reset in the past, an absurd one, or one in an unknown form is ignored."""
    assert rate_limit_reset(value, NOW.timestamp()) is None


ASKING = st.sampled_from(
    [
        *("retry-after", "retry-after-ms", "ratelimit-reset", "x-ratelimit-reset", "x-ratelimit-reset-requests"),
        *("x-ratelimit-reset-tokens", "x-ratelimit-remaining-requests", "ratelimit-remaining", "ratelimit", "date"),
    ]
)
WISHES = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"\A[-+]?[0-9]{0,25}(\.[0-9]{0,25})?(e[0-9]+|s|ms|m|h)?\Z"),
    st.from_regex(r"\A([0-9]{1,7}h)?([0-9]{1,7}m)?([0-9]{1,10}(\.[0-9]{0,10})?s)?([0-9]{1,10}ms)?\Z"),
    st.from_regex(
        r"\A[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,6} [0-9]{1,3}:[0-9]{1,3}:[0-9]{1,3} [-+A-Z0-9]{0,6}\Z"
    ),
    st.sampled_from(["nan", "inf", "-inf", "Infinity", "0", "-0", "1e400", "0x1", "1_0", "\x00", "0, 0"]),
)


@search(500)
@given(
    st.dictionaries(ASKING, WISHES, max_size=6),
    st.sampled_from([429, 503, 200]),
    st.floats(min_value=0, max_value=1e11, allow_nan=False),
)
def test_every_response_asks_for_a_pause_of_a_year_at_most_or_none(
    fields: dict[str, str], status: int, now: float
) -> None:
    """In any fields, at any time, no value raises, and no pause is negative or infinite."""
    seconds = pause(fields, status, now)
    assert seconds is None or (math.isfinite(seconds) and 0 <= seconds <= LONGEST_PAUSE)


@search(50)
@given(st.lists(st.tuples(ASKING, WISHES.filter(is_field_value)), max_size=4))
def test_request_ends_after_every_response(fields: list[tuple[str, str]]) -> None:
    """Through a transport it ends with the successful response, not too early, or with the first one."""
    answers = [httpx.Response(429, headers=fields), httpx.Response(200)]
    sent: list[float] = []

    async def main() -> int:
        loop = asyncio.get_running_loop()

        def answer(request: httpx.Request) -> httpx.Response:
            sent.append(loop.time())
            return answers[len(sent) - 1]

        transport = AsyncTransport(Pipeline(Retry(2, wait=0)), transport=httpx.MockTransport(answer))
        async with httpx.AsyncClient(transport=transport) as client:
            return (await client.get("http://example.com/")).status_code

    before = time.time()
    status = virtual.run(main())
    asked = HttpClassifier().result(answers[0]).retry_after
    if status == 429:
        assert asked is not None
        assert asked > 60 - (time.time() - before)
    else:
        assert sent[1] - sent[0] >= (asked or 0.0) - (time.time() - before)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "UTC"])
@pytest.mark.parametrize("date", ["Tue, 24 Nov 2026 14:31:30 -0000", "Tue Nov 24 14:31:30 2026"])
def test_date_without_a_zone_is_in_gmt_wherever_this_runs(
    zone: str, date: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's clock is not the local one."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert asked(date) == 30.0
    finally:
        monkeypatch.undo()
        time.tzset()


# -- callers that repeat --------------------------------------------------------------------------------------------


@search(200)
@given(st.text(max_size=30), st.integers(min_value=0, max_value=9999))
def test_header_of_a_caller_who_repeats_never_raises(text: str, most: int) -> None:
    """No value raises; botocore's usual values are understood."""
    assert is_repeated([("amz-sdk-request", text), ("x-stainless-retry-count", text)]) in (True, False)
    assert is_repeated([("Amz-Sdk-Request", f"attempt=1; max={most}")]) is (most > 1)
    assert is_repeated([("X-Stainless-Retry-Count", str(most))]) is (most > 0)
    assert is_repeated([("X-Other", str(most))]) is False


# -- fields ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        *(("a", True), ("order 7", True), ("a\tb", True), ("", False), (" a", False), ("a ", False)),
        *(("a\r\nb", False), ("\x00", False), ("a\x7f", False), ("\u20ac", False), ("a\n", False)),
    ],
)
def test_value_of_a_field_is_one_printable_line(text: str, fits: bool) -> None:
    """A value with a line end could begin another field."""
    assert is_field_value(text) is fits


# -- origins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com/a?b=c", "http://example.com:80"),
        ("http://example.com:80/", "http://example.com:80"),
        ("https://Example.COM", "https://example.com:443"),
        ("https://example.com:8443/", "https://example.com:8443"),
        ("http://user:secret@example.com/", "http://example.com:80"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("ws://example.com/", "ws://example.com:80"),
        ("ipp://example.com/", "ipp://example.com"),
    ],
)
def test_origin_is_scheme_host_and_port(url: str, expected: str) -> None:
    """The default port is that of the scheme; a path, a query or a password is never a part of it."""
    parsed = httpx.URL(url)
    assert origin(parsed.scheme, parsed.host, parsed.port) == expected


# -- the classifier -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 301, 304, 400, 401, 403, 404, 409, 422, 501, 505])
def test_answer_is_a_success_of_the_server(status: int) -> None:
    """An error of the client's is a success, too: the server works."""
    verdict = HttpClassifier().result(httpx.Response(status))
    assert (verdict.kind, verdict.retryable) == ("success", False)


@pytest.mark.parametrize("status", sorted(FAILURE_STATUSES))
def test_failure_status_is_a_failure_that_takes_over_retry_after(status: int) -> None:
    """The verdict has the pause of a valid `Retry-After`."""
    classifier = HttpClassifier()
    verdict = classifier.result(httpx.Response(status, headers={"Retry-After": "7"}))
    assert (verdict.kind, verdict.retryable, verdict.retry_after) == ("failure", True, 7.0)
    verdict = classifier.result(httpx.Response(status, headers={"Retry-After": "-7"}))
    assert (verdict.kind, verdict.retryable, verdict.retry_after) == ("failure", True, None)


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        (httpx.ConnectError(""), "failure", True),
        (httpx.ConnectTimeout(""), "failure", True),
        (httpx.ReadTimeout(""), "failure", True),
        (httpx.WriteError(""), "failure", True),
        (httpx.RemoteProtocolError(""), "failure", True),
        (httpx.ProxyError("502 Bad Gateway"), "failure", True),
        (httpx.ProxyError("429 Too Many Requests"), "failure", True),
        (httpx.ProxyError("Proxy Server could not connect: Host unreachable."), "failure", True),
        (TimedOut("", evidence=True), "failure", True),
        (RuntimeError("an application under ASGI failed"), "failure", True),
        (httpx.PoolTimeout(""), "nothing", True),
        (httpx.UnsupportedProtocol(""), "nothing", False),
        (httpx.LocalProtocolError(""), "nothing", False),
        (httpx.InvalidURL(""), "nothing", False),
        (httpx.StreamConsumed(), "nothing", False),
        (httpx.ProxyError("407 Proxy Authentication Required"), "nothing", False),
        (CircuitOpen(""), "nothing", False),
        (TypeError(""), "nothing", False),
    ],
    ids=repr,
)
def test_errors_are_classified_by_their_source(error: Exception, kind: str, retryable: bool) -> None:
    """The source is the server or the network, the caller, or a wait of our own."""
    verdict = HttpClassifier().error(error)
    assert (verdict.kind, verdict.retryable) == (kind, retryable)


@pytest.mark.parametrize(
    ("line", "refused"), [("407 x", True), ("403", True), ("429 x", False), ("503 x", False), ("", False), ("4", False)]
)
def test_a_proxys_4xx_is_a_refusal(line: str, refused: bool) -> None:
    """Other messages of a proxy are none."""
    assert is_refusal(line) is refused


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com", "http://example.com:80"),
        ("HTTPS://Example.COM:443/a?b#c", "https://example.com:443"),
        ("http://user:password@example.com:81/", "http://example.com:81"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://b\u00fccher.example/", "http://xn--bcher-kva.example:80"),
    ],
)
def test_origin_of_a_request_is_that_of_its_url(library: Any, url: str, expected: str) -> None:
    """The host has the spelling of the wire."""
    request = library.Request("GET", url)
    assert origin_of(request) == key_by("origin")(request) == expected
    assert origin(request.url.scheme, request.url.raw_host.decode(), request.url.port) == expected


@pytest.mark.parametrize(
    ("first", "then", "same"),
    [
        ("http://a:80", "http://a:80", True),
        ("http://a:80", "https://a:443", True),
        ("https://a:443", "http://a:80", False),
        ("http://a:81", "https://a:443", False),
        ("http://a:80", "https://a:444", False),
        ("http://a:80", "https://b:443", False),
        ("http://[::1]:80", "https://[::1]:443", True),
    ],
)
def test_same_server_is_the_origin_and_its_host_by_https(first: str, then: str, same: bool) -> None:
    """It is never a less secure one."""
    assert is_same_server(first, then) is same
