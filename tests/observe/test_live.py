"""The live page as messages of ASGI: its state, its differences, its events, and the errors of snapshots."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import Bulkhead, CircuitBreaker, CircuitOpen, Fallback, Pipeline, Retry, registry
from resilient.core.policy import Wrap
from resilient.events import CircuitChanged, channel
from resilient.observe.live import LiveView, apply, difference
from resilient.observe.live.feed import split
from resilient.observe.live.figures import Counts, figures
from resilient.observe.live.lines import EventLines
from resilient.observe.live.reading import GATES
from resilient.policies.keyed import Keyed
from tests.observe.live_client import Stream, request, stream

ROOT = Path(__file__).parents[2]

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


def feeds() -> list[threading.Thread]:
    """The threads of live pages that are alive."""
    return [each for each in threading.enumerate() if each.name == "resilient-live"]


async def ended() -> None:
    """Wait until no thread of a live page is left, of an earlier test either."""
    for thread in feeds():
        await asyncio.to_thread(thread.join, 20)


def is_listening() -> bool:
    """Whether anything listens to the events of all pipelines."""
    return bool(channel._everywhere)


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


# -- the stream -------------------------------------------------------------------------------------------------------


async def test_stream_sends_the_state_once_and_then_differences() -> None:
    """A change of a circuit comes as a difference and as a line."""
    breaker = CircuitBreaker(name="db")
    pipeline = Pipeline(breaker, name="test-live-stream")
    async with stream(LiveView()) as opened:
        await opened.until(lambda opened: opened.state)
        breaker.isolate()
        path = lambda opened: opened.state["pipelines"][pipeline.name]["policies"]["0"]["circuit"]  # noqa: E731
        await opened.until(lambda opened: path(opened)["state"] == "isolated" and opened.lines)
        assert opened.kinds.count("state") == 1
        change = next(each for each in opened.changes if pipeline.name in each.get("pipelines", {}))
        assert change["pipelines"] == {pipeline.name: {"policies": {"0": {"circuit": {"state": "isolated"}}}}}
        line = next(each for each in opened.lines if each["pipeline"] == pipeline.name)
        assert (line["policy"], line["kind"], line["level"]) == ("db", "CircuitChanged", "warning")
        assert line["text"] == "closed -> isolated: by hand"


async def test_events_of_one_kind_are_one_line_with_their_count() -> None:
    """A flood of failures is a few lines; a call that succeeds has none."""
    pipeline = Pipeline(Fallback("instead"), name="test-live-flood")

    @pipeline
    async def answer(fails: bool) -> str:
        if fails:
            raise ConnectionError
        return "right"

    async with stream(LiveView()) as opened:
        await opened.until(lambda opened: opened.state)
        for _ in range(500):
            await answer(False)
            await answer(True)
        mine = lambda opened: [each for each in opened.lines if each["pipeline"] == pipeline.name]  # noqa: E731
        await opened.until(lambda opened: sum(each["count"] for each in mine(opened)) >= 500)
        assert sum(each["count"] for each in mine(opened)) == 500
        assert len(mine(opened)) < 50
        assert {each["kind"] for each in mine(opened)} == {"FellBack"}


def test_lines_are_bounded() -> None:
    """Changes of more circuits than have lines are counted in one line, which is the last one."""
    lines = EventLines()
    for number in range(500):
        lines(CircuitChanged("p", 0.0, f"CircuitBreaker[{number}]", "closed", "open", "by hand"))
    assert lines.urgent
    taken = lines.take()
    assert len(taken) == 101
    assert [each["count"] for each in taken] == [1] * 100 + [400]
    assert lines.take() == []
    assert not lines.urgent


async def test_many_pipelines_come_in_several_messages() -> None:
    """Each is quickly taken in. The number of the tick comes last, when all figures are there."""
    kept = [Pipeline(CircuitBreaker(), name=f"test-live-{number:03}") for number in range(60)]
    async with stream(LiveView()) as opened:
        await opened.until(lambda opened: {each.name for each in kept} <= opened.state.get("pipelines", {}).keys())
        assert opened.kinds.count("state") == 1
        assert max(len(each.get("pipelines", ())) for each in opened.changes) <= 25
    change = {"at": 1.0, "tick": 7, "pipelines": {f"p{number}": {"in_flight": number} for number in range(60)}}
    parts = split(change)
    assert [len(each["pipelines"]) for each in parts] == [25, 25, 10]
    assert ["tick" in each for each in parts] == [False, False, True]
    whole: dict[str, Any] = {}
    for each in parts:
        whole = apply(whole, each)
    assert whole == change


async def test_page_that_opens_later_gets_the_latest_lines() -> None:
    """While one page is open, the lines of the last events are kept for the next one."""
    breaker = CircuitBreaker()
    pipeline = Pipeline(breaker, name="test-live-second")
    view = LiveView()
    async with stream(view) as first:
        await first.until(lambda opened: opened.state)
        breaker.open()
        await first.until(lambda opened: opened.lines)
        async with stream(view) as second:
            await second.until(lambda opened: opened.lines)
            assert second.lines == first.lines
            assert second.state["pipelines"][pipeline.name] == first.state["pipelines"][pipeline.name]


async def test_nothing_runs_and_nothing_listens_while_no_page_is_open() -> None:
    """The thread and the listener are there only between the first page and the last one."""
    await ended()
    view = LiveView()
    await request(view, "/")
    await request(view, "/state.json")
    assert not is_listening()
    assert not view._feed.runs
    async with stream(view) as first, stream(view) as second:
        await first.until(lambda opened: opened.state)
        await second.until(lambda opened: opened.state)
        assert is_listening()
        assert len(feeds()) == 1
    await ended()
    assert not is_listening()
    assert not view._feed.runs
    async with stream(view) as again:
        await again.until(lambda opened: opened.state)


async def test_slow_client_misses_states_but_no_difference() -> None:
    """While it reads nothing, one part waits for it; then it gets one difference from the state that it has."""
    breaker = CircuitBreaker()
    pipeline = Pipeline(breaker, name="test-live-slow")
    view = LiveView()
    async with stream(view) as fast, stream(view) as slow:
        await fast.until(lambda opened: opened.state)
        await slow.until(lambda opened: opened.state)
        slow.free.clear()
        for number in range(4):
            (breaker.isolate if number % 2 == 0 else breaker.close)()
            before = len(fast.changes)
            await fast.until(lambda opened, before=before: len(opened.changes) > before)
        breaker.open()
        is_open = lambda opened: (  # noqa: E731
            opened.state["pipelines"][pipeline.name]["policies"]["0"]["circuit"]["state"] == "open"
        )
        await fast.until(is_open)
        before, seen = len(slow.changes), len(fast.changes)
        slow.free.set()
        await slow.until(is_open)
        assert len(slow.changes) - before < seen
        await slow.until(lambda opened: opened.state == fast.state)


async def test_client_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream ends, and the others go on."""
    monkeypatch.setattr("resilient.observe.live.app.STALLED", 0.3)
    monkeypatch.setattr("resilient.observe.live.app._Patience.seconds", 0.3)
    view = LiveView()
    async with stream(view) as stalled:
        await stalled.until(lambda opened: opened.state)
        stalled.free.clear()
        async with asyncio.timeout(20):
            await stalled.dropped.wait()
        assert view._feed.streams == 0


