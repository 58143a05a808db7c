"""All files: their names and texts. The same options give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from resilient import _validation
from resilient.observe.dashboards.dependency import dependency
from resilient.observe.dashboards.error_budget import error_budget
from resilient.observe.dashboards.options import DashboardOptions
from resilient.observe.dashboards.overview import overview
from resilient.observe.dashboards.pipeline_alerts import pipeline_alerts
from resilient.observe.dashboards.policy_alerts import policy_alerts
from resilient.observe.dashboards.rules import Group, rules_text
from resilient.observe.dashboards.runbook import NOTES, runbook_text
from resilient.observe.dashboards.server import server

__all__ = ["RULES", "RUNBOOK", "dashboard_files", "rule_groups"]

RULES, RUNBOOK = "resilient-rules.yaml", "resilient-runbook.md"


def rule_groups(options: DashboardOptions) -> Sequence[Group]:
    """The recordings and alerts, in the groups in which Prometheus evaluates them."""
    return (error_budget(options), policy_alerts(options), pipeline_alerts(options))


def dashboard_files(options: DashboardOptions | None = None) -> dict[str, str]:
    """The texts of all files, by name: the dashboards, the rules, and the runbook of the alerts."""
    options = options or DashboardOptions()
    groups = rule_groups(options)
    kept = ", ".join(options.by)
    objectives = "".join(f", {each:g}% of {_validation.legible(name)}" for name, each in options.objectives.items())
    made = (
        f"Made by `resilient dashboards`: objective {options.objective:g}%{objectives}; budget {options.budget:g};"
        f" by {kept}."
    )
    header = (made.replace("`", ""), "Prometheus 2.37 or later. " + NOTES[0], f"The runbook is {RUNBOOK}.")
    return {
        **{f"{each['uid']}.json": _json(each) for each in (overview(options), dependency(options), server(options))},
        RULES: rules_text(groups, options, header),
        RUNBOOK: runbook_text(groups, made),
    }


def _json(data: object) -> str:
    return json.dumps(data, indent=2) + "\n"
