"""Spans under HTTP: our transports with clients that are instrumented, streams, and the OTLP exporter; real servers."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import httpx
import httpx2
import opentelemetry.instrumentation.httpx as instrumentation
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

import resilient.http.httpx
import resilient.http.httpx2
from resilient import Bulkhead, Hedge, Pipeline, Retry
from resilient.observe.opentelemetry import count_resends, count_resends_async
from tests.observe.span_trees import Traces, lines_of

INSTRUMENTORS: dict[str, tuple[Any, ModuleType, ModuleType]] = {
    "httpx": (instrumentation.HTTPXClientInstrumentor, httpx, resilient.http.httpx),
    "httpx2": (instrumentation.HTTPX2ClientInstrumentor, httpx2, resilient.http.httpx2),
}

RESENDS = "http.request.resend_count"


class Server:
    """A real HTTP server in threads.

    Attributes:
        script: the statuses of the next answers; after the last one, 200. "broken" breaks the body off.
        seen: the `traceparent` of each request.
        posted: the body of each POST.
    """

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.seen: list[str | None] = []
        self.posted: list[bytes] = []
        self.may_answer = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.seen.append(self.headers["traceparent"])
                step = server.script.pop(0) if server.script else 200
                if step == "wait":
                    assert server.may_answer.wait(60)
                    step = 200
                self.send_response(200 if step == "broken" else step)
                self.send_header("Content-Length", "7" if step == "broken" else "5")
                self.end_headers()
                self.wfile.write(b"hello")
                self.close_connection = step == "broken"

            def do_POST(self) -> None:
                server.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None: ...  # a client that has left

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that runs."""
    with Server() as running:
        yield running


@pytest.fixture
def traces() -> Iterator[Traces]:
    """All pipelines are traced."""
    with Traces() as made:
        yield made


@pytest.fixture(params=INSTRUMENTORS)
def instrumented(request: pytest.FixtureRequest, traces: Traces) -> Iterator[tuple[ModuleType, ModuleType]]:
    """A client library whose transports are instrumented, and our module for it."""
    kind, library, ours = INSTRUMENTORS[request.param]
    instrumentor = kind()
    instrumentor.instrument(
        tracer_provider=traces.provider,
        request_hook=count_resends,
        async_request_hook=count_resends_async,
        skip_dep_check=True,
    )
    yield library, ours
    instrumentor.uninstrument()


def ids(traces: Traces) -> list[str]:
    """The `traceparent` that each CLIENT span would send."""
    return [
        f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{int(span.context.trace_flags):02x}"
        for span in traces.spans
        if span.kind is SpanKind.CLIENT and span.context
    ]


def retried() -> Pipeline:
    """A pipeline that repeats failures at once."""
    return Pipeline(Retry(attempts=3, wait=0), Bulkhead(5), name="users")


TREE = [
    "users GET success",
    "  attempt GET ERROR 1 failure 503",
    "    GET ERROR",
    "  attempt GET 2 retry 503 success",
    "    GET 1",
]


def shown(traces: Traces) -> list[str]:
    """The tree of the spans."""
    return traces.lines("attempt", "reason", "cause", "ending", "error.type", RESENDS)


async def test_asynchronous_client_has_a_client_span_within_each_attempt(
    instrumented: Any, server: Server, traces: Traces
) -> None:
    """With the number of its resend; servers get the id of that span. There is no second CLIENT span."""
    library, ours = instrumented
    server.script += [503]
    async with library.AsyncClient(transport=ours.AsyncTransport(retried())) as client:
        assert (await client.get(f"{server.origin}/path?token=secret")).status_code == 200
    assert shown(traces) == TREE
    assert server.seen == ids(traces)
    assert not traces.open
    assert trace.get_current_span() is trace.INVALID_SPAN
    ours_only = [span for span in traces.spans if span.kind is SpanKind.INTERNAL]
    assert "secret" not in "".join(span.to_json() for span in ours_only)
    call, *attempts = ours_only
    assert call.attributes is not None
    assert {key: call.attributes[key] for key in ("http.request.method", "server.address", "server.port")} == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    assert [(each.attributes or {})["http.response.status_code"] for each in attempts] == [503, 200]


def test_plain_client_has_a_client_span_within_each_attempt(instrumented: Any, server: Server, traces: Traces) -> None:
    """As the asynchronous one."""
    library, ours = instrumented
    server.script += [503]
    with library.Client(transport=ours.Transport(retried())) as client:
        assert client.get(server.origin).status_code == 200
    assert shown(traces) == TREE
    assert server.seen == ids(traces)
    assert not traces.open