async def test_stream_ends_when_its_client_leaves() -> None:
    """Nothing of it is left."""
    view = LiveView()
    async with stream(view) as opened:
        await opened.until(lambda opened: opened.state)
        opened.left.set()
        async with asyncio.timeout(20):
            await opened.ended.wait()
    assert view._feed.streams == 0


async def test_aclose_ends_streams_and_refuses_further_requests() -> None:
    """It waits until they have ended, and may be called twice."""
    view = LiveView()
    async with stream(view) as opened:
        await opened.until(lambda opened: opened.state)
        await view.aclose()
        assert opened.ended.is_set()
    await view.aclose()
    assert (await request(view, "/")).status == 503


async def test_cancelled_stream_leaves_nothing() -> None:
    """A server may cancel the task of a request at any time."""
    view = LiveView()
    opened = Stream()
    for ticks in range(12):
        task = asyncio.create_task(view({**SCOPE}, opened.receive, opened.send))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert view._feed.streams == 0
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/events",
    "headers": [(b"host", b"localhost")],
    "client": ("::1", 1),
}


async def test_streams_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page too many is refused."""
    monkeypatch.setattr("resilient.observe.live.app.STREAMS", 1)
    view = LiveView()
    async with stream(view) as opened:
        await opened.until(lambda opened: opened.state)
        refused = await request(view, "/events")
    assert (refused.status, refused.text) == (503, "1 pages are open already.")


def test_streams_of_several_event_loops_share_one_thread() -> None:
    """Each gets a change that another loop has made."""
    breaker = CircuitBreaker()
    pipeline = Pipeline(breaker, name="test-live-loops")
    view = LiveView()
    both = threading.Barrier(2, timeout=20)

    async def watch(opens: bool) -> int:
        async with stream(view) as opened:
            await opened.until(lambda opened: opened.state)
            await asyncio.to_thread(both.wait)
            if opens:
                breaker.open()
            await opened.until(
                lambda opened: opened.state["pipelines"][pipeline.name]["policies"]["0"]["circuit"]["state"] == "open"
            )
            running = len(feeds())
            await asyncio.to_thread(both.wait)
            return running

    found: list[int] = []
    threads = [threading.Thread(target=lambda opens=opens: found.append(asyncio.run(watch(opens)))) for opens in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1, 1]


async def test_pipelines_that_are_gone_vanish_from_the_state() -> None:
    """The page keeps no pipeline in memory."""
    pipeline = Pipeline(Bulkhead(1), name="test-live-gone")
    async with stream(LiveView()) as opened:
        await opened.until(lambda opened: "test-live-gone" in opened.state.get("pipelines", {}))
        del pipeline
        gc.collect()
        await opened.until(lambda opened: "test-live-gone" not in opened.state["pipelines"])
    assert "test-live-gone" not in registry.pipelines()


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_are_differences_of_two_moments() -> None:
    """Cancelled calls are neither good nor bad; quantiles are of the calls in between."""
    before = Counts({"success": 100, "failure": 10}, {-32: 110})
    now = Counts({"success": 190, "failure": 15, "timeout": 2, "rejected": 3, "cancelled": 5}, {-32: 208, 31: 2})
    found = figures(before, now, 2.0)
    assert found == {
        "calls": 215,
        "failures": 17,
        "rejected": 3,
        "rate": 52.5,
        "bad": 0.1,
        "p50": pytest.approx(0.5, rel=0.022),
        "p99": pytest.approx(2.0, rel=0.022),
    }


def test_figures_without_calls_have_no_shares() -> None:
    """And without an earlier moment no rate."""
    counts = Counts({"success": 3})
    assert figures(counts, counts, 1.0) == {"calls": 3, "failures": 0, "rejected": 0, "rate": 0.0}
    assert figures(None, counts, 1.0) == {"calls": 3, "failures": 0, "rejected": 0}


async def test_rates_and_latencies_come_while_a_page_is_open() -> None:
    """Calls before it are counted, but have no durations."""
    breaker = CircuitBreaker()
    pipeline = Pipeline(breaker, name="test-live-rates")

    @pipeline
    async def work() -> None:
        await asyncio.sleep(0.001)

    await work()
    mine = lambda opened: opened.state["pipelines"][pipeline.name]["figures"]  # noqa: E731
    view = LiveView()
    async with stream(view) as opened:
        await opened.until(lambda opened: opened.state and mine(opened)["calls"] == 1)
        assert "p50" not in mine(opened)
        for _ in range(9):
            await work()
        await opened.until(lambda opened: mine(opened)["calls"] == 10)
        found = mine(opened)
        assert (found["calls"], found["failures"], found["bad"]) == (10, 0, 0)
        assert found["rate"] > 0
        now = (await request(view, "/state.json")).json()["pipelines"][pipeline.name]["figures"]
        assert "rate" in now
        assert 0.001 * 0.97 <= found["p50"] <= found["p99"]
        await opened.until(lambda opened: mine(opened).get("rate") == 0)
        assert "p50" not in mine(opened)
        breaker.isolate()
        for _ in range(5):
            with pytest.raises(CircuitOpen):
                await work()
        await opened.until(lambda opened: mine(opened)["rejected"] == 5)
        assert mine(opened)["bad"] == 1
        assert "p50" not in mine(opened)
    await ended()
    state = (await request(view, "/state.json")).json()
    assert state["pipelines"][pipeline.name]["figures"] == {"calls": 15, "failures": 0, "rejected": 5}


# -- forks ------------------------------------------------------------------------------------------------------------

FORKS = """
import asyncio, os
from resilient import CircuitBreaker, Pipeline
from resilient.events import CircuitChanged, channel
from resilient.observe.live import LiveView
from tests.observe.live_client import stream

breaker = CircuitBreaker()
pipeline = Pipeline(breaker, name="forked")
view = LiveView()

async def main():
    async with stream(view) as opened:
        await opened.until(lambda opened: opened.state)
        child = os.fork()
        if child == 0:
            os._exit(10 if view._feed.streams or view._feed.runs or channel._everywhere else 11)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        breaker.open()
        await opened.until(lambda opened: opened.lines)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_forked_child_has_no_streams_and_listens_to_nothing() -> None:
    """The streams of the parent go on."""
    command = [sys.executable, "-W", "ignore", "-c", FORKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (done.stdout, done.stderr, done.returncode) == ("11\n", "", 0)
