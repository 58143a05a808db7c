"""A request that meets a fault: how often the server sees it, what its user gets, and that the pool is free afterwards.

The table is shown in docs/http.md, as `python -m tests.http.test_faults` prints it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from resilient import Pipeline, Retry, Timeout
from resilient.events import Retrying
from tests.http.clients import Http
from tests.http.raw import RawServer, Step, breaking_off, closing, dripping, hanging, hasty, head, resetting
from tests.http.server import Answer, Server

DOCS = Path(__file__).parents[2] / "docs" / "http.md"

BUFFER = 4096
SHORT = b"0123456789abcdef" * 128
LONG = SHORT * 4

Fate = tuple[int, int | str]
"""Requests that the server sees, and what the user gets: a status, or the name of an exception of the client's."""


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Args:
        name: as in the docs.
        meets: the fault of the first request, at a raw server or at good ones; the next responses are successful.
        again: the result of requests that may be sent again.
        once: the result of all others.
        before: "warm": the connection has carried a request; "hung up": and the server has closed it since; "refused":
            connections are refused, until the first attempt has failed.
        limit: seconds for each attempt, in the pipeline.
        options: for the transport.
        blocking: the results under plain clients, which cannot interrupt a read, if they differ.
    """

    name: str
    meets: Step | Answer | None
    again: Fate
    once: Fate
    before: str = ""
    limit: float = 5.0
    options: dict[str, Any] = field(default_factory=dict)
    blocking: tuple[Fate, Fate] | None = None

    @property
    def is_slow(self) -> bool:
        """Whether a fault takes time."""
        return self.limit < 5 or bool(self.options)


HALF = head(200, "Content-Length: 100") + b"half of"

FAULTS = [
    Fault("an answer of 503", Answer(503), (2, 200), (1, 503)),
    Fault("429, `Retry-After: 0.01`", Answer(429, headers={"Retry-After": "0.01"}), (2, 200), (1, 429)),
    Fault("429, `Retry-After: 3600`", Answer(429, headers={"Retry-After": "3600"}), (1, 429), (1, 429)),
    Fault("an answer of 404", Answer(404), (1, 404), (1, 404)),
    Fault("503 with a body of 300 kB", Answer(503, b"x" * 300_000), (2, 200), (1, 503)),
    Fault("connection refused, once", None, (1, 200), (1, 200), "refused"),
    Fault("idle connection closed by the server before", None, (1, 200), (1, 200), "hung up"),
    Fault("used connection closed instead of an answer", closing(), (2, 200), (1, "RemoteProtocolError"), "warm"),
    Fault("used connection reset instead of an answer", resetting(), (2, 200), (1, "ReadError"), "warm"),
    Fault("connection closed instead of an answer", closing(), (2, 200), (1, "RemoteProtocolError")),
    Fault("reset before the answer", resetting(), (2, 200), (1, "ReadError")),
    Fault("reset with the request half read", resetting(early=True), (2, 200), (1, "TransportError")),
    Fault("reset within the head", resetting(b"HTTP/1.1 200 O"), (2, 200), (1, "ReadError")),
    Fault("closed within the head", closing(b"HTTP/1.1 200 O"), (2, 200), (1, "RemoteProtocolError")),
    Fault("not HTTP", closing(b"220 mail.example.com ESMTP\r\n"), (2, 200), (1, "RemoteProtocolError")),
    Fault("reset within the body", resetting(HALF), (2, 200), (1, "ReadError")),
    Fault("body shorter than its length", closing(HALF), (2, 200), (1, "RemoteProtocolError")),
    Fault(
        "chunked body cut short",
        closing(head(200, "Transfer-Encoding: chunked") + b"4\r\nhalf\r\n"),
        (2, 200),
        (1, "RemoteProtocolError"),
    ),
    Fault("503, reset within the body", resetting(head(503, "Content-Length: 9") + b"x"), (2, 200), (1, "ReadError")),
    Fault("503, body shorter than its length", breaking_off(503), (2, 200), (1, "RemoteProtocolError")),
    Fault("413 before the request was read", hasty(413), (1, 413), (1, 413)),
    Fault("503 before the request was read", hasty(503), (2, 200), (1, 503)),
    Fault("no answer for longer than the attempt's Timeout", hanging(), (2, 200), (1, "TimeoutException"), limit=0.15),
    Fault(
        "a head that drips for longer than the attempt's Timeout",
        dripping(head(200, "Content-Length: 0")),
        (2, 200),
        (1, "TimeoutException"),
        limit=0.15,
        blocking=((1, 200), (1, 200)),
    ),
    Fault(
        "a body that drips for longer than `body_timeout`",
        dripping(b"x" * 50, head(200, "Content-Length: 50")),
        (2, 200),
        (1, "TimeoutException"),
        options={"body_timeout": 0.05},
    ),
    Fault(
        "503 with a body that drips for longer than `body_timeout`",
        dripping(b"x" * 50, head(503, "Content-Length: 50")),
        (2, 200),
        (1, "TimeoutException"),
        options={"body_timeout": 0.05},
    ),
]

PROTOCOLS = {"h11": "uvicorn, h11", "httptools": "uvicorn, httptools", "h2": "hypercorn, HTTP/2"}

CASES = [
    pytest.param(fault, protocol, id=f"{fault.name}{protocol and ', '}{protocol}".replace("`", ""))
    for fault in FAULTS
    for protocol in (PROTOCOLS if isinstance(fault.meets, Answer) else [""])
]

METHODS = {
    "GET": ("GET", {}),
    "PUT": ("PUT", {}),
    "POST": ("POST", {}),
    "POST with key": ("POST", {"Idempotency-Key": "a"}),
}

BODIES = ["bytes", "JSON", "file", "multipart", "iterator", "longer iterator"]
FEW_BODIES = ["bytes", "longer iterator"]
"""One that can be sent again, and one that cannot."""


def bodies(http: Http, fault: Fault, method: str) -> list[str]:
    """Return the kinds of bodies to try: all kinds under one library, in a request that may be sent twice and in one
    that may not.

    Both libraries give bodies to the same code of ours, and a POST with a key is treated as a PUT is: there, fewer
    kinds
    are tried.
    """
    if method == "GET":
        return ["none"]
    kinds = FEW_BODIES if fault.is_slow else BODIES
    if method == "POST with key" or http.library is httpx2:
        return ["bytes"] if fault.is_slow else FEW_BODIES
    return kinds


@contextlib.contextmanager
def body(http: Http, kind: str, path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Return the argument that gives a body of a kind to a client, and the bytes that must arrive."""
    if kind == "none":
        yield {}, b""
    elif kind == "bytes":
        yield {"content": SHORT}, SHORT
    elif kind == "JSON":
        yield {"json": SHORT.decode()}, b'"%b"' % SHORT
    elif kind == "file":
        path.write_bytes(LONG if http.blocking else SHORT)  # files of asynchronous programs are iterators
        with http.file(path) as opened:
            yield {"content": opened}, path.read_bytes()
    elif kind == "multipart":
        path.write_bytes(LONG)
        with path.open("rb") as opened:
            yield {"files": {"file": opened}, "data": {"a": "1"}}, LONG
    else:
        content = SHORT if kind == "iterator" else LONG
        yield {"content": http.body(content[:100], content[100:5000], content[5000:])}, content


