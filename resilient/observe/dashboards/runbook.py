"""The runbook: a page of Markdown with a section for each alert."""

from __future__ import annotations

from collections.abc import Sequence

from resilient.observe.dashboards.durations import promql
from resilient.observe.dashboards.rules import Group

__all__ = ["notes", "runbook_text"]

NOTES = (
    "Scrape at least once a minute: rates are taken over five minutes, which needs two scrapes, and bears a lost one"
    " from four on.",
    "One alert stands for all processes of a service. Which process it is, the dashboards show by `instance`.",
    "A series that does not exist yet is no alert: a counter appears with its first count, so the very first failure of"
    " a process may not be seen.",
    "Restarts are no alert: rates are taken for each process before they are summed, so a counter that begins again"
    " at 0 does not count.",
    "Shares of few calls are left out: an alert on a share needs 20 calls, or 5 refusals, within five minutes; an alert"
    " on the error budget needs 5 bad calls in its long window.",
    "The error budget has no history from before the rules were loaded, and a pipeline that is switched off is not"
    " counted at all.",
    "The alerts on the error budget include each other. Let Alertmanager inhibit the slower ones of the same pipeline.",
)


def notes() -> Sequence[str]:
    """What holds for all rules, as sentences."""
    return NOTES


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
            f"Severity {alert.severity}; fires after {promql(alert.wait)}.",
            *("", f"**Means.** {alert.means}"),
            *("", f"**Look at.** {alert.look}"),
            *("", f"**Do.** {alert.do}"),
            *("", "```promql", *alert.expr.splitlines(), "```"),
        ]
    return "\n".join(lines) + "\n"
