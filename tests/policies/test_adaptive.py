"""AdaptiveLimit: which calls it admits, the order of its queue, what it learns, and permits that always come back."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import statistics
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    AdaptiveLimit,
    Classifier,
    Keyed,
    LimitExceeded,
    Pipeline,
    TimedOut,
    Timeout,
    deadline,
    events,
    priority,
)
from resilient.core.priority import PRIORITIES
from resilient.limiters import Limiter, Vegas, Window
from resilient.runtime import virtual
from tests.worlds import Slow, World

PATIENCE = 10
"""Seconds after which a test in threads has hung."""


class Seeing(Limiter):
    """A limiter that keeps the limit, and records the windows that it gets."""

    samples = 1

    def __init__(self) -> None:
        self.windows: list[Window] = []

    def update(self, limit: float, window: Window) -> float:
        self.windows.append(window)
        return limit


def state(limit: AdaptiveLimit) -> tuple[int, int]:
    """Calls inside, and queued calls."""
    found = limit.snapshot()
    return found["in_flight"], found["queued"]


class Held:
    """Calls that stay inside until they are released, each by its number."""

    def __init__(self, limit: AdaptiveLimit, **options: Any) -> None:
        self.limit = limit
        self.order: list[Any] = []
        self._ask = Pipeline(limit, **options)(self._hold)
        self.tasks: dict[Any, asyncio.Task[Any]] = {}
        self._gates: dict[Any, asyncio.Future[Any]] = {}

    async def _hold(self, number: Any) -> Any:
        self.order.append(number)
        gate = self._gates[number] = asyncio.get_running_loop().create_future()
        return await gate

    async def come(self, number: Any, name: Any = "normal") -> asyncio.Task[Any]:
        with priority(name):
            task = self.tasks[number] = asyncio.create_task(self._ask(number))
        await asyncio.sleep(0)
        return task

    async def leave(self, number: Any) -> None:
        self._gates.pop(number).set_result(number)
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self) -> None:
        while self._gates:
            await self.leave(next(iter(self._gates)))


def outcome(task: asyncio.Task[Any]) -> Any:
    """The outcome of a finished task: its result, or its error."""
    return task.exception() or task.result()


# -- the limit ------------------------------------------------------------------------------------------------------


def test_never_more_inside_than_the_limit(world: World) -> None:
    """Seven calls at once, two at a time: all are served, and never three together."""
    limit = AdaptiveLimit(2, max_limit=2, queue=5, shares={"normal": 1.0})
    dependency = world.dependency(*[Slow(0.02, "done")] * 7)
    outcomes = world.together(*[limit(dependency.fn)] * 7)
    assert [each.value for each in outcomes] == ["done"] * 7
    assert dependency.most == 2
    assert state(limit) == (0, 0)


def test_full_one_refuses_at_once_and_names_the_class(world: World) -> None:
    """By default it has no queue. The error names the class of the call."""
    limit = AdaptiveLimit(1)
    ticket = limit.admit(None)  # type: ignore[arg-type]
    error = world.outcome(Pipeline(limit, name="users")(world.dependency().fn)).error
    assert isinstance(error, LimitExceeded)
    assert str(error) == "users: AdaptiveLimit of 1 has no room for a normal call: 1 inside, 0 queued"
    assert (error.policy, error.pipeline) == ("AdaptiveLimit", "users")
    limit.release(ticket)
    assert limit.snapshot()["refused"] == {"critical": 0, "normal": 1, "sheddable": 0}


@pytest.mark.parametrize("end", ["answer", OSError(), TypeError(), KeyboardInterrupt()], ids=repr)
def test_place_comes_back_however_a_call_ends(end: Any) -> None:
    """Also a call that ends with an error that is no `Exception`."""

    def fetch() -> Any:
        if isinstance(end, BaseException):
            raise end
        return end

    limit = AdaptiveLimit(1)
    for _ in range(2):
        try:
            Pipeline(limit).call(fetch)
        except BaseException as error:
            assert error is end  # noqa: PT017
    assert state(limit) == (0, 0)
    assert limit._at_rest


def test_lower_limit_admits_no_call_until_there_are_fewer_inside() -> None:
    """Calls inside go on."""

    class Halving(Limiter):
        window = 0.0
        samples = 1

        def update(self, limit: float, window: Window) -> float:
            return 2

    async def main() -> None:
        limit = AdaptiveLimit(10, limiter=Halving, shares={"normal": 1.0})
        held = Held(limit)
        for number in range(8):
            await held.come(number)
        for number in range(5):  # twice 8 have to end, before the window does
            await held.leave(number)
            await held.come(10 + number)
        for number in range(5, 8):
            await held.leave(number)
        while limit.current_limit > 2:
            number = next(iter(held._gates))
            await held.leave(number)
            await held.come(f"{number} again")
        inside = state(limit)[0]
        assert inside > 2
        while state(limit)[0] > 2:
            await held.leave(next(iter(held._gates)))
            late = await held.come(f"late {state(limit)[0]}")
            if state(limit)[0] >= 2 and late.done():
                assert isinstance(outcome(late), LimitExceeded)
        await held.end()
        assert state(limit) == (0, 0)

    asyncio.run(main())


# -- who goes first -------------------------------------------------------------------------------------------------


def test_each_class_has_its_share_and_the_last_places_are_for_critical_calls() -> None:
    """Of ten: sheddable calls while fewer than seven are inside, normal ones while fewer than nine."""

    async def main() -> None:
        limit = AdaptiveLimit(10)
        held = Held(limit)
        for number in range(7):
            await held.come(number, "sheddable")
        assert isinstance(outcome(await held.come("s", "sheddable")), LimitExceeded)
        for number in range(7, 9):
            await held.come(number, "normal")
        assert isinstance(outcome(await held.come("n", "normal")), LimitExceeded)
        await held.come(9, "critical")
        assert isinstance(outcome(await held.come("c", "critical")), LimitExceeded)
        assert state(limit) == (10, 0)
        assert limit.snapshot()["refused"] == {"critical": 1, "normal": 1, "sheddable": 1}
        await held.end()

    asyncio.run(main())


@pytest.mark.parametrize("name", PRIORITIES)
def test_limit_of_one_admits_one_of_any_class(name: Any) -> None:
    """Each class may have at least one call inside."""
    with priority(name):
        assert Pipeline(AdaptiveLimit(1)).call(lambda: 7) == 7


def test_class_may_come_from_the_arguments() -> None:
    """Then the context does not count; a name that is no class is the caller's error, and costs no permit."""

    async def main() -> None:
        limit = AdaptiveLimit(10, priority=lambda number, *rest: number if isinstance(number, str) else "sheddable")
        held = Held(limit)
        for number in range(7):
            await held.come(number, "critical")
        assert isinstance(outcome(await held.come(7, "critical")), LimitExceeded)
        with pytest.raises(ValueError, match="priority must be one of critical, normal, sheddable, got 'urgent'"):
            await (await held.come("urgent"))
        await held.come("critical", "sheddable")
        assert state(limit) == (8, 0)
        await held.end()

    asyncio.run(main())


