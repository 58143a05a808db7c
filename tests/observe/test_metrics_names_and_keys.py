"""The series of pipelines of one name, of unnamed ones, of names beyond the cap; gauges, and their series of keys."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    Keyed,
    Pipeline,
    RateLimit,
    Rejected,
    Retry,
    registry,
)
from resilient.events import counters
from resilient.observe import metrics
from tests.observe.metric_values import attempt, fails, values

# -- names ------------------------------------------------------------------------------------------------------------


def test_pipelines_of_one_name_share_their_series_also_when_they_are_gone() -> None:
    """A pipeline for each client, or a variation for each call site: counters never fall."""
    for number in range(1, 200):
        Pipeline(Bulkhead(1), name="anew").with_(Bulkhead(2)).call(lambda: None)
        if number % 20 == 0:
            gc.collect()
            assert values("calls", "anew") == {("success", "success"): number}
    gc.collect()
    assert values("calls", "anew") == {("success", "success"): 199}
    assert len(counters.counters_of("anew")._entered) < 5


def test_unnamed_pipelines_are_summed() -> None:
    before = values("calls", "unnamed").get(("success", "success"), 0)
    Pipeline(Bulkhead(1)).call(lambda: None)
    Bulkhead(1)(lambda: None)()
    assert values("calls", "unnamed")["success", "success"] == before + 2


@pytest.fixture
def few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of names that is full with two."""
    monkeypatch.setattr(counters, "_by_name", {})
    monkeypatch.setattr(counters, "_dropped", set())
    monkeypatch.setattr(counters, "MOST_NAMES", 2)


@pytest.mark.usefixtures("few_names")
def test_names_beyond_the_cap_are_summed_and_counted() -> None:
    pipelines = [Pipeline(Bulkhead(1), name=f"tenant {number}") for number in range(5)]
    for pipeline in pipelines:
        pipeline.call(lambda: None)
    assert values("calls", "tenant 1") == {("success", "success"): 1}
    assert values("calls", "other") == {("success", "success"): 3}
    assert registry.metrics()["resilient.pipelines.dropped"]["series"] == [{"labels": {}, "value": 3}]


def test_pipelines_of_a_simulation_are_hidden() -> None:
    from resilient.events.channel import hidden_pipelines

    with hidden_pipelines():
        Pipeline(Bulkhead(1), name="hidden").call(lambda: None)
    assert values("calls", "hidden") == {}
    assert values("pipeline.mode", "hidden") == {}


# -- gauges and keys --------------------------------------------------------------------------------------------------


def test_gauges_are_the_state_now() -> None:
    budget = Budget(reserve=3)
    pipeline = Pipeline(
        Retry(budget=budget), RateLimit(5, burst=5), AdaptiveLimit(7), Bulkhead(4, queue=2), name="gauges"
    )
    seen = pipeline.call(lambda: {name: values(name, "gauges") for name in metrics.GAUGES})
    assert seen["permits.in_use"] == {("AdaptiveLimit",): 1, ("Bulkhead",): 1}
    assert seen["permits.limit"] == {("AdaptiveLimit",): 7, ("Bulkhead",): 4}
    assert seen["queue.length"] == {("AdaptiveLimit",): 0, ("Bulkhead",): 0, ("RateLimit",): 0}
    assert seen["queue.limit"] == {("AdaptiveLimit",): 0, ("Bulkhead",): 2}
    assert seen["tokens"] == {("RateLimit",): 4}
    assert seen["budget.tokens"][("Retry",)] == pytest.approx(3)


def test_ten_thousand_keys_stay_at_the_cap() -> None:
    """Of series and of what is kept; a key that has a series keeps it."""
    pipeline = Pipeline(Keyed(CircuitBreaker, key=lambda key: key, max_keys=1_000), name="keys")
    call = pipeline(lambda key: None)
    call("first")
    assert values("keys", "keys", keys=10)["Keyed", ""] == 1
    for key in range(10_000):
        call(f"tenant {key}")
        if key % 100 == 0:
            call("first")
    states = values("circuit.state", "keys", keys=10)
    assert len({labels[-1] for labels in states}) == 11
    assert states["Keyed", "closed", "first"] == 1
    assert states["Keyed", "closed", "other"] == 990
    assert values("keys.hidden", "keys", keys=10) == {("Keyed", ""): 990}
    shown = {labels[-1] for labels in states}
    call("one more")
    assert {labels[-1] for labels in values("circuit.state", "keys", keys=10)} == shown
    assert values("circuit.state", "keys") == {
        ("Keyed", "closed"): 1_000,
        ("Keyed", "open"): 0,
        ("Keyed", "half-open"): 0,
        ("Keyed", "isolated"): 0,
    }
    assert len(counters.counters_of("keys").totals()) == 2


def test_refusals_of_the_gate_of_a_key_are_counted_for_the_policy() -> None:
    """Else each key that comes from outside would make a series."""
    pipeline = Pipeline(Keyed(lambda: CircuitBreaker(fail_max=1), key=lambda key: key), name="by key")
    for key in range(5):
        attempt(pipeline.call, fails(ConnectionError()), key)
        with pytest.raises(Rejected):
            pipeline.call(lambda key: None, key)
    assert values("rejections", "by key") == {("Keyed", "open"): 5}
    assert values("circuit.transitions", "by key") == {("Keyed", "open"): 5}


def test_policy_that_cannot_be_read_costs_only_its_own_gauges(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Bulkhead):
        def snapshot(self) -> dict[str, Any]:
            raise LookupError("broken")

    pipeline = Pipeline(Broken(1, name="broken"), RateLimit(5), name="broken")
    pipeline.call(lambda: None)
    with caplog.at_level(logging.ERROR, "resilient"):
        assert values("tokens", "broken") == {("RateLimit",): 4}
    assert "the gauges of a Broken of broken cannot be read" in caplog.text
    assert values("calls", "broken") == {("success", "success"): 1}
