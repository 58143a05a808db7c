"""Which outcome of a hedged call counts: the first acceptable one, and what starts further copies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    BulkheadFull,
    Classifier,
    Hedge,
    Pipeline,
    Rejected,
    Retry,
    current_call,
)
from resilient.core.classify import Verdict
from tests.policies.hedge.modes import (
    LATER,
    LONG,
    SOON,
    Mode,
    bad_is_unacceptable,
    copies,
    loop_time,
)
from tests.worlds import Hang, Joined, Slow, Until, World


def test_hedge_answer_before_the_delay_is_returned_and_no_copy_starts(mode: Mode) -> None:
    """The first copy gets the arguments of the call; nothing is counted."""
    dependency = mode.dependency(7)
    hedge = mode.hedge(LONG)
    assert mode.call(hedge(dependency.fn), 1, key="value") == 7
    assert dependency.arguments == [((1,), {"key": "value"})]
    assert hedge.snapshot() == {"started": 0, "won": 0, "stragglers": 0}


def test_hedge_late_call_is_sent_once_more_and_the_copy_wins(mode: Mode) -> None:
    """Both copies get the arguments of the call, the second one not before the delay."""
    dependency = mode.dependency(Hang(), 7)
    hedge = mode.hedge(SOON)
    begin = mode.now()
    assert mode.call(hedge(dependency.fn), 1, key="value") == 7
    assert mode.now() - begin >= SOON - 0.001
    assert dependency.arguments == [((1,), {"key": "value"})] * 2
    assert (hedge.snapshot()["started"], hedge.snapshot()["won"]) == (1, 1)


def test_hedge_first_copy_that_is_late_may_still_win(mode: Mode) -> None:
    """The outcome of a first copy that ends before the second one comes back."""
    dependency = mode.dependency(Joined(2, 1), Hang())
    hedge = mode.hedge(SOON)
    assert mode.call(hedge(dependency.fn)) == 1
    assert len(dependency.calls) == 2
    assert (hedge.snapshot()["started"], hedge.snapshot()["won"]) == (1, 0)


def test_hedge_fast_failure_starts_the_next_copy_at_once(mode: Mode) -> None:
    """A copy that fails early starts the next one without the delay (a peer waits for it)."""
    dependency = mode.dependency(OSError(), 7)
    begin = mode.now()
    assert mode.call(mode.hedge(LONG)(dependency.fn)) == 7
    assert mode.now() - begin < LONG / 2


def test_hedge_copy_that_fails_does_not_beat_the_first_one(mode: Mode) -> None:
    """A ConnectError of the second copy at 50 ms does not win against a result of the first at 150 ms (it does in two
    peers)."""
    dependency = mode.dependency(Until(lambda: dependency.ended == 1, 7), OSError())
    hedge = mode.hedge(SOON)
    assert mode.call(hedge(dependency.fn)) == 7
    assert len(dependency.calls) == 2
    assert hedge.snapshot()["won"] == 0


def test_hedge_unacceptable_result_starts_the_next_copy_at_once(mode: Mode) -> None:
    """A result that the classifier calls a failure, such as a 503, starts the next copy without the delay."""
    dependency = mode.dependency("bad", "good")
    begin = mode.now()
    assert mode.call(Pipeline(mode.hedge(LONG), classify=bad_is_unacceptable())(dependency.fn)) == "good"
    assert mode.now() - begin < LONG / 2


@pytest.mark.parametrize("kind", ["error", "result"])
def test_hedge_failure_that_asks_for_a_pause_starts_no_copy(mode: Mode, kind: str) -> None:
    """The failure comes back at once, and a Retry outside can wait."""
    busy = OSError("busy")
    busy.retry_after = 30.0  # type: ignore[attr-defined]
    judge = Classifier(results=lambda _: Verdict("failure", retryable=True, retry_after=30.0))
    dependency = mode.dependency(busy if kind == "error" else "busy")
    begin = mode.now()
    outcome = mode.outcome(Pipeline(mode.hedge(LONG), classify=judge)(dependency.fn))
    assert (outcome.error or outcome.value) in (busy, "busy")
    assert len(dependency.calls) == 1
    assert mode.now() - begin < LONG / 2


def test_hedge_in_shadow_counts_no_copy_where_a_pause_is_asked_for(world: World) -> None:
    """In shadow mode a failure that asks for a pause counts nothing, because no copy would have started."""
    busy = OSError("busy")
    busy.retry_after = 30.0  # type: ignore[attr-defined]
    hedge = Hedge(LONG, shadow=True)
    assert world.outcome(hedge(world.dependency(busy).fn)).error is busy
    assert hedge.snapshot()["would_have_started"] == 0


def test_hedge_copy_that_asks_for_a_pause_leaves_the_first_one_running(mode: Mode) -> None:
    """The second copy's request for a pause ends nothing, but no third copy starts."""
    busy = OSError("busy")
    busy.retry_after = 30.0  # type: ignore[attr-defined]
    dependency = mode.dependency(Until(lambda: dependency.ended == 1, 7), busy)
    assert mode.call(mode.hedge(SOON, copies=3)(dependency.fn)) == 7
    assert len(dependency.calls) == 2