# -- the queue ------------------------------------------------------------------------------------------------------


def test_queue_is_by_class_and_then_by_arrival() -> None:
    """A more important call goes first, also if it arrives later."""

    async def main() -> None:
        limit = AdaptiveLimit(1, queue=6, limiter=Seeing)
        held = Held(limit)
        await held.come("first")
        for number, name in enumerate(["sheddable", "normal", "critical"] * 2):
            await held.come((name, number), name)
        assert state(limit) == (1, 6)
        while held._gates:
            await held.leave(next(iter(held._gates)))
        numbers = {"critical": (2, 5), "normal": (1, 4), "sheddable": (0, 3)}
        assert held.order == ["first", *((name, number) for name in PRIORITIES for number in numbers[name])]
        assert state(limit) == (0, 0)

    asyncio.run(main())


def test_full_queue_gives_the_last_place_of_a_less_important_class_away() -> None:
    """The evicted call is refused with that reason; among equals the new call is refused."""

    async def main() -> None:
        held = Held(AdaptiveLimit(1, queue=2, limiter=Seeing))
        await held.come("inside")
        kept = await held.come(1, "sheddable")
        lost = await held.come(2, "sheddable")
        equal = await held.come(3, "sheddable")
        assert isinstance(outcome(equal), LimitExceeded)
        await held.come(4, "critical")
        await asyncio.sleep(0)
        assert "its place in the queue went to a more important call" in str(outcome(lost))
        assert not kept.done()
        await held.end()
        assert held.order == ["inside", 4, 1]
        assert state(held.limit) == (0, 0)

    asyncio.run(main())


