"""Exports of OpenTelemetry metrics begin and end: one for each provider, the global one, other processes."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from resilient.observe import metrics
from resilient.observe.opentelemetry import METER, export_metrics
from tests.observe.otel_world import CALLS, DURATION, Figures, collected

ROOT = Path(__file__).parents[2]
SUCCESS = ("users", "success", "success")


def test_second_export_through_a_provider_is_refused(provider: MeterProvider) -> None:
    """At once, because every figure would be there twice, or only once and of the wrong options."""
    export_metrics(provider)
    with pytest.raises(RuntimeError, match="exported through this MeterProvider already; call the function"):
        export_metrics(provider, keys=10)


def test_two_providers_can_export(figures: Figures, exporting: Any) -> None:
    """Each has its own instruments."""
    readers = InMemoryMetricReader(), InMemoryMetricReader()
    for each in readers:
        exporting(each)
    figures.set(CALLS.name, SUCCESS, 1)
    assert [set(collected(each)) for each in readers] == [{CALLS.name}] * 2


def test_stop_ends_all_observations(figures: Figures, provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """Nothing is read any more, and nothing is exported."""
    stop = export_metrics(provider)
    figures.set(CALLS.name, SUCCESS, 1)
    figures.durations({0: 1})
    assert set(collected(reader)) == {CALLS.name, DURATION.name}
    stop()
    assert collected(reader) == {}
    assert figures.reads == 1


def test_export_can_begin_again(figures: Figures, provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """With other options; the function that ended the first one does not end the second."""
    stop = export_metrics(provider)
    stop()
    export_metrics(provider, namespaced=False)
    stop()
    figures.set(CALLS.name, SUCCESS, 1)
    figures.durations({0: 1})
    found = collected(reader)
    assert set(found) == {CALLS.name, DURATION.name}
    assert set(found[CALLS.name].data.data_points[0].attributes) == {"pipeline", "ending", "verdict"}
    assert figures.reads == 1


def test_reader_and_provider_that_are_gone_end_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no reader is left, no call pays for durations. A reader alone goes on, as the thread of a periodic one."""
    ended: list[int] = []
    monkeypatch.setattr(metrics, "record_durations", lambda **options: lambda: ended.append(1))
    reader = InMemoryMetricReader()
    export_metrics(MeterProvider([reader], shutdown_on_exit=False))
    gc.collect()
    assert not ended
    del reader
    gc.collect()
    assert ended == [1]


def test_provider_that_does_nothing_is_taken() -> None:
    """A library's user may have switched telemetry off."""
    export_metrics(NoOpMeterProvider())()


def run(program: str) -> Any:
    """Run a program in a process of its own, and return what it printed, as JSON."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_global_provider_may_be_set_later() -> None:
    """What was exported through the global provider before it was set goes to it, durations as histograms, and once."""
    program = """
import json
from resilient.observe import metrics as figures
from resilient.observe.opentelemetry import export_metrics
from tests.observe.otel_world import ATTEMPT, CALLS, DURATION, Figures, collected
faked = Figures()
figures.read = faked.read
stop = export_metrics()
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
provider = MeterProvider([reader])
set_meter_provider(provider)
faked.set(CALLS.name, ("users", "success", "success"), 1)
faked.durations({0: 1})
found = [sorted(collected(reader)) for _ in range(2)]
errors = []
for again in (None, provider):
    try:
        export_metrics(again)
    except RuntimeError as error:
        errors.append(str(error)[:14])
stop()
found.append(sorted(collected(reader)))
export_metrics(provider)
faked.durations({0: 2})
found.append(sorted(collected(reader)))
print(json.dumps([found, errors]))
"""
    both = ["resilient.call.duration", "resilient.calls"]
    assert run(program) == [[both, both, [], both], ["export_metrics"] * 2]


def test_api_alone_has_counts_sums_and_quantiles() -> None:
    """Another implementation of the API gets no histogram, as the API has none that can be observed. The SDK is not
    imported."""
    program = """
import json, sys
sys.modules["opentelemetry.sdk"] = sys.modules["redis"] = None  # as if they were not installed
from opentelemetry.metrics import CallbackOptions, MeterProvider, NoOpMeter
from resilient.observe import metrics as figures
from resilient.observe.opentelemetry import export_metrics
made = {}

class Meter(NoOpMeter):
    def create_observable_counter(self, name, callbacks=None, unit="", description=""):
        made[name] = ["counter", unit, callbacks[0]]
    def create_observable_gauge(self, name, callbacks=None, unit="", description=""):
        made[name] = ["gauge", unit, callbacks[0]]

class Provider(MeterProvider):
    def get_meter(self, name, version=None, schema_url=None, attributes=None):
        return Meter(name)

HISTOGRAM = next(each for each in figures.TABLE if each.name == "resilient.call.duration")
buckets = {}

def read(*, keys=0):
    found = figures.Histogram(sum(buckets.values()), 7.5 if buckets else 0.0, dict(buckets), {})
    return {HISTOGRAM: [figures.Series(("users", "success"), found)]}