async def test_copies_of_a_hedge_count_as_resends(instrumented: Any, server: Server, traces: Traces) -> None:
    """The second copy is the first resend."""
    library, ours = instrumented
    server.script += ["wait", 200]
    users = Pipeline(Hedge(0.01), name="users")
    async with library.AsyncClient(transport=ours.AsyncTransport(users), timeout=60) as client:
        assert (await client.get(server.origin)).status_code == 200
    await users.aclose()
    assert traces.lines("copy", RESENDS) == [
        "users GET",
        "  attempt GET",
        "    GET",
        "  attempt GET 2",
        "    GET 1",
    ]
    assert not traces.open


async def test_client_in_a_guarded_function(instrumented: Any, server: Server, traces: Traces) -> None:
    """The function is repeated as a whole; the hook counts without `trace_calls`, too."""
    library, _ = instrumented
    users = retried()
    async with library.AsyncClient() as client:

        @users
        async def load() -> str:
            response = await client.get(server.origin)
            response.raise_for_status()
            return str(response.text)

        server.script += [503]
        assert await load() == "hello"
        assert traces.lines("attempt", RESENDS) == [
            "users load",
            "  attempt load ERROR 1",
            "    GET ERROR",
            "  attempt load 2",
            "    GET 1",
        ]
        traces.__exit__()
        server.script += [503]
        assert await load() == "hello"
        assert (await client.get(server.origin)).text == "hello"  # outside of all calls


async def test_hook_counts_while_calls_are_not_traced(server: Server) -> None:
    """By the number of the attempt."""
    with Traces(Pipeline(Retry(), name="other")) as traces:
        instrumentor = instrumentation.HTTPXClientInstrumentor()
        instrumentor.instrument(
            tracer_provider=traces.provider, async_request_hook=count_resends_async, skip_dep_check=True
        )
        try:
            server.script += [503]
            async with httpx.AsyncClient(transport=resilient.http.httpx.AsyncTransport(retried())) as client:
                assert (await client.get(server.origin)).status_code == 200
            async with httpx.AsyncClient() as other:
                assert (await other.get(server.origin)).status_code == 200
        finally:
            instrumentor.uninstrument()
        assert traces.lines(RESENDS) == ["GET ERROR", "GET 1", "GET"]


async def test_instrumented_client_has_its_span_around_the_call(server: Server, traces: Traces) -> None:
    """`instrument_client` instruments the transport that the client has, which is ours: no count is possible."""
    server.script += [503]
    async with httpx.AsyncClient(transport=resilient.http.httpx.AsyncTransport(retried())) as client:
        instrumentation.HTTPXClientInstrumentor.instrument_client(
            client, tracer_provider=traces.provider, request_hook=count_resends_async
        )
        assert (await client.get(server.origin)).status_code == 200
    assert traces.lines("attempt", RESENDS) == [
        "GET",
        "  users GET",
        "    attempt GET ERROR 1",
        "    attempt GET 2",
    ]
    assert server.seen == ids(traces) * 2


async def test_instrumented_transport_within_ours(server: Server, traces: Traces) -> None:
    """Only this client is instrumented, and each attempt has its CLIENT span."""
    server.script += [503]
    inner = instrumentation.AsyncOpenTelemetryTransport(
        httpx.AsyncHTTPTransport(), tracer_provider=traces.provider, request_hook=count_resends_async
    )
    transport = resilient.http.httpx.AsyncTransport(retried(), transport=inner)
    async with httpx.AsyncClient(transport=transport) as client:
        assert (await client.get(server.origin)).status_code == 200
    assert shown(traces) == TREE


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [resilient.http.httpx, resilient.http.httpx2], ids=["httpx", "httpx2"])
async def test_a_stream_is_open_until_its_body_has_ended(ours: Any, server: Server, traces: Traces) -> None:
    """But it is current only until its head is there."""
    library = httpx if ours is resilient.http.httpx else httpx2
    async with library.AsyncClient(transport=ours.AsyncTransport(retried())) as client:
        with traces.tracer.start_as_current_span("request") as request:
            async with client.stream("GET", server.origin) as response:
                assert trace.get_current_span() is request
                assert sorted(traces.open) == ["attempt GET", "request", "users GET"]
                assert await response.aread() == b"hello"
                assert traces.open == ["request"]
    assert traces.lines("ending", "verdict", "http.response.status_code") == [
        "request",
        "  users GET success success 200",
        "    attempt GET success success 200",
    ]