def test_hedge_unacceptable_result_does_not_beat_the_first_copy(mode: Mode) -> None:
    """A fast unacceptable result of the second copy does not win against a later good result of the first."""
    dependency = mode.dependency(Until(lambda: dependency.ended == 1, "good"), "bad")
    assert mode.call(Pipeline(mode.hedge(SOON), classify=bad_is_unacceptable())(dependency.fn)) == "good"
    assert len(dependency.calls) == 2


@pytest.mark.parametrize("error", [BlockingIOError(), TypeError(), KeyError()], ids=["fatal", "programming", "ignored"])
def test_hedge_outcome_that_repeating_cannot_change_ends_all(mode: Mode, error: Exception) -> None:
    """A fatal, a programming and an ignored error come back as the same object, and no copy starts."""
    dependency = mode.dependency(error)
    assert mode.outcome(Pipeline(mode.hedge(LONG), classify=bad_is_unacceptable())(dependency.fn)).error is error
    assert len(dependency.calls) == 1


def test_hedge_fatal_outcome_of_a_later_copy_ends_all(mode: Mode) -> None:
    """The fatal error of a second copy comes back while the first one is still running."""
    error = BlockingIOError()
    dependency = mode.dependency(Hang(), error)
    assert mode.outcome(Pipeline(mode.hedge(SOON), classify=bad_is_unacceptable())(dependency.fn)).error is error


def test_hedge_refused_first_copy_leaves_the_race_open(mode: Mode) -> None:
    """A rejection of the first copy starts the next one, which may be sent elsewhere."""
    dependency = mode.dependency(Rejected("here"), 7)
    assert mode.call(mode.hedge(LONG)(dependency.fn)) == 7


def test_hedge_refused_later_copy_leaves_the_race_open(mode: Mode) -> None:
    """A bulkhead without room for the second copy does not affect the first one."""
    dependency = mode.dependency(Slow(LATER, 7))
    bulkhead = Bulkhead(1)
    assert mode.call(Pipeline(mode.hedge(SOON), bulkhead)(dependency.fn)) == 7
    assert bulkhead.snapshot()["in_use"] == 0


def test_hedge_all_refused_is_the_first_refusal(mode: Mode) -> None:
    """Where all copies are refused, the rejection of the first one comes back."""
    dependency = mode.dependency()
    error = mode.outcome(Pipeline(mode.hedge(LONG), Bulkhead(1, name="none left"), Full())(dependency.fn)).error
    assert isinstance(error, BulkheadFull)


class Full(Bulkhead):
    """A bulkhead that has no permit left."""

    def __init__(self) -> None:
        super().__init__(1, name="full")

    def admit(self, call: Any) -> object | None:
        raise BulkheadFull("full", policy=self.name)


def test_hedge_when_all_copies_fail_the_first_ones_error_comes_back(mode: Mode) -> None:
    """The error that comes back is the same object that the first copy raised."""
    first = OSError("first")
    dependency = mode.dependency(first, OSError("second"), OSError("third"))
    hedge = mode.hedge(LONG, copies=3)
    assert mode.outcome(hedge(dependency.fn)).error is first
    assert len(dependency.calls) == 3
    assert hedge.snapshot() == {"started": 2, "won": 0, "stragglers": 0}


