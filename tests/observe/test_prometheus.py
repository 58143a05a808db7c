"""Scrapes of the figures: right in both formats, whole whatever breaks, and one registration for a registry."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from resilient import Bulkhead, CircuitBreaker, Keyed, Pipeline, Retry
from resilient.observe import metrics
from resilient.observe.metrics import Histogram, Metric, Series
from resilient.observe.prometheus import register
from tests.servers import find_program

Families = dict[str, prometheus_client.Metric]
Show = Callable[..., CollectorRegistry]


@pytest.fixture
def show() -> Iterator[Show]:
    """Return a function that registers the figures in a new registry, until the end of the test."""
    ends: list[Callable[[], None]] = []

    def begin(registry: CollectorRegistry | None = None, **options: Any) -> CollectorRegistry:
        registry = CollectorRegistry() if registry is None else registry
        ends.append(register(registry, **options))
        return registry

    yield begin
    for end in ends:
        end()


def scrape_text(registry: CollectorRegistry) -> Families:
    return {each.name: each for each in parse_text(generate_latest(registry).decode())}


def scrape_openmetrics(registry: CollectorRegistry) -> Families:
    return {each.name: each for each in parse_openmetrics(openmetrics.generate_latest(registry).decode())}


BOTH = pytest.mark.parametrize("scrape", [scrape_text, scrape_openmetrics])
Scrape = Callable[[CollectorRegistry], Families]


def value(families: Families, name: str, **labels: str) -> float:
    """Return the sum of the samples of this name with these labels, and perhaps others."""
    return sum(
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def guarded(name: str) -> Pipeline:
    return Pipeline(Bulkhead(9), name=name)


def succeed() -> int:
    return 7


def fail() -> int:
    raise OSError


def make_calls(pipeline: Pipeline, successes: int, failures: int = 0) -> None:
    for _ in range(successes):
        pipeline(succeed)()
    for _ in range(failures):
        with pytest.raises(OSError):
            pipeline(fail)()


@BOTH
def test_scrape_shows_what_the_pipelines_did(show: Show, scrape: Scrape) -> None:
    """Calls, attempts, retries and circuits have their numbers, in each format."""
    registry = show()
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


def test_gauge_is_read_at_the_scrape(show: Show) -> None:
    """Calls in flight are those of the moment, not of an earlier one."""
    registry = show()
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


def test_types_units_and_helps_are_those_of_the_table(show: Show) -> None:
    """In OpenMetrics each metric of the table has its type, its unit and its help, also without figures."""
    found = scrape_openmetrics(show(durations="attempts"))
    expected = expected_types()
    assert {name: (found[name].type, found[name].unit, found[name].documentation) for name in expected} == expected
    assert set(found) - set(expected) == {"resilient_scrape_errors"}


def test_types_and_helps_in_the_text_format(show: Show) -> None:
    """The same in the text format, which has no units, and where the family of a counter ends with `_total`."""
    text = generate_latest(show(durations="attempts")).decode()
    for name, (kind, _, documentation) in expected_types().items():
        shown = f"{name}_total" if kind == "counter" else name
        assert f"# TYPE {shown} {kind}\n" in text
        assert f"# HELP {shown} {documentation}\n" in text
    assert "# UNIT" not in text


@BOTH
def test_created_is_a_time_before_the_first_call_unless_the_client_leaves_it_out(
    show: Show, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters and histograms have `_created`, as the client's own metrics: by the client's switch."""
    registry = show()
    mine = CollectorRegistry()
    now = Counter("now", "Made now.", registry=mine).collect()[0].samples[-1].value  # type: ignore[index]
    users = guarded(f"created {scrape.__name__}")
    make_calls(users, 1)
    for name in ("resilient_calls_created", "resilient_call_duration_seconds_created"):
        assert 0 < value(scrape(registry), name, pipeline=users.name) < now
    monkeypatch.setattr("prometheus_client.metrics._use_created", False)
    assert "_created" not in generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("durations", "shown"), [(None, set()), ("calls", {"call"}), ("attempts", {"call", "attempt"})]
)
def test_histograms_are_those_that_were_asked_for(show: Show, durations: Any, shown: set[str]) -> None:
    """Without `durations` there is no histogram; with "attempts" there are both."""
    found = scrape_text(show(durations=durations))
    assert {name for name, family in found.items() if family.type == "histogram"} == {
        f"resilient_{each}_duration_seconds" for each in shown
    }


