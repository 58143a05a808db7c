"""Hedge with cancelled callers, other policies, budgets, events and shadow mode; and its configuration."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from typing import Any

import pytest

from resilient import (
    Budget,
    Bulkhead,
    CircuitBreaker,
    Hedge,
    Pipeline,
    Retry,
    TimedOut,
    Timeout,
    switch,
)
from resilient.events import BudgetExhausted, HedgeWon, Hedging
from resilient.runtime import virtual
from resilient.testing import record
from tests.policies.hedge.modes import (
    LATER,
    LONG,
    MODES,
    SOON,
    Mode,
    Response,
    bad_is_unacceptable,
    copies,
    loop_time,
)
from tests.worlds import Hang, Joined, Outcome, Slow, ThreadWorld, TrioWorld, Until, UntilCancelled, World

# -- the caller's cancellation -----------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_hedge_cancelled_caller_cancels_every_copy(inline: bool) -> None:
    """All three running copies end when the caller is cancelled (a peer lets the request run on)."""
    fetch = copies(Slow(LONG), Slow(LONG), Slow(LONG))
    pipeline = Pipeline(Hedge(1, copies=3, inline=inline), Bulkhead(3))
    task = asyncio.create_task(pipeline.call(fetch))
    await asyncio.sleep(5)
    assert fetch.running == 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1
    await pipeline.aclose()
    assert fetch.running == 0
    assert loop_time() == 5


@pytest.mark.virtual_time
@pytest.mark.parametrize("ticks", range(4))
@pytest.mark.parametrize("armed", ["before", "after"])
async def test_hedge_outer_timeout_in_the_tick_of_the_win_expires(inline: bool, armed: str, ticks: int) -> None:
    """An inline hedge and the Timeout around it cancel the same task: each takes its own cancellation back, and the
    response of the copy is closed."""
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
    """A task that was cancelled before the hedge has the same `cancelling()` after it."""
    fetch = copies(Slow(LONG), Slow(1, 7))

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


# -- with other policies -----------------------------------------------------------------------------------------------


def test_hedge_around_a_timeout_bounds_each_copy(mode: Mode) -> None:
    """A copy that times out starts the next one at once; when all have, the first one's `TimedOut` comes back."""
    dependency = mode.dependency(Hang(), Hang())
    with pytest.warns(Warning, match="nothing is ever hedged"):
        pipeline = Pipeline(mode.hedge(LONG), Timeout(SOON, thread=True))
    begin = mode.now()
    error = mode.outcome(pipeline(dependency.fn)).error
    assert isinstance(error, TimedOut)
    assert error.evidence
    assert len(dependency.calls) == 2
    assert SOON * 2 - 0.002 <= mode.now() - begin < LONG / 2


def test_hedge_inside_a_timeout_is_ended_with_all_its_copies(async_mode: Mode) -> None:
    """A Timeout around the hedge raises `TimedOut`, and all copies are cancelled."""

    async def main() -> Outcome:
        try:
            return Outcome(await pipeline(dependency.fn)())
        except TimedOut as error:
            await pipeline.aclose()
            return Outcome(error=error)

    for _ in range(5):
        dependency = async_mode.dependency(Hang(), Hang())
        pipeline = Pipeline(Timeout(LATER), async_mode.hedge(SOON))
        error = async_mode.world.run(main).error
        if len(dependency.calls) == 2:
            break  # else the machine stood still, and both times were over at once
    assert isinstance(error, TimedOut)
    assert error.evidence
    assert (len(dependency.calls), dependency.running) == (2, 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("held", "evidence"), [(6, False), (0.5, False), (0, True)])
async def test_hedge_inside_a_timeout_time_in_a_queue_is_no_evidence(inline: bool, held: float, evidence: bool) -> None:
    """A `TimedOut` is evidence only if the dependency had the whole time, as without a hedge."""
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
    """In plain code, a Timeout around a hedge of threads ends the wait for them."""
    over = threading.Event()
    pipeline = Pipeline(Timeout(LATER), Hedge(SOON, thread=True))
    with pytest.raises(TimedOut):
        pipeline.call(over.wait, 5)
    over.set()
    pipeline.close()


