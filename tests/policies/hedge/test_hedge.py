"""Hedge: a late call is sent once more, and the first acceptable outcome wins."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import random
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from resilient import (
    Budget,
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    Classifier,
    Hedge,
    Pipeline,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    current_call,
    deadline,
    remaining,
    switch,
)
from resilient.core.classify import Verdict
from resilient.events import BudgetExhausted, Event, HedgeWon, Hedging
from resilient.runtime import virtual
from tests.worlds import WORLDS, Hang, Joined, Outcome, Slow, ThreadWorld, TrioWorld, Until, World

SOON = 0.02
LATER = 0.1
LONG = 60.0


class Ring:
    """A world, and which kind of hedge is tried in it: copies beside the caller, or the first one inline."""

    def __init__(self, world: World, inline: bool) -> None:
        self.world = world
        self.inline = inline
        self.dependency = world.dependency
        self.call = world.call
        self.outcome = world.outcome
        self.now = world.now

    def hedge(self, delay: Any, **options: Any) -> Hedge:
        """One that works here."""
        return Hedge(delay, inline=self.inline, thread=not self.world.is_async, **options)


ALL = [(kind, inline) for kind in WORLDS for inline in (False, True) if kind.is_async or not inline]


def _name(case: tuple[type[World], bool]) -> str:
    return f"{case[0].name}{'-inline' if case[1] else ''}"


def _ring(case: tuple[type[World], bool]) -> Iterator[Ring]:
    world = case[0]()
    yield Ring(world, case[1])
    world.close()


@pytest.fixture(params=ALL, ids=_name)
def ring(request: pytest.FixtureRequest) -> Iterator[Ring]:
    """Each runtime in turn, with copies beside the caller and with the first one inline."""
    yield from _ring(request.param)


@pytest.fixture(params=[case for case in ALL if case[0].is_async], ids=_name)
def async_ring(request: pytest.FixtureRequest) -> Iterator[Ring]:
    """The same without threads."""
    yield from _ring(request.param)


@pytest.fixture(params=[False, True], ids=["beside", "inline"])
def inline(request: pytest.FixtureRequest) -> bool:
    """Both kinds of hedge, for tests in virtual time."""
    return bool(request.param)


def bad_is_unacceptable() -> Classifier:
    """Judges results that begin with "bad"."""
    return Classifier(results=lambda result: str(result).startswith("bad"), fatal=BlockingIOError, ignore=KeyError)


def loop_time() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


def heard(pipeline: Pipeline) -> list[Event]:
    """The events of a pipeline, from now on."""
    told: list[Event] = []
    pipeline.listen(told.append)
    return told


# -- the first acceptable outcome --------------------------------------------------------------------------------


def test_hedge_answer_before_the_delay_is_returned_and_no_copy_starts(ring: Ring) -> None:
    """With the arguments of the call."""
    dependency = ring.dependency(7)
    hedge = ring.hedge(LONG)
    assert ring.call(hedge(dependency.fn), 1, key="value") == 7
    assert dependency.arguments == [((1,), {"key": "value"})]
    assert hedge.snapshot() == {"started": 0, "won": 0, "stragglers": 0}


def test_hedge_late_call_is_sent_once_more_and_the_copy_wins(ring: Ring) -> None:
    """Both get the arguments of the call."""
    dependency = ring.dependency(Hang(), 7)
    hedge = ring.hedge(SOON)
    begin = ring.now()
    assert ring.call(hedge(dependency.fn), 1, key="value") == 7
    assert ring.now() - begin >= SOON - 0.001
    assert dependency.arguments == [((1,), {"key": "value"})] * 2
    assert (hedge.snapshot()["started"], hedge.snapshot()["won"]) == (1, 1)


def test_hedge_first_copy_that_is_late_may_still_win(ring: Ring) -> None:
    """Whoever comes first."""
    dependency = ring.dependency(Joined(2, 1), Hang())
    hedge = ring.hedge(SOON)
    assert ring.call(hedge(dependency.fn)) == 1
    assert len(dependency.calls) == 2
    assert (hedge.snapshot()["started"], hedge.snapshot()["won"]) == (1, 0)


def test_hedge_fast_failure_starts_the_next_copy_at_once(ring: Ring) -> None:
    """Not after the delay (a peer's bug)."""
    dependency = ring.dependency(OSError(), 7)
    begin = ring.now()
    assert ring.call(ring.hedge(LONG)(dependency.fn)) == 7
    assert ring.now() - begin < LONG / 2


def test_hedge_copy_that_fails_does_not_beat_the_first_one(ring: Ring) -> None:
    """A ConnectError at 50 ms is no answer, where a 200 comes at 150 ms (two peers' bug)."""
    dependency = ring.dependency(Until(lambda: dependency.ended == 1, 7), OSError())
    hedge = ring.hedge(SOON)
    assert ring.call(hedge(dependency.fn)) == 7
    assert len(dependency.calls) == 2
    assert hedge.snapshot()["won"] == 0


def test_hedge_unacceptable_result_starts_the_next_copy_at_once(ring: Ring) -> None:
    """A 503 is no answer."""
    dependency = ring.dependency("bad", "good")
    begin = ring.now()
    assert ring.call(Pipeline(ring.hedge(LONG), classify=bad_is_unacceptable())(dependency.fn)) == "good"
    assert ring.now() - begin < LONG / 2


@pytest.mark.parametrize("kind", ["error", "result"])
def test_hedge_failure_that_asks_for_a_pause_starts_no_copy(ring: Ring, kind: str) -> None:
    """Who asks to be left alone is: the failure comes back at once, for a Retry around to wait."""
    busy = OSError("busy")
    busy.retry_after = 30.0  # type: ignore[attr-defined]
    judge = Classifier(results=lambda _: Verdict("failure", retryable=True, retry_after=30.0))
    dependency = ring.dependency(busy if kind == "error" else "busy")
    begin = ring.now()
    outcome = ring.outcome(Pipeline(ring.hedge(LONG), classify=judge)(dependency.fn))
    assert (outcome.error or outcome.value) in (busy, "busy")
    assert len(dependency.calls) == 1
    assert ring.now() - begin < LONG / 2


def test_hedge_in_shadow_counts_no_copy_where_a_pause_is_asked_for(world: World) -> None:
    """None would have started."""
    busy = OSError("busy")
    busy.retry_after = 30.0  # type: ignore[attr-defined]
    hedge = Hedge(LONG, shadow=True)
    assert world.outcome(hedge(world.dependency(busy).fn)).error is busy
    assert hedge.snapshot()["would_have_started"] == 0


def test_hedge_copy_that_asks_for_a_pause_leaves_the_first_one_running(ring: Ring) -> None:
    """It is no answer, and there is no third."""
    busy = OSError("busy")
    busy.retry_after = 30.0  # type: ignore[attr-defined]
    dependency = ring.dependency(Until(lambda: dependency.ended == 1, 7), busy)
    assert ring.call(ring.hedge(SOON, copies=3)(dependency.fn)) == 7
    assert len(dependency.calls) == 2


def test_hedge_unacceptable_result_does_not_beat_the_first_copy(ring: Ring) -> None:
    """A fast 503 neither."""
    dependency = ring.dependency(Until(lambda: dependency.ended == 1, "good"), "bad")
    assert ring.call(Pipeline(ring.hedge(SOON), classify=bad_is_unacceptable())(dependency.fn)) == "good"
    assert len(dependency.calls) == 2


@pytest.mark.parametrize("error", [BlockingIOError(), TypeError(), KeyError()], ids=["fatal", "programming", "ignored"])
def test_hedge_outcome_that_repeating_cannot_change_ends_all(ring: Ring, error: Exception) -> None:
    """The very error comes back, and no copy starts."""
    dependency = ring.dependency(error)
    assert ring.outcome(Pipeline(ring.hedge(LONG), classify=bad_is_unacceptable())(dependency.fn)).error is error
    assert len(dependency.calls) == 1


def test_hedge_fatal_outcome_of_a_later_copy_ends_all(ring: Ring) -> None:
    """The first copy is not waited for."""
    error = BlockingIOError()
    dependency = ring.dependency(Hang(), error)
    assert ring.outcome(Pipeline(ring.hedge(SOON), classify=bad_is_unacceptable())(dependency.fn)).error is error


def test_hedge_refused_first_copy_leaves_the_race_open(ring: Ring) -> None:
    """The next may be sent elsewhere."""
    dependency = ring.dependency(Rejected("here"), 7)
    assert ring.call(ring.hedge(LONG)(dependency.fn)) == 7


def test_hedge_refused_later_copy_leaves_the_race_open(ring: Ring) -> None:
    """A bulkhead that has no place for it does not hurt the one that runs."""
    dependency = ring.dependency(Slow(LATER, 7))
    bulkhead = Bulkhead(1)
    assert ring.call(Pipeline(ring.hedge(SOON), bulkhead)(dependency.fn)) == 7
    assert bulkhead.snapshot()["in_use"] == 0


def test_hedge_all_refused_is_the_first_refusal(ring: Ring) -> None:
    """As any other error."""
    dependency = ring.dependency()
    error = ring.outcome(Pipeline(ring.hedge(LONG), Bulkhead(1, name="none left"), Full())(dependency.fn)).error
    assert isinstance(error, BulkheadFull)


class Full(Bulkhead):
    """One that is."""

    def __init__(self) -> None:
        super().__init__(1, name="full")

    def admit(self, call: Any) -> object | None:
        raise BulkheadFull("full", policy=self.name)


def test_hedge_when_all_copies_fail_the_first_ones_error_comes_back(ring: Ring) -> None:
    """The same object."""
    first = OSError("first")
    dependency = ring.dependency(first, OSError("second"), OSError("third"))
    hedge = ring.hedge(LONG, copies=3)
    assert ring.outcome(hedge(dependency.fn)).error is first
    assert len(dependency.calls) == 3
    assert hedge.snapshot() == {"started": 2, "won": 0, "stragglers": 0}


def test_hedge_when_all_copies_fail_the_first_ones_error_comes_back_though_it_failed_last(ring: Ring) -> None:
    """In the order of their starts."""
    first = OSError("first")
    dependency = ring.dependency(Until(lambda: dependency.ended == 1, first), OSError("second"))
    assert ring.outcome(ring.hedge(SOON)(dependency.fn)).error is first
    assert len(dependency.calls) == 2


def test_hedge_when_all_results_are_unacceptable_the_first_one_comes_back(ring: Ring) -> None:
    """It is the caller's to read."""
    dependency = ring.dependency("bad 1", "bad 2")
    assert ring.call(Pipeline(ring.hedge(LONG), classify=bad_is_unacceptable())(dependency.fn)) == "bad 1"


def test_hedge_error_before_an_unacceptable_result_comes_back(ring: Ring) -> None:
    """Whatever kind of outcome was first."""
    error = OSError()
    dependency = ring.dependency(error, "bad")
    assert ring.outcome(Pipeline(ring.hedge(LONG), classify=bad_is_unacceptable())(dependency.fn)).error is error


@pytest.mark.parametrize("more", [{"delay": SOON, "copies": 3}, {"delay": (SOON, SOON)}], ids=["one delay", "sequence"])
def test_hedge_starts_as_many_copies_as_it_is_told(ring: Ring, more: dict[str, Any]) -> None:
    """One after the other, and not one more."""
    dependency = ring.dependency(Hang(), Hang(), 7)
    assert ring.call(ring.hedge(**more)(dependency.fn)) == 7
    assert len(dependency.calls) == 3


@pytest.mark.virtual_time
async def test_hedge_delays_count_from_the_start_of_the_copy_before(inline: bool) -> None:
    """Also where that started early, because another failed."""
    starts: list[float] = []

    async def fetch() -> int:
        starts.append(loop_time())
        if len(starts) == 2:
            await asyncio.sleep(0.5)
            raise OSError
        return await asyncio.sleep(20, len(starts))

    assert await Hedge([1, 2, 4], inline=inline)(fetch)() == 1
    assert starts == [0, 1, 1.5, 5.5]


@pytest.mark.virtual_time
@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
async def test_hedge_copy_counts_its_own_attempts(inline: bool) -> None:
    """Where a Retry is inside, each begins with the first, however far the copy before has got."""
    attempts: list[tuple[float, int]] = []

    async def fetch() -> None:
        call = current_call()
        assert call is not None
        attempts.append((loop_time(), call.attempt))
        await asyncio.sleep(0)
        if len(attempts) < 7:
            raise OSError

    await Pipeline(Hedge(2.5, inline=inline), Retry(9, wait=1))(fetch)()
    assert attempts == [(0, 1), (1, 2), (2, 3), (2.5, 1), (3, 4), (3.5, 2), (4, 5)]


@pytest.mark.virtual_time
async def test_hedge_delay_of_nothing_sends_all_copies_at_once(inline: bool) -> None:
    """For those who pay for it."""
    starts: list[float] = []

    async def fetch() -> int:
        starts.append(loop_time())
        return await asyncio.sleep(10 - len(starts), len(starts))

    assert await Hedge(0, copies=3, inline=inline)(fetch)() == 3
    assert starts == [0, 0, 0]
    assert loop_time() == 7


class Interrupt(BaseException):
    """As KeyboardInterrupt, which an event loop would take for its own."""


@pytest.mark.virtual_time
@pytest.mark.parametrize("number", [1, 2])
async def test_hedge_base_exception_of_any_copy_is_the_callers(inline: bool, number: int) -> None:
    """It is not judged; the others are cancelled."""
    error = Interrupt()
    calls = running = 0

    async def fetch() -> None:
        nonlocal calls, running
        calls += 1
        mine = calls
        running += 1
        try:
            await asyncio.sleep(2 if mine == number else 20)
        finally:
            running -= 1
        raise error

    pipeline = Pipeline(Hedge(1, inline=inline))
    with pytest.raises(Interrupt) as caught:
        await pipeline.call(fetch)
    assert caught.value is error
    await pipeline.aclose()
    assert (calls, running) == (2, 0)


def test_hedge_predicate_that_raises_is_the_callers_mistake(ring: Ring) -> None:
    """He hears of it, and no copy starts."""
    callback_error = ZeroDivisionError()

    def judge(result: object) -> bool:
        raise callback_error

    dependency = ring.dependency("?")
    assert (
        ring.outcome(Pipeline(ring.hedge(LONG), classify=Classifier(results=judge))(dependency.fn)).error
        is callback_error
    )


# -- losers ------------------------------------------------------------------------------------------------------


class Response:
    """A result that wants to be closed; `how` it was, and how often."""

    status_code = 200

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.closed: list[str] = []

    async def aclose(self) -> None:
        self.closed.append("aclose")

    def close(self) -> None:
        self.closed.append("close")


async def sleep(seconds: float) -> None:
    """In asyncio and trio."""
    await (trio.sleep if trio_runs() else asyncio.sleep)(seconds)


def trio_runs() -> bool:
    """Whether this is trio."""
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


def event() -> asyncio.Event | trio.Event:
    """Of the event loop that runs."""
    return trio.Event() if trio_runs() else asyncio.Event()


def test_hedge_losers_are_cancelled(async_ring: Ring) -> None:
    """Also the first copy, and they have ended when the pipeline is closed."""
    pipeline = Pipeline(async_ring.hedge(SOON, copies=3))
    dependency = async_ring.dependency(Hang(), Hang(), 7)

    async def main() -> int:
        result = await pipeline(dependency.fn)()
        await pipeline.aclose()
        return result

    assert async_ring.world.run(main) == 7
    assert (len(dependency.calls), dependency.running) == (3, 0)


@pytest.mark.virtual_time
async def test_hedge_losers_slow_clean_up_does_not_delay_the_winner() -> None:
    """It ends beside the caller, and is counted until then (a peer made the winner wait)."""
    ended: list[float] = []
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            return 7
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(5)
            ended.append(loop_time())

    hedge = Hedge(1)
    pipeline = Pipeline(hedge)
    assert await pipeline.call(fetch) == 7
    assert loop_time() == 1
    assert hedge.snapshot()["stragglers"] == 1
    await pipeline.aclose()
    assert hedge.snapshot()["stragglers"] == 0
    assert ended == [6]


@pytest.mark.virtual_time
async def test_hedge_inline_first_copys_clean_up_is_on_the_winners_path() -> None:
    """As the documentation says."""
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            return 7
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(5)

    hedge = Hedge(1, inline=True)
    assert await hedge(fetch)() == 7
    assert loop_time() == 6
    assert hedge.snapshot()["stragglers"] == 0


@pytest.mark.virtual_time
async def test_hedge_inline_first_copys_clean_up_for_a_cancelled_caller_is_not_cut_short() -> None:
    """A copy that wins meanwhile wins nothing."""
    calls, cleaned_up = 0, False

    async def fetch() -> int:
        nonlocal calls, cleaned_up
        calls += 1
        if calls == 2:
            await asyncio.sleep(1)
            return 2
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(2)
            cleaned_up = True
        return 1

    task = asyncio.ensure_future(Hedge(1, inline=True)(fetch)())
    await asyncio.sleep(1.5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert cleaned_up


@pytest.mark.virtual_time
async def test_hedge_inline_first_copys_failing_clean_up_does_not_beat_the_winner() -> None:
    """Its error is an answer to the cancellation, not to the request."""
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            return 7
        try:
            await asyncio.sleep(LONG)
        finally:
            raise OSError("closed in the middle")

    assert await Hedge(1, inline=True)(fetch)() == 7
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.virtual_time
async def test_hedge_inline_first_copy_that_swallows_the_cancellation_is_used() -> None:
    """It has an acceptable result after all; the copy's is closed."""
    copy = Response()
    calls = 0

    async def fetch() -> Response | str:
        nonlocal calls
        calls += 1
        if calls == 2:
            return copy
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            pass
        return "stubborn"

    pipeline = Pipeline(Hedge(1, inline=True))
    assert await pipeline.call(fetch) == "stubborn"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await pipeline.aclose()
    assert copy.closed == ["aclose"]


@pytest.mark.virtual_time
async def test_hedge_inline_first_copy_that_answers_the_cancellation_with_an_unacceptable_result_is_closed() -> None:
    """The winner was there before it."""
    bad, good = Response("bad"), Response("good")
    calls = 0

    async def fetch() -> Response:
        nonlocal calls
        calls += 1
        if calls == 2:
            return good
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            pass
        return bad

    pipeline = Pipeline(Hedge(1, inline=True), classify=Classifier(results=lambda response: response.name == "bad"))
    assert await pipeline.call(fetch) is good
    await pipeline.aclose()
    assert (bad.closed, good.closed) == (["aclose"], [])


def test_hedge_results_of_losers_are_closed(async_ring: Ring) -> None:
    """A copy that swallowed its cancellation had a response after all."""
    late = Response()
    calls = 0

    async def fetch() -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            return await sleep(LONG)
        if calls == 3:
            return "winner"
        try:
            await sleep(LONG)
        except (asyncio.CancelledError, trio.Cancelled):
            return late

    pipeline = Pipeline(async_ring.hedge(SOON, copies=3))

    async def main() -> Any:
        result = await pipeline.call(fetch)
        await pipeline.aclose()
        return result

    assert async_ring.world.run(main) == "winner"
    assert late.closed == ["aclose"]


@pytest.mark.parametrize("copies", [2, 3])
def test_hedge_of_copies_that_succeed_in_one_tick_one_wins_and_the_others_are_closed(
    async_ring: Ring, copies: int
) -> None:
    """A peer leaves the loser's response open for ever."""
    responses: list[Response] = []
    pipeline = Pipeline(async_ring.hedge(0, copies=copies))

    async def main() -> Any:
        all_out, calls = event(), 0

        async def fetch() -> Response:
            nonlocal calls
            calls += 1
            if calls == copies:
                all_out.set()
            await all_out.wait()
            responses.append(Response())
            return responses[-1]

        result = await pipeline.call(fetch)
        assert calls == copies
        assert result.closed == []
        await pipeline.aclose()
        return result

    winner = async_ring.world.run(main)
    assert winner in responses
    assert winner.closed == []
    losers = [response for response in responses if response is not winner]
    assert [response.closed for response in losers] == [["aclose"]] * len(losers)
    if not async_ring.inline:  # there the winner cancels the first copy before it can answer
        assert len(losers) == copies - 1


def test_hedge_of_copies_that_come_to_one_response_leaves_it_to_the_winner(async_ring: Ring) -> None:
    """They waited for one request (single flight), and were done in one tick."""
    response, pipeline = Response(), Pipeline(async_ring.hedge(0, copies=3))

    async def main() -> Any:
        all_out, calls = event(), 0

        async def fetch() -> Response:
            nonlocal calls
            calls += 1
            if calls == 3:
                all_out.set()
            await all_out.wait()
            return response

        result = await pipeline.call(fetch)
        await pipeline.aclose()
        return result

    assert async_ring.world.run(main) is response
    assert response.closed == []


@pytest.mark.virtual_time
async def test_hedge_late_loser_that_comes_to_the_winners_response_leaves_it_open() -> None:
    """Long after the winner had it."""
    response, calls = Response(), 0

    async def fetch() -> Response:
        nonlocal calls
        calls += 1
        await asyncio.sleep(20 if calls == 1 else 1)
        return response

    pipeline = Pipeline(Hedge(1, cancel="late"), Timeout(30))
    assert await pipeline.call(fetch) is response
    await pipeline.aclose()
    assert loop_time() == 20
    assert response.closed == []


def test_hedge_unacceptable_response_that_comes_again_is_open(async_ring: Ring) -> None:
    """All copies failed with one response, which comes back."""
    response = Response("bad")

    async def fetch() -> Response:
        return response

    pipeline = Pipeline(async_ring.hedge(LONG, copies=3), classify=Classifier(results=lambda response: True))

    async def main() -> Any:
        result = await pipeline.call(fetch)
        await pipeline.aclose()
        return result

    assert async_ring.world.run(main) is response
    assert response.closed == []


def test_hedge_session_is_left_open(async_ring: Ring) -> None:
    """It may be in a cache, for other calls."""

    class Session(Response):
        status_code = None  # type: ignore[assignment]

    sessions: list[Session] = []
    pipeline = Pipeline(async_ring.hedge(LONG), classify=Classifier(results=lambda session: session is sessions[0]))

    async def connect() -> Session:
        sessions.append(Session())
        return sessions[-1]

    async def main() -> None:
        await pipeline.call(connect)
        await pipeline.aclose()

    async_ring.world.run(main)
    assert [session.closed for session in sessions] == [[], []]


def test_hedge_unacceptable_results_are_closed_when_another_wins(async_ring: Ring) -> None:
    """The first one too, which would have come back had all failed."""
    responses = [Response("bad"), Response("bad"), Response("good")]
    sent = iter(responses)

    async def fetch() -> Response:
        return next(sent)

    pipeline = Pipeline(
        async_ring.hedge(LONG, copies=3), classify=Classifier(results=lambda response: response.name == "bad")
    )

    async def main() -> Any:
        result = await pipeline.call(fetch)
        await pipeline.aclose()
        return result

    assert async_ring.world.run(main) is responses[2]
    assert [response.closed for response in responses] == [["aclose"], ["aclose"], []]


def test_hedge_unacceptable_result_that_comes_back_is_open(async_ring: Ring) -> None:
    """The caller reads it; the others are closed."""
    responses = [Response("bad"), Response("bad")]
    sent = iter(responses)

    async def fetch() -> Response:
        return next(sent)

    pipeline = Pipeline(async_ring.hedge(LONG), classify=Classifier(results=lambda response: True))

    async def main() -> Any:
        result = await pipeline.call(fetch)
        await pipeline.aclose()
        return result

    assert async_ring.world.run(main) is responses[0]
    assert [response.closed for response in responses] == [[], ["aclose"]]


def test_hedge_result_that_the_predicate_raised_on_is_closed(async_ring: Ring) -> None:
    """Nobody gets it."""
    response = Response()

    async def fetch() -> Response:
        return response

    def judge(result: object) -> bool:
        raise ZeroDivisionError

    pipeline = Pipeline(async_ring.hedge(LONG), classify=Classifier(results=judge))

    async def main() -> Any:
        with pytest.raises(ZeroDivisionError):
            await pipeline.call(fetch)
        await pipeline.aclose()

    async_ring.world.run(main)
    assert response.closed == ["aclose"]


def test_hedge_loser_in_a_thread_runs_to_its_end_and_is_closed() -> None:
    """It cannot be stopped; `close` waits for it."""
    loser, over = Response(), threading.Event()
    calls = 0

    def fetch() -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            return "winner"
        over.wait(5)
        return loser

    hedge = Hedge(SOON, thread=True)
    pipeline = Pipeline(hedge)
    assert pipeline.call(fetch) == "winner"
    assert hedge.snapshot()["stragglers"] == 1
    assert loser.closed == []
    over.set()
    pipeline.close()
    assert loser.closed == ["close"]
    assert hedge.snapshot()["stragglers"] == 0


def test_hedge_copies_that_end_at_once_in_their_threads_are_all_accounted_for() -> None:
    """One wins; each other is closed once, whether it ended before its caller looked or after."""
    responses: list[Response] = []
    hedge = Hedge(0, copies=3, thread=True)
    pipeline = Pipeline(hedge)
    calls = 150

    def call() -> Response:
        all_out = threading.Barrier(3)

        def fetch() -> Response:
            all_out.wait(5)
            response = Response()
            responses.append(response)
            return response

        return pipeline.call(fetch)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        winners = [call() for _ in range(calls)]
        closing = threading.Thread(target=pipeline.close, daemon=True)
        closing.start()
        closing.join(10)
    finally:
        sys.setswitchinterval(interval)
    assert not closing.is_alive()
    assert hedge.snapshot()["stragglers"] == 0
    assert len(responses) == 3 * calls
    assert [response.closed for response in winners] == [[]] * calls
    assert [response.closed for response in responses if response not in winners] == [["close"]] * (2 * calls)


def test_hedge_copy_whose_race_was_over_before_it_began_is_never_called(async_ring: Ring) -> None:
    """One failed, so a third was due; another succeeded in the same tick. It is counted off all the same."""
    calls = 0
    hedge = async_ring.hedge([0, LONG])
    pipeline = Pipeline(hedge)

    async def main() -> Any:
        both_out = event()

        async def fetch() -> Any:
            nonlocal calls
            calls += 1
            mine = calls
            if mine == 2:
                both_out.set()
            await both_out.wait()
            if mine == failing:
                raise OSError
            return "good"

        result = await pipeline.call(fetch)
        await pipeline.aclose()
        return result

    failing = 1
    assert async_ring.world.run(main) == "good"
    assert calls == 2
    assert hedge.snapshot()["stragglers"] == 0


@pytest.mark.virtual_time
async def test_hedge_no_further_copies_start_while_too_many_losers_linger(inline: bool) -> None:
    """And again when they have ended."""
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        mine = calls
        if mine == 2:  # loses, and takes its time
            try:
                await asyncio.sleep(LONG)
            finally:
                await asyncio.sleep(10)
        return await asyncio.sleep(2, mine)

    hedge = Hedge(1, max_stragglers=1, inline=inline)
    guarded = hedge(fetch)
    assert await guarded() == 1
    assert hedge.snapshot()["stragglers"] == 1
    assert await guarded() == 3  # the only one
    await asyncio.sleep(20)
    assert hedge.snapshot()["stragglers"] == 0
    assert await guarded() == 4
    assert calls == 5


@pytest.mark.virtual_time
async def test_hedge_without_delay_and_without_room_for_losers_waits_for_what_runs(inline: bool) -> None:
    """It does not ask again and again in no time."""
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        mine = calls
        try:
            await asyncio.sleep(mine)
        except asyncio.CancelledError:
            await asyncio.sleep(10)
            raise
        return mine

    guarded = Hedge(0, max_stragglers=1, inline=inline)(fetch)
    assert await guarded() == 1
    assert await guarded() == 3
    assert calls == 3


def test_hedge_stragglers_at_the_end_of_their_event_loop_are_counted_off_once() -> None:
    """Also one that is just being closed; the hedge serves on in the next loop."""
    hedge = Hedge(SOON)
    pipeline = Pipeline(hedge)
    calls = 0

    class Sticky(Response):
        async def aclose(self) -> None:
            await asyncio.sleep(LONG)

    async def fetch() -> Any:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            return "winner"
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            return Sticky()

    async def main() -> Any:
        result = await pipeline.call(fetch)
        await asyncio.sleep(SOON)
        assert hedge.snapshot()["stragglers"] == 1
        return result

    assert asyncio.run(main()) == "winner"
    assert hedge.snapshot()["stragglers"] == 0
    assert asyncio.run(main()) == "winner"
    assert hedge.snapshot()["stragglers"] == 0


# -- contexts ----------------------------------------------------------------------------------------------------

written: contextvars.ContextVar[str] = contextvars.ContextVar("written", default="nothing")


@pytest.mark.virtual_time
@pytest.mark.parametrize("winner", [1, 2])
async def test_hedge_only_the_winners_context_is_merged_back(winner: int) -> None:
    """Each copy writes in one of its own, which begins as the caller's."""
    seen: list[str] = []
    calls = 0

    async def fetch() -> None:
        nonlocal calls
        calls += 1
        mine = calls
        seen.append(written.get())
        written.set(f"copy {mine}")
        await asyncio.sleep(2 if mine == winner else LONG)

    written.set("caller")
    await Hedge(1)(fetch)()
    assert seen == ["caller", "caller"]
    assert written.get() == f"copy {winner}"


def test_hedge_winners_context_is_merged_back_from_a_thread() -> None:
    """As on an event loop."""

    def fetch() -> None:
        written.set("thread")

    def main() -> str:
        Hedge(LONG, thread=True)(fetch)()
        return written.get()

    assert contextvars.copy_context().run(main) == "thread"


@pytest.mark.virtual_time
async def test_hedge_context_of_a_copy_that_failed_is_merged_back_with_its_error() -> None:
    """As if it had failed here."""

    async def fetch() -> None:
        written.set("failed")
        raise KeyError

    with pytest.raises(KeyError):
        await Pipeline(Hedge(1), classify=bad_is_unacceptable()).call(fetch)
    assert written.get() == "failed"


@pytest.mark.virtual_time
async def test_hedge_inline_first_copy_runs_in_the_callers_task_and_context() -> None:
    """What it sets stays, though another wins."""
    tasks: list[Any] = []

    async def fetch() -> None:
        tasks.append(asyncio.current_task())
        if len(tasks) == 1:
            written.set("first copy")
            await asyncio.sleep(LONG)

    await Hedge(1, inline=True)(fetch)()
    assert tasks[0] is asyncio.current_task()
    assert tasks[1] is not tasks[0]
    assert written.get() == "first copy"


@pytest.mark.virtual_time
async def test_hedge_copy_has_not_the_time_of_a_timeout_inside_the_first_one(inline: bool) -> None:
    """Each copy has its own Timeout, and pauses within its own limits only."""
    seen: list[float | None] = []

    async def fetch() -> str:
        seen.append(remaining())
        await asyncio.sleep(2 if len(seen) > 2 else LONG)
        return "answer"

    guarded = Pipeline(Timeout(60), Hedge(1, inline=inline), Retry(2, wait=3), Timeout(5))(fetch)

    assert await guarded() == "answer"
    assert seen == [5, 5, 5, 5]


@pytest.mark.virtual_time
async def test_hedge_copies_of_calls_side_by_side_have_their_own_callers_context(inline: bool) -> None:
    """The timer that starts them may have been armed by another call."""
    seen: list[tuple[str, str]] = []

    async def fetch(who: str) -> None:
        seen.append((who, written.get()))
        await asyncio.sleep(10)

    guarded = Hedge(1, inline=inline)(fetch)

    async def caller(who: str, start: float) -> None:
        written.set(who)
        await asyncio.sleep(start)
        await guarded(who)

    await asyncio.gather(caller("a", 0), caller("b", 0.5), caller("c", 0.75))
    assert seen == [("a", "a"), ("b", "b"), ("c", "c")] * 2


@pytest.mark.virtual_time
async def test_hedge_copies_know_which_call_they_are_of(inline: bool) -> None:
    """One id for all copies, the outer call around them, and nothing when it is over."""
    seen: list[Any] = []

    async def fetch() -> None:
        seen.append(current_call())
        await asyncio.sleep(10)

    inner = Pipeline(Hedge(1, inline=inline), name="inner")(fetch)
    await Pipeline(Timeout(50), name="outer").call(inner)
    assert [view.pipeline for view in seen] == ["inner", "inner"]
    assert [view.outer.pipeline for view in seen] == ["outer", "outer"]
    assert seen[0].id == seen[1].id
    assert seen[0].outer.id == seen[1].outer.id
    assert current_call() is None


@pytest.mark.virtual_time
async def test_hedge_copies_see_the_deadline(inline: bool) -> None:
    """What is left of it when they begin."""
    left: list[float | None] = []

    async def fetch() -> None:
        left.append(remaining())
        await asyncio.sleep(3)

    with deadline(8):
        await Hedge(1, inline=inline)(fetch)()
    assert left == [8, 7]


@pytest.mark.virtual_time
async def test_hedge_leaves_no_cycle_behind_where_it_did_not_fire(inline: bool) -> None:
    """The collector has nothing to do."""

    async def fetch() -> None:
        await asyncio.sleep(0.5)

    guarded = Hedge(1, inline=inline)(fetch)
    await guarded()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await guarded()
        assert gc.collect() < 20
    finally:
        gc.enable()


class Body:
    """What a copy has in its hands."""

    def __init__(self) -> None:
        BODIES.add(self)


BODIES: weakref.WeakSet[Body] = weakref.WeakSet()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage collector: what lives on in a cycle is seen."""
    gc.collect()
    BODIES.clear()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("ending", ["all fail", "the second fails later", "the last wins"])
def test_hedge_lets_go_of_copies_that_failed(ring: Ring, ending: str) -> None:
    """Their frames, with all they held, do not wait for the collector."""
    calls = 0

    def step() -> str:
        nonlocal calls
        body, calls = Body(), calls + 1
        if ending == "the last wins" and calls == 3:
            return "good"
        raise OSError(body)

    async def fetch() -> str:
        return step()

    guarded = Pipeline(ring.hedge(0 if ending == "the second fails later" else LONG, copies=3))(
        fetch if ring.world.is_async else step
    )

    async def main() -> None:
        try:
            assert await guarded() == "good"
        except OSError:
            pass

    def main_def() -> None:
        try:
            assert guarded() == "good"
        except OSError:
            pass

    ring.world.run(main if ring.world.is_async else main_def)
    assert calls == 3
    assert len(BODIES) == 0


@pytest.mark.usefixtures("uncollected")
def test_hedge_lets_go_of_a_loser_that_was_cancelled(async_ring: Ring) -> None:
    """When it has ended: its frame, and its arguments."""
    calls = 0
    pipeline = Pipeline(async_ring.hedge(0))

    async def fetch(argument: Body) -> int:
        nonlocal calls
        body, calls = Body(), calls + 1
        if calls == 1:
            await async_ring.world.sleep(LONG)
        return len([body, argument])

    async def main() -> None:
        assert await pipeline.call(fetch, Body()) == 2
        await pipeline.aclose()

    async_ring.world.run(main)
    assert len(BODIES) == 0


# -- the caller's cancellation -----------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_hedge_cancelled_caller_cancels_every_copy(inline: bool) -> None:
    """A peer lets the request run on."""
    running = 0

    async def fetch() -> None:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(LONG)
        finally:
            running -= 1

    pipeline = Pipeline(Hedge(1, copies=3, inline=inline), Bulkhead(3))
    task = asyncio.create_task(pipeline.call(fetch))
    await asyncio.sleep(5)
    assert running == 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1
    await pipeline.aclose()
    assert running == 0
    assert loop_time() == 5


@pytest.mark.virtual_time
@pytest.mark.parametrize("ticks", range(4))
@pytest.mark.parametrize("armed", ["before", "after"])
async def test_hedge_outer_timeout_in_the_tick_of_the_win_expires(inline: bool, armed: str, ticks: int) -> None:
    """Inline both cancel the same task, and each takes its own cancellation back; the answer is closed."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Response] = loop.create_future()
    response = Response()
    calls = 0
    answered = False

    def after(ticks: int) -> None:
        if ticks:
            loop.call_soon(after, ticks - 1)
        elif not answer.done():
            answer.set_result(response)

    async def fetch() -> Response:
        nonlocal calls, answered
        calls += 1
        if calls == 1:
            if armed == "after":
                loop.call_at(3, after, ticks)
            await asyncio.sleep(LONG)
        result = await answer
        answered = True
        return result

    if armed == "before":
        loop.call_at(3, after, ticks)
    pipeline = Pipeline(Timeout(3), Hedge(1, inline=inline))
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimedOut):
        await pipeline.call(fetch)
    assert task.cancelling() == 0
    await pipeline.aclose()
    assert response.closed == (["aclose"] if answered else [])
    assert (calls, loop_time()) == (2, 3)


@pytest.mark.virtual_time
async def test_hedge_inline_leaves_the_count_of_cancellations_as_it_was() -> None:
    """Also in a task that somebody had cancelled before."""

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        return await asyncio.sleep(LONG if calls == 1 else 1, 7)

    calls = 0

    async def main() -> tuple[int, int]:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            pass
        return await Hedge(1, inline=True)(fetch)(), task.cancelling()

    task = asyncio.create_task(main())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == (7, 1)


# -- with other policies -----------------------------------------------------------------------------------------


def test_hedge_around_a_timeout_bounds_each_copy(ring: Ring) -> None:
    """One that timed out starts the next at once; when all have, the first one's error comes back."""
    dependency = ring.dependency(Hang(), Hang())
    with pytest.warns(Warning, match="nothing is ever hedged"):
        pipeline = Pipeline(ring.hedge(LONG), Timeout(SOON, thread=True))
    begin = ring.now()
    error = ring.outcome(pipeline(dependency.fn)).error
    assert isinstance(error, TimedOut)
    assert error.evidence
    assert len(dependency.calls) == 2
    assert SOON * 2 - 0.002 <= ring.now() - begin < LONG / 2


def test_hedge_inside_a_timeout_is_ended_with_all_its_copies(async_ring: Ring) -> None:
    """Its expiry is the caller's."""

    async def main() -> Outcome:
        try:
            return Outcome(await pipeline(dependency.fn)())
        except TimedOut as error:
            await pipeline.aclose()
            return Outcome(error=error)

    for _ in range(5):
        dependency = async_ring.dependency(Hang(), Hang())
        pipeline = Pipeline(Timeout(LATER), async_ring.hedge(SOON))
        error = async_ring.world.run(main).error
        if len(dependency.calls) == 2:
            break  # else the machine stood still, and both times were over at once
    assert isinstance(error, TimedOut)
    assert error.evidence
    assert (len(dependency.calls), dependency.running) == (2, 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("held", "evidence"), [(6, False), (0.5, False), (0, True)])
async def test_hedge_inside_a_timeout_time_in_a_queue_is_no_evidence(inline: bool, held: float, evidence: bool) -> None:
    """As without a hedge: the dependency did not have the whole time."""
    bulkhead = Bulkhead(2, queue=2)
    holders = [asyncio.create_task(bulkhead(asyncio.sleep)(held)) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pipeline = Pipeline(Timeout(4), Hedge(1, inline=inline), bulkhead)
    with pytest.raises(TimedOut) as caught:
        await pipeline.call(asyncio.sleep, LONG)
    await asyncio.gather(*holders)
    assert caught.value.evidence is evidence


def test_hedge_inside_a_cooperative_timeout_stops_waiting_at_the_limit() -> None:
    """In threads a hedge can be left, so a Timeout around it ends the wait."""
    over = threading.Event()
    pipeline = Pipeline(Timeout(LATER), Hedge(SOON, thread=True))
    with pytest.raises(TimedOut):
        pipeline.call(over.wait, 5)
    over.set()
    pipeline.close()


@pytest.mark.virtual_time
async def test_hedge_losers_that_are_young_teach_a_breaker_nothing(inline: bool) -> None:
    """A superseded request is no failure."""
    breaker = CircuitBreaker(None, fail_max=1)
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        return await asyncio.sleep(LONG if calls % 2 else 0, calls)

    pipeline = Pipeline(Hedge(1, inline=inline), breaker, Timeout(10))
    guarded = pipeline(fetch)
    for _ in range(3):
        await guarded()
    await pipeline.aclose()
    assert breaker.snapshot()["state"] == "closed"
    assert breaker.snapshot()["failures_in_a_row"] == 0


@pytest.mark.virtual_time
async def test_hedge_loser_at_its_limit_counts_for_a_breaker(inline: bool) -> None:
    """It had its time, and no answer; only the winner came a moment before its Timeout."""
    breaker = CircuitBreaker(None, fail_max=2, window_calls=8)
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        return await asyncio.sleep(LONG if calls == 1 else 8.995, calls)

    pipeline = Pipeline(Hedge(1, inline=inline), breaker, Timeout(10))
    assert await pipeline.call(fetch) == 2
    await pipeline.aclose()
    assert (breaker.snapshot()["calls"], breaker.snapshot()["failures"]) == (2, 1)


@pytest.mark.virtual_time
async def test_hedge_losers_hold_their_permits_until_they_have_ended() -> None:
    """The clean-up is work of the dependency too."""
    bulkhead = Bulkhead(2)
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            return 7
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(5)

    pipeline = Pipeline(Hedge(1), bulkhead)
    await pipeline.call(fetch)
    assert bulkhead.snapshot()["in_use"] == 1
    await pipeline.aclose()
    assert bulkhead.snapshot()["in_use"] == 0


def test_hedge_inside_a_retry_is_repeated_as_a_whole(ring: Ring) -> None:
    """Two copies of two attempts."""
    dependency = ring.dependency(OSError(), OSError(), OSError(), 7)
    assert ring.call(Pipeline(Retry(attempts=2, wait=0), ring.hedge(LONG))(dependency.fn)) == 7
    assert len(dependency.calls) == 4


def test_hedge_around_a_retry_repeats_each_copy(ring: Ring) -> None:
    """The other way round."""
    dependency = ring.dependency(OSError(), OSError(), OSError(), 7)
    assert ring.call(Pipeline(ring.hedge(LONG), Retry(attempts=2, wait=0))(dependency.fn)) == 7
    assert len(dependency.calls) == 4


@pytest.mark.virtual_time
async def test_hedge_inside_a_hedge_cancels_all(inline: bool) -> None:
    """Four copies, one winner."""
    calls = running = 0

    async def fetch() -> int:
        nonlocal calls, running
        calls += 1
        mine = calls
        running += 1
        try:
            return await asyncio.sleep(1 if mine == 4 else LONG, mine)
        finally:
            running -= 1

    inner = Pipeline(Hedge(1, inline=inline))
    outer = Pipeline(Hedge(3, inline=inline), inner)
    assert await outer.call(fetch) == 4
    assert loop_time() == 5
    await outer.aclose()
    assert (calls, running) == (4, 0)


@pytest.mark.virtual_time
async def test_hedge_time_that_the_winner_spent_in_a_queue_is_no_age_of_the_dependency(inline: bool) -> None:
    """A breaker outside sees how long the dependency took: not 4 s, but 1 s."""
    breaker = CircuitBreaker(None, slow=2, slow_rate=0.5, min_calls=1, window_calls=4)
    bulkhead = Bulkhead(1, queue=4)
    holder = asyncio.create_task(bulkhead(asyncio.sleep)(3))
    await asyncio.sleep(0)
    queued = Pipeline(Hedge(LONG, inline=inline), bulkhead)
    with pytest.warns(Warning, match="stands outside"):
        pipeline = Pipeline(breaker, queued)
    await pipeline.call(asyncio.sleep, 1)
    await holder
    assert loop_time() == 4
    assert breaker.snapshot()["slow"] == 0


# -- budget ------------------------------------------------------------------------------------------------------


def test_hedge_each_further_copy_is_paid_for(ring: Ring) -> None:
    """The first is free."""
    budget = Budget(reserve=2, ratio=0.001)
    dependency = ring.dependency(7, OSError(), OSError(), 7)
    guarded = ring.hedge(LONG, copies=3, budget=budget)(dependency.fn)
    ring.call(guarded)
    assert budget.snapshot()["spent"] == 0
    ring.call(guarded)
    assert budget.snapshot()["spent"] == 2


def test_hedge_without_a_token_starts_none_and_leaves_alone_what_runs(ring: Ring) -> None:
    """Exhausted is not failed; one event says so."""
    budget = Budget(reserve=0, ratio=0.001)
    dependency = ring.dependency(Until(lambda: budget.snapshot()["refused"], 7))
    pipeline = Pipeline(ring.hedge(SOON, copies=4, name="twice", budget=budget), name="users")
    told = heard(pipeline)
    assert ring.call(pipeline(dependency.fn)) == 7
    assert len(dependency.calls) == 1
    exhausted = [event for event in told if isinstance(event, BudgetExhausted)]
    assert [(event.pipeline, event.policy, event.what) for event in exhausted] == [("users", "twice", "hedge")]
    assert [event for event in told if isinstance(event, Hedging)] == []
    assert budget.snapshot()["refused"] == 1


def test_hedge_without_a_token_a_failure_comes_back_itself(ring: Ring) -> None:
    """There is nothing else to wait for."""
    error = OSError()
    dependency = ring.dependency(error)
    assert ring.outcome(ring.hedge(LONG, budget=Budget(reserve=0, ratio=0.001))(dependency.fn)).error is error


def test_hedge_successes_earn_further_copies(ring: Ring) -> None:
    """A tenth of a token each."""
    budget = Budget(ratio=0.1, reserve=0, ttl=10_000)
    dependency = ring.dependency(*range(11), OSError(), "second")
    guarded = ring.hedge(LONG, budget=budget)(dependency.fn)
    for answer in range(11):
        assert ring.call(guarded) == answer
    assert ring.call(guarded) == "second"


# -- events, shadow, switches ------------------------------------------------------------------------------------


def test_hedge_tells_of_copies_and_of_the_winner(ring: Ring) -> None:
    """Why each began, and which of how many won."""
    dependency = ring.dependency(Joined(2, OSError()), Hang(), 7)
    pipeline = Pipeline(ring.hedge([SOON, LONG], name="twice"), name="users")
    told = heard(pipeline)
    assert ring.call(pipeline(dependency.fn)) == 7
    hedging = [event for event in told if isinstance(event, Hedging)]
    assert [(event.pipeline, event.policy, event.copy, event.reason, event.shadow) for event in hedging] == [
        ("users", "twice", 2, "delay", False),
        ("users", "twice", 3, "failure", False),
    ]
    won = [event for event in told if isinstance(event, HedgeWon)]
    assert [(event.pipeline, event.policy, event.copy, event.copies) for event in won] == [("users", "twice", 3, 3)]


def test_hedge_tells_of_no_winner_when_it_did_not_fire_or_all_failed(ring: Ring) -> None:
    """There was none."""
    dependency = ring.dependency(7, OSError(), OSError())
    pipeline = Pipeline(ring.hedge(LONG))
    told = heard(pipeline)
    guarded = pipeline(dependency.fn)
    ring.outcome(guarded)
    ring.outcome(guarded)
    assert [event for event in told if isinstance(event, HedgeWon)] == []


@pytest.mark.parametrize(
    ("step", "reason"),
    [(Slow(LATER, 7), "delay"), (OSError(), "failure"), (Slow(LATER, OSError()), "delay"), ("bad", "failure")],
    ids=["late", "failed", "late and failed", "unacceptable"],
)
def test_hedge_shadow_counts_what_it_would_have_started_and_starts_nothing(
    world: World, step: object, reason: str
) -> None:
    """And says so; a `def` needs no thread for it."""
    dependency = world.dependency(step)
    hedge = Hedge(SOON if reason == "delay" else LONG, shadow=True)
    pipeline = Pipeline(hedge, classify=bad_is_unacceptable())
    told = heard(pipeline)
    world.outcome(pipeline(dependency.fn))
    assert len(dependency.calls) == 1
    assert hedge.snapshot()["would_have_started"] == 1
    assert hedge.snapshot()["started"] == 0
    hedging = [event for event in told if isinstance(event, Hedging)]
    assert [(event.copy, event.reason, event.shadow) for event in hedging] == [(2, reason, True)]


@pytest.mark.parametrize("step", [7, TypeError()], ids=["answered", "programming error"])
def test_hedge_shadow_counts_nothing_where_none_would_have_started(world: World, step: object) -> None:
    """In time, or not to be repeated."""
    hedge = Hedge(LONG, shadow=True)
    world.outcome(hedge(world.dependency(step).fn))
    assert hedge.snapshot()["would_have_started"] == 0


def test_hedge_shadow_spends_no_budget(world: World) -> None:
    """It sends nothing."""
    budget = Budget(reserve=5)
    world.outcome(Hedge(LONG, shadow=True, budget=budget)(world.dependency(OSError()).fn))
    assert budget.snapshot()["spent"] == 0


def test_hedge_switched_to_once_sends_no_copies(ring: Ring) -> None:
    """Of a pipeline that is switched off, neither."""
    first, second = OSError(), OSError()
    dependency = ring.dependency(first, second)
    guarded = ring.hedge(LONG)(dependency.fn)
    with switch("once"):
        assert ring.outcome(guarded).error is first
    with switch("off"):
        assert ring.outcome(guarded).error is second
    assert len(dependency.calls) == 2


def test_hedge_describes_itself() -> None:
    """For people."""
    assert repr(Hedge(0.5)) == "Hedge(2 copies, after 0.5 s)"
    assert repr(Hedge([0.5, 1], inline=True)) == "Hedge(3 copies, after 0.5, 1 s, inline)"
    assert repr(Hedge(1, copies=3, thread=True, shadow=True)) == "Hedge(3 copies, after 1 s, thread, shadow)"


def test_hedge_snapshot_has_its_budget() -> None:
    """As far as it has one."""
    budget = Budget()
    assert Hedge(1, budget=budget).snapshot()["budget"] == budget.snapshot()
    assert "budget" not in Hedge(1).snapshot()


# -- what it cannot guard ----------------------------------------------------------------------------------------


def test_hedge_plain_def_without_threads_is_refused_when_decorated() -> None:
    """In a sentence that says what to write."""
    with pytest.raises(TypeError, match=r"copies of a plain def need threads: say Hedge\(\.\.\., thread=True\)"):
        Hedge(1)(print)
    with pytest.raises(TypeError, match="need threads"):
        Pipeline(Timeout(5), Hedge(1, inline=True)).call(print)


@pytest.mark.parametrize("options", [{}, {"thread": True}, {"inline": True}, {"shadow": True}], ids=str)
def test_hedge_block_is_refused(options: dict[str, Any]) -> None:
    """It runs once."""
    pipeline = Pipeline(Hedge(1, **options))
    with pytest.raises(TypeError, match="a block runs once; hedge a function"):
        for attempt in pipeline.attempts():
            with attempt:
                pass


# -- configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "kind"),
    [
        (-1, ValueError),
        (-0.001, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (b"1", TypeError),
        (None, TypeError),
    ],
    ids=repr,
)
def test_hedge_impossible_delay_is_refused_with_its_value(delay: Any, kind: type[Exception]) -> None:
    """When it is built, alone and in a sequence."""
    with pytest.raises(kind) as caught:
        Hedge(delay)
    assert str(caught.value).startswith(f"delay must be a finite number of seconds >= 0, got {delay!r}")
    with pytest.raises(kind) as caught:
        Hedge([1, delay])
    assert str(caught.value).startswith(f"delay[1] must be a finite number of seconds >= 0, got {delay!r}")


@pytest.mark.parametrize("delay", [[], ()], ids=repr)
def test_hedge_sequence_of_no_delays_is_refused(delay: Any) -> None:
    """It would hedge nothing."""
    with pytest.raises(ValueError, match="delay must have a number of seconds for each further copy"):
        Hedge(delay)


@pytest.mark.parametrize(
    ("copies", "kind"), [(1, ValueError), (0, ValueError), (-2, ValueError), (True, TypeError), (2.0, TypeError)]
)
@pytest.mark.parametrize("delay", [1, [1]], ids=["one", "sequence"])
def test_hedge_impossible_number_of_copies_is_refused_with_its_value(
    delay: Any, copies: Any, kind: type[Exception]
) -> None:
    """One copy is no hedge."""
    with pytest.raises(kind, match=f"copies must .*got {copies!r}"):
        Hedge(delay, copies=copies)


def test_hedge_copies_that_do_not_fit_the_delays_are_refused() -> None:
    """One of the two would be a mistake."""
    with pytest.raises(ValueError, match="copies=2 does not fit 2 delays: leave one of them out"):
        Hedge([1, 2], copies=2)
    assert Hedge([1, 2], copies=3).copies == 3


def test_hedge_inline_in_threads_is_refused() -> None:
    """A contradiction."""
    with pytest.raises(ValueError, match="inline=True has no meaning with thread=True"):
        Hedge(1, inline=True, thread=True)


@pytest.mark.parametrize("flag", ["inline", "thread", "shadow"])
@pytest.mark.parametrize("value", [1, "yes", None], ids=repr)
def test_hedge_flag_that_is_none_is_refused_with_its_value(flag: str, value: Any) -> None:
    """A number is no flag."""
    with pytest.raises(TypeError, match=f"{flag} must be True or False, got {value!r}"):
        Hedge(1, **{flag: value})


@pytest.mark.parametrize("budget", [0.1, True, "half", Budget], ids=repr)
def test_hedge_budget_that_is_none_is_refused_with_its_value(budget: Any) -> None:
    """A share is no budget: it is made once and shared."""
    with pytest.raises(TypeError, match="budget must be a Budget, got"):
        Hedge(1, budget=budget)


@pytest.mark.parametrize(("cap", "kind"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_hedge_impossible_cap_of_stragglers_is_refused_with_its_value(cap: Any, kind: type[Exception]) -> None:
    """At least one loser must be let linger."""
    with pytest.raises(kind, match=f"max_stragglers must .*got {cap!r}"):
        Hedge(1, max_stragglers=cap)


def test_hedge_options_are_by_keyword() -> None:
    """A bare number would say nothing to its reader."""
    with pytest.raises(TypeError, match="positional"):
        Hedge(1, 3)  # type: ignore[misc]


@pytest.mark.parametrize(("name", "kind"), [("", ValueError), (3, TypeError)], ids=repr)
def test_hedge_name_that_is_none_is_refused_with_its_value(name: Any, kind: type[Exception]) -> None:
    """Names are for people."""
    with pytest.raises(kind, match=f"name must .*, got {name!r}"):
        Hedge(1, name=name)


# -- the plan ----------------------------------------------------------------------------------------------------


def test_plan_copies_that_do_not_fit_into_the_total_are_found() -> None:
    """The last one would be cut off: it begins at 4 s and may take 3."""
    assert Pipeline(Timeout(7), Hedge([2, 2]), Timeout(3)).findings == []
    with pytest.warns(Warning, match="3 copies that time out, with up to 4 s between them, take 7 s"):
        Pipeline(Timeout(6.5), Hedge([2, 2]), Timeout(3))


def test_plan_delay_that_a_copy_cannot_live_to_see_is_found() -> None:
    """Its own limit comes first."""
    with pytest.warns(Warning, match="nothing is ever hedged"):
        Pipeline(Hedge(2), Timeout(2))
    assert Pipeline(Hedge(1.5), Timeout(2)).findings == []


def test_plan_breaker_outside_a_hedge_is_found() -> None:
    """It sees one failure where several copies failed."""
    with pytest.warns(Warning, match="it sees one failure"):
        Pipeline(CircuitBreaker(), Hedge(1))
    assert Pipeline(Hedge(1), CircuitBreaker()).findings == []


def test_plan_hedge_and_retry_are_no_two_retries() -> None:
    """They do different things."""
    assert Pipeline(Retry(attempts=3), Hedge(1)).findings == []


# -- what is published -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [False, True], ids=["beside", "inline"])
def test_hedged_latencies_are_as_computed(inline: bool) -> None:
    """S_h(t) = S(t) S(t - d), and S(d) more requests: 10,000 exponential services of mean 1, hedged at their p95."""
    calls, delay = 10_000, math.log(20)
    dice = random.Random(20)
    requests = 0
    latencies: list[float] = []

    async def fetch() -> None:
        nonlocal requests
        requests += 1
        await asyncio.sleep(dice.expovariate(1))

    guarded = Hedge(delay, inline=inline)(fetch)

    async def one() -> None:
        begin = loop_time()
        await guarded()
        latencies.append(loop_time() - begin)

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(calls)))

    virtual.run(main())
    extra, share = requests / calls - 1, 0.05
    assert abs(extra - share) < 3 * math.sqrt(share * (1 - share) / calls)
    for tail in (0.01, 0.002):
        computed = (delay - math.log(tail)) / 2  # where exp(-t) exp(-(t - d)) is `tail`
        observed = sorted(latencies)[-round(calls * tail)]
        error = math.sqrt(tail * (1 - tail) / calls) / (2 * tail)  # of a quantile: the density there is 2 * tail
        assert abs(observed - computed) < 3 * error
    assert sorted(latencies)[calls // 2] == pytest.approx(math.log(2), rel=0.1)  # nothing changes before the delay


def test_worlds_are_all_tried() -> None:
    """Threads have no inline hedge; trio has copies all the same."""
    assert (ThreadWorld, True) not in ALL
    assert (TrioWorld, True) in ALL


def test_hedge_that_is_dropped_with_a_closed_loop_ends() -> None:
    """Its copies cannot run any more, and are no stragglers."""
    hedge = Hedge(0.001)
    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        call = hedge(asyncio.Event().wait)()
        call.send(None)  # nobody goes on with it
        return call

    call = loop.run_until_complete(begin())
    loop.close()
    call.close()
    assert hedge.snapshot()["stragglers"] == 0


async def test_hedge_inline_begins_no_copy_for_a_caller_that_has_left() -> None:
    """Though the clean-up of the first copy failed, which looks like a failure of the dependency."""
    begun = []

    async def fails_in_its_clean_up() -> None:
        begun.append(1)
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("closed in the middle")

    task = asyncio.ensure_future(Hedge(100, inline=True)(fails_in_its_clean_up)())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(OSError, match="closed in the middle"):
        await task
    assert len(begun) == 1
