"""Real pipelines exported through the OpenTelemetry SDK: what arrives is what has happened."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from resilient import Bulkhead, CircuitBreaker, Keyed, Pipeline, Retry
from resilient.observe.opentelemetry import export_metrics
from tests.observe.otel_world import collected, receiver

ROOT = Path(__file__).parents[2]
_numbers = itertools.count()
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


@pytest.fixture
def name() -> str:
    """The name of a pipeline that no other test has used: figures of one name are one series."""
    return f"otel-{next(_numbers)}"


@pytest.fixture
def export(provider: MeterProvider) -> Iterator[Callable[..., None]]:
    """Export the figures of this process through the provider, until the end of the test."""
    stops = []
    yield lambda **options: stops.append(export_metrics(provider, **options))
    for stop in stops:
        stop()


def values(metric: Any, pipeline: str) -> dict[tuple[str, ...], Any]:
    """Return the points of one pipeline by the values of their other attributes."""
    return {
        tuple(value for key, value in point.attributes.items() if key != "resilient.pipeline.name"): point
        for point in metric.data.data_points
        if point.attributes["resilient.pipeline.name"] == pipeline
    }


def numbers(metric: Any, pipeline: str) -> dict[tuple[str, ...], float]:
    """Return the values of one pipeline by its other attributes, without zeros."""
    return {key: point.value for key, point in values(metric, pipeline).items() if point.value}


class Dependency:
    """A function that takes so many seconds, or fails."""

    def __init__(self, *outcomes: float | Exception) -> None:
        self._outcomes = iter(outcomes)

    async def __call__(self) -> None:
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        await asyncio.sleep(outcome)


@pytest.mark.virtual_time
async def test_calls_and_durations_are_those_that_were_made(
    export: Callable[..., None], reader: InMemoryMetricReader, name: str
) -> None:
    """Four calls, of which one was repeated and one failed."""
    export(durations="attempts")
    dependency = Dependency(0.1, OSError("gone"), 0.2, 3.0, OSError("gone"), OSError("gone"))
    call = Pipeline(Retry(attempts=2, wait=1.0), name=name)(dependency.__call__)
    for _ in range(3):
        await call()
    with pytest.raises(OSError, match="gone"):
        await call()
    found = collected(reader)
    assert numbers(found["resilient.calls"], name) == {("success", "success"): 3, ("failure", "failure"): 1}
    assert numbers(found["resilient.attempts"], name) == {("success", "success"): 3, ("failure", "failure"): 3}
    assert numbers(found["resilient.retries"], name) == {("Retry",): 2}
    assert numbers(found["resilient.wait.time"], name) == {("Retry", "backoff"): 2.0}
    calls, attempts = (values(found[f"resilient.{what}.duration"], name) for what in ("call", "attempt"))
    assert {key: point.count for key, point in calls.items()} == {("success",): 3, ("failure",): 1}
    assert {key: point.count for key, point in attempts.items()} == {("success",): 3, ("failure",): 3}
    assert calls["success",].sum + calls["failure",].sum == pytest.approx(5.3)
    assert attempts["success",].sum == pytest.approx(3.3)
    assert attempts["failure",].zero_count == 3  # virtual time stood still
    for point in (calls["success",], attempts["success",]):
        longest = point.positive.offset + len(point.positive.bucket_counts) - 1
        assert 2 ** (longest / 2**point.scale) < 3.0 <= 2 ** ((longest + 1) / 2**point.scale)


async def test_calls_arrive_over_otlp(name: str) -> None:
    """At a real receiver, once more after it was away."""
    with receiver() as found:
        exporter = OTLPMetricExporter(endpoint=found.endpoint)
        provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))])
        stop = export_metrics(provider)
        call = Pipeline(Bulkhead(5), CircuitBreaker(), name=name)(Dependency(*[0] * 7).__call__)
        for _ in range(7):
            await call()
        await asyncio.to_thread(provider.force_flush)
        stop()
        await asyncio.to_thread(provider.shutdown)
    metrics = found.metrics()

    def of_pipeline(points: Any) -> list[tuple[dict[str, str], Any]]:
        attributes = [({each.key: each.value.string_value for each in point.attributes}, point) for point in points]
        return [(each, point) for each, point in attributes if each.get("resilient.pipeline.name") == name]

    (calls,) = (point for _, point in of_pipeline(metrics["resilient.calls"].sum.data_points) if point.as_int)
    ((_, durations),) = of_pipeline(metrics["resilient.call.duration"].exponential_histogram.data_points)
    states = of_pipeline(metrics["resilient.circuit.state"].sum.data_points)
    ((_, permits),) = of_pipeline(metrics["resilient.permits.limit"].sum.data_points)
    assert (calls.as_int, durations.count, sum(durations.positive.bucket_counts)) == (7, 7, 7)
    assert {each["resilient.state"]: point.as_int for each, point in states}["closed"] == 1
    assert permits.as_int == 5


@pytest.mark.parametrize("options", [{}, {"durations": "attempts"}, {"exemplars": True}], ids=str)
async def test_no_code_of_opentelemetry_runs_in_a_call(
    export: Callable[..., None], name: str, options: dict[str, Any]
) -> None:
    """Also while durations are recorded, and where exemplars are wanted of calls that fail."""
    export(**options)
    call = Pipeline(Retry(), Bulkhead(5), CircuitBreaker(), name=name)(Dependency(0, 0).__call__)
    await call()
    modules: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        modules.add(frame.f_globals.get("__name__", ""))

    sys.setprofile(note)
    try:
        await call()
    finally:
        sys.setprofile(None)
    assert any(each.startswith("resilient.") for each in modules)
    assert not [each for each in modules if each.startswith(("opentelemetry", "resilient.observe"))]


@pytest.mark.parametrize(("sampler", "sampled"), [(ALWAYS_ON, True), (ALWAYS_OFF, False)])
async def test_exemplars_lead_from_durations_to_traces(
    export: Callable[..., None], reader: InMemoryMetricReader, name: str, sampler: Sampler, sampled: bool
) -> None:
    """Of a call that failed: the span around it. Of one that succeeded, or that is not sampled: none."""
    export(exemplars=True)
    call = Pipeline(Retry(attempts=1), name=name)(Dependency(0, OSError("gone")).__call__)
    tracer = TracerProvider(sampler, shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("good"):
        await call()
    with tracer.start_as_current_span("bad") as span, pytest.raises(OSError, match="gone"):
        await call()
    points = values(collected(reader)["resilient.call.duration"], name)
    assert points["success",].exemplars == []
    found = [(each.trace_id, each.span_id) for each in points["failure",].exemplars]
    context = span.get_span_context()
    assert found == ([(context.trace_id, context.span_id)] if sampled else [])


async def test_slow_calls_are_exemplars_too(
    export: Callable[..., None], reader: InMemoryMetricReader, name: str
) -> None:
    """From so many seconds on."""
    export(exemplars=True, slow=1e-6)
    call = Pipeline(Bulkhead(5), name=name)(Dependency(0.001).__call__)
    with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("slow") as span:
        await call()
    (exemplar,) = values(collected(reader)["resilient.call.duration"], name)["success",].exemplars
    assert exemplar.span_id == span.get_span_context().span_id
    assert exemplar.value >= 0.001


async def test_many_keys_stay_at_the_limit(
    export: Callable[..., None], reader: InMemoryMetricReader, name: str
) -> None:
    """10,000 keys are as many series as were asked for, and one for the rest."""
    export(keys=20)

    async def fetch(key: int) -> None:
        pass

    call = Pipeline(Keyed(CircuitBreaker, key=str, max_keys=20_000), name=name)(fetch)
    for key in range(10_000):
        await call(key)
    found = collected(reader)
    for metric in found.values():
        keys = {
            point.attributes.get("resilient.key")
            for point in metric.data.data_points
            if point.attributes.get("resilient.pipeline.name") == name
        }
        assert len(keys - {None}) <= 21
    states = values(found["resilient.circuit.state"], name)
    assert sum(point.value for point in states.values()) == 10_000


def run(program: str) -> Any:
    """Run a program that forks in a process of its own, and return what it printed, as JSON."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@forks
