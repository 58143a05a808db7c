"""Bulkhead: its limit, its queue, the time in the queue, and permits that always come back."""

from __future__ import annotations

import asyncio
import gc
import pickle
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
import uvloop

from resilient import (
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    Deadlock,
    Pipeline,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    events,
)
from resilient.core.call import Call, new_call
from resilient.runtime import virtual
from tests.worlds import Slow, World

pytestmark = pytest.mark.filterwarnings("ignore:.*stands in the pipeline twice:resilient.PipelineWarning")

PATIENCE = 10
"""Seconds after which a test in threads has hung."""


def usage(bulkhead: Bulkhead) -> tuple[int, int]:
    """Permits in use, and queued calls."""
    state = bulkhead.snapshot()
    return state["in_use"], state["queued"]


def holding(world: World, bulkhead: Bulkhead, then: Callable[[], Any]) -> Any:
    """Call `then` while a permit is held: the outer call is running when the inner one is admitted."""
    if world.is_async:

        async def hold() -> Any:
            return await then()

        return world.call(bulkhead(hold))
    return world.call(bulkhead(then))


def holding_outcome(world: World, bulkhead: Bulkhead, then: Callable[[], Any]) -> Exception | None:
    """The error that `then` raised while a permit was held."""
    try:
        holding(world, bulkhead, then)
    except Exception as error:
        return error
    return None


# -- the limit ------------------------------------------------------------------------------------------------------


def test_bulkhead_never_lets_more_in_than_its_limit(world: World) -> None:
    """Seven calls at once, two at a time: all are served, and never three together."""
    bulkhead = Bulkhead(2, queue=5)
    dependency = world.dependency(*[Slow(0.02, "done")] * 7)
    guarded = bulkhead(dependency.fn)
    outcomes = world.together(*[guarded] * 7)
    assert [outcome.value for outcome in outcomes] == ["done"] * 7
    assert dependency.most == 2
    assert usage(bulkhead) == (0, 0)


def test_full_bulkhead_without_a_queue_refuses_at_once(world: World) -> None:
    """A refused call does not reach the dependency."""
    bulkhead, dependency = Bulkhead(1), world.dependency()
    error = holding_outcome(world, bulkhead, bulkhead(dependency.fn))
    assert isinstance(error, BulkheadFull)
    assert str(error) == "Bulkhead is full: 1 running, 0 queued"
    assert len(dependency.calls) == 0
    assert usage(bulkhead) == (0, 0)


def test_one_instance_has_one_limit_whatever_it_guards(world: World) -> None:
    """Two functions in two pipelines share its permits; another instance has its own."""
    bulkhead, dependency = Bulkhead(1), world.dependency("other")
    with_it = Pipeline(bulkhead, name="first")(dependency.fn)
    assert isinstance(holding_outcome(world, bulkhead, with_it), BulkheadFull)
    assert holding(world, bulkhead, Bulkhead(1)(dependency.fn)) == "other"


@pytest.mark.parametrize("error", [OSError(), TypeError(), Rejected()], ids=["failure", "callback_error", "rejection"])
def test_permit_comes_back_however_a_call_ends(world: World, error: Exception) -> None:
    """The only permit serves the next call."""
    bulkhead, dependency = Bulkhead(1), world.dependency(error, "next")
    guarded = bulkhead(dependency.fn)
    assert world.outcome(guarded).error is error
    assert world.call(guarded) == "next"
    assert usage(bulkhead) == (0, 0)


def test_permit_comes_back_when_what_is_no_exception_passes(world: World) -> None:
    """A Ctrl-C costs no permit."""

    class Exit(BaseException):
        pass

    bulkhead = Bulkhead(1)
    with pytest.raises(Exit):
        world.call(bulkhead(world.dependency(Exit()).fn))
    assert usage(bulkhead) == (0, 0)


def test_snapshot_counts_calls_inside_and_queued(world: World) -> None:
    """It also has the limits, so that a reader need not know the configuration."""
    bulkhead = Bulkhead(3, queue=2)
    seen: list[dict[str, Any]] = []

    def look() -> None:
        seen.append(bulkhead.snapshot())

    async def look_async() -> None:
        look()

    holding(world, bulkhead, bulkhead(look_async if world.is_async else look))
    assert seen == [{"in_use": 2, "max_concurrent": 3, "queued": 0, "queue": 2}]


