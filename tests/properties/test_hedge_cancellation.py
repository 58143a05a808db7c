"""Hedges and abandoned work: wherever a call is cancelled, its copies end, and all that they held comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import Bulkhead, CircuitBreaker, Fallback, Hedge, Pipeline, RateLimit, Retry, Timeout, quantile
from tests.hypothesis_settings import search
from tests.properties import stacks
from tests.properties.cancellation_driver import (
    assert_idle,
    cancel_at_every_point,
    cancel_at_every_step_of_trio,
    leave_alone,
)
from tests.properties.stacks import HANG, Nest, Recipe, Stage, Step, Traffic, Turnstile, recipe


class Response:
    """A result that must be closed if its caller does not get it."""

    status_code = 200

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.closed = 0

    async def aclose(self) -> None:
        self.closed += 1


class HedgedStage(Stage):
    """A stage whose dependency answers with responses."""

    def __init__(self, pipeline: Pipeline, script: Sequence[Step]) -> None:
        self.sent: list[Response] = []
        self.got: list[Response] = []
        super().__init__(pipeline, script)

    async def call(self, number: int) -> Any:
        result = await super().call(number)
        if isinstance(result, Response):  # and not a fallback's
            self.got.append(result)
        return result

    async def _fetch(self, number: int) -> Any:
        self.sent.append(Response(await super()._fetch(number)))
        return self.sent[-1]


class HedgedScene:
    """A stack with traffic that counts tickets and open responses."""

    def __init__(self, parts: Sequence[Recipe | Nest], traffic: Traffic) -> None:
        self.starts = traffic.starts
        pipeline = stacks.build([recipe(Turnstile), *parts, recipe(Turnstile, learns=True)])
        self.stage = HedgedStage(pipeline, traffic.script)
        self.call = self.stage.call
        self.drain = pipeline.aclose

    def assert_idle(self) -> None:
        assert_idle(self.stage.pipeline.snapshot())
        assert self.stage.running == 0
        for turnstile in (self.stage.pipeline.policies[0], self.stage.pipeline.policies[-1]):
            assert isinstance(turnstile, Turnstile)
            assert turnstile.mistakes == []


class ClosingScene(HedgedScene):
    """A scene in which each response either reaches its caller or is closed once."""

    def assert_idle(self) -> None:
        super().assert_idle()
        lost = [each for each in self.stage.sent if each not in self.stage.got and each.closed != 1]
        assert lost == [], f"{len(lost)} of {len(self.stage.sent)} responses were not closed once"
        assert [each for each in self.stage.got if each.closed] == [], "a response was closed under its caller's hands"


GOOD = Step(0.25)
BAD = Step(0.25, OSError)
FAST = Step(0.0)
STUCK = Step(HANG)

ALONE: dict[str, tuple[Recipe, Traffic]] = {
    "not fired": (recipe(Hedge, 0.5), Traffic((0.0, 0.0), (GOOD,))),
    "in the tick of the delay": (recipe(Hedge, 0.25), Traffic((0.0, 0.0), (GOOD,))),
    "copy wins": (recipe(Hedge, 0.25), Traffic((0.0,), (STUCK, GOOD))),
    "both in one tick": (recipe(Hedge, 0.25), Traffic((0.0,), (Step(0.5), GOOD))),
    "all at once": (recipe(Hedge, 0, copies=3), Traffic((0.0,), (GOOD,))),
    "all fail": (recipe(Hedge, 0.125, copies=3), Traffic((0.0,), (BAD,))),
    "failure and success in one tick": (recipe(Hedge, (0, 1)), Traffic((0.0,), (BAD, GOOD, GOOD))),
    "first fails": (recipe(Hedge, 1), Traffic((0.0,), (BAD, GOOD))),
    "fast": (recipe(Hedge, 0), Traffic((0.0,), (FAST,))),
    "observed": (recipe(Hedge, quantile(0.5, warm_up=1)), Traffic((0.0, 0.5), (GOOD, STUCK, GOOD))),
}

LATE: dict[str, tuple[Recipe, Traffic]] = {
    "copy wins": (recipe(Hedge, 0.25, cancel="late"), Traffic((0.0,), (Step(2.0), GOOD))),
    "both in one tick": (recipe(Hedge, 0.25, cancel="late"), Traffic((0.0,), (Step(0.5), GOOD))),
    "all at once": (recipe(Hedge, 0, copies=3, cancel="late"), Traffic((0.0,), (GOOD,))),
    "no room": (recipe(Hedge, 0.125, copies=3, cancel="late", max_stragglers=1), Traffic((0.0,), (STUCK, GOOD, FAST))),
}


def inline(policy: Recipe) -> Recipe:
    """A Hedge with an inline first copy."""
    return Recipe(policy.make, policy.args, (*policy.options, ("inline", True)))


@pytest.mark.parametrize("name", ALONE)
def test_hedge_gives_everything_back_wherever_any_of_its_calls_is_cancelled(name: str) -> None:
    """A call is cancelled at every scheduling point, once and twice: no task, ticket or open response is left."""
    policy, traffic = ALONE[name]
    for victim in range(len(traffic.starts)):
        assert cancel_at_every_point(lambda: ClosingScene([policy], traffic), victim) > 1


@pytest.mark.parametrize("name", ALONE)
def test_hedge_inline_gives_everything_back_wherever_any_of_its_calls_is_cancelled(name: str) -> None:
    """No task or ticket is left; a response that the inline first copy has not returned yet is the callee's own."""
    policy, traffic = ALONE[name]
    for victim in range(len(traffic.starts)):
        assert cancel_at_every_point(lambda: ClosingScene([inline(policy)], traffic), victim) >= 1


