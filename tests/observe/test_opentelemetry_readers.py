"""Durations in the readers of the OpenTelemetry SDK: the buckets are exact, and views and temporality are honoured."""

from __future__ import annotations

import gc
import json
import logging
import time
import weakref
from io import StringIO
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    ExponentialHistogram,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import (
    ExponentialBucketHistogramAggregation,
    View,
)

from resilient.observe.metrics import Exemplar
from resilient.observe.opentelemetry import METER, export_metrics
from resilient.observe.opentelemetry.readers import Hooks, hooks
from resilient.stats.durations import index_of
from tests.observe.otel_world import DURATION, Figures, collected, points, receiver

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
PREFER_DELTA = {SdkHistogram: DELTA, ObservableCounter: DELTA}
USERS = ("users", "success")
NEVER = float("inf")


def test_durations_are_an_exponential_histogram(figures: Figures, exporting: Any) -> None:
    """Scale, offset, counts, sum and times are those of the figures."""
    reader, before = InMemoryMetricReader(), time.time_ns()
    exporting(reader)
    figures.durations({-100: 1, -98: 2}, 0.35)
    metric = collected(reader)[DURATION.name]
    assert (metric.unit, metric.description) == ("s", DURATION.help)
    assert isinstance(metric.data, ExponentialHistogram)
    assert metric.data.aggregation_temporality is CUMULATIVE
    (point,) = metric.data.data_points
    assert point.attributes == {"resilient.pipeline.name": "users", "resilient.ending": "success"}
    assert (point.scale, point.positive.offset, list(point.positive.bucket_counts)) == (5, -100, [1, 0, 2])
    assert (point.count, point.sum, point.zero_count, list(point.negative.bucket_counts)) == (3, 0.35, 0, [])
    assert (point.min, point.max) == (None, None)
    assert before <= point.start_time_unix_nano <= point.time_unix_nano <= time.time_ns()


def test_durations_of_the_sdk_itself_are_in_the_same_buckets(figures: Figures, exporting: Any) -> None:
    """The SDK maps each duration to the bucket that the figures have for it, at the same scale."""
    seconds = [0.0, 1e-6, 0.001, 0.0123, 0.25, 0.7, 1.0, 1.5, 32.0, 900.0]
    view = View(instrument_name="theirs", aggregation=ExponentialBucketHistogramAggregation(max_size=2000, max_scale=5))
    wide = View(
        instrument_name=DURATION.name, aggregation=ExponentialBucketHistogramAggregation(max_size=2000, max_scale=5)
    )
    reader = InMemoryMetricReader()
    provider = exporting(reader, views=(view, wide))
    theirs = provider.get_meter("theirs").create_histogram("theirs")
    for each in seconds:
        theirs.record(each)
    figures.durations({index_of(each): 1 for each in seconds}, sum(seconds))
    found = collected(reader)
    (expected,), (point,) = (found[name].data.data_points for name in ("theirs", DURATION.name))
    assert (point.scale, point.positive.offset) == (expected.scale, expected.positive.offset)
    counts = list(point.positive.bucket_counts)
    assert counts == list(expected.positive.bucket_counts)[: len(counts)]
    assert (point.zero_count, sum(counts)) == (expected.zero_count, len(seconds) - 1)


def test_cumulative_reader_gets_all_durations_each_time(figures: Figures, exporting: Any) -> None:
    """The start of the count stays the same."""
    reader = InMemoryMetricReader()
    exporting(reader)
    figures.durations({0: 1}, 1.0)
    (first,) = collected(reader)[DURATION.name].data.data_points
    figures.durations({0: 3, 1: 1}, 4.0)
    (second,) = collected(reader)[DURATION.name].data.data_points
    assert (first.count, second.count, second.sum) == (1, 4, 4.0)
    assert second.start_time_unix_nano == first.start_time_unix_nano
    assert second.time_unix_nano > first.time_unix_nano


def test_delta_reader_gets_what_is_new(figures: Figures, exporting: Any) -> None:
    """A series without a new duration is left out, and each interval begins where the one before ended."""
    reader = InMemoryMetricReader(preferred_temporality=PREFER_DELTA)
    exporting(reader)
    figures.durations({0: 1}, 1.0)
    figures.durations({5: 1}, 1.1, labels=("users", "failure"))
    first = collected(reader)[DURATION.name]
    figures.durations({0: 3, 1: 1}, 4.0)
    second = collected(reader)[DURATION.name]
    assert second.data.aggregation_temporality is DELTA
    assert set(points(first)) == {USERS, ("users", "failure")}
    (point,) = second.data.data_points
    assert (point.count, point.sum, list(point.positive.bucket_counts)) == (3, 3.0, [2, 1])
    assert point.start_time_unix_nano == points(first)[USERS].time_unix_nano
    assert DURATION.name not in collected(reader)


