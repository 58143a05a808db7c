"""The patterns of `overhead`, built with other libraries and with the standard library.

A peer is a function that imports its library and returns decorators by pattern. A peer that is not installed has a row
without values. All are configured for the same work:

    retry               three attempts on any Exception, no budget
    retry, no wait      the same, sleeping zero seconds between attempts
    bulkhead            50 calls at a time; without a queue where that is a peer's faster way
    bulkhead of one     one call at a time, without a queue
    breaker             opens when half of the last 100 calls failed, after at least 20; notes say what the peers
                        without a count window have instead
    breaker, time       the same over a window of 30 seconds
    breaker, hour       as breaker, open for an hour
    retry, budget       as retry, with the peer's own limit on the retries of all calls together
    keyed               as breaker, one for each argument of the call
    timeout             2 seconds for each call
    deadline            2 seconds, set around each call; nothing is guarded
    rate limit          10**9 calls a second
    fallback            0 for any Exception
    hedge               a second copy after one second, which no call takes
    stack               retry, bulkhead, breaker, timeout, the first outermost
    six                 fallback, retry, rate limit, bulkhead, breaker, timeout
    guard               retry, bulkhead, breaker: the stack for peers that need a thread for a timeout

There are no listeners, and no peer logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from benchmarks.contenders import by_hand
from benchmarks.contenders.bars import Mode
from benchmarks.contenders.by_hand import Decorator, inside
from benchmarks.contenders.targets import Function

__all__ = ["PEERS", "Decorator", "Peer"]


@dataclass(frozen=True, slots=True)
class Peer:
    """One library. `build` returns new decorators by pattern. `notes`, by mode and pattern, say what differs."""

    name: str
    build: Callable[[], Mapping[str, Decorator]]
    distribution: str | None = None
    modes: tuple[Mode, ...] = ("async", "def")
    notes: Mapping[tuple[Mode, str], str] = field(default_factory=dict)
    ours: bool = False

    @property
    def label(self) -> str:
        """The name, with the installed version of the library."""
        if self.distribution is None:
            return self.name
        try:
            return f"{self.name} {metadata.version(self.distribution)}"
        except metadata.PackageNotFoundError:
            return self.name


def nopanic() -> dict[str, Decorator]:
    """nopanic. Its breaker has time windows only."""
    import nopanic

    def breaker(seconds: float = 30.0) -> Any:
        return nopanic.circuit_breaker(failure_threshold=0.5, min_calls=20, window=30.0, reset_timeout=seconds)

    def retry() -> Any:
        return nopanic.retry(attempts=3)

    return {
        "retry": retry(),
        "retry, no wait": nopanic.retry(attempts=3, backoff=nopanic.backoff.fixed(0.0)),
        "bulkhead": nopanic.bulkhead(50),
        "bulkhead of one": nopanic.bulkhead(1, max_wait=0),
        "breaker": breaker(),
        "breaker, time": breaker(),
        "breaker, hour": breaker(3600.0),
        "retry, budget": nopanic.retry(attempts=3, budget=nopanic.RetryBudget()),
        "keyed": nopanic.keyed(lambda key: breaker(), key=lambda x: x),
        "timeout": nopanic.timeout(2.0),
        "deadline": inside(nopanic.deadline, 2.0),
        "rate limit": nopanic.rate_limit(1e9),
        "fallback": nopanic.fallback(0),
        "hedge": nopanic.hedge(delay=1.0),
        "six": nopanic.compose(
            *(nopanic.fallback(0), retry(), nopanic.rate_limit(1e9)),
            *(nopanic.bulkhead(50), breaker(), nopanic.timeout(2.0)),
        ),
        "stack": nopanic.compose(retry(), nopanic.bulkhead(50), breaker(), nopanic.timeout(2.0)),
        "guard": nopanic.compose(retry(), nopanic.bulkhead(50), breaker()),
    }


def pyresilience() -> dict[str, Decorator]:
    """pyresilience: one decorator, which applies its policies in a fixed order."""
    from pyresilience import (
        BulkheadConfig,
        CircuitBreakerConfig,
        FallbackConfig,
        RateLimiterConfig,
        RetryBudgetConfig,
        RetryConfig,
        TimeoutConfig,
        resilient,
    )

    def breaker(seconds: float = 30.0) -> CircuitBreakerConfig:
        return CircuitBreakerConfig(
            sliding_window_size=100,
            failure_rate_threshold=0.5,
            minimum_calls=20,
            recovery_timeout=seconds,
        )

    retry = RetryConfig(max_attempts=3)
    bulkhead = BulkheadConfig(max_concurrent=50)
    limit = RateLimiterConfig(max_calls=10**9)
    fallback = FallbackConfig(handler=0)
    return {
        "retry": resilient(retry=retry),
        "retry, no wait": resilient(retry=RetryConfig(max_attempts=3, delay=0.0, jitter=False)),
        "bulkhead": resilient(bulkhead=bulkhead),
        "bulkhead of one": resilient(bulkhead=BulkheadConfig(max_concurrent=1)),
        "breaker": resilient(circuit_breaker=breaker()),
        "breaker, hour": resilient(circuit_breaker=breaker(3600.0)),
        "retry, budget": resilient(retry=retry, retry_budget=RetryBudgetConfig()),
        "timeout": resilient(timeout=TimeoutConfig(seconds=2.0)),
        "rate limit": resilient(rate_limiter=limit),
        "fallback": resilient(fallback=fallback),
        "six": resilient(
            fallback=fallback,
            retry=retry,
            rate_limiter=limit,
            bulkhead=bulkhead,
            circuit_breaker=breaker(),
            timeout=TimeoutConfig(seconds=2.0),
        ),
        "stack": resilient(
            retry=retry,
            bulkhead=bulkhead,
            circuit_breaker=breaker(),
            timeout=TimeoutConfig(seconds=2.0),
        ),
        "guard": resilient(retry=retry, bulkhead=bulkhead, circuit_breaker=breaker()),
    }


def interlock() -> dict[str, Decorator]:
    """interlock. Its retry is tenacity's; its bulkhead without a queue is asyncio.timeout(0) around a semaphore."""
    from interlock import CircuitBreaker, Config, Pipeline, WindowType
    from tenacity import wait_none

    def breaker(kind: WindowType, size: int, seconds: float = 30.0) -> CircuitBreaker:
        config = Config(
            failure_rate_threshold=0.5,
            minimum_number_of_calls=20,
            window_type=kind,
            window_size=size,
            wait_duration_in_open=seconds,
        )
        return CircuitBreaker(name="benchmark", config=config)

    def build() -> Any:
        return Pipeline.builder()

    calls = WindowType.COUNT_BASED
    return {
        "retry": build().retry(attempts=3).build(),
        "retry, no wait": build().retry(attempts=3, wait=wait_none()).build(),
        "bulkhead": build().bulkhead(50).build(),
        "bulkhead of one": build().bulkhead(1).build(),
        "breaker": breaker(calls, 100),
        "breaker, time": breaker(WindowType.TIME_BASED, 30),
        "breaker, hour": breaker(calls, 100, 3600.0),
        "timeout": build().timeout(2.0).build(),
        "fallback": build().fallback(lambda error: 0).build(),
        "stack": build().retry(attempts=3).bulkhead(50).circuit_breaker(breaker(calls, 100)).timeout(2.0).build(),
        "guard": build().retry(attempts=3).bulkhead(50).circuit_breaker(breaker(calls, 100)).build(),
    }


