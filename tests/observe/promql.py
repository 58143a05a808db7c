"""PromQL expressions of dashboards and rules, parsed: the names of the metrics in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser

from resilient.observe.metrics import TABLE, prometheus_name

__all__ = ["EXPORTED", "metrics_in", "queries", "resolved"]

GRAFANA = {"$__rate_interval": "1m", "$__interval": "15s", "$__range": "1h"}

EXPORTED = {
    name
    for metric in TABLE
    for name in (
        [f"{prometheus_name(metric)}{part}" for part in ("_bucket", "_count", "_sum")]
        if metric.kind == "histogram"
        else [prometheus_name(metric)]
    )
}
"""The names of all series of the table, as Prometheus knows them."""


def resolved(text: str) -> str:
    """A query with values in place of Grafana's variables, as Grafana puts them there."""
    for variable, value in GRAFANA.items():
        text = text.replace(variable, value)
    return re.sub(r"\$\{?\w+(:\w+)?\}?", ".*", text)


def metrics_in(expression: str) -> set[str]:
    """The names of the metrics that an expression selects. Raises `ValueError` if it is not PromQL."""
    names: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            names.add(node.name or "")
        for attribute in ("expr", "lhs", "rhs", "vector_selector", "vs", "param"):
            child = getattr(node, attribute, None)
            if child is not None:
                visit(child)
        for child in getattr(node, "args", None) or ():
            visit(child)

    visit(promql_parser.parse(expression))
    return names


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The expressions of a dashboard, Grafana's variables resolved, each with the place where it stands."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], resolved(target["expr"])
    for each in dashboard["annotations"]["list"]:
        yield each["name"], resolved(each["expr"])
    for each in dashboard["templating"]["list"]:
        if each["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", each["query"]["query"])
            assert match is not None, each
            yield each["name"], resolved(match[1])
