"""Cases of the alerts on whole pipelines and the figures: series that make each fire, and series that just do not."""

from __future__ import annotations

from tests.observe.alert_case import GOOD, USERS, Case, a, b, calls, of, policy

__all__ = ["CASES"]

CASES: dict[str, tuple[Case, ...]] = {
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
