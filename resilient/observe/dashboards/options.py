"""The choices of a user: the objective, the share of budgets, the labels of sums, and the address of the runbook."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from resilient import _validation
from resilient.observe.dashboards.durations import Durations
from resilient.observe.dashboards.expressions import OWN_LABELS

__all__ = ["DashboardOptions", "budget_of"]

LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
TAKEN = OWN_LABELS | {"key", "instance", "le", "alertname", "alertstate", "severity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardOptions:
    """What dashboards and rules are made for.

    Attributes:
        objective: the percentage of calls that should end well: above 0, below 100. Default 99.9. Its complement is the
            error budget.
        objectives: other objectives for pipelines, by their names. A low one (50) is for pipelines that callers do not
            depend on: inner ones, batches.
        budget: the `ratio` of the budgets of retries and hedges: above 0, at most 1. Default 0.1, as that of `Budget`.
        by: the labels of scrapes that tell services apart: there is one alert for each combination of their values.
            Default `job`. Add what else tells your services apart, as `namespace` or `cluster`; not `instance`, with
            which an outage gives an alert for each process.
        runbook_url: the address of the page that has the text of `resilient-runbook.md`; each alert links to its
            section. Default None: no links.
        time_scale: a factor for all windows and waiting times of the rules. Default 1. A test of rules may use less.

    Raises `ValueError` or `TypeError` for other values.
    """

    objective: float = 99.9
    objectives: Mapping[str, float] = field(default_factory=dict)
    budget: float = 0.1
    by: Sequence[str] = ("job",)
    runbook_url: str | None = None
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        _check_objective("objective", self.objective)
        for name, objective in self.objectives.items():
            _check_objective(f"objective of {name!r}", objective)
        _validation.share("budget", self.budget)
        _validation.share("time_scale", self.time_scale)
        if isinstance(self.by, str) or not self.by:
            raise ValueError(f"by must be the names of labels, such as ('job',), got {self.by!r}")
        for label in self.by:
            if not isinstance(label, str) or not LABEL.fullmatch(label) or label in TAKEN:
                raise ValueError(f"by must be names of labels that scrapes add, such as job, got {label!r}")
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by must name each label once, got {self.by!r}")
        if self.runbook_url is not None and not re.fullmatch(r"https?://[^\s\"#]+", self.runbook_url):
            raise ValueError(f"runbook_url must be the address of a page without a #, got {self.runbook_url!r}")

    @property
    def durations(self) -> Durations:
        """The windows and waiting times of rules."""
        return Durations(self.time_scale)

    @property
    def error_budget(self) -> float:
        """The share of calls that may end badly."""
        return budget_of(self.objective)


def budget_of(objective: float) -> float:
    """The error budget of an objective: the share of calls that may end badly."""
    return round(1 - objective / 100, 12)


def _check_objective(argument: str, objective: object) -> None:
    percentage = _validation.amount(argument, objective)
    if 0 < percentage < 1:
        hint = f"a share of {objective!r} is {percentage * 100:g}"
        raise ValueError(f"{argument} must be a percentage of at least 1, got {objective!r}: {hint}")
    if not 0 < percentage < 100 or not budget_of(percentage):
        raise ValueError(f"{argument} must be a percentage above 0 and below 100, got {objective!r}")
