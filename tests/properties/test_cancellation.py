"""Whenever a call is cancelled, its cancellation gets through, and everything that it held comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.layer import Layer
from resilient.core.policy import Wrap
from tests.hypothesis_settings import search
from tests.properties import stacks
from tests.properties.cancellation_driver import (
    assert_idle,
    cancel_at_every_point,
    cancel_at_every_step_of_trio,
    leave_alone,
)
from tests.properties.stacks import HANG, Nest, Recipe, Stage, Step, Traffic, Turnstile, recipe

Form = Literal["function", "block"]


class StackScene:
    """A stack with traffic; the outermost turnstile and the innermost count the tickets."""

    def __init__(self, parts: Sequence[Recipe | Nest], traffic: Traffic, form: Form = "function") -> None:
        self.starts = traffic.starts
        self.stage = Stage(stacks.build([recipe(Turnstile), *parts, recipe(Turnstile, learns=True)]), traffic.script)
        self.call = self.stage.call if form == "function" else self.stage.block
        self.drain = self.stage.pipeline.aclose

    def assert_idle(self) -> None:
        assert_idle(self.stage.pipeline.snapshot())
        assert self.stage.running == 0
        for turnstile in turnstiles(self.stage.pipeline):
            assert turnstile.mistakes == []


def turnstiles(pipeline: Pipeline) -> list[Turnstile]:
    """Return all turnstiles of a stack, outermost first."""
    found: list[Turnstile] = []
    for policy in pipeline.policies:
        if isinstance(policy, Pipeline):
            found += turnstiles(policy)
        elif isinstance(policy, Turnstile):
            found.append(policy)
    return found


# -- each policy alone ----------------------------------------------------------------------------------------------

GOOD = Step(0.25)
BAD = Step(0.25, OSError)
STUCK = Step(HANG)

ALONE: dict[str, tuple[Recipe, Traffic]] = {
    "bulkhead": (recipe(Bulkhead, 1), Traffic((0.0, 0.0), (GOOD,))),
    "bulkhead with a queue": (recipe(Bulkhead, 1, queue=2), Traffic((0.0, 0.0, 0.0), (GOOD,))),
    "bulkhead whose queue times out": (
        recipe(Bulkhead, 1, queue=2, queue_timeout=0.25),
        Traffic((0.0, 0.0, 0.0), (GOOD, STUCK)),
    ),
    "breaker, closed": (recipe(CircuitBreaker), Traffic((0.0, 0.0), (GOOD, BAD))),
    "breaker, probing": (
        recipe(CircuitBreaker, fail_max=1, break_duration=0.25),
        Traffic((0.0, 0.5, 0.5, 0.5), (BAD, GOOD)),
    ),
    "breaker, probing with two": (
        recipe(CircuitBreaker, fail_max=1, break_duration=0.25, probes=2, success_threshold=2),
        Traffic((0.0, 0.5, 0.5, 0.5), (BAD, GOOD, BAD)),
    ),
    "breaker, probe beyond its lease": (
        recipe(CircuitBreaker, fail_max=1, break_duration=0.25, lease=0.125),
        Traffic((0.0, 0.5, 0.5), (BAD, GOOD)),
    ),
    "timeout in time": (recipe(Timeout, 0.5), Traffic((0.0, 0.0), (GOOD,))),
    "timeout at its limit": (recipe(Timeout, 0.25), Traffic((0.0, 0.0), (GOOD,))),
    "timeout expired": (recipe(Timeout, 0.25), Traffic((0.0, 0.0), (STUCK,))),
    "retry": (recipe(Retry, 3, wait=0.25), Traffic((0.0, 0.0), (BAD, BAD, GOOD))),
    "retry that gives up": (recipe(Retry, 2, wait=0), Traffic((0.0, 0.0), (BAD,))),
}

STACK = (
    recipe(Timeout, 1.5),
    recipe(Retry, 3, wait=0.25),
    recipe(Bulkhead, 1, queue=2),
    recipe(CircuitBreaker, fail_max=2, break_duration=0.25),
    recipe(Timeout, 0.5),
)
BUSY = Traffic((0.0, 0.0, 0.125, 1.0), (BAD, STUCK, GOOD))


@pytest.mark.parametrize("form", ["function", "block"])
@pytest.mark.parametrize("name", ALONE)
def test_policy_alone_gives_everything_back_wherever_any_of_its_calls_is_cancelled(name: str, form: Form) -> None:
    """Running, queued, probing, expiring, between attempts: at every scheduling point, once and twice."""
    policy, traffic = ALONE[name]
    for victim in range(len(traffic.starts)):
        points = cancel_at_every_point(lambda: StackScene([policy], traffic, form), victim)
        assert points >= 1


@pytest.mark.parametrize("form", ["function", "block"])
def test_stack_gives_everything_back_wherever_any_of_its_calls_is_cancelled(form: Form) -> None:
    """The usual stack, while its breaker opens and its queue is full."""
    points = [
        cancel_at_every_point(lambda: StackScene(STACK, BUSY, form), victim) for victim in range(len(BUSY.starts))
    ]
    assert max(points) > 20


@pytest.mark.parametrize("name", ALONE)
def test_policy_alone_on_trio_gives_everything_back_wherever_it_is_cancelled(name: str) -> None:
    """Each policy alone gives everything back when a cancel scope of trio is cancelled, at any step."""
    policy, traffic = ALONE[name]
    for victim in range(len(traffic.starts)):
        points = cancel_at_every_step_of_trio(lambda: StackScene([policy], traffic), victim)
        assert points >= 1


# -- random stacks --------------------------------------------------------------------------------------------------

PARTS = st.lists(st.one_of(stacks.policies(), stacks.policies(), stacks.turnstiles()), min_size=2, max_size=5)
TRAFFIC = stacks.traffics(stubborn=False)


@search(45)
@given(parts=PARTS, traffic=TRAFFIC, form=st.sampled_from(["function", "block"]), data=st.data())
def test_any_stack_gives_everything_back_wherever_it_is_cancelled(
    parts: list[Recipe], traffic: Traffic, form: Form, data: st.DataObject
) -> None:
    """Any stack gives everything back when it is cancelled at any step, also in an order that lint warns of."""
    victim = data.draw(st.integers(0, len(traffic.starts) - 1), label="victim")
    cancel_at_every_point(lambda: StackScene(parts, traffic, form), victim)


@search(30)
@given(parts=PARTS, traffic=TRAFFIC, form=st.sampled_from(["function", "block"]), data=st.data())
def test_any_nested_stack_gives_everything_back_wherever_it_is_cancelled(
    parts: list[Recipe], traffic: Traffic, form: Form, data: st.DataObject
) -> None:
    """Pipelines inside pipelines count their calls too."""
    nested = data.draw(stacks.nests(parts), label="nested")
    victim = data.draw(st.integers(0, len(traffic.starts) - 1), label="victim")
    cancel_at_every_point(lambda: StackScene(nested, traffic, form), victim)


@search(100)
@given(parts=PARTS, traffic=stacks.traffics(), form=st.sampled_from(["function", "block"]))
def test_any_stack_is_idle_after_its_calls_and_has_cancelled_nobody_in_the_end(
    parts: list[Recipe], traffic: Traffic, form: Form
) -> None:
    """Timeouts cancel, and take it back: also where the function swallowed it and has a result after all."""
    leave_alone(lambda: StackScene(parts, traffic, form))


@search(25)
@given(parts=PARTS, traffic=TRAFFIC, data=st.data())
def test_any_stack_on_trio_gives_everything_back_wherever_it_is_cancelled(
    parts: list[Recipe], traffic: Traffic, data: st.DataObject
) -> None:
    """Any stack gives everything back when a cancel scope of trio is cancelled, at any step."""
    victim = data.draw(st.integers(0, len(traffic.starts) - 1), label="victim")
    cancel_at_every_step_of_trio(lambda: StackScene(parts, traffic), victim)


# -- the completing tick, on real loops too -------------------------------------------------------------------------


@pytest.mark.every_loop
@pytest.mark.parametrize("first", ["cancel", "result"])
@pytest.mark.parametrize("form", ["function", "block"])
@pytest.mark.parametrize(
    "parts",
    [[recipe(Bulkhead, 1)], [recipe(CircuitBreaker)], [recipe(Timeout, 30)], [recipe(Retry, 2, wait=0)], STACK],
    ids=["bulkhead", "breaker", "timeout", "retry", "stack"],
)
async def test_cancel_in_the_tick_that_completes_the_call_gets_through(
    parts: Sequence[Recipe], form: Form, first: str
) -> None:
    """A result that arrives in the same tick neither swallows the cancellation nor keeps a permit."""
    pipeline = stacks.build([recipe(Turnstile), *parts])
    task, answer = await _call_that_waits(pipeline, form)
    if first == "result":
        answer.set_result("done")
    assert task.cancel()
    if first == "cancel" and not answer.done():
        answer.set_result("done")
    await asyncio.wait([task])
    assert task.cancelled()
    assert task.cancelling() == 1
    assert_idle(pipeline.snapshot())


@pytest.mark.every_loop
@pytest.mark.parametrize("form", ["function", "block"])
async def test_cancel_after_the_completing_tick_is_refused_and_the_result_stands(form: Form) -> None:
    """asyncio's own rule: a task that has ended cannot be cancelled."""
    pipeline = stacks.build([recipe(Turnstile), *STACK])
    task, answer = await _call_that_waits(pipeline, form)
    answer.set_result("done")
    assert await task == "done"
    assert not task.cancel()
    assert_idle(pipeline.snapshot())


