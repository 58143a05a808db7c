"""No event, error, log line or repr of ours contains what was sent: header values, queries, passwords of URLs, keys."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import httpx
import httpx2
import pytest

from resilient import (
    Budget,
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
    standard_hedged,
)
from resilient.observe.logging import log_events
from tests.http.kinds import KINDS, Kind
from tests.http.server import Server

SECRETS = (
    "s3cret-token",
    "s3cret-query",
    "s3cret-password",
    "s3cret-key",
    "s3cret-cookie",
    "s3cret-body",
    "s3cret-frag",
)
URL = "http://user:s3cret-password@example.com/path?token=s3cret-query#s3cret-frag"
HEADERS = {"Authorization": "Bearer s3cret-token", "Cookie": "session=s3cret-cookie", "X-Api-Key": "s3cret-key"}
POST: dict[str, Any] = {
    "headers": HEADERS,
    "content": b"s3cret-body",
    "extensions": {"resilient": {"idempotency_key": "s3cret-key"}},
}


class Watch:
    """Collects all output about calls: events, log records and their attributes."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []
        self.events: list[Any] = []

    def text(self) -> str:
        formatter = logging.Formatter("%(levelname)s %(name)s %(message)s")
        lines = [formatter.format(record) for record in self.records]  # with tracebacks
        lines += [repr(sorted(vars(record).items(), key=lambda item: item[0])) for record in self.records]
        for event in self.events:
            lines += [f"{field.name}={_plain(getattr(event, field.name))}" for field in fields(event)]
        return "\n".join(lines)

    def leaks(self, *more: object) -> list[str]:
        text = self.text() + "".join(map(str, more))
        return [secret for secret in SECRETS if secret in text]


def _plain(value: Any) -> str:
    """Return a field as text. An event's error is the user's own object: we show its type, not its message."""
    return type(value).__name__ if isinstance(value, BaseException) else repr(value)


@pytest.fixture
def watch() -> Iterator[Watch]:
    from resilient import events

    made = Watch()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            made.records.append(record)

    handler, logger = Handler(), logging.getLogger("resilient")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    stop, unlisten = log_events(interval=0), events.listen(made.events.append)
    yield made
    stop()
    unlisten()
    logger.removeHandler(handler)
    logger.setLevel(level)


def everything(kind: Kind) -> Pipeline:
    """Return a pipeline with all policies, each of which emits something."""
    budget = Budget()
    return Pipeline(
        Timeout(60),
        Retry(3, wait=0, budget=budget),
        Hedge(0.3, budget=budget, thread=not kind.is_async),
        RateLimit(1000, per=1),
        Bulkhead(5, queue=5),
        CircuitBreaker(fail_max=2, failure_rate=None),
        Timeout(5),
        name="users",
    )


OPTIONS: dict[str, Any] = {"idempotency_key": True, "attempt_header": True, "deadline_header": True}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_failure_statuses_show_no_secret(kind: Kind, watch: Watch, method: str) -> None:
    """Retries, a circuit that opens, and rejections are covered."""
    pipeline = everything(kind)
    script = kind.script(*[(503, {"Set-Cookie": "session=s3cret-cookie", "Location": URL})] * 9)
    client = kind.open(pipeline, script, **OPTIONS)
    options = POST if method == "POST" else {"headers": HEADERS}
    shown: list[object] = []
    for _ in range(2):
        try:
            shown.append(kind.send(client, method, URL, **options).status_code)
        except kind.ours.CircuitOpen as error:
            shown += [error, repr(error), error.__notes__ if hasattr(error, "__notes__") else ""]
    transport = client._transport
    shown += [transport, transport.pipeline, transport.pipeline.describe(), transport.pipeline.snapshot()]
    assert len(watch.events) > 3
    assert watch.leaks(*shown) == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_errors_that_quote_what_was_sent_are_not_passed_on(kind: Kind, watch: Watch, method: str) -> None:
    """h11's errors quote header values, others the URL; only the user gets the error and its message."""

    def quoting(request: Any) -> Any:
        words = f"{request.url} {URL} {sorted(request.headers.items())} {request.content!r} s3cret-frag"
        raise kind.library.ReadError(words)

    client = kind.open(everything(kind), kind.script(*[quoting] * 9), **OPTIONS)
    options = POST if method == "POST" else {"headers": HEADERS}
    for _ in range(2):
        with pytest.raises(kind.library.TransportError) as caught:
            kind.send(client, method, URL, **options)
    assert isinstance(caught.value, kind.ours.CircuitOpen)
    assert len(watch.events) > 3
    assert any(type(event).__name__ == "AttemptFailed" for event in watch.events)
    notes = getattr(caught.value, "__notes__", [])
    assert watch.leaks(caught.value, repr(caught.value), notes) == []


def test_rejection_after_a_quoting_error_notes_no_secret(kind: Kind, watch: Watch) -> None:
    """The last real error is raised, with our note about the end of the attempts."""

    def quoting(request: Any) -> Any:
        raise kind.library.ReadError(str(request.url))

    pipeline = Pipeline(Retry(3, wait=0), CircuitBreaker(fail_max=1, failure_rate=None), name="users")
    client = kind.open(pipeline, kind.script(quoting))
    with pytest.raises(kind.library.ReadError) as caught:
        kind.send(client, url=URL)
    assert len(caught.value.__notes__) == 1
    assert watch.leaks(caught.value.__notes__) == []