@pytest.mark.virtual_time
async def test_hedge_losers_that_are_young_teach_a_breaker_nothing(inline: bool) -> None:
    """A copy that is cancelled before its Timeout is no failure for a breaker inside the hedge."""
    breaker = CircuitBreaker(None, fail_max=1)
    pipeline = Pipeline(Hedge(1, inline=inline), breaker, Timeout(10))
    guarded = pipeline(copies(*(Slow(seconds) for seconds in (LONG, 0) * 3)))
    for _ in range(3):
        await guarded()
    await pipeline.aclose()
    assert breaker.snapshot()["state"] == "closed"
    assert breaker.snapshot()["failures_in_a_row"] == 0


@pytest.mark.virtual_time
async def test_hedge_loser_at_its_limit_counts_for_a_breaker(inline: bool) -> None:
    """A first copy that had nearly the whole time of its Timeout, when it loses, is a failure for the breaker."""
    breaker = CircuitBreaker(None, fail_max=2, window_calls=8)
    pipeline = Pipeline(Hedge(1, inline=inline), breaker, Timeout(10))
    assert await pipeline.call(copies(Slow(LONG), Slow(8.995, 2))) == 2
    await pipeline.aclose()
    assert (breaker.snapshot()["calls"], breaker.snapshot()["failures"]) == (2, 1)


@pytest.mark.virtual_time
async def test_hedge_losers_hold_their_permits_until_they_have_ended() -> None:
    """A loser holds its bulkhead permit during its clean-up, which is work of the dependency, too."""
    bulkhead = Bulkhead(2)
    pipeline = Pipeline(Hedge(1), bulkhead)
    await pipeline.call(copies(UntilCancelled(5), 7))
    assert bulkhead.snapshot()["in_use"] == 1
    await pipeline.aclose()
    assert bulkhead.snapshot()["in_use"] == 0


def test_hedge_inside_a_retry_is_repeated_as_a_whole(mode: Mode) -> None:
    """A Retry with two attempts around two copies makes up to four calls."""
    dependency = mode.dependency(OSError(), OSError(), OSError(), 7)
    assert mode.call(Pipeline(Retry(attempts=2, wait=0), mode.hedge(LONG))(dependency.fn)) == 7
    assert len(dependency.calls) == 4


def test_hedge_around_a_retry_repeats_each_copy(mode: Mode) -> None:
    """Two copies with a Retry of two attempts inside make up to four calls."""
    dependency = mode.dependency(OSError(), OSError(), OSError(), 7)
    assert mode.call(Pipeline(mode.hedge(LONG), Retry(attempts=2, wait=0))(dependency.fn)) == 7
    assert len(dependency.calls) == 4


@pytest.mark.virtual_time
async def test_hedge_inside_a_hedge_cancels_all(inline: bool) -> None:
    """Of four copies of two nested hedges one wins, and the three others are cancelled."""
    fetch = copies(Slow(LONG), Slow(LONG), Slow(LONG), Slow(1, 4))
    inner = Pipeline(Hedge(1, inline=inline))
    outer = Pipeline(Hedge(3, inline=inline), inner)
    assert await outer.call(fetch) == 4
    assert loop_time() == 5
    await outer.aclose()
    assert (len(fetch.calls), fetch.running) == (4, 0)


@pytest.mark.virtual_time
async def test_hedge_time_that_the_winner_spent_in_a_queue_is_no_age_of_the_dependency(inline: bool) -> None:
    """A breaker outside the hedge counts the winner's time without its 3 s in a queue: 1 s, which is not slow."""
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


# -- budget ------------------------------------------------------------------------------------------------------------


def test_hedge_each_further_copy_is_paid_for(mode: Mode) -> None:
    """The first copy costs no token; each of two further ones costs one."""
    budget = Budget(reserve=2, ratio=0.001)
    dependency = mode.dependency(7, OSError(), OSError(), 7)
    guarded = mode.hedge(LONG, copies=3, budget=budget)(dependency.fn)
    mode.call(guarded)
    assert budget.snapshot()["spent"] == 0
    mode.call(guarded)
    assert budget.snapshot()["spent"] == 2


def test_hedge_without_a_token_starts_none_and_leaves_alone_what_runs(mode: Mode) -> None:
    """Without a token the running copy goes on and its result comes back; one event reports the exhausted budget."""
    budget = Budget(reserve=0, ratio=0.001)
    dependency = mode.dependency(Until(lambda: budget.snapshot()["refused"], 7))
    pipeline = Pipeline(mode.hedge(SOON, copies=4, name="twice", budget=budget), name="users")
    recorder = record(pipeline)
    assert mode.call(pipeline(dependency.fn)) == 7
    assert len(dependency.calls) == 1
    exhausted = recorder.of(BudgetExhausted)
    assert [(event.pipeline, event.policy, event.what) for event in exhausted] == [("users", "twice", "hedge")]
    assert recorder.of(Hedging) == []
    assert budget.snapshot()["refused"] == 1