# -- the queue ------------------------------------------------------------------------------------------------------


class Line:
    """Calls that arrive one after another, and end one by one.

    The calls run in threads or tasks by `world`; each is inside or queued before the next begins.
    """

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.pipeline = Pipeline(bulkhead)
        self.served: list[int] = []
        self.refused: list[int] = []

    def run(self, world: World, calls: int) -> None:
        """Make this many calls, all of them before the first one ends."""
        if world.is_async:
            world.run(lambda: self._run_tasks(world, calls))
        else:
            self._run_threads(calls)

    async def _run_tasks(self, world: World, calls: int) -> None:
        async def fetch(number: int) -> None:
            self.served.append(number)
            await world.sleep(0.02)

        guarded = self.pipeline(fetch)

        async def one(number: int) -> None:
            try:
                await guarded(number)
            except BulkheadFull:
                self.refused.append(number)

        if world.name == "trio":
            async with trio.open_nursery() as nursery:
                for number in range(calls):
                    nursery.start_soon(one, number)
                    await trio.lowlevel.checkpoint()
                    await trio.testing.wait_all_tasks_blocked()
        else:
            await asyncio.gather(*map(one, range(calls)))

    def _run_threads(self, calls: int) -> None:
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        go = threading.Event()

        def fetch(number: int) -> None:
            self.served.append(number)
            assert go.wait(PATIENCE)

        guarded = self.pipeline(fetch)

        def one(number: int) -> None:
            try:
                guarded(number)
            except BulkheadFull:
                self.refused.append(number)

        self.pipeline.listen(arrived.put)
        threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(calls)]
        for thread in threads:
            thread.start()
            arrived.get(timeout=PATIENCE)  # its attempt has started, or it is queued or refused
        go.set()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_waiters_are_served_in_order_of_arrival(world: World) -> None:
    """First come, first served."""
    line = Line(Bulkhead(1, queue=5))
    line.run(world, 6)
    assert line.served == [0, 1, 2, 3, 4, 5]
    assert line.refused == []


def test_queue_is_bounded_and_refuses_later_calls(world: World) -> None:
    """Calls that already wait keep their places."""
    bulkhead = Bulkhead(1, queue=2)
    line = Line(bulkhead)
    line.run(world, 5)
    assert line.served == [0, 1, 2]
    assert line.refused == [3, 4]
    assert usage(bulkhead) == (0, 0)


@pytest.mark.virtual_time
async def test_new_call_does_not_overtake_waiters_when_a_permit_comes_free() -> None:
    """A returned permit goes to the first waiter, also when a new call arrives in the same tick."""
    bulkhead, order = Bulkhead(1, queue=5), []

    @bulkhead
    async def fetch(name: str) -> None:
        order.append(name)
        await asyncio.sleep(1)

    async def come_again() -> None:
        await fetch("first")
        await fetch("newcomer")

    await asyncio.gather(come_again(), fetch("in line"))
    assert order == ["first", "in line", "newcomer"]


def test_call_that_waits_for_itself_is_a_deadlock_that_virtual_time_shows() -> None:
    """A guarded function that calls itself through a full bulkhead waits for ever without a time limit."""
    bulkhead = Bulkhead(1, queue=1)

    async def inner() -> None: ...

    async def outer() -> None:
        await bulkhead(inner)()

    with pytest.raises(Deadlock, match="bulkhead"):
        virtual.run(bulkhead(outer)())


@pytest.mark.parametrize("held", [1, 2])
def test_permit_that_comes_free_just_before_a_call_is_queued_is_not_missed(world: World, held: int) -> None:
    """Another thread returns it between `admit` and the queue: no later call would wake the waiter."""

    class Interleaved(Bulkhead):
        def admit(self, call: Call) -> object | None:
            ticket = super().admit(call)
            if ticket is None:
                for each in taken:
                    self.release(each)
            return ticket

    bulkhead = Interleaved(held, queue=1)
    taken = [bulkhead.admit(new_call(print, (), {}, None)) for _ in range(held)]
    guarded = Pipeline(Timeout(PATIENCE), bulkhead)(world.dependency("served").fn)
    assert world.call(guarded) == "served"
    assert usage(bulkhead) == (0, 0)


