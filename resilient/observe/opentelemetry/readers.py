"""The readers of the OpenTelemetry SDK: what they collect gets durations as exponential histograms.

The specification lets other sources of metrics give a reader whole metrics (`MetricProducer`), but the SDK for Python
has no such thing, no instrument that takes a whole histogram, and no asynchronous histogram. So durations are added
where those of a producer would be: between the collection of a reader and its method `_receive_metrics`, which is
documented, and hands the metrics to the exporter. This works with all readers and exporters, also where an agent has
made them. It uses private names of the SDK; where one of them is missing, `hooks` returns None.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import Histogram as Instrument
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricReader,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)

from resilient._atomic import module_lock
from resilient.observe.metrics import TABLE, Histogram
from resilient.observe.opentelemetry.buckets import difference
from resilient.observe.opentelemetry.observations import Collected
from resilient.observe.opentelemetry.points import Part, metric, streams

__all__ = ["Hooks", "hooks"]

_NONE = Histogram(0, 0.0, {}, {})

_log = logging.getLogger("resilient")

_lock = module_lock()


def hooks(provider: object, meter: Meter, collected: Callable[[], Collected | None]) -> Hooks | None:
    """Return hooks in all readers of a provider, or None if it is not the SDK's, or of an SDK that is unknown here.

    Args:
        provider: a meter provider.
        meter: one of this provider.
        collected: returns the durations to be added now, or None.
    """
    if not isinstance(provider, MeterProvider):
        return None
    try:
        return Hooks(provider, meter, collected)
    except (AttributeError, KeyError) as error:
        _log.warning(
            "resilient: durations are exported as counts, sums and quantiles instead of histograms, because this "
            "version of opentelemetry-sdk is not known: %r",
            error,
        )
        return None


class Hooks:
    """The hooks in the readers of one provider. They stay; while nothing is exported they change nothing.

    Attributes:
        collected: see `hooks`.
        config: the SDK's: views and resource.
        instruments: the histograms, by name. They are never recorded: views are matched with them.
    """

    def __init__(self, provider: MeterProvider, meter: Meter, collected: Callable[[], Collected | None]) -> None:
        self.collected = collected
        self.config = provider._sdk_config
        self._consumer: Any = provider._measurement_consumer
        self._hooked: weakref.WeakSet[MetricReader] = weakref.WeakSet()
        made = (meter.create_histogram(each.name, each.unit, each.help) for each in TABLE if each.kind == "histogram")
        self.instruments = {each.name: each for each in made if isinstance(each, Instrument)}
        for reader in self.readers():
            _Hook(self, reader)
            self._hooked.add(reader)

    def attach(self) -> None:
        """Hook the readers that were added. One that collects at present gets its durations already."""
        for reader in self.readers():
            if reader not in self._hooked:
                self._hooked.add(reader)
                try:
                    _Hook(self, reader)
                except Exception:  # the figures are exported all the same
                    _log.exception("resilient: no durations are exported to %r", reader)

    def readers(self) -> list[MetricReader]:
        """Return the present readers of the provider."""
        return list(self._consumer._reader_storages)

    @property
    def delta_counters(self) -> bool:
        """Whether a reader wants the differences of counters."""
        return any(
            temporality is AggregationTemporality.DELTA and issubclass(kind, ObservableCounter)
            for reader in self.readers()
            for kind, temporality in reader._instrument_class_temporality.items()
        )


class _Hook:
    """The hook in one reader: it replaces two of the reader's methods, and knows what it exported last."""

    def __init__(self, hooks: Hooks, reader: MetricReader) -> None:
        self._hooks = hooks
        self._reader = weakref.ref(reader)
        self._streams = {
            name: streams(instrument, hooks.config.views, reader) for name, instrument in hooks.instruments.items()
        }
        temporalities = [reader._instrument_class_temporality[type(each)] for each in hooks.instruments.values()]
        self._delta = AggregationTemporality.DELTA in temporalities
        self._at = self._since = 0
        self._previous: dict[tuple[str, tuple[str, ...]], tuple[Histogram, int]] = {}
        self._failed = False
        self._collect: Any = reader._collect
        self._receive: Any = reader._receive_metrics
        changed: Any = reader
        changed._collect = self._collect_even_nothing
        changed._receive_metrics = self._receive_more

    def _collect_even_nothing(self, reader: MetricReader, **options: Any) -> MetricsData:
        """Collect. Where instruments have observed nothing, the SDK receives nothing; but there may be durations."""
        return self._collect(reader, **options) or MetricsData([])

    def _receive_more(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any) -> None:
        """Receive what was collected, and durations."""
        try:
            with _lock:  # the thread of a reader and a flush can collect at the same time
                metrics_data = self._with_durations(metrics_data)
        except Exception:  # the application's own metrics are exported all the same
            if not self._failed:
                self._failed = True
                _log.exception("resilient: no durations are exported to %r; this is logged once", self._reader())
        if metrics_data.resource_metrics:
            self._receive(metrics_data, timeout_millis=timeout_millis, **options)

    def _with_durations(self, data: MetricsData) -> MetricsData:
        collected = self._hooks.collected()
        if collected is None or collected.at == self._at or self._reader() not in self._hooks.readers():
            return data
        if collected.since != self._since:  # of another export, or in a forked child
            self._previous, self._at, self._since = {}, collected.since, collected.since
        metrics = self._metrics(collected)
        self._at = collected.at
        return _extended(data, metrics, self._hooks) if metrics else data

    def _metrics(self, collected: Collected) -> list[Metric]:
        parts: dict[str, list[Part]] = {}
        present: dict[tuple[str, tuple[str, ...]], tuple[Histogram, int]] = {}
        for each in collected.series:
            key = each.metric.name, each.labels
            before, start = self._previous.get(key, (_NONE, self._since))
            recent = difference(each.histogram, before)
            if recent is each.histogram:  # counted from 0 again
                start = self._at
            present[key] = each.histogram, start
            exported, start = (recent, self._at) if self._delta else (each.histogram, start)
            if exported.buckets:
                parts.setdefault(each.metric.name, []).append(Part(each.attributes, exported, start))
        self._previous = present
        temporality = AggregationTemporality.DELTA if self._delta else AggregationTemporality.CUMULATIVE
        return [
            metric(stream, instrument.unit, parts[name], temporality, at=collected.at, before=self._at)
            for name, instrument in self._hooks.instruments.items()
            if name in parts
            for stream in self._streams[name]
        ]


def _extended(data: MetricsData, metrics: list[Metric], hooks: Hooks) -> MetricsData:
    """Return data with more metrics in our scope."""
    scope = next(iter(hooks.instruments.values())).instrumentation_scope
    if not data.resource_metrics:
        resource = hooks.config.resource
        data = MetricsData([ResourceMetrics(resource, [], resource.schema_url)])
    first, *others = data.resource_metrics
    found = [each for each in first.scope_metrics if each.scope == scope]
    earlier = [one for each in found for one in each.metrics]
    ours = ScopeMetrics(scope, [*earlier, *metrics], scope.schema_url or "")
    scopes = [*(each for each in first.scope_metrics if each.scope != scope), ours]
    return MetricsData([replace(first, scope_metrics=scopes), *others])
