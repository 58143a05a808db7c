"""The calls that count as bad, on the live page and in `resilient watch` as in the dashboards and alerts.

A bad call is one that failed because of its dependency, timed out, or was refused. Its share is taken of all calls but
those that say nothing about the service: cancelled ones, and failures with the verdict "nothing" (a mistake of the
caller, an ignored error). `resilient.observe.dashboards.expressions` has the same rule in PromQL.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["bad_share", "is_bad", "is_counted"]


def is_bad(ending: str, verdict: str) -> bool:
    """Whether a call with this ending and verdict is bad. (A verdict that is not known is "".)"""
    return ending in ("timeout", "rejected") or (ending == "failure" and verdict not in ("success", "nothing"))


def is_counted(ending: str, verdict: str) -> bool:
    """Whether a call with this ending and verdict is one of those of which bad calls are a share."""
    return ending != "cancelled" and (ending, verdict) != ("failure", "nothing")


def bad_share(calls: Mapping[tuple[str, str], float]) -> float | None:
    """Return the share of bad calls, from the number of calls by ending and verdict; None without calls that count."""
    counted = sum(number for kind, number in calls.items() if is_counted(*kind))
    return sum(number for kind, number in calls.items() if is_bad(*kind)) / counted if counted > 0 else None
