"""The runbook: a page of Markdown with a section for each alert."""

from __future__ import annotations

from collections.abc import Sequence

from resilient.observe.dashboards.durations import promql
from resilient.observe.dashboards.rules import Group

__all__ = ["NOTES", "runbook_text"]

NOTES = (
    "Scrape at least once a minute. Rates are taken over five minutes and need two scrapes in that time.",
    "There is one alert for all processes of a service. The dashboards show single processes by `instance`.",
    "Most counters appear with their first count, and a rate needs two scrapes. So the first refusal or retry of its"
    " kind in a process is not seen. Calls, attempts and changes of circuits count from 0.",
    "A restart is no alert: rates are taken for each process before they are summed, so a counter that begins again at"
    " 0 does no harm.",
    "A share of few calls is no alert: it needs 20 calls, or 5 refusals, in five minutes. An alert on the error budget"
    " needs 5 bad calls in its long window.",
    "The error budget has no history from before the rules were loaded. Calls of a pipeline that is switched off are"
    " not counted.",
    "The alerts on the error budget include each other. Let Alertmanager inhibit the slower ones of the same pipeline.",
)
"""What holds for all rules, as sentences."""


def runbook_text(groups: Sequence[Group], header: str) -> str:
    """The page, with `header` as its first paragraph."""
    alerts = [alert for group in groups for alert in group.alerts]
    lines = [
        "# Alerts of resilient",
        "",
        header,
        "",
        "What holds for all of them:",
        "",
        *(f"- {each}" for each in NOTES),
    ]
    for alert in alerts:
        lines += [
            *("", f"## {alert.name}", ""),
            f"Severity {alert.severity}; fires {f'after {promql(alert.wait)}' if alert.wait else 'at once'}.",
            *("", f"**Means.** {alert.means}"),
            *("", f"**Look at.** {alert.look}"),
            *("", f"**Do.** {alert.do}"),
            *("", "```promql", *alert.expr.splitlines(), "```"),
        ]
    return "\n".join(lines) + "\n"
