"""`resilient watch`: what it reads from the live page, from metrics, and from addresses that are neither."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, make_asgi_app

from resilient import Budget, Bulkhead, CircuitBreaker, Hedge, Keyed, Pipeline, Retry
from resilient.cli.watch import metrics_text, sources
from resilient.cli.watch.live_page import EventStream, reading_of
from resilient.cli.watch.metrics_text import MetricsText
from resilient.cli.watch.reading import Permits, PipelineState, Reading, SourceError
from resilient.cli.watch.sources import Address, readings
from resilient.observe.live import LiveView
from resilient.observe.metrics import TABLE, prometheus_name
from resilient.observe.prometheus import register
from tests.cli.watch_servers import answering, free_port, serving
from tests.hypothesis_settings import search

STATE = {
    "format": 1,
    "pid": 4711,
    "at": 1764520000.2,
    "tick": 12,
    "pipelines": {
        "users": {
            "mode": "on",
            "in_flight": 3,
            "closed": False,
            "figures": {"calls": 1200, "failures": 30, "rate": 41.0, "bad": 0.025, "p50": 0.012, "p99": 0.2},
            "policies": {
                "0": {"kind": "Retry", "name": "Retry", "now": {"retried": 17, "budget": {"tokens": 8.5}}},
                "1": {"kind": "CircuitBreaker", "name": "db", "circuit": {"state": "open"}},
                "2": {"kind": "Keyed", "name": "Keyed", "states": {"closed": 998, "open": 2}, "gates": {"a": {}}},
                "3": {
                    "kind": "Pipeline",
                    "name": "inner",
                    "policies": {
                        "0": {"kind": "Bulkhead", "name": "b", "now": {"in_use": 3, "max_concurrent": 50, "queued": 2}},
                        "1": {"kind": "Hedge", "name": "h", "now": {"started": 5, "budget": {"tokens": 9}}},
                    },
                },
            },
        },
        "orders": {"error": "TypeError: \x1b[2J\nno"},
    },
}

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
NODES = st.fixed_dictionaries(
    {},
    optional={
        "now": st.dictionaries(st.sampled_from(["in_use", "limit", "tokens", "retried", "budget"]), ANYTHING)
        | ANYTHING,
        "circuit": ANYTHING,
        "states": st.dictionaries(st.text(max_size=3), ANYTHING) | ANYTHING,
        "gates": st.dictionaries(st.text(max_size=3), ANYTHING) | ANYTHING,
        "name": ANYTHING,
        "policies": ANYTHING,
    },
)


# -- the live page --------------------------------------------------------------------------------------------------


def test_state_of_the_live_page_is_understood() -> None:
    """The shape that `resilient.observe.live` documents, nested pipelines included; control characters are escaped."""
    found = reading_of(STATE)
    assert (found.at, found.pid) == (1764520000.2, 4711)
    assert found.pipelines == {
        "users": PipelineState(
            in_flight=3,
            calls=1200,
            rate=41.0,
            bad=0.025,
            p50=0.012,
            p99=0.2,
            retries=17,
            hedges=5,
            circuits={"open": 3, "closed": 998},
            permits=[Permits("b", 3, 50, 2)],
            tokens=8.5,
        ),
        "orders": PipelineState(error=r"TypeError: \x1b[2J no"),
    }


def test_keys_of_a_limit_are_added_and_the_emptiest_budget_counts() -> None:
    """A `Keyed` of limits, one of rate limits, and a budget for each dependency."""
    limit = {"now": {"in_flight": 2, "limit": 10, "queued": 1}}
    rate = {"now": {"tokens": 4, "burst": 10}}, {"now": {"tokens": 2, "burst": 10}}
    budget = {"tokens": 1, "each": {"a": {"tokens": 7}, "b": {"tokens": 3}}}
    policies = {
        "0": {"name": "limit", "gates": {"a": limit, "b": limit}},
        "1": {"name": "Retry", "now": {"budget": budget}},
        "2": {"name": "quota", "gates": {"a": rate[0], "b": rate[1]}},
        "3": {"name": "all", **rate[0]},
    }
    found = reading_of({"format": 1, "pipelines": {"users": {"policies": policies}}}).pipelines["users"]
    assert (found.permits, found.tokens) == ([Permits("limit", 4, 20, 2)], 3)
    assert found.rate_limits == {"quota": 2, "all": 4}


@search(100)
@given(
    st.dictionaries(
        st.text(max_size=3), st.fixed_dictionaries({"policies": st.dictionaries(st.text(), NODES)}) | ANYTHING
    )
)
def test_any_state_is_a_reading_or_a_source_error(pipelines: Any) -> None:
    """Whatever a server sends, the command neither fails nor prints control characters."""
    found = reading_of({"format": 1, "at": pipelines, "pid": pipelines, "pipelines": pipelines})
    assert all(name.isprintable() for name in found.pipelines)
    json.dumps(found.data(), allow_nan=False)


@pytest.mark.parametrize("state", [{}, {"format": 2, "pipelines": {}}, {"format": 1, "pipelines": [1]}])
def test_other_format_is_an_error_that_names_it(state: Any) -> None:
    """Another version of the library there: nothing is shown wrongly."""
    with pytest.raises(SourceError, match="where this version reads 1") as raised:
        reading_of(state)
    assert raised.value.final


@search(200)
@given(st.lists(st.text(max_size=6), min_size=1, max_size=4), st.data())
def test_stream_may_be_cut_anywhere(texts: list[str], data: st.DataObject) -> None:
    """Events are found however the network cuts them."""
    whole = b": ping\r\n\r\n" + b"".join(f"event: lines\ndata: {json.dumps(text)}\n\n".encode() for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    stream, found = EventStream(), []
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += list(stream.feed(whole[begin:end]))
    assert found == [("lines", text) for text in texts]


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000])
def test_message_that_is_no_json_is_an_error(data: bytes) -> None:
    """A proxy that answers in its own way."""
    with pytest.raises(SourceError, match="no JSON"):
        list(EventStream().feed(b"data: " + data + b"\n\n"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No real pause before the next try."""
    monkeypatch.setattr(sources, "PAUSE", 0.01)
    monkeypatch.setattr(sources, "POLL", 0.05)


