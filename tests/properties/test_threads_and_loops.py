"""One instance for eight threads and four event loops at once: one state, one limit, and no lost wake-up."""

from __future__ import annotations

import asyncio
import collections
import faulthandler
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import uvloop

from resilient import (
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    Pipeline,
    PipelineClosed,
    Retry,
    TimedOut,
    Timeout,
    events,
)

THREADS = 8
LOOPS = ("asyncio", "asyncio", "uvloop", "trio")
TASKS = 4
"""In each loop."""

WATCH = 60
"""Seconds after which a test has hung: the watchdog shows where every thread stands, and ends the run."""


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A lost wake-up ends the suite with a traceback, instead of hanging it."""
    faulthandler.dump_traceback_later(WATCH, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def hasty_switches() -> Iterator[None]:
    """Threads switch 500 times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Service:
    """The guarded function: it fails now and then, and counts the calls inside."""

    def __init__(self, fails_every: int = 0) -> None:
        self.fails_every = fails_every
        self.lock = threading.Lock()
        self.calls = self.failures = self.inside = self.most = 0

    def enter(self) -> bool:
        """Count a call in. Returns whether it shall fail."""
        with self.lock:
            self.calls += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
            fails = self.fails_every > 0 and self.calls % self.fails_every == 0
            self.failures += fails
            return fails

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1

    def fetch(self) -> str:
        """The function as a `def`."""
        fails = self.enter()
        try:
            time.sleep(0)
            if fails:
                raise OSError
        finally:
            self.leave()
        return "done"

    async def fetch_async(self) -> str:
        """The function as an `async def`, on any loop."""
        fails = self.enter()
        try:
            await pause(0)
            if fails:
                raise OSError
        finally:
            self.leave()
        return "done"


async def pause(seconds: float) -> None:
    """Wait on whichever loop runs."""
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        await asyncio.sleep(seconds)
    else:
        await trio.sleep(seconds)


