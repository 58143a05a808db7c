"""The rows of `storm`: the policies of a client, as this library, tenacity, nopanic and a plain loop write them.

All make up to 4 attempts with full jitter, and give up an attempt after 1 s, except `standard()`, which waits for up to
9 s.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.report import Bar

__all__ = [
    "BASE",
    "CAP",
    "LIMIT",
    "PEERS",
    "SHARES",
    "TRIES",
    "Plan",
    "Row",
    "adaptive_limit",
    "beside_expected",
    "breaker",
    "budget",
    "installed",
    "nopanic_pipeline",
    "pipeline",
    "standard_pipeline",
    "totals",
]

TRIES, LIMIT = 4, 1.0
"""Attempts of a call, and seconds of an attempt."""
BASE, CAP = 0.1, 2.0
"""Seconds of the full jitter."""
SHARES = (0.05, 0.1, 0.3, 0.5, 1.0)
"""The failure probabilities of E3."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of the simulations: seconds of load in E3 (`rarely_failing` where few calls fail, because the bar there
    is about one call in a thousand), seconds of E4, seeds of each row of E4 that has bars, and the failure
    probabilities of E3 at which peers are simulated."""

    failing: float
    rarely_failing: float
    horizon: float
    seeds: int
    peers_shares: tuple[float, ...] = SHARES


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One policy. `make` builds it for each client, in the running event loop; `server` are options of the service;
    `bars` are those of E4."""

    name: str
    make: Callable[[], Any]
    expected: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    ours: bool = False
    judged: bool = False
    server: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    bars: tuple[Bar, ...] = ()


def totals(runs: Sequence[Any]) -> dict[str, float]:
    """Success and requests per call over all runs."""
    calls = sum(len(run.begins) for run in runs)
    return {
        "success_percent": round(100 * sum(run.outcomes.count(0) for run in runs) / calls, 3),
        "requests_per_call_x": round(sum(len(run.sent) for run in runs) / calls, 4),
    }


def beside_expected(values: dict[str, float], expected: dict[str, float]) -> dict[str, float]:
    """The measured values, and the expected ones under `expected_...`."""
    return {**values, **{f"expected_{key}": value for key, value in expected.items()}}


def installed(row: Row) -> bool:
    """Whether the libraries of the row can be imported."""

    async def build() -> None:
        row.make()

    try:
        asyncio.run(build())
    except ImportError:
        return False
    return True


# -- ours -------------------------------------------------------------------------------------------------------------


def pipeline(*, budget: Any = None, breaker: Any = None, attempts: int = TRIES) -> Any:
    """Retry, the breaker if there is one, and a Timeout of `LIMIT` for each attempt."""
    from resilient import FullJitter, Pipeline, Retry, Timeout

    gates = [] if breaker is None else [breaker]
    return Pipeline(Retry(attempts, wait=FullJitter(BASE, CAP), budget=budget), *gates, Timeout(LIMIT))


def breaker(max_break: float = 5.0) -> Any:
    """The CircuitBreaker of the rows, with breaks of 5 s."""
    from resilient import CircuitBreaker

    return CircuitBreaker(0.5, window_seconds=10, min_calls=20, break_duration=5, max_break=max_break)


def budget() -> Any:
    """A Budget of resilient with its defaults."""
    from resilient import Budget

    return Budget()


def standard_pipeline() -> Any:
    """The pipeline of `resilient.standard()`, with its defaults."""
    from resilient import standard

    return standard()


def adaptive_limit() -> Any:
    """An AdaptiveLimit with its defaults, for the server."""
    from resilient import AdaptiveLimit

    return AdaptiveLimit()


# -- others -----------------------------------------------------------------------------------------------------------


def _timed(function: Any) -> Any:
    @functools.wraps(function)
    async def timed(key: str) -> Any:
        async with asyncio.timeout(LIMIT):
            return await function(key)

    return timed


def _loop() -> Any:
    def decorate(function: Any) -> Any:
        timed = _timed(function)

        async def looped(key: str) -> Any:
            for attempt in range(1, TRIES + 1):
                try:
                    return await timed(key)
                except Exception:
                    if attempt == TRIES:
                        raise

        return looped

    return decorate


def _tenacity() -> Any:
    from tenacity import retry, stop_after_attempt, wait_random_exponential

    retries = retry(stop=stop_after_attempt(TRIES), wait=wait_random_exponential(BASE, max=CAP), reraise=True)
    return lambda function: retries(_timed(function))


def nopanic_pipeline(*, budget: bool, breaker: bool) -> Any:
    """A pipeline built with nopanic: a retry as in the other rows, with `budget` and `breaker` where asked."""
    import nopanic

    clock = asyncio.get_running_loop().time
    tokens = nopanic.RetryBudget(clock=clock) if budget else None
    backoff = nopanic.backoff.full_jitter(BASE, cap=CAP)
    retry = nopanic.retry(attempts=TRIES, backoff=backoff, budget=tokens, clock=clock)
    circuit = nopanic.circuit_breaker(
        failure_threshold=0.5, min_calls=20, window=10.0, reset_timeout=5.0, clock=clock, on=Exception
    )
    return nopanic.compose(retry, *([circuit] if breaker else []), nopanic.timeout(LIMIT))


PEERS = (
    Row("loop, asyncio.timeout", _loop, note="4 attempts at once"),
    Row("tenacity, asyncio.timeout", _tenacity, note="4 attempts, jitter"),
    Row("nopanic, budget", lambda: nopanic_pipeline(budget=True, breaker=False), note="its defaults: 20%, 1 a second"),
)