def grit() -> dict[str, Decorator]:
    """grit. Its breaker counts consecutive failures; its timeout of a `def` is SIGALRM, in the main thread.

    Its bulkhead without a queue (`timeout=0`) refuses every call, so that row is missing.
    """
    from grit import breaker, bulkhead, constant, fallback, hedge, limiter, policy, retry, timeout

    def stack(*inner: Any) -> Any:
        return policy(retry(tries=3), *inner, bulkhead(50), breaker(), timeout(2.0))

    return {
        "retry": retry(tries=3),
        "retry, no wait": retry(tries=3, wait=constant(0.0)),
        "bulkhead": bulkhead(50),
        "breaker": breaker(),
        "breaker, hour": breaker(reset_after=3600.0),
        "timeout": timeout(2.0),
        "rate limit": limiter(1e9),
        "fallback": fallback(value=0),
        "hedge": hedge(1.0),
        "stack": stack(),
        "six": policy(fallback(value=0), stack(limiter(1e9))),
        "guard": policy(retry(tries=3), bulkhead(50), breaker()),
    }


def hedge_python() -> dict[str, Decorator]:
    """hedge-python: hedges only, inside its transports. Here their scheduler runs without HTTP. The delay is the fixed
    one of its warm-up."""
    from hedge import HedgeConfig
    from hedge.transport._base import HedgeScheduler

    config = HedgeConfig(warmup_requests=10**12, warmup_delay=1.0)

    def hedge(function: Function) -> Function:
        scheduler = HedgeScheduler(config)

        async def hedged(x: int) -> Any:
            sketch = scheduler.sketch_for("host")

            def start() -> Any:
                return function(x)

            return await scheduler.execute_with_hedge("host", start, start, lambda _, seconds: sketch.add(seconds))

        return hedged

    return {"hedge": hedge}


