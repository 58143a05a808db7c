"""Dashboards for Grafana, and recording and alerting rules for Prometheus, made from the one table of metrics.

    files = dashboard_files(DashboardOptions(objective=99.5))      # texts by file name; also: resilient dashboards

What they are made of:

options          the objective, the share of budgets, the labels of sums, the address of the runbook
files            the names and texts of all files
expressions      PromQL over the table of metrics
durations        durations of PromQL, shortened for tests

Rules of Prometheus:

rules            recordings and alerts, and their YAML
error_budget     the objective: its recordings, and the alerts of several windows
policy_alerts    alerts on policies: circuits, budgets, hedges, limits, queues
pipeline_alerts  alerts on whole pipelines, and on the metrics themselves
runbook          what each alert means, what to look at, what to do

Dashboards of Grafana:

grafana          panels, variables and dashboards as plain data
scope            the variables of a dashboard, the queries that they limit, and shared panels
overview         all pipelines
dependency       one dependency: the policies of its pipeline
server           the admission of a server
"""

from resilient.observe.dashboards.files import dashboard_files, rule_groups
from resilient.observe.dashboards.options import DashboardOptions

__all__ = ["DashboardOptions", "dashboard_files", "rule_groups"]
