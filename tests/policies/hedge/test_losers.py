"""Copies of a hedged call that lose: they are cancelled, counted until their end, and their results are closed."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest

from resilient import (
    Classifier,
    Hedge,
    Pipeline,
    Timeout,
)
from tests.policies.hedge.modes import (
    LONG,
    SOON,
    Mode,
    Response,
    Session,
    Sticky,
    copies,
    loop_time,
    rendezvous,
)
from tests.worlds import Dependency, Hang, Slow, UntilCancelled


def test_hedge_losers_are_cancelled(async_mode: Mode) -> None:
    """Copies that lose, the first one included, have ended when the pipeline is closed."""
    dependency = async_mode.dependency(Hang(), Hang(), 7)
    assert async_mode.call_and_close(Pipeline(async_mode.hedge(SOON, copies=3)), dependency.fn) == 7
    assert (len(dependency.calls), dependency.running) == (3, 0)


@pytest.mark.virtual_time
async def test_hedge_losers_slow_clean_up_does_not_delay_the_winner() -> None:
    """The loser's clean-up goes on in the background, as a straggler, until its end (a peer made the winner wait)."""
    fetch = copies(UntilCancelled(5), 7)
    hedge = Hedge(1)
    pipeline = Pipeline(hedge)
    assert await pipeline.call(fetch) == 7
    assert loop_time() == 1
    assert hedge.snapshot()["stragglers"] == 1
    await pipeline.aclose()
    assert hedge.snapshot()["stragglers"] == 0
    assert fetch.calls[0].ended == 6


@pytest.mark.virtual_time
async def test_hedge_inline_first_copys_clean_up_is_on_the_winners_path() -> None:
    """An inline first copy's clean-up of 5 s delays the winner by 5 s, as the documentation says."""
    hedge = Hedge(1, inline=True)
    assert await hedge(copies(UntilCancelled(5), 7))() == 7
    assert loop_time() == 6
    assert hedge.snapshot()["stragglers"] == 0


