"""What all dashboards share: their variables, the queries that these limit, and some panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resilient.observe.dashboards.expressions import BAD, COUNTED, Query, ratio
from resilient.observe.dashboards.grafana import AMBER, ENDINGS, RED, Target, annotation, timeseries, variable
from resilient.observe.dashboards.options import DashboardOptions

__all__ = ["Scope"]

INTERVAL = "$__rate_interval"
"""Grafana's window for rates: at least four scrapes, and at least the distance of two points."""


class Scope:
    """The series that a dashboard shows.

    Args:
        options: its labels `by` become variables.
        several: whether several pipelines can be chosen, or one.
        policies: whether policies can be chosen.
        with_metric: pipelines are offered that have this metric.
    """

    def __init__(
        self,
        options: DashboardOptions,
        *,
        several: bool,
        policies: bool = False,
        with_metric: str = "resilient.pipeline.mode",
    ) -> None:
        self._labels = [*options.by, "pipeline", "instance", *(["policy"] if policies else [])]
        self._several = several
        self._with_metric = with_metric
        where = tuple(f'{label}=~"${label}"' for label in self._labels)
        self.query = Query(INTERVAL, (), where)

    def variables(self) -> list[dict[str, Any]]:
        """The variables, each limited by those before it."""
        found = []
        for at, label in enumerate(self._labels):
            where = tuple(f'{each}=~"${each}"' for each in self._labels[:at])
            series = Query(INTERVAL, (), where).series(self._with_metric)
            if label == "policy":
                series = "{" + ",".join(('__name__=~"resilient_.+"', *where, 'policy!=""')) + "}"
            several = self._several or label != "pipeline"
            found.append(variable(label, f"label_values({series}, {label})", label.capitalize(), several=several))
        return found

    def annotations(self) -> list[dict[str, Any]]:
        """Marks for as long as circuits are not closed, and alerts fire."""
        opened = self.query.series("resilient.circuit.state", 'state=~"open|half-open"')
        firing = 'ALERTS{alertname=~"Resilient.+",alertstate="firing",pipeline=~"$pipeline"}'
        return [
            annotation("Circuit open", f"{self.query.total(opened, 'pipeline', 'policy')} > 0", RED),
            annotation("Alert fires", f"max by (alertname, pipeline, policy) ({firing})", AMBER),
        ]

    def by_policy(self, name: str, *labels: str, legend: str = "{{policy}}", of: str = "sum") -> Target:
        """A gauge for each policy, over all processes."""
        return Target(self.query.total(self.query.series(name), "policy", *labels, of=of), legend)

    def rate_of(self, name: str, *labels: str, legend: str) -> Target:
        """A counter as a rate, for each combination of labels."""
        return Target(self.query.total(self.query.rate(name), *labels), legend)

    def bad_share(self, *labels: str) -> str:
        """The share of bad calls among those that an objective counts; 0 where calls are counted and none is bad."""
        counted = self.query.total([self.query.rate("resilient.calls", *group) for group in COUNTED], *labels)
        bad = self.query.total([self.query.rate("resilient.calls", *group) for group in BAD], *labels)
        return ratio(f"({bad} or 0 * {counted})", counted)

    def per_call(self, name: str, *labels: str) -> str:
        """A counter for each call."""
        calls = self.query.total(self.query.rate("resilient.calls"), *labels)
        return ratio(self.query.total(self.query.rate(name), *labels), calls)

    def quantile(self, share: float, name: str, *labels: str) -> str:
        """A quantile of a histogram, over all endings of the chosen pipelines."""
        buckets = self.query.total(self.query.rate(name, part="_bucket"), "le", *labels)
        return f"histogram_quantile({share:g}, {buckets})"

    def permits(self, description: str) -> dict[str, Any]:
        """The permits in use of each policy, and its limit."""
        used = self.by_policy("resilient.permits.in_use", legend="{{policy}} in use")
        limit = self.by_policy("resilient.permits.limit", legend="{{policy}} limit")
        return timeseries("Permits", description, used, limit, unit="short", dashed=("limit$",))

    def queues(self, description: str) -> dict[str, Any]:
        """The length of the queue of each policy, and its limit."""
        length = self.by_policy("resilient.queue.length", legend="{{policy}} waiting")
        limit = self.by_policy("resilient.queue.limit", legend="{{policy}} limit")
        return timeseries("Queues", description, length, limit, unit="short", dashed=("limit$",))

    def endings(self, title: str, description: str, name: str, *, width: int = 8) -> dict[str, Any]:
        """Calls or attempts in a second by ending, one on the other."""
        target = self.rate_of(name, "ending", legend="{{ending}}")
        return timeseries(title, description, target, unit="reqps", stack=True, colors=ENDINGS, width=width)

    def latency(self, title: str, description: str, name: str, *, width: int = 8) -> dict[str, Any]:
        """The median, the p95 and the p99 of a histogram of durations."""
        shares: Sequence[float] = (0.5, 0.95, 0.99)
        targets = [Target(self.quantile(share, name), f"p{100 * share:g}") for share in shares]
        return timeseries(title, description, *targets, unit="s", width=width)
