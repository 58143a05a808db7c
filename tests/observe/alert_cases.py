"""Cases for `promtool test rules`: for each alert series that make it fire, and series that just do not.

Series have a sample a minute, in the notation of promtool: `0+60x30` begins at 0 and grows by 60, thirty times.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from resilient.observe.metrics import prometheus_name

from resilient.observe.dashboards.expressions import METRICS

__all__ = ["CASES", "Case", "selector"]

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

CASES: dict[str, tuple[Case, ...]] = {
    "ResilientErrorBudgetBurnsFast": (
        Case(
            about="2% of the calls fail for 20 minutes",
            series={**GOOD, calls("failure"): "0x40 0+12x60"},
            fires=(USERS,),
            at=100,
        ),
        Case(
            about="it is over for 8 minutes: the short window has ended",
            series={**GOOD, calls("failure"): "0x40 0+60x60 3600x60"},
            at=108,
        ),
        Case(
            about="half of the bad calls are cancelled or mistakes of the caller",
            series={
                **GOOD,
                calls("cancelled"): "0+60x200",
                calls("failure", "nothing"): "0+60x200",
                calls("failure", "success"): "0+60x200",
                calls("failure"): "0+6x200",
            },
            at=100,
        ),
        Case(
            about="refusals and timeouts are bad, in two processes of which one restarts",
            series={
                **GOOD,
                calls("rejected", scrape=b): "0+10x60 0+10x60",
                calls("timeout", scrape=b): "0+10x60 0+10x60",
                calls("success", scrape=b): "0+100x60 0+100x60",
            },
            fires=(USERS,),
            at=100,
        ),
        Case(
            about="there are too few bad calls",
            series={calls("success"): "0x10 1x200", calls("failure"): "0x30 1x20 2x200"},
            at=55,
        ),
        Case(about="there are no calls", series={calls("success"): "0x200", calls("failure"): "0x200"}, at=100),
        Case(
            about="all calls fail, and none has ever succeeded",
            series={calls("failure"): "0+3x200"},
            fires=(USERS,),
            at=100,
        ),
    ),
    "ResilientErrorBudgetBurns": (
        Case(
            about="1% of the calls fail for hours",
            series={**GOOD, calls("failure"): "0+6x1000"},
            fires=(USERS,),
            at=500,
            every=2,
        ),
        Case(about="0.5% of the calls fail for hours", series={**GOOD, calls("failure"): "0+3x1000"}, at=500, every=2),
    ),
    "ResilientErrorBudgetBurnsSlowly": (
        Case(
            about="0.2% of the calls time out for days",
            series={calls("success"): f"0+600x{DAYS}", calls("timeout"): f"0+1.2x{DAYS}"},
            fires=(USERS,),
            at=DAYS,
            every=5,
        ),
        Case(
            about="0.05% of the calls time out for days",
            series={calls("success"): f"0+600x{DAYS}", calls("timeout"): f"0+0.3x{DAYS}"},
            at=DAYS,
            every=5,
        ),
    ),
    "ResilientCircuitOpen": (
        Case(
            about="a circuit goes from open to half-open and back",
            series={circuit("open"): "1 0 1 0 1 0 1 0 1 0 1 0 1", circuit("half-open"): "0 1 0 1 0 1 0 1 0 1 0 1 0"},
            fires=(policy("CircuitBreaker"),),
            at=10,
        ),
        Case(
            about="one process of two; the alert is one",
            series={circuit("open", a): "0x20", circuit("open", b): "1x20", circuit("closed", a): "1x20"},
            fires=(policy("CircuitBreaker"),),
            at=10,
        ),
        Case(about="it was closed between", series={circuit("open"): "1x4 0 1x4 0 1x4 0 1x4"}, at=18),
        Case(about="it is isolated", series={circuit("isolated"): "1x20", circuit("open"): "0x20"}, at=10),
    ),
    "ResilientCircuitIsolated": (
        Case(
            about="for more than an hour",
            series={circuit("isolated"): "1x100"},
            fires=(policy("CircuitBreaker"),),
            at=70,
        ),
        Case(about="for half an hour", series={circuit("isolated"): "1x100"}, at=40),
    ),
    "ResilientCircuitFlapping": (
        Case(
            about="it closes every five minutes",
            series={
                of("resilient.circuit.transitions", "CircuitBreaker", state="closed"): "0+0.2x60",
                circuit("closed"): "1x60",
                circuit("open"): "0x60",
            },
            fires=(policy("CircuitBreaker"),),
            at=40,
        ),
        Case(
            about="it opens again and again, and never closes",
            series={
                of("resilient.circuit.transitions", "CircuitBreaker", state="open"): "0+1x60",
                of("resilient.circuit.transitions", "CircuitBreaker", state="closed"): "0x60",
                circuit("open"): "1x60",
            },
            at=40,
        ),
        Case(
            about="ten circuits close once each",
            series={
                of("resilient.circuit.transitions", "CircuitBreaker", state="closed"): "0x20 10x40",
                circuit("closed"): "10x60",
            },
            at=40,
        ),
        Case(
            about="a Keyed has no keys any more",
            series={
                of("resilient.circuit.transitions", "CircuitBreaker", state="closed"): "0+1x60",
                circuit("closed"): "0x60",
            },
            at=40,
        ),
    ),
    "ResilientAmplification": (
        Case(
            about="1.5 attempts for a call",
            series={
                **GOOD,
                a("resilient.attempts", pipeline="users", ending="success", verdict="success"): "0+600x60",
                a("resilient.attempts", pipeline="users", ending="failure", verdict="failure"): "0+300x60",
            },
            fires=(USERS,),
        ),
        Case(
            about="1.2 attempts for a call",
            series={
                **GOOD,
                a("resilient.attempts", pipeline="users", ending="success", verdict="success"): "0+720x60",
            },
        ),
        Case(
            about="three attempts for each of a few calls",
            series={
                calls("failure"): "0+2x60",
                a("resilient.attempts", pipeline="users", ending="failure", verdict="failure"): "0+6x60",
            },
        ),
        Case(
            about="attempts without calls",
            series={
                calls("failure"): "0x60",
                a("resilient.attempts", pipeline="users", ending="failure", verdict="failure"): "0+60x60",
            },
        ),
    ),
    "ResilientBudgetExhausted": (
        Case(
            about="3% of the calls get no retry",
            series={**GOOD, of("resilient.budget.exhausted", "Retry", reason="retry"): "0+18x60"},
            fires=(policy("Retry"),),
        ),
        Case(
            about="0.5% of the calls get none",
            series={**GOOD, of("resilient.budget.exhausted", "Retry", reason="retry"): "0+3x60"},
        ),
        Case(
            about="a few of a few",
            series={
                calls("success"): "0+1x60",
                of("resilient.budget.exhausted", "Retry", reason="retry"): "0 0 0 1x60",
            },
            at=6,
        ),
    ),
    "ResilientHedgesAboveBudget": (
        Case(
            about="9% are sent, 9% are refused",
            series={
                **GOOD,
                of("resilient.hedges", "Hedge", reason="delay"): "0+54x60",
                of("resilient.budget.exhausted", "Hedge", reason="hedge"): "0+54x60",
            },
            fires=(USERS,),
        ),
        Case(
            about="20% are sent, and no budget has ever refused one",
            series={
                **GOOD,
                of("resilient.hedges", "Hedge", reason="delay"): "0+60x60",
                of("resilient.hedges", "Hedge", reason="failure"): "0+60x60",
            },
            fires=(USERS,),
        ),
        Case(
            about="9% are sent, and retries are refused",
            series={
                **GOOD,
                of("resilient.hedges", "Hedge", reason="delay"): "0+54x60",
                of("resilient.budget.exhausted", "Retry", reason="retry"): "0+54x60",
            },
        ),
    ),
    "ResilientLimitCollapsed": (
        Case(
            about="from 100 to 10",
            series={of("resilient.permits.limit", "AdaptiveLimit"): "100x300 10x60"},
            fires=(policy("AdaptiveLimit"),),
            at=320,
        ),
        Case(
            about="from 100 to 30",
            series={of("resilient.permits.limit", "AdaptiveLimit"): "100x300 30x60"},
            at=320,
        ),
        Case(
            about="it is the usual limit by now",
            series={of("resilient.permits.limit", "AdaptiveLimit"): "100x300 10x400"},
            at=600,
        ),
        Case(
            about="one process of two",
            series={
                of("resilient.permits.limit", "AdaptiveLimit", a): "100x360",
                of("resilient.permits.limit", "AdaptiveLimit", b): "100x300 5x60",
            },
            at=320,
        ),
    ),
    "ResilientCallsRefused": (
        Case(
            about="10% get no permit or wait too long",
            series={
                **GOOD,
                of("resilient.rejections", "Bulkhead", reason="full"): "0+30x60",
                of("resilient.rejections", "Bulkhead", reason="queue-timeout"): "0+30x60",
            },
            fires=(policy("Bulkhead"),),
        ),
        Case(
            about="an open circuit refuses all",
            series={
                calls("rejected"): "0+600x60",
                of("resilient.rejections", "CircuitBreaker", reason="open"): "0+590x60",
                of("resilient.rejections", "CircuitBreaker", reason="half-open"): "0+10x60",
            },
        ),
        Case(
            about="2% get no permit",
            series={**GOOD, of("resilient.rejections", "Bulkhead", reason="full"): "0+12x60"},
        ),
    ),
    "ResilientQueueFull": (
        Case(
            about="one process has a full queue",
            series={
                of("resilient.queue.length", "Bulkhead", a): "0x60",
                of("resilient.queue.limit", "Bulkhead", a): "100x60",
                of("resilient.queue.length", "Bulkhead", b): "95x60",
                of("resilient.queue.limit", "Bulkhead", b): "100x60",
            },
            fires=(policy("Bulkhead"),),
        ),
        Case(
            about="it is half full",
            series={
                of("resilient.queue.length", "Bulkhead"): "50x60",
                of("resilient.queue.limit", "Bulkhead"): "100x60",
            },
        ),
        Case(
            about="there is no queue",
            series={
                of("resilient.queue.length", "Bulkhead"): "0x60",
                of("resilient.queue.limit", "Bulkhead"): "0x60",
            },
        ),
        Case(
            about="a burst of three minutes",
            series={
                of("resilient.queue.length", "Bulkhead"): "0x20 100x3 0x60",
                of("resilient.queue.limit", "Bulkhead"): "100x60",
            },
            at=23,
        ),
    ),
    "ResilientPipelineNotOn": (
        Case(
            about="it is off in one process",
            series={
                a("resilient.pipeline.mode", pipeline="users", mode="on"): "1x60",
                b("resilient.pipeline.mode", pipeline="users", mode="off"): "1x60",
            },
            fires=({**USERS, "mode": "off"},),
            at=40,
        ),
        Case(about="for ten minutes", series={a("resilient.pipeline.mode", pipeline="users", mode="off"): "1x10"}),
        Case(
            about="it is on",
            series={
                a("resilient.pipeline.mode", pipeline="users", mode="on"): "1x60",
                a("resilient.pipeline.mode", pipeline="users", mode="off"): "0x60",
            },
            at=40,
        ),
    ),
    "ResilientFallbackAnswers": (
        Case(
            about="a fifth of the answers",
            series={**GOOD, of("resilient.fallbacks", "Fallback"): "0+120x60"},
            fires=(USERS,),
            at=40,
        ),
        Case(about="2%", series={**GOOD, of("resilient.fallbacks", "Fallback"): "0+12x60"}, at=40),
    ),
    "ResilientCallsHang": (
        Case(
            about="three calls, and none ends",
            series={
                calls("success"): "0+60x10 600x60",
                a("resilient.calls.in_flight", pipeline="users"): "3x80",
            },
            fires=(USERS,),
            at=40,
        ),
        Case(
            about="no call has ever ended",
            series={a("resilient.calls.in_flight", pipeline="users"): "3x80"},
            fires=(USERS,),
            at=40,
        ),
        Case(
            about="calls end",
            series={calls("success"): "0+1x80", a("resilient.calls.in_flight", pipeline="users"): "3x80"},
            at=40,
        ),
        Case(
            about="there are no calls",
            series={calls("success"): "600x80", a("resilient.calls.in_flight", pipeline="users"): "0x80"},
            at=40,
        ),
    ),
    "ResilientStragglersPileUp": (
        Case(
            about="more than the calls in flight",
            series={
                of("resilient.stragglers", "Timeout"): "40x60",
                a("resilient.calls.in_flight", pipeline="users"): "5x60",
            },
            fires=(USERS,),
        ),
        Case(
            about="fewer than the calls in flight",
            series={
                of("resilient.stragglers", "Hedge"): "40x60",
                a("resilient.calls.in_flight", pipeline="users"): "500x60",
            },
        ),
        Case(
            about="a few",
            series={
                of("resilient.stragglers", "Hedge"): "4x60",
                a("resilient.calls.in_flight", pipeline="users"): "0x60",
            },
        ),
    ),
    "ResilientChaosLeftOn": (
        Case(
            about="for more than an hour",
            series={of("resilient.faults", "Chaos", reason="errors"): "0+6x100"},
            fires=(policy("Chaos"),),
            at=80,
        ),
        Case(
            about="it ended after half an hour",
            series={of("resilient.faults", "Chaos", reason="errors"): "0+6x30 180x100"},
            at=80,
        ),
    ),
    "ResilientMetricsMissing": (
        Case(
            about="all series end",
            series={a("resilient.pipeline.mode", pipeline="users", mode="on"): "1x60 stale"},
            fires=({"job": "shop"},),
            at=90,
        ),
        Case(
            about="one process of two ends",
            series={
                a("resilient.pipeline.mode", pipeline="users", mode="on"): "1x60 stale",
                b("resilient.pipeline.mode", pipeline="users", mode="on"): "1x200",
            },
            at=90,
        ),
        Case(
            about="it was two hours ago",
            series={a("resilient.pipeline.mode", pipeline="users", mode="on"): "1x60 stale"},
            at=180,
        ),
    ),
    "ResilientPipelineNamesDropped": (
        Case(
            about="a name for each user",
            series={a("resilient.pipelines.dropped"): "0x10 5x60"},
            fires=({"job": "shop"},),
        ),
        Case(about="none", series={a("resilient.pipelines.dropped"): "0x60"}),
    ),
}
