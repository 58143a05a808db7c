"""Durations as metrics of the OpenTelemetry SDK: exponential histograms, or what a view makes of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics import Histogram as Instrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricReader,
)
from opentelemetry.sdk.metrics.export import Buckets as SdkBuckets
from opentelemetry.sdk.metrics.view import (
    DefaultAggregation,
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)

from resilient.observe import metrics as figures
from resilient.observe.opentelemetry.buckets import added, dense, explicit
from resilient.stats.durations import index_of

__all__ = ["Part", "Stream", "metric", "streams"]

BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds: the boundaries that the semantic conventions advise for durations of HTTP requests. The SDK's own default is
meant for milliseconds."""

BUCKETS = 160
"""The most buckets of an exponential histogram, as the specification says."""

ZERO = index_of(0.0)
"""The bucket of durations of at most a nanosecond: too short for the clock, or of a clock that was set back."""

_DEFAULT = ExplicitBucketHistogramAggregation()._boundaries  # None, or those for milliseconds in older versions

_log = logging.getLogger("resilient")


class Stream(NamedTuple):
    """What becomes of a histogram: the default, or what a view asks for.

    Attributes:
        name, description: of the metric.
        attributes: the keys that are kept; None: all.
        boundaries: upper bounds of classic buckets in seconds; None: an exponential histogram.
        size, scale: the most buckets, and the highest scale, of an exponential histogram.
    """

    name: str
    description: str
    attributes: frozenset[str] | None = None
    boundaries: tuple[float, ...] | None = None
    size: int = BUCKETS
    scale: int = 20


class Part(NamedTuple):
    """A series of durations to be exported, counted since `start` (nanoseconds since the epoch)."""

    attributes: dict[str, str]
    histogram: figures.Histogram
    start: int


def streams(instrument: Instrument, views: Iterable[View], reader: MetricReader) -> list[Stream]:
    """Return what becomes of a histogram in a reader: one stream for each view that matches its instrument, none for a
    view that drops it. If no view matches, one as the reader prefers it."""
    matching = [view for view in views if view._match(instrument)]
    if not matching:
        return _stream(Stream(instrument.name, instrument.description), DefaultAggregation(), instrument, reader)
    found = []
    for view in matching:
        keys = view._attribute_keys
        stream = Stream(
            view._name or instrument.name,
            view._description or instrument.description,
            None if keys is None else frozenset(keys),
        )
        found += _stream(stream, view._aggregation, instrument, reader)
    return found


def _stream(stream: Stream, aggregation: object, instrument: Instrument, reader: MetricReader) -> list[Stream]:
    if isinstance(aggregation, DefaultAggregation):
        aggregation = reader._instrument_class_aggregation[type(instrument)]
        if isinstance(aggregation, ExplicitBucketHistogramAggregation) and aggregation._boundaries == _DEFAULT:
            return [stream]  # what every exporter over OTLP prefers unless its preference is set
    match aggregation:
        case DropAggregation():
            return []
        case ExplicitBucketHistogramAggregation():
            chosen = aggregation._boundaries if aggregation._boundaries != _DEFAULT else None
            return [stream._replace(boundaries=BOUNDARIES if chosen is None else tuple(chosen))]
        case ExponentialBucketHistogramAggregation():
            return [stream._replace(size=aggregation._max_size, scale=aggregation._max_scale)]
        case DefaultAggregation():
            return [stream]
    _log.warning("resilient: %s stays a histogram: a view asks for %r", stream.name, type(aggregation).__name__)
    return [stream]


def metric(
    stream: Stream, unit: str, parts: Iterable[Part], temporality: AggregationTemporality, *, at: int, before: int
) -> Metric:
    """Return a metric of the SDK.

    Args:
        stream: what becomes of the histograms.
        unit: of the metric.
        parts: the histograms. Those that have the same attributes in the stream are added up.
        temporality: of the parts.
        at: when they were read, in nanoseconds since the epoch.
        before: when this reader collected before; exemplars from then on are exported.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Part]] = {}
    for part in parts:
        kept = (item for item in part.attributes.items() if stream.attributes is None or item[0] in stream.attributes)
        groups.setdefault(tuple(kept), []).append(part)
    points = []
    for attributes, group in groups.items():
        whole = group[0].histogram if len(group) == 1 else added(part.histogram for part in group)
        common: dict[str, Any] = {
            "attributes": dict(attributes),
            "start_time_unix_nano": min(part.start for part in group),
            "time_unix_nano": at,
            "count": sum(whole.buckets.values()),
            "sum": whole.sum,
            "min": None,  # not known, and optional in the protocol
            "max": None,
            "exemplars": [_exemplar(one) for one in whole.exemplars.values() if one.at * 1e9 >= before],
        }
        points.append(_point(stream, whole.buckets, common))
    kind: Any = ExponentialHistogram if stream.boundaries is None else Histogram
    return Metric(stream.name, stream.description, unit, kind(points, temporality))


def _point(
    stream: Stream, buckets: dict[int, int], common: dict[str, Any]
) -> ExponentialHistogramDataPoint | HistogramDataPoint:
    if stream.boundaries is not None:
        counts: Sequence[int] = explicit(buckets, stream.boundaries)
        return HistogramDataPoint(**common, bucket_counts=counts, explicit_bounds=stream.boundaries)
    zeros = buckets.get(ZERO, 0)
    measured = {index: count for index, count in buckets.items() if index != ZERO}
    scale, offset, counts = dense(measured, size=stream.size, scale=stream.scale)
    return ExponentialHistogramDataPoint(
        **common,
        scale=scale,
        zero_count=zeros,
        positive=SdkBuckets(offset, counts),
        negative=SdkBuckets(0, []),
        flags=0,
    )


def _exemplar(one: figures.Exemplar) -> SdkExemplar:
    labels = dict(one.labels)
    try:
        trace, span = int(labels["trace_id"], 16), int(labels["span_id"], 16)
    except (KeyError, ValueError):  # of another function than ours
        return SdkExemplar(labels, one.seconds, int(one.at * 1e9))
    del labels["trace_id"], labels["span_id"]
    return SdkExemplar(labels, one.seconds, int(one.at * 1e9), span, trace)
