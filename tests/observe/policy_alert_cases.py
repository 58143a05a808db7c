"""Cases of the alerts on policies: series that make each fire, and series that just do not."""

from __future__ import annotations

from tests.observe.alert_case import GOOD, USERS, Case, a, b, calls, circuit, of, policy

__all__ = ["CASES"]

CASES: dict[str, tuple[Case, ...]] = {
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
}