# -- time in the queue ----------------------------------------------------------------------------------------------


def test_queue_timeout_ends_the_wait_with_bulkhead_full(world: World) -> None:
    """Its place in the queue is free again."""
    bulkhead, dependency = Bulkhead(1, queue=1, queue_timeout=0.02), world.dependency("later")
    guarded = bulkhead(dependency.fn)
    error = holding_outcome(world, bulkhead, guarded)
    assert isinstance(error, BulkheadFull)
    assert str(error) == "Bulkhead is full: no permit within 0.02 s"
    assert len(dependency.calls) == 0
    assert usage(bulkhead) == (0, 0)
    assert world.call(guarded) == "later"


def test_deadline_of_the_call_ends_the_wait_with_timed_out(world: World) -> None:
    """No call waits beyond its deadline; a deadline that ends in the queue is no evidence about the dependency."""
    bulkhead, dependency = Bulkhead(1, queue=1), world.dependency("later")
    guarded = Pipeline(Timeout(0.02), bulkhead)(dependency.fn)
    error = holding_outcome(world, bulkhead, guarded)
    assert isinstance(error, TimedOut)
    assert not error.evidence
    assert len(dependency.calls) == 0
    assert usage(bulkhead) == (0, 0)
    assert world.call(guarded) == "later"


@pytest.mark.parametrize(("queue_timeout", "deadline", "expected"), [(0.02, 5.0, BulkheadFull), (5.0, 0.02, TimedOut)])
def test_shorter_of_queue_timeout_and_deadline_ends_the_wait(
    world: World, queue_timeout: float, deadline: float, expected: type[Exception]
) -> None:
    """Each has its own error, so that a handler can tell them apart."""
    bulkhead = Bulkhead(1, queue=1, queue_timeout=queue_timeout)
    guarded = Pipeline(Timeout(deadline), bulkhead)(world.dependency().fn)
    assert isinstance(holding_outcome(world, bulkhead, guarded), expected)
    assert usage(bulkhead) == (0, 0)


@pytest.mark.virtual_time
async def test_deadline_of_an_outer_pipeline_ends_the_wait_too() -> None:
    """A deadline is inherited; the Timeout that set it raises `TimedOut`."""
    bulkhead = Bulkhead(1, queue=1)
    now = asyncio.get_running_loop().time
    async with held(bulkhead):
        begin = now()
        with pytest.raises(TimedOut, match="Timeout of 2 s"):
            await Pipeline(Timeout(2, name="Timeout"), Pipeline(bulkhead, Timeout(1))).call(asyncio.sleep, 0)
        assert now() == begin + 2
        assert usage(bulkhead) == (1, 0)


@pytest.mark.virtual_time
async def test_wait_is_exactly_the_queue_timeout() -> None:
    """It counts for each call from its own arrival."""
    bulkhead, ends = Bulkhead(1, queue=9, queue_timeout=2.0), {}
    now = asyncio.get_running_loop().time

    async def late(start: float) -> None:
        await asyncio.sleep(start)
        with pytest.raises(BulkheadFull):
            await bulkhead(asyncio.sleep)(0)
        ends[start] = now() - begin

    async with held(bulkhead):
        begin = now()
        await asyncio.gather(late(0.0), late(0.5), late(1.25))
    assert ends == {0.0: 2.0, 0.5: 2.5, 1.25: 3.25}


# -- errors and events ----------------------------------------------------------------------------------------------


def test_bulkhead_full_names_pipeline_and_policy_and_survives_pickling(world: World) -> None:
    """The error has the names of pipeline and policy, also behind a process pool."""
    bulkhead = Bulkhead(1, name="database")
    guarded = Pipeline(bulkhead, name="users-of-bulkhead")(world.dependency().fn)
    error = holding_outcome(world, bulkhead, guarded)
    assert isinstance(error, BulkheadFull)
    assert (error.pipeline, error.policy, error.retry_after) == ("users-of-bulkhead", "database", None)
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is BulkheadFull
    assert (str(twin), twin.pipeline, twin.policy, twin.retry_after) == (str(error), error.pipeline, "database", None)