def test_no_call_overtakes_waiters_of_its_own_class_or_a_higher_one() -> None:
    """A sheddable call that waits for the share of its class holds up no critical one."""

    async def main() -> None:
        held = Held(AdaptiveLimit(10, queue=9, limiter=Seeing))
        for number in range(7):
            await held.come(number, "sheddable")
        waiting = await held.come("waits", "sheddable")
        for number in range(7, 10):
            await held.come(number, "critical")
        assert held.order == list(range(10))
        behind = await held.come("normal", "normal")
        await held.leave(0)  # 9 inside: no room for a normal call yet, and none for a sheddable one
        assert not behind.done()
        assert held.order == list(range(10))
        await held.leave(1)
        assert held.order[-1] == "normal"
        assert not waiting.done()
        await held.end()
        assert waiting.result() == "waits"

    asyncio.run(main())


def test_wait_ends_with_queue_timeout_and_with_the_deadline() -> None:
    """The first is a refusal, the second a `TimedOut` of the caller's Timeout."""

    async def main() -> tuple[Exception, float, Exception, float]:
        limit = AdaptiveLimit(1, queue=5, queue_timeout=2.0, limiter=Seeing)
        held = Held(limit)
        await held.come("inside")
        loop = asyncio.get_running_loop()
        refused = await held.come("waits")
        with pytest.raises(LimitExceeded) as first:
            await refused
        one = loop.time()
        with deadline(1.0):
            late = await held.come("late")
        with pytest.raises(TimedOut) as second:
            await late
        two = loop.time()
        assert state(limit) == (1, 0)
        await held.end()
        return first.value, one, second.value, two

    first, one, second, two = virtual.run(main())
    assert str(first) == "AdaptiveLimit of 1 has no room for a normal call: no permit within 2 s"
    assert (one, two - one) == (pytest.approx(2.0), pytest.approx(1.0))
    assert isinstance(second, TimedOut)
    assert not second.evidence


@pytest.mark.parametrize("same_tick", [False, True])
def test_cancelled_call_gives_its_place_to_the_next(same_tick: bool) -> None:
    """It is cancelled while it waits, or after it was granted a permit and before it runs."""

    async def main() -> None:
        limit = AdaptiveLimit(1, queue=5, limiter=Seeing)
        held = Held(limit)
        await held.come("inside")
        doomed, next_one = await held.come("doomed"), await held.come("next")
        if same_tick:
            held._gates.pop("inside").set_result(None)
            await asyncio.sleep(0)
        doomed.cancel()
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        if not same_tick:
            await held.leave("inside")
        for _ in range(5):
            await asyncio.sleep(0)
        assert held.order == ["inside", "next"]
        await held.end()
        assert next_one.result() == "next"
        assert state(limit) == (0, 0)

    asyncio.run(main())


def test_queued_and_waited_are_events() -> None:
    """The events are those of any other queue."""

    async def main() -> list[Any]:
        pipeline = Pipeline(AdaptiveLimit(1, queue=2, limiter=Seeing), name="users")
        heard: list[Any] = []
        pipeline.listen(heard.append)
        await asyncio.gather(*(pipeline.call(asyncio.sleep, 1) for _ in range(2)))
        return [event for event in heard if isinstance(event, events.Queued | events.Waited)]

    queued, waited = virtual.run(main())
    assert (queued.policy, queued.position) == ("AdaptiveLimit", 1)
    assert waited.seconds == pytest.approx(1)


