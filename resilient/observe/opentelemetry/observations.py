"""One export of figures: what the instruments observe, from one reading of the figures for each collection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from opentelemetry.metrics import Observation

from resilient._atomic import renew_in_forked_child
from resilient.observe import metrics as figures
from resilient.observe.metrics import Histogram, Metric, Series
from resilient.observe.opentelemetry.buckets import difference
from resilient.stats.durations import quantile

__all__ = ["QUANTILES", "Collected", "Durations", "Export"]

QUANTILES = (0.5, 0.95, 0.99)

FRESH = 1.0
"""Seconds for which instruments share a reading. A collection takes less time; if one takes more, it reads again."""

Labels = tuple[str, ...]

_NOTHING: tuple[Metric, list[Series]] = (Metric("", "gauge", "1", "", ()), [])


class Durations(NamedTuple):
    """A series of durations: its values of labels, and these as attributes."""

    metric: Metric
    labels: Labels
    attributes: dict[str, str]
    histogram: Histogram


class Collected(NamedTuple):
    """All durations at one time.

    Attributes:
        at: when they were read, in nanoseconds since the epoch.
        since: when the export began, or the process, if that was forked later; in the same unit.
        series: the durations since then.
    """

    at: int
    since: int
    series: list[Durations]


class _Reading(NamedTuple):
    at: int
    made: float
    numbers: dict[str, tuple[Metric, list[Series]]]  # by the name of the metric, whose labels may include "key"
    durations: list[Durations]


class Export:
    """What instruments observe, from `export_metrics` until its function `stop` is called.

    Args:
        keys: as for `resilient.observe.metrics.read`.
        durations: the names of the histograms that are exported.
        attribute: returns the attribute key of a label.
        before_reading: called before each reading.
    """

    def __init__(
        self,
        keys: int,
        durations: Collection[str],
        attribute: Callable[[str], str],
        before_reading: Callable[[], None],
    ) -> None:
        self._keys = keys
        self._wanted = durations
        self._attribute = attribute
        self._before_reading = before_reading
        self._end: Callable[[], None] | None = None
        self._lock = threading.RLock()
        self._reading: _Reading | None = None
        self._had_it: set[str] = set()
        self._since = time.time_ns()
        self._base: dict[tuple[str, Labels], Histogram] = {}
        self._earlier: dict[str, dict[Labels, Histogram]] = {}
        self._observed: dict[str, dict[Labels, Any]] = {}
        self._inherited: dict[str, dict[Labels, Any]] = {}
        renew_in_forked_child(self)

    def renew(self) -> None:
        """In a forked child: figures count from 0 again, and from now on."""
        self._lock = threading.RLock()
        self._reading = None
        self._since = time.time_ns()
        self._base = {}
        self._earlier = {}
        self._inherited |= {name: counted for name, counted in self._observed.items() if counted}
        self._observed = {}

    def record(self, attempts: bool, exemplar: Callable[[], Mapping[str, str] | None] | None, slow: float) -> None:
        """Record durations until `end`. Those that others have had recorded earlier are not exported."""
        self._base = {(each.metric.name, each.labels): each.histogram for each in self._read().durations}
        self._since = time.time_ns()
        self._end = figures.record_durations(attempts=attempts, exemplar=exemplar, slow=slow)

    def end(self) -> None:
        """End the recording of durations. A second call has no effect."""
        with self._lock:
            end, self._end = self._end, None
        if end is not None:
            end()

    def numbers(self, name: str, *, continuous: bool) -> Iterator[Observation]:
        """Return the observations of a counter or a gauge.

        Args:
            name: of the metric.
            continuous: whether a counter must go on in a forked child from where the parent was observed, because the
                SDK subtracts that.
        """
        counted: dict[Labels, Any] = {}
        inherited = self._inherited.get(name, {})
        metric, series = self._share(name).numbers.get(name, _NOTHING)
        for labels, value in series:
            total: Any = value
            if continuous and metric.kind == "counter":
                total = counted[labels] = total + inherited.get(labels, 0)
            yield Observation(total, self._attributes(metric, labels))
        self._observed[name] = counted

    def part(self, part: str, name: str) -> Iterator[Observation]:
        """Return the observations of a part of a histogram: its "count", its "sum", or each "quantile" of the durations
        since the previous collection."""
        earlier = self._earlier.get(name, {})
        present: dict[Labels, Histogram] = {}
        for each in self._share(f"{name}.{part}").durations:
            if each.metric.name != name:
                continue
            found = each.histogram
            if part == "quantile":
                present[each.labels] = found
                recent = difference(found, earlier[each.labels]) if each.labels in earlier else found
                for share in QUANTILES if recent.buckets else ():
                    label = {self._attribute("quantile"): str(share)}
                    yield Observation(quantile(recent.buckets, share), {**each.attributes, **label})
            else:
                yield Observation(found.sum if part == "sum" else sum(found.buckets.values()), each.attributes)
        if part == "quantile":
            self._earlier[name] = present

    def durations(self) -> Collected | None:
        """Return the durations of the instruments' latest reading, or None if they have not read."""
        reading = self._reading
        return None if reading is None else Collected(reading.at, self._since, reading.durations)

    def _share(self, instrument: str) -> _Reading:
        """Return the reading of the present collection. An instrument that has had it begins another collection, so the
        figures are read anew; the first instrument of a collection is the same each time, whichever it is."""
        with self._lock:
            reading = self._reading
            if reading is None or instrument in self._had_it or time.monotonic() - reading.made > FRESH:
                self._before_reading()
                reading = self._reading = self._read()
                self._had_it = set()
            self._had_it.add(instrument)
            return reading

    def _read(self) -> _Reading:
        reading = _Reading(time.time_ns(), time.monotonic(), {}, [])
        for metric, series in figures.read(keys=self._keys).items():
            if metric.kind != "histogram":
                reading.numbers[metric.name] = metric, series
            elif metric.name in self._wanted:
                for labels, value in series:
                    if isinstance(value, Histogram):
                        base = self._base.get((metric.name, labels))
                        new = value if base is None else difference(value, base)
                        reading.durations.append(Durations(metric, labels, self._attributes(metric, labels), new))
        return reading

    def _attributes(self, metric: Metric, labels: Labels) -> dict[str, str]:
        """Return labels as attributes; a policy without keys has none for its key."""
        return {
            self._attribute(label): value
            for label, value in zip(metric.labels, labels, strict=True)
            if value or label != "key"
        }