def httpx_hedged() -> dict[str, Decorator]:
    """httpx-hedged: hedges only, inside its transports. Here their scheduler runs without HTTP."""
    from httpx_hedged import EndpointConfig, HealthRegistry, HedgeConfig, StatsRegistry
    from httpx_hedged._config import resolve
    from httpx_hedged._scheduler import HedgeScheduler

    config = resolve(EndpointConfig(hedge_delay=1.0), HedgeConfig())

    def hedge(function: Function) -> Function:
        scheduler = HedgeScheduler(HealthRegistry(), StatsRegistry())

        async def hedged(x: int) -> Any:
            def start() -> Any:
                return function(x)

            return await scheduler.execute_with_hedge(
                key="host",
                host="host",
                config=config,
                primary_func=start,
                hedge_func=start,
                classify=lambda result: True,
                can_hedge=True,
            )

        return hedged

    return {"hedge": hedge}


def tenacity() -> dict[str, Decorator]:
    """The patterns built with tenacity: retries only, without a budget."""
    from tenacity import retry, stop_after_attempt, wait_none, wait_random_exponential

    stop = stop_after_attempt(3)
    return {
        "retry": retry(stop=stop, wait=wait_random_exponential(), reraise=True),
        "retry, no wait": retry(stop=stop, wait=wait_none(), reraise=True),
    }


def stamina() -> dict[str, Decorator]:
    """stamina: retries only, by tenacity with other defaults. Its hook that logs retries is removed."""
    import stamina as library
    from stamina.instrumentation import set_on_retry_hooks

    set_on_retry_hooks([])
    return {
        "retry": library.retry(on=Exception, attempts=3),
        "retry, no wait": library.retry(on=Exception, attempts=3, wait_initial=0.0, wait_jitter=0.0, wait_max=0.0),
    }


def pybreaker() -> dict[str, Decorator]:
    """pybreaker: a breaker only, for `def` only. Around an `async def` it guards nothing."""
    from pybreaker import CircuitBreaker

    return {
        "breaker": CircuitBreaker(fail_max=5, reset_timeout=30),
        "breaker, hour": CircuitBreaker(fail_max=5, reset_timeout=3600),
    }


_IN_A_THREAD: dict[tuple[Mode, str], str] = {
    ("def", "timeout"): "each call in a thread",
    ("def", "stack"): "each call in a thread",
    ("def", "six"): "each call in a thread",
}
_IN_A_ROW: dict[tuple[Mode, str], str] = {
    (mode, pattern): "5 failures in a row"
    for mode in ("async", "def")
    for pattern in ("breaker", "stack", "six", "guard")
}
_SIGNAL: dict[tuple[Mode, str], str] = {
    ("def", pattern): "SIGALRM: main thread only" for pattern in ("timeout", "stack", "six")
}
_TIME_WINDOW: dict[tuple[Mode, str], str] = {
    (mode, pattern): "time window" for mode in ("async", "def") for pattern in ("breaker", "keyed", "stack", "six")
}
_LOOP: dict[tuple[Mode, str], str] = {
    (mode, pattern): "a loop with try" for mode in ("async", "def") for pattern in ("retry", "retry, no wait")
}

PEERS = (
    Peer("nopanic", nopanic, "nopanic", notes={**_TIME_WINDOW, **_IN_A_THREAD}),
    Peer("pyresilience", pyresilience, "pyresilience", notes=_IN_A_THREAD),
    Peer("interlock", interlock, "interlock-cb", notes=_IN_A_THREAD),
    Peer("grit", grit, "grit-toolkit", notes={**_IN_A_ROW, **_SIGNAL}),
    Peer("hedge-python", hedge_python, "hedge-python", ("async",), {("async", "hedge"): "without HTTP"}),
    Peer("httpx-hedged", httpx_hedged, "httpx-hedged", ("async",), {("async", "hedge"): "without HTTP"}),
    Peer("tenacity", tenacity, "tenacity"),
    Peer("stamina", stamina, "stamina", notes=dict.fromkeys(_LOOP, "tenacity inside")),
    Peer("pybreaker", pybreaker, "pybreaker", ("def",), {("def", "breaker"): "5 failures in a row"}),
    Peer(
        "by hand, asyncio",
        by_hand.asyncio_parts,
        modes=("async",),
        notes={
            **_LOOP,
            ("async", "bulkhead"): "asyncio.Semaphore",
            ("async", "timeout"): "asyncio.timeout",
        },
    ),
    Peer(
        "by hand, threading",
        by_hand.threading_parts,
        modes=("def",),
        notes={**_LOOP, ("def", "bulkhead"): "threading.BoundedSemaphore"},
    ),
)