@pytest.mark.virtual_time
async def test_queued_waited_and_refused_calls_are_events() -> None:
    """Events have positions from one, and seconds."""
    heard: list[Any] = []
    bulkhead = Bulkhead(1, queue=2, name="database")
    pipeline = Pipeline(bulkhead, name="listened")
    news = (events.Queued, events.Waited, events.CallRejected)
    pipeline.listen(lambda event: heard.append(event) if isinstance(event, news) else None)
    begin = asyncio.get_running_loop().time()
    await asyncio.gather(*(pipeline.call(asyncio.sleep, 0.5) for _ in range(4)), return_exceptions=True)
    assert heard == [
        events.Queued("listened", begin, "database", 1),
        events.Queued("listened", begin, "database", 2),
        events.CallRejected("listened", begin, "database", "database is full: 1 running, 2 queued", None),
        events.Waited("listened", begin + 0.5, "database", "queue", 0.5),
        events.Waited("listened", begin + 1.0, "database", "queue", 1.0),
    ]


def test_full_bulkhead_is_no_evidence_for_a_breaker_around_it(world: World) -> None:
    """A local refusal says nothing about the dependency (unlike in pyresilience)."""
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(fail_max=1)
    guarded = Pipeline(breaker, bulkhead)(world.dependency().fn)
    assert isinstance(holding_outcome(world, bulkhead, guarded), BulkheadFull)
    assert breaker.state == "closed"
    assert breaker.snapshot()["calls"] == 0


def test_permit_is_held_for_all_attempts_only_where_the_retry_stands_inside(world: World) -> None:
    """A bulkhead inside a retry gives each attempt its own permit, and holds none during the pause."""
    bulkhead, dependency = Bulkhead(1), world.dependency(OSError(), OSError(), 7)
    guarded = Pipeline(Retry(3, wait=0), bulkhead)(dependency.fn)
    assert world.call(guarded) == 7
    assert len(dependency.calls) == 3
    assert usage(bulkhead) == (0, 0)


# -- cancellation ---------------------------------------------------------------------------------------------------


