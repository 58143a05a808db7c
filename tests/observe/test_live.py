"""The streams of the live page as messages of ASGI: what they send, when they end, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, CircuitOpen, Fallback, Pipeline, registry
from resilient.events import CircuitChanged, Event, channel
from resilient.observe.live import LiveView, apply
from resilient.observe.live.feed import split
from resilient.observe.live.lines import KINDS, EventLines
from tests.observe.live_client import Stream, request, stream
from tests.observe.log_records import LINES

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize(("event", "line"), [each for each in LINES if isinstance(each[0], KINDS)])
def test_line_is_a_warning_where_the_log_has_one(event: Event, line: str) -> None:
    """An event has one level, wherever it is shown."""
    lines = EventLines()
    lines(event)
    (taken,) = lines.take()
    assert taken["level"] == ("warning" if line.startswith("WARNING") else "info")


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
from resilient.events import channel
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