def test_hedge_without_a_token_a_failure_comes_back_itself(mode: Mode) -> None:
    """Without a token, the first copy's failure comes back at once."""
    error = OSError()
    dependency = mode.dependency(error)
    assert mode.outcome(mode.hedge(LONG, budget=Budget(reserve=0, ratio=0.001))(dependency.fn)).error is error


def test_hedge_successes_earn_further_copies(mode: Mode) -> None:
    """With a ratio of 0.1, ten successes earn the token of a further copy."""
    budget = Budget(ratio=0.1, reserve=0, ttl=10_000)
    dependency = mode.dependency(*range(11), OSError(), "second")
    guarded = mode.hedge(LONG, budget=budget)(dependency.fn)
    for answer in range(11):
        assert mode.call(guarded) == answer
    assert mode.call(guarded) == "second"


# -- events, shadow, switches ------------------------------------------------------------------------------------------


def test_hedge_tells_of_copies_and_of_the_winner(mode: Mode) -> None:
    """Events report why each copy started, and which of how many copies won."""
    dependency = mode.dependency(Joined(2, OSError()), Hang(), 7)
    pipeline = Pipeline(mode.hedge([SOON, LONG], name="twice"), name="users")
    recorder = record(pipeline)
    assert mode.call(pipeline(dependency.fn)) == 7
    hedging = recorder.of(Hedging)
    assert [(event.pipeline, event.policy, event.copy, event.reason, event.shadow) for event in hedging] == [
        ("users", "twice", 2, "delay", False),
        ("users", "twice", 3, "failure", False),
    ]
    won = recorder.of(HedgeWon)
    assert [(event.pipeline, event.policy, event.copy, event.copies) for event in won] == [("users", "twice", 3, 3)]


def test_hedge_tells_of_no_winner_when_it_did_not_fire_or_all_failed(mode: Mode) -> None:
    """No HedgeWon is emitted if no further copy started, or if all copies failed."""
    dependency = mode.dependency(7, OSError(), OSError())
    pipeline = Pipeline(mode.hedge(LONG))
    recorder = record(pipeline)
    guarded = pipeline(dependency.fn)
    mode.outcome(guarded)
    mode.outcome(guarded)
    assert recorder.of(HedgeWon) == []


@pytest.mark.parametrize(
    ("step", "reason"),
    [(Slow(LATER, 7), "delay"), (OSError(), "failure"), (Slow(LATER, OSError()), "delay"), ("bad", "failure")],
    ids=["late", "failed", "late and failed", "unacceptable"],
)
def test_hedge_shadow_counts_what_it_would_have_started_and_starts_nothing(
    world: World, step: object, reason: str
) -> None:
    """Shadow mode counts and reports the copy that would have started; around a `def` it needs no thread."""
    dependency = world.dependency(step)
    hedge = Hedge(SOON if reason == "delay" else LONG, shadow=True)
    pipeline = Pipeline(hedge, classify=bad_is_unacceptable())
    recorder = record(pipeline)
    world.outcome(pipeline(dependency.fn))
    assert len(dependency.calls) == 1
    assert hedge.snapshot()["would_have_started"] == 1
    assert hedge.snapshot()["started"] == 0
    hedging = recorder.of(Hedging)
    assert [(event.copy, event.reason, event.shadow) for event in hedging] == [(2, reason, True)]


@pytest.mark.parametrize("step", [7, TypeError()], ids=["answered", "programming error"])
def test_hedge_shadow_counts_nothing_where_none_would_have_started(world: World, step: object) -> None:
    """Shadow mode counts nothing for a call that ends in time, or that repeating cannot change."""
    hedge = Hedge(LONG, shadow=True)
    world.outcome(hedge(world.dependency(step).fn))
    assert hedge.snapshot()["would_have_started"] == 0


def test_hedge_shadow_spends_no_budget(world: World) -> None:
    """Shadow mode sends no copy and takes no token."""
    budget = Budget(reserve=5)
    world.outcome(Hedge(LONG, shadow=True, budget=budget)(world.dependency(OSError()).fn))
    assert budget.snapshot()["spent"] == 0


