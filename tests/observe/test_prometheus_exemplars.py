"""Exemplars of failed and slow calls: in OpenMetrics, from the current span or a function."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.samples import Exemplar, Sample

from resilient import Pipeline
from resilient.observe import metrics
from resilient.observe.metrics import Histogram, Metric, Series
from resilient.testing import advance
from tests.observe.scrapes import NewRegistry, errors, fail, guarded, succeed


def exemplars(registry: CollectorRegistry, pipeline: str) -> list[tuple[Sample, Exemplar]]:
    """Return the buckets of a pipeline that have exemplars, as an OpenMetrics scrape shows them."""
    return [
        (sample, sample.exemplar)
        for family in parse_openmetrics(openmetrics.generate_latest(registry).decode())
        for sample in family.samples
        if sample.exemplar is not None and sample.labels["pipeline"] == pipeline
    ]


def failed(pipeline: Pipeline) -> None:
    with pytest.raises(OSError):
        pipeline(fail)()


def test_failed_call_leaves_the_identifiers_of_its_span(new_registry: NewRegistry) -> None:
    """A trace is one click away from the failure in a histogram."""
    registry = new_registry()
    users = guarded("traced")
    with TracerProvider().get_tracer("test").start_as_current_span("caller") as span:
        failed(users)
        users(succeed)()
    [(sample, exemplar)] = exemplars(registry, "traced")
    context = span.get_span_context()
    assert exemplar.labels == {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }
    assert sample.labels["ending"] == "failure"
    assert exemplar.value <= float(sample.labels["le"])
    assert exemplar.timestamp is not None
    assert "trace_id" not in generate_latest(registry).decode()


def test_call_without_a_sampled_span_leaves_nothing(new_registry: NewRegistry) -> None:
    """What is not sampled is in no backend."""
    registry = new_registry()
    users = guarded("untraced")
    failed(users)
    with TracerProvider(sampler=ALWAYS_OFF).get_tracer("test").start_as_current_span("caller"):
        failed(users)
    assert exemplars(registry, "untraced") == []
    assert errors(registry) == 0


@pytest.mark.virtual_time
async def test_slow_call_leaves_the_labels_of_the_function(new_registry: NewRegistry) -> None:
    """A call that took `slow` seconds has an exemplar in the bucket of its duration; a shorter one has none."""
    registry = new_registry(exemplars=lambda: {"request": "r1"}, slow=2)
    users = guarded("slow")

    @users
    async def wait(seconds: float) -> None:
        await advance(seconds)

    await wait(1.9)
    assert exemplars(registry, "slow") == []
    await wait(3.0)
    [(sample, exemplar)] = exemplars(registry, "slow")
    assert exemplar.labels == {"request": "r1"}
    assert exemplar.value == pytest.approx(3)
    assert sample.labels == {"pipeline": "slow", "ending": "success", "le": "4.0"}


def test_latest_exemplar_of_a_bucket_is_shown(new_registry: NewRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several recorded buckets are one classic bucket, which has one exemplar."""
    registry = new_registry(buckets=[1])
    metric = next(each for each in metrics.TABLE if each.name == "resilient.call.duration")
    recorded = {
        -40: metrics.Exemplar({"at": "3"}, 0.42, 3.0),
        -33: metrics.Exemplar({"at": "2"}, 0.49, 2.0),
        -34: metrics.Exemplar({"at": "4" * 200}, 0.48, 4.0),  # too long: another exporter asked for it
        -70: metrics.Exemplar({"at": "1"}, 0.22, 1.0),
        5: metrics.Exemplar({"at": "1.5"}, 1.12, 1.5),
    }
    series = Series(("p", "failure"), Histogram(5, 2.73, dict.fromkeys(recorded, 1), recorded))

    def read(*, keys: int) -> dict[Metric, list[Series]]:
        return {metric: [series]}

    monkeypatch.setattr(metrics, "read", read)
    assert [(sample.labels["le"], exemplar.labels["at"]) for sample, exemplar in exemplars(registry, "p")] == [
        ("1.0", "3"),
        ("+Inf", "1.5"),
    ]


def raises() -> Mapping[str, str]:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    "labels",
    [
        raises,
        lambda: {"trace_id": "x" * 121},
        lambda: {"trace-id": "x"},
        lambda: {"trace_id": 7},
        lambda: {7: "x"},
        lambda: {"trace_id": "\ud800"},
        lambda: "trace_id",
    ],
)
def test_labels_that_openmetrics_does_not_allow_break_nothing(
    new_registry: NewRegistry, labels: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The call ends as it would; the scrape has no exemplar; the error is counted, and logged once."""
    registry = new_registry(exemplars=labels)
    users = guarded("bad labels")
    failed(users)
    failed(users)
    assert exemplars(registry, "bad labels") == []
    assert errors(registry) == 2
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_labels_of_128_characters_are_allowed(new_registry: NewRegistry) -> None:
    """The limit of OpenMetrics counts names and values."""
    registry = new_registry(exemplars=lambda: {"trace_id": "ü" * 120})
    users = guarded("long labels")
    failed(users)
    [(_, exemplar)] = exemplars(registry, "long labels")
    assert exemplar.labels == {"trace_id": "ü" * 120}


def test_no_exemplar_where_opentelemetry_is_not_installed(
    new_registry: NewRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default asks for spans only where there can be some."""
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    registry = new_registry()
    with TracerProvider().get_tracer("test").start_as_current_span("caller"):
        failed(guarded("no opentelemetry"))
    assert exemplars(registry, "no opentelemetry") == []
    assert errors(registry) == 0


@pytest.mark.parametrize("options", [{"exemplars": False}, {"exemplars": lambda: None}, {"durations": None}])
def test_no_exemplar_where_none_is_wanted(new_registry: NewRegistry, options: Any) -> None:
    """They can be switched off for all calls, or by the function for one."""
    registry = new_registry(**options)
    users = guarded("none wanted")
    with TracerProvider().get_tracer("test").start_as_current_span("caller"):
        failed(users)
    assert exemplars(registry, "none wanted") == []


def test_slow_can_be_infinite(new_registry: NewRegistry) -> None:
    """Then only failed calls leave exemplars."""
    registry = new_registry(exemplars=lambda: {"request": "r1"}, slow=math.inf)
    users = guarded("never slow")
    users(succeed)()
    failed(users)
    assert [sample.labels["ending"] for sample, _ in exemplars(registry, "never slow")] == ["failure"]