def test_readers_do_not_take_durations_from_each_other(figures: Figures, exporting: Any) -> None:
    """Each reader of a provider gets what is new since its own last collection, in its own temporality."""
    one, other, whole = (
        InMemoryMetricReader(preferred_temporality=PREFER_DELTA),
        InMemoryMetricReader(preferred_temporality=PREFER_DELTA),
        InMemoryMetricReader(),
    )
    exporting(one, other, whole)
    counts = []
    for n in (1, 2, 3):
        figures.durations({0: n})
        counts.append(collected(one)[DURATION.name].data.data_points[0].count)
    counts += [collected(each)[DURATION.name].data.data_points[0].count for each in (other, whole)]
    assert counts == [1, 1, 1, 3, 3]


adding = pytest.mark.skipif(
    not hasattr(MeterProvider, "add_metric_reader"), reason="with this SDK, no reader can be added to a provider"
)


@adding
def test_reader_that_is_added_later_gets_durations(figures: Figures, exporting: Any) -> None:
    """Also in its first collection."""
    reader = InMemoryMetricReader()
    provider = exporting()
    provider.add_metric_reader(reader)
    figures.set("resilient.calls", (*USERS, "success"), 1)
    figures.durations({0: 1})
    assert [collected(reader)[DURATION.name].data.data_points[0].count for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA])
def test_durations_count_from_the_beginning_of_the_export(
    figures: Figures, providing: Any, temporality: AggregationTemporality
) -> None:
    """Those that another exporter has had recorded before, or an earlier export, are not among them."""
    reader = InMemoryMetricReader(preferred_temporality={SdkHistogram: temporality})
    provider = providing(reader)
    figures.durations({0: 5}, 5.0)
    counts = []
    for n in (6, 8):
        before = time.time_ns()
        stop = export_metrics(provider)
        after = time.time_ns()
        figures.durations({0: n}, float(n))
        (point,) = collected(reader)[DURATION.name].data.data_points
        counts.append((point.count, point.sum))
        assert before <= point.start_time_unix_nano <= after
        stop()
    assert counts == [(1, 1.0), (2, 2.0)]


def test_count_that_begins_anew_starts_a_new_interval(figures: Figures, exporting: Any) -> None:
    """A cumulative count that falls without a new start would be taken for an overflow."""
    reader = InMemoryMetricReader()
    exporting(reader)
    figures.durations({0: 5}, 5.0)
    (first,) = collected(reader)[DURATION.name].data.data_points
    figures.durations({0: 2}, 2.0)
    (second,) = collected(reader)[DURATION.name].data.data_points
    assert second.count == 2
    assert second.start_time_unix_nano == first.time_unix_nano


def test_exemplars_are_exported_once_with_their_trace(figures: Figures, exporting: Any) -> None:
    """The trace and the span are fields, other labels are attributes."""
    reader = InMemoryMetricReader()
    exporting(reader)
    labels = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331", "tenant": "a"}
    at = time.time()
    figures.durations({0: 1}, exemplars={0: Exemplar(labels, 1.01, at)})
    (point,) = collected(reader)[DURATION.name].data.data_points
    (exemplar,) = point.exemplars
    assert (exemplar.value, exemplar.time_unix_nano) == (1.01, int(at * 1e9))
    assert exemplar.trace_id == int(labels["trace_id"], 16)
    assert exemplar.span_id == int(labels["span_id"], 16)
    assert exemplar.filtered_attributes == {"tenant": "a"}
    (point,) = collected(reader)[DURATION.name].data.data_points
    assert point.exemplars == []


def test_labels_that_are_no_trace_become_attributes_of_an_exemplar(figures: Figures, exporting: Any) -> None:
    """They are of a function of somebody else's."""
    reader = InMemoryMetricReader()
    exporting(reader)
    figures.durations({0: 1}, exemplars={0: Exemplar({"trace_id": "mine"}, 1.01, time.time())})
    (exemplar,) = collected(reader)[DURATION.name].data.data_points[0].exemplars
    assert exemplar.filtered_attributes == {"trace_id": "mine"}


def test_metrics_of_the_application_stay(figures: Figures, exporting: Any) -> None:
    """They are in their own scope, and ours are in one scope."""
    reader = InMemoryMetricReader()
    provider = exporting(reader)
    provider.get_meter("theirs").create_counter("theirs").add(3)
    figures.set("resilient.calls", ("users", "success", "success"), 1)
    figures.durations({0: 1})
    data = reader.get_metrics_data()
    assert data is not None
    scopes = {
        scope.scope.name: [each.name for each in scope.metrics] for scope in data.resource_metrics[0].scope_metrics
    }
    assert scopes == {"theirs": ["theirs"], METER: ["resilient.calls", DURATION.name]}


