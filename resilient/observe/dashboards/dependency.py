"""The dashboard of one dependency: what each policy of its pipeline does."""

from __future__ import annotations

from typing import Any

from resilient.observe.dashboards.error_budget import FAST
from resilient.observe.dashboards.expressions import ratio
from resilient.observe.dashboards.grafana import (
    AMBER,
    BLUE,
    GREEN,
    PURPLE,
    RED,
    SKY,
    Target,
    dashboard,
    heatmap,
    row,
    state_timeline,
    timeseries,
)
from resilient.observe.dashboards.options import DashboardOptions
from resilient.observe.dashboards.policy_alerts import MOST_ATTEMPTS
from resilient.observe.dashboards.scope import Scope

__all__ = ["dependency"]

STATES = (("closed", GREEN), ("half-open", AMBER), ("open", RED), ("isolated", PURPLE))
"""The states of a circuit and their colours, from the best to the worst."""


def dependency(options: DashboardOptions) -> dict[str, Any]:
    """Return the dashboard of one dependency, in the JSON model of Grafana."""
    scope = Scope(options, several=False, policies=True)
    panels = [
        *(row("Calls"), *_calls(scope, options)),
        *(row("Attempts, retries and hedges"), *_extra_requests(scope)),
        *(row("Circuit breakers"), *_circuits(scope)),
        *(row("Limits and queues"), *_limits(scope)),
        *(row("Substitutes, leftovers and experiments"), *_rest(scope)),
    ]
    return dashboard(
        "resilient-dependency",
        "resilient: one dependency",
        "What each policy of one pipeline does: why calls end as they do, what retries and hedges add, circuits,"
        " limits, queues. Schema version 36 (Grafana 9.1 and later).",
        scope.variables(),
        scope.annotations(),
        panels,
    )


def _calls(scope: Scope, options: DashboardOptions) -> list[dict[str, Any]]:
    query = scope.query
    return [
        scope.endings(
            "Calls by ending",
            "How calls end for their callers, after all retries, in a second.",
            "resilient.calls",
        ),
        timeseries(
            "Bad calls",
            "Failures of the dependency, timeouts and refusals, as a share of all calls but the cancelled ones and the"
            " failures without evidence. The line is 14.4 times the error budget.",
            Target(scope.bad_share(), "bad calls"),
            unit="percentunit",
            colors={"bad calls": RED},
            threshold=round(min(1.0, FAST * options.error_budget), 6),
        ),
        timeseries(
            "Calls in flight",
            "Calls that have begun and not ended, by process. A number that only grows: calls hang.",
            Target(query.total(query.series("resilient.calls.in_flight"), "instance"), "{{instance}}"),
            unit="short",
        ),
        scope.latency(
            "Latency",
            "Of calls, all attempts and waits included, whatever their ending.",
            "resilient.call.duration",
            width=12,
        ),
        heatmap(
            "Latency of calls",
            "How many calls take how long. Two bands: some calls meet something that others do not.",
            query.total(query.increase("resilient.call.duration", part="_bucket"), "le"),
        ),
    ]


def _extra_requests(scope: Scope) -> list[dict[str, Any]]:
    query = scope.query
    won = ratio(query.total(query.rate("resilient.hedges.won")), query.total(query.rate("resilient.hedges")))
    return [
        scope.endings(
            "Attempts by ending",
            "How the function itself ends, in a second: what the dependency really gets and answers. Cancelled"
            " attempts are mostly losers of hedges.",
            "resilient.attempts",
        ),
        timeseries(
            "Attempts per call",
            "The load on the dependency for each call. The line is the threshold of the alert.",
            Target(scope.per_call("resilient.attempts"), "attempts per call"),
            unit="short",
            colors={"attempts per call": BLUE},
            threshold=MOST_ATTEMPTS,
        ),
        scope.latency(
            "Latency of attempts",
            "Of single attempts: what the dependency itself takes.",
            "resilient.attempt.duration",
        ),
        timeseries(
            "Retries",
            "Further attempts in a second, and why retries ended without success.",
            scope.rate_of("resilient.retries", "policy", legend="retries of {{policy}}"),
            scope.rate_of("resilient.retries.ended", "reason", legend="ended: {{reason}}"),
            unit="reqps",
        ),
        timeseries(
            "Hedges",
            "Second copies in a second, because the first was late or had failed; and calls whose result came from"
            " one.",
            scope.rate_of("resilient.hedges", "reason", legend="sent: {{reason}}"),
            scope.rate_of("resilient.hedges.won", legend="won"),
            unit="reqps",
            colors={"sent: delay": SKY, "sent: failure": RED, "won": GREEN},
        ),
        timeseries(
            "Hedges that win",
            "The share of second copies that gave the result. Few: the dependency is slow as a whole, and hedges only"
            " add load.",
            Target(won, "won"),
            unit="percentunit",
            colors={"won": GREEN},
            most=1,
        ),
        timeseries(
            "Budget",
            "Tokens for extra requests in the process that has the fewest; and extra requests in a second that were"
            " refused for want of one.",
            scope.by_policy("resilient.budget.tokens", legend="tokens of {{policy}}", of="min"),
            scope.rate_of("resilient.budget.exhausted", "reason", legend="refused: {{reason}}"),
            unit="short",
            colors={"refused: retry": RED, "refused: hedge": AMBER},
        ),
        timeseries(
            "Hedge delay",
            "After so long without an answer the second copy is sent; the largest of the processes.",
            scope.by_policy("resilient.hedge.delay", of="max"),
            unit="s",
        ),
        timeseries(
            "Timeouts",
            "Calls and attempts that a Timeout ended, in a second.",
            scope.rate_of("resilient.timeouts", "policy", legend="{{policy}}"),
            unit="reqps",
        ),
    ]