def test_hedge_when_all_copies_fail_the_first_ones_error_comes_back_though_it_failed_last(mode: Mode) -> None:
    """The order of the starts decides which error comes back, not the order of the ends."""
    first = OSError("first")
    dependency = mode.dependency(Until(lambda: dependency.ended == 1, first), OSError("second"))
    assert mode.outcome(mode.hedge(SOON)(dependency.fn)).error is first
    assert len(dependency.calls) == 2


def test_hedge_when_all_results_are_unacceptable_the_first_one_comes_back(mode: Mode) -> None:
    """The caller gets the first copy's unacceptable result."""
    dependency = mode.dependency("bad 1", "bad 2")
    assert mode.call(Pipeline(mode.hedge(LONG), classify=bad_is_unacceptable())(dependency.fn)) == "bad 1"


def test_hedge_error_before_an_unacceptable_result_comes_back(mode: Mode) -> None:
    """The first copy's error comes back although a later copy had a result."""
    error = OSError()
    dependency = mode.dependency(error, "bad")
    assert mode.outcome(Pipeline(mode.hedge(LONG), classify=bad_is_unacceptable())(dependency.fn)).error is error


@pytest.mark.parametrize("more", [{"delay": SOON, "copies": 3}, {"delay": (SOON, SOON)}], ids=["one delay", "sequence"])
def test_hedge_starts_as_many_copies_as_it_is_told(mode: Mode, more: dict[str, Any]) -> None:
    """Three copies start one after the other, and no more, by `copies` or by the number of delays."""
    dependency = mode.dependency(Hang(), Hang(), 7)
    assert mode.call(mode.hedge(**more)(dependency.fn)) == 7
    assert len(dependency.calls) == 3


@pytest.mark.virtual_time
async def test_hedge_delays_count_from_the_start_of_the_copy_before(inline: bool) -> None:
    """Each delay counts from the start of the copy before, also if that started early because another one failed."""
    fetch = copies(Slow(20, 1), Slow(0.5, OSError()), Slow(20, 3), Slow(20, 4))
    assert await Hedge([1, 2, 4], inline=inline)(fetch)() == 1
    assert fetch.times == [0, 1, 1.5, 5.5]


@pytest.mark.virtual_time
@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
async def test_hedge_copy_counts_its_own_attempts(inline: bool) -> None:
    """Where a Retry is inside, each copy begins with attempt 1, whatever attempt the copy before has reached."""
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
    """A delay of 0 starts all copies at the same time."""
    fetch = copies(Slow(9, 1), Slow(8, 2), Slow(7, 3))
    assert await Hedge(0, copies=3, inline=inline)(fetch)() == 3
    assert fetch.times == [0, 0, 0]
    assert loop_time() == 7


class Interrupt(BaseException):
    """An exception like KeyboardInterrupt, which an event loop would handle itself."""


@pytest.mark.virtual_time
@pytest.mark.parametrize("number", [1, 2])
async def test_hedge_base_exception_of_any_copy_is_the_callers(inline: bool, number: int) -> None:
    """A BaseException is not judged: it comes back, and the other copies are cancelled."""
    error = Interrupt()
    fetch = copies(*(Slow(2 if each == number else 20, error) for each in (1, 2)))
    pipeline = Pipeline(Hedge(1, inline=inline))
    with pytest.raises(Interrupt) as caught:
        await pipeline.call(fetch)
    assert caught.value is error
    await pipeline.aclose()
    assert (len(fetch.calls), fetch.running) == (2, 0)


def test_hedge_predicate_that_raises_is_the_callers_mistake(mode: Mode) -> None:
    """The caller gets the error of the classifier's predicate, and no copy starts."""
    error = ZeroDivisionError()

    def judge(result: object) -> bool:
        raise error

    pipeline = Pipeline(mode.hedge(LONG), classify=Classifier(results=judge))
    assert mode.outcome(pipeline(mode.dependency("?").fn)).error is error
