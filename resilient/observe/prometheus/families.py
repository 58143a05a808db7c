"""Metrics of the library under their names in Prometheus, and their figures as samples of prometheus-client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import prometheus_client
from prometheus_client import metrics as client_metrics
from prometheus_client.core import Exemplar, Sample

from resilient.observe import metrics
from resilient.observe.metrics import Histogram, Metric, Series
from resilient.observe.prometheus.buckets import Buckets
from resilient.observe.prometheus.exemplars import are_allowed

__all__ = ["Family", "family_of", "labels_of", "samples"]


class Family(NamedTuple):
    """A metric under its names in Prometheus.

    Attributes:
        name: of the family; samples of a counter add `_total`.
        kind: "counter", "gauge" or "histogram".
        unit: "seconds", or "" where the metric has no base unit of OpenMetrics.
        help: what it counts.
        labels: names of its labels.
        is_sum: whether the gauges of several processes can be added: they count something. A rate, a mode or a
            duration cannot.
    """

    name: str
    kind: str
    unit: str
    help: str
    labels: tuple[str, ...]
    is_sum: bool = False

    def empty(self) -> prometheus_client.Metric:
        """Return the family as an object of prometheus-client, without samples."""
        return prometheus_client.Metric(self.name, self.help, self.kind, self.unit)


def family_of(metric: Metric) -> Family:
    """Return a metric of `resilient.observe.metrics.TABLE` under its names in Prometheus."""
    name = metrics.prometheus_name(metric).removesuffix("_total" if metric.kind == "counter" else "")
    unit = "seconds" if metric.unit == "s" and name.endswith("_seconds") else ""
    is_sum = metric.unit not in ("1", "s") and metric.name != "resilient.pipeline.mode"
    return Family(name, metric.kind, unit, metric.help, metric.labels, is_sum)


def labels_of(family: Family, series: Series) -> dict[str, str]:
    """Return the labels of a series, by name. A label without a value is left out, as Prometheus does."""
    named = zip(family.labels, series.labels, strict=True)
    return {name: _encodable(value) for name, value in named if value}


def samples(family: Family, series: Series, *, buckets: Buckets, created: float) -> list[Sample]:
    """Return the samples of one series.

    Args:
        buckets: of histograms.
        created: Unix time at which all counters were 0. Samples `_created` are made unless they are switched off for
            all metrics of the client (`prometheus_client.disable_created_metrics`, PROMETHEUS_DISABLE_CREATED_SERIES).
    """
    labels, value = labels_of(family, series), series.value
    if isinstance(value, Histogram):
        found = list(_histogram_samples(family.name, labels, value, buckets))
    else:
        found = [Sample(f"{family.name}_total" if family.kind == "counter" else family.name, labels, float(value))]
    if family.kind != "gauge" and getattr(client_metrics, "_use_created", True):
        found.append(Sample(f"{family.name}_created", labels, created))
    return found


def _histogram_samples(name: str, labels: dict[str, str], value: Histogram, buckets: Buckets) -> Iterator[Sample]:
    exemplars = _latest_exemplars(value, buckets)
    total = 0
    for position, (text, count) in enumerate(zip(buckets.texts, buckets.counts(value), strict=True)):
        total += count
        yield Sample(f"{name}_bucket", {**labels, "le": text}, total, None, exemplars.get(position))
    yield Sample(f"{name}_count", labels, total)
    yield Sample(f"{name}_sum", labels, float(value.sum))


def _latest_exemplars(value: Histogram, buckets: Buckets) -> dict[int, Exemplar]:
    """Return the latest exemplar of each classic bucket that has one. (Another exporter may have asked for exemplars
    with labels that OpenMetrics does not allow.)"""
    found: dict[int, Exemplar] = {}
    for index, each in sorted(value.exemplars.items(), key=lambda item: item[1].at):
        if are_allowed(each.labels):
            found[buckets.position(index)] = Exemplar(each.labels, each.seconds, each.at)
    return found


def _encodable(value: str) -> str:
    """Return a label's value that can be encoded: a name with a lone surrogate would break the whole scrape."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
