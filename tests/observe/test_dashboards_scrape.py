"""Every metric of dashboards and rules is found in a real scrape of policies that have done all that is counted."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    CircuitOpen,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
    quantile,
)
from resilient.faults import Errors
from resilient.limiters import Window
from resilient.observe.dashboards import DashboardOptions, dashboard_files, rule_groups
from resilient.observe.prometheus import register
from tests.observe.promql import EXPORTED, metrics_in, queries


class Doubling:
    """A rule that finds a new limit after each call."""

    window, samples, unloaded = 0.0, 1, None

    def update(self, limit: float, window: Window) -> float:
        """Twice the limit."""
        return 2 * limit


@pytest.fixture
def address() -> Iterator[str]:
    """Where the metrics of this process are served."""
    registry = prometheus_client.CollectorRegistry()
    unregister = register(registry=registry, durations="attempts", keys=1)
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()
    unregister()


async def fail() -> None:
    """A dependency that is down."""
    raise ConnectionError("down")


async def once_slow(calls: list[int]) -> None:
    """A dependency whose first answer never comes."""
    calls.append(1)
    if len(calls) == 1:
        await asyncio.Event().wait()


async def exercise() -> list[Pipeline]:
    """Makes calls that are retried, hedged, refused, queued, timed out, replaced, and made to fail."""
    retried = Pipeline(Fallback(None), Retry(2, budget=Budget(reserve=1)), name="scrape-retried")
    for _ in range(2):  # the second finds the budget spent
        await retried(fail)()

    hedged = Pipeline(Hedge(quantile(0.95, initial=0.01, ceiling=0.01)), name="scrape-hedged")
    await hedged(once_slow)([])

    late = Pipeline(Timeout(0.01), name="scrape-late")
    with pytest.raises(TimeoutError):
        await late(asyncio.Event().wait)()

    breaker = CircuitBreaker(fail_max=1)
    broken = Pipeline(breaker, name="scrape-broken")
    for error in (ConnectionError, CircuitOpen):
        with pytest.raises(error):
            await broken(fail)()

    limited = Pipeline(Bulkhead(1, queue=1), RateLimit(1000), AdaptiveLimit(limiter=Doubling), name="scrape-limited")
    await asyncio.gather(*(limited(asyncio.sleep)(0.01) for _ in range(2)))  # the second waits
    for _ in range(10):
        await limited(asyncio.sleep)(0.001)

    keyed = Pipeline(Keyed(CircuitBreaker, key=lambda key: key), name="scrape-keyed")
    for key in (0.0, 0.001):
        await keyed(asyncio.sleep)(key)

    shadow = Pipeline(Bulkhead(1, shadow=True), name="scrape-shadow")
    await asyncio.gather(*(shadow(asyncio.sleep)(0.01) for _ in range(2)))

    chaotic = Pipeline(Chaos(Errors(), enabled=True), name="scrape-chaotic")
    with pytest.raises(ConnectionError):
        await chaotic(asyncio.sleep)(0)
    return [retried, hedged, late, broken, limited, keyed, shadow, chaotic]


async def test_every_metric_is_found_in_a_real_scrape(address: str) -> None:
    """With the labels that the table says; and nothing more is exported than the table has."""
    kept = await exercise()
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read().decode())
    found = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    del kept

    rules = [rule for group in rule_groups(DashboardOptions()) for rule in (*group.recordings, *group.alerts)]
    used = {metric for rule in rules for metric in metrics_in(rule.expr)}
    for name, content in dashboard_files().items():
        if name.endswith(".json"):
            used |= {metric for _, query in queries(json.loads(content)) for metric in metrics_in(query)}
    own = {name for name in used if name.startswith("resilient_")}
    assert len(own) > 30
    assert own <= found
    ours = {name for name in found if name.startswith("resilient_")}
    assert ours - EXPORTED <= {name for name in ours if name.endswith("_created")} | {"resilient_scrape_errors_total"}
