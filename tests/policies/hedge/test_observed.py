"""Hedge with observed latencies, with `accept`, and with losers that are not cancelled."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from resilient import (
    Budget,
    Bulkhead,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    deadline,
    quantile,
    switch,
)
from resilient.policies.hedge.delay import Observed
from tests.policies.hedge.modes import LONG, Response, copies, loop_time
from tests.worlds import Slow, World


def taught(hedge: Hedge, seconds: float, calls: int = 10) -> Observed:
    """The observed latencies of a hedge, after `calls` calls that have each taken `seconds`."""
    observed = hedge._observed
    assert isinstance(observed, Observed)
    for _ in range(calls):
        observed.record(seconds)
    return observed


def samples(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list of the latencies that are observed from now on; they do not move the delay."""
    seen: list[float] = []
    monkeypatch.setattr(Observed, "record", lambda _, seconds: seen.append(seconds))
    return seen


# -- the delay ---------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_hedge_waits_for_the_quantile_that_it_has_observed(inline: bool) -> None:
    """Of 20 observed calls 19 take 1 s: the p90, and the delay, is 1 s."""
    hedge = Hedge(quantile(0.9, warm_up=20), inline=inline)
    for seconds in [1.0] * 19 + [5.0]:
        await hedge(asyncio.sleep)(seconds)
    begin = loop_time()
    assert await hedge(copies(Slow(LONG, 1), Slow(0.5, 2)))() == 2
    assert loop_time() - begin == pytest.approx(1.5, rel=0.015)
    assert hedge.snapshot()["samples"] == 21
    assert hedge.snapshot()["delays"] == [pytest.approx(1, rel=0.021)]


@pytest.mark.virtual_time
async def test_hedge_waits_for_ever_during_the_warm_up(inline: bool) -> None:
    """During the warm-up lateness starts no copy, but a failure does."""
    hedge = Hedge(quantile(0.9, warm_up=20), inline=inline)
    assert await hedge(copies(Slow(LONG, 1), Slow(0, 2)))() == 1
    assert await hedge(copies(Slow(1, OSError()), Slow(0, 2)))() == 2
    assert hedge.snapshot()["delays"] == [None]


@pytest.mark.virtual_time
async def test_hedge_waits_for_the_initial_delay_during_the_warm_up(inline: bool) -> None:
    """During the warm-up the delay is `initial`."""
    hedge = Hedge(quantile(0.9, warm_up=20, initial=2), inline=inline)
    assert await hedge(copies(Slow(LONG, 1), Slow(1, 2)))() == 2
    assert loop_time() == 3


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", [0.05, 0.0501, 0.0508, 0.1])
async def test_hedge_calls_that_all_take_equally_long_are_not_late(inline: bool, seconds: float) -> None:
    """The delay is the upper end of a histogram bucket, so calls in the same bucket are not late."""
    hedge = Hedge(quantile(0.95, warm_up=5), inline=inline)
    for _ in range(50):
        await hedge(asyncio.sleep)(seconds)
    assert hedge.snapshot()["started"] == 0


@pytest.mark.parametrize(("seconds", "delay"), [(0.001, 0.5), (0.7, 0.7), (9, 2)])
def test_hedge_delay_stays_between_floor_and_ceiling(seconds: float, delay: float) -> None:
    """The delay is never below `floor` and never above `ceiling`, whatever is observed."""
    observed = taught(Hedge(quantile(0.9, warm_up=5, floor=0.5, ceiling=2)), seconds)
    assert observed.delays == (pytest.approx(delay, rel=0.021),)


def test_hedge_delays_of_further_copies_grow() -> None:
    """Each further delay is `growth` times the one before, up to the ceiling."""
    observed = taught(Hedge(quantile(0.9, warm_up=5, growth=2, ceiling=3), copies=4), 1.0)
    assert observed.delays == (pytest.approx(1, rel=0.021), pytest.approx(2, rel=0.021), 3)


@pytest.mark.virtual_time
async def test_hedge_observes_each_key_by_itself_and_forgets_those_unheard_of() -> None:
    """Latencies are kept by key, and above `max_keys` the least recently used key is evicted."""
    hedge = Hedge(quantile(0.9, warm_up=1), key=lambda seconds: f"{seconds:g} s", max_keys=2)
    guarded = hedge(asyncio.sleep)
    for seconds in (1, 2, 2, 3, 2):
        await guarded(seconds)
    seen = hedge.snapshot()
    assert seen["keys"] == 2
    assert {key: each["samples"] for key, each in seen["observed"].items()} == {"2 s": 3, "3 s": 1}
    assert list(seen["observed"]) == ["2 s", "3 s"]


