"""The state of the live page: trees, keys, errors of snapshots, names; its differences, and its figures."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry
from resilient.core.policy import Wrap
from resilient.observe.live import LiveView, apply, difference
from resilient.observe.live.figures import Counts, figures
from resilient.observe.live.reading import GATES
from resilient.policies.keyed import Keyed
from tests.hypothesis_settings import search
from tests.observe.live_client import request, stream

NAMES = st.text(max_size=3)
VALUES = st.recursive(
    st.booleans() | st.integers(-3, 3) | st.text(max_size=2) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


class Broken(Wrap):
    """A policy whose snapshot fails."""

    def snapshot(self) -> dict[str, Any]:
        raise KeyError("no such\nthing")


class Odd(Wrap):
    """A policy whose snapshot is no plain data."""

    def snapshot(self) -> dict[str, Any]:
        loop: dict[Any, Any] = {
            "object": object,
            "inf": float("inf"),
            7: {"none": None, "big": 10**40, "text": "x" * 999},
        }
        loop["loop"] = loop
        return loop


@search(100)
@given(st.dictionaries(NAMES, VALUES, max_size=4), st.dictionaries(NAMES, VALUES, max_size=4))
def test_difference_makes_the_new_state_of_the_old_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    """It survives JSON, leaves the old state as it is, and is empty only for equal states."""
    before = json.dumps(old)
    change = json.loads(json.dumps(difference(old, new)))
    assert json.dumps(apply(old, change), sort_keys=True) == json.dumps(new, sort_keys=True)
    assert json.dumps(old) == before
    assert bool(change) == (json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True))


# -- the state --------------------------------------------------------------------------------------------------------


async def test_state_has_the_trees_of_all_pipelines() -> None:
    """Nested pipelines have trees of their own, and a circuit has its evidence."""
    breaker = CircuitBreaker(fail_max=2, name="replica")
    inner = Pipeline(Bulkhead(3), breaker, name="test-live-inner")
    outer = Pipeline(Retry(attempts=2), inner, name="test-live-outer")

    @outer
    async def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await fail()
    state = (await request(LiveView(), "/state.json")).json()
    found = state["pipelines"]["test-live-outer"]
    assert [each["kind"] for each in found["policies"].values()] == ["Retry", "Pipeline"]
    nested = found["policies"]["1"]
    assert nested["policies"] == state["pipelines"]["test-live-inner"]["policies"]
    assert nested["policies"]["0"]["now"]["max_concurrent"] == 3
    circuit = nested["policies"]["1"]["circuit"]
    assert (circuit["state"], circuit["failures"], circuit["in_a_row"]) == ("open", 2, 2)
    assert 0 < circuit["probe_at"] - state["at"] <= 5.2
    assert nested["policies"]["1"]["text"] == breaker.describe().replace(": open)", ")")
    assert "null" not in json.dumps(state)


async def test_error_of_a_snapshot_is_shown_in_its_place() -> None:
    """The other policies and pipelines are shown, and the stream goes on."""
    broken = Pipeline(Bulkhead(1), Broken(), name="test-live-broken")
    sound = Pipeline(Bulkhead(1), name="test-live-sound")
    async with stream(LiveView()) as opened:
        await opened.until(lambda opened: opened.state and opened.changes)
        policies = opened.state["pipelines"][broken.name]["policies"]
        assert policies["0"]["now"]["max_concurrent"] == 1
        assert policies["1"]["error"] == "KeyError: 'no such\\nthing'"
        assert "error" not in opened.state["pipelines"][sound.name]


async def test_snapshot_of_a_users_policy_becomes_plain_data() -> None:
    """It is bounded in depth and length; infinity and huge numbers are texts, and None is left out."""
    odd = Pipeline(Odd(), name="test-live-odd")
    answer = await request(LiveView(), "/state.json")
    now = json.loads(answer.text, parse_constant=pytest.fail)["pipelines"][odd.name]["policies"]["0"]["now"]
    assert now["inf"] == "inf"
    assert now["7"] == {"big": str(10**40), "text": "x" * 500}
    assert len(answer.text) < 50_000


async def test_names_may_have_any_characters() -> None:
    """Names are data: they come out as they went in."""
    names = ["<script>alert(1)</script>", "a\n\nevent: state\ndata: {}", "\u202e\x00\ud800", "__proto__"]
    kept = [Pipeline(Bulkhead(1), name=name) for name in names]
    answer = await request(LiveView(), "/state.json")
    assert set(names) <= answer.json()["pipelines"].keys()
    async with stream(LiveView()) as opened:
        await opened.until(lambda opened: opened.state)
        assert {each.name for each in kept} <= opened.state["pipelines"].keys()
        assert opened.kinds[0] == "state"


async def test_keys_are_capped_and_those_that_are_not_closed_come_first() -> None:
    """All keys are counted, and a filter finds every one."""
    keyed = Keyed(lambda: CircuitBreaker(fail_max=1), key=lambda tenant: tenant)
    pipeline = Pipeline(keyed, name="test-live-keys")
    for number in range(300):
        keyed.gate_for(f"tenant-{number:03}")
    keyed.gate_for("tenant-299").open()  # type: ignore[attr-defined]
    view = LiveView()
    shown = (await request(view, "/state.json")).json()["pipelines"][pipeline.name]["policies"]["0"]
    assert (shown["keys"], shown["states"]) == (300, {"closed": 299, "open": 1})
    keys = [gate["key"] for gate in shown["gates"].values()]
    assert keys == ["tenant-299", *(f"tenant-{number:03}" for number in range(GATES - 1))]
    found = await request(view, "/keys.json", query=f"pipeline={pipeline.name}&policy=0&filter=NANT-27")
    gates = found.json()["gates"]
    assert [gate["key"] for gate in gates.values()] == [f"tenant-27{number}" for number in range(10)]
    assert gates["CircuitBreaker[tenant-270]"]["circuit"]["state"] == "closed"


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("pipeline=test-live-nowhere&policy=0", 404, "no pipeline is called 'test-live-nowhere'; there are: "),
        ("pipeline=test-live-plain&policy=1", 404, "the pipeline 'test-live-plain' has no policy at '1'"),
        ("pipeline=test-live-plain&policy=-1", 404, "has no policy at '-1'"),
        ("pipeline=test-live-plain&policy=0", 400, "is no Keyed"),
        ("", 404, "no pipeline is called ''"),
    ],
)
async def test_unknown_pipelines_and_policies_are_named_in_the_answer(query: str, status: int, text: str) -> None:
    """The answer says what there is instead."""
    kept = Pipeline(Bulkhead(1), name="test-live-plain")
    answer = await request(LiveView(), "/keys.json", query=query)
    assert answer.status == status
    assert text in answer.text
    assert kept.name


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_are_differences_of_two_moments() -> None:
    """Cancelled calls and ignored errors are neither good nor bad; quantiles are of the calls in between."""
    before = Counts({("success", "success"): 100, ("failure", "failure"): 10}, {-32: 110})
    calls = {
        ("success", "success"): 190,
        ("failure", "failure"): 14,
        ("failure", "nothing"): 1,
        ("timeout", "failure"): 3,
        ("rejected", "nothing"): 3,
        ("cancelled", "nothing"): 5,
    }
    now = Counts(calls, {-32: 208, 31: 2})
    found = figures(before, now, 2.0)
    assert found == {
        "calls": 216,
        "failures": 18,
        "rejected": 3,
        "rate": 53.0,
        "bad": 0.1,
        "p50": pytest.approx(0.5, rel=0.022),
        "p99": pytest.approx(2.0, rel=0.022),
    }


def test_figures_without_calls_have_no_shares() -> None:
    """And without an earlier moment no rate."""
    counts = Counts({("success", "success"): 3})
    assert figures(counts, counts, 1.0) == {"calls": 3, "failures": 0, "rejected": 0, "rate": 0.0}
    assert figures(None, counts, 1.0) == {"calls": 3, "failures": 0, "rejected": 0}
