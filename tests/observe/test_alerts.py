"""The rules: promtool accepts them, and each alert fires when it should, and only then."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.observe.dashboards.files import RULES, dashboard_files, rule_groups
from resilient.observe.dashboards.options import DashboardOptions
from resilient.observe.dashboards.policy_alerts import NOT_FULL
from resilient.observe.dashboards.rules import rules_text
from resilient.policies.breaker.breaker import REFUSED, TRY_AGAIN
from tests.observe import error_budget_alert_cases, pipeline_alert_cases, policy_alert_cases
from tests.observe.alert_case import Case, selector
from tests.servers import find_program

CASES = {**error_budget_alert_cases.CASES, **policy_alert_cases.CASES, **pipeline_alert_cases.CASES}
OPTIONS = DashboardOptions()
GROUPS = rule_groups(OPTIONS)
ALERTS = {alert.name: alert for group in GROUPS for alert in group.alerts}


@pytest.fixture(scope="module")
def promtool() -> str:
    """The path of promtool."""
    return find_program("promtool")


def run(promtool: str, *arguments: str, folder: Path) -> str:
    """The output of promtool; fails if it fails."""
    done = subprocess.run([promtool, *arguments], check=False, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def test_every_alert_has_cases_that_fire_and_cases_that_do_not() -> None:
    """An alert without both is not tested."""
    assert set(CASES) == set(ALERTS)
    for name, cases in CASES.items():
        assert {bool(case.fires) for case in cases} == {True, False}, name


def test_refusals_by_circuits_are_no_refusals_by_limits() -> None:
    """An open circuit has an alert of its own. The codes are those that breakers and closed pipelines count."""
    assert {template.code for template in (*REFUSED.values(), *TRY_AGAIN.values())} | {"closed"} == set(
        NOT_FULL.removeprefix('reason!~"').removesuffix('"').split("|")
    )


def unit_test(name: str, case: Case) -> dict[str, object]:
    """A case as promtool reads it."""
    firing = {"alertname": name, "alertstate": "firing"}
    severity = ALERTS[name].severity
    samples = [
        {"labels": selector("ALERTS", {**firing, "severity": severity, **each}), "value": 1} for each in case.fires
    ]
    return {
        "name": case.about,
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [{"expr": selector("ALERTS", firing), "eval_time": f"{case.at}m", "exp_samples": samples}],
    }


def test_promtool_accepts_the_rules(promtool: str, tmp_path: Path) -> None:
    """Expressions and templates are valid."""
    (tmp_path / RULES).write_text(dashboard_files(OPTIONS)[RULES])
    assert f"{sum(len(g.recordings) + len(g.alerts) for g in rule_groups(OPTIONS))} rules found" in run(
        promtool, "check", "rules", RULES, folder=tmp_path
    )


def test_promtool_accepts_the_rules_of_all_options(promtool: str, tmp_path: Path) -> None:
    """Names of pipelines may have any characters; times may be short."""
    options = DashboardOptions(
        objective=99,
        objectives={'a "b" \\ {{c}}': 95, "two\nlines: x": 97, "d": 50},
        by=("namespace", "job"),
        runbook_url="https://wiki/r",
        time_scale=1 / 2400,
    )
    (tmp_path / RULES).write_text(dashboard_files(options)[RULES])
    run(promtool, "check", "rules", RULES, folder=tmp_path)


def test_pipelines_can_have_objectives_of_their_own(promtool: str, tmp_path: Path) -> None:
    """10% of the calls of each pipeline fail. The objectives of 50% bear that."""
    options = DashboardOptions(objectives={"inner": 50, "batch": 50})
    (tmp_path / RULES).write_text(dashboard_files(options)[RULES])
    calls = "resilient_calls_total{job='shop', pipeline='%s', ending='%s', verdict='%s'}"
    name = "ResilientErrorBudgetBurnsFast"
    file = {
        "rule_files": [RULES],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": calls % (pipeline, ending, ending), "values": f"0+{rate}x60"}
                    for pipeline in ("users", "inner", "batch")
                    for ending, rate in (("success", 90), ("failure", 10))
                ],
                "promql_expr_test": [
                    {
                        "expr": f"sum by (pipeline) (ALERTS{{alertname='{name}', alertstate='firing'}})",
                        "eval_time": "30m",
                        "exp_samples": [{"labels": "{pipeline='users'}", "value": 1}],
                    }
                ],
                "alert_rule_test": [],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(json.dumps(file))
    run(promtool, "test", "rules", "test.yaml", folder=tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_alert_fires_when_it_should_and_only_then(promtool: str, name: str, tmp_path: Path) -> None:
    """`promtool test rules` runs each case of the alert through the real rule engine. The file has the alert, and the
    recordings of its group; to evaluate the others each minute of three days takes long."""
    groups = [replace(group, alerts=[ALERTS[name]]) for group in GROUPS if ALERTS[name] in group.alerts]
    (tmp_path / RULES).write_text(rules_text(groups, OPTIONS, ()))
    for number, case in enumerate(CASES[name]):
        file = {
            "rule_files": [RULES],
            "evaluation_interval": f"{case.every}m",
            "tests": [unit_test(name, case)],
        }
        (tmp_path / f"{number}.yaml").write_text(json.dumps(file, indent=1))
    run(promtool, "test", "rules", *(f"{number}.yaml" for number in range(len(CASES[name]))), folder=tmp_path)
