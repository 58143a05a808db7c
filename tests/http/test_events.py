"""Events of requests agree with what the policies learn, under every transport; those of streams come at their end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from resilient import CircuitBreaker, Hedge, Pipeline, Retry, Timeout, standard
from resilient.observe.shadow import report_shadows
from resilient.observe.trace import read_trace, record_trace
from tests.http.kinds import URL, Kind
from tests.recorders import EventRecorder, LearningRecorder


def outcome(kind: Kind, client: Any, method: str = "GET") -> Any:
    """Return the status of a response, or the type of an error."""
    try:
        return kind.send(client, method).status_code
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_events_agree_with_what_was_learned(kind: Kind, method: str) -> None:
    """This holds for responses and errors, for requests that may be repeated and for others."""
    ledger = LearningRecorder()
    pipeline = Pipeline(ledger, name="users")
    recorder, library = EventRecorder(pipeline), kind.library
    script = kind.script(200, 503, library.ConnectError("x"), 404, library.UnsupportedProtocol("x"), 429)
    client = kind.open(pipeline, script)
    for _ in range(6):
        outcome(kind, client, method)
    learned = ["success", "failure", "failure", "success", "nothing", "failure"]
    assert ledger.learned == learned
    assert recorder.verdicts == learned
    assert [call.verdict for call in recorder.calls] == learned
    assert [call.ending for call in recorder.calls] == [
        "success",
        "failure",
        "failure",
        "success",
        "failure",
        "failure",
    ]
    assert [call.requests for call in recorder.calls] == [1] * 6
    assert len(script.sent) == 6


@pytest.mark.parametrize("make", [lambda: Pipeline(Retry(2, wait=0)), lambda: standard("users")])
def test_failed_response_that_is_returned_is_no_success(kind: Kind, make: Callable[[], Pipeline]) -> None:
    """The caller has a 503; the call has failed."""
    pipeline = make()
    recorder = EventRecorder(pipeline)
    script = kind.script(503, 503)
    assert outcome(kind, kind.open(pipeline, script)) == 503
    assert [(call.ending, call.verdict, call.requests) for call in recorder.calls] == [("failure", "failure", 2)]
    assert len(script.sent) == 2


def test_shadow_report_and_trace_have_what_was_learned(kind: Kind, tmp_path: Any) -> None:
    """A breaker that would have refused failing requests would have refused no successful ones."""
    pipeline = Pipeline(CircuitBreaker(None, fail_max=5, shadow=True), name="users")
    with report_shadows(pipeline) as report, record_trace(tmp_path / "trace.jsonl", pipeline):
        client = kind.open(pipeline, kind.script(*[503] * 20))
        for _ in range(20):
            assert outcome(kind, client) == 503
    would = report.policies["users", "CircuitBreaker"]
    assert (would.refused, would.went_well) == (15, 0)
    trace = read_trace(tmp_path / "trace.jsonl")
    assert {call.ending for call in trace.calls} == {"failure"}
    assert all(attempt.failed for attempt in trace.attempts)


# -- streams --------------------------------------------------------------------------------------------------------


class Streamed:
    """A response whose body is streamed, a second a part: the way it is read, and the events meanwhile."""

    def __init__(self, kind: Kind, *steps: Any, policies: tuple[Any, ...] = (), classify: Any = None) -> None:
        self.kind = kind
        self.ledger = LearningRecorder()
        self.pipeline = Pipeline(*policies, self.ledger, name="users", classify=classify)
        self.recorder = EventRecorder(self.pipeline)
        self.before: list[int] = []
        library = kind.library

        class Body(library.AsyncByteStream, library.SyncByteStream):  # type: ignore[misc,name-defined]
            def _play(self, step: Any) -> bytes:
                if isinstance(step, Exception):
                    raise step
                return step  # type: ignore[no-any-return]

            def __iter__(self) -> Any:
                for step in steps:
                    yield self._play(step)

            async def __aiter__(self) -> Any:
                for step in steps:
                    await asyncio.sleep(1)
                    yield self._play(step)

        script = kind.script(*[lambda request: library.Response(200, stream=Body())] * 2)
        self.client = kind.open(self.pipeline, script)

    def read(self, parts: int | None = None) -> None:
        """Read so many parts, or all, and close the response."""
        kind = self.kind

        def plainly() -> None:
            with self.client.stream("GET", URL) as response:
                self.before.append(len(self.recorder.calls))
                for at, _ in enumerate(response.iter_raw(), 1):
                    if at == parts:
                        break

        async def main() -> None:
            async with self.client.stream("GET", URL) as response:
                self.before.append(len(self.recorder.calls))
                at = 0
                async for _ in response.aiter_raw():
                    at += 1
                    if at == parts:
                        break

        kind.run(main if kind.is_async else plainly)

    def expect(self, ending: str, verdict: str, learned: str) -> None:
        """Check that there was no event before the end of the body, and these events after it."""
        assert self.before == [0]
        assert [(call.ending, call.verdict, call.requests) for call in self.recorder.calls] == [(ending, verdict, 1)]
        assert self.ledger.learned == [learned]
        attempts = self.recorder.verdicts
        assert attempts == ["failure" if learned == "failure" else "success"]


def test_stream_that_ends_well_emits_its_event_at_its_end(kind: Kind) -> None:
    """The times are those of its head."""
    streamed = Streamed(kind, b"one", b"two")
    streamed.read()
    streamed.expect("success", "success", "success")
    if kind.is_async:
        assert [call.elapsed for call in streamed.recorder.calls] == [0]


def test_stream_whose_reader_stops_early_is_a_success(kind: Kind) -> None:
    """The server has sent everything that the reader wanted."""
    streamed = Streamed(kind, b"one", b"two")
    streamed.read(1)
    streamed.expect("success", "success", "success")


def test_stream_that_breaks_off_emits_a_failure(kind: Kind) -> None:
    """The event has the error of the stream."""
    error = kind.library.ReadError("x")
    streamed = Streamed(kind, b"one", error)
    with pytest.raises(kind.library.ReadError):
        streamed.read()
    streamed.expect("failure", "failure", "failure")
    assert [call.error for call in streamed.recorder.calls] == [error]


def test_stream_whose_reader_raises_is_no_evidence(kind: Kind) -> None:
    """It is unknown how the stream would have ended."""
    streamed = Streamed(kind, b"one", kind.library.StreamClosed())
    with pytest.raises(kind.library.StreamClosed):
        streamed.read()
    streamed.expect("cancelled", "nothing", "nothing")


def test_stream_whose_reader_is_cancelled_is_no_evidence(kind: Kind) -> None:
    """The end of the stream is unknown, because its reader has left."""
    if not kind.is_async:
        return
    streamed = Streamed(kind, b"one", b"two")

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), streamed.client.stream("GET", URL) as response:
                streamed.before.append(len(streamed.recorder.calls))
                await response.aread()

    kind.run(main)
    streamed.expect("cancelled", "nothing", "nothing")


def test_stream_that_is_garbage_collected_emits_its_event_before_the_next_one(kind: Kind) -> None:
    """No listener may run in the garbage collector, because it might hold a lock of its own."""
    streamed = Streamed(kind, b"one")
    request = streamed.client.build_request("GET", URL)

    def forget() -> Any:
        return streamed.client.send(request, stream=True)

    response = kind.run(forget)
    del response
    gc.collect()
    assert streamed.recorder.calls == []
    assert streamed.ledger.learned == ["nothing"]
    if kind.is_async:
        kind.run(streamed.pipeline.aclose)
    else:
        streamed.pipeline.close()
    assert [(call.ending, call.verdict) for call in streamed.recorder.calls] == [("cancelled", "nothing")]


def test_streams_of_hedged_requests_emit_one_event_each(kind: Kind) -> None:
    """The winner's event comes at its end."""
    if not kind.is_async:
        return
    streamed = Streamed(kind, b"one", policies=(Hedge(0.5, inline=True), Timeout(60)))
    streamed.read()
    streamed.expect("success", "success", "success")


