"""The metrics of pipelines as plain data: names, series, keys, names beyond the cap, durations, forks."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    PipelineClosed,
    RateLimit,
    Rejected,
    Retry,
    Timeout,
    registry,
)
from resilient.chaos import Chaos
from resilient.core.policy import Policy
from resilient.events import counters
from resilient.faults import Errors
from resilient.observe import metrics
from resilient.observe.metrics import TABLE, Exemplar, Histogram, prometheus_name, read, record_durations
from resilient.stats.durations import BUCKETS_PER_OCTAVE, DurationHistogram
from resilient.testing import run


def values(metric: str, pipeline: str, *, keys: int = 0) -> dict[tuple[str, ...], Any]:
    """The values of a metric of one pipeline, by the values of the labels after the pipeline; of a counter those that
    are not 0."""
    found = registry.metrics(keys=keys).get(f"resilient.{metric}", {"series": []})
    return {
        tuple(series["labels"].values())[1:]: series.get("value", series.get("count"))
        for series in found["series"]
        if series["labels"].get("pipeline") == pipeline and (found["kind"] != "counter" or series["value"])
    }


def fails(error: Exception) -> Callable[..., Any]:
    """A function that raises this error."""

    def function(*args: Any) -> None:
        raise error

    return function


def attempt(guarded: Callable[..., Any], *args: Any) -> None:
    """Call, and ignore an error."""
    try:
        guarded(*args)
    except Exception:
        pass


# -- the table --------------------------------------------------------------------------------------------------------


def test_names_units_and_labels_are_those_of_the_table() -> None:
    """A name that an alert refers to must not change unnoticed."""
    assert all(metric.name.startswith("resilient.") for metric in TABLE)
    assert len({metric.name for metric in TABLE}) == len({prometheus_name(metric) for metric in TABLE}) == len(TABLE)
    names = {metric.name: prometheus_name(metric) for metric in TABLE}
    assert names["resilient.calls"] == "resilient_calls_total"
    assert names["resilient.wait.time"] == "resilient_wait_time_seconds_total"
    assert names["resilient.call.duration"] == "resilient_call_duration_seconds"
    assert names["resilient.calls.in_flight"] == "resilient_calls_in_flight"
    assert all(metric.help.endswith(".") for metric in TABLE)


def test_metrics_are_plain_data() -> None:
    """They can be written as JSON."""
    Pipeline(Bulkhead(2), name="plain").call(lambda: None)
    found = json.loads(json.dumps(registry.metrics()))
    assert found["resilient.calls"] == {
        "kind": "counter",
        "unit": "{call}",
        "help": "Calls that have ended, by how they ended for their caller.",
        "labels": ["pipeline", "ending", "verdict"],
        "series": found["resilient.calls"]["series"],
    }
    series = {
        "labels": {"pipeline": "plain", "ending": "success", "verdict": "success"},
        "value": 1,
    }
    assert series in found["resilient.calls"]["series"]


@pytest.mark.parametrize("keys", [-1, 1.5, "all"])
def test_number_of_keys_is_checked(keys: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="keys"):
        registry.metrics(keys=keys)


def test_usual_series_are_there_before_anything_has_happened() -> None:
    """A rate sees only what comes after the first value of a series, and the first failure counts."""
    Pipeline(CircuitBreaker(), name="fresh")
    found = {
        (name, *series["labels"].values()): series["value"]
        for name, metric in registry.metrics().items()
        for series in metric["series"]
        if series["labels"].get("pipeline") == "fresh" and metric["kind"] == "counter"
    }
    assert set(found.values()) == {0}
    assert ("resilient.calls", "fresh", "failure", "failure") in found
    assert ("resilient.attempts", "fresh", "timeout", "failure") in found
    assert ("resilient.circuit.transitions", "fresh", "CircuitBreaker", "open") in found


# -- what is counted --------------------------------------------------------------------------------------------------


def test_every_kind_of_event_is_counted() -> None:
    """Each with its policy and its reason."""
    budget = Budget(reserve=1, ratio=0.01)
    pipeline = Pipeline(Fallback("none"), Retry(attempts=3, wait=0, budget=budget), name="kinds")
    assert pipeline.call(fails(ConnectionError())) == "none"
    assert pipeline.call(fails(ConnectionError())) == "none"
    assert values("calls", "kinds") == {("success", "nothing"): 2}
    assert values("attempts", "kinds") == {("failure", "failure"): 3}
    assert values("retries", "kinds") == {("Retry",): 1}
    assert values("retries.ended", "kinds") == {("Retry", "budget"): 2}
    assert values("budget.exhausted", "kinds") == {("Retry", "retry"): 2}
    assert values("fallbacks", "kinds") == {("Fallback",): 2}


def test_refusals_are_counted_by_policy_and_reason() -> None:
    breaker, isolated = CircuitBreaker(fail_max=1, name="breaker"), CircuitBreaker(name="isolated")
    isolated.isolate()
    policies: dict[str, Policy] = {
        "open": breaker,
        "isolated": isolated,
        "full": Bulkhead(1),
        "no-token": RateLimit(0.001),
        "no-room": AdaptiveLimit(1, max_limit=1),
    }
    for reason, policy in policies.items():
        pipeline = Pipeline(policy, name=f"refused {reason}")
        attempt(pipeline.call, fails(ConnectionError()))

        def again(pipeline: Pipeline = pipeline) -> None:
            pipeline.call(lambda: None)

        attempt(pipeline.call, again)
        attempt(pipeline.call, lambda: None)
        counted = values("rejections", f"refused {reason}")
        assert set(counted) == {(policy.name, reason)}, reason
        assert values("calls", f"refused {reason}")["rejected", "nothing"] >= 1
    closed = Pipeline(Bulkhead(1), name="refused closed")
    closed.close()
    with pytest.raises(PipelineClosed):
        closed.call(lambda: None)
    assert values("rejections", "refused closed") == {("", "closed"): 1}
    assert values("calls", "refused closed") == {("rejected", "nothing"): 1}


def test_waits_hedges_timeouts_and_transitions_are_counted() -> None:
    bulkhead, breaker = Bulkhead(1, queue=5, queue_timeout=0.5), CircuitBreaker(fail_max=1)
    pipeline = Pipeline(Timeout(5), Hedge(0.1), bulkhead, breaker, Timeout(1), name="waits")

    @pipeline
    async def call(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def main() -> None:
        await asyncio.gather(call(0.3), call(0.05), return_exceptions=True)
        with pytest.raises(TimeoutError):
            await call(10)

    run(main())
    assert values("waits", "waits")["Bulkhead", "queue"] >= 1
    assert values("wait.time", "waits")["Bulkhead", "queue"] > 0.1
    assert values("hedges", "waits")["Hedge", "delay"] >= 1
    assert values("timeouts", "waits")[("Timeout",)] >= 1
    assert values("circuit.transitions", "waits")["CircuitBreaker", "open"] == 1


def test_shadow_mode_and_chaos_are_counted() -> None:
    chaos = Chaos(Errors(share=1.0), enabled=True)
    pipeline = Pipeline(Retry(shadow=True), CircuitBreaker(fail_max=1, shadow=True), chaos, name="shadow")
    for _ in range(3):
        attempt(pipeline.call, lambda: None)
    assert values("shadow.actions", "shadow") == {("CircuitBreaker", "reject"): 2, ("Retry", "retry"): 3}
    assert sum(values("faults", "shadow").values()) == 3
    assert values("attempts", "shadow") == {}  # the function itself was not called


def test_results_that_are_failures_are_counted_as_such() -> None:
    """Also where no policy asks for the verdict."""
    pipeline = Pipeline(Bulkhead(1), classify=Classifier(results=lambda result: result < 0), name="results")
    for result in (1, -1, -1):
        pipeline.call(lambda result=result: result)
    expected = {("success", "success"): 1, ("failure", "failure"): 2}
    assert values("calls", "results") == values("attempts", "results") == expected


def test_errors_of_the_users_own_code_are_no_evidence() -> None:
    """A key function that raises: the call failed, and the dependency was not called."""
    pipeline = Pipeline(Keyed(CircuitBreaker, key=lambda number: 1 / number), name="callback")
    with pytest.raises(ZeroDivisionError):
        pipeline.call(lambda number: None, 0)
    assert values("calls", "callback") == {("failure", "nothing"): 1}
    assert values("attempts", "callback") == {}


def test_nested_pipelines_are_counted_by_their_own_names() -> None:
    """Attempts are those of the outermost pipeline, which calls the function."""
    inner = Pipeline(Retry(attempts=2, wait=0), name="nested inside")
    outer = Pipeline(Timeout(5), inner, name="nested outside")
    attempt(outer.call, fails(ConnectionError()))
    outer.call(lambda: None)
    for name in ("nested inside", "nested outside"):
        assert values("calls", name) == {("failure", "failure"): 1, ("success", "success"): 1}
    assert values("attempts", "nested outside") == {("failure", "failure"): 2, ("success", "success"): 1}
    assert values("attempts", "nested inside") == {}
    assert values("retries", "nested inside") == {("Retry",): 1}


def test_switched_off_pipeline_is_not_counted_and_says_so() -> None:
    pipeline = Pipeline(Bulkhead(1), name="switched")
    with pipeline.switch("off"):
        pipeline.call(lambda: None)
        assert values("pipeline.mode", "switched")[("off",)] == 1
    assert values("calls", "switched") == {}
    assert values("pipeline.mode", "switched") == {("off",): 0, ("on",): 1, ("once",): 0, ("instant",): 0}


def test_cancelled_calls_are_counted_in_every_state() -> None:
    """Before they start nothing has happened; in a queue, in a pause and in the function they are cancelled."""
    pipeline = Pipeline(Retry(wait=10), Bulkhead(1, queue=1), name="cancelled")

    @pipeline
    async def call(hangs: bool) -> None:
        if hangs:
            await asyncio.sleep(100)
        raise ConnectionError

    async def main() -> None:
        never = asyncio.create_task(call(True))
        never.cancel()
        inside = asyncio.create_task(call(True))
        await asyncio.sleep(1)
        queued = asyncio.create_task(call(True))
        await asyncio.sleep(1)
        queued.cancel()
        inside.cancel()
        pause = asyncio.create_task(call(False))
        await asyncio.sleep(1)
        pause.cancel()
        await asyncio.wait([never, inside, queued, pause])

    run(main())
    assert values("calls", "cancelled") == {("cancelled", "nothing"): 3}
    assert values("attempts", "cancelled") == {("cancelled", "nothing"): 1, ("failure", "failure"): 1}
    assert values("calls.in_flight", "cancelled") == {(): 0}


def test_calls_in_flight_are_counted_by_name() -> None:
    first, second = Pipeline(Bulkhead(9), name="in flight"), Pipeline(Bulkhead(9), name="in flight")

    def inside() -> dict[tuple[str, ...], Any]:
        return second.call(lambda: values("calls.in_flight", "in flight"))

    assert first.call(inside) == {(): 2}
    assert values("calls.in_flight", "in flight") == {(): 0}


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
    assert len(counters.counters_of("anew")._calls[1]) < 5


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


# -- durations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1e-9, 0.0099, 0.5, 1.0, 1.0000001, 64.0, 3600.0])
def test_bucket_of_a_duration_contains_it(seconds: float) -> None:
    """The upper bound belongs to the bucket."""
    histogram = DurationHistogram()
    histogram.record(seconds)
    (index,) = histogram.state()[0]
    low, high = 2 ** (index / BUCKETS_PER_OCTAVE), 2 ** ((index + 1) / BUCKETS_PER_OCTAVE)
    assert low < seconds <= high * (1 + 1e-12)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e99, math.inf, 2.0**20])
def test_durations_out_of_range_are_in_the_last_bucket(seconds: float) -> None:
    histogram = DurationHistogram()
    histogram.record(seconds)
    assert list(histogram.state()[0].values()) == [1]


def test_durations_are_recorded_while_anyone_wants_them() -> None:
    pipeline = Pipeline(Bulkhead(1), Timeout(5), name="durations")

    @pipeline
    async def call(seconds: float) -> None:
        await asyncio.sleep(seconds)

    def count() -> int:
        return sum(values("call.duration", "durations").values())

    run(call(1))
    assert count() == 0
    first, second = record_durations(), record_durations(attempts=True)
    run(call(1))
    first()
    first()
    run(call(2))
    second()
    run(call(3))
    assert count() == 2
    found = {
        metric.name: series.value
        for metric, each in read().items()
        for series in each
        if series.labels[:1] == ("durations",)
    }
    durations = found["resilient.call.duration"]
    assert isinstance(durations, Histogram)
    assert durations.sum == pytest.approx(3)
    assert list(durations.buckets) == [-1, 31]
    assert found["resilient.attempt.duration"] == durations


def test_failures_have_their_own_durations() -> None:
    stop = record_durations(attempts=True)
    pipeline = Pipeline(Retry(attempts=2, wait=0), name="failing durations")
    attempt(pipeline.call, fails(ConnectionError()))
    stop()
    assert values("call.duration", "failing durations") == {("failure",): 1}
    assert values("attempt.duration", "failing durations") == {("failure",): 2}


def test_nested_pipelines_have_durations_of_their_own() -> None:
    """A call of the outer one is a call of the inner one, for as long as it is inside."""
    stop = record_durations()
    inner = Pipeline(Retry(attempts=2, wait=0), name="durations inside")
    outer = Pipeline(Timeout(5), inner, name="durations outside")

    @outer
    async def call(fails: bool) -> None:
        await asyncio.sleep(1)
        if fails:
            raise ConnectionError

    async def main() -> None:
        await call(False)
        with pytest.raises(ConnectionError):
            await call(True)

    run(main())
    stop()
    for name in ("durations inside", "durations outside"):
        assert values("call.duration", name) == {("success",): 1, ("failure",): 1}


def test_failed_and_slow_calls_are_examples() -> None:
    """The labels come from a function that is called in the context of the call."""
    stop = record_durations(exemplar=lambda: {"trace_id": "7"}, slow=1.0)
    pipeline = Pipeline(Bulkhead(5), name="examples")

    @pipeline
    async def call(seconds: float, error: Exception | None = None) -> None:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error

    async def main() -> None:
        await call(0.5)
        await call(2.0)
        with pytest.raises(ConnectionError):
            await call(0.25, ConnectionError())

    run(main())
    stop()
    (metric,) = [metric for metric in read() if metric.name == "resilient.call.duration"]
    found = {series.labels: series.value for series in read()[metric] if series.labels[0] == "examples"}
    good, bad = found["examples", "success"], found["examples", "failure"]
    assert isinstance(good, Histogram)
    assert isinstance(bad, Histogram)
    (example,) = good.exemplars.values()
    assert example == Exemplar({"trace_id": "7"}, pytest.approx(2.0), example.at)
    assert abs(example.at - time.time()) < 60
    assert [each.seconds for each in bad.exemplars.values()] == [pytest.approx(0.25)]


def test_exemplar_that_raises_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    stop = record_durations(exemplar=lambda: {}["broken"], slow=0)
    assert Pipeline(Bulkhead(5), name="bad example").call(lambda: 7) == 7
    stop()
    assert "which returns the labels of an exemplar" in caplog.text


def test_arguments_of_recording_are_checked() -> None:
    with pytest.raises(TypeError, match="exemplar"):
        record_durations(exemplar=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="slow"):
        record_durations(slow=-1)
    with pytest.raises(TypeError, match="attempts"):
        record_durations(attempts="yes")  # type: ignore[arg-type]


# -- threads and forks ------------------------------------------------------------------------------------------------


def test_counts_are_whole_in_eight_threads() -> None:
    """Nothing is lost, while another thread reads all the time; and no counter ever falls."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), Bulkhead(8), name="threads")
    number, done, fell = 5_000, threading.Event(), []

    def work() -> None:
        good, bad = pipeline(lambda: None), pipeline(fails(ConnectionError()))
        for at in range(number):
            attempt(bad if at % 10 == 0 else good)

    def reader() -> None:
        before: dict[tuple[str, ...], Any] = {}
        while not done.is_set():
            now = values("calls", "threads")
            fell.extend(key for key, value in before.items() if now[key] < value)
            before = now

    threads = [threading.Thread(target=work) for _ in range(8)]
    reading = threading.Thread(target=reader)
    for thread in (reading, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reading.join()
    assert fell == []
    assert values("calls", "threads") == {("success", "success"): 36_000, ("failure", "failure"): 4_000}
    assert values("attempts", "threads") == {("success", "success"): 36_000, ("failure", "failure"): 8_000}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_counts_from_zero() -> None:
    """Also a child that is forked while another thread reads."""
    pipeline = Pipeline(Bulkhead(1), name="forked")
    pipeline.call(lambda: None)
    done = threading.Event()

    def reader() -> None:
        while not done.is_set():
            registry.metrics()

    reading = threading.Thread(target=reader)
    reading.start()
    try:
        for _ in range(10):
            ours, theirs = os.pipe()
            child = os.fork()
            if not child:
                pipeline.call(lambda: None)
                pipeline.call(lambda: None)
                os.write(theirs, json.dumps(list(values("calls", "forked").items())).encode())
                os._exit(0)
            os.close(theirs)
            with os.fdopen(ours) as written:
                assert json.load(written) == [[["success", "success"], 2]]
            os.waitpid(child, 0)
    finally:
        done.set()
        reading.join()
    assert values("calls", "forked") == {("success", "success"): 1}
