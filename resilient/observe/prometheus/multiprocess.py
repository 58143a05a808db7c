"""Multiprocess mode of prometheus-client: whether it is on and can work, and one writer for a process.

The class of the client's values (`prometheus_client.values.ValueClass`) is not public: its parameters are checked
before it is used, and tests read the files that it writes.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from prometheus_client import values

from resilient._atomic import in_forked_child, module_lock
from resilient.observe.prometheus.collector import ResilientCollector
from resilient.observe.prometheus.files import DIRECTORY, Files
from resilient.observe.prometheus.writer import Writer

__all__ = ["flush", "is_on", "write_from"]

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


class _Process:
    """What writes the files of this process, for one registry or several with the same options."""

    def __init__(self, collector: ResilientCollector, interval: float) -> None:
        self.collector = collector
        self.options = _options(collector, interval)
        self.registries = 0
        self._files = Files(collector.keys)
        self._writer = Writer(self.write, lambda: self.write(last=True), interval)

    def renew(self) -> None:
        """In a forked child: its figures begin at 0."""
        self._files.renew()

    def write(self, *, last: bool = False) -> None:
        """Write all figures that have changed. `last`: gauges have no value from now on."""
        with _lock:
            self._files.write(self.collector, last=last)

    def add(self) -> None:
        """Add a registry. With the first one, write now, and from now on."""
        self.registries += 1
        if self.registries == 1:
            self.write()
            self._writer.start()

    def remove(self) -> None:
        """Remove a registry. With the last one, write for the last time."""
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
