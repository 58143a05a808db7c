"""`resilient watch`: what it reads from the live page."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import Budget, Bulkhead, CircuitBreaker, Hedge, Keyed, Pipeline, Retry
from resilient.cli.watch.live_page import EventStream, reading_of
from resilient.cli.watch.reading import Permits, PipelineState, Reading, SourceError
from resilient.cli.watch.sources import Address, readings
from resilient.observe.live import LiveView
from tests.cli.watch_servers import quick, serving, take
from tests.hypothesis_settings import search

__all__ = ["quick"]  # the fixture

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
