"""Scrapes of the figures: right in both formats, and through real servers."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.request
from typing import Any

import httpx
import prometheus_client
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from resilient import Bulkhead, CircuitBreaker, Keyed, Pipeline, Retry
from resilient.observe import metrics
from tests.observe.scrapes import (
    NewRegistry,
    Scrape,
    guarded,
    make_calls,
    scrape_openmetrics,
    scrape_text,
    value,
)
from tests.servers import find_program

BOTH = pytest.mark.parametrize("scrape", [scrape_text, scrape_openmetrics])


@BOTH
def test_scrape_shows_what_the_pipelines_did(new_registry: NewRegistry, scrape: Scrape) -> None:
    """Calls, attempts, retries and circuits have their numbers, in each format."""
    registry = new_registry()
    circuit = CircuitBreaker(failure_rate=None, fail_max=100, name="circuit")
    users = Pipeline(Retry(attempts=3, wait=0), circuit, name=f"seen {scrape.__name__}")
    make_calls(users, 5, failures=2)
    found = scrape(registry)
    at = {"pipeline": users.name}
    assert value(found, "resilient_calls_total", **at, ending="success") == 5
    assert value(found, "resilient_calls_total", **at, ending="failure") == 2
    assert value(found, "resilient_attempts_total", **at) == 5 + 2 * 3
    assert value(found, "resilient_retries_total", **at) == 4
    assert value(found, "resilient_circuit_state", **at, policy="circuit", state="closed") == 1
    assert value(found, "resilient_call_duration_seconds_count", **at) == 7
    assert value(found, "resilient_call_duration_seconds_bucket", **at, le="+Inf") == 7
    assert 0 < value(found, "resilient_call_duration_seconds_sum", **at) < 60


def test_gauge_is_read_at_the_scrape(new_registry: NewRegistry) -> None:
    """Calls in flight are those of the moment, not of an earlier one."""
    registry = new_registry()
    users = Pipeline(Bulkhead(3, name="permits"), name="in flight")
    started, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        go_on.wait(30)

    thread = threading.Thread(target=users(hold))
    thread.start()
    started.wait(30)
    held = scrape_text(registry)
    go_on.set()
    thread.join()
    for name in ("resilient_calls_in_flight", "resilient_permits_in_use"):
        assert value(held, name, pipeline="in flight") == 1
        assert value(scrape_text(registry), name, pipeline="in flight") == 0
    assert value(held, "resilient_permits_limit", pipeline="in flight", policy="permits") == 3


def expected_types() -> dict[str, tuple[str, str, str]]:
    """Return the type, unit and help of each family of the table, by its name in OpenMetrics."""
    found = {}
    for metric in metrics.TABLE:
        name = metrics.prometheus_name(metric)
        name = name.removesuffix("_total") if metric.kind == "counter" else name
        found[name] = metric.kind, "seconds" if metric.unit == "s" else "", metric.help
    return found


def test_types_units_and_helps_are_those_of_the_table(new_registry: NewRegistry) -> None:
    """In OpenMetrics each metric of the table has its type, its unit and its help, also without figures."""
    found = scrape_openmetrics(new_registry(durations="attempts"))
    expected = expected_types()
    assert {name: (found[name].type, found[name].unit, found[name].documentation) for name in expected} == expected
    assert set(found) - set(expected) == {"resilient_scrape_errors"}


def test_types_and_helps_in_the_text_format(new_registry: NewRegistry) -> None:
    """The same in the text format, which has no units, and where the family of a counter ends with `_total`."""
    text = generate_latest(new_registry(durations="attempts")).decode()
    for name, (kind, _, documentation) in expected_types().items():
        shown = f"{name}_total" if kind == "counter" else name
        assert f"# TYPE {shown} {kind}\n" in text
        assert f"# HELP {shown} {documentation}\n" in text
    assert "# UNIT" not in text


@BOTH
def test_counters_and_histograms_have_created_unless_the_client_leaves_it_out(
    new_registry: NewRegistry, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the client's own metrics do, by the client's switch; gauges have none."""
    registry = new_registry()
    users = guarded(f"created {scrape.__name__}")
    make_calls(users, 1)
    created = {
        sample.name
        for family in scrape(registry).values()
        for sample in family.samples
        if sample.name.endswith("_created") and sample.labels.get("pipeline") == users.name
    }
    assert created == {f"resilient_{name}_created" for name in ("calls", "attempts", "call_duration_seconds")}
    monkeypatch.setattr("prometheus_client.metrics._use_created", False)
    assert "_created" not in generate_latest(registry).decode()


