"""Calls where no SDK traces them, and where the tracer raises."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry import trace

from resilient import Bulkhead, Pipeline, Retry
from resilient.observe.opentelemetry import trace_calls
from tests.observe.traced_functions import named, returns, scripted


async def test_without_an_sdk_calls_go_on() -> None:
    """The API alone makes spans that record nothing; the span of the caller stays current."""
    users = Pipeline(Retry(attempts=2), name="users")
    stop = trace_calls(users, tracer_provider=trace.NoOpTracerProvider())
    assert await users.call(returns(1)) == 1
    stop()


class Broken(trace.TracerProvider, trace.Tracer):
    """A tracer whose spans raise; and which raises itself if `start` is true."""

    def __init__(self, start: bool) -> None:
        self.start = start

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        return self

    def start_span(self, *_: Any, **__: Any) -> trace.Span:
        if self.start:
            raise RuntimeError("no span")
        return BrokenSpan()

    def start_as_current_span(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


class BrokenSpan(trace.NonRecordingSpan):
    """A span that raises wherever it can."""

    def __init__(self) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)

    def is_recording(self) -> bool:
        return True

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no span")

    set_attributes = set_attribute = add_event = set_status = record_exception = end = _fail


@pytest.mark.parametrize("start", [True, False], ids=["when it starts a span", "in every method of a span"])
async def test_errors_of_the_tracer_never_fail_a_call(start: bool, caplog: pytest.LogCaptureFixture) -> None:
    """They are logged: the first one as an error."""
    users = Pipeline(Retry(attempts=2, wait=0), Bulkhead(1), name="users")
    stop = trace_calls(users, tracer_provider=Broken(start))
    for _ in range(3):
        assert await users.call(scripted(OSError())) == "Ada"
        assert users.call(named(lambda: 1)) == 1
    stop()
    assert not trace.get_current_span().get_span_context().is_valid
    about = [record for record in caplog.records if "the tracer raised" in record.message]
    assert [record.levelno for record in about] == [logging.ERROR]
    assert about == [record for record in caplog.records if record.levelno >= logging.WARNING]