async def take(items: AsyncIterator[Any], wanted: Any) -> Any:
    """Return the first item for which `wanted` is true; all others are passed over."""
    async with asyncio.timeout(20):
        async for item in items:
            if wanted(item):
                return item
    raise AssertionError("the source has ended")


async def test_real_live_page_gives_states_rates_and_events(quick: None) -> None:
    """A pipeline with retries, hedges and keys, over a real connection."""
    budget = Budget(reserve=10)
    keyed = Keyed(CircuitBreaker, key=lambda key: key)
    watched = Pipeline(Retry(3, wait=0, budget=budget), Hedge(5, budget=budget), Bulkhead(7), keyed, name="watched")

    async def fail(key: str) -> None:
        raise ConnectionError("down")

    async with serving(LiveView()) as url, aclosing(readings(Address(url))) as items:
        first: Reading = await take(items, lambda item: "watched" in item.pipelines)
        assert first.pipelines["watched"].circuits == {}
        assert first.pipelines["watched"].permits == [Permits("Bulkhead", 0, 7)]
        with pytest.raises(ConnectionError, match="down"):
            await watched.call(fail, "a")
        keyed.gate_for("a").isolate()  # type: ignore[attr-defined]
        changed = await take(items, lambda item: item.pipelines["watched"].circuits == {"isolated": 1})
        state = changed.pipelines["watched"]
        assert (state.retries, state.hedges, state.in_flight, state.mode, state.closed) == (2, 3, 0, "on", False)
        assert state.tokens is not None
        rated = await take(items, lambda item: item.fresh and item.pipelines["watched"].retry_rate is not None)
        assert rated.pid == first.pid


async def test_events_of_a_live_page_are_lines(quick: None) -> None:
    """A change of a circuit, with its kind, pipeline and policy."""
    breaker = CircuitBreaker(name="db")
    watched = Pipeline(breaker, name="watched")
    async with serving(LiveView()) as url, aclosing(readings(Address(url))) as items:
        await take(items, lambda item: watched.name in item.pipelines)
        breaker.isolate()
        found: Reading = await take(items, lambda item: item.lines)
        (line,) = found.lines
        assert (line.kind, line.level, line.pipeline, line.policy) == ("CircuitChanged", "warning", "watched", "db")
        assert line.text == "closed -> isolated: by hand"
        assert line.is_change


async def test_server_that_goes_away_and_comes_back(quick: None) -> None:
    """The error is an item, and so is the next reading, on the same port."""
    port = free_port()
    address = Address(f"localhost:{port}/")
    async with aclosing(readings(address)) as items:
        gone = await take(items, lambda item: isinstance(item, SourceError))
        assert "ConnectError" in str(gone)
        assert not gone.final
        for _ in range(2):
            async with serving(LiveView(), port):
                await take(items, lambda item: isinstance(item, Reading))
            await take(items, lambda item: isinstance(item, SourceError))


async def test_live_page_that_refuses_says_why(quick: None) -> None:
    """Its own text, and no second try."""
    page = LiveView()

    async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
        await page({**scope, "client": ("203.0.113.9", 1)}, receive, send)

    async with serving(elsewhere) as url:
        (found,) = [item async for item in readings(Address(url))]
    assert isinstance(found, SourceError)
    assert str(found).startswith("403: Only clients on this machine are served, not '203.0.113.9'")
    assert found.final


