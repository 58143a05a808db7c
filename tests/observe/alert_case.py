"""Cases for `promtool test rules`: series, and whether an alert fires. The cases are in the modules beside.

Series have a sample a minute, in the notation of promtool: `0+60x30` begins at 0 and grows by 60, thirty times.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from resilient.observe.dashboards.expressions import METRICS
from resilient.observe.metrics import prometheus_name

__all__ = ["DAYS", "GOOD", "USERS", "Case", "a", "b", "calls", "circuit", "of", "policy", "selector"]

Labels = dict[str, str]


def selector(name: str, labels: Labels) -> str:
    """A series in the notation of PromQL."""
    quoted = ", ".join(f"{label}={json.dumps(value)}" for label, value in labels.items())
    return f"{name}{{{quoted}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Series, and whether the alert fires at a time.

    Attributes:
        series: samples by the selectors of series.
        fires: the labels of the alerts that fire, besides `alertname` and `severity`. Empty: none fires.
        at: minutes after the start.
        every: minutes between evaluations.
    """

    about: str
    series: dict[str, str]
    fires: tuple[Labels, ...] = ()
    at: int = 30
    every: int = 1


@dataclass(frozen=True, slots=True)
class Scrape:
    """Makes selectors of one process."""

    instance: str = "a"
    job: str = "shop"

    def __call__(self, name: str, **labels: str) -> str:
        metric = METRICS[name]
        assert set(labels) == set(metric.labels), f"{name} has the labels {metric.labels}"
        return selector(prometheus_name(metric), {"job": self.job, "instance": self.instance, **labels})


a, b = Scrape("a"), Scrape("b")
USERS: Labels = {"job": "shop", "pipeline": "users"}


def policy(name: str) -> Labels:
    return {**USERS, "policy": name}


def calls(ending: str, verdict: str = "", scrape: Scrape = a) -> str:
    verdict = verdict or {"success": "success", "failure": "failure"}.get(ending, "nothing")
    return scrape("resilient.calls", pipeline="users", ending=ending, verdict=verdict)


def circuit(state: str, scrape: Scrape = a) -> str:
    return scrape("resilient.circuit.state", pipeline="users", policy="CircuitBreaker", state=state)


def of(name: str, policy: str, scrape: Scrape = a, **more: str) -> str:
    return scrape(name, pipeline="users", policy=policy, **more)


GOOD = {calls("success"): "0+600x10000"}
DAYS = 3 * 24 * 60