def test_buckets_are_those_of_the_user_on_the_grid(show: Show) -> None:
    """Bounds appear as they were moved, cumulated up to all calls."""
    registry = show(buckets=[0.3, 1, 30])
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
def test_label_of_any_name_survives_the_format(show: Show, scrape: Scrape) -> None:
    """Quotes, backslashes, line breaks and other scripts are escaped; a lone surrogate does not break the scrape."""
    registry = show()
    for name in ('a "quoted" name', "back\\slash", "two\nlines", "größe ☃"):
        make_calls(guarded(name), 1)
        assert value(scrape(registry), "resilient_calls_total", pipeline=name) >= 1
    make_calls(guarded("lone \ud800"), 1)
    assert value(scrape(registry), "resilient_calls_total", pipeline="lone \\ud800") >= 1


def test_promtool_finds_nothing_to_object_to(show: Show) -> None:
    """Names, types and helps are what Prometheus's own checker expects."""
    promtool = find_program("promtool")
    registry = show(keys=2, durations="attempts")
    call = Pipeline(Retry(attempts=2, wait=0), Keyed(CircuitBreaker, key=lambda key: key), name="checked")(
        lambda key: 7
    )
    for key in range(5):
        call(key)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# Registration


def test_second_registration_in_one_registry_is_an_error_at_once(show: Show) -> None:
    """Otherwise each line would appear twice, and Prometheus would refuse the scrape."""
    registry = show()
    before = generate_latest(registry).decode().splitlines()
    with pytest.raises(ValueError, match="in this registry already"):
        register(registry)
    lines = generate_latest(registry).decode().splitlines()
    assert len(lines) == len(set(lines)) == len(before)


def test_two_registries_show_the_same_figures(show: Show) -> None:
    """Each registry has its own buckets and histograms."""
    one, other = show(buckets=[1]), show(durations=None)
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


def test_users_own_metric_cannot_take_a_name_of_ours_later(show: Show) -> None:
    """The client refuses it, because the collector describes its metrics, those without figures included."""
    registry = show()
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


# What breaks


def errors(families: Families) -> float:
    return value(families, "resilient_scrape_errors_total")