def test_failure_of_ours_leaves_the_metrics_of_the_application(
    figures: Figures, exporting: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once for each reader."""
    reader = InMemoryMetricReader()
    provider = exporting(reader)
    provider.get_meter("theirs").create_counter("theirs").add(3)
    figures.durations({0: 1})
    monkeypatch.setattr("resilient.observe.opentelemetry.readers.metric", None)
    assert [set(collected(reader)) for _ in range(3)] == [{"theirs"}] * 3
    assert [each.levelno for each in caplog.records if each.name == "resilient"] == [logging.ERROR]


def test_unknown_sdk_is_done_without(
    provider: MeterProvider,
    reader: InMemoryMetricReader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If a private name of the SDK is missing, durations are counts, sums and quantiles, and the log says so."""
    monkeypatch.delattr(reader, "_instrument_class_temporality")
    assert hooks(provider, provider.get_meter(METER), lambda: None) is None
    assert "this version of opentelemetry-sdk is not known" in caplog.text


@adding
def test_unknown_reader_that_is_added_later_gets_the_other_figures(
    figures: Figures, exporting: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes wrong is logged once."""
    provider = exporting()
    monkeypatch.setattr("resilient.observe.opentelemetry.readers.streams", None)
    reader = InMemoryMetricReader()
    provider.add_metric_reader(reader)
    figures.set("resilient.calls", (*USERS, "success"), 1)
    figures.durations({0: 1})
    assert [set(collected(reader)) for _ in range(2)] == [{"resilient.calls"}] * 2
    assert [each.getMessage()[:46] for each in caplog.records] == ["resilient: no durations are exported to <opent"]


def test_hooks_do_not_keep_readers_alive(figures: Figures) -> None:
    """A provider that is garbage goes, with its readers."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    made = hooks(provider, provider.get_meter(METER), lambda: None)
    assert isinstance(made, Hooks)
    gone = []
    weakref.finalize(reader, gone.append, 1)
    del reader, provider, made
    gc.collect()
    assert gone == [1]


class FailingExporter(MetricExporter):
    """An exporter that raises at its first exports, and keeps what it gets later."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.exported: list[MetricsData] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the collector is away")
        self.exported.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        pass


def test_exporter_that_raises_gets_all_durations_later(figures: Figures, exporting: Any) -> None:
    """A cumulative reader loses nothing."""
    exporter = FailingExporter(failures=2)
    provider = exporting(PeriodicExportingMetricReader(exporter, export_interval_millis=NEVER))
    for n in (1, 2, 3):
        figures.durations({0: n})
        provider.force_flush()
    (data,) = exporter.exported
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert metric.data.data_points[0].count == 3  # type: ignore[union-attr]


def test_console_exporter_prints_durations(figures: Figures, exporting: Any) -> None:
    """As JSON, where what is not known is null."""
    out = StringIO()
    provider = exporting(PeriodicExportingMetricReader(ConsoleMetricExporter(out=out), export_interval_millis=NEVER))
    figures.durations({-100: 1})
    provider.force_flush()
    (metric,) = json.loads(out.getvalue())["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    (point,) = metric["data"]["data_points"]
    assert (point["scale"], point["positive"]) == (5, {"offset": -100, "bucket_counts": [1]})
    assert (point["min"], point["max"]) == (None, None)


@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA])
def test_durations_arrive_over_otlp(figures: Figures, exporting: Any, temporality: AggregationTemporality) -> None:
    """A real receiver over HTTP decodes the histogram that the figures have."""
    with receiver() as found:
        exporter = OTLPMetricExporter(endpoint=found.endpoint, preferred_temporality={SdkHistogram: temporality})
        provider = exporting(PeriodicExportingMetricReader(exporter, export_interval_millis=NEVER))
        labels = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
        figures.durations({-100: 1, -98: 2}, 0.35, exemplars={-98: Exemplar(labels, 0.12, time.time())})
        figures.set("resilient.calls", ("users", "success", "success"), 3)
        provider.force_flush()
        sent = found.metrics()
        figures.durations({-100: 1, -98: 2, -97: 4}, 0.85)
        provider.force_flush()
        later = found.metrics()
    histogram = sent[DURATION.name].exponential_histogram
    assert histogram.aggregation_temporality == temporality
    (point,) = histogram.data_points
    assert {each.key: each.value.string_value for each in point.attributes} == {
        "resilient.pipeline.name": "users",
        "resilient.ending": "success",
    }
    assert (point.scale, point.positive.offset, list(point.positive.bucket_counts)) == (5, -100, [1, 0, 2])
    assert (point.count, point.sum, point.zero_count) == (3, 0.35, 0)
    assert not point.HasField("min")
    assert not point.HasField("max")
    (exemplar,) = point.exemplars
    assert exemplar.trace_id.hex() == labels["trace_id"]
    assert exemplar.span_id.hex() == labels["span_id"]
    assert sent["resilient.calls"].sum.data_points[0].as_int == 3
    (point,) = later[DURATION.name].exponential_histogram.data_points
    expected = (7, 0.85) if temporality is CUMULATIVE else (4, 0.5)
    assert (point.count, point.sum) == pytest.approx(expected)
