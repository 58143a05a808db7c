"""Hedge by observed latency, judgement of results, and losers that are left to end."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
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
from tests.worlds import World

LONG = 60.0


def taught(hedge: Hedge, seconds: float, calls: int = 10) -> Observed:
    """What is known of its calls, when so many have taken so long."""
    observed = hedge._observed
    assert isinstance(observed, Observed)
    for _ in range(calls):
        observed.record(seconds)
    return observed


def samples(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The latencies that are observed from here on, instead of their effect."""
    seen: list[float] = []
    monkeypatch.setattr(Observed, "record", lambda _, seconds: seen.append(seconds))
    return seen


def scripted(*steps: Any) -> Callable[[], Any]:
    """Sleeps, and then returns or raises: (seconds, outcome) call by call."""
    script = iter(steps)

    async def fetch() -> Any:
        seconds, outcome = next(script)
        await asyncio.sleep(seconds)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return fetch


@pytest.fixture(params=[False, True], ids=["beside", "inline"])
def inline(request: pytest.FixtureRequest) -> bool:
    """Both kinds of hedge."""
    return bool(request.param)


# -- the delay ---------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_hedge_waits_for_the_quantile_that_it_has_observed(inline: bool) -> None:
    """Of 20 calls, 19 take a second."""
    hedge = Hedge(quantile(0.9, warm_up=20), inline=inline)
    for seconds in [1.0] * 19 + [5.0]:
        await hedge(asyncio.sleep)(seconds)
    begin = asyncio.get_running_loop().time()
    assert await hedge(scripted((LONG, 1), (0.5, 2)))() == 2
    assert asyncio.get_running_loop().time() - begin == pytest.approx(1.5, rel=0.015)
    assert hedge.snapshot()["samples"] == 21
    assert hedge.snapshot()["delays"] == [pytest.approx(1, rel=0.021)]


@pytest.mark.virtual_time
async def test_hedge_waits_for_ever_during_the_warm_up(inline: bool) -> None:
    """But a failure starts the next copy."""
    hedge = Hedge(quantile(0.9, warm_up=20), inline=inline)
    assert await hedge(scripted((LONG, 1), (0, 2)))() == 1
    assert await hedge(scripted((1, OSError()), (0, 2)))() == 2
    assert hedge.snapshot()["delays"] == [None]


@pytest.mark.virtual_time
async def test_hedge_waits_for_the_initial_delay_during_the_warm_up(inline: bool) -> None:
    """As long as nothing is known."""
    hedge = Hedge(quantile(0.9, warm_up=20, initial=2), inline=inline)
    assert await hedge(scripted((LONG, 1), (1, 2)))() == 2
    assert asyncio.get_running_loop().time() == 3


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", [0.05, 0.0501, 0.0508, 0.1])
async def test_hedge_calls_that_all_take_equally_long_are_not_late(inline: bool, seconds: float) -> None:
    """The delay is at the upper end of what the buckets cannot tell apart."""
    hedge = Hedge(quantile(0.95, warm_up=5), inline=inline)
    for _ in range(50):
        await hedge(asyncio.sleep)(seconds)
    assert hedge.snapshot()["started"] == 0


@pytest.mark.parametrize(("seconds", "delay"), [(0.001, 0.5), (0.7, 0.7), (9, 2)])
def test_hedge_delay_stays_between_floor_and_ceiling(seconds: float, delay: float) -> None:
    """Whatever is observed."""
    observed = taught(Hedge(quantile(0.9, warm_up=5, floor=0.5, ceiling=2)), seconds)
    assert observed.delays == (pytest.approx(delay, rel=0.021),)


def test_hedge_delays_of_further_copies_grow() -> None:
    """Up to the ceiling, each."""
    observed = taught(Hedge(quantile(0.9, warm_up=5, growth=2, ceiling=3), copies=4), 1.0)
    assert observed.delays == (pytest.approx(1, rel=0.021), pytest.approx(2, rel=0.021), 3)


@pytest.mark.virtual_time
async def test_hedge_observes_each_key_by_itself_and_forgets_those_unheard_of() -> None:
    """By the arguments of the call."""
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
    """Also in threads."""
    hedge = Hedge(quantile(0.9), thread=not world.is_async)
    assert world.call(hedge(world.dependency(7).fn)) == 7
    assert hedge.snapshot()["samples"] == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["race", "inline", "shadow", "once"])
