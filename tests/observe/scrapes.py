"""Scrapes of a registry, for tests: parsed in both formats; and pipelines with something to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from resilient import Bulkhead, Pipeline
from resilient.observe.prometheus import register

Families = dict[str, prometheus_client.Metric]
NewRegistry = Callable[..., CollectorRegistry]
"""The fixture `new_registry`: returns a registry in which the figures are registered with these options."""

Scrape = Callable[[CollectorRegistry], Families]


@pytest.fixture
def new_registry() -> Iterator[NewRegistry]:
    """Return a function that registers the figures in a registry (default: a new one), until the end of the test."""
    ends: list[Callable[[], None]] = []

    def begin(registry: CollectorRegistry | None = None, **options: Any) -> CollectorRegistry:
        registry = CollectorRegistry() if registry is None else registry
        ends.append(register(registry, **options))
        return registry

    yield begin
    for end in ends:
        end()


def scrape_text(registry: CollectorRegistry) -> Families:
    """The families of a scrape in the text format, by name."""
    return {each.name: each for each in parse_text(generate_latest(registry).decode())}


def scrape_openmetrics(registry: CollectorRegistry) -> Families:
    """The families of a scrape in OpenMetrics, by name."""
    return {each.name: each for each in parse_openmetrics(openmetrics.generate_latest(registry).decode())}


def value(families: Families, name: str, **labels: str) -> float:
    """The sum of the samples of this name with these labels, and perhaps others."""
    return sum(
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def errors(registry: CollectorRegistry) -> float:
    """How many errors the exporter has counted."""
    return registry.get_sample_value("resilient_scrape_errors_total") or 0.0


def guarded(name: str) -> Pipeline:
    """A new pipeline of this name, which lets every call pass."""
    return Pipeline(Bulkhead(9), name=name)


def succeed() -> int:
    """A function that succeeds."""
    return 7


def fail() -> None:
    """A function that fails."""
    raise OSError


def make_calls(pipeline: Pipeline, successes: int, failures: int = 0) -> None:
    """Make calls that succeed, and calls that fail."""
    for _ in range(successes):
        pipeline(succeed)()
    for _ in range(failures):
        with pytest.raises(OSError):
            pipeline(fail)()
