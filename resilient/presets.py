"""The pipelines that most remote calls should have: start here, and change a figure when you know better.

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

There is no `AdaptiveLimit` in them: what a dependency can do with is known best where all of its load comes together,
in front of the server (`resilient.http.asgi`). A client that wants one puts it where the bulkhead stands.
"""

from __future__ import annotations

from resilient.budget import Budget
from resilient.latency import quantile
from resilient.outcome import Classifier
from resilient.pipeline import Pipeline
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.hedge import Hedge
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout

__all__ = ["standard", "standard_hedged"]

P95 = quantile(0.95, initial=1.0, ceiling=1.5)


def standard(
    name: str | None = None,
    *,
    total: float = 30.0,
    attempt: float = 9.0,
    attempts: int = 3,
    max_concurrent: int = 1000,
    queue: int = 0,
    budget: Budget | None = None,
    classify: Classifier | None = None,
) -> Pipeline:
    """A new pipeline for one dependency: total timeout, budgeted retries, bulkhead, breaker, timeout for each attempt.

    Args:
        name: of the pipeline, for events, errors and the registry.
        total, attempt: seconds for the whole call and for each attempt.
        attempts: calls at the most, the first included.
        max_concurrent: calls at a time. queue: calls that may wait for one of these to end.
        budget: to share one with other pipelines of the same dependency; default: one of its own.
        classify: what a failure is.

    Each call makes a new circuit, new permits and a new budget: one pipeline for one dependency.
    """
    return Pipeline(
        Timeout(total, name="total"),
        Retry(attempts, budget=budget or Budget()),
        Bulkhead(max_concurrent, queue=queue),
        _breaker(),
        Timeout(attempt, name="attempt"),
        name=name,
        classify=classify,
    )


def standard_hedged(
    name: str | None = None,
    *,
    delay: float | quantile = P95,
    copies: int = 2,
    inline: bool = False,
    total: float = 30.0,
    attempt: float = 8.0,
    attempts: int = 3,
    max_concurrent: int = 1000,
    queue: int = 0,
    budget: Budget | None = None,
    classify: Classifier | None = None,
) -> Pipeline:
    """`standard`, and a second copy of a call that is late. For calls that may be made twice, on asyncio and trio.

    Args:
        delay: after which the next copy starts: the observed p95 of the latency, or seconds. Default: the p95 from 1 ms
            to 1.5 s, and 1 s until 200 calls are known. A `quantile` of yours needs an `initial` and a `ceiling` for
            its plan to be known.
        copies, inline: as for `Hedge`.
        The others: as for `standard`. Hedges and retries share one budget.
    """
    budget = budget or Budget()
    return Pipeline(
        Timeout(total, name="total"),
        Retry(attempts, budget=budget),
        Hedge(delay, copies=copies, inline=inline, budget=budget),
        Bulkhead(max_concurrent, queue=queue),
        _breaker(),
        Timeout(attempt, name="attempt"),
        name=name,
        classify=classify,
    )


def _breaker() -> CircuitBreaker:
    return CircuitBreaker(failure_rate=0.5, window_seconds=10.0, min_calls=20, break_duration=5.0)