# -- what it learns -------------------------------------------------------------------------------------------------


def learnt(exercise: Callable[[Callable[..., Any]], Any], *policies: Any, **options: Any) -> list[Window]:
    """The windows that a limit got from the calls of `exercise`, in virtual time."""
    limit = AdaptiveLimit(5, queue=5, limiter=Seeing, shares={"normal": 1.0})

    async def main() -> None:
        pipeline = Pipeline(limit, *policies, **options)
        await pipeline.call(asyncio.sleep, 0)  # begins the first window
        await exercise(pipeline.call)
        await asyncio.sleep(5)
        for _ in range(4):
            await pipeline.call(asyncio.sleep, 0.25)

    virtual.run(main())
    return limit.limiter.windows  # type: ignore[attr-defined, no-any-return]


async def fail(error: BaseException, seconds: float = 0.5) -> None:
    await asyncio.sleep(seconds)
    raise error


async def caught(awaitable: Any) -> None:
    with pytest.raises(BaseException):  # noqa: B017
        await awaitable


def test_window_has_the_durations_of_successes() -> None:
    """A window has the mean and the deviation, the peak, and its own length."""

    async def exercise(call: Callable[..., Any]) -> None:
        await asyncio.gather(call(asyncio.sleep, 1.0), call(asyncio.sleep, 3.0))

    first, *_ = learnt(exercise)
    assert (first.successes, first.failures, first.peak) == (4, 0, 2)  # twice as many as were inside end a window
    took = [1.0, 3.0, 0.25, 0.25]
    assert first.mean == pytest.approx(statistics.fmean(took))
    assert first.deviation == pytest.approx(statistics.pstdev(took))
    assert first.seconds == pytest.approx(8.5)


def test_failures_count_and_what_says_nothing_does_not() -> None:
    """Errors that the classifier ignores, and young calls that are cancelled, are no evidence."""

    async def exercise(call: Callable[..., Any]) -> None:
        await caught(call(fail, OSError()))
        await caught(call(fail, LookupError()))
        task = asyncio.ensure_future(call(asyncio.sleep, 100))
        await asyncio.sleep(0.3)
        task.cancel()
        await caught(task)

    windows = learnt(exercise, classify=Classifier(ignore=LookupError))
    assert sum(window.failures for window in windows) == 1


def test_call_that_is_cut_at_its_full_time_is_a_failure_and_one_at_an_inherited_deadline_is_not() -> None:
    """The first is evidence about the dependency, the second about the caller."""

    async def exercise(call: Callable[..., Any]) -> None:
        await caught(call(asyncio.sleep, 100))
        with deadline(0.5):
            await caught(call(asyncio.sleep, 100))

    windows = learnt(exercise, Timeout(2))
    assert sum(window.failures for window in windows) == 1


def test_time_in_the_queue_is_not_the_dependencys() -> None:
    """Of ten calls of a second each, five at a time, half wait for a second, which does not count."""

    async def exercise(call: Callable[..., Any]) -> None:
        await asyncio.gather(*(call(asyncio.sleep, 1.0) for _ in range(10)))

    windows = learnt(exercise)
    calls = [window for window in windows if window.peak == 5]
    assert calls
    assert all(window.mean <= 1.0 + 1e-9 for window in calls)


def test_limiter_says_how_long_a_window_is_and_twice_as_many_as_were_inside_end_it() -> None:
    """No window ends without a call."""

    class Slowly(Seeing):
        window = 3.0

    async def main() -> list[Window]:
        limit = AdaptiveLimit(2, limiter=Slowly, shares={"normal": 1.0})
        pipeline = Pipeline(limit)
        for _ in range(20):
            await asyncio.gather(*(pipeline.call(asyncio.sleep, 0.5) for _ in range(2)))
        return limit.limiter.windows  # type: ignore[attr-defined, no-any-return]

    windows = virtual.run(main())
    assert windows
    assert all(window.seconds >= 3.0 and window.successes >= 4 for window in windows)