async def _call_that_waits(pipeline: Pipeline, form: Form) -> tuple[asyncio.Task[Any], asyncio.Future[Any]]:
    """A call that has got as far as to wait for the future."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    inside = asyncio.Event()

    async def fetch() -> Any:
        inside.set()
        return await answer

    async def block() -> Any:
        async for attempt in pipeline.attempts():
            async with attempt:
                attempt.result = await fetch()
        return attempt.result

    call = pipeline.call(fetch) if form == "function" else block()
    task = asyncio.get_running_loop().create_task(call)
    await inside.wait()
    return task, answer


# -- the driver itself ----------------------------------------------------------------------------------------------


class Swallowing(Wrap):
    """Takes what comes in the completing tick for a result, as timeouts on `asyncio.wait_for` did."""

    def run(self, call: Call, inner: Layer, context: PipelineContext) -> Awaitable[Any]:
        return self._run(asyncio.ensure_future(_await(inner(call))))

    async def _run(self, task: asyncio.Task[Any]) -> Any:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                return task.result()
            task.cancel()
            raise


class Leaking(Turnstile):
    """Forgets to take back the ticket of a call that was cut short."""

    def _cut(self, ticket: Any, elapsed: float, now: float, limit: float | None) -> None:
        pass


class Lingering(Wrap):
    """Leaves something behind when it is cancelled."""

    def __init__(self, leave: Callable[[], object]) -> None:
        super().__init__()
        self.leave = leave

    async def run(self, call: Call, inner: Layer, context: PipelineContext) -> Any:
        try:
            return await inner(call)
        except asyncio.CancelledError:
            self.leave()
            raise


class Uncounted(Wrap):
    """Takes the caller's cancellation for its own, and drops it from the count."""

    async def run(self, call: Call, inner: Layer, context: PipelineContext) -> Any:
        try:
            return await inner(call)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            raise


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _leave_a_task() -> None:
    asyncio.get_running_loop().create_task(asyncio.sleep(1), name="left behind")


def _leave_a_timer() -> None:
    asyncio.get_running_loop().call_later(1, print)


@pytest.mark.parametrize(
    "bad",
    [
        recipe(Swallowing),
        recipe(Leaking, learns=True),
        recipe(Lingering, _leave_a_task),
        recipe(Lingering, _leave_a_timer),
        recipe(Uncounted),
    ],
    ids=["swallows", "leaks a ticket", "leaves a task", "leaves a timer", "miscounts"],
)
def test_driver_finds_a_policy_that(bad: Recipe) -> None:
    """Each kind of mistake that the driver is there to find, it finds."""
    with pytest.raises(AssertionError):
        cancel_at_every_point(lambda: StackScene([bad], Traffic((0.0,), (GOOD,))))
