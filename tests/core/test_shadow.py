"""Gates in shadow mode count what they would have done: compared with the same gate, acting on the same calls."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from resilient import (
    AdaptiveLimit,
    Bulkhead,
    CircuitBreaker,
    Keyed,
    Pipeline,
    RateLimit,
    Rejected,
    Retry,
    TimedOut,
    deadline,
    priority,
)
from resilient.core.policy import Policy
from resilient.events import CallRejected, Queued
from resilient.observe.shadow import WouldHaveDone, report_shadows
from resilient.testing import Dependency, Slow, run
from tests.worlds import Joined, World

Make = Callable[[bool], Any]
"""Makes a gate, in shadow mode or not."""

SERVICE = 0.1
"""Seconds that a call takes on average. Most gates here have 7 permits, so 70 calls a second are a load of 1."""


@dataclass
class Counted:
    """The calls of a load that were not made (refused, or too late in the queue), and those that waited."""

    refused: int
    queued: int


def lived(
    policies: list[Policy], load: float, calls: int = 300, slower_from: float = 1e9, within: tuple[float, ...] = (1e9,)
) -> tuple[Counted, Any]:
    """Run a load: random arrivals and service times, keys and priorities, the same for all policies.

    From `slower_from` calls inside on, each takes longer in proportion. Each has one of the deadlines `within`. Returns
    the
    counts, and a shadow report.
    """
    pipeline = Pipeline(*policies, name="p")
    dice = random.Random(7)
    took = [random.Random(f"call {number}").expovariate(1 / SERVICE) for number in range(calls)]
    inside = made = queued = 0

    @pipeline
    async def work(key: int, number: int) -> None:
        nonlocal inside, made
        made += 1
        inside += 1
        try:
            await asyncio.sleep(took[number] * max(1, inside / slower_from))
        finally:
            inside -= 1

    async def call(key: int, number: int, urgency: Any, seconds: float) -> None:
        with priority(urgency), deadline(seconds):
            await work(key, number)

    async def main() -> None:
        tasks = []
        for number in range(calls):
            await asyncio.sleep(dice.expovariate(7 / SERVICE * load))
            urgency = dice.choice(["critical", "normal", "sheddable"])
            tasks.append(asyncio.create_task(call(dice.randrange(4), number, urgency, dice.choice(within))))
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, Rejected | TimedOut)

    def hear(event: Any) -> None:
        nonlocal queued
        queued += isinstance(event, Queued)

    pipeline.listen(hear)
    with report_shadows(pipeline) as report:
        run(main())
    return Counted(calls - made, queued), report


def would(policies: list[Policy], load: float, **options: Any) -> Counted:
    """The counts of policies of which one is in shadow mode, from its report."""
    acted, report = lived(policies, load, **options)
    assert acted == Counted(0, 0), "shadow mode refuses no call, and makes none wait"
    (done,) = report.policies.values()
    assert 0 <= done.went_well <= done.refused
    return Counted(done.refused, done.queued)


FIXED = {"initial": 10, "min_limit": 10, "max_limit": 10}

GATES: dict[str, Make] = {
    "bulkhead": lambda shadow: Bulkhead(7, shadow=shadow),
    "bulkhead, short queue": lambda shadow: Bulkhead(7, queue=2, shadow=shadow),
    "bulkhead, long queue": lambda shadow: Bulkhead(7, queue=30, shadow=shadow),
    "bulkhead, queue with a timeout": lambda shadow: Bulkhead(7, queue=30, queue_timeout=0.1, shadow=shadow),
    "bulkhead, one permit": lambda shadow: Bulkhead(1, queue=5, queue_timeout=0.3, shadow=shadow),
    "rate": lambda shadow: RateLimit(70, burst=5, shadow=shadow),
    "rate, wait": lambda shadow: RateLimit(70, burst=5, max_wait=0.1, shadow=shadow),
    "rate, long wait": lambda shadow: RateLimit(70, burst=1, max_wait=2, shadow=shadow),
    "limit": lambda shadow: AdaptiveLimit(**FIXED, shadow=shadow),
    "limit, queue": lambda shadow: AdaptiveLimit(**FIXED, queue=10, shadow=shadow),
    "limit, queue with a timeout": lambda shadow: AdaptiveLimit(**FIXED, queue=10, queue_timeout=0.1, shadow=shadow),
    "keyed bulkheads": lambda shadow: Keyed(
        lambda: Bulkhead(2, queue=3, queue_timeout=0.2, shadow=shadow), key=lambda key, number: key
    ),
    "keyed rates": lambda shadow: Keyed(
        lambda: RateLimit(18, burst=2, max_wait=0.1, shadow=shadow), key=lambda key, number: key
    ),
}


@pytest.mark.parametrize("load", [0.6, 1.5])
@pytest.mark.parametrize("make", GATES.values(), ids=GATES)
def test_shadow_counts_what_the_acting_gate_does(make: Make, load: float) -> None:
    """The counts are equal where service times do not depend on the load, near a load of 1 and far from it."""
    acting, _ = lived([make(False)], load)
    assert would([make(True)], load) == acting


@pytest.mark.parametrize("seed", range(12))
def test_shadow_counts_what_the_acting_gate_does_with_any_settings(seed: int) -> None:
    """The counts are equal as long as no two events happen at one moment."""
    dice = random.Random(seed)
    size, queue, load = dice.randint(1, 9), dice.choice([1, 2, 5, 20]), dice.choice([0.5, 1, 2])
    patience, within = dice.choice([None, 0.03, 0.1, 0.5]), dice.choice([(1e9,), (0.2,), (0.1, 0.5)])

    def make(shadow: bool) -> Any:
        queued = {"queue": queue, "queue_timeout": patience, "shadow": shadow}
        kinds: list[Callable[[], Any]] = [
            lambda: Bulkhead(size, **queued),
            lambda: AdaptiveLimit(size, min_limit=size, max_limit=size, **queued),
            lambda: Keyed(lambda: Bulkhead(size, **queued), key=lambda key, number: key),
            lambda: RateLimit(size / SERVICE, burst=queue, max_wait=patience or 0, shadow=shadow),
        ]
        return kinds[seed % 4]()

    acting, _ = lived([make(False)], load, within=within)
    assert would([make(True)], load, within=within) == acting


@pytest.mark.parametrize("load", [0.9, 2])
@pytest.mark.parametrize(
    "make",
    [
        lambda shadow: Bulkhead(7, queue=60, shadow=shadow),
        lambda shadow: Bulkhead(7, queue=20, queue_timeout=0.2, shadow=shadow),
        lambda shadow: RateLimit(70, burst=1, max_wait=2, shadow=shadow),
    ],
    ids=["bulkhead", "bulkhead with a timeout", "rate"],
)
def test_shadow_counts_calls_whose_deadline_would_end_in_the_queue(make: Make, load: float) -> None:
    """They count as refused. Calls that would be cut short later give their permits back earlier."""
    acting, _ = lived([make(False)], load, within=(0.1, 0.3, 1))
    counted = would([make(True)], load, within=(0.1, 0.3, 1))
    assert counted == acting
    assert counted.refused > 0 or load < 1


def test_shadow_of_a_limit_that_learns_is_off_by_little() -> None:
    """It learns from calls that end earlier than they would."""
    for load in (0.9, 1.5):
        acting, _ = lived([AdaptiveLimit(7, queue=20)], load, calls=1000)
        assert would([AdaptiveLimit(7, queue=20, shadow=True)], load, calls=1000).refused == pytest.approx(
            acting.refused, abs=0.01 * 1000
        )


@pytest.mark.parametrize(("load", "most"), [(0.5, 0.0), (0.7, 3.0), (0.9, 45.0)])
def test_shadow_counts_too_many_where_the_gate_would_prevent_an_overload(load: float, most: float) -> None:
    """The error in points of 100 calls, where calls take longer in proportion from 7 inside on; it never counts too
    few."""
    acting, _ = lived([Bulkhead(7, queue=20)], load, calls=1000, slower_from=7)
    counted = would([Bulkhead(7, queue=20, shadow=True)], load, calls=1000, slower_from=7)
    assert 0 <= 100 * (counted.refused - acting.refused) / 1000 <= most


# -- when it is known --------------------------------------------------------------------------------------------


ONE_PLACE: dict[str, Callable[[], Any]] = {
    "Bulkhead": lambda: Bulkhead(1, queue=10, queue_timeout=0.45, shadow=True),
    "AdaptiveLimit": lambda: AdaptiveLimit(1, min_limit=1, max_limit=1, queue=10, queue_timeout=0.45, shadow=True),
    "Keyed": lambda: Keyed(ONE_PLACE["AdaptiveLimit"], key=lambda: "one"),
}


@pytest.mark.parametrize("kind", ONE_PLACE)
def test_calls_that_would_time_out_in_the_queue_are_counted_after_they_have_ended(kind: str) -> None:
    """Ten calls of 0.1 s come at once for one permit: five would get it within 0.45 s. All have ended after 0.1 s, and
    their
    outcomes are still known."""
    pipeline = Pipeline(gate := ONE_PLACE[kind](), name="users")
    guarded = pipeline(Dependency(*[Slow(0.1)] * 9, Slow(0.1, OSError())))
    heard: list[CallRejected] = []
    pipeline.listen(lambda event: heard.append(event) if type(event) is CallRejected and event.went_well else None)

    async def main() -> float:
        await asyncio.gather(*(guarded() for _ in range(10)), return_exceptions=True)
        return asyncio.get_running_loop().time()

    with report_shadows(pipeline) as report:
        assert run(main()) == pytest.approx(0.1)
    assert report.policies["users", kind] == WouldHaveDone(refused=5, queued=9, went_well=4)
    assert gate._would_have_refused == 5
    assert heard[0].reason.endswith(": no permit within 0.45 s")


def test_burst_that_is_simulated_ahead_keeps_its_places() -> None:
    """A second burst finds the queue as the first one would have left it, though no call of the first one runs."""

    def counted(shadow: bool) -> tuple[int, int]:
        gate = Bulkhead(1, queue=4, shadow=shadow)
        guarded = Pipeline(gate)(Dependency(default=Slow(1)))
        refused = 0

        async def main() -> None:
            nonlocal refused
            bursts = []
            for _ in range(3):
                bursts += [asyncio.create_task(guarded()) for _ in range(4)]
                await asyncio.sleep(1.5)
            for ended in await asyncio.gather(*bursts, return_exceptions=True):
                refused += ended is not None

        run(main())
        return refused, gate._would_have_refused

    acting, _ = counted(False)
    assert counted(True) == (0, acting)
    assert acting > 0


def test_more_important_call_takes_a_place_in_the_queue() -> None:
    """The last of the less important calls would be refused, while it runs."""
    gate = AdaptiveLimit(1, min_limit=1, max_limit=1, queue=1, shadow=True)
    pipeline = Pipeline(gate, name="users")
    guarded = pipeline(Dependency(default=Slow(1)))
    heard: list[CallRejected] = []
    pipeline.listen(lambda event: heard.append(event) if type(event) is CallRejected else None)

    async def call(urgency: Any) -> None:
        with priority(urgency):
            await guarded()

    async def main() -> None:
        await asyncio.gather(*map(call, ["normal", "sheddable", "critical", "normal"]))

    with report_shadows(pipeline) as report:
        run(main())
    assert report.policies["users", "AdaptiveLimit"] == WouldHaveDone(refused=2, queued=2, went_well=2)
    assert "its place in the queue went to a more important call" in heard[1].reason + heard[2].reason
    assert gate.snapshot()["refused"] == {"critical": 0, "normal": 1, "sheddable": 1}


def test_shadow_of_a_plain_def_has_the_deadlines_around(world: World) -> None:
    """A wait would end with the earliest of them, in all modes."""
    gate = Bulkhead(1, queue=5, shadow=True)
    pipeline = Pipeline(gate)
    dependency = world.dependency(Joined(3), Joined(3), Joined(3))
    guarded = pipeline(dependency.fn)
    calls = [guarded, _hurried(guarded, world.is_async), _hurried(guarded, world.is_async)]
    world.together(*calls)
    assert (dependency.most, gate._would_have_queued) == (3, 2)
    assert gate._shadow_queue is not None
    assert len(gate._shadow_queue._expiries) == 2


def _hurried(guarded: Callable[..., Any], is_async: bool) -> Callable[[], Any]:
    def plain() -> Any:
        with deadline(60):
            return guarded()

    async def call() -> Any:
        with deadline(60):
            return await guarded()

    return call if is_async else plain


# -- what goes wrong meanwhile -----------------------------------------------------------------------------------


def test_instance_on_a_clock_that_begins_anew_forgets_what_was() -> None:
    """With one instance in two tests in virtual time, calls inside at the end of the first hold no permit in the
    second."""
    gate = Bulkhead(1, queue=1, shadow=True)
    guarded = Pipeline(gate)(Dependency(default=Slow(1000)))

    async def cut_short() -> None:
        await asyncio.sleep(500)
        calls = [asyncio.create_task(guarded()) for _ in range(2)]
        await asyncio.sleep(10)
        assert [call.cancel() for call in calls] == [True, True]

    for _ in range(3):
        run(cut_short())
    assert (gate._would_have_queued, gate._would_have_refused) == (3, 0)


def test_renewed_queue_ignores_the_calls_that_were_inside() -> None:
    """In a forked child such calls may still end."""
    gate = Bulkhead(1, queue=1, shadow=True)
    guarded = Pipeline(gate)(Dependency(default=Slow(1)))

    async def main() -> None:
        calls = [asyncio.create_task(guarded()) for _ in range(3)]
        await asyncio.sleep(0.5)
        gate._renew()
        await asyncio.gather(*calls, guarded())

    run(main())
    assert (gate._would_have_queued, gate._would_have_refused) == (1, 1)
    assert gate.snapshot()["in_use"] == 0


@pytest.mark.parametrize("inner", [lambda: Bulkhead(1, name="inner"), lambda: CircuitBreaker(fail_max=1)])
def test_gates_inside_that_refuse_give_the_shadow_its_permits_back(world: World, inner: Callable[[], Any]) -> None:
    """Calls that would have waited or been refused give them back, too."""
    gate = Bulkhead(1, queue=2, shadow=True)
    pipeline = Pipeline(gate, inner(), strict=False)
    guarded = pipeline(world.dependency(OSError(), *[Joined(2)] * 9).fn)
    world.outcome(guarded)
    for _ in range(3):
        world.together(*[guarded] * 3)
    assert gate.snapshot()["in_use"] == gate.snapshot()["queued"] == 0


@pytest.mark.virtual_time
async def test_cancelled_calls_end_in_any_tick() -> None:
    """Calls cancelled after any number of ticks hold no permit and no place in the queue afterwards."""
    gate = Bulkhead(2, queue=3, queue_timeout=5, shadow=True)
    guarded = Pipeline(Retry(2, wait=0), gate)(Dependency(default=Slow(1)))
    for ticks in range(6):
        calls = [asyncio.create_task(guarded()) for _ in range(8)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.sleep(100)
    await guarded()
    snapshot = gate.snapshot()
    assert (snapshot["in_use"], snapshot["queued"]) == (0, 0)


def test_queue_keeps_no_call_that_it_needs_no_more() -> None:
    """Its memory does not grow with the number of calls."""
    gate = Bulkhead(1, queue=3, queue_timeout=1000, shadow=True)
    guarded = Pipeline(gate)(Dependency(default=Slow(0.001)).__call__)

    class Argument:
        """An argument of a call."""

    seen: weakref.WeakSet[Argument] = weakref.WeakSet()

    async def main() -> None:
        for _ in range(300):
            arguments = [Argument() for _ in range(3)]
            seen.update(arguments)
            await asyncio.gather(*map(guarded, arguments))
            await asyncio.sleep(1)

    run(main())
    gc.collect()
    queue = gate._shadow_queue
    assert queue is not None
    assert gate._would_have_queued == 600
    assert len(queue._expiries) + len(queue._returns) + len(queue._departures) < 250


def test_call_in_the_midst_of_an_admission_is_left_out() -> None:
    """A signal handler or a finalizer makes it, at any moment; calls that end in it still count."""
    gate = Bulkhead(1, queue=3, shadow=True)
    guarded = Pipeline(gate)(lambda: 7)
    queue = gate._shadow_queue
    inner: list[int] = []

    def interrupted(rank: int) -> int:
        if len(inner) < 5:
            inner.append(0)
            inner[-1] = guarded()
        return 1

    queue._permits = interrupted
    assert [guarded() for _ in range(9)] == [7] * 9
    assert inner == [7] * 5
    assert (queue._running, queue.in_use, len(queue.waiters), len(queue._ended)) == (0, 0, 0, 0)


def test_many_threads_lose_no_count() -> None:
    """Every call is admitted, queued or refused; and at the end no call is inside."""
    gate = Bulkhead(2, queue=3, queue_timeout=0.001, shadow=True)
    guarded = Pipeline(gate)(lambda: None)
    ready = threading.Barrier(8)

    def work() -> None:
        ready.wait()
        for _ in range(200):
            guarded()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue = gate._shadow_queue
    assert queue is not None
    assert (queue._running, queue.in_use, len(queue.waiters)) == (0, 0, 0)
