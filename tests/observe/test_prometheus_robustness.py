"""Scrapes are whole whatever breaks, however many keys there are, and while calls are made."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

from resilient import Bulkhead, CircuitBreaker, Keyed, Pipeline, Retry
from resilient.observe import metrics
from resilient.observe.metrics import Histogram, Metric, Series
from tests.observe.scrapes import (
    NewRegistry,
    make_calls,
    scrape_openmetrics,
    scrape_text,
    succeed,
    value,
)


def test_scrape_is_whole_if_the_figures_cannot_be_read(
    new_registry: NewRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's metrics are shown, the error is counted at each scrape, and logged once."""
    registry = CollectorRegistry()
    Gauge("theirs", "The user's own.", registry=registry).set(5)
    new_registry(registry)

    def broken(**options: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(metrics, "read", broken)
    for number in (1, 2):
        found = scrape_openmetrics(registry)
        assert value(found, "theirs") == 5
        assert value(found, "resilient_scrape_errors_total") == number
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]
    monkeypatch.undo()
    assert "resilient_calls" in scrape_text(registry)


def test_scrape_is_whole_but_for_the_series_that_is_broken(
    new_registry: NewRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Series beside it, of the same metric and of others, are shown."""
    registry = new_registry()
    calls, *others = metrics.TABLE

    def read(*, keys: int) -> dict[Metric, list[Series]]:
        good = Series(("good",) * len(calls.labels), 3)
        bad: list[Any] = [
            Series(("too", "few"), 1),
            Series((7,) * len(calls.labels), 1),  # type: ignore[arg-type]
            Series(("bad",) * len(calls.labels), None),  # type: ignore[arg-type]
        ]
        last = Series(("good",) * len(others[-1].labels), Histogram(2, 0.5, {-33: 2}, {}))
        return {calls: [*bad, good], others[-1]: [last] if others[-1].kind == "histogram" else []}

    monkeypatch.setattr(metrics, "read", read)
    found = scrape_text(registry)
    assert value(found, "resilient_calls_total") == 3
    assert value(found, "resilient_scrape_errors_total") == 3
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_policy_that_cannot_be_read_leaves_the_others(new_registry: NewRegistry) -> None:
    """A policy whose snapshot raises takes neither the scrape nor the figures of other pipelines with it."""

    class Broken(Bulkhead):
        def snapshot(self) -> dict[str, Any]:
            raise RuntimeError("broken")

    registry = new_registry()
    broken = Pipeline(Broken(1), name="broken policy")
    whole = Pipeline(Bulkhead(2), name="whole policy")
    make_calls(broken, 1)
    make_calls(whole, 1)
    found = scrape_text(registry)
    assert value(found, "resilient_calls_total", pipeline="broken policy") == 1
    assert value(found, "resilient_calls_total", pipeline="whole policy") == 1
    assert value(found, "resilient_permits_limit", pipeline="whole policy") == 2


def test_ten_thousand_keys_stay_at_the_cap(new_registry: NewRegistry) -> None:
    """A scrape has series for as many keys as were asked for, and one for all others, with the sum unchanged."""
    registry = new_registry(keys=20, durations=None)
    keyed = Keyed(CircuitBreaker, key=lambda key: key, max_keys=20_000, name="tenants")
    tenants = Pipeline(keyed, name="many keys")
    call = tenants(lambda key: 7)
    for number in range(10_000):
        call(f"tenant {number}")
    found = scrape_text(registry)
    for family in found.values():
        keys = {
            sample.labels["key"]
            for sample in family.samples
            if "key" in sample.labels and sample.labels.get("pipeline") == "many keys"
        }
        assert len(keys) <= 21
    at = {"pipeline": "many keys", "policy": "tenants"}
    assert value(found, "resilient_keys", **at) == 10_000
    assert value(found, "resilient_keys_hidden", **at) == 9_980
    assert value(found, "resilient_circuit_state", pipeline="many keys") == 10_000
    assert value(found, "resilient_calls_total", pipeline="many keys") == 10_000


def test_scrapes_while_calls_are_made_are_whole_and_never_fall(new_registry: NewRegistry) -> None:
    """Counters and cumulated buckets only grow from scrape to scrape, and each histogram agrees with itself."""
    registry = new_registry(durations="attempts")
    users = Pipeline(Retry(attempts=2, wait=0), Bulkhead(8), CircuitBreaker(), name="busy")
    call, rounds, threads = users(succeed), 400, 4
    workers = [threading.Thread(target=lambda: [call() for _ in range(rounds)]) for _ in range(threads)]
    for worker in workers:
        worker.start()
    last: dict[Any, float] = {}
    while True:
        running = any(worker.is_alive() for worker in workers)
        found = scrape_text(registry)
        for name, family in found.items():
            if family.type == "gauge":
                continue
            for sample in family.samples:
                if sample.labels.get("pipeline") == "busy":
                    key = (sample.name, *sorted(sample.labels.items()))
                    assert sample.value >= last.get(key, 0), (name, sample)
                    last[key] = sample.value
        for kind in ("call", "attempt"):
            name = f"resilient_{kind}_duration_seconds"
            assert value(found, f"{name}_count", pipeline="busy") == value(
                found, f"{name}_bucket", pipeline="busy", le="+Inf"
            )
        if not running:
            break
    for worker in workers:
        worker.join()
    assert value(found, "resilient_calls_total", pipeline="busy") == rounds * threads
    for kind in ("call", "attempt"):
        assert value(found, f"resilient_{kind}_duration_seconds_count", pipeline="busy") == rounds * threads
    assert value(found, "resilient_scrape_errors_total") == 0
