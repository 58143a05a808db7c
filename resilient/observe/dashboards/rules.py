"""Recordings and alerts, and the YAML file of rules that Prometheus loads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from resilient.observe.dashboards.durations import MINUTE, Durations
from resilient.observe.dashboards.expressions import Query
from resilient.observe.dashboards.options import DashboardOptions

__all__ = ["Alert", "Group", "Recording", "Severity", "query_of", "rules_text", "subject"]

Severity = Literal["critical", "warning", "info"]
"""How urgent an alert is: "critical": a person must act now; "warning": a person must look on the next working day;
"info": it is good to know."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A rule that records the result of an expression under a new name."""

    name: str
    expr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A rule that fires when its expression has had results for some time.

    Attributes:
        wait: seconds for which it must have had them, before `DashboardOptions.time_scale`.
        summary, description: templates of Prometheus: what is wrong, and how much.
        means, look, do: the runbook: what the alert means, what to look at, what to do. Plain texts.
    """

    name: str
    expr: str
    wait: float
    severity: Severity
    summary: str
    description: str
    means: str
    look: str
    do: str


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that Prometheus evaluates one after the other, at the same time stamp."""

    name: str
    recordings: Sequence[Recording]
    alerts: Sequence[Alert]


def query_of(options: DashboardOptions, window: float = 5 * MINUTE) -> Query:
    """The queries of an alert: rates over a window in seconds, summed over what the labels `by` tell apart."""
    return Query(options.durations.window(window), tuple(options.by))


def subject(options: DashboardOptions, *labels: str) -> str:
    """What an alert is about, as a template: the values of `labels`, then those of the labels that sums keep."""
    own = " / ".join(f"{{{{ $labels.{label} }}}}" for label in labels)
    kept = ", ".join(f"{label} {{{{ $labels.{label} }}}}" for label in options.by)
    return f"{own} ({kept})" if own else kept


def rules_text(groups: Sequence[Group], options: DashboardOptions, header: Sequence[str]) -> str:
    """The file of rules, with the lines of `header` as comments at its beginning."""
    lines = [*(f"# {line}".rstrip() for line in header), "groups:"]
    for group in groups:
        lines += ["", f"  - name: {group.name}", "    rules:"]
        for recording in group.recordings:
            lines += [f"      - record: {recording.name}", *_text("expr", recording.expr, 8)]
        for alert in group.alerts:
            lines += ["", *_alert(alert, options.durations, options.runbook_url)]
    return "\n".join(lines) + "\n"


def _alert(alert: Alert, durations: Durations, runbook_url: str | None) -> Iterator[str]:
    yield f"      - alert: {alert.name}"
    yield from _text("expr", alert.expr, 8)
    yield f"        for: {durations.wait(alert.wait)}"
    yield from ("        labels:", f"          severity: {alert.severity}", "        annotations:")
    runbook = f"Means: {alert.means}\nLook at: {alert.look}\nDo: {alert.do}"
    for name, text in (("summary", alert.summary), ("description", alert.description), ("runbook", runbook)):
        yield from _text(name, text, 10)
    if runbook_url is not None:
        yield f"          runbook_url: {json.dumps(f'{runbook_url}#{alert.name.lower()}')}"


def _text(key: str, text: str, indent: int) -> Iterator[str]:
    """A key with a text, as a literal block of YAML: nothing in it needs quotes."""
    yield f"{' ' * indent}{key}: |-"
    for line in text.splitlines():
        yield f"{' ' * (indent + 2)}{line}"