@pytest.mark.parametrize("name", ALONE)
def test_hedge_on_trio_gives_everything_back_wherever_it_is_cancelled(name: str) -> None:
    """The same holds with trio's cancel scopes."""
    policy, traffic = ALONE[name]
    for victim in range(len(traffic.starts)):
        assert cancel_at_every_step_of_trio(lambda: ClosingScene([policy], traffic), victim) > 1


@pytest.mark.parametrize("name", LATE)
def test_hedge_that_leaves_losers_gives_everything_back_wherever_it_is_cancelled(name: str) -> None:
    """With `cancel="late"`, losers of an ended race go on to their end; all other copies are cancelled with the
    caller."""
    policy, traffic = LATE[name]
    parts = [policy, recipe(Timeout, 3)]
    assert cancel_at_every_point(lambda: ClosingScene(parts, traffic)) > 1
    assert cancel_at_every_step_of_trio(lambda: ClosingScene(parts, traffic)) > 1


@pytest.mark.parametrize("traffic", [Traffic((0.0,), (GOOD,)), Traffic((0.0,), (Step(0.5),)), Traffic((0.0,), (BAD,))])
def test_abandoned_work_is_waited_for_wherever_its_caller_is_cancelled(traffic: Traffic) -> None:
    """Work in time, too late and failing is awaited at close; its response is closed if the caller does not get it."""
    policy = recipe(Timeout, 0.25, abandon=True)
    assert cancel_at_every_point(lambda: ClosingScene([policy], traffic)) > 1
    assert cancel_at_every_step_of_trio(lambda: ClosingScene([policy], traffic)) > 1


STACK = (
    recipe(Fallback, "stale"),
    recipe(Timeout, 1.5),
    recipe(Retry, 2, wait=0.25),
    recipe(Hedge, 0.125),
    recipe(RateLimit, 8, burst=2, max_wait=0.5),
    recipe(Bulkhead, 2, queue=2),
    recipe(CircuitBreaker, fail_max=3, break_duration=0.25),
    recipe(Timeout, 0.5),
)
BUSY = Traffic((0.0, 0.0, 0.125), (BAD, STUCK, GOOD))