@pytest.mark.parametrize("answer", [math.nan, None, "many", ZeroDivisionError()], ids=repr)
def test_limiter_that_fails_costs_no_call_and_changes_nothing(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged."""

    class Broken(Limiter):
        samples = 1

        def update(self, limit: float, window: Window) -> float:
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]

    async def main() -> AdaptiveLimit:
        limit = AdaptiveLimit(3, limiter=Broken)
        pipeline = Pipeline(limit)
        for _ in range(4):
            assert await pipeline.call(asyncio.sleep, 1, "answer") == "answer"
        return limit

    with caplog.at_level(logging.ERROR, "resilient"):
        limit = virtual.run(main())
    assert limit.current_limit == 3
    assert state(limit) == (0, 0)
    assert "failed to find the next limit of AdaptiveLimit" in caplog.text


@pytest.mark.parametrize(("wish", "found"), [(math.inf, 9), (-5, 2), (4.9, 4)])
def test_limit_stays_within_its_bounds(wish: float, found: int) -> None:
    """The bounds hold for any value that the rule returns, and fractions are cut off."""

    class Wishing(Limiter):
        samples = 1

        def update(self, limit: float, window: Window) -> float:
            return wish

    async def main() -> AdaptiveLimit:
        limit = AdaptiveLimit(3, min_limit=2, max_limit=9, limiter=Wishing)
        for _ in range(4):
            await Pipeline(limit).call(asyncio.sleep, 1)
        return limit

    assert virtual.run(main()).current_limit == found


def test_new_limit_is_one_event_in_every_pipeline_that_shares_it() -> None:
    """The event has the evidence."""

    async def main() -> list[Any]:
        limit = AdaptiveLimit(1, name="shared")
        heard: list[Any] = []
        one, other = Pipeline(limit, name="one"), Pipeline(limit, name="other")
        for pipeline in (one, other):
            pipeline.listen(lambda event: heard.append(event) if isinstance(event, events.LimitChanged) else None)
        for _ in range(30):
            await one.call(asyncio.sleep, 0.1)
        return heard

    heard = virtual.run(main())
    assert sorted((event.pipeline, event.policy, event.old, event.new) for event in heard) == [
        ("one", "shared", 1, 3),
        ("other", "shared", 1, 3),
    ]
    assert heard[0].reason == "10 ended well in 100 ms on average, 0 failed, up to 1 inside"


def test_other_clock_begins_a_new_window() -> None:
    """One limit is used in virtual time first, then in real time, which is far from it."""
    limit = AdaptiveLimit(5)

    async def calls() -> None:
        for _ in range(30):
            await Pipeline(limit).call(asyncio.sleep, 0)

    virtual.run(calls())
    asyncio.run(calls())
    virtual.run(calls())
    assert state(limit) == (0, 0)
    assert limit.current_limit == 5


# -- together with others -------------------------------------------------------------------------------------------


def test_keyed_has_a_limit_and_a_rule_for_each_key() -> None:
    """All keys have the same settings."""
    keyed = Keyed(lambda: AdaptiveLimit(3, limiter=Seeing), key=lambda host: host)
    pipeline = Pipeline(keyed)
    for host in ("a", "b"):
        pipeline.call(len, host)
    one, other = keyed.gate_for("a"), keyed.gate_for("b")
    assert isinstance(one, AdaptiveLimit)
    assert isinstance(other, AdaptiveLimit)
    assert one.limiter is not other.limiter
    assert one.name == "AdaptiveLimit[a]"


def test_fresh_one_has_the_settings_and_knows_nothing() -> None:
    """It has its own limiter."""
    limit = AdaptiveLimit(7, min_limit=2, queue=3, limiter=Seeing, name="mine")
    Pipeline(limit).call(lambda: 1)
    fresh = limit.clone()
    assert fresh.describe() == limit.describe()
    assert fresh.name == "mine"
    assert fresh.limiter is not limit.limiter


def test_threads_and_event_loops_share_one() -> None:
    """Never more calls are inside than the limit, and each waiter is served."""
    limit = AdaptiveLimit(3, max_limit=3, queue=100, shares={"normal": 1.0})
    pipeline = Pipeline(limit)
    lock, inside, most, served = threading.Lock(), 0, 0, 0

    def enter() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)

    def leave() -> None:
        nonlocal inside, served
        with lock:
            inside -= 1
            served += 1

    @pipeline
    def plain() -> None:
        enter()
        threading.Event().wait(0.001)
        leave()

    @pipeline
    async def coroutine() -> None:
        enter()
        await asyncio.sleep(0.001)
        leave()

    async def loop() -> None:
        await asyncio.gather(*(coroutine() for _ in range(20)))

    def work() -> None:
        for _ in range(20):
            plain()

    threads = [threading.Thread(target=target) for target in (work, work, work, lambda: asyncio.run(loop())) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert served == 160
    assert most == 3
    assert state(limit) == (0, 0)


def test_class_travels_with_a_copied_context_into_threads() -> None:
    """A priority is part of the context, as a deadline is."""
    limit = AdaptiveLimit(10)
    tickets = [limit.admit(None) for _ in range(7)]  # type: ignore[arg-type]
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(Pipeline(limit).call(lambda: "served"))
        except LimitExceeded as error:
            found.append(error)

    for name in ("sheddable", "critical"):
        with priority(name):  # type: ignore[arg-type]
            context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(ask,))
        thread.start()
        thread.join(PATIENCE)
    assert isinstance(found[0], LimitExceeded)
    assert found[1] == "served"
    for ticket in tickets:
        limit.release(ticket)


def test_shadow_counts_calls_it_would_have_refused() -> None:
    """All calls are admitted."""

    async def main() -> dict[str, Any]:
        limit = AdaptiveLimit(1, shadow=True)
        await asyncio.gather(*(Pipeline(limit).call(asyncio.sleep, 1) for _ in range(3)))
        return limit.snapshot()

    found = virtual.run(main())
    assert (found["would_have_refused"], found["in_flight"]) == (2, 0)


def test_snapshot_and_description_say_what_there_is() -> None:
    """A snapshot is plain data, a description one line."""
    limit = AdaptiveLimit(5, min_limit=2, max_limit=50, queue=3, queue_timeout=0.5)
    assert limit.snapshot() == {
        "limit": 5,
        "in_flight": 0,
        "queued": 0,
        "queue": 3,
        "unloaded_seconds": None,
        "refused": {"critical": 0, "normal": 0, "sheddable": 0},
    }
    assert repr(limit) == "AdaptiveLimit(Vegas from 5, 2 to 50, queue 3 for up to 0.5 s)"
    assert "shadow" in AdaptiveLimit(shadow=True).describe()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"initial": 0}, ValueError, "initial"),
        ({"initial": 2.5}, TypeError, "initial"),
        ({"initial": 5, "min_limit": 6}, ValueError, "initial=5 must be within min_limit=6 and max_limit=1000"),
        ({"initial": 5, "max_limit": 4}, ValueError, "initial=5 must be within min_limit=1 and max_limit=4"),
        ({"queue": -1}, ValueError, "queue"),
        ({"queue_timeout": 1}, ValueError, "queue_timeout=1 has no meaning without a queue"),
        ({"queue": 1, "queue_timeout": 0}, ValueError, "queue_timeout"),
        ({"limiter": Vegas()}, TypeError, "limiter"),
        ({"limiter": lambda: 7}, TypeError, "limiter must make a Limiter, as Vegas does, got 7"),
        ({"shares": {"urgent": 1}}, ValueError, "shares must name critical, normal, sheddable, got 'urgent'"),
        ({"shares": {"normal": 1.5}}, ValueError, "shares"),
        ({"shares": {"sheddable": 0.95}}, ValueError, "shares must not grow from critical to sheddable"),
        ({"shares": 0.5}, TypeError, "shares must map classes of calls to shares, got 0.5"),
        ({"priority": "critical"}, TypeError, "priority"),
        ({"shadow": 1}, TypeError, "shadow"),
    ],
    ids=repr,
)
def test_wrong_settings_are_refused_by_name(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """The constructor raises, and its message names what is allowed."""
    with pytest.raises(error, match=words):
        AdaptiveLimit(**options)