def test_forked_child_counts_its_own_calls() -> None:
    """The child's calls and durations are exported, and none of the parent's."""
    program = """
import json, os
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from resilient import Bulkhead, Pipeline
from resilient.observe.opentelemetry import export_metrics
from tests.observe.otel_world import collected
reader = InMemoryMetricReader()
provider = MeterProvider([reader], shutdown_on_exit=False)
export_metrics(provider)
guarded = Pipeline(Bulkhead(5), name="users")(lambda: None)

def call(times):
    for _ in range(times):
        guarded()
    found = collected(reader)
    (durations,) = found["resilient.call.duration"].data.data_points
    return [sum(point.value for point in found["resilient.calls"].data.data_points), durations.count]

before = call(5)
receive, send = os.pipe()
if os.fork() == 0:
    os.write(send, json.dumps(call(2)).encode())
    os._exit(0)
os.wait()
print(json.dumps([before, json.loads(os.read(receive, 1000)), call(1)]))
"""
    assert run(program) == [[5, 5], [2, 2], [6, 6]]


@forks
def test_fork_during_a_collection_leaves_calls_and_exports_working() -> None:
    """A thread reads the figures when the process is forked. The child has locks of its own: it makes calls, and
    exports figures through a provider that it makes."""
    program = """
import json, os, threading
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from resilient import Bulkhead, Pipeline
from resilient.observe import metrics as figures
from resilient.observe.opentelemetry import export_metrics
from tests.observe.otel_world import collected
reads, go_on, read = threading.Event(), threading.Event(), figures.read

def blocked(*, keys=0):
    reads.set()
    go_on.wait()
    return read(keys=keys)

def export():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    return reader, export_metrics(provider)

def calls(reader):
    return sum(point.value for point in collected(reader)["resilient.calls"].data.data_points)

guarded = Pipeline(Bulkhead(5), name="users")(lambda: None)
reader, stop = export()
guarded()
figures.read = blocked
thread = threading.Thread(target=calls, args=(reader,))
thread.start()
reads.wait()
receive, send = os.pipe()
if os.fork() == 0:
    figures.read = read
    stop()
    guarded()
    guarded()
    os.write(send, json.dumps(calls(export()[0])).encode())
    os._exit(0)
os.wait()
go_on.set()
thread.join()
print(json.dumps([json.loads(os.read(receive, 1000)), calls(reader)]))
"""
    assert run(program) == [2, 1]