def test_created_is_a_time_at_which_the_counter_was_zero() -> None:
    """Calls may have been counted before the exporter was imported."""
    program = (
        "import time\n"
        "from resilient import Bulkhead, Pipeline\n"
        "before = time.time()\n"
        "users = Pipeline(Bulkhead(9), name='users')\n"
        "users(lambda: 7)()\n"
        "from prometheus_client import CollectorRegistry\n"
        "from resilient.observe.prometheus import register\n"
        "registry = CollectorRegistry()\n"
        "register(registry)\n"
        "at = {'pipeline': 'users', 'ending': 'success', 'verdict': 'success'}\n"
        "assert registry.get_sample_value('resilient_calls_total', at) == 1\n"
        "assert before - 3600 < registry.get_sample_value('resilient_calls_created', at) < before\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("durations", "shown"), [(None, set()), ("calls", {"call"}), ("attempts", {"call", "attempt"})]
)
def test_histograms_are_those_that_were_asked_for(new_registry: NewRegistry, durations: Any, shown: set[str]) -> None:
    """Without `durations` there is no histogram; with "attempts" there are both."""
    found = scrape_text(new_registry(durations=durations))
    assert {name for name, family in found.items() if family.type == "histogram"} == {
        f"resilient_{each}_duration_seconds" for each in shown
    }


def test_buckets_are_those_of_the_user_on_the_grid(new_registry: NewRegistry) -> None:
    """Bounds appear as they were moved, cumulated up to all calls."""
    registry = new_registry(buckets=[0.3, 1, 30])
    make_calls(guarded("own buckets"), 3)
    family = scrape_text(registry)["resilient_call_duration_seconds"]
    bounds = {
        sample.labels["le"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["pipeline"] == "own buckets"
    }
    assert list(bounds) == ["0.303812", "1.0", "30.6433", "+Inf"]
    assert bounds["+Inf"] == bounds["30.6433"] == 3


@BOTH
def test_label_of_any_name_survives_the_format(new_registry: NewRegistry, scrape: Scrape) -> None:
    """Quotes, backslashes, line breaks and other scripts are escaped; a lone surrogate does not break the scrape."""
    registry = new_registry()
    for name in ('a "quoted" name', "back\\slash", "two\nlines", "größe ☃"):
        make_calls(guarded(name), 1)
        assert value(scrape(registry), "resilient_calls_total", pipeline=name) >= 1
    make_calls(guarded("lone \ud800"), 1)
    assert value(scrape(registry), "resilient_calls_total", pipeline="lone \\ud800") >= 1


def test_promtool_finds_nothing_to_object_to(new_registry: NewRegistry) -> None:
    """Names, types and helps are what Prometheus's own checker expects."""
    promtool = find_program("promtool")
    registry = new_registry(keys=2, durations="attempts")
    call = Pipeline(Retry(attempts=2, wait=0), Keyed(CircuitBreaker, key=lambda key: key), name="checked")(
        lambda key: 7
    )
    for key in range(5):
        call(key)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("accept", "kind", "parse"),
    [
        ("text/plain", "text/plain", parse_text),
        ("application/openmetrics-text", "application/openmetrics-text", parse_openmetrics),
    ],
)
def test_figures_are_served_by_the_clients_own_server(
    new_registry: NewRegistry, accept: str, kind: str, parse: Any
) -> None:
    """`start_http_server` answers a real request in the format that it asks for."""
    registry = new_registry()
    make_calls(guarded("served"), 2)
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=30) as response:
            assert response.headers["Content-Type"].startswith(kind)
            found = {each.name: each for each in parse(response.read().decode())}
        assert value(found, "resilient_calls_total", pipeline="served") >= 2
        with urllib.request.urlopen(f"{url}?name[]=resilient_calls_total", timeout=30) as response:
            named = {each.name: each for each in parse_text(response.read().decode())}
        assert set(named) == {"resilient_calls"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_figures_are_served_by_the_clients_asgi_application(new_registry: NewRegistry) -> None:
    """`make_asgi_app` can be mounted in an application."""
    registry = new_registry()
    make_calls(guarded("mounted"), 2)
    application: Any = prometheus_client.make_asgi_app(registry)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://test") as client:
        response = await client.get("/metrics")
    found = {each.name: each for each in parse_text(response.text)}
    assert value(found, "resilient_calls_total", pipeline="mounted") == 2
