"""The values of this process in the files of prometheus-client.

The client keeps each value of a process in a file for each kind of metric, named by the process's id, and
`MultiProcessCollector` sums up the files of all processes. Our values are written into the same files through the
class that the client makes its own values of (`prometheus_client.values.ValueClass`, which writes by `mmap_dict`), so
that names of files, their format, and `mark_process_dead` are the client's.

A file may have figures of an earlier process with the same id. What it has when this process first writes a value is
the *base*, to which the process's own figure is added; otherwise the sum over all processes would fall.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterable
from typing import Any

from prometheus_client import values

from resilient.observe.gauges import OTHER_KEY
from resilient.observe.metrics import Histogram, Series
from resilient.observe.prometheus.buckets import Buckets
from resilient.observe.prometheus.collector import ERRORS, ResilientCollector
from resilient.observe.prometheus.families import Family, labels_of

__all__ = ["Files"]

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the directory of the files."""

ROOM = 2**20
"""Bytes that must be free before a new value is written: more than the values of one series take."""

KEYS = 10
"""How many times as many keys as have series at once have series in the files."""


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
        if last is None:
            _need_room()
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
    """The values of this process in its files.

    A value cannot be taken out of a file: what was counted stays in the sums. So keys that come and go are limited:
    the first `KEYS` times as many as have series at once have series in the files, and later ones count as "other".

    Args:
        keys: the most keys of a policy that have series at once.
    """

    def __init__(self, keys: int) -> None:
        self._most_keys = KEYS * keys
        self._keys: dict[tuple[str, ...], set[str]] = {}  # by pipeline and policy
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
        if last and family.kind == "gauge":
            found = []
        failed: Exception | None = None
        for series in self._with_few_keys(family, found):
            missing.discard(series.labels)
            try:
                written = by_labels.get(series.labels)
                if written is None:
                    written = by_labels[series.labels] = _open(family, series, buckets)
                written.write(_numbers(series, buckets))
            except Exception as error:  # the others have their places in the files
                failed = error
        for labels in missing:
            written = by_labels[labels]
            if written.missing is not None:
                written.write([written.missing] * len(written.values))
        if failed is not None:
            raise failed

    def _with_few_keys(self, family: Family, found: list[Series]) -> Iterable[Series]:
        """Return the series, with those of keys beyond the limit as one series of the key "other"."""
        if family.labels[-1:] != ("key",):
            return found
        few: dict[tuple[str, ...], Series] = {}
        for series in found:
            *place, key = series.labels
            known = self._keys.setdefault(tuple(place[:2]), {"", OTHER_KEY})
            if key not in known and len(known) < self._most_keys + 2:
                known.add(key)
            labels = (*place, key if key in known else OTHER_KEY)
            before = few.get(labels)
            few[labels] = Series(labels, _combined(family, series, before) if before else series.value)
        return few.values()


def _need_room() -> None:
    """Raise `OSError` if the files have no room for a new value, or their directory is gone. The client maps its files
    into memory, with holes where nothing is written yet: on a full disk, the first writing to such a place would kill
    the process (SIGBUS)."""
    directory = os.environ.get(DIRECTORY) or os.environ.get(DIRECTORY.lower(), "")
    if shutil.disk_usage(directory).free < ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory)


def _combined(family: Family, one: Series, other: Series) -> float:
    """Return the gauge of two keys: their sum, or the higher one of what cannot be added."""
    assert not isinstance(one.value, Histogram)
    assert not isinstance(other.value, Histogram)
    return one.value + other.value if family.is_sum else max(one.value, other.value)


def _numbers(series: Series, buckets: Buckets) -> list[float]:
    """Return the values of a series, in the order in which `_open` makes them."""
    value = series.value
    return [*buckets.counts(value), value.sum] if isinstance(value, Histogram) else [value]


def _open(family: Family, series: Series, buckets: Buckets) -> _Written:
    """Make the values of a series in the files of this process."""
    labels = labels_of(family, series)
    _need_room()

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