@pytest.mark.virtual_time
async def test_hedge_inline_first_copys_clean_up_for_a_cancelled_caller_is_not_cut_short() -> None:
    """A second copy that ends during the clean-up of a cancelled caller does not cancel it again."""
    fetch = copies(UntilCancelled(2), Slow(1, 2))
    task = asyncio.ensure_future(Hedge(1, inline=True)(fetch)())
    await asyncio.sleep(1.5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert fetch.calls[0].ended == 3.5


@pytest.mark.virtual_time
async def test_hedge_inline_first_copys_failing_clean_up_does_not_beat_the_winner() -> None:
    """A failure of the first copy's clean-up is no outcome of the request: the winner's result comes back."""
    fetch = copies(UntilCancelled(then=OSError("closed in the middle")), 7)
    assert await Hedge(1, inline=True)(fetch)() == 7
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.virtual_time
async def test_hedge_inline_first_copy_that_swallows_the_cancellation_is_used() -> None:
    """A first copy that returns a good result in spite of its cancellation wins; the other result is closed."""
    response = Response()
    pipeline = Pipeline(Hedge(1, inline=True))
    assert await pipeline.call(copies(UntilCancelled(then="stubborn"), response)) == "stubborn"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await pipeline.aclose()
    assert response.closed == ["aclose"]


@pytest.mark.virtual_time
async def test_hedge_inline_first_copy_that_answers_the_cancellation_with_an_unacceptable_result_is_closed() -> None:
    """An unacceptable result of a cancelled first copy is closed; the winner's comes back."""
    bad, good = Response("bad"), Response("good")
    pipeline = Pipeline(Hedge(1, inline=True), classify=Classifier(results=lambda response: response.name == "bad"))
    assert await pipeline.call(copies(UntilCancelled(then=bad), good)) is good
    await pipeline.aclose()
    assert (bad.closed, good.closed) == (["aclose"], [])


def test_hedge_results_of_losers_are_closed(async_mode: Mode) -> None:
    """A loser that swallows its cancellation and returns a response has it closed."""
    late = Response()
    dependency = async_mode.dependency(Slow(LONG), UntilCancelled(then=late), "winner")
    assert async_mode.call_and_close(Pipeline(async_mode.hedge(SOON, copies=3)), dependency.fn) == "winner"
    assert late.closed == ["aclose"]


@pytest.mark.parametrize("copies", [2, 3])
def test_hedge_of_copies_that_succeed_in_one_tick_one_wins_and_the_others_are_closed(
    async_mode: Mode, copies: int
) -> None:
    """Of copies that return in one tick, one wins, and the other responses are closed (a peer leaves them open)."""
    responses: list[Response] = []
    meet = rendezvous(copies)

    async def fetch() -> Response:
        await meet()
        responses.append(Response())
        return responses[-1]

    winner = async_mode.call_and_close(Pipeline(async_mode.hedge(0, copies=copies)), fetch)
    assert winner in responses
    assert winner.closed == []
    losers = [response for response in responses if response is not winner]
    assert [response.closed for response in losers] == [["aclose"]] * len(losers)
    if not async_mode.inline:  # there the winner cancels the first copy before it can answer
        assert len(losers) == copies - 1


def test_hedge_of_copies_that_come_to_one_response_leaves_it_to_the_winner(async_mode: Mode) -> None:
    """Copies that waited for the same request (single flight) return one response: it stays open for the winner."""
    response, meet = Response(), rendezvous(3)

    async def fetch() -> Response:
        await meet()
        return response

    assert async_mode.call_and_close(Pipeline(async_mode.hedge(0, copies=3)), fetch) is response
    assert response.closed == []


@pytest.mark.virtual_time
async def test_hedge_late_loser_that_comes_to_the_winners_response_leaves_it_open() -> None:
    """A loser that returns the winner's response 18 s later does not close it."""
    response = Response()
    pipeline = Pipeline(Hedge(1, cancel="late"), Timeout(30))
    assert await pipeline.call(copies(Slow(20, response), Slow(1, response))) is response
    await pipeline.aclose()
    assert loop_time() == 20
    assert response.closed == []


def test_hedge_unacceptable_response_that_comes_again_is_open(async_mode: Mode) -> None:
    """All copies fail with the same response: it comes back open."""
    response = Response("bad")
    dependency = async_mode.dependency(response, response, response)
    pipeline = Pipeline(async_mode.hedge(LONG, copies=3), classify=Classifier(results=lambda response: True))
    assert async_mode.call_and_close(pipeline, dependency.fn) is response
    assert response.closed == []


def test_hedge_session_is_left_open(async_mode: Mode) -> None:
    """An object without a status, which may be shared with other calls, is not closed."""
    sessions = [Session(), Session()]
    pipeline = Pipeline(async_mode.hedge(LONG), classify=Classifier(results=lambda session: session is sessions[0]))
    async_mode.call_and_close(pipeline, async_mode.dependency(*sessions).fn)
    assert [session.closed for session in sessions] == [[], []]


def test_hedge_unacceptable_results_are_closed_when_another_wins(async_mode: Mode) -> None:
    """Both unacceptable responses are closed, also the first one, which would come back if all copies failed."""
    responses = [Response("bad"), Response("bad"), Response("good")]
    pipeline = Pipeline(
        async_mode.hedge(LONG, copies=3), classify=Classifier(results=lambda response: response.name == "bad")
    )
    assert async_mode.call_and_close(pipeline, async_mode.dependency(*responses).fn) is responses[2]
    assert [response.closed for response in responses] == [["aclose"], ["aclose"], []]


def test_hedge_unacceptable_result_that_comes_back_is_open(async_mode: Mode) -> None:
    """All copies fail with responses: the first one comes back open, the other is closed."""
    responses = [Response("bad"), Response("bad")]
    pipeline = Pipeline(async_mode.hedge(LONG), classify=Classifier(results=lambda response: True))
    assert async_mode.call_and_close(pipeline, async_mode.dependency(*responses).fn) is responses[0]
    assert [response.closed for response in responses] == [[], ["aclose"]]


def test_hedge_result_that_the_predicate_raised_on_is_closed(async_mode: Mode) -> None:
    """Where the classifier's predicate raises, no caller gets the response, and it is closed."""
    response = Response()

    def judge(result: object) -> bool:
        raise ZeroDivisionError

    pipeline = Pipeline(async_mode.hedge(LONG), classify=Classifier(results=judge))
    with pytest.raises(ZeroDivisionError):
        async_mode.call_and_close(pipeline, async_mode.dependency(response).fn)
    assert response.closed == ["aclose"]


def test_hedge_loser_in_a_thread_runs_to_its_end_and_is_closed() -> None:
    """A losing thread cannot be stopped: it is a straggler until its end, and `close` waits for it."""
    loser = Response()
    dependency = Dependency((Hang(loser), "winner"), is_async=False)
    hedge = Hedge(SOON, thread=True)
    pipeline = Pipeline(hedge)
    assert pipeline.call(dependency.fn) == "winner"
    assert hedge.snapshot()["stragglers"] == 1
    assert loser.closed == []
    dependency.release()
    pipeline.close()
    assert loser.closed == ["close"]
    assert hedge.snapshot()["stragglers"] == 0


def test_hedge_copies_that_end_at_once_in_their_threads_are_all_accounted_for() -> None:
    """Of three threads that end at once, one wins; each other response is closed once, in all 150 races."""
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


def test_hedge_copy_whose_race_was_over_before_it_began_is_never_called(async_mode: Mode) -> None:
    """One copy fails, so a third is due, and another succeeds in the same tick: the third is not called."""
    calls, meet = 0, rendezvous(2)
    hedge = async_mode.hedge([0, LONG])

    async def fetch() -> Any:
        nonlocal calls
        calls += 1
        mine = calls
        await meet()
        if mine == 1:
            raise OSError
        return "good"

    assert async_mode.call_and_close(Pipeline(hedge), fetch) == "good"
    assert calls == 2
    assert hedge.snapshot()["stragglers"] == 0


@pytest.mark.virtual_time
async def test_hedge_no_further_copies_start_while_too_many_losers_linger(inline: bool) -> None:
    """While `max_stragglers` losers are still ending, no further copy starts; after their end it does."""
    fetch = copies(Slow(2, 1), UntilCancelled(10), Slow(2, 3), Slow(2, 4), Slow(2, 5))
    hedge = Hedge(1, max_stragglers=1, inline=inline)
    guarded = hedge(fetch)
    assert await guarded() == 1
    assert hedge.snapshot()["stragglers"] == 1
    assert await guarded() == 3  # the only copy
    await asyncio.sleep(20)
    assert hedge.snapshot()["stragglers"] == 0
    assert await guarded() == 4
    assert len(fetch.calls) == 5


@pytest.mark.virtual_time
async def test_hedge_without_delay_and_without_room_for_losers_waits_for_what_runs(inline: bool) -> None:
    """With a delay of 0 and no room for losers, the hedge waits for the running copy and does not spin."""
    fetch = copies(Slow(1, 1), UntilCancelled(10), Slow(3, 3))
    guarded = Hedge(0, max_stragglers=1, inline=inline)(fetch)
    assert await guarded() == 1
    assert await guarded() == 3
    assert len(fetch.calls) == 3


def test_hedge_stragglers_at_the_end_of_their_event_loop_are_counted_off_once() -> None:
    """A straggler that is being closed when its loop ends does not count any more; the hedge works on the next loop."""
    hedge = Hedge(SOON)
    pipeline = Pipeline(hedge)
    stubborn = UntilCancelled(then=Sticky())
    fetch = copies(stubborn, "winner", stubborn, "winner")

    async def main() -> Any:
        result = await pipeline.call(fetch)
        await asyncio.sleep(SOON)
        assert hedge.snapshot()["stragglers"] == 1
        return result

    assert asyncio.run(main()) == "winner"
    assert hedge.snapshot()["stragglers"] == 0
    assert asyncio.run(main()) == "winner"
    assert hedge.snapshot()["stragglers"] == 0