# -- what is observed --------------------------------------------------------------------------------------------


def test_hedge_observes_in_every_runtime(world: World) -> None:
    """A first copy is observed on each runtime, also in a thread."""
    hedge = Hedge(quantile(0.9), thread=not world.is_async)
    assert world.call(hedge(world.dependency(7).fn)) == 7
    assert hedge.snapshot()["samples"] == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["race", "inline", "shadow", "once"])
async def test_hedge_observes_what_tells_of_latency_and_nothing_else(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Successes and timeouts are observed; other failures only if they are later than the delay; refusals never."""
    hedge = Hedge(quantile(0.9, warm_up=5), inline=how == "inline", shadow=how == "shadow")
    taught(hedge, 1.0)
    seen = samples(monkeypatch)
    pipeline = Pipeline(hedge, classify=Classifier(results=lambda result: result == "bad"))

    async def ends(*steps: Any) -> list[float]:
        seen.clear()
        try:
            with switch("once" if how == "once" else "on"):
                await pipeline.call(copies(*steps, Slow(0, "good"), Slow(0, "good")))
        except Exception:
            pass
        return [round(each, 3) for each in seen]

    assert await ends(Slow(0.25, "good")) == [0.25]
    assert await ends(Slow(0.25, "bad")) == []
    assert await ends(Slow(0.25, OSError())) == []
    assert await ends(Slow(0.25, TypeError())) == []
    assert await ends(Slow(0.25, Rejected("no"))) == []
    assert await ends(Slow(0.25, TimedOut(evidence=True))) == [0.25]
    assert await ends(Slow(0.25, TimedOut(evidence=False))) == []
    if how in ("shadow", "once"):
        assert await ends(Slow(3, OSError())) == [3]
        assert await ends(Slow(3, "bad")) == [3]
        assert await ends(Slow(3, Rejected("no"))) == []
    else:  # the second copy wins at 1 s, the first one's age then
        assert await ends(Slow(3, OSError())) == [pytest.approx(1, rel=0.021)]


@pytest.mark.virtual_time
async def test_hedge_observes_the_first_copys_success_after_the_delay(
    inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first copy that is late and wins is observed with its whole latency."""
    hedge = Hedge(quantile(0.9, warm_up=5), inline=inline)
    taught(hedge, 1.0)
    seen = samples(monkeypatch)
    assert await hedge(copies(Slow(3, 1), Slow(LONG, 2)))() == 1
    assert seen == [3]


@pytest.mark.virtual_time
async def test_hedge_observes_no_later_copy(inline: bool) -> None:
    """A second copy is not observed, because its end depends on the race."""
    hedge = Hedge(quantile(0.9, warm_up=5), inline=inline)
    assert await hedge(copies(Slow(0.5, OSError()), Slow(0.5, 2)))() == 2
    assert hedge.snapshot()["samples"] == 0


@pytest.mark.virtual_time
async def test_hedge_observes_nothing_of_a_cancelled_caller(inline: bool) -> None:
    """Neither a cancelled caller nor an inherited deadline is observed."""
    hedge = Hedge(quantile(0.9, warm_up=5, initial=1), inline=inline)
    task = asyncio.create_task(hedge(asyncio.sleep)(LONG))
    await asyncio.sleep(5)
    task.cancel()
    await asyncio.wait([task])
    with deadline(5), pytest.raises(TimedOut):
        await hedge(asyncio.sleep)(LONG)
    assert hedge.snapshot()["samples"] == 0


@pytest.mark.virtual_time
async def test_hedge_time_in_a_queue_is_no_latency(inline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a call that takes 4 s, 3 s of which in the bulkhead's queue, 1 s is observed."""
    bulkhead = Bulkhead(1, queue=4)
    holder = asyncio.create_task(bulkhead(asyncio.sleep)(3))
    await asyncio.sleep(0)
    hedge = Hedge(quantile(0.9, warm_up=5), inline=inline)
    taught(hedge, LONG)
    seen = samples(monkeypatch)
    await Pipeline(hedge, bulkhead).call(asyncio.sleep, 1)
    await holder
    assert seen == [1]


@pytest.mark.virtual_time
async def test_hedge_first_copy_that_was_superseded_in_a_queue_is_not_observed(
    inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first copy that loses while it waits in a queue is not observed: the dependency has not got it."""
    queue = Bulkhead(1, queue=1)
    holder = asyncio.create_task(queue(asyncio.sleep)(LONG))
    await asyncio.sleep(0)
    hedge = Hedge(quantile(0.9, warm_up=5), inline=inline)
    taught(hedge, 1.0)
    seen = samples(monkeypatch)
    pipeline = Pipeline(hedge, queue)
    second: list[str] = []

    async def fetch() -> str:
        second.append("second")
        return "second"

    task = asyncio.create_task(pipeline.call(fetch))
    await asyncio.sleep(3)
    holder.cancel()
    assert await task == "second"
    assert [each for each in seen if each > 0.01] == []


@pytest.mark.virtual_time
@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
async def test_hedge_answer_of_a_stand_in_is_no_latency(inline: bool) -> None:
    """The substitute of a Fallback inside is not observed: the dependency has not answered."""
    hedge = Hedge(quantile(0.9), inline=inline)
    assert await Pipeline(hedge, Fallback("stale")).call(copies(Slow(0, OSError()))) == "stale"
    assert hedge.snapshot()["samples"] == 0
    hedge = Hedge(quantile(0.9, initial=0.5), inline=inline)
    assert await Pipeline(hedge, Fallback("stale")).call(copies(Slow(1, OSError()), Slow(LONG, "late"))) == "stale"
    assert hedge.snapshot()["samples"] == 0


# -- accept ------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_hedge_result_that_is_not_accepted_starts_the_next_copy_at_once(inline: bool) -> None:
    """A result that `accept` refuses starts the next copy, and does not win over an accepted one."""
    hedge = Hedge(LONG, accept=lambda result: result != "stale", inline=inline)
    assert await hedge(copies(Slow(1, "stale"), Slow(1, "fresh")))() == "fresh"
    assert loop_time() == 2
    hedge = Hedge(0.5, accept=lambda result: result != "stale", inline=inline)
    assert await hedge(copies(Slow(3, "fresh"), Slow(1, "stale")))() == "fresh"


@pytest.mark.virtual_time
async def test_hedge_when_no_result_is_accepted_the_first_one_comes_back(inline: bool) -> None:
    """If `accept` refuses all results, the caller gets the first copy's."""
    hedge = Hedge(LONG, copies=3, accept=lambda result: False, inline=inline)
    assert await hedge(copies(Slow(1, "a"), Slow(1, "b"), Slow(1, "c")))() == "a"


@pytest.mark.virtual_time
async def test_hedge_accept_that_raises_is_the_callers_mistake(inline: bool) -> None:
    """The caller gets the error of `accept`, and no copy starts."""
    hedge = Hedge(LONG, accept=lambda result: 1 / 0, inline=inline)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        await hedge(copies(Slow(1, "a")))()
    assert hedge.snapshot()["started"] == 0


@pytest.mark.virtual_time
async def test_hedge_shadow_counts_a_result_that_is_not_accepted() -> None:
    """Shadow mode counts a result that `accept` refuses, because another copy would have started."""
    hedge = Hedge(LONG, accept=lambda result: False, shadow=True)
    await hedge(copies(Slow(1, "a")))()
    assert hedge.snapshot()["would_have_started"] == 1


# -- cancel ------------------------------------------------------------------------------------------------------


def late(*args: Any, **options: Any) -> Pipeline:
    """A pipeline with a Hedge that does not cancel its losers, and a Timeout for each copy."""
    return Pipeline(Hedge(*args, cancel="late", **options), Timeout(40))


@pytest.mark.virtual_time
async def test_hedge_late_losers_end_by_themselves_and_are_closed() -> None:
    """With `cancel="late"` a loser is a straggler until its end; then its response is closed."""
    loser = Response()
    pipeline = late(1)
    assert await pipeline.call(copies(Slow(5, loser), Slow(1, "winner"))) == "winner"
    assert loop_time() == 2
    assert pipeline.policies[0].snapshot()["stragglers"] == 1
    await pipeline.aclose()
    assert loop_time() == 5
    assert loser.closed == ["aclose"]


@pytest.mark.virtual_time
async def test_hedge_late_losers_that_hang_are_ended_by_their_timeout() -> None:
    """With `cancel="late"` a loser that hangs ends with the Timeout inside."""
    pipeline = late(1)
    assert await pipeline.call(copies(Slow(LONG, "loser"), Slow(1, "winner"))) == "winner"
    await pipeline.aclose()
    assert loop_time() == 40


@pytest.mark.virtual_time
async def test_hedge_late_losers_beyond_the_cap_are_cancelled() -> None:
    """Of two losers with `max_stragglers=1`, one is cancelled and one goes on."""
    pipeline = late(1, copies=3, max_stragglers=1)
    assert await pipeline.call(copies(Slow(20, 1), Slow(20, 2), Slow(1, 3))) == 3
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pipeline.policies[0].snapshot()["stragglers"] == 1
    await pipeline.aclose()


@pytest.mark.virtual_time
async def test_hedge_late_copies_of_a_cancelled_caller_are_cancelled() -> None:
    """With `cancel="late"`, the copies of a cancelled caller are cancelled all the same."""
    pipeline = late(1)
    task = asyncio.create_task(pipeline.call(copies(Slow(20, 1), Slow(20, 2))))
    await asyncio.sleep(3)
    task.cancel()
    await asyncio.wait([task])
    await pipeline.aclose()
    assert task.cancelled()
    assert loop_time() == 3


def test_hedge_late_and_inline_are_refused() -> None:
    """`cancel="late"` and `inline=True` contradict each other: the caller's task cannot be left."""
    with pytest.raises(ValueError, match="cancel='late' has no meaning with inline=True"):
        Hedge(1, cancel="late", inline=True)


@pytest.mark.parametrize("cancel", ["never", True, None])
def test_hedge_cancel_that_is_none_is_refused_with_its_value(cancel: Any) -> None:
    """`cancel` must be "now" or "late"."""
    with pytest.raises(ValueError, match=f"cancel must be one of now, late, got {cancel!r}"):
        Hedge(1, cancel=cancel)


# -- configuration and lint ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "options", "message"),
    [
        (0, {}, "share must be a share above 0"),
        (1, {}, "share must be below 1"),
        (95, {}, "share must be a share"),
        (0.9, {"warm_up": 0}, "warm_up must be a whole number >= 1, got 0"),
        (0.9, {"initial": -1}, "initial must be a finite number of seconds"),
        (0.9, {"floor": 2, "ceiling": 1}, "ceiling=1 must be at least floor=2"),
        (0.9, {"initial": 3, "ceiling": 2}, "initial=3 must be within floor=0.001 and ceiling=2"),
        (0.9, {"growth": 0.5}, "growth must be at least 1, got 0.5"),
        (0.9, {"floor": 1e6}, "floor must be at most 10000 s"),
    ],
)
def test_quantile_that_is_impossible_is_refused_with_its_value(
    share: float, options: dict[str, Any], message: str
) -> None:
    """The constructor names the argument, its value and what would be right."""
    with pytest.raises(ValueError, match=message):
        quantile(share, **options)


def test_quantile_is_a_value() -> None:
    """Quantiles with the same settings are equal; they can be hashed and pickled."""
    spec = quantile(0.95, ceiling=2)
    assert spec == quantile(0.95, ceiling=2) == pickle.loads(pickle.dumps(spec))
    assert len({spec, quantile(0.95, ceiling=2)}) == 1
    assert (spec.samples, quantile(0.98).samples, quantile(0.98, warm_up=7).samples) == (200, 500, 7)


def test_hedge_key_of_fixed_delays_is_refused() -> None:
    """`key=` needs observed latencies."""
    with pytest.raises(ValueError, match="key= has no meaning with delays that are not observed"):
        Hedge(1, key=lambda: 1)


def test_hedge_by_observed_latency_describes_itself() -> None:
    """The `repr` names the quantile and its bounds."""
    assert repr(Hedge(quantile(0.95))) == "Hedge(2 copies, after the observed p95 (from 0.001 s))"
    bounded = Hedge(quantile(0.995, ceiling=2), key=lambda: 1, copies=3, cancel="late")
    assert repr(bounded) == "Hedge(3 copies, after the observed p99.5 (0.001 to 2 s) of each key, late)"


def test_lint_budget_that_starves_an_observed_hedge_is_found() -> None:
    """Lint warns if the budget's ratio is below twice the share of hedged calls."""
    with pytest.warns(Warning, match=r"a ratio of at least 0\.1, or a higher quantile"):
        Pipeline(Hedge(quantile(0.95), budget=Budget(0.05)))
    assert Pipeline(Hedge(quantile(0.95), budget=Budget(0.1))).findings == []


def test_lint_late_losers_that_nothing_ends_are_found() -> None:
    """Lint warns if no Timeout inside ends a loser with `cancel="late"`."""
    with pytest.warns(Warning, match="nothing inside it ends a loser that hangs"):
        Pipeline(Hedge(1, cancel="late"))
    assert Pipeline(Hedge(1, cancel="late"), Timeout(5)).findings == []


def test_lint_observed_hedge_that_can_never_be_due_is_found() -> None:
    """Lint warns if the floor of the delay is above the Timeout of the copies."""
    with pytest.warns(Warning, match="nothing is ever hedged"):
        Pipeline(Hedge(quantile(0.95, floor=3)), Timeout(2))
    assert Pipeline(Retry(3), Hedge(quantile(0.95)), Timeout(2)).findings == []
