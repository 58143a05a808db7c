"""What a scrape reads: the figures at that moment, as metrics of prometheus-client."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import prometheus_client
from prometheus_client.core import Sample
from prometheus_client.registry import Collector

from resilient._atomic import in_forked_child
from resilient.observe import metrics
from resilient.observe.metrics import Metric, Series
from resilient.observe.prometheus.buckets import Buckets
from resilient.observe.prometheus.families import Family, family_of, samples
from resilient.observe.prometheus.internal_errors import InternalErrors

__all__ = ["ERRORS", "ResilientCollector"]

ERRORS = Family(
    "resilient_scrape_errors",
    "counter",
    "",
    "Errors while figures were read, converted or written. The log has the first.",
    (),
)
"""The only metric that is not of the library, but of this exporter."""


def _import_of_logging() -> float:
    """Return the Unix time at which this process imported `logging`, which the library does before it counts."""
    record = logging.LogRecord("", logging.INFO, "", 0, "", (), None)
    return record.created - record.relativeCreated / 1000


_created = _import_of_logging()
"""Unix time at which all counters of this process were 0."""


@in_forked_child
def _renew() -> None:
    global _created
    _created = time.time()  # counters of a forked child begin at 0


class ResilientCollector(Collector):
    """The library's figures for one registry. `register` makes it, and lets durations be recorded. Make one yourself to
    collect without a registry.

    `collect` never raises: what cannot be read is left out, counted in `resilient_scrape_errors_total`, and logged
    once, so that the other metrics of the registry appear in any case. It calls no code of users, takes no lock of a
    call, and can run in any thread.

    Args:
        keys: the most keys of a Keyed that have series of their own (see `register`).
        durations: which histograms to show: "calls", "attempts" (those of calls, too) or None.
        buckets: of the histograms.
        errors: counts what went wrong.
        superseded: called at each scrape. If it returns True, the scrape is empty, because another collector of the
            registry shows the same figures.
    """

    def __init__(
        self,
        *,
        keys: int = 0,
        durations: str | None = "calls",
        buckets: Buckets | None = None,
        errors: InternalErrors | None = None,
        superseded: Callable[[], bool] = lambda: False,
    ) -> None:
        self.keys = keys
        self.durations = durations
        self.buckets = Buckets() if buckets is None else buckets
        self.errors = InternalErrors() if errors is None else errors
        self._superseded = superseded
        self._shown = [metric for metric in metrics.TABLE if _is_shown(metric, durations)]

    def describe(self) -> Iterable[prometheus_client.Metric]:
        """Return all metrics without figures. prometheus-client finds clashes of names by this."""
        return [*(family_of(metric).empty() for metric in self._shown), ERRORS.empty()]

    def collect(self) -> Iterable[prometheus_client.Metric]:
        """Return all metrics with their present figures."""
        try:
            if self._superseded():
                return []
        except Exception as error:
            self.errors.report("looking at the registry", error)
        shown = [self._metric(family, found) for family, found in self.figures()]
        last = ERRORS.empty()
        last.samples = self._samples(ERRORS, Series((), self.errors.count))
        return [*shown, last]

    def figures(self) -> list[tuple[Family, list[Series]]]:
        """Return the present figures of each family: an empty list for a family without figures. Returns no families
        if nothing can be read."""
        try:
            read = metrics.read(keys=self.keys)
        except Exception as error:
            self.errors.report("reading the figures", error)
            return []
        by_name = {metric.name: (family_of(metric), series) for metric, series in read.items()}
        return [by_name.get(metric.name) or (family_of(metric), []) for metric in self._shown]

    def _metric(self, family: Family, found: Iterable[Series]) -> prometheus_client.Metric:
        shown = family.empty()
        for series in found:
            try:
                shown.samples += self._samples(family, series)
            except Exception as error:
                self.errors.report(f"converting {family.name}", error)
        return shown

    def _samples(self, family: Family, series: Series) -> list[Sample]:
        return samples(family, series, buckets=self.buckets, created=_created)


def _is_shown(metric: Metric, durations: str | None) -> bool:
    if metric.kind != "histogram":
        return True
    return durations == "attempts" or (durations == "calls" and metric.name == "resilient.call.duration")
