"""The transports that `transport` compares: ours and the peers', each around a given transport.

All are configured for the same work as far as they support it: three attempts, a circuit that opens when half of the
last 100 calls failed, a second copy after one second, which no request here takes. (The delays that the two hedging
peers learn by default cost them more.) There are no listeners, and no peer logs.

    retry only                       our `Pipeline(Retry(3))`
    standard()                       timeouts, retries with a budget, bulkhead, and a circuit for each origin
    standard_hedged, inline          the same with hedges; async only, because our hedge of a plain call needs a thread
    httpx-retries                    retries
    interlock-cb                     a circuit for each host
    httpx-retries + interlock-cb     the retries around the circuits: nearest to standard(), without its timeouts,
                                     budget and bulkhead
    hedge-python, httpx-hedged       hedges, in tasks; the second also tracks the health of hosts, and hedges a `def`
                                     in threads
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from benchmarks.contenders.bars import Limit

__all__ = ["CONTENDERS", "LIBRARIES", "Contender", "Library"]

Library = Literal["httpx", "httpx2"]
LIBRARIES: tuple[Library, ...] = ("httpx", "httpx2")
Build = Callable[[Library, bool, Any], Any]
"""Builds a transport from a library's name, whether it is async, and the inner transport."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One transport. `limit` is its bar, for async calls of httpx."""

    name: str
    build: Build
    distributions: tuple[str, ...] = ()
    libraries: tuple[Library, ...] = LIBRARIES
    modes: tuple[bool, ...] = (True, False)
    ours: bool = False
    limit: Limit | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """The name, with the installed version of a single distribution."""
        if len(self.distributions) != 1:
            return self.name
        try:
            return f"{self.name} {metadata.version(*self.distributions)}"
        except metadata.PackageNotFoundError:
            return self.name


def _ours(library: Library, is_async: bool, inner: Any, pipeline: Any) -> Any:
    transports = importlib.import_module(f"resilient.http.{library}")
    return (transports.AsyncTransport if is_async else transports.Transport)(pipeline, transport=inner)


def retry_only(library: Library, is_async: bool, inner: Any) -> Any:
    """Our transport with three attempts and nothing else."""
    from resilient import Pipeline, Retry

    return _ours(library, is_async, inner, Pipeline(Retry(3)))


def standard(library: Library, is_async: bool, inner: Any) -> Any:
    """A transport of resilient with the standard pipeline around `inner`."""
    import resilient

    return _ours(library, is_async, inner, resilient.standard())


def standard_hedged(library: Library, is_async: bool, inner: Any) -> Any:
    """Our transport with the standard hedged pipeline, the first copy inline."""
    import resilient

    return _ours(library, is_async, inner, resilient.standard_hedged(inline=True))


def httpx_retries(library: Library, is_async: bool, inner: Any) -> Any:
    """The transport of httpx-retries, with three attempts."""
    from httpx_retries import Retry, RetryTransport

    return RetryTransport(transport=inner, retry=Retry(total=2))


def interlock(library: Library, is_async: bool, inner: Any) -> Any:
    """The circuit breaker transport of interlock-cb, with a count window."""
    from interlock import Config, WindowType

    transports = importlib.import_module(f"interlock.integrations.{library}")
    kind = transports.AsyncCircuitBreakerTransport if is_async else transports.CircuitBreakerTransport
    config = Config(
        failure_rate_threshold=0.5, minimum_number_of_calls=20, window_type=WindowType.COUNT_BASED, window_size=100
    )
    return kind(inner, config=config)


def both(library: Library, is_async: bool, inner: Any) -> Any:
    """A transport of httpx-retries around one of interlock-cb."""
    return httpx_retries(library, is_async, interlock(library, is_async, inner))


def hedge_python(library: Library, is_async: bool, inner: Any) -> Any:
    """The transport of hedge-python, always in its warm-up, so that its delay is one second."""
    from hedge import HedgeConfig
    from hedge.transport import HedgedHttpxTransport

    return HedgedHttpxTransport(inner, HedgeConfig(warmup_requests=10**12, warmup_delay=1.0))


def httpx_hedged(library: Library, is_async: bool, inner: Any) -> Any:
    """The transport of httpx-hedged, always in its warm-up, so that its delay is one second."""
    from httpx_hedged import HedgeConfig, HedgedTransport, SyncHedgedTransport

    return (HedgedTransport if is_async else SyncHedgedTransport)(
        inner, HedgeConfig(warmup_requests=10**12, warmup_delay=1.0)
    )


CONTENDERS = (
    Contender("retry only", retry_only, ours=True, limit=Limit(1.0, "httpx-retries")),
    Contender("standard()", standard, ours=True, limit=Limit(0.7, "httpx-retries + interlock-cb")),
    Contender("standard_hedged, inline", standard_hedged, modes=(True,), ours=True),
    Contender("httpx-retries", httpx_retries, ("httpx-retries",), ("httpx",)),
    Contender("interlock-cb", interlock, ("interlock-cb",), note="circuits only"),
    Contender("httpx-retries + interlock-cb", both, ("httpx-retries", "interlock-cb"), ("httpx",)),
    Contender("hedge-python", hedge_python, ("hedge-python",), ("httpx",), (True,), note="hedges only"),
    Contender("httpx-hedged", httpx_hedged, ("httpx-hedged",), ("httpx",), note="hedges only"),
)