@pytest.mark.parametrize("in_task", [False, True], ids=["beside", "inline"])
def test_stack_of_all_gives_everything_back_wherever_any_of_its_calls_is_cancelled(in_task: bool) -> None:
    """Nothing is left while copies wait for tokens and permits and their breaker opens."""
    parts = [inline(part) if in_task and part.make is Hedge else part for part in STACK]
    for victim in range(len(BUSY.starts)):
        assert cancel_at_every_point(lambda: HedgedScene(parts, BUSY), victim) > 10


# -- random stacks -------------------------------------------------------------------------------------------------

OTHERS = st.one_of(stacks.policies(), stacks.rate_limits(), stacks.fallbacks(), stacks.hedges())


@st.composite
def hedged(draw: st.DrawFn) -> list[Recipe]:
    """A strategy for stacks with at least one hedge."""
    outer, inner = st.lists(OTHERS, max_size=2), st.lists(OTHERS, max_size=2)
    return [*draw(outer), draw(stacks.hedges()), *draw(inner)]


@search(40)
@given(parts=hedged(), traffic=stacks.traffics(calls=3, stubborn=False), data=st.data())
def test_any_hedged_stack_gives_everything_back_wherever_it_is_cancelled(
    parts: list[Recipe], traffic: Traffic, data: st.DataObject
) -> None:
    """Nothing is left in any order of policies, with pipelines inside pipelines."""
    nested = data.draw(stacks.nests(parts), label="nested")
    victim = data.draw(st.integers(0, len(traffic.starts) - 1), label="victim")
    cancel_at_every_point(lambda: HedgedScene(nested, traffic), victim)


@search(150)
@given(parts=hedged(), traffic=stacks.traffics(calls=4))
def test_any_hedged_stack_is_idle_after_its_calls(parts: list[Recipe], traffic: Traffic) -> None:
    """Nothing is left of callees that swallow their cancellation."""
    leave_alone(lambda: HedgedScene(parts, traffic))


@search(20)
@given(parts=hedged(), traffic=stacks.traffics(calls=3, stubborn=False), data=st.data())
def test_any_hedged_stack_on_trio_gives_everything_back_wherever_it_is_cancelled(
    parts: list[Recipe], traffic: Traffic, data: st.DataObject
) -> None:
    """Nothing is left in any order of policies with trio's cancel scopes."""
    victim = data.draw(st.integers(0, len(traffic.starts) - 1), label="victim")
    cancel_at_every_step_of_trio(lambda: HedgedScene(parts, traffic), victim)


# -- the winning tick, on real loops too ---------------------------------------------------------------------------


@pytest.mark.every_loop
@pytest.mark.parametrize("first", ["cancel", "result"])
@pytest.mark.parametrize("options", [{}, {"inline": True}], ids=["beside", "inline"])
async def test_cancel_in_the_tick_of_the_win_gets_through_and_closes_the_response(
    options: dict[str, Any], first: str
) -> None:
    """A cancellation in the tick of the win gets through, and the winner's response is closed."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    both_out = asyncio.Event()
    sent: list[Response] = []
    calls = 0

    async def fetch() -> Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(HANG)
        both_out.set()
        await answer
        sent.append(Response("good"))
        return sent[-1]

    pipeline = Pipeline(Hedge(0, **options), Bulkhead(2))
    task = asyncio.create_task(pipeline.call(fetch))
    await both_out.wait()
    if first == "result":
        answer.set_result(None)
        await asyncio.sleep(0)  # the copy has its answer, and its caller not yet
    task.cancel()
    if first == "cancel":
        answer.set_result(None)
    await asyncio.wait([task])
    assert task.cancelled()
    assert task.cancelling() == 1
    await pipeline.aclose()
    assert [response.closed for response in sent] == [1] * len(sent)
    assert_idle(pipeline.snapshot())