class Crowd:
    """Threads and tasks that call `guard(service)`, `rounds` times each.

    Attributes:
        ends: how many calls ended with which result or error.
    """

    def __init__(self, service: Service, pipeline: Pipeline, rounds: int) -> None:
        self.sync, self.on_loop = pipeline(service.fetch), pipeline(service.fetch_async)
        self.rounds = rounds
        self._ends: list[str] = []
        self.mistakes: list[BaseException] = []
        self._start = threading.Barrier(THREADS + len(LOOPS))

    def run(self) -> None:
        """Run all threads and loops to their end."""
        works = [self._in_thread] * THREADS
        works += [lambda kind=kind: self._in_loop(kind) for kind in LOOPS]
        threads = [threading.Thread(target=self._work, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.mistakes == []

    def _work(self, work: Callable[[], object]) -> None:
        try:
            self._start.wait(WATCH)
            work()
        except BaseException as error:
            self.mistakes.append(error)

    def _in_thread(self) -> None:
        for _ in range(self.rounds):
            try:
                end = self.sync()
            except Exception as error:
                end = type(error).__name__
            self._ends.append(end)

    def _in_loop(self, kind: str) -> None:
        if kind == "trio":
            trio.run(self._in_trio)
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop if kind == "uvloop" else None) as runner:
                runner.run(self._in_asyncio())

    async def _in_asyncio(self) -> None:
        await asyncio.gather(*(self._in_task() for _ in range(TASKS)))

    async def _in_trio(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(self._in_task)

    async def _in_task(self) -> None:
        for _ in range(self.rounds):
            try:
                end = await self.on_loop()
            except Exception as error:
                end = type(error).__name__
            self._ends.append(end)

    @property
    def ends(self) -> collections.Counter[str]:
        return collections.Counter(self._ends)

    @property
    def calls(self) -> int:
        """The number of calls in all."""
        return self.rounds * (THREADS + len(LOOPS) * TASKS)


def assert_idle(pipeline: Pipeline) -> None:
    """Assert that no call is inside, queued, or probing."""
    state = pipeline.snapshot()
    assert state["in_flight"] == 0
    for policy in state["policies"]:
        assert [policy.get(key, 0) for key in ("in_use", "queued", "probes")] == [0, 0, 0], policy


@pytest.mark.parametrize("limit", [1, 3])
def test_bulkhead_serves_all_calls_and_never_exceeds_its_limit(limit: int) -> None:
    """Waiters are woken from other threads and other loops; with one lost wake-up, this would not end."""
    service, pipeline = Service(), Pipeline(Bulkhead(limit, queue=1000))
    crowd = Crowd(service, pipeline, rounds=100)
    crowd.run()
    assert crowd.ends == {"done": crowd.calls}
    assert 1 <= service.most <= limit
    assert_idle(pipeline)


def test_bulkhead_without_a_queue_never_makes_a_call_wait() -> None:
    """A call that finds it full is refused, also when a permit comes free at that moment; all others are served."""
    service, pipeline = Service(), Pipeline(Bulkhead(2))
    queued: list[events.Event] = []
    pipeline.listen(lambda event: queued.append(event) if isinstance(event, events.Queued) else None)
    crowd = Crowd(service, pipeline, rounds=200)
    crowd.run()
    assert queued == []
    assert service.most <= 2
    assert set(crowd.ends) <= {"done", "BulkheadFull"}
    assert crowd.ends["done"] == service.calls
    assert crowd.ends.total() == crowd.calls
    assert_idle(pipeline)


def test_permits_come_back_from_waiters_that_give_up() -> None:
    """Permits come back from waiters whose time ends at the moment in which they are granted one."""
    service = Service()
    bulkhead = Bulkhead(1, queue=8, queue_timeout=0.0005)
    pipeline = Pipeline(Timeout(0.001), bulkhead)
    crowd = Crowd(service, pipeline, rounds=100)
    crowd.run()
    assert service.most == 1
    assert set(crowd.ends) <= {"done", BulkheadFull.__name__, TimedOut.__name__}
    assert crowd.ends.total() == crowd.calls
    assert_idle(pipeline)


def test_permits_come_back_from_waiters_that_are_cancelled() -> None:
    """Threads take permits while tasks on four loops are cancelled."""
    service, pipeline = Service(), Pipeline(Bulkhead(1, queue=1000))
    crowd = Crowd(service, pipeline, rounds=60)
    patient, seeds = crowd.on_loop, random.Random(1)

    async def impatient() -> str:
        seconds = seeds.choice((0.0, 0.0001, 0.0005, 0.002))
        try:
            trio.lowlevel.current_trio_token()
        except RuntimeError:
            task = asyncio.ensure_future(patient())
            asyncio.get_running_loop().call_later(seconds, task.cancel)
            await asyncio.wait([task])
            return "cancelled" if task.cancelled() else task.result()
        with trio.move_on_after(seconds):
            return await patient()
        return "cancelled"

    crowd.on_loop = impatient
    crowd.run()
    assert service.most == 1
    assert set(crowd.ends) <= {"done", "cancelled"}
    assert crowd.ends.total() == crowd.calls
    assert_idle(pipeline)


@pytest.mark.parametrize("queue", [0, 100])
def test_permits_are_never_given_twice_to_threads_that_ask_in_the_same_moment(queue: int) -> None:
    """Only the bulkhead keeps the threads apart."""
    bulkhead = Bulkhead(1, queue=queue)
    in_use: set[int] = set()
    start = threading.Barrier(THREADS)

    @bulkhead
    def fetch() -> None:
        in_use.add(bulkhead.snapshot()["in_use"])

    def work() -> None:
        start.wait(WATCH)
        for _ in range(2000 if queue else 10000):
            try:
                fetch()
            except BulkheadFull:
                pass

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert in_use == {1}
    assert bulkhead.snapshot()["in_use"] == 0


@pytest.mark.parametrize("window", [{"window_calls": 100_000}, {"window_seconds": 600}])
def test_breaker_counts_every_call_once(window: dict[str, Any]) -> None:
    """No update of its window is lost to another thread's."""
    service, breaker = Service(fails_every=3), CircuitBreaker(failure_rate=1.0, min_calls=90_000, **window)
    pipeline = Pipeline(breaker)
    crowd = Crowd(service, pipeline, rounds=300)
    crowd.run()
    state = breaker.snapshot()
    assert crowd.ends == {"done": crowd.calls - service.failures, "OSError": service.failures}
    assert (state["calls"], state["failures"]) == (crowd.calls, service.failures)
    assert state["state"] == "closed"
    assert_idle(pipeline)


def test_half_open_breaker_lets_one_probe_through_at_a_time() -> None:
    """The number of calls does not matter; each failed probe opens the circuit again."""
    service = Service(fails_every=1)
    breaker = CircuitBreaker(fail_max=1, break_duration=0.0005, max_break=0.001)
    breaker.open()
    pipeline = Pipeline(breaker)
    crowd = Crowd(service, pipeline, rounds=300)
    crowd.run()
    assert service.most == 1
    assert service.calls >= 2
    assert crowd.ends == {"OSError": service.calls, CircuitOpen.__name__: crowd.calls - service.calls}
    assert breaker.state in ("open", "half-open")
    assert_idle(pipeline)


def test_breaker_that_recovers_closes_for_all_threads_and_loops() -> None:
    """One probe succeeds in one thread or loop, and calls of all of them are admitted again."""
    service, breaker = Service(), CircuitBreaker(fail_max=1, break_duration=0.0005)
    breaker.open()
    pipeline = Pipeline(breaker)
    changes: list[tuple[str, str]] = []
    pipeline.listen(
        lambda event: changes.append((event.old, event.new)) if isinstance(event, events.CircuitChanged) else None
    )
    crowd = Crowd(service, pipeline, rounds=300)
    crowd.run()
    assert changes == [("open", "half-open"), ("half-open", "closed")]
    assert breaker.state == "closed"
    assert crowd.ends["done"] == service.calls
    assert crowd.ends.total() == crowd.calls
    assert_idle(pipeline)


def test_whole_stack_serves_all_calls_and_is_idle_afterwards() -> None:
    """Timeouts of several loops, retries, a queue and a breaker, on one pipeline."""
    service = Service(fails_every=5)
    pipeline = Pipeline(
        Timeout(50),
        Retry(4, wait=0),
        Bulkhead(3, queue=1000),
        CircuitBreaker(failure_rate=1.0, min_calls=100_000, window_calls=100_000),
        Timeout(10),
    )
    crowd = Crowd(service, pipeline, rounds=80)
    crowd.run()
    assert service.most <= 3
    assert service.calls == crowd.ends["done"] + service.failures
    assert set(crowd.ends) <= {"done", "OSError"}
    assert crowd.ends.total() == crowd.calls
    assert pipeline.snapshot()["policies"][3]["calls"] == service.calls
    assert_idle(pipeline)


def test_pipeline_that_is_closed_lets_calls_end_everywhere_and_takes_no_more() -> None:
    """`close()` returns when the last call, in whichever thread or loop, has ended."""
    service, pipeline = Service(), Pipeline(Bulkhead(2, queue=1000))
    crowd = Crowd(service, pipeline, rounds=200)
    busy, inside_at_close = threading.Event(), []

    def close() -> None:
        assert busy.wait(WATCH)
        pipeline.close()
        inside_at_close.append(service.inside)
        inside_at_close.append(pipeline.snapshot()["in_flight"])

    def count(event: events.Event) -> None:
        if service.calls >= crowd.calls // 10:
            busy.set()

    pipeline.listen(count)
    closer = threading.Thread(target=close)
    closer.start()
    crowd.run()
    closer.join()
    assert inside_at_close == [0, 0]
    assert set(crowd.ends) <= {"done", PipelineClosed.__name__}
    assert crowd.ends["done"] == service.calls
    assert crowd.ends.total() == crowd.calls
    assert_idle(pipeline)