def test_stream_has_its_key_in_a_trace(kind: Kind, tmp_path: Any) -> None:
    """The event is emitted in the context of its reader."""
    streamed = Streamed(kind, b"one")
    with record_trace(tmp_path / "trace.jsonl", streamed.pipeline, key=lambda request: request.url.host):
        streamed.read()
    trace = read_trace(tmp_path / "trace.jsonl")
    assert [(call.key, call.ending) for call in trace.calls] == [("example.com", "success")]
    assert [attempt.key for attempt in trace.attempts] == ["example.com"]


@pytest.mark.parametrize("status", [200, 503])
def test_response_with_observers_goes_with_its_last_reference(kind: Kind, status: int) -> None:
    """The observers of its end form no reference cycle with it."""
    pipeline = Pipeline(Retry(2, wait=0), LearningRecorder())
    recorder = EventRecorder(pipeline)
    body = kind.slow_stream(0, b"one")
    script = kind.script(*[lambda request: kind.library.Response(status, stream=body)] * 2)
    transport = kind.transport_of(pipeline, transport=script.inner)
    send = transport.handle_async_request if kind.is_async else transport.handle_request
    gc.collect()
    gc.disable()
    try:
        response = weakref.ref(kind.run(lambda: send(kind.library.Request("GET", URL))))
        if kind.is_async:
            kind.run(lambda: asyncio.sleep(0))
        assert response() is None
    finally:
        gc.enable()
    pipeline.close()
    assert [call.ending for call in recorder.calls] == ["cancelled" if status == 200 else "failure"]


def test_body_that_breaks_off_is_classified_once(kind: Kind) -> None:
    """The attempt, the gates and the call share one verdict."""
    asked: list[Exception] = []

    class Counting(kind.ours.HttpClassifier):  # type: ignore[misc,name-defined]
        def error(self, error: Exception) -> Any:
            asked.append(error)
            return super().error(error)

    broken = kind.library.ReadError("broken off")
    streamed = Streamed(kind, b"part", broken, policies=(CircuitBreaker(),), classify=Counting())
    with pytest.raises(kind.library.ReadError):
        streamed.read()
    assert asked == [broken]
    assert streamed.ledger.learned == ["failure"]
    assert [call.ending for call in streamed.recorder.calls] == ["failure"]


def test_classifier_that_raises_over_a_body_is_the_readers_error(kind: Kind) -> None:
    """The real error is in its context, nothing is learned, and no failure is emitted."""

    class Broken(kind.ours.HttpClassifier):  # type: ignore[misc,name-defined]
        def error(self, error: Exception) -> Any:
            raise LookupError("of the subclass")

    broken = kind.library.ReadError("broken off")
    streamed = Streamed(kind, b"part", broken, classify=Broken())
    with pytest.raises(LookupError) as caught:
        streamed.read()
    assert caught.value.__context__ is broken
    assert streamed.ledger.learned == ["nothing"]
    assert [call.verdict for call in streamed.recorder.calls] == ["nothing"]
