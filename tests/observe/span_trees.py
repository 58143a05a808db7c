"""Spans for tests: a provider with the SDK's in-memory exporter, and the exported spans as a tree of lines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from resilient import Pipeline
from resilient.observe.opentelemetry import trace_calls

__all__ = ["Traces", "current", "lines_of", "traces"]


class Traces(SpanProcessor):
    """A context in which calls are traced.

    Attributes:
        provider: of the tracers.
        open: the names of the spans that have begun and not ended.
    """

    def __init__(self, *pipelines: Pipeline, sampler: Sampler = ALWAYS_ON, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(self)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")
        self.open: list[str] = []
        self._lock = threading.Lock()
        self._pipelines = pipelines or (None,)
        self._options = options
        self._stops: list[Callable[[], None]] = []

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        with self._lock:
            self.open.append(span.name)

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            self.open.remove(span.name)

    def __enter__(self) -> Traces:
        for pipeline in self._pipelines:
            self._stops.append(trace_calls(pipeline, tracer_provider=self.provider, **self._options))
        return self

    def __exit__(self, *_: object) -> None:
        for stop in self._stops:
            stop()
        self.provider.shutdown()

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order of their beginning."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def clear(self) -> None:
        """Forget the spans that have ended."""
        self._exporter.clear()

    def named(self, name: str) -> list[ReadableSpan]:
        """The spans of this name that have ended."""
        return [span for span in self.spans if span.name == name]

    def lines(self, *keys: str) -> list[str]:
        """The tree of the spans (see `lines_of`)."""
        return lines_of(self.spans, *keys)


def lines_of(spans: list[Any], *keys: str) -> list[str]:
    """The tree of spans, a line each: name, status unless it is unset, and the attributes `resilient.KEY` (or `KEY`).
    Children are indented, and stand in the order in which they began."""
    ids = {span.context.span_id for span in spans}
    children: dict[int | None, list[Any]] = {}
    for span in spans:
        parent = span.parent.span_id if span.parent is not None and span.parent.span_id in ids else None
        children.setdefault(parent, []).append(span)

    def walk(parent: int | None, depth: int) -> Iterator[str]:
        for span in children.get(parent, ()):
            status = "" if span.status.status_code is trace.StatusCode.UNSET else f" {span.status.status_code.name}"
            found = (span.attributes.get(f"resilient.{key}", span.attributes.get(key)) for key in keys)
            shown = "".join(f" {value}" for value in found if value is not None)
            yield f"{'  ' * depth}{span.name}{status}{shown}"
            yield from walk(span.context.span_id, depth + 1)

    return list(walk(None, 0))


def current() -> str:
    """The name of the current span, or ""."""
    return getattr(trace.get_current_span(), "name", "")


@pytest.fixture
def traces() -> Iterator[Traces]:
    """All pipelines are traced."""
    with Traces() as made:
        yield made