figures.read = read

def collect():
    found = {}
    for name, (kind, unit, callback) in made.items():
        observed = [[each.value, sorted(each.attributes.items())] for each in callback(CallbackOptions())]
        if observed:
            found[name] = [kind, unit, observed]
    return found

stop = export_metrics(Provider())
buckets.update({0: 90, 32: 10})
first = collect()
buckets[64] = 1
second = collect()
third = collect()
stop()
print(json.dumps([first, second, third, collect(), "opentelemetry.sdk.metrics" in sys.modules]))
"""
    first, second, third, stopped, sdk = run(program)
    users = [["resilient.ending", "success"], ["resilient.pipeline.name", "users"]]
    assert first["resilient.call.duration.count"] == ["counter", "{call}", [[100, users]]]
    assert first["resilient.call.duration.sum"] == ["counter", "s", [[7.5, users]]]
    kind, unit, quantiles = first["resilient.call.duration.quantile"]
    assert (kind, unit) == ("gauge", "s")
    assert [(each[0], dict(each[1])["resilient.quantile"]) for each in quantiles] == [
        (pytest.approx(1.011, rel=0.001), "0.5"),
        (pytest.approx(2.022, rel=0.001), "0.95"),
        (pytest.approx(2.022, rel=0.001), "0.99"),
    ]
    recent = [each[0] for each in second["resilient.call.duration.quantile"][2]]
    assert recent == pytest.approx([4.044] * 3, rel=0.001)
    assert "resilient.call.duration.quantile" not in third
    assert (stopped, sdk) == ({}, False)


def test_package_names_its_extra() -> None:
    """Without OpenTelemetry, the error says what to install; `import resilient` does not need it."""
    program = """
import json, sys
sys.modules["opentelemetry"] = None
import resilient
try:
    import resilient.observe.opentelemetry
except ImportError as error:
    print(json.dumps(str(error)))
"""
    assert 'pip install "resilient-middleware[otel]"' in run(program)


def test_import_of_resilient_is_without_exporters() -> None:
    """An extra that is not used costs nothing. (pybreaker imports redis if it is there, and redis OpenTelemetry.)"""
    program = """
import json, sys
sys.modules["opentelemetry"] = sys.modules["redis"] = None
import resilient, resilient.registry
print(json.dumps(sorted(each for each in sys.modules if each.startswith("resilient.observe.opentelemetry"))))
"""
    assert run(program) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.parametrize("temporality", ["CUMULATIVE", "DELTA"])
def test_forked_child_exports_its_own_figures(temporality: str) -> None:
    """Durations and counters begin anew with their own start; what the parent counted is not subtracted."""
    program = f"""
import json, os
from opentelemetry.sdk.metrics import Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from resilient.observe import metrics as figures
from resilient.observe.opentelemetry import export_metrics
from tests.observe.otel_world import ATTEMPT, CALLS, DURATION, Figures, collected
faked = Figures()
figures.read = faked.read
wanted = AggregationTemporality.{temporality}
reader = InMemoryMetricReader(preferred_temporality={{Histogram: wanted, ObservableCounter: wanted}})
provider = MeterProvider([reader])
export_metrics(provider)

def count(n):
    faked.set(CALLS.name, ("users", "success", "success"), n)
    faked.durations({{0: n}}, float(n))
    found = collected(reader)
    (calls,), (durations,) = (found[name].data.data_points for name in (CALLS.name, DURATION.name))
    return [calls.value, durations.count, durations.start_time_unix_nano, durations.time_unix_nano]

parent = [count(5), count(7)]
receive, send = os.pipe()
if os.fork() == 0:
    os.write(send, json.dumps([count(2), count(3)]).encode())
    os._exit(0)
os.wait()
print(json.dumps([*parent, *json.loads(os.read(receive, 10_000)), count(8)]))
"""
    found = run(program)
    expected = [5, 7, 2, 3, 8] if temporality == "CUMULATIVE" else [5, 2, 2, 1, 1]
    assert [each[1] for each in found] == expected
    assert [each[0] for each in found] == expected
    starts, ends = [each[2] for each in found], [each[3] for each in found]
    assert starts[2] > ends[1]  # after the fork
    if temporality == "CUMULATIVE":
        assert starts[0] == starts[1] == starts[4]
        assert starts[2] == starts[3]
    else:
        assert starts[1:2] + starts[3:] == [ends[0], ends[2], ends[1]]


def test_disabled_sdk_gets_nothing(figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    """With OTEL_SDK_DISABLED the meter does nothing, and no durations are recorded."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    recorded: list[object] = []
    monkeypatch.setattr(metrics, "record_durations", lambda **options: recorded.append(options))
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    assert isinstance(provider.get_meter(METER), NoOpMeter)
    export_metrics(provider)()
    figures.durations({0: 1})
    assert (collected(reader), recorded) == ({}, [])