async def test_hedge_observes_what_tells_of_latency_and_nothing_else(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Successes and timeouts; failures only when they are late already."""
    hedge = Hedge(quantile(0.9, warm_up=5), inline=how == "inline", shadow=how == "shadow")
    taught(hedge, 1.0)
    seen = samples(monkeypatch)
    pipeline = Pipeline(hedge, classify=Classifier(results=lambda result: result == "bad"))

    async def ends(*steps: Any) -> list[float]:
        seen.clear()
        try:
            with switch("once" if how == "once" else "on"):
                await pipeline.call(scripted(*steps, (0, "good"), (0, "good")))
        except Exception:
            pass
        return [round(each, 3) for each in seen]

    assert await ends((0.25, "good")) == [0.25]
    assert await ends((0.25, "bad")) == []
    assert await ends((0.25, OSError())) == []
    assert await ends((0.25, TypeError())) == []
    assert await ends((0.25, Rejected("no"))) == []
    assert await ends((0.25, TimedOut(evidence=True))) == [0.25]
    assert await ends((0.25, TimedOut(evidence=False))) == []
    if how in ("shadow", "once"):
        assert await ends((3, OSError())) == [3]
        assert await ends((3, "bad")) == [3]
        assert await ends((3, Rejected("no"))) == []
    else:  # the second copy wins at 1 s, the first one's age then
        assert await ends((3, OSError())) == [pytest.approx(1, rel=0.021)]


@pytest.mark.virtual_time
async def test_hedge_observes_the_first_copys_success_after_the_delay(
    inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was late, and won."""
    hedge = Hedge(quantile(0.9, warm_up=5), inline=inline)
    taught(hedge, 1.0)
    seen = samples(monkeypatch)
    assert await hedge(scripted((3, 1), (LONG, 2)))() == 1
    assert seen == [3]


@pytest.mark.virtual_time
async def test_hedge_observes_no_later_copy(inline: bool) -> None:
    """How it ends depends on the race."""
    hedge = Hedge(quantile(0.9, warm_up=5), inline=inline)
    assert await hedge(scripted((0.5, OSError()), (0.5, 2)))() == 2
    assert hedge.snapshot()["samples"] == 0


@pytest.mark.virtual_time
async def test_hedge_observes_nothing_of_a_cancelled_caller(inline: bool) -> None:
    """Nor of an inherited deadline."""
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
    """Four seconds, three of which are the bulkhead's."""
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
    """It was not late: it had not begun. (The second copy is sent elsewhere.)"""
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
    """The dependency has not answered."""
    hedge = Hedge(quantile(0.9), inline=inline)
    assert await Pipeline(hedge, Fallback("stale")).call(scripted((0, OSError()))) == "stale"
    assert hedge.snapshot()["samples"] == 0
    hedge = Hedge(quantile(0.9, initial=0.5), inline=inline)
    assert await Pipeline(hedge, Fallback("stale")).call(scripted((1, OSError()), (LONG, "late"))) == "stale"
    assert hedge.snapshot()["samples"] == 0


# -- accept ------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_hedge_result_that_is_not_accepted_starts_the_next_copy_at_once(inline: bool) -> None:
    """And does not win over one that is."""
    hedge = Hedge(LONG, accept=lambda result: result != "stale", inline=inline)
    assert await hedge(scripted((1, "stale"), (1, "fresh")))() == "fresh"
    assert asyncio.get_running_loop().time() == 2
    hedge = Hedge(0.5, accept=lambda result: result != "stale", inline=inline)
    assert await hedge(scripted((3, "fresh"), (1, "stale")))() == "fresh"


@pytest.mark.virtual_time
async def test_hedge_when_no_result_is_accepted_the_first_one_comes_back(inline: bool) -> None:
    """As with failures."""
    hedge = Hedge(LONG, copies=3, accept=lambda result: False, inline=inline)
    assert await hedge(scripted((1, "a"), (1, "b"), (1, "c")))() == "a"


@pytest.mark.virtual_time
async def test_hedge_accept_that_raises_is_the_callers_mistake(inline: bool) -> None:
    """He hears of it, and no copy starts."""
    hedge = Hedge(LONG, accept=lambda result: 1 / 0, inline=inline)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        await hedge(scripted((1, "a")))()
    assert hedge.snapshot()["started"] == 0


@pytest.mark.virtual_time
async def test_hedge_shadow_counts_a_result_that_is_not_accepted() -> None:
    """Another copy would have started."""
    hedge = Hedge(LONG, accept=lambda result: False, shadow=True)
    await hedge(scripted((1, "a")))()
    assert hedge.snapshot()["would_have_started"] == 1


# -- cancel ------------------------------------------------------------------------------------------------------


class Response:
    """Wants to be closed."""

    status_code = 200

    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


def late(*args: Any, **options: Any) -> Pipeline:
    """A hedge that leaves its losers, within a Timeout for each copy."""
    return Pipeline(Hedge(*args, cancel="late", **options), Timeout(40))


@pytest.mark.virtual_time
async def test_hedge_late_losers_end_by_themselves_and_are_closed() -> None:
    """Counted meanwhile, and waited for at the end."""
    loser = Response()
    pipeline = late(1)
    assert await pipeline.call(scripted((5, loser), (1, "winner"))) == "winner"
    assert asyncio.get_running_loop().time() == 2
    assert pipeline.policies[0].snapshot()["stragglers"] == 1
    await pipeline.aclose()
    assert asyncio.get_running_loop().time() == 5
    assert loser.closed == 1


@pytest.mark.virtual_time
async def test_hedge_late_losers_that_hang_are_ended_by_their_timeout() -> None:
    """At the latest."""
    pipeline = late(1)
    assert await pipeline.call(scripted((LONG, "loser"), (1, "winner"))) == "winner"
    await pipeline.aclose()
    assert asyncio.get_running_loop().time() == 40


@pytest.mark.virtual_time
async def test_hedge_late_losers_beyond_the_cap_are_cancelled() -> None:
    """Two lose, and one may stay."""
    pipeline = late(1, copies=3, max_stragglers=1)
    assert await pipeline.call(scripted((20, 1), (20, 2), (1, 3))) == 3
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pipeline.policies[0].snapshot()["stragglers"] == 1
    await pipeline.aclose()


@pytest.mark.virtual_time
async def test_hedge_late_copies_of_a_cancelled_caller_are_cancelled() -> None:
    """Nobody wants any of them."""
    pipeline = late(1)
    task = asyncio.create_task(pipeline.call(scripted((20, 1), (20, 2))))
    await asyncio.sleep(3)
    task.cancel()
    await asyncio.wait([task])
    await pipeline.aclose()
    assert task.cancelled()
    assert asyncio.get_running_loop().time() == 3


def test_hedge_late_and_inline_are_refused() -> None:
    """A contradiction."""
    with pytest.raises(ValueError, match="cancel='late' has no meaning with inline=True"):
        Hedge(1, cancel="late", inline=True)


@pytest.mark.parametrize("cancel", ["never", True, None])
def test_hedge_cancel_that_is_none_is_refused_with_its_value(cancel: Any) -> None:
    """There are two."""
    with pytest.raises(ValueError, match=f"cancel must be one of now, late, got {cancel!r}"):
        Hedge(1, cancel=cancel)


# -- configuration and the plan ----------------------------------------------------------------------------------


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
    """When it is made."""
    with pytest.raises(ValueError, match=message):
        quantile(share, **options)


def test_quantile_is_a_value() -> None:
    """Equal, hashable, pickled."""
    spec = quantile(0.95, ceiling=2)
    assert spec == quantile(0.95, ceiling=2) == pickle.loads(pickle.dumps(spec))
    assert len({spec, quantile(0.95, ceiling=2)}) == 1
    assert (spec.samples, quantile(0.98).samples, quantile(0.98, warm_up=7).samples) == (200, 500, 7)


def test_hedge_key_of_fixed_delays_is_refused() -> None:
    """There is nothing to keep by it."""
    with pytest.raises(ValueError, match="key= has no meaning with delays that are not observed"):
        Hedge(1, key=lambda: 1)


def test_hedge_by_observed_latency_describes_itself() -> None:
    """For people."""
    assert repr(Hedge(quantile(0.95))) == "Hedge(2 copies, after the observed p95 (from 0.001 s))"
    bounded = Hedge(quantile(0.995, ceiling=2), key=lambda: 1, copies=3, cancel="late")
    assert repr(bounded) == "Hedge(3 copies, after the observed p99.5 (0.001 to 2 s) of each key, late)"


def test_plan_budget_that_starves_an_observed_hedge_is_found() -> None:
    """Twice the share of calls that it hedges is the least."""
    with pytest.warns(Warning, match=r"a ratio of at least 0\.1, or a higher quantile"):
        Pipeline(Hedge(quantile(0.95), budget=Budget(0.05)))
    assert Pipeline(Hedge(quantile(0.95), budget=Budget(0.1))).findings == []


def test_plan_late_losers_that_nothing_ends_are_found() -> None:
    """In the end there would be no room for more."""
    with pytest.warns(Warning, match="nothing inside it ends a loser that hangs"):
        Pipeline(Hedge(1, cancel="late"))
    assert Pipeline(Hedge(1, cancel="late"), Timeout(5)).findings == []


def test_plan_observed_hedge_that_can_never_be_due_is_found() -> None:
    """Its floor is beyond the copies' limit."""
    with pytest.warns(Warning, match="nothing is ever hedged"):
        Pipeline(Hedge(quantile(0.95, floor=3)), Timeout(2))
    assert Pipeline(Retry(3), Hedge(quantile(0.95)), Timeout(2)).findings == []
