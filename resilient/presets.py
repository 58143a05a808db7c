"""The pipelines that most remote calls should have: start here, and change a figure when measurements suggest it.

After Microsoft's standard and hedging handlers (Microsoft.Extensions.Http.Resilience), with two things that those lack:
a budget, so that retries and hedges cannot multiply an outage, and a plan that fits its total (their four attempts of
10 s and some 14 s of backoff take 54 s, and have 30).

    Timeout 30 s            the whole call, as there
    Retry 3                 attempts (AWS; there 4), full jitter from 0.1 s: at most 0.3 s of waits
      Budget 10%            of successes, reserve 1, cap 10: total failure costs 1.0 x, not 3 x; and twice the 5% that a
                            hedge at the p95 asks for, with which it does not starve
    (Hedge p95, 2 copies)   `standard_hedged`: after the observed p95 of the dependency (there 2 s): 5% more requests.
                            Until 200 calls are known 1 s; never less than 1 ms nor more than 1.5 s, so the plan fits
    Bulkhead 1000           concurrent calls, no queue, as there
    CircuitBreaker 50%      of at least 20 calls in 10 s, break 5 s, doubled by each failed probe, to 60 s at the most:
                            with the budget it was the client-side pair that recovered fastest from a metastable
                            overload. (There 10% of at least 100 calls in 30 s, which small services never reach, Polly
                            #1854)
    Timeout 9 s             each attempt (there 10): 3 x 9 + 0.3 = 27.3 s; with hedges 8 s: 3 x (8 + 1.5) + 0.3 = 28.8 s

There is no `AdaptiveLimit` in them: the capacity of a dependency is known best where all of its load arrives, in front
of the server (`resilient.server.asgi`). A client that wants one puts it in place of the bulkhead.
"""

from __future__ import annotations

import math

from resilient.core.budget import Budget
from resilient.core.classify import Classifier
from resilient.pipeline import Pipeline
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.hedge import Cancel, Hedge
from resilient.policies.hedge.delay import quantile
from resilient.policies.retry import Retry
from resilient.policies.retry.backoff import FullJitter
from resilient.policies.timeout import Timeout

__all__ = ["standard", "standard_hedged"]

TOTAL = 30.0
"""The total in seconds for which the figures above are meant; with less, attempts, pauses and delays are shorter."""


def standard(
    name: str | None = None,
    *,
    total: float = TOTAL,
    attempt: float | None = None,
    attempts: int = 3,
    max_concurrent: int = 1000,
    queue: int = 0,
    budget: Budget | None = None,
    classify: Classifier | None = None,
) -> Pipeline:
    """A new pipeline for one dependency: total timeout, budgeted retries, bulkhead, breaker, timeout for each attempt.

    Args:
        name: of the pipeline, for events, errors and the registry.
        total: seconds for the whole call.
        attempt: seconds for each attempt. Default 9, or less where that would not fit into the total.
        attempts: calls at the most, the first included.
        max_concurrent: calls at a time. queue: calls that may wait for one of these to end.
        budget: to share one with other pipelines of the same dependency; default: one of its own.
        classify: what a failure is.

    Each call makes a new circuit, new permits and a new budget: one pipeline for one dependency.
    """
    whole, retry = Timeout(total, name="total"), _retry(attempts, total, budget or Budget())
    return Pipeline(
        whole,
        retry,
        Bulkhead(max_concurrent, queue=queue),
        _breaker(),
        Timeout(_fitting(9.0, whole, retry) if attempt is None else attempt, name="attempt"),
        name=name,
        classify=classify,
    )


def standard_hedged(
    name: str | None = None,
    *,
    delay: float | quantile | None = None,
    copies: int = 2,
    cancel: Cancel = "now",
    inline: bool = False,
    total: float = TOTAL,
    attempt: float | None = None,
    attempts: int = 3,
    max_concurrent: int = 1000,
    queue: int = 0,
    budget: Budget | None = None,
    classify: Classifier | None = None,
) -> Pipeline:
    """`standard`, and a second copy of a call that is late. For calls that may be made twice, on asyncio and trio.

    Args:
        delay: after which the next copy starts: the observed p95 of the latency, or seconds. Default: the p95 from 1 ms
            to 1.5 s, and 1 s until 200 calls are known; with a total below 30 s proportionally less. A `quantile` of
            yours needs an `initial` and a `ceiling` for its plan to be known.
        attempt: seconds for each attempt. Default 8, or less where that would not fit into the total.
        copies, cancel, inline: as for `Hedge`.
        The others: as for `standard`. Hedges and retries share one budget.
    """
    budget = budget or Budget()
    whole, retry = Timeout(total, name="total"), _retry(attempts, total, budget)
    hedge = Hedge(_p95(total) if delay is None else delay, copies=copies, cancel=cancel, inline=inline, budget=budget)
    return Pipeline(
        whole,
        retry,
        hedge,
        Bulkhead(max_concurrent, queue=queue),
        _breaker(),
        Timeout(_fitting(8.0, whole, retry, hedge) if attempt is None else attempt, name="attempt"),
        name=name,
        classify=classify,
    )


def _retry(attempts: int, total: float, budget: Budget) -> Retry:
    return Retry(attempts, wait=FullJitter(min(0.1, total / TOTAL)), budget=budget)


def _p95(total: float) -> quantile:
    share = min(1.0, total / TOTAL)
    return quantile(0.95, initial=share, floor=min(0.001, share), ceiling=1.5 * share)


def _fitting(usual: float, whole: Timeout, retry: Retry, hedge: Hedge | None = None) -> float:
    """Return the seconds for an attempt: `usual`, or less if otherwise not all attempts would fit into the whole."""
    pauses, late = retry.facts.pause or 0.0, 0.0 if hedge is None else hedge.facts.pause or 0.0
    room = min(0.9 * whole.seconds, (whole.seconds - pauses) / (retry.attempts or 1)) - late
    if room >= usual or room <= 0:  # in the latter case nothing fits, and the pipeline warns
        return usual
    return math.floor(room * 999.999) / 1000 or room * 0.99  # a round number, if there is one


def _breaker() -> CircuitBreaker:
    return CircuitBreaker(failure_rate=0.5, window_seconds=10.0, min_calls=20, break_duration=5.0)
