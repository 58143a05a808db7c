"""Alerts on policies: circuits, budgets, hedges, limits, queues.

Each is a sum over all processes of a service, so that an outage gives one alert and not one for each process. Where one
process alone matters (a full queue), it is the worst of them.
"""

from __future__ import annotations

from resilient.observe.dashboards.durations import HOUR, MINUTE
from resilient.observe.dashboards.expressions import Query, ratio
from resilient.observe.dashboards.options import DashboardOptions
from resilient.observe.dashboards.rules import Alert, Group, Recording, query_of, subject

__all__ = ["MOST_ATTEMPTS", "policy_alerts"]

MOST_ATTEMPTS = 1.3
"""Attempts for each call above which retries and hedges amplify an outage."""

FEWEST_CALLS = 20
"""The least calls in the window of an alert on a share of calls: of fewer, a share means little."""

NOT_FULL = 'reason!~"open|half-open|isolated|closed"'
"""Refusals by limits: those by circuits and by closed pipelines are left out."""


def policy_alerts(options: DashboardOptions) -> Group:
    """The alerts on policies, and the recorded limits that one of them compares."""
    level = "_".join((*options.by, "pipeline", "policy"))
    limit = Recording(
        f"{level}:resilient_permits_limit:avg",
        query_of(options).total(query_of(options).series("resilient.permits.limit"), "pipeline", "policy", of="avg"),
    )
    made = (
        *(_circuit_open(options), _circuit_isolated(options), _circuit_flapping(options)),
        *(_amplification(options), _budget_exhausted(options), _hedges_above_budget(options)),
        *(_limit_collapsed(options, limit.name), _calls_refused(options), _queue_full(options)),
    )
    return Group("resilient-policies", [limit], made)


def _share_of_calls(query: Query, above: str) -> str:
    """`above`, a rate of each policy, as a share of the calls of its pipeline."""
    return ratio(above, query.calls(), f"on ({', '.join((*query.by, 'pipeline'))}) group_left ()")


def _enough_calls(query: Query) -> str:
    calls = query.total(query.increase("resilient.calls"), "pipeline")
    return f"and {calls} >= {FEWEST_CALLS}"


def _circuit_open(options: DashboardOptions) -> Alert:
    query = query_of(options)
    state = query.series("resilient.circuit.state", 'state=~"open|half-open"')
    return Alert(
        name="ResilientCircuitOpen",
        expr=f"{query.total(state, 'pipeline', 'policy')} > 0",
        wait=5 * MINUTE,
        severity="warning",
        summary=f"A circuit has been open for too long: {subject(options, 'pipeline', 'policy')}",
        description=(
            "{{ $value }} circuits of this policy, over all processes and keys, are not closed, and it has been at"
            " least one all the time for five minutes. Half-open counts too: between its probes a circuit of a"
            " dependency that stays down goes from open to half-open and back."
        ),
        means=(
            "The dependency has failed often enough, and its probes still fail. Calls through these circuits are"
            " refused at once. With many keys or processes it may be different circuits in turn."
        ),
        look=(
            'The panel "Circuits" of the dependency\'s dashboard: since when, and all of them or one. If it is one'
            " process of many, look at its network and its connections. If it is one key, look at that instance of the"
            " dependency. The failures before it opened: the log lines of resilient name the errors."
        ),
        do=(
            "Restore the dependency. The circuits close by themselves after a probe that succeeds. To close one by hand"
            " while its dependency is down only sends more calls that fail."
        ),
    )


def _circuit_isolated(options: DashboardOptions) -> Alert:
    query = query_of(options)
    state = query.series("resilient.circuit.state", 'state="isolated"')
    return Alert(
        name="ResilientCircuitIsolated",
        expr=f"{query.total(state, 'pipeline', 'policy')} > 0",
        wait=HOUR,
        severity="warning",
        summary=f"A circuit has been isolated by hand for an hour: {subject(options, 'pipeline', 'policy')}",
        description="{{ $value }} circuits of this policy are isolated: they refuse all calls until closed by hand.",
        means="It was isolated by hand, and does not close by itself.",
        look="Who isolated it and why: the log line of the change, the log of the incident.",
        do="If the reason is over, close the circuit. If it is meant to last, silence the alert.",
    )