def _circuits(scope: Scope) -> list[dict[str, Any]]:
    query = scope.query
    names = [f'state="{name}"' for name, _ in STATES]
    worst = [
        f"{value} * ({query.series('resilient.circuit.state', name)} > bool 0)" for value, name in enumerate(names)
    ]
    return [
        state_timeline(
            "Circuits",
            "The worst state of each circuit over all processes and keys: isolated, open, half-open, closed.",
            Target(query.total(worst, "policy", of="max"), "{{policy}}"),
            STATES,
            width=12,
        ),
        timeseries(
            "Circuits by state",
            "How many circuits are in each state, over all processes and keys.",
            Target(query.total(query.series("resilient.circuit.state"), "state"), "{{state}}"),
            unit="short",
            stack=True,
            colors=dict(STATES),
            width=12,
        ),
        timeseries(
            "Failure rate that circuits see",
            "The share of failures in the window of the circuit that is worst off.",
            scope.by_policy("resilient.circuit.failure_rate", of="max"),
            unit="percentunit",
            most=1,
            width=12,
        ),
        timeseries(
            "Changes of circuits",
            "How often circuits go into each state, in a second.",
            scope.rate_of("resilient.circuit.transitions", "state", legend="{{state}}"),
            unit="cps",
            colors=dict(STATES),
            width=12,
        ),
    ]


def _limits(scope: Scope) -> list[dict[str, Any]]:
    query = scope.query
    waited = ratio(
        query.total(query.rate("resilient.wait.time"), "policy", "reason"),
        query.total(query.rate("resilient.waits"), "policy", "reason"),
    )
    return [
        scope.permits("Calls inside each limit, and the limit, over all processes."),
        scope.queues("Calls that wait for a permit, and the room in the queues, over all processes."),
        timeseries(
            "Waiting time",
            "The mean of the waits that have ended: in queues, and between attempts.",
            Target(waited, "{{policy}} {{reason}}"),
            unit="s",
        ),
        timeseries(
            "Refusals by reason",
            "Calls that a policy refuses in a second, and why.",
            scope.rate_of("resilient.rejections", "policy", "reason", legend="{{policy}}: {{reason}}"),
            unit="reqps",
            stack=True,
        ),
        timeseries(
            "Tokens of rate limits",
            "Calls that a RateLimit would admit at once, in the process that has the fewest.",
            scope.by_policy("resilient.tokens", of="min"),
            unit="short",
        ),
        timeseries(
            "Changes of limits",
            "How often an AdaptiveLimit finds a new limit, in a second.",
            scope.rate_of("resilient.limit.changes", "policy", legend="{{policy}}"),
            unit="cps",
        ),
    ]


def _rest(scope: Scope) -> list[dict[str, Any]]:
    return [
        timeseries(
            "Answers of Fallbacks",
            "Calls in a second that got a substitute. They count as successes.",
            scope.rate_of("resilient.fallbacks", "policy", legend="{{policy}}"),
            unit="reqps",
            width=6,
        ),
        timeseries(
            "Stragglers",
            "Losers of hedges and abandoned calls that still run.",
            scope.by_policy("resilient.stragglers"),
            unit="short",
            width=6,
        ),
        timeseries(
            "Keys",
            "Keys (origins, tenants) with state of their own; hidden: without series of their own.",
            scope.by_policy("resilient.keys", legend="{{policy}}"),
            scope.by_policy("resilient.keys.hidden", legend="{{policy}} hidden"),
            unit="short",
            dashed=("hidden$",),
            width=6,
        ),
        timeseries(
            "Shadow mode and chaos",
            "What policies in shadow mode would have done, and faults that Chaos injects, in a second.",
            scope.rate_of("resilient.shadow.actions", "policy", "reason", legend="{{policy}} would {{reason}}"),
            scope.rate_of("resilient.faults", "policy", "reason", legend="{{policy}} injects {{reason}}"),
            unit="reqps",
            width=6,
        ),
    ]
