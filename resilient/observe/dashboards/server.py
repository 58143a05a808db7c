"""The dashboard of a server's admission (`resilient.server`): what it admits, what it refuses, and why."""

from __future__ import annotations

from typing import Any

from resilient.observe.dashboards.expressions import ratio
from resilient.observe.dashboards.grafana import (
    AMBER,
    BLUE,
    GREEN,
    RED,
    Target,
    dashboard,
    heatmap,
    stat,
    timeseries,
)
from resilient.observe.dashboards.options import DashboardOptions
from resilient.observe.dashboards.scope import Scope

__all__ = ["server"]


def server(options: DashboardOptions) -> dict[str, Any]:
    """Return the dashboard of a server's admission, in the JSON model of Grafana."""
    scope = Scope(options, several=False, with_metric="resilient.permits.limit")
    return dashboard(
        "resilient-server",
        "resilient: server admission",
        "Requests that a ServerMiddleware admits, refuses (503) and ends at their deadline (504); its limit, its"
        ' queue, and the latency behind it. Choose the pipeline of the middleware: "server", unless it has another'
        " name. Schema version 36 (Grafana 9.1 and later).",
        scope.variables(),
        scope.annotations(),
        [*_numbers(scope), *_requests(scope), *_limit(scope)],
    )


def _of_requests(scope: Scope, ending: str) -> str:
    query = scope.query
    calls = query.total(query.rate("resilient.calls"))
    return ratio(f"({query.total(query.rate('resilient.calls', ending))} or 0 * {calls})", calls)


def _numbers(scope: Scope) -> list[dict[str, Any]]:
    query = scope.query
    full = ratio(
        query.total(query.series("resilient.permits.in_use")), query.total(query.series("resilient.permits.limit"))
    )
    return [
        stat(
            "Requests",
            "Requests that end in a second, the refused ones included.",
            Target(query.total(query.rate("resilient.calls")), "requests"),
            unit="reqps",
            width=6,
        ),
        stat(
            "Refused",
            "The share of requests that are answered 503 at once.",
            Target(_of_requests(scope, 'ending="rejected"'), "refused"),
            unit="percentunit",
            decimals=2,
            steps=((None, GREEN), (0.01, AMBER), (0.05, RED)),
            width=6,
        ),
        stat(
            "Too late",
            "The share of requests that are answered 504: their deadline passed in a queue or in the handler.",
            Target(_of_requests(scope, 'ending="timeout"'), "late"),
            unit="percentunit",
            decimals=2,
            steps=((None, GREEN), (0.01, AMBER), (0.05, RED)),
            width=6,
        ),
        stat(
            "Limit in use",
            "Requests in handlers, as a share of the limit, over all processes.",
            Target(full, "in use"),
            unit="percentunit",
            steps=((None, GREEN), (0.8, AMBER), (0.95, RED)),
            width=6,
        ),
    ]


def _requests(scope: Scope) -> list[dict[str, Any]]:
    query = scope.query
    return [
        scope.endings(
            "Requests by ending",
            'In a second. "rejected" is answered 503, "timeout" 504; "cancelled": the client has left.',
            "resilient.calls",
        ),
        timeseries(
            "Refusals by reason",
            "In a second: no permit, a full queue, too long in the queue, a place taken by a more important request.",
            scope.rate_of("resilient.rejections", "policy", "reason", legend="{{policy}}: {{reason}}"),
            unit="reqps",
            stack=True,
        ),
        timeseries(
            "Requests in flight",
            "Requests in handlers and queues, by process.",
            Target(query.total(query.series("resilient.calls.in_flight"), "instance"), "{{instance}}"),
            unit="short",
        ),
        scope.latency(
            "Latency",
            "Until the response is complete, or until the first part of a stream; the wait in the queue included.",
            "resilient.call.duration",
            width=12,
        ),
        heatmap(
            "Latency of requests",
            "How many requests take how long.",
            query.total(query.increase("resilient.call.duration", part="_bucket"), "le"),
        ),
    ]


def _limit(scope: Scope) -> list[dict[str, Any]]:
    query = scope.query
    waited = ratio(
        query.total(query.rate("resilient.wait.time", 'reason="queue"'), "policy"),
        query.total(query.rate("resilient.waits", 'reason="queue"'), "policy"),
    )
    return [
        scope.permits("Requests in handlers, and the limit, over all processes."),
        timeseries(
            "Limit by process",
            "Each process has a limit of its own. One far below the others: that process, or its machine, is slow.",
            Target(query.total(query.series("resilient.permits.limit"), "instance"), "{{instance}}"),
            unit="short",
        ),
        timeseries(
            "Changes of the limit",
            "How often an AdaptiveLimit finds a new limit, in a second.",
            scope.rate_of("resilient.limit.changes", "policy", legend="{{policy}}"),
            unit="cps",
            colors={"AdaptiveLimit": BLUE},
        ),
        scope.queues("Requests that wait for a permit, and the room in the queues, over all processes."),
        timeseries(
            "Waiting time",
            "The mean of the waits in the queue that have ended.",
            Target(waited, "{{policy}}"),
            unit="s",
        ),
        timeseries(
            "Shadow mode",
            "What a limit in shadow mode would have done, in a second: try a limit before it refuses anything.",
            scope.rate_of("resilient.shadow.actions", "policy", "reason", legend="{{policy}} would {{reason}}"),
            unit="reqps",
        ),
    ]