def test_hedge_switched_to_once_sends_no_copies(mode: Mode) -> None:
    """Under `switch("once")` and `switch("off")` a failure starts no copy."""
    first, second = OSError(), OSError()
    dependency = mode.dependency(first, second)
    guarded = mode.hedge(LONG)(dependency.fn)
    with switch("once"):
        assert mode.outcome(guarded).error is first
    with switch("off"):
        assert mode.outcome(guarded).error is second
    assert len(dependency.calls) == 2


def test_hedge_describes_itself() -> None:
    """The `repr` names the copies, the delays and the flags."""
    assert repr(Hedge(0.5)) == "Hedge(2 copies, after 0.5 s)"
    assert repr(Hedge([0.5, 1], inline=True)) == "Hedge(3 copies, after 0.5, 1 s, inline)"
    assert repr(Hedge(1, copies=3, thread=True, shadow=True)) == "Hedge(3 copies, after 1 s, thread, shadow)"


def test_hedge_snapshot_has_its_budget() -> None:
    """The snapshot has the budget's snapshot if there is a budget."""
    budget = Budget()
    assert Hedge(1, budget=budget).snapshot()["budget"] == budget.snapshot()
    assert "budget" not in Hedge(1).snapshot()


# -- what it cannot guard ----------------------------------------------------------------------------------------------


def test_hedge_plain_def_without_threads_is_refused_when_decorated() -> None:
    """The TypeError says to write `thread=True`."""
    with pytest.raises(TypeError, match=r"copies of a plain def need threads: say Hedge\(\.\.\., thread=True\)"):
        Hedge(1)(print)
    with pytest.raises(TypeError, match="need threads"):
        Pipeline(Timeout(5), Hedge(1, inline=True)).call(print)


@pytest.mark.parametrize("options", [{}, {"thread": True}, {"inline": True}, {"shadow": True}], ids=str)
def test_hedge_block_is_refused(options: dict[str, Any]) -> None:
    """A block cannot be hedged, because it runs once."""
    pipeline = Pipeline(Hedge(1, **options))
    with pytest.raises(TypeError, match="a block runs once; hedge a function"):
        for attempt in pipeline.attempts():
            with attempt:
                pass


# -- configuration -----------------------------------------------------------------------------------------------------


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
    """The constructor refuses it alone and in a sequence, and says the value."""
    with pytest.raises(kind) as caught:
        Hedge(delay)
    assert str(caught.value).startswith(f"delay must be a finite number of seconds >= 0, got {delay!r}")
    with pytest.raises(kind) as caught:
        Hedge([1, delay])
    assert str(caught.value).startswith(f"delay[1] must be a finite number of seconds >= 0, got {delay!r}")


@pytest.mark.parametrize("delay", [[], ()], ids=repr)
def test_hedge_sequence_of_no_delays_is_refused(delay: Any) -> None:
    """An empty sequence of delays would start no copy."""
    with pytest.raises(ValueError, match="delay must have a number of seconds for each further copy"):
        Hedge(delay)


@pytest.mark.parametrize(
    ("copies", "kind"), [(1, ValueError), (0, ValueError), (-2, ValueError), (True, TypeError), (2.0, TypeError)]
)
@pytest.mark.parametrize("delay", [1, [1]], ids=["one", "sequence"])
def test_hedge_impossible_number_of_copies_is_refused_with_its_value(
    delay: Any, copies: Any, kind: type[Exception]
) -> None:
    """`copies` must be a whole number of at least 2."""
    with pytest.raises(kind, match=f"copies must .*got {copies!r}"):
        Hedge(delay, copies=copies)


def test_hedge_copies_that_do_not_fit_the_delays_are_refused() -> None:
    """`copies` must be one more than the number of delays, if both are given."""
    with pytest.raises(ValueError, match="copies=2 does not fit 2 delays: leave one of them out"):
        Hedge([1, 2], copies=2)
    assert Hedge([1, 2], copies=3).copies == 3


def test_hedge_inline_in_threads_is_refused() -> None:
    """`inline=True` and `thread=True` contradict each other."""
    with pytest.raises(ValueError, match="inline=True has no meaning with thread=True"):
        Hedge(1, inline=True, thread=True)


