"""Figures as OpenTelemetry metrics: the instruments, one reading for each collection, and the end of an export."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, InMemoryMetricReader, Sum
from opentelemetry.sdk.metrics.view import DropAggregation, View

from resilient.observe import metrics
from resilient.observe.metrics import TABLE, prometheus_name
from resilient.observe.opentelemetry import attribute, export_metrics, observations
from tests.observe.otel_world import ATTEMPT, CALLS, DURATION, Figures, collected

ROOT = Path(__file__).parents[2]
SUCCESS = ("users", "success", "success")


def test_every_metric_of_the_table_is_exported(
    figures: Figures, provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """Name, unit, description and value are those of the table and of the figures."""
    export_metrics(provider, durations="attempts")
    for place, metric in enumerate(TABLE):
        labels = tuple(f"a {label}" for label in metric.labels)
        if metric.kind == "histogram":
            figures.durations({0: 1}, labels=labels, name=metric.name)
        else:
            figures.set(metric.name, labels, place)
    found = collected(reader)
    assert set(found) == {metric.name for metric in TABLE}
    for place, metric in enumerate(TABLE):
        assert (found[metric.name].unit, found[metric.name].description) == (metric.unit, metric.help)
        (point,) = found[metric.name].data.data_points
        assert point.attributes == {attribute(label): f"a {label}" for label in metric.labels}
        if metric.kind != "histogram":
            assert point.value == place


def test_kind_of_instrument_follows_from_the_table(
    figures: Figures, provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """Counters are monotonic sums; what can be added up is a sum, too; ratios and seconds are gauges."""
    export_metrics(provider)
    for metric in TABLE:
        if metric.kind != "histogram":
            figures.set(metric.name, metric.labels, 1)
    for name, metric in collected(reader).items():
        (kind, unit) = next((each.kind, each.unit) for each in TABLE if each.name == name)
        if kind == "counter":
            assert isinstance(metric.data, Sum)
            assert metric.data.is_monotonic
        elif unit.startswith("{") or name == "resilient.pipeline.mode":
            assert isinstance(metric.data, Sum)
            assert not metric.data.is_monotonic
        else:
            assert isinstance(metric.data, Gauge)


def test_units_are_of_ucum() -> None:
    """As the semantic conventions ask: seconds, ratios, and annotations in braces in the singular."""
    for metric in TABLE:
        assert metric.unit in ("s", "1") or (metric.unit[0] + metric.unit[-1] == "{}" and metric.unit[-2] != "s")


def test_names_in_prometheus_are_the_same_behind_otlp() -> None:
    """Collectors translate names by the rules of the specification, so dashboards hold for both ways. Only a ratio may
    get a suffix more."""
    for metric in TABLE:
        name = metric.name.replace(".", "_")
        if metric.unit == "s":
            name += "_seconds"
        if metric.kind == "counter":
            name += "_total"
        assert prometheus_name(metric) in (name, f"{name}_ratio")
        assert metric.unit in ("s", "1") or metric.unit[0] == "{"  # other units would get a suffix


def test_attributes_are_namespaced() -> None:
    """Names of entities end in `.name`, and no key is the namespace of another."""
    assert attribute("pipeline") == "resilient.pipeline.name"
    assert attribute("policy") == "resilient.policy.name"
    keys = {attribute(label) for metric in TABLE for label in (*metric.labels, "key", "quantile")}
    assert all(key.startswith("resilient.") for key in keys)
    assert not any(other.startswith(f"{key}.") for key in keys for other in keys)


def test_attributes_can_be_the_plain_labels(
    figures: Figures, provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """Behind OTLP, Prometheus then has the labels that dashboards and rules use."""
    export_metrics(provider, namespaced=False)
    figures.set(CALLS.name, SUCCESS, 1)
    (point,) = collected(reader)[CALLS.name].data.data_points
    assert point.attributes == {"pipeline": "users", "ending": "success", "verdict": "success"}


def test_keys_are_an_attribute(figures: Figures, provider: MeterProvider, reader: InMemoryMetricReader) -> None:
    """With `keys`, gauges have one label more than the table says; a policy without keys has no such attribute."""
    export_metrics(provider, keys=7)
    figures.set("resilient.circuit.state", ("users", "breaker", "open", "https://a:443"), 2)
    figures.set("resilient.circuit.state", ("users", "breaker", "closed", ""), 1)
    metric = collected(reader)["resilient.circuit.state"]
    found = {
        point.attributes["resilient.state"]: point.attributes.get("resilient.key") for point in metric.data.data_points
    }
    assert found == {"open": "https://a:443", "closed": None}
    assert set(figures.keys) == {7}


def test_figures_are_read_once_for_each_collection(
    figures: Figures, provider: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """All instruments share the reading, so their values belong together."""
    export_metrics(provider)
    figures.set(CALLS.name, SUCCESS, 1)
    for count in (1, 2, 3):
        collected(reader)
        assert figures.reads == count


def test_collection_that_another_instrument_begins_reads_once(figures: Figures, exporting: Any) -> None:
    """Which instrument is asked first does not matter, nor which ones a reader has."""
    reader = InMemoryMetricReader()
    views = [View(instrument_name=TABLE[0].name, aggregation=DropAggregation())]
    exporting(reader, views=views)
    figures.set("resilient.calls.in_flight", ("users",), 1)
    for count in (1, 2):
        assert set(collected(reader)) == {"resilient.calls.in_flight"}
        assert figures.reads == count


def test_reading_is_shared_for_a_short_time_only(figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instrument that is asked much later than the others does not get what these have read."""
    now = 100.0
    monkeypatch.setattr(observations.time, "monotonic", lambda: now)
    export = observations.Export(0, (), str, lambda: None)
    figures.set("resilient.retries", ("users", "Retry"), 1)
    assert [each.value for each in export.numbers("resilient.retries", continuous=False)] == [1]
    figures.set("resilient.timeouts", ("users", "Timeout"), 2)
    assert list(export.numbers("resilient.timeouts", continuous=False)) == []
    now += 2
    figures.set("resilient.fallbacks", ("users", "Fallback"), 3)
    assert [each.value for each in export.numbers("resilient.fallbacks", continuous=False)] == [3]
    assert figures.reads == 2


