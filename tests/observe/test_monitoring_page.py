"""The pages on monitoring name what there is: every metric with its labels, every alert."""

from __future__ import annotations

import re
from pathlib import Path

from resilient.observe.dashboards import DashboardOptions, rule_groups
from resilient.observe.metrics import TABLE, prometheus_name

DOCS = Path(__file__).parents[2] / "docs"


def test_table_of_metrics_is_that_of_the_code() -> None:
    """Names in OpenTelemetry and Prometheus, kinds, units and labels."""
    lines = (DOCS / "monitoring.md").read_text(encoding="utf-8").splitlines()
    shown = [line for line in lines if line.startswith("| `resilient.") and "`resilient_" in line]
    assert shown == [
        f"| `{metric.name}` | `{prometheus_name(metric)}` | {metric.kind}, {metric.unit} | {', '.join(metric.labels)} "
        f"| {metric.help} |"
        for metric in TABLE
    ]


def test_table_of_alerts_is_that_of_the_rules() -> None:
    """In the order in which the rules have them or in another."""
    named = set(re.findall(r"^\| `(Resilient\w+)` ", (DOCS / "alerts.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {alert.name for group in rule_groups(DashboardOptions()) for alert in group.alerts}
