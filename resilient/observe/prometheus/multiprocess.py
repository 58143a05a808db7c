"""Multiprocess mode: the figures of this process in the files of prometheus-client, for a scrape of any process.

The client keeps each value of a process in a file for each kind of metric, named by the process's id, and
`MultiProcessCollector` sums up the files of all processes. Our values are written into the same files through the
class that the client makes its own values of (`prometheus_client.values.ValueClass`, which writes by `mmap_dict`), so
that names of files, their format, and `mark_process_dead` are the client's. That class is not public: its parameters
are checked before it is used, and tests read the files that it writes.

A file may have figures of an earlier process with the same id. What it has when this process first writes a value is
the *base*, to which the process's own figure is added; otherwise the sum over all processes would fall.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from prometheus_client import values

from resilient._atomic import in_forked_child, module_lock
from resilient.observe.metrics import Histogram, Series
from resilient.observe.prometheus.buckets import Buckets
from resilient.observe.prometheus.collector import ERRORS, ResilientCollector
from resilient.observe.prometheus.families import Family, labels_of
from resilient.observe.prometheus.writer import Writer

__all__ = ["Files", "flush", "is_on", "write_from"]

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
KNOWN = "0.20 to 0.26"
"""Versions of prometheus-client whose files the tests have read."""

_PARAMETERS = ["self", "typ", "metric_name", "name", "labelnames", "labelvalues", "help_text", "multiprocess_mode"]


def is_on() -> bool:
    """Whether prometheus-client is in multiprocess mode. Raises an error that says why if it cannot work."""
    directory = os.environ.get(DIRECTORY) or os.environ.get(DIRECTORY.lower())
    if not getattr(values.ValueClass, "_multiprocess", False):
        if directory:
            raise RuntimeError(
                f"{DIRECTORY}={directory} was set after prometheus_client was imported, which has no effect: set it "
                "before the process starts"
            )
        return False
    if not directory or not os.path.isdir(directory) or not os.access(directory, os.W_OK | os.X_OK):
        raise ValueError(f"{DIRECTORY} must be a directory that this process can write to, got {directory!r}")
    found = list(inspect.signature(values.ValueClass.__init__).parameters)
    if found[: len(_PARAMETERS)] != _PARAMETERS:
        raise RuntimeError(
            f"prometheus-client {version('prometheus-client')} has multiprocess files of an unknown kind; known are "
            f"those of {KNOWN}"
        )
    return True


class _Value:
    """One value in a file.

    Args:
        adds: whether the file's value, when this process first writes it, is the base of what is written.
    """

    __slots__ = ("_adds", "_base", "_file", "_last")

    def __init__(self, file: Any, *, adds: bool) -> None:
        self._file = file
        self._adds = adds
        self.renew()

    def renew(self) -> None:
        """In a forked child, which has files of its own: the base is not known yet."""
        self._base = 0.0
        self._last: float | None = None

    def write(self, number: float) -> None:
        last = self._last
        if last is None and self._adds:
            self._base = self._file.get()
        elif last is not None and self._adds and number < last:
            self._base += last  # the figure was reset
        if number != last:
            self._file.set(self._base + number)
            self._last = number


class _Written:
    """The values of one series in the files.

    Args:
        missing: what is written if the series is there no more; None: the values stay.
    """

    __slots__ = ("missing", "values")

    def __init__(self, found: list[_Value], missing: float | None) -> None:
        self.values = found
        self.missing = missing

    def write(self, numbers: list[float]) -> None:
        for value, number in zip(self.values, numbers, strict=True):
            value.write(number)


class Files:
    """The values of this process in its files. They are never forgotten: what was counted stays in the sums."""

    def __init__(self) -> None:
        self._written: dict[str, dict[tuple[str, ...], _Written]] = {}  # by family, by the labels of a series

    def renew(self) -> None:
        """In a forked child: its figures begin at 0, in files of its own."""
        for by_labels in self._written.values():
            for written in by_labels.values():
                for value in written.values:
                    value.renew()

    def write(self, collector: ResilientCollector, *, last: bool = False) -> None:
        """Write all figures that have changed. Raises no `Exception`: the collector counts and logs it.

        Args:
            last: the process ends, or shows no figures any more: counters stay, gauges have no value.
        """
        errors = Series((), collector.errors.count)
        for family, found in (*collector.figures(), (ERRORS, [errors])):
            try:
                self._write(family, found, collector.buckets, last=last)
            except Exception as error:
                collector.errors.report(f"writing {family.name}", error)

    def _write(self, family: Family, found: list[Series], buckets: Buckets, *, last: bool) -> None:
        by_labels = self._written.setdefault(family.name, {})
        missing = set(by_labels)
        for series in found:
            if last and family.kind == "gauge":
                continue
            written = by_labels.get(series.labels)
            if written is None:
                written = by_labels[series.labels] = _open(family, series, buckets)
            written.write(_numbers(series, buckets))
            missing.discard(series.labels)
        for labels in missing:
            written = by_labels[labels]
            if written.missing is not None:
                written.write([written.missing] * len(written.values))


def _numbers(series: Series, buckets: Buckets) -> list[float]:
    """Return the values of a series, in the order in which `_open` makes them."""
    value = series.value
    return [*buckets.counts(value), value.sum] if isinstance(value, Histogram) else [value]


def _open(family: Family, series: Series, buckets: Buckets) -> _Written:
    """Make the values of a series in the files of this process."""
    labels = labels_of(family, series)

    def value(name: str, mode: str = "", **more: str) -> _Value:
        every = {**labels, **more}
        file = values.ValueClass(
            family.kind, family.name, name, tuple(every), tuple(every.values()), family.help, multiprocess_mode=mode
        )
        return _Value(file, adds=not mode)

    if family.kind == "counter":
        return _Written([value(f"{family.name}_total")], None)
    if family.kind == "gauge":  # NaN: a rate of nothing is not 0
        return (
            _Written([value(family.name, "livesum")], 0.0)
            if family.is_sum
            else _Written([value(family.name, "liveall")], math.nan)
        )
    bounds = [value(f"{family.name}_bucket", le=text) for text in buckets.texts]
    return _Written([*bounds, value(f"{family.name}_sum")], None)


class _Process:
    """What writes the files of this process, for one registry or several with the same options."""

    def __init__(self, collector: ResilientCollector, interval: float) -> None:
        self.collector = collector
        self.options = _options(collector, interval)
        self.registries = 0
        self._files = Files()
        self._writer = Writer(self.write, lambda: self.write(last=True), interval)

    def renew(self) -> None:
        """In a forked child: its figures begin at 0."""
        self._files.renew()

    def write(self, *, last: bool = False) -> None:
        with _lock:
            self._files.write(self.collector, last=last)

    def add(self) -> None:
        """Write at once, so that a directory without room is an error now, and from now on."""
        self.registries += 1
        if self.registries == 1:
            self.write()
            self._writer.start()

    def remove(self) -> None:
        self.registries -= 1
        if not self.registries:
            self._writer.end()


_lock = module_lock()
_process: _Process | None = None


@in_forked_child
def _renew() -> None:
    if _process is not None:
        _process.renew()


def write_from(collector: ResilientCollector, interval: float) -> Callable[[], None]:
    """Write the figures of this process into its files, every `interval` seconds and at its end.

    Returns a function that ends this, to be called once. Raises `ValueError` if the process has written figures with
    other options: its files have them, and cannot be written in two ways.
    """
    global _process
    if _process is None:
        _process = _Process(collector, interval)
    process = _process
    if process.options != _options(collector, interval):
        raise ValueError(
            "in multiprocess mode all registries of a process must be registered with the same keys, durations, "
            f"buckets and interval, got {_options(collector, interval)} after {process.options}"
        )
    process.add()
    return process.remove


def flush() -> None:
    """Write the figures of this process into its files now, if it writes any."""
    if _process is not None and _process.registries:
        _process.write()


def _options(collector: ResilientCollector, interval: float) -> dict[str, Any]:
    return {
        "keys": collector.keys,
        "durations": collector.durations,
        "buckets": collector.buckets,
        "interval": interval,
    }