def test_illegal_header_reaches_the_user_only(watch: Watch, servers: tuple[Server, Server]) -> None:
    """The message is h11's own, over a real connection."""
    servers[0].reset()
    for kind in KINDS:
        made = kind()
        made.real = True
        client = made.keep(made.client_of(transport=made.transport_of(everything(made))))
        with pytest.raises(made.library.LocalProtocolError, match="s3cret-token"):
            made.send(client, url=servers[0].origin, headers={"Authorization": "Bearer s3cret-token\n"})
        made.close()
    assert any(type(event).__name__ == "AttemptFailed" for event in watch.events)
    assert watch.leaks() == []


def test_connect_errors_show_no_secret(kind: Kind, watch: Watch) -> None:
    """Hosts are shown, as names of circuits; passwords and queries are not."""
    script = kind.script(*[kind.library.ConnectError("nobody")] * 9)
    client = kind.open(everything(kind), script, **OPTIONS)
    for _ in range(3):
        with pytest.raises(kind.library.ConnectError):
            kind.send(client, "POST", URL, **POST)
    text = watch.text()
    assert "http://example.com:80" in text
    assert watch.leaks() == []


def test_timeouts_and_hedges_show_no_secret(kind: Kind, watch: Watch) -> None:
    """The output has neither the caller nor the URL."""

    def silent(request: Any) -> Any:
        kind.sleep_plainly(0.06)
        raise kind.library.ReadTimeout(str(request.url))

    async def silent_later(request: Any) -> Any:
        await kind.sleep(0.06)
        raise kind.library.ReadTimeout(str(request.url))

    script = kind.script(*[silent_later if kind.is_async else silent] * 9)
    client = kind.open(Pipeline(Hedge(0.01, thread=not kind.is_async), Timeout(0.05)), script)
    with pytest.raises(kind.ours.TimedOut) as caught:
        kind.send(client, url=URL, headers=HEADERS)
    assert watch.leaks(caught.value) == []


def test_fallback_around_shows_no_secret(kind: Kind, watch: Watch) -> None:
    """Of the error that it replaced, only the type is shown."""

    def quoting(request: Any) -> Any:
        raise kind.library.ReadError(str(request.url))

    pipeline = Pipeline(Fallback(kind.library.Response(200)), Retry(2, wait=0))
    assert kind.send(kind.open(pipeline, kind.script(quoting, quoting)), url=URL).status_code == 200
    assert watch.leaks() == []


def test_closing_that_fails_shows_no_secret(kind: Kind, watch: Watch) -> None:
    """The error of closing a discarded response is logged at debug."""
    library = kind.library

    class Stubborn(library.AsyncByteStream, library.SyncByteStream):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Any:
            raise library.ReadError(URL)
            yield b""

        async def __aiter__(self) -> Any:
            raise library.ReadError(URL)
            yield b""

        def close(self) -> None:
            raise library.ReadError(URL)

        async def aclose(self) -> None:
            raise library.ReadError(URL)

    def stubborn(request: Any) -> Any:
        return library.Response(503, stream=Stubborn())

    def is_failure(response: Any) -> bool:
        raise LookupError("of the classifier")

    assert kind.send(kind.open(Pipeline(Retry(2, wait=0)), kind.script(stubborn)), url=URL).status_code == 200
    client = kind.open(Pipeline(Retry(2, wait=0), classify=Classifier(results=is_failure)), kind.script(stubborn))
    with pytest.raises(LookupError):
        kind.send(client, url=URL)
    closing = [record for record in watch.records if "closing a re" in record.getMessage()]
    assert len(closing) == 2
    assert watch.leaks() == []


def test_mistaken_options_do_not_quote_keys(kind: Kind) -> None:
    """Keys of orders, and the other options of the request, are not shown."""
    client = kind.open(everything(kind), kind.script())
    for wrong in (b"s3cret-key", "s3cret-key\n", ["s3cret-key"]):
        with pytest.raises(ValueError) as caught:
            kind.send(client, "POST", URL, extensions={"resilient": {"idempotency_key": wrong}})
        shown = "".join(traceback.format_exception_only(caught.value))
        assert "s3cret" not in shown
    with pytest.raises(TypeError, match=r"transport= or the options of a new one \(cert, proxy\)") as wrong_options:
        kind.transport_of(None, transport=kind.script().inner, proxy=URL, cert="s3cret-key")
    assert "s3cret" not in str(wrong_options.value)


def test_standard_hedged_shows_no_secret(kind: Kind, watch: Watch) -> None:
    """The preset is the one that most users have."""
    if not kind.is_async:
        return
    client = kind.open(standard_hedged("users"), kind.script(*[503] * 9), **OPTIONS)
    kind.send(client, "POST", URL, **POST)
    assert watch.leaks(client._transport.pipeline) == []


def test_libraries_hide_passwords_themselves() -> None:
    """We rely on the repr of a URL, which requests and errors show."""
    for library in (httpx, httpx2):
        assert "s3cret-password" not in repr(library.URL(URL))
