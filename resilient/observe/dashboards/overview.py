"""The dashboard of all pipelines: which one is not well."""

from __future__ import annotations

from typing import Any

from resilient.observe.dashboards.error_budget import FAST
from resilient.observe.dashboards.expressions import ratio
from resilient.observe.dashboards.grafana import AMBER, GREEN, RED, Target, dashboard, stat, table, timeseries
from resilient.observe.dashboards.options import DashboardOptions
from resilient.observe.dashboards.policy_alerts import MOST_ATTEMPTS
from resilient.observe.dashboards.scope import Scope

__all__ = ["overview"]


def overview(options: DashboardOptions) -> dict[str, Any]:
    """Return the dashboard of all pipelines, in the JSON model of Grafana."""
    scope = Scope(options, several=True)
    panels = [*_numbers(scope, options), _all_pipelines(scope), *_over_time(scope, options)]
    return dashboard(
        "resilient-overview",
        "resilient: all pipelines",
        "Which pipelines are well, and which are not: calls, failures, load on dependencies, circuits, refusals. A"
        " row of the table opens the dashboard of one dependency. Schema version 36 (Grafana 9.1 and later).",
        scope.variables(),
        scope.annotations(),
        panels,
    )


def _numbers(scope: Scope, options: DashboardOptions) -> list[dict[str, Any]]:
    query = scope.query
    not_closed = query.total(query.series("resilient.circuit.state", 'state!="closed"'))
    not_on = query.total(query.series("resilient.pipeline.mode", 'mode!="on"'))
    attempts = ratio(query.total(query.rate("resilient.attempts")), query.total(query.rate("resilient.calls")))
    budget = options.error_budget
    return [
        stat(
            "Calls",
            "Calls that end in a second, of all chosen pipelines. Calls of pipelines that are switched off are not"
            " counted.",
            Target(query.total(query.rate("resilient.calls")), "calls"),
            unit="reqps",
        ),
        stat(
            "Bad calls",
            f"Failures of the dependency, timeouts and refusals, as a share of all calls but the cancelled ones and the"
            f" failures without evidence. The objective of {options.objective:g}% allows {budget:.4%}.",
            Target(scope.bad_share(), "bad"),
            unit="percentunit",
            decimals=2,
            steps=((None, GREEN), (budget, AMBER), (FAST * budget, RED)),
        ),
        stat(
            "Attempts per call",
            "The load on the dependencies for each call, with retries and hedges. Above 1.3 the clients make an"
            " outage worse.",
            Target(attempts, "attempts"),
            unit="short",
            decimals=2,
            empty="-",
            steps=((None, GREEN), (1.1, AMBER), (MOST_ATTEMPTS, RED)),
        ),
        stat(
            "Circuits not closed",
            "Circuits that are open, half-open or isolated, over all processes and keys.",
            Target(not_closed, "circuits"),
            unit="short",
            steps=((None, GREEN), (1, RED)),
        ),
        stat(
            "Calls in flight",
            "Calls that have begun and not ended, their waits in queues and between attempts included.",
            Target(query.total(query.series("resilient.calls.in_flight")), "in flight"),
            unit="short",
        ),
        stat(
            "Pipelines not on",
            "Pipelines, in each process, that are switched off, or to one attempt, or to no pauses.",
            Target(not_on, "not on"),
            unit="short",
            steps=((None, GREEN), (1, AMBER)),
        ),
    ]


def _all_pipelines(scope: Scope) -> dict[str, Any]:
    query = scope.query
    not_closed = query.total(query.series("resilient.circuit.state", 'state!="closed"'), "pipeline")
    columns = {
        "Calls": (query.total(query.rate("resilient.calls"), "pipeline"), "reqps"),
        "Bad calls": (scope.bad_share("pipeline"), "percentunit"),
        "p99": (scope.quantile(0.99, "resilient.call.duration", "pipeline"), "s"),
        "Attempts per call": (scope.per_call("resilient.attempts", "pipeline"), "short"),
        "Circuits not closed": (not_closed, "short"),
        "In flight": (query.total(query.series("resilient.calls.in_flight"), "pipeline"), "short"),
    }
    return table(
        "Pipelines",
        "The present state of each pipeline. A click on a name opens its dependency.",
        columns,
        by=("pipeline",),
        links={"pipeline": "/d/resilient-dependency?var-pipeline=${__data.fields.pipeline}&${datasource:queryparam}"},
    )


def _over_time(scope: Scope, options: DashboardOptions) -> list[dict[str, Any]]:
    query, name = scope.query, "{{pipeline}}"
    not_closed = query.total(query.series("resilient.circuit.state", 'state!="closed"'), "pipeline")
    return [
        timeseries(
            "Calls by pipeline",
            "Calls that end in a second.",
            scope.rate_of("resilient.calls", "pipeline", legend=name),
            unit="reqps",
        ),
        timeseries(
            "Bad calls by pipeline",
            "The share of failures, timeouts and refusals. The line is 14.4 times the error budget, at which an hour"
            " spends 2% of a month's budget.",
            Target(scope.bad_share("pipeline"), name),
            unit="percentunit",
            threshold=round(min(1.0, FAST * options.error_budget), 6),
        ),
        timeseries(
            "p99 by pipeline",
            "99% of the calls take at most so long, all attempts and waits included, whatever their ending.",
            Target(scope.quantile(0.99, "resilient.call.duration", "pipeline"), name),
            unit="s",
        ),
        timeseries(
            "Attempts per call by pipeline",
            "Retries and hedges multiply the load on a dependency. The line is the threshold of the alert.",
            Target(scope.per_call("resilient.attempts", "pipeline"), name),
            unit="short",
            threshold=MOST_ATTEMPTS,
        ),
        timeseries(
            "Circuits not closed by pipeline",
            "Open, half-open and isolated circuits, over all processes and keys.",
            Target(not_closed, name),
            unit="short",
        ),
        timeseries(
            "Refusals by pipeline and policy",
            "Calls that a policy refuses in a second: open circuits, full limits, no tokens.",
            scope.rate_of("resilient.rejections", "pipeline", "policy", legend="{{pipeline}} {{policy}}"),
            unit="reqps",
        ),
        timeseries(
            "Budgets exhausted",
            "Retries and hedges in a second that were not made, because the budget had no token.",
            scope.rate_of("resilient.budget.exhausted", "pipeline", "reason", legend="{{pipeline}} {{reason}}"),
            unit="reqps",
        ),
        timeseries(
            "Calls in flight by pipeline",
            "Calls that have begun and not ended. A number that only grows: calls hang.",
            Target(query.total(query.series("resilient.calls.in_flight"), "pipeline"), name),
            unit="short",
        ),
        timeseries(
            "Answers of Fallbacks",
            "The share of calls that got a substitute. They count as successes.",
            Target(scope.per_call("resilient.fallbacks", "pipeline"), name),
            unit="percentunit",
        ),
    ]