def _circuit_flapping(options: DashboardOptions) -> Alert:
    query = query_of(options, 30 * MINUTE)
    closed = query.total(query.increase("resilient.circuit.transitions", 'state="closed"'), "pipeline", "policy")
    circuits = query.total(query.series("resilient.circuit.state"), "pipeline", "policy")
    return Alert(
        name="ResilientCircuitFlapping",
        expr=f"{ratio(closed, circuits)} > 3",
        wait=0,
        severity="warning",
        summary=f"Circuits close and open again: {subject(options, 'pipeline', 'policy')}",
        description='A circuit of this policy has closed {{ $value | printf "%.1f" }} times in 30 minutes on average.',
        means=(
            "The dependency answers single probes, and fails as soon as it gets all calls again. It is overloaded, or"
            " some of its instances are down."
        ),
        look=(
            "The load and the limits of the dependency, and whether all of its instances are well. Whether one circuit"
            " stands for several instances, of which only some fail: then a circuit for each (Keyed) is right."
        ),
        do=(
            "Take load off the dependency, or add to it. A longer `break_duration`, or a higher `success_threshold`,"
            " gives it time; an AdaptiveLimit lets as many calls through as it can do."
        ),
    )


def _amplification(options: DashboardOptions) -> Alert:
    query = query_of(options)
    attempts = query.total(query.rate("resilient.attempts"), "pipeline")
    return Alert(
        name="ResilientAmplification",
        expr=f"{ratio(attempts, query.calls())} > {MOST_ATTEMPTS:g}\n{_enough_calls(query)}",
        wait=10 * MINUTE,
        severity="warning",
        summary=f"Retries and hedges multiply the load: {subject(options, 'pipeline')}",
        description='{{ $value | printf "%.2f" }} attempts are made for a call; up to 1.3 is usual in an outage.',
        means=(
            "The dependency gets more requests than there are calls, and most when it can serve least. That can keep it"
            " down after the cause is over (a metastable failure). A budget would hold it to 1.1."
        ),
        look=(
            'The panels "Attempts per call", "Retries" and "Hedges" of the dependency\'s dashboard. Whether the'
            " pipeline has a Budget at all: `resilient explain` says whether one limits the requests. Retries in"
            " several layers multiply."
        ),
        do=(
            "Give Retry and Hedge one `budget=Budget()` for the dependency, and retry in one layer only. In an outage,"
            ' `resilient.switch("once")` ends all second attempts of a process.'
        ),
    )


def _budget_exhausted(options: DashboardOptions) -> Alert:
    query = query_of(options)
    refused = query.total(query.rate("resilient.budget.exhausted"), "pipeline", "policy")
    many = query.total(query.increase("resilient.budget.exhausted"), "pipeline", "policy")
    return Alert(
        name="ResilientBudgetExhausted",
        expr=f"{_share_of_calls(query, refused)} > 0.01\nand {many} >= 5",
        wait=5 * MINUTE,
        severity="warning",
        summary=f"The budget of retries and hedges is spent: {subject(options, 'pipeline', 'policy')}",
        description=(
            "For {{ $value | humanizePercentage }} of the calls an extra request was not made, because the budget has"
            " no token for it."
        ),
        means=(
            "More calls fail, or are late, than the budget pays for (10% of the successes by default). The budget does"
            " its work: it protects the dependency, and callers get the first failure. A few refusals are normal."
        ),
        look=(
            'The panels "Calls by ending" and "Budget" of the dependency\'s dashboard. Reason "retry": the dependency'
            ' fails. Reason "hedge": it is slow, or the delay of the hedge is too short.'
        ),
        do=(
            "Restore the dependency. A larger budget in an outage makes the outage worse. If it happens on quiet days,"
            " the hedge fires too often: a rate of p needs a budget of 2 p."
        ),
    )