def ending(http: Http, method: str, url: str, **options: Any) -> Any:
    """Return the status of the response, or the names of the classes of an exception."""
    try:
        return http.send(method, url, **options).status_code
    except http.library.TransportError as error:
        return [each.__name__ for each in type(error).__mro__]


@contextlib.contextmanager
def origin(fault: Fault, pipeline: Pipeline, http: Http, server: Server | RawServer) -> Iterator[str]:
    """Return the origin for the request, after bringing about the state before the fault."""
    server.reset()
    if fault.before == "refused":
        assert isinstance(server, RawServer)
        with server.refusing() as (url, listen):
            end = pipeline.listen(lambda event: listen() if isinstance(event, Retrying) else None)
            yield url
            end()
        return
    if fault.before:
        assert isinstance(server, RawServer)
        assert http.send("GET", server.origin).status_code == 200
        server.seen.clear()
        if fault.before == "hung up":
            server.hang_up()
    if fault.meets is not None:
        server.script.append(fault.meets)  # type: ignore[arg-type]
    yield server.origin


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("fault", "protocol"), CASES)
def test_request_that_meets_a_fault_ends_as_the_table_says(
    http: Http,
    raw: RawServer,
    protocols: dict[str, Server],
    fault: Fault,
    protocol: str,
    method: str,
    tmp_path: Path,
) -> None:
    """The server sees it as often as the table says, whole each time; its user gets the result of the table; the pool
    is free."""
    server = protocols[protocol] if protocol else raw
    pipeline = Pipeline(Retry(3, wait=0), Timeout(fault.limit))
    options = {"http1": False, "http2": True} if protocol == "h2" else {}
    http.open(pipeline, buffer=BUFFER, **fault.options, **options)
    verb, fields = METHODS[method]
    expected, found = {}, {}
    for kind in bodies(http, fault, method):
        with body(http, kind, tmp_path / "body") as (given, content), origin(fault, pipeline, http, server) as url:
            outcome = ending(http, verb, url, headers=fields, **given)
            again = method != "POST" and kind != "longer iterator"
            fates = (fault.again, fault.once) if fault.blocking is None or not http.blocking else fault.blocking
            _, end = expected[kind] = fates[0] if again else fates[1]
            found[kind] = len(server.seen), end if isinstance(outcome, list) and end in outcome else outcome
            for seen in server.seen:
                assert content in seen.body or not getattr(seen, "whole", True), kind
                assert kind == "multipart" or len(seen.body) <= len(content)
            assert outcome != 200 or getattr(server.seen[-1], "whole", True)
            assert http.all_free(), kind
    assert found == expected


def table() -> str:
    """Return the table in the format of the docs."""
    lines = ["| The first attempt meets | may be sent again | may not |", "|---|---|---|"]
    for fault in FAULTS:
        fates = [_shown(fate) for fate in (fault.again, fault.once)]
        if fault.blocking is not None:
            fates = [f"{fate}; plain: {_shown(plain)}" for fate, plain in zip(fates, fault.blocking, strict=True)]
        lines.append("| " + " | ".join((fault.name, *fates)) + " |")
    return "\n".join(lines) + "\n"


def _shown(fate: Fate) -> str:
    requests, end = fate
    return f"{requests}, `{end}`" if isinstance(end, str) else f"{requests}, {end}"


def test_docs_show_the_table() -> None:
    """The table in docs/http.md is that of this test."""
    assert table() in DOCS.read_text()


if __name__ == "__main__":
    print(table(), end="")
