"""Hostile servers and callers: their input is bounded in time and memory, and stays data."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from resilient import CircuitBreaker, Pipeline, Retry, Timeout, deadline
from resilient.http.lifecycle import KEPT_BYTES, KEPT_SECONDS
from resilient.observe.logging import log_events
from tests.http.kinds import Kind

PART = 16_384


class Endless:
    """A stream without end, with a pause before each part. It counts the parts, and records whether it was closed."""

    def __init__(self, kind: Kind, seconds: float) -> None:
        self.parts = 0
        self.closed = False
        outer = self

        class Stream(kind.library.AsyncByteStream, kind.library.SyncByteStream):  # type: ignore[misc,name-defined]
            def __iter__(self) -> Any:
                while True:
                    outer.parts += 1
                    yield b"x" * PART

            async def __aiter__(self) -> Any:
                while True:
                    await kind.sleep(seconds)
                    outer.parts += 1
                    yield b"x" * (1 if seconds else PART)

            def close(self) -> None:
                outer.closed = True

            async def aclose(self) -> None:
                outer.closed = True

        self.stream = Stream()


def test_endless_error_is_read_for_a_few_parts(kind: Kind) -> None:
    """Another attempt replaces it, and its connection is closed."""
    endless = Endless(kind, 0)
    script = kind.script(lambda request: kind.library.Response(503, stream=endless.stream))
    assert kind.send(kind.open(Pipeline(Retry(2, wait=0)), script)).status_code == 200
    assert endless.parts <= KEPT_BYTES // PART + 1
    assert endless.closed


def test_error_that_drips_holds_up_the_next_attempt_for_a_second(kind: Kind) -> None:
    """It is held up for a second at most."""
    if not kind.is_async:
        return  # its reads are bounded by the client's own timeouts
    endless = Endless(kind, 0.3)
    script = kind.script(lambda request: kind.library.Response(503, stream=endless.stream))
    begin = kind.now()
    assert kind.send(kind.open(Pipeline(Retry(2, wait=0)), script)).status_code == 200
    assert kind.now() - begin <= KEPT_SECONDS + 0.01
    assert endless.closed


@pytest.mark.parametrize(
    "fields",
    [
        [("Retry-After", "9" * 1_000_000)],
        [("Retry-After", "," * 1_000_000)],
        [("Retry-After", "1h" * 500_000)],
        [("Retry-After", "Tue, " * 200_000)],
        [("Retry-After", "1e308"), ("retry-after-ms", "-1"), ("retry-after-ms", "inf")],
        [("Retry-After", "31622401")],
        [(f"x-ratelimit-reset-{number}", "5" * (number % 40)) for number in range(5_000)],
        [("ratelimit-reset", "0" * 1_000_000), ("ratelimit-remaining", " " * 1_000_000)],
    ],
    ids=["digits", "commas", "spans", "dates", "numbers", "years", "flood", "long"],
)
def test_floods_of_headers_cost_no_time(kind: Kind, fields: list[tuple[str, str]]) -> None:
    """No wait is longer than `max_retry_after`: the response is returned, or the request is repeated."""
    script = kind.script(lambda request: kind.library.Response(429, headers=fields, content=b""))
    pipeline = Pipeline(Retry(2, wait=0, max_retry_after=5 if kind.is_async else 0))
    assert kind.send(kind.open(pipeline, script)).status_code in {200, 429}
    assert all(wait <= 5 for wait in script.waits())


@pytest.mark.parametrize("evil", ["1\r\nX-Evil: 1", "1\nX-Evil: 1", "1\x00", "1\r", "\u2028", "é", "", " "])
def test_nothing_can_be_put_into_a_header(kind: Kind, evil: str) -> None:
    """An idempotency key is printable ASCII, or is refused before anything is sent."""
    script = kind.script()
    client = kind.open(Pipeline(Retry(2, wait=0)), script)
    with pytest.raises(ValueError, match="must be the value of a header"):
        kind.send(client, "POST", extensions={"resilient": {"idempotency_key": evil}})
    with pytest.raises(ValueError, match="attempt_header must"):
        kind.transport_of(Pipeline(Retry(2)), transport=script.inner, attempt_header=evil)
    assert script.sent == []


def test_headers_that_came_from_outside_are_replaced(kind: Kind) -> None:
    """A gateway passes on its client's headers: ours replace them, with the true values."""
    script = kind.script(503)
    options = {"attempt_header": True, "deadline_header": True, "priority_header": True}
    client = kind.open(Pipeline(Retry(2, wait=0), Timeout(5)), script, **options)
    headers = [(name, "99") for name in ("X-Attempt", "X-Deadline-Ms", "x-deadline-ms", "X-Priority")]
    assert kind.run(lambda: client.get("http://a/", headers=headers), lambda: deadline(3)).status_code == 200
    assert script.headers("X-Attempt") == ["1", "2"]
    assert script.headers("X-Priority") == ["normal", "normal"]
    assert all(value is not None and 0 < int(value) <= 3000 for value in script.headers("X-Deadline-Ms"))


def test_key_from_outside_forges_no_log_line(kind: Kind) -> None:
    """Line ends and control characters of a terminal are escaped."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.Logger("hostile")
    logger.addHandler(Lines())
    pipeline = Pipeline(CircuitBreaker(fail_max=1, failure_rate=None), name="users")
    client = kind.open(pipeline, kind.script(*[kind.library.ConnectError("x")] * 3))
    stop = log_events(client._transport.pipeline, logger=logger, interval=0)
    tenant = "x\r\n2026-11-30 ERROR root logged in \x1b[31m \u202e \x00"
    for _ in range(2):
        with pytest.raises(kind.library.TransportError) as caught:
            kind.send(client, extensions={"resilient": {"key": tenant}})
    stop()
    assert lines
    assert all(line.isprintable() for line in [*lines, str(caught.value)])