# -- metrics --------------------------------------------------------------------------------------------------------

TEXT = """
# TYPE resilient_calls counter
resilient_calls_total{{pipeline="users",ending="success",verdict="success"}} {success}
resilient_calls_total{{pipeline="users",ending="failure",verdict="failure"}} {failure}
resilient_calls_total{{pipeline="users",ending="cancelled",verdict="nothing"}} 5
# TYPE resilient_call_duration_seconds histogram
resilient_call_duration_seconds_bucket{{pipeline="users",ending="success",le="0.1"}} {low}
resilient_call_duration_seconds_bucket{{pipeline="users",ending="success",le="0.2"}} {success}
resilient_call_duration_seconds_bucket{{pipeline="users",ending="success",le="+Inf"}} {success}
# TYPE resilient_calls_in_flight gauge
resilient_calls_in_flight{{pipeline="users",instance="a"}} 3
resilient_calls_in_flight{{pipeline="users",instance="b"}} 4
# TYPE resilient_retries counter
resilient_retries_total{{pipeline="users",policy="Retry"}} {failure}
# TYPE resilient_circuit_state gauge
resilient_circuit_state{{pipeline="users",policy="db",state="open"}} 1
resilient_circuit_state{{pipeline="users",policy="db",state="closed"}} 0
# TYPE resilient_permits_in_use gauge
resilient_permits_in_use{{pipeline="users",policy="Bulkhead"}} 2
# TYPE resilient_permits_limit gauge
resilient_permits_limit{{pipeline="users",policy="Bulkhead"}} 50
# TYPE resilient_queue_length gauge
resilient_queue_length{{pipeline="users",policy="Bulkhead"}} 1
# TYPE resilient_budget_tokens gauge
resilient_budget_tokens{{pipeline="users",policy="Retry"}} 8
resilient_budget_tokens{{pipeline="users",policy="Hedge"}} 6
# TYPE resilient_tokens gauge
resilient_tokens{{pipeline="users",policy="RateLimit"}} 4
# TYPE resilient_pipeline_mode gauge
resilient_pipeline_mode{{pipeline="users",mode="on"}} 0
resilient_pipeline_mode{{pipeline="users",mode="off"}} 1
# TYPE python_info gauge
python_info{{version="3"}} 1
"""


def test_rates_and_latencies_are_made_of_two_texts() -> None:
    """Series of several instances are added; a cancelled call is neither good nor bad."""
    metrics = MetricsText()
    first = metrics.reading(TEXT.format(success=100, failure=10, low=50), 1000.0).pipelines["users"]
    assert (first.rate, first.calls, first.in_flight, first.mode) == (None, 115, 7, "off")
    assert first.circuits == {"open": 1}
    assert first.permits == [Permits("Bulkhead", 2, 50, 1)]
    assert first.tokens == 6
    assert first.rate_limits == {"RateLimit": 4}
    state = metrics.reading(TEXT.format(success=180, failure=30, low=110), 1010.0).pipelines["users"]
    assert (state.rate, state.bad, state.retry_rate) == (10.0, 0.2, 2.0)
    assert state.p50 == pytest.approx(0.1 * 40 / 60)
    assert state.p99 == pytest.approx(0.1 + 0.1 * (79.2 - 60) / 20)


def test_counters_that_begin_again_give_no_negative_rate() -> None:
    """The process was restarted between two texts."""
    metrics = MetricsText()
    metrics.reading(TEXT.format(success=100, failure=10, low=50), 1000.0)
    state = metrics.reading(TEXT.format(success=1, failure=0, low=0), 1001.0).pipelines["users"]
    assert (state.rate, state.bad, state.p50, state.retry_rate) == (0.0, None, None, 0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no metric whose name begins with resilient_"),
        ("python_info 1\n", "no metric whose name begins with resilient_"),
        ("<html>\n", "no metrics in the text format"),
        ('resilient_calls_total{pipeline="a} 1\n', "no metrics in the text format"),
    ],
)
def test_text_without_our_metrics_is_an_error(text: str, words: str) -> None:
    """It says what is missing."""
    with pytest.raises(SourceError, match=words):
        MetricsText().reading(text, 0.0)


@search(300)
@given(st.text(max_size=60) | st.text(alphabet='resilient_{}="\n #TYPEle,+Inf1', max_size=80))
def test_any_text_is_a_reading_or_a_source_error(text: str) -> None:
    """Whatever the address answers."""
    for each in (text, f'resilient_calls_total{{pipeline="a"}} {text}', f"# TYPE resilient_x {text}\n{text}"):
        with suppress(SourceError):
            assert all(name.isprintable() for name in MetricsText().reading(each, 0.0).pipelines)


