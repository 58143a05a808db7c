"""The picture of a dashboard, from results as Prometheus gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from benchmarks.dashboards.draw import draw, measure
from benchmarks.dashboards.outage import VARIABLES, Run, legend, resolved
from resilient.observe.dashboards import dashboard_files

DASHBOARD = json.loads(dashboard_files()["resilient-dependency.json"])


def results(panel: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Ten seconds of each target: for each series a line that rises; for a heatmap cumulative buckets."""
    values = {"heatmap": ("0.001", "0.5", "+Inf")}.get(panel["type"], ("CircuitBreaker",))
    return [
        [
            {
                "metric": {"le": value, "policy": value, "state": "open", "ending": "success", "reason": "full"},
                "values": [[100.0 + at, str(at % 4 + number)] for at in range(10) if panel["type"] == "heatmap" or at],
            }
            for number, value in enumerate(values[:1] if panel["type"] == "state-timeline" else values)
        ]
        for _ in panel["targets"]
    ]


@pytest.mark.parametrize("empty", [False, True])
def test_all_kinds_of_panels_are_drawn(tmp_path: Path, empty: bool) -> None:
    """Also those without data, and values that are no numbers."""
    found = {panel["id"]: results(panel) for panel in DASHBOARD["panels"] if "targets" in panel}
    if empty:
        found = {number: [[] for _ in targets] for number, targets in found.items()}
    else:
        lines = next(panel for panel in DASHBOARD["panels"] if panel["title"] == "Latency")
        found[lines["id"]][0][0]["values"][3][1] = "NaN"
    file = tmp_path / "panels.png"
    draw(DASHBOARD, Run(100.0, 110.0, found), file, rows=5)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 20_000


def test_queries_have_no_variables_left() -> None:
    """One pipeline, every process."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            query = resolved(target["expr"], VARIABLES)
            promql_parser.parse(query)
            assert "$" not in query
    assert resolved('a{job=~"$job",pipeline=~"$pipeline"}[$__rate_interval]', VARIABLES) == (
        'a{job=~".*",pipeline=~"inventory"}[6s]'
    )


def test_legend_has_the_values_of_labels() -> None:
    """A label that a series lacks is empty."""
    assert legend("{{policy}}: {{reason}}", {"policy": "Bulkhead"}) == "Bulkhead: "


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "percentunit", "1.23%"),
        (0.0123, "s", "12.3 ms"),
        (1.5, "s", "1.5 s"),
        (0.0, "s", "0 s"),
        (12.0, "reqps", "12 req/s"),
        (float("inf"), "s", "∞"),
    ],
)
def test_values_have_the_units_of_grafana(value: float, unit: str, text: str) -> None:
    """As Grafana writes them."""
    assert measure(value, unit) == text