def test_scrape_is_whole_if_the_figures_cannot_be_read(
    show: Show, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's metrics are shown, the error is counted at each scrape, and logged once."""
    registry = CollectorRegistry()
    Gauge("theirs", "The user's own.", registry=registry).set(5)
    show(registry)

    def broken(**options: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(metrics, "read", broken)
    for number in (1, 2):
        found = scrape_openmetrics(registry)
        assert value(found, "theirs") == 5
        assert errors(found) == number
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]
    monkeypatch.undo()
    assert "resilient_calls" in scrape_text(registry)


def test_scrape_is_whole_but_for_the_series_that_is_broken(
    show: Show, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Series beside it, of the same metric and of others, are shown."""
    registry = show()
    calls, *others = metrics.TABLE

    def read(*, keys: int) -> dict[Metric, list[Series]]:
        good = Series(("good",) * len(calls.labels), 3)
        bad: list[Any] = [
            Series(("too", "few"), 1),
            Series((7,) * len(calls.labels), 1),  # type: ignore[arg-type]
            Series(("bad",) * len(calls.labels), None),  # type: ignore[arg-type]
        ]
        last = Series(("good",) * len(others[-1].labels), Histogram(2, 0.5, {-33: 2}, {}))
        return {calls: [*bad, good], others[-1]: [last] if others[-1].kind == "histogram" else []}

    monkeypatch.setattr(metrics, "read", read)
    found = scrape_text(registry)
    assert value(found, "resilient_calls_total") == 3
    assert errors(found) == 3
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_policy_that_cannot_be_read_leaves_the_others(show: Show) -> None:
    """A policy whose snapshot raises takes neither the scrape nor the figures of other pipelines with it."""

    class Broken(Bulkhead):
        def snapshot(self) -> dict[str, Any]:
            raise RuntimeError("broken")

    registry = show()
    broken = Pipeline(Broken(1), name="broken policy")
    whole = Pipeline(Bulkhead(2), name="whole policy")
    make_calls(broken, 1)
    make_calls(whole, 1)
    found = scrape_text(registry)
    assert value(found, "resilient_calls_total", pipeline="broken policy") == 1
    assert value(found, "resilient_calls_total", pipeline="whole policy") == 1
    assert value(found, "resilient_permits_limit", pipeline="whole policy") == 2


# Many keys, many threads


def test_ten_thousand_keys_stay_at_the_cap(show: Show) -> None:
    """A scrape has series for as many keys as were asked for, and one for all others, with the sum unchanged."""
    registry = show(keys=20, durations=None)
    keyed = Keyed(CircuitBreaker, key=lambda key: key, max_keys=20_000, name="tenants")
    tenants = Pipeline(keyed, name="many keys")
    call = tenants(lambda key: 7)
    for number in range(10_000):
        call(f"tenant {number}")
    found = scrape_text(registry)
    for family in found.values():
        keys = {
            sample.labels["key"]
            for sample in family.samples
            if "key" in sample.labels and sample.labels.get("pipeline") == "many keys"
        }
        assert len(keys) <= 21
    at = {"pipeline": "many keys", "policy": "tenants"}
    assert value(found, "resilient_keys", **at) == 10_000
    assert value(found, "resilient_keys_hidden", **at) == 9_980
    assert value(found, "resilient_circuit_state", pipeline="many keys") == 10_000
    assert value(found, "resilient_calls_total", pipeline="many keys") == 10_000


def test_scrapes_while_calls_are_made_are_whole_and_never_fall(show: Show) -> None:
    """Counters and cumulated buckets only grow from scrape to scrape, and each histogram agrees with itself."""
    registry = show(durations="attempts")
    users = Pipeline(Retry(attempts=2, wait=0), Bulkhead(8), CircuitBreaker(), name="busy")
    call, rounds, threads = users(succeed), 400, 4
    workers = [threading.Thread(target=lambda: [call() for _ in range(rounds)]) for _ in range(threads)]
    for worker in workers:
        worker.start()
    last: dict[Any, float] = {}
    while True:
        running = any(worker.is_alive() for worker in workers)
        found = scrape_text(registry)
        for name, family in found.items():
            if family.type == "gauge":
                continue
            for sample in family.samples:
                if sample.labels.get("pipeline") == "busy":
                    key = (sample.name, *sorted(sample.labels.items()))
                    assert sample.value >= last.get(key, 0), (name, sample)
                    last[key] = sample.value
        for kind in ("call", "attempt"):
            name = f"resilient_{kind}_duration_seconds"
            assert value(found, f"{name}_count", pipeline="busy") == value(
                found, f"{name}_bucket", pipeline="busy", le="+Inf"
            )
        if not running:
            break
    for worker in workers:
        worker.join()
    assert value(found, "resilient_calls_total", pipeline="busy") == rounds * threads
    assert value(found, "resilient_call_duration_seconds_count", pipeline="busy") == rounds * threads
    assert errors(found) == 0


# Served


@pytest.mark.parametrize(
    ("accept", "kind", "parse"),
    [
        ("text/plain", "text/plain", parse_text),
        ("application/openmetrics-text", "application/openmetrics-text", parse_openmetrics),
    ],
)
def test_figures_are_served_by_the_clients_own_server(show: Show, accept: str, kind: str, parse: Any) -> None:
    """`start_http_server` answers a real request in the format that it asks for."""
    registry = show()
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


async def test_figures_are_served_by_the_clients_asgi_application(show: Show) -> None:
    """`make_asgi_app` can be mounted in an application."""
    registry = show()
    make_calls(guarded("mounted"), 2)
    application: Any = prometheus_client.make_asgi_app(registry)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://test") as client:
        response = await client.get("/metrics")
    found = {each.name: each for each in parse_text(response.text)}
    assert value(found, "resilient_calls_total", pipeline="mounted") == 2
