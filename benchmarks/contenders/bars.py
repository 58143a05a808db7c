"""The bars of `overhead`: the cost that rows of resilient may have, as ratios to the fastest peer that does the same
work.

Ratios are taken in the same rounds, so they hold on any machine; multiples of a bare call do not. Where no peer does
the same, the bar is a multiple of the bare call. Where a row measures an added cost, the bar is on that.

Peers that are ahead do less. grit's breaker counts consecutive failures, without a window, and its Retry and Fallback
are a `try` in a closure, without events, budgets or a switch. Our Retry and Fallback are compared with nopanic, whose
policies compose, emit events and support streams, as ours do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["BARS", "OURS", "Limit", "Mode"]

Mode = Literal["async", "def"]
OURS = "resilient"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `times` the cost of another row of the same pattern: `against` is a peer's name or `OURS`. Without
    `against`, at most `times` bare calls."""

    times: float
    against: str = ""


BARS: Mapping[tuple[Mode, str], Limit] = {
    ("async", "retry"): Limit(1.0, "nopanic"),
    ("async", "fallback"): Limit(1.0, "nopanic"),
    ("async", "breaker"): Limit(1.05, "grit"),
    ("async", "breaker, time"): Limit(0.65, "nopanic"),
    ("async", "rate limit"): Limit(0.75, "nopanic"),
    ("async", "bulkhead"): Limit(0.95, "grit"),
    ("async", "hedge"): Limit(0.73, "grit"),
    ("async", "breaker, hour"): Limit(1.0, "nopanic"),
    ("async", "bulkhead of one"): Limit(1.0, "nopanic"),
    ("async", "retry, no wait"): Limit(1.1, "by hand, asyncio"),
    ("async", "stack"): Limit(0.21, "nopanic"),
    ("async", "stack, a total timeout around it"): Limit(1.45, OURS),
    ("async", "stack, one listener of CallEnded"): Limit(1.5, OURS),
    ("def", "retry"): Limit(1.1, "nopanic"),
    ("def", "fallback"): Limit(1.6, "nopanic"),
    ("def", "breaker"): Limit(1.3, "grit"),
    ("def", "breaker, time"): Limit(0.75, "nopanic"),
    ("def", "rate limit"): Limit(0.9, "nopanic"),
    ("def", "breaker, hour"): Limit(1.0, "nopanic"),
    ("def", "bulkhead of one"): Limit(1.25, "pyresilience"),
    ("def", "stack"): Limit(0.14, "grit"),
    # in bare calls:
    ("async", "retry, budget"): Limit(1),
    ("async", "keyed"): Limit(15),
    ("async", "timeout"): Limit(16),
    ("async", "deadline"): Limit(12),
    ("async", "deadline, a Retry beneath"): Limit(32),
    ("async", "adaptive limit"): Limit(18),
    ("async", "hedge, quantile"): Limit(12),
    ("async", "hedge, inline"): Limit(30),
    ("async", "hedge, inline, quantile"): Limit(10),
    ("async", "six"): Limit(36),
}
"""The limits by mode, and by the key of our decorator in `patterns`."""
