"""Registration of the figures: one for a registry, with names that are free and options that make sense."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from resilient.observe.prometheus import register
from tests.observe.scrapes import (
    NewRegistry,
    guarded,
    make_calls,
    scrape_openmetrics,
    scrape_text,
    value,
)


def test_second_registration_in_one_registry_is_an_error_at_once(new_registry: NewRegistry) -> None:
    """Otherwise each line would appear twice, and Prometheus would refuse the scrape."""
    registry = new_registry()
    before = generate_latest(registry).decode().splitlines()
    with pytest.raises(ValueError, match="in this registry already"):
        register(registry)
    lines = generate_latest(registry).decode().splitlines()
    assert len(lines) == len(set(lines)) == len(before)


def test_two_registries_show_the_same_figures(new_registry: NewRegistry) -> None:
    """Each registry has its own buckets and histograms."""
    one, other = new_registry(buckets=[1]), new_registry(durations=None)
    make_calls(guarded("twice"), 4)
    for registry in (one, other):
        assert value(scrape_text(registry), "resilient_calls_total", pipeline="twice") == 4
    assert value(scrape_text(one), "resilient_call_duration_seconds_count", pipeline="twice") == 4
    assert "resilient_call_duration_seconds" not in scrape_text(other)


def test_name_of_the_users_own_metric_is_an_error_that_names_it() -> None:
    """The registry stays as it was, and can be used once the metric is gone."""
    registry = CollectorRegistry()
    theirs = Counter("resilient_calls", "The user's own.", registry=registry)
    with pytest.raises(ValueError, match=r"names of resilient's: resilient_calls, .*register\(CollectorRegistry"):
        register(registry)
    assert list(scrape_openmetrics(registry)) == ["resilient_calls"]
    registry.unregister(theirs)
    register(registry)()
    assert scrape_text(registry) == {}


def test_users_own_metric_cannot_take_a_name_of_ours_later(new_registry: NewRegistry) -> None:
    """The client refuses it, because the collector describes its metrics, those without figures included."""
    registry = new_registry()
    for name in ("resilient_calls", "resilient_scrape_errors", "resilient_call_duration_seconds"):
        with pytest.raises(ValueError, match="Duplicated"):
            Gauge(name, "The user's own.", registry=registry)


def test_ended_registration_shows_nothing_and_can_be_made_again() -> None:
    """The function that ends it can be called twice, and does not end a later registration."""
    registry = CollectorRegistry()
    end = register(registry)
    assert scrape_text(registry)
    end()
    assert generate_latest(registry) == b""
    end_again = register(registry, durations=None)
    end()
    assert scrape_text(registry)
    end_again()
    assert generate_latest(registry) == b""


def test_registry_that_is_dropped_is_garbage() -> None:
    """A registration does not keep its registry, which may have been made for a test or a tenant."""
    registry = CollectorRegistry()
    register(registry, durations=None)
    dropped = weakref.ref(registry)
    del registry
    gc.collect()
    assert dropped() is None


def test_default_is_the_registry_of_the_client() -> None:
    """`register()` alone is enough for `start_http_server()`."""
    end = register()
    try:
        assert "resilient_calls" in scrape_text(prometheus_client.REGISTRY)
    finally:
        end()
    assert "resilient_calls" not in scrape_text(prometheus_client.REGISTRY)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"registry": prometheus_client}, TypeError, "CollectorRegistry"),
        ({"keys": -1}, ValueError, "keys must be a whole number >= 0, got -1"),
        ({"keys": True}, TypeError, "keys"),
        ({"durations": "all"}, ValueError, 'durations must be "calls", "attempts" or None, got \'all\''),
        ({"buckets": []}, ValueError, "buckets"),
        ({"exemplars": "trace_id"}, TypeError, "exemplars"),
        ({"slow": "1s"}, TypeError, "write 1"),
        ({"slow": -1}, ValueError, "slow"),
        ({"interval": 0}, ValueError, "interval"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, error: type[Exception], message: str) -> None:
    """Nothing is registered then."""
    registry = options.setdefault("registry", CollectorRegistry())
    with pytest.raises(error, match=message):
        register(**options)
    if isinstance(registry, CollectorRegistry):
        assert generate_latest(registry) == b""


def test_missing_extra_is_named() -> None:
    """Without prometheus-client the import says what to install."""
    program = (
        "import sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "try:\n    import resilient.observe.prometheus\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert 'pip install "resilient-middleware[prometheus]"' in done.stdout
