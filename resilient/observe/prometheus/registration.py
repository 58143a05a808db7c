"""Registration: one collector in one registry, with what it needs, and the function that ends it."""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Literal

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from resilient import _validation
from resilient._atomic import members, module_lock
from resilient.observe import metrics
from resilient.observe.prometheus import multiprocess
from resilient.observe.prometheus.buckets import Buckets
from resilient.observe.prometheus.collector import ResilientCollector
from resilient.observe.prometheus.exemplars import Labels, exemplar_labels
from resilient.observe.prometheus.internal_errors import InternalErrors

__all__ = ["flush", "register"]

Durations = Literal["calls", "attempts"]

_lock = module_lock()
_registered: weakref.WeakKeyDictionary[CollectorRegistry, ResilientCollector] = weakref.WeakKeyDictionary()


def register(
    registry: CollectorRegistry = REGISTRY,
    *,
    keys: int = 0,
    durations: Durations | None = "calls",
    buckets: Iterable[float] | None = None,
    exemplars: bool | Labels = True,
    slow: float = 1.0,
    interval: float = 5.0,
) -> Callable[[], None]:
    """Show the figures of all pipelines of this process in a registry of prometheus-client.

    Returns a function that ends this. It can be called twice.

    Args:
        registry: default `prometheus_client.REGISTRY`. Several registries can show the same figures.
        keys: the most keys (origins, tenants) of a Keyed that have series of their own, under the label `key`; the
            others are summed up under `key="other"`. 0: no label `key`; all keys of a policy are summed up. Each key
            costs about as many series as the pipeline without keys has.
        durations: histograms of how long calls take ("calls"), or calls and each of their attempts ("attempts"). They
            are recorded from now on, for all registries. None: this registry has none.
        buckets: upper bounds of the histograms in seconds, in ascending order; each is moved up to the next of 32
            bounds per factor of two, by 2.2% at most. Default: powers of two from 1/1024 to 64.
        exemplars: True: failed and slow calls leave the `trace_id` and `span_id` of the current OpenTelemetry span, if
            OpenTelemetry's API is installed and the span is sampled. A function without arguments: it returns the
            labels as a dict of strings with at most 128 characters in all, or None; it is called at the end of such
            calls, in their context, and its errors are counted and logged once. False: no exemplars. Without
            histograms there are none. A call leaves one exemplar: of several registrations the latest decides.
        slow: seconds from which a call is slow, for exemplars. `math.inf`: only failed calls leave one.
        interval: seconds between two writings into the files of multiprocess mode; not used without it.

    Raises:
        ValueError: the registry already has these figures, or other metrics of these names; or in multiprocess mode
            PROMETHEUS_MULTIPROC_DIR is no directory that can be written, or another registry has been registered
            with other options.
        RuntimeError: PROMETHEUS_MULTIPROC_DIR was set after the import of prometheus_client; or the installed
            prometheus-client has files of another kind than the known ones.
    """
    if not isinstance(registry, CollectorRegistry):
        raise TypeError(f"registry must be a CollectorRegistry of prometheus_client, got {registry!r}")
    _validation.count("keys", keys, least=0)
    if durations not in ("calls", "attempts", None):
        raise ValueError(f'durations must be "calls", "attempts" or None, got {durations!r}')
    if slow != math.inf:
        _validation.seconds("slow", slow, zero=True)
    _validation.seconds("interval", interval)
    bounds = Buckets(buckets)
    errors = InternalErrors()
    labels = exemplar_labels(exemplars, errors)
    several_processes = multiprocess.is_on()
    reference = weakref.ref(registry)  # the registry holds the collector; it must not be held by it
    collector = ResilientCollector(
        keys=keys,
        durations=durations,
        buckets=bounds,
        errors=errors,
        superseded=lambda: several_processes and _sums_files(reference()),
    )
    ends: list[Callable[[], None]] = []
    with _lock:
        _add(registry, collector)
        ends.append(lambda: _remove(registry, collector))
        try:
            if durations is not None:
                ends.append(metrics.record_durations(attempts=durations == "attempts", exemplar=labels, slow=slow))
            if several_processes:
                ends.append(multiprocess.write_from(collector, interval))
        except BaseException:
            _end(ends)
            raise
    return lambda: _end(ends)


def flush() -> None:
    """In multiprocess mode: write the figures of this process into its files now. Otherwise it does nothing.

    For servers that run Python without threads, and before a scrape that must be up to date. It takes about a
    microsecond for each value (a histogram has 19), and must not be called in a signal handler.
    """
    multiprocess.flush()


def _end(ends: list[Callable[[], None]]) -> None:
    with _lock:
        while ends:
            ends.pop()()


def _add(registry: CollectorRegistry, collector: ResilientCollector) -> None:
    try:
        registry.register(collector)
    except ValueError as error:
        if registry in _registered:
            raise ValueError(
                "resilient's figures are in this registry already: register() once, or first call the function that "
                "it returned"
            ) from error
        names = ", ".join(sorted(re.findall(r"'(\w+)'", str(error))))
        raise ValueError(
            f"the registry already has metrics with names of resilient's: {names}; rename those, or give resilient a "
            "registry of its own: register(CollectorRegistry())"
        ) from error
    _registered[registry] = collector


def _remove(registry: CollectorRegistry, collector: ResilientCollector) -> None:
    if _registered.get(registry) is collector:
        del _registered[registry]
        try:
            registry.unregister(collector)
        except KeyError:
            pass  # the user has unregistered it


def _sums_files(registry: Any) -> bool:
    """Whether a `MultiProcessCollector` of this registry shows the figures of this process, too."""
    return any(
        isinstance(each, MultiProcessCollector) for each in members(getattr(registry, "_collector_to_names", ()))
    )