@pytest.mark.parametrize("flag", ["inline", "thread", "shadow"])
@pytest.mark.parametrize("value", [1, "yes", None], ids=repr)
def test_hedge_flag_that_is_none_is_refused_with_its_value(flag: str, value: Any) -> None:
    """Flags must be True or False, not other truthy or falsy values."""
    with pytest.raises(TypeError, match=f"{flag} must be True or False, got {value!r}"):
        Hedge(1, **{flag: value})


@pytest.mark.parametrize("budget", [0.1, True, "half", Budget], ids=repr)
def test_hedge_budget_that_is_none_is_refused_with_its_value(budget: Any) -> None:
    """A number is no budget: a `Budget` is made once and shared."""
    with pytest.raises(TypeError, match="budget must be a Budget, got"):
        Hedge(1, budget=budget)


@pytest.mark.parametrize(("cap", "kind"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_hedge_impossible_cap_of_stragglers_is_refused_with_its_value(cap: Any, kind: type[Exception]) -> None:
    """`max_stragglers` must be a whole number of at least 1."""
    with pytest.raises(kind, match=f"max_stragglers must .*got {cap!r}"):
        Hedge(1, max_stragglers=cap)


def test_hedge_options_are_by_keyword() -> None:
    """Options after the delay cannot be given by position."""
    with pytest.raises(TypeError, match="positional"):
        Hedge(1, 3)  # type: ignore[misc]


@pytest.mark.parametrize(("name", "kind"), [("", ValueError), (3, TypeError)], ids=repr)
def test_hedge_name_that_is_none_is_refused_with_its_value(name: Any, kind: type[Exception]) -> None:
    """A name must be a text that is not empty."""
    with pytest.raises(kind, match=f"name must .*, got {name!r}"):
        Hedge(1, name=name)


# -- lint --------------------------------------------------------------------------------------------------------------


def test_lint_copies_that_do_not_fit_into_the_total_are_found() -> None:
    """Lint warns if the last copy, which begins at 4 s and may take 3, does not end within the Timeout outside."""
    assert Pipeline(Timeout(7), Hedge([2, 2]), Timeout(3)).findings == []
    with pytest.warns(Warning, match="3 copies that time out, with up to 4 s between them, take 7 s"):
        Pipeline(Timeout(6.5), Hedge([2, 2]), Timeout(3))


def test_lint_delay_that_a_copy_cannot_live_to_see_is_found() -> None:
    """Lint warns if each copy's own Timeout ends before the delay."""
    with pytest.warns(Warning, match="nothing is ever hedged"):
        Pipeline(Hedge(2), Timeout(2))
    assert Pipeline(Hedge(1.5), Timeout(2)).findings == []


def test_lint_breaker_outside_a_hedge_is_found() -> None:
    """Lint warns of a breaker outside a hedge: it counts one failure where several copies failed."""
    with pytest.warns(Warning, match="it sees one failure"):
        Pipeline(CircuitBreaker(), Hedge(1))
    assert Pipeline(Hedge(1), CircuitBreaker()).findings == []


def test_lint_hedge_and_retry_are_no_two_retries() -> None:
    """A Retry outside a Hedge is not reported as two policies that repeat."""
    assert Pipeline(Retry(attempts=3), Hedge(1)).findings == []


# -- what is published -------------------------------------------------------------------------------------------------


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
    """In threads there is no inline hedge; in trio `inline=True` is accepted, and copies are tasks."""
    assert (ThreadWorld, True) not in MODES
    assert (TrioWorld, True) in MODES


def test_hedge_that_is_dropped_with_a_closed_loop_ends() -> None:
    """Copies of a closed event loop cannot run any more, and do not count as stragglers."""
    hedge = Hedge(0.001)
    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        call = hedge(asyncio.Event().wait)()
        call.send(None)  # and is never resumed
        return call

    call = loop.run_until_complete(begin())
    loop.close()
    call.close()
    assert hedge.snapshot()["stragglers"] == 0


async def test_hedge_inline_begins_no_copy_for_a_caller_that_has_left() -> None:
    """A failing clean-up of a cancelled first copy is no failure of the dependency: no further copy starts."""
    fetch = copies(UntilCancelled(then=OSError("closed in the middle")))
    task = asyncio.ensure_future(Hedge(100, inline=True)(fetch)())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(OSError, match="closed in the middle"):
        await task
    assert len(fetch.calls) == 1