def test_each_reader_reads_anew(figures: Figures, exporting: Any) -> None:
    """A reader does not get what another one has read earlier."""
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    exporting(*readers)
    for place, reader in enumerate(readers * 2):
        figures.set(CALLS.name, SUCCESS, place)
        (point,) = collected(reader)[CALLS.name].data.data_points
        assert point.value == place


def test_readers_that_collect_at_once_get_whole_readings(
    figures: Figures, exporting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads collect at the same time; each gets values that were read together."""
    readers = [InMemoryMetricReader() for _ in range(4)]
    exporting(*readers)
    wrong: list[tuple[int, int]] = []
    read, lock = figures.read, threading.Lock()

    def consistent(*, keys: int = 0) -> Any:
        with lock:
            number = figures.reads
            figures.set(CALLS.name, SUCCESS, number)
            figures.set("resilient.calls.in_flight", ("users",), number)
            figures.durations({0: number + 1})
            return read(keys=keys)

    monkeypatch.setattr(metrics, "read", consistent)

    def collect(reader: InMemoryMetricReader) -> None:
        for _ in range(50):
            found = collected(reader)
            calls, flying = (
                found[name].data.data_points[0].value for name in (CALLS.name, "resilient.calls.in_flight")
            )
            if calls != flying:
                wrong.append((calls, flying))

    threads = [threading.Thread(target=collect, args=(reader,)) for reader in readers]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
    assert figures.reads == 200


@pytest.mark.parametrize(
    ("durations", "expected"),
    [("calls", {DURATION.name}), ("attempts", {DURATION.name, ATTEMPT.name}), (None, set())],
)
def test_durations_that_others_record_are_not_exported(
    figures: Figures, provider: MeterProvider, reader: InMemoryMetricReader, durations: Any, expected: set[str]
) -> None:
    """Only those that this export asks for."""
    export_metrics(provider, durations=durations)
    for metric in (DURATION, ATTEMPT):
        figures.durations({0: 1}, name=metric.name)
    assert set(collected(reader)) == expected


@pytest.mark.parametrize(("durations", "attempts"), [("calls", False), ("attempts", True), (None, None)])
def test_durations_are_recorded_while_they_are_exported(
    provider: MeterProvider, monkeypatch: pytest.MonkeyPatch, durations: Any, attempts: bool | None
) -> None:
    """No longer, and never if they are not wanted."""
    log: list[object] = []

    def record(*, attempts: bool, exemplar: object, slow: float) -> Any:
        log.append(attempts)
        return lambda: log.append("ended")

    monkeypatch.setattr(metrics, "record_durations", record)
    stop = export_metrics(provider, durations=durations)
    assert log == ([] if attempts is None else [attempts])
    stop()
    stop()
    assert log == ([] if attempts is None else [attempts, "ended"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"meter_provider": "otlp"}, TypeError, "meter_provider must be an OpenTelemetry MeterProvider, or None"),
        ({"keys": -1}, ValueError, "keys must be a whole number >= 0, got -1"),
        ({"keys": True}, TypeError, "keys must be a whole number >= 0, got True"),
        ({"durations": "call"}, ValueError, 'durations must be "calls", "attempts" or None, got \'call\''),
        ({"exemplars": 1}, TypeError, "exemplars must be True or False, got 1"),
        ({"namespaced": None}, TypeError, "namespaced must be True or False, got None"),
        (
            {"slow": "1s", "exemplars": True},
            TypeError,
            "slow must be a finite number of seconds > 0, got '1s': write 1",
        ),
        ({"slow": 0.0, "exemplars": True}, ValueError, "slow must be a finite number of seconds > 0, got 0.0"),
        ({"slow": 2.0}, ValueError, "it needs exemplars=True"),
    ],
)
def test_bad_argument_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """At once, with the value and what would be right."""
    with pytest.raises(error) as raised:
        export_metrics(**arguments)
    assert message in str(raised.value)
