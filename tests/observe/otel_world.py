"""What the tests of OpenTelemetry metrics share: figures that a test sets, what readers have collected, and a real
receiver of OTLP over HTTP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader
from opentelemetry.sdk.metrics.view import View

from resilient.observe import metrics
from resilient.observe.metrics import TABLE, Exemplar, Histogram, Metric, Series
from resilient.observe.opentelemetry import export_metrics

METRICS = {each.name: each for each in TABLE}
CALLS, DURATION, ATTEMPT = (
    METRICS[name] for name in ("resilient.calls", "resilient.call.duration", "resilient.attempt.duration")
)


class Figures:
    """Figures that a test sets. `reads` is how often there were any when they were read."""

    def __init__(self) -> None:
        self.reads = 0
        self.keys: list[int] = []
        self._series: dict[Metric, dict[tuple[str, ...], Any]] = {}

    def read(self, *, keys: int = 0) -> dict[Metric, list[Series]]:
        """Return all series, as `resilient.observe.metrics.read` does."""
        self.reads += bool(self._series)
        self.keys.append(keys)
        return {
            self._with_key(metric, series): [Series(labels, value) for labels, value in series.items()]
            for metric, series in self._series.items()
        }

    def _with_key(self, metric: Metric, series: dict[tuple[str, ...], Any]) -> Metric:
        more = len(next(iter(series))) - len(metric.labels)
        return metric._replace(labels=(*metric.labels, "key")) if more else metric

    def set(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Set a counter or a gauge."""
        self._series.setdefault(METRICS[name], {})[labels] = value

    def durations(
        self,
        buckets: dict[int, int],
        total: float = 1.0,
        *,
        labels: tuple[str, ...] = ("users", "success"),
        name: str = DURATION.name,
        exemplars: dict[int, Exemplar] | None = None,
    ) -> None:
        """Set a histogram."""
        value = Histogram(sum(buckets.values()), total, buckets, exemplars or {})
        self._series.setdefault(METRICS[name], {})[labels] = value


def collected(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Let a reader collect, and return its metrics by name. Each name occurs once."""
    data = reader.get_metrics_data()
    found = [
        metric
        for resource in (data.resource_metrics if data else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    assert len({each.name for each in found}) == len(found)
    return {each.name: each for each in found}


def points(metric: Any) -> dict[tuple[Any, ...], Any]:
    """Return the points of a metric by the values of their attributes."""
    return {tuple(each.attributes.values()): each for each in metric.data.data_points}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Figures:
    """Figures that a test sets, instead of those of this process."""
    found = Figures()
    monkeypatch.setattr(metrics, "read", found.read)
    return found


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """A reader that collects when a test asks it."""
    return InMemoryMetricReader()


@pytest.fixture
def providing() -> Iterator[Callable[..., MeterProvider]]:
    """Make a provider with these readers and views, which is shut down at the end of the test."""
    made: list[MeterProvider] = []

    def provide(*readers: MetricReader, views: Sequence[View] = ()) -> MeterProvider:
        provider = MeterProvider(list(readers), views=views, shutdown_on_exit=False)
        made.append(provider)
        return provider

    yield provide
    for each in made:
        each.shutdown()


@pytest.fixture
def exporting(providing: Callable[..., MeterProvider]) -> Callable[..., MeterProvider]:
    """Make a provider with these readers and views, and export the figures through it."""

    def export(*readers: MetricReader, views: Sequence[View] = (), **options: Any) -> MeterProvider:
        provider = providing(*readers, views=views)
        export_metrics(provider, **options)
        return provider

    return export


@pytest.fixture
def provider(providing: Callable[..., MeterProvider], reader: InMemoryMetricReader) -> MeterProvider:
    """A provider with the reader."""
    return providing(reader)


class Receiver:
    """What a receiver of OTLP has got: whole requests, decoded."""

    def __init__(self) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []
        self.endpoint = ""

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the last request by name."""
        return {
            metric.name: metric
            for resource in self.requests[-1].resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A real HTTP server on a free port of the loopback interface, which takes metrics as a collector does."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            found.requests.append(ExportMetricsServiceRequest.FromString(body))
            answer = ExportMetricsServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    found.endpoint = f"http://127.0.0.1:{server.server_port}/v1/metrics"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
