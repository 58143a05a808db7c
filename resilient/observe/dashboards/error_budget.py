"""The error budget: how fast bad calls spend it, recorded over several windows, and the alerts on that.

An objective of 99.9% leaves a budget of 0.1% of the calls. A *burn rate* of 1 spends the budget of 30 days in 30 days,
a rate of 14.4 spends 2% of it in an hour. An alert needs a high rate in a long window, so that it means something, and
in a short one, so that it ends soon after the cause has. The windows and rates are those of Google's Site Reliability
Workbook (chapter 5, "Alerting on SLOs").

Long windows are made from the recorded rates of 5 minutes. To read the counters of three days at each evaluation would
cost Prometheus a thousand times as much. So there is no history from before the rules were loaded, and each window also
has the 5 minutes before it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from resilient.observe.dashboards.durations import DAY, HOUR, MINUTE
from resilient.observe.dashboards.expressions import BAD, COUNTED, ratio
from resilient.observe.dashboards.options import DashboardOptions, budget_of
from resilient.observe.dashboards.rules import Alert, Group, Recording, Severity, query_of, subject

__all__ = ["FAST", "FEWEST_BAD_CALLS", "error_budget"]

FEWEST_BAD_CALLS = 5
"""The least bad calls in the long window of an alert: one failure among ten calls at night is no alert."""

FAST = 14.4
"""The burn rate of the first alert: it spends 2% of the budget of 30 days in an hour."""

RATE = 5 * MINUTE
WINDOWS = (5 * MINUTE, 30 * MINUTE, HOUR, 6 * HOUR, 3 * DAY)


@dataclass(frozen=True, slots=True)
class Burn:
    """An alert on the error budget: its burn rate, and its windows in seconds."""

    name: str
    rate: float
    long: float
    short: float
    wait: float
    severity: Severity
    spent: str


BURNS = (
    Burn("ResilientErrorBudgetBurnsFast", FAST, HOUR, 5 * MINUTE, 2 * MINUTE, "critical", "2% of it in an hour"),
    Burn("ResilientErrorBudgetBurns", 6, 6 * HOUR, 30 * MINUTE, 15 * MINUTE, "critical", "5% of it in six hours"),
    Burn("ResilientErrorBudgetBurnsSlowly", 1, 3 * DAY, 6 * HOUR, HOUR, "warning", "10% of it in three days"),
)


def error_budget(options: DashboardOptions) -> Group:
    """The recordings and the alerts of the objective."""
    durations = options.durations
    query = query_of(options, RATE)
    level = "_".join((*options.by, "pipeline"))
    counted, bad = (f"{level}:resilient_calls_{each}:rate5m" for each in ("counted", "bad"))
    recordings = [
        Recording(counted, query.calls(COUNTED)),
        # 0 where no call has been bad yet: a counter without a count has no series.
        Recording(bad, f"{query.calls(BAD)} or 0 * {counted}"),
    ]
    for window in WINDOWS:
        above, below = (f"sum_over_time({each}[{durations.window(window)}])" for each in (bad, counted))
        recordings.append(
            Recording(_ratio(level, window), ratio(bad, counted) if window == RATE else ratio(above, below))
        )
    return Group("resilient-error-budget", recordings, [_alert(burn, level, bad, options) for burn in BURNS])


def _ratio(level: str, window: float) -> str:
    """The name of the recording of the share of bad calls in a window: its true length, whatever the scale."""
    return f"{level}:resilient_calls_bad:ratio_rate{_name(window)}"


def _name(window: float) -> str:
    return next(
        f"{window / length:g}{unit}" for unit, length in (("d", DAY), ("h", HOUR), ("m", MINUTE)) if window >= length
    )


def _above(recorded: str, rate: float, options: DashboardOptions) -> str:
    """The pipelines whose recorded share of bad calls is above `rate` times their error budget."""
    if not options.objectives:
        return f"{recorded} > {rate:g} * {options.error_budget:g}"
    others = ",".join(f"pipeline!={json.dumps(name)}" for name in options.objectives)
    each = [f"{recorded}{{{others}}} > {rate:g} * {options.error_budget:g}"]
    for name, objective in options.objectives.items():
        each.append(f"{recorded}{{pipeline={json.dumps(name)}}} > {rate:g} * {budget_of(objective):g}")
    return f"({' or '.join(each)})"


def _objective(options: DashboardOptions) -> str:
    """The objective of the pipeline of an alert, as a template."""
    text = f"{options.objective:g}%"
    for name, objective in options.objectives.items():
        text = f"{{{{ if eq $labels.pipeline {json.dumps(name)} }}}}{objective:g}%{{{{ else }}}}{text}{{{{ end }}}}"
    return text


def _alert(burn: Burn, level: str, bad: str, options: DashboardOptions) -> Alert:
    durations = options.durations
    seconds = durations.seconds(burn.long)
    windows = f"{_name(burn.long)} and {_name(burn.short)}"
    return Alert(
        name=burn.name,
        expr=(
            f"{_above(_ratio(level, burn.long), burn.rate, options)}\n"
            f"and {_above(_ratio(level, burn.short), burn.rate, options)}\n"
            f"and avg_over_time({bad}[{durations.window(burn.long)}]) * {seconds:g} >= {FEWEST_BAD_CALLS}"
        ),
        wait=burn.wait,
        severity=burn.severity,
        summary=f"{subject(options, 'pipeline')} spends its error budget, at {burn.rate:g} times the rate it may",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the calls of the last {_name(burn.long)} ended badly. The"
            f" objective is {_objective(options)}. The share is above {burn.rate:g} times the error budget over"
            f" {windows}: that spends {burn.spent}, if it is for 30 days."
        ),
        means=(
            "Callers get failures, timeouts and refusals, after all retries. Counted as bad: calls that failed"
            " because of the dependency, that ran into a timeout, or that a policy refused. Not counted: calls that"
            ' their callers cancelled, and failures without evidence about the dependency (verdict "nothing": mistakes'
            " of the caller, ignored errors), because neither says anything about the service. An answer of a Fallback"
            " counts as good."
        ),
        look=(
            'The panel "Calls by ending" of the dependency\'s dashboard: failures and timeouts point to the dependency,'
            " refusals to a circuit or a limit in front of it (alerts of the same pipeline say which). Deployments and"
            " changes at the time it began."
        ),
        do=(
            "Undo the change that began it, or get the owner of the dependency. If its answers can be done without,"
            " give the pipeline a Fallback. If the objective is not meant for this pipeline (an inner one, a batch),"
            " give it another: `--objective PIPELINE=50`."
        ),
    )