async def test_metrics_are_read_where_there_is_no_live_page(quick: None) -> None:
    """The application answers every path, so the path of the live page too, but not as JSON."""
    text = TEXT.format(success=1, failure=1, low=1).encode()
    for path in ("/metrics", "/other", "/federate?match[]=resilient_calls_total"):
        async with serving(answering(200, "text/plain; version=0.0.4", text)) as url:
            async with aclosing(readings(Address(f"{url}{path}"))) as items:
                first: Reading = await take(items, lambda item: True)
                assert first.pipelines["users"].rate is None
                second: Reading = await take(items, lambda item: True)
                assert second.pipelines["users"].rate == 0.0


def test_every_metric_that_is_read_is_in_the_table() -> None:
    """A name that changes there must change here."""
    known = {prometheus_name(metric) for metric in TABLE}
    read = {
        name.removesuffix("_bucket") for name in re.findall(r'case "(resilient_\w+)"', inspect.getsource(metrics_text))
    }
    assert len(read) == 12
    assert read <= known


async def test_metrics_of_the_real_exporter(quick: None) -> None:
    """Counters, gauges and durations of a pipeline, through prometheus-client and a real server."""
    breaker = CircuitBreaker(name="db")
    budget = Budget(reserve=10)
    watched = Pipeline(Retry(2, wait=0, budget=budget), Bulkhead(7), breaker, name="scraped")
    registry = CollectorRegistry()
    unregister = register(registry)

    async def fail() -> None:
        raise ConnectionError("down")

    try:
        async with serving(make_asgi_app(registry)) as url:
            async with aclosing(readings(Address(f"{url}/metrics"))) as items:
                await take(items, lambda item: "scraped" in item.pipelines)
                for _ in range(4):
                    await watched.call(asyncio.sleep, 0)
                with pytest.raises(ConnectionError):
                    await watched.call(fail)
                breaker.isolate()
                rated: Reading = await take(items, lambda item: item.pipelines["scraped"].rate)
    finally:
        unregister()
    state = rated.pipelines["scraped"]
    assert (state.calls, state.retries, state.circuits, state.mode) == (5, 1, {"isolated": 1}, "on")
    assert state.bad == pytest.approx(0.2)
    assert state.p99 is not None
    assert 0 < state.p99 < 1
    assert state.permits == [Permits("Bulkhead", 0, 7)]
    assert state.tokens is not None
    assert 9 <= state.tokens <= 10


@pytest.mark.parametrize(
    ("status", "kind", "body", "words"),
    [
        (404, "text/plain", b"no", "404 Not Found: neither a live page nor metrics"),
        (403, "text/plain", b"not \x1b[2Jyou", r"403: not \\x1b\[2Jyou"),
        (200, "text/html", b"<p>", "an HTML page: neither a live page of resilient nor metrics"),
        (200, "text/plain", b"hello", "no metric"),
    ],
)
async def test_address_that_is_neither_ends_with_an_error(
    status: int, kind: str, body: bytes, words: str, quick: None
) -> None:
    """Another try would get the same answer."""
    async with serving(answering(status, kind, body)) as url:
        found = [item async for item in readings(Address(url))]
    assert len(found) == 1
    assert isinstance(found[0], SourceError)
    assert found[0].final
    with pytest.raises(SourceError, match=words):
        raise found[0]


async def test_server_error_is_tried_again(quick: None) -> None:
    """A server that starts up answers 503 for a while."""
    async with serving(answering(503, "text/plain", b"")) as url, aclosing(readings(Address(url))) as items:
        for _ in range(3):
            found = await anext(items)
            assert isinstance(found, SourceError)
            assert not found.final


# -- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url", "shown", "is_local"),
    [
        ("localhost:8000/live/", "http://localhost:8000/live", "http://localhost:8000/live", True),
        ("http://[::1]:8000", "http://[::1]:8000", "http://[::1]:8000", True),
        ("https://a.example/m", "https://a.example/m", "https://a.example/m", False),
        ("http://me:secret@10.0.0.1/m?key=k", "http://me:secret@10.0.0.1/m?key=k", "http://10.0.0.1/m", False),
    ],
)
def test_address_is_completed_and_shown_without_its_password(text: str, url: str, shown: str, is_local: bool) -> None:
    """Neither a password nor a query is shown."""
    address = Address(text)
    assert (address.url, address.shown, address.is_local) == (url, shown, is_local)


@pytest.mark.parametrize("text", ["", "ftp://a", "http://", "http://a:port", "http://[::1", "http://a:99999"])
def test_text_that_is_no_address_is_refused(text: str) -> None:
    """The message has the text, and an example."""
    with pytest.raises(ValueError, match="URL must be the address of a live page or of metrics"):
        Address(text)