async def test_a_stream_that_breaks_off_or_is_left(server: Server, traces: Traces) -> None:
    """A body that breaks off is a failure, as for circuits; one that its reader closes early is none."""
    async with httpx.AsyncClient(transport=resilient.http.httpx.AsyncTransport(retried())) as client:
        server.script += ["broken", 200]
        async with client.stream("GET", server.origin) as response:
            with pytest.raises(httpx.RemoteProtocolError):
                await response.aread()
        assert traces.lines("ending", "error.type") == [
            "users GET ERROR failure httpx.RemoteProtocolError",
            "  attempt GET ERROR failure httpx.RemoteProtocolError",
        ]
        traces.clear()
        async with client.stream("GET", server.origin):
            pass
        assert traces.lines("ending") == ["users GET success", "  attempt GET success"]
        assert not traces.open


async def test_a_response_that_is_forgotten_ends_its_spans_with_the_next_call(server: Server, traces: Traces) -> None:
    """Not in the garbage collector, which may run anywhere."""
    users = retried()
    transport = resilient.http.httpx.AsyncTransport(users)
    response: Any = await transport.handle_async_request(httpx.Request("GET", server.origin))
    assert sorted(traces.open) == ["attempt GET", "users GET"]
    del response
    gc.collect()
    async with httpx.AsyncClient(transport=transport) as client:
        assert (await client.get(server.origin)).text == "hello"
    assert not traces.open
    endings = sorted(str((span.attributes or {})["resilient.ending"]) for span in traces.named("users GET"))
    assert endings == ["cancelled", "success"]


# -- OTLP --------------------------------------------------------------------------------------------------------------


class Received:
    """A span of the protocol, in the shape that `lines_of` reads."""

    class Context:
        def __init__(self, span_id: bytes) -> None:
            self.span_id = span_id

    class Status:
        def __init__(self, code: int) -> None:
            self.status_code = trace.StatusCode(code)

    def __init__(self, span: Any) -> None:
        self.name = span.name
        self.context = self.Context(span.span_id)
        self.parent = self.Context(span.parent_span_id) if span.parent_span_id else None
        self.status = self.Status(span.status.code)
        self.links = [link.span_id for link in span.links]
        self.events = [event.name for event in span.events]
        self.start = span.start_time_unix_nano
        self.attributes = {
            each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes
        }


async def test_a_tree_arrives_at_a_collector_by_otlp(server: Server, traces: Traces) -> None:
    """A hedged, retried, failing call, decoded from the protocol's messages."""
    exporter = OTLPSpanExporter(endpoint=f"{server.origin}/v1/traces", timeout=30)
    traces.provider.add_span_processor(BatchSpanProcessor(exporter))
    users = Pipeline(Retry(attempts=2, wait=0), Hedge(60), name="users")
    failures = [ConnectionError("secret"), ValueError("secret"), ConnectionError("secret"), OSError("secret")]

    @users
    async def load() -> None:
        await asyncio.sleep(0)
        raise failures.pop(0)

    with pytest.raises(ConnectionError):
        await load()
    assert await asyncio.to_thread(traces.provider.force_flush)
    messages = [ExportTraceServiceRequest.FromString(body) for body in server.posted]
    assert b"secret" not in b"".join(server.posted)
    scopes = [scope for message in messages for each in message.resource_spans for scope in each.scope_spans]
    assert {scope.scope.name for scope in scopes} == {"resilient"}
    spans = sorted((Received(span) for scope in scopes for span in scope.spans), key=lambda span: span.start)
    assert lines_of(spans, "attempt", "copy", "reason", "cause", "ending", "error.type") == [
        "users load ERROR failure ConnectionError",
        "  attempt load ERROR 1 failure ConnectionError",
        "  attempt load ERROR 1 2 hedge failure failure ValueError",
        "  attempt load ERROR 2 retry ConnectionError failure ConnectionError",
        "  attempt load ERROR 2 2 hedge failure failure OSError",
    ]
    call, first, second, third, fourth = spans
    assert [first.links, second.links, third.links, fourth.links] == [
        [],
        [first.context.span_id],
        [],
        [third.context.span_id],
    ]
    assert call.events[:2] == ["resilient.hedge", "resilient.retry"]
    assert call.attributes["resilient.requests"] == 4