class held:
    """One permit, held by its own task for as long as the block lasts, or until `let_go()`."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self._bulkhead = bulkhead
        self._over = asyncio.Event()
        self._inside = asyncio.Event()

    async def _hold(self) -> None:
        self._inside.set()
        await self._over.wait()

    async def __aenter__(self) -> held:
        self._task = asyncio.create_task(Pipeline(self._bulkhead).call(self._hold))
        await self._inside.wait()
        return self

    def let_go(self) -> None:
        """Let the task end; its permit comes back in the next tick."""
        self._over.set()

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await self._task


class Waiters:
    """Queued calls, and which of them have been served."""

    def __init__(self, bulkhead: Bulkhead, names: str) -> None:
        self.served: list[str] = []
        fetch = bulkhead(self._fetch)
        self.tasks = {name: asyncio.create_task(fetch(name)) for name in names}

    async def _fetch(self, name: str) -> None:
        self.served.append(name)

    def __getitem__(self, name: str) -> asyncio.Task[None]:
        return self.tasks[name]

    async def ends(self) -> dict[str, str]:
        """Wait for all calls; return how each ended."""
        _, waiting = await asyncio.wait(self.tasks.values(), timeout=PATIENCE)
        ends = {True: "cancelled", False: "served"}
        return {name: "waiting" if task in waiting else ends[task.cancelled()] for name, task in self.tasks.items()}


async def tick() -> None:
    """Let the loop run once."""
    await asyncio.sleep(0)


@pytest.mark.every_loop
async def test_cancelled_waiter_gives_its_place_in_the_queue_back() -> None:
    """The waiters behind it move up, and a new call finds a place."""
    bulkhead = Bulkhead(1, queue=3)
    async with held(bulkhead) as permit:
        waiters = Waiters(bulkhead, "abc")
        await tick()
        waiters["b"].cancel()
        await tick()
        assert usage(bulkhead) == (1, 2)
        newcomer = Waiters(bulkhead, "d")
        await tick()
        assert usage(bulkhead) == (1, 3)
        permit.let_go()
        assert await waiters.ends() == {"a": "served", "b": "cancelled", "c": "served"}
        assert await newcomer.ends() == {"d": "served"}
    assert waiters.served == ["a", "c"]
    assert usage(bulkhead) == (0, 0)


@pytest.mark.every_loop
async def test_waiter_that_is_cancelled_in_the_tick_of_its_permit_passes_it_on() -> None:
    """It is cancelled after it was granted a permit and before it runs: the next waiter gets the permit."""
    bulkhead = Bulkhead(1, queue=3)
    async with held(bulkhead) as permit:
        waiters = Waiters(bulkhead, "abc")
        await tick()
        permit.let_go()
        await tick()  # in which the holder ends
        assert usage(bulkhead) == (1, 2)  # granted to "a", which has not run yet
        assert waiters["a"].cancel()
        assert await waiters.ends() == {"a": "cancelled", "b": "served", "c": "served"}
    assert waiters.served == ["b", "c"]
    assert usage(bulkhead) == (0, 0)


@pytest.mark.every_loop
async def test_waiter_that_was_cancelled_just_before_its_permit_comes_passes_it_on() -> None:
    """Within one tick the cancellation comes first, then the permit."""
    bulkhead = Bulkhead(1, queue=3)
    async with held(bulkhead) as permit:
        waiters = Waiters(bulkhead, "ab")
        await tick()
        permit.let_go()
        assert waiters["a"].cancel()
        assert await waiters.ends() == {"a": "cancelled", "b": "served"}
    assert waiters.served == ["b"]
    assert usage(bulkhead) == (0, 0)


@pytest.mark.every_loop
async def test_all_waiters_cancelled_in_the_tick_of_the_permit_leave_the_bulkhead_free() -> None:
    """The permit passes through all of them."""
    bulkhead = Bulkhead(1, queue=3)
    async with held(bulkhead) as permit:
        waiters = Waiters(bulkhead, "abc")
        await tick()
        permit.let_go()
        await tick()
        for name in "abc":
            assert waiters[name].cancel()
        assert await waiters.ends() == {"a": "cancelled", "b": "cancelled", "c": "cancelled"}
    assert waiters.served == []
    assert usage(bulkhead) == (0, 0)


@pytest.mark.virtual_time
async def test_waiter_whose_queue_timeout_strikes_in_the_tick_of_its_permit_keeps_it() -> None:
    """The permit was granted before the timeout was delivered."""
    bulkhead = Bulkhead(1, queue=1, queue_timeout=1.0)

    async def take_exactly_as_long() -> None:
        await asyncio.sleep(1.0)

    async def fetch() -> str:
        return "served"

    assert await asyncio.gather(bulkhead(take_exactly_as_long)(), bulkhead(fetch)()) == [None, "served"]
    assert usage(bulkhead) == (0, 0)


@pytest.mark.virtual_time
async def test_waiter_whose_deadline_strikes_in_the_tick_of_its_permit_passes_it_on() -> None:
    """It times out while it holds the permit, and the next waiter gets it."""
    bulkhead = Bulkhead(1, queue=3)
    loop = asyncio.get_running_loop()
    served: list[str] = []

    async def fetch(name: str) -> None:
        served.append(name)

    async with held(bulkhead) as permit:
        loop.call_at(loop.time() + 1.0, permit.let_go)
        impatient = asyncio.create_task(Pipeline(Timeout(1.0), bulkhead).call(fetch, "impatient"))
        patient = asyncio.create_task(Pipeline(bulkhead).call(fetch, "patient"))
        ends = await asyncio.gather(impatient, patient, return_exceptions=True)
    assert [type(end).__name__ for end in ends] == ["TimedOut", "NoneType"]
    assert served == ["patient"]
    assert usage(bulkhead) == (0, 0)


def test_permit_of_a_waiter_whose_loop_was_closed_comes_back_when_it_is_collected() -> None:
    """Tasks of a loop that was closed end only when they are garbage-collected."""
    bulkhead = Bulkhead(1, queue=1)

    async def fetch() -> None: ...

    async def leave_behind() -> None:
        waiter = asyncio.ensure_future(bulkhead(fetch)())
        await tick()
        assert not waiter.done()

    def hold() -> None:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # or it logs that a task was destroyed
        loop.run_until_complete(leave_behind())
        loop.close()

    bulkhead(hold)()
    gc.collect()
    assert usage(bulkhead) == (0, 0)


def _trio_waiters(cancel_after_grant: bool) -> tuple[list[str], bool, tuple[int, int]]:
    """One holder and two waiters, the first of which is cancelled before or after it is granted the permit."""
    bulkhead = Bulkhead(1, queue=2)
    served: list[str] = []
    scope = trio.CancelScope()

    async def main() -> None:
        over = trio.Event()

        async def fetch(name: str) -> None:
            served.append(name)

        async def first() -> None:
            with scope:
                await bulkhead(fetch)("first")

        async def hold() -> None:
            await over.wait()
            if not cancel_after_grant:
                scope.cancel()

        async def holder() -> None:
            await bulkhead(hold)()
            if cancel_after_grant:
                scope.cancel()  # granted in this very step; the first has not run yet

        async with trio.open_nursery() as nursery:
            nursery.start_soon(holder)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(bulkhead(fetch), "second")
            await trio.testing.wait_all_tasks_blocked()
            assert usage(bulkhead) == (1, 2)
            over.set()

    trio.run(main)
    return served, scope.cancelled_caught, usage(bulkhead)


@pytest.mark.parametrize("cancel_after_grant", [False, True])
def test_trio_waiter_that_is_cancelled_around_its_permit_passes_it_on(cancel_after_grant: bool) -> None:
    """On trio, too, the next waiter gets the permit."""
    assert _trio_waiters(cancel_after_grant) == (["second"], True, (0, 0))


# -- one queue for all loops and threads ----------------------------------------------------------------------------


class Outsiders:
    """Calls from elsewhere: each in its own thread, with an event loop or none."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.pipeline = Pipeline(bulkhead)
        self.arrived: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        self.served: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.go = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []
        self.pipeline.listen(lambda event: self.arrived.put(event) if isinstance(event, events.Queued) else None)

    def _fetch(self, name: str) -> None:
        self.served.put(name)
        assert self.go.acquire(timeout=PATIENCE)

    async def _fetch_async(self, name: str) -> None:
        self._fetch(name)  # blocks a loop that has nothing else to do

    def come(self, name: str) -> None:
        """Make one more call, of the kind that its name says; return when it is queued."""
        on_loop = self.pipeline(self._fetch_async)

        async def call() -> None:
            await on_loop(name)

        def on_asyncio(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(call())

        runs: dict[str, Callable[[], object]] = {
            "asyncio": lambda: on_asyncio(asyncio.new_event_loop),
            "uvloop": lambda: on_asyncio(uvloop.new_event_loop),
            "trio": lambda: trio.run(call),
            "thread": lambda: self.pipeline(self._fetch)(name),
        }
        thread = threading.Thread(target=runs[name.partition(" ")[0]], daemon=True)
        self.threads.append(thread)
        thread.start()
        self.arrived.get(timeout=PATIENCE)

    def let_one_go(self) -> None:
        """Let the call that is inside end."""
        self.go.release()

    def end(self) -> None:
        """Wait for all threads."""
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_waiters_of_all_loops_and_threads_are_in_one_queue() -> None:
    """They are served in order of arrival, one at a time, whichever thread returns the permit."""
    bulkhead = Bulkhead(1, queue=9)
    outsiders = Outsiders(bulkhead)
    names = ["asyncio 1", "trio 1", "thread 1", "uvloop 1", "thread 2", "trio 2", "asyncio 2"]

    def hold() -> None:
        for name in names:
            outsiders.come(name)
        assert usage(bulkhead) == (1, len(names))

    bulkhead(hold)()
    for name in names:
        assert outsiders.served.get(timeout=PATIENCE) == name
        assert outsiders.served.empty()
        outsiders.let_one_go()
    outsiders.end()
    assert usage(bulkhead) == (0, 0)


def test_queue_is_bounded_over_all_loops_and_threads() -> None:
    """One limit holds for the queue of all of them."""
    bulkhead = Bulkhead(1, queue=2)
    outsiders = Outsiders(bulkhead)

    def hold() -> None:
        outsiders.come("asyncio")
        outsiders.come("thread")
        with pytest.raises(BulkheadFull, match="1 running, 2 queued"):
            bulkhead(print)()

    bulkhead(hold)()
    outsiders.let_one_go()
    outsiders.let_one_go()
    outsiders.end()
    assert usage(bulkhead) == (0, 0)
