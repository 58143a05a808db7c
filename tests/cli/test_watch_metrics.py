"""`resilient watch`: what it reads from metrics in the format of Prometheus."""

from __future__ import annotations

import asyncio
import inspect
import re
from contextlib import aclosing, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, make_asgi_app

from resilient import Budget, Bulkhead, CircuitBreaker, Pipeline, Retry
from resilient.cli.watch import metrics_text
from resilient.cli.watch.metrics_text import MetricsText
from resilient.cli.watch.reading import Permits, Reading, SourceError
from resilient.cli.watch.sources import Address, readings
from resilient.observe.metrics import TABLE, prometheus_name
from resilient.observe.prometheus import register
from tests.cli.watch_servers import answering, quick, serving, take
from tests.hypothesis_settings import search

__all__ = ["quick"]  # the fixture

TEXT = """
# TYPE resilient_calls counter
resilient_calls_total{{pipeline="users",ending="success",verdict="success"}} {success}
resilient_calls_total{{pipeline="users",ending="failure",verdict="failure"}} {failure}
resilient_calls_total{{pipeline="users",ending="cancelled",verdict="nothing"}} 5
resilient_calls_total{{pipeline="users",ending="failure",verdict="nothing"}} {low}
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
    """Series of several instances are added; a cancelled call and an ignored error are neither good nor bad."""
    metrics = MetricsText()
    first = metrics.reading(TEXT.format(success=100, failure=10, low=50), 1000.0).pipelines["users"]
    assert (first.rate, first.calls, first.in_flight, first.mode) == (None, 165, 7, "off")
    assert first.circuits == {"open": 1}
    assert first.permits == [Permits("Bulkhead", 2, 50, 1)]
    assert first.tokens == 6
    assert first.rate_limits == {"RateLimit": 4}
    state = metrics.reading(TEXT.format(success=180, failure=30, low=110), 1010.0).pipelines["users"]
    assert (state.rate, state.bad, state.retry_rate) == (16.0, 0.2, 2.0)
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
