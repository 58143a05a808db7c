"""The metrics of pipelines as plain data: their table, what is counted, threads and forks."""

from __future__ import annotations

import asyncio
import json
import os
import threading
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
    Retry,
    Timeout,
    registry,
)
from resilient.chaos import Chaos
from resilient.core.policy import Policy
from resilient.faults import Errors
from resilient.observe.metrics import TABLE, prometheus_name
from resilient.testing import run
from tests.observe.metric_values import attempt, fails, values

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


@pytest.mark.parametrize("keyed", [False, True], ids=["", "keyed"])
def test_refusal_after_a_wait_is_counted_for_the_gate_that_refused(keyed: bool) -> None:
    """Not for a gate outside it, whose ticket the queue has given back."""

    def inner() -> Bulkhead:
        return Bulkhead(1, queue=1, queue_timeout=0.1, name="inner")

    gate = Keyed(inner, key=lambda: 1, name="by key") if keyed else inner()
    name = f"refused after a wait, {keyed}"

    @Pipeline(Bulkhead(5, name="outer"), gate, name=name)
    async def call() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        await asyncio.gather(*[call() for _ in range(3)], return_exceptions=True)

    run(main())
    policy = "by key" if keyed else "inner"
    assert values("rejections", name) == {(policy, "queue-timeout"): 1, (policy, "full"): 1}


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