def _hedges_above_budget(options: DashboardOptions) -> Alert:
    query = query_of(options)
    asked = query.total(
        (query.rate("resilient.hedges"), query.rate("resilient.budget.exhausted", 'reason="hedge"')), "pipeline"
    )
    return Alert(
        name="ResilientHedgesAboveBudget",
        expr=f"{ratio(asked, query.calls())} > {options.budget:g}\n{_enough_calls(query)}",
        wait=15 * MINUTE,
        severity="warning",
        summary=f"Hedges ask for more than their budget: {subject(options, 'pipeline')}",
        description=(
            "{{ $value | humanizePercentage }} of the calls ask for a second copy (sent, or refused by the budget);"
            f" the budget is {options.budget:.0%} of the calls."
        ),
        means=(
            "Too many calls are later than the delay of the hedge. Hedges help against a slow tail, not against a"
            " dependency that is slow as a whole: then they add load and win little."
        ),
        look=(
            'The panels "Hedges" (sent, won), "Hedge delay" and "Latency" of the dependency\'s dashboard. Few hedges'
            " that win: the dependency is slow as a whole."
        ),
        do=(
            "Find what made the dependency slow. A fixed delay that has become too short: take an observed quantile"
            " (`quantile(0.95)`). If the budget is larger on purpose, make the rules with `--budget`."
        ),
    )


def _limit_collapsed(options: DashboardOptions, limit: str) -> Alert:
    window = options.durations.window(6 * HOUR)
    return Alert(
        name="ResilientLimitCollapsed",
        expr=f"{limit} < 0.25 * quantile_over_time(0.5, {limit}[{window}])",
        wait=5 * MINUTE,
        severity="warning",
        summary=f"A concurrency limit has collapsed: {subject(options, 'pipeline', 'policy')}",
        description=(
            'The limit is {{ $value | printf "%.1f" }} on average over the processes: less than a quarter of its median'
            " of the last six hours."
        ),
        means=(
            "AdaptiveLimit has measured that the dependency (or, in a server, its own work) takes much longer at the"
            " usual concurrency, so it admits fewer calls. Calls above the limit wait or are refused."
        ),
        look=(
            'The panels "Permits" and "Latency" of the dashboard: what became slow, and when. In a server: processor,'
            " locks, connection pools, and what it calls itself. After a restart of all processes the limit begins at"
            " `initial` and grows for some minutes: then nothing is wrong."
        ),
        do=(
            "Remove the cause of the latency. The limit grows again by itself. If it is wrong, a floor (`min_limit`)"
            " keeps a least number of calls."
        ),
    )


def _calls_refused(options: DashboardOptions) -> Alert:
    query = query_of(options)
    refused = query.total(query.rate("resilient.rejections", NOT_FULL), "pipeline", "policy")
    many = query.total(query.increase("resilient.rejections", NOT_FULL), "pipeline", "policy")
    return Alert(
        name="ResilientCallsRefused",
        expr=f"{_share_of_calls(query, refused)} > 0.05\nand {many} >= 5",
        wait=5 * MINUTE,
        severity="warning",
        summary=f"A limit refuses calls: {subject(options, 'pipeline', 'policy')}",
        description=(
            "{{ $value | humanizePercentage }} of the calls are refused by this policy: no permit, no token, a full"
            " queue, or too long in it."
        ),
        means=(
            "More calls come than the limit admits: the load has grown, or each call takes longer and holds its permit"
            " longer. Refusals are quick and protect what works, but each is a call without a result."
        ),
        look=(
            'The panels "Refusals by reason", "Permits" and "Latency" of the dashboard. Permits all in use and a'
            " latency that has grown: the dependency is slow. Permits in use and the usual latency: more load."
        ),
        do=(
            "Slow dependency: restore it. More load: add processes or capacity, or raise the limit if what is behind it"
            " can do more. In a server, less important requests can be refused first (`priority`)."
        ),
    )


def _queue_full(options: DashboardOptions) -> Alert:
    query = query_of(options)
    length, limit = query.series("resilient.queue.length"), query.series("resilient.queue.limit")
    return Alert(
        name="ResilientQueueFull",
        expr=f"{query.total(ratio(length, limit), 'pipeline', 'policy', of='max')} > 0.8",
        wait=5 * MINUTE,
        severity="warning",
        summary=f"A queue is nearly full: {subject(options, 'pipeline', 'policy')}",
        description=(
            "The fullest queue of this policy, of one process, is filled to {{ $value | humanizePercentage }}. Calls"
            " that find it full are refused."
        ),
        means=(
            "Calls come faster than they are done, all the time. A queue is for bursts: one that stays full only adds"
            " its waiting time to every call."
        ),
        look='The panels "Queues", "Waiting time" and "Permits" of the dashboard, in one process or in all.',
        do=(
            "As for refused calls. Do not lengthen the queue: calls would wait longer, and their callers would have"
            " given up by then. A shorter one, with a `queue_timeout`, answers sooner."
        ),
    )
