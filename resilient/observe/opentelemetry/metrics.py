"""Figures of all pipelines as OpenTelemetry metrics.

    from resilient.observe.opentelemetry import export_metrics

    stop = export_metrics()

A call costs nothing more: counters and gauges are Observable instruments, whose callbacks read the library's own
figures when a reader collects. All instruments of a collection share one reading. Names, units and labels are those of
`resilient.observe.metrics.TABLE`; `resilient.observe.opentelemetry.attributes` says what labels are called. As the
semantic conventions ask, a gauge that can be added up over processes (calls, permits, circuits, pipelines in a mode) is
an ObservableUpDownCounter, and any other one (a ratio, seconds) an ObservableGauge.

**Durations.** The API has no Observable histogram, and its Histogram takes one duration at a time, in 7 to 13 µs: with
10,000 calls a second that is a tenth of a core, in one burst of 4 to 8 seconds before each export. So where the SDK is
used, durations go past its instruments: what a reader has collected gets exponential histograms, made of the library's
own buckets, which have the same bounds (`readers`). They honour the temporality that the reader prefers, and views:
other names, fewer attributes, `DropAggregation`, the size of an exponential histogram, and
`ExplicitBucketHistogramAggregation` for backends that have only classic buckets. The least and the greatest duration
are left out, because they are not known. With another implementation of the API there are Observable instruments
`resilient.call.duration.count`, `.sum` and `.quantile` instead: .5, .95 and .99 of the calls that ended since the
previous collection.

**Forks.** In a forked child all figures count from 0 again, and durations start their time there. The SDK subtracts the
parent's counters in readers with delta temporality; so where there is such a reader, counters in a child go on from
what was observed in the parent. If a reader collects at the moment of the fork, its provider is of no use in the child,
because a lock of the SDK stays held. To be safe, make the provider and call `export_metrics` after the fork.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Literal

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, NoOpMeter, Observation, get_meter_provider

from resilient import _validation
from resilient._atomic import module_lock
from resilient.observe.metrics import TABLE, Metric
from resilient.observe.opentelemetry.attributes import attribute
from resilient.observe.opentelemetry.library import NAME, release
from resilient.observe.opentelemetry.observations import Collected, Export
from resilient.observe.trace_ids import trace_ids

if TYPE_CHECKING:
    from resilient.observe.opentelemetry.readers import Hooks

__all__ = ["METER", "export_metrics"]

METER = NAME
"""The name of the meter, for views."""

DURATIONS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "calls": ("resilient.call.duration",),
    "attempts": ("resilient.call.duration", "resilient.attempt.duration"),
}
"""The histograms that are exported for each value of `durations`."""

_lock = module_lock()
_instruments: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()


def export_metrics(
    meter_provider: MeterProvider | None = None,
    *,
    keys: int = 0,
    durations: Literal["calls", "attempts"] | None = "calls",
    exemplars: bool = False,
    slow: float = math.inf,
    namespaced: bool = True,
) -> Callable[[], None]:
    """Export the figures of all pipelines of this process through a meter provider. Returns a function that ends it.

    Args:
        meter_provider: default: the global one, also if the application sets it later.
        keys: the most keys (origins, tenants) of a `Keyed` policy whose gauges get series of their own, with the
            attribute `resilient.key`; the others are summed under "other". 0: no such attribute, all keys are summed.
            The SDK sums what is beyond 2,000 series of an instrument in one without attributes (cardinality limits of
            readers and views), and a circuit has a series for each state.
        durations: "calls": durations of calls from now on; "attempts": of calls and of attempts; None: none. Recording
            them is the only part that costs something on the path of each call, and it ends with the export.
        exemplars: whether durations of failed and slow calls carry the trace and the span that were current when they
            ended, if sampled. This is looked up on the path of these calls.
        slow: seconds from which on a successful call is slow. Default: none is.
        namespaced: False: attributes have the plain names of the labels (`pipeline`, `reason`), which become labels of
            the same names where Prometheus is the backend, as the dashboards and rules of `resilient dashboards`
            expect them.

    Raises:
        RuntimeError: if the figures are exported through this provider already.
        TypeError, ValueError: for a bad argument.
    """
    _check(meter_provider, keys, durations, exemplars, slow, namespaced)
    provider = get_meter_provider() if meter_provider is None else meter_provider
    with _lock:
        instruments = _instruments_of(provider)
        if instruments.export is not None:
            raise RuntimeError(
                "export_metrics: the figures are exported through this MeterProvider already; call the function that "
                "the first export_metrics() returned before you export them anew"
            )
        attach = partial(_attach, weakref.ref(instruments))
        export = Export(keys, DURATIONS[durations], attribute if namespaced else str, attach)
        if durations is not None and instruments.enabled:
            export.record(durations == "attempts", trace_ids() if exemplars else None, slow)
        instruments.begin(export)
        return partial(instruments.stop, export)


def _check(
    meter_provider: object, keys: object, durations: object, exemplars: object, slow: object, namespaced: object
) -> None:
    if meter_provider is not None and not isinstance(meter_provider, MeterProvider):
        raise TypeError(
            f"meter_provider must be an OpenTelemetry MeterProvider, or None for the global one, got {meter_provider!r}"
        )
    _validation.count("keys", keys, least=0)
    if durations is not None and durations not in DURATIONS:
        raise ValueError(f'durations must be "calls", "attempts" or None, got {durations!r}')
    _validation.flag("exemplars", exemplars)
    _validation.flag("namespaced", namespaced)
    if slow != math.inf:
        _validation.seconds("slow", slow)
        if not exemplars:
            raise ValueError(f"slow={slow!r} says which calls get exemplars: it needs exemplars=True")


def _instruments_of(provider: MeterProvider) -> _Instruments:
    """Return the instruments on a provider, made on first use. The proxy, which is global until the application has set
    a provider, and that provider are one: their instruments are the same."""
    found = _instruments.get(provider)
    if found is None and provider is get_meter_provider():
        found = next((each for each in _instruments.values() if each.of_global), None)
    if found is None:
        found = _Instruments(provider)
    _instruments[provider] = found
    return found


def _attach(instruments: weakref.ref[_Instruments]) -> None:
    found = instruments()
    if found is not None:
        found.attach()


class _Instruments:
    """The instruments on one provider. They are made once, because OpenTelemetry can neither remove an instrument nor
    give it other callbacks. While nothing is exported they observe nothing.

    Attributes:
        export: the present export, if any.
        of_global: whether the provider was the global one when they were made.
        enabled: False if the meter is one that does nothing, as that of a disabled SDK.
    """

    def __init__(self, provider: MeterProvider) -> None:
        self.export: Export | None = None
        self.of_global = provider is get_meter_provider()
        self._provider = weakref.ref(provider)
        self._hooks: Hooks | None = None
        self._known = False
        meter = provider.get_meter(METER, release())
        self.enabled = type(meter) is not NoOpMeter
        for metric in TABLE:
            if metric.kind != "histogram":
                _create(meter, metric, partial(self._numbers, metric.name))
        self.attach()
        if self._hooks is None:  # there may be some later, if the global provider is not set yet
            for metric in TABLE:
                if metric.kind == "histogram":
                    self._create_parts(meter, metric)

    def attach(self) -> None:
        """Hook the readers of the SDK, if they are the SDK's, and new."""
        if self._hooks is not None:
            self._hooks.attach()
        elif self.enabled and not self._known:
            provider = get_meter_provider() if self.of_global else self._provider()
            self._known = type(provider).__name__ != "_ProxyMeterProvider"
            if provider is not None and "opentelemetry.sdk.metrics" in sys.modules:  # else it is not the SDK's
                from resilient.observe.opentelemetry.readers import hooks

                self._hooks = hooks(provider, provider.get_meter(METER, release()), self._durations)

    def begin(self, export: Export) -> None:
        """Begin an export, which ends with these instruments at the latest: then no reader is left to collect them."""
        self.export = export
        self._gone = weakref.finalize(self, export.end)
        self._gone.atexit = False

    def stop(self, export: Export) -> None:
        """End an export. A second call has no effect."""
        with _lock:
            if self.export is export:
                self.export = None
                self._gone.detach()
        export.end()

    def _create_parts(self, meter: Meter, metric: Metric) -> None:
        counted = metric._replace(kind="counter", unit=f"{{{metric.name.split('.')[1]}}}")
        for part, whole, meaning in (
            ("count", counted, "number"),
            ("sum", metric._replace(kind="counter"), "sum"),
            ("quantile", metric._replace(kind="gauge"), "quantiles since the previous collection"),
        ):
            named = whole._replace(name=f"{metric.name}.{part}", help=f"{metric.help.rstrip('.')}: {meaning}.")
            _create(meter, named, partial(self._parts, part, metric.name))

    def _numbers(self, name: str, options: CallbackOptions) -> Iterable[Observation]:
        export = self.export
        continuous = self._hooks is not None and self._hooks.delta_counters
        return () if export is None else export.numbers(name, continuous=continuous)

    def _parts(self, part: str, name: str, options: CallbackOptions) -> Iterable[Observation]:
        export = self.export
        return () if export is None or self._hooks is not None else export.part(part, name)

    def _durations(self) -> Collected | None:
        export = self.export
        return None if export is None else export.durations()


def _create(meter: Meter, metric: Metric, observe: Callable[[CallbackOptions], Iterable[Observation]]) -> None:
    if metric.kind == "counter":
        create: Callable[..., object] = meter.create_observable_counter
    elif metric.unit.startswith("{") or "mode" in metric.labels:
        create = meter.create_observable_up_down_counter
    else:
        create = meter.create_observable_gauge
    create(metric.name, [observe], unit=metric.unit, description=metric.help)
