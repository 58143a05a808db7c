"""The current call: visible inside the function, the same on every attempt and copy, and gone when the call is over."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from typing import Any

import pytest
import trio

from resilient import (
    Classifier,
    CurrentCall,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    TimedOut,
    Timeout,
    current_call,
    deadline,
    remaining,
)
from tests.worlds import World


def seen_by(world: World, *outcomes: Any) -> tuple[list[CurrentCall], Any]:
    """A function that notes its current call and then does what `outcomes` says, and its notes."""
    seen: list[CurrentCall] = []
    script = iter(outcomes)

    def note() -> Any:
        call = current_call()
        assert call is not None
        seen.append(call)
        outcome = next(script, None)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def note_async() -> Any:
        return note()

    return seen, note_async if world.is_async else note


def test_current_call_outside_all_is_none(world: World) -> None:
    """Outside of guarded calls `current_call()` is None, also when a call is over."""

    def ask() -> Any:
        return current_call()

    async def ask_async() -> Any:
        return current_call()

    assert world.call(ask_async if world.is_async else ask) is None
    seen, fn = seen_by(world)
    world.call(Retry()(fn))
    assert len(seen) == 1
    assert world.call(ask_async if world.is_async else ask) is None


def test_current_call_tells_pipeline_attempt_and_that_it_repeats(world: World) -> None:
    """The attempt counts from 1; a deadline there is none."""
    seen, fn = seen_by(world, OSError(), OSError(), 7)
    assert world.call(Pipeline(Retry(3, wait=0), name="users")(fn)) == 7
    assert [call.attempt for call in seen] == [1, 2, 3]
    assert {(call.pipeline, call.remaining, call.repeats, call.outer) for call in seen} == {("users", None, True, None)}


def test_current_call_of_what_is_not_repeated_says_so(world: World) -> None:
    """A Timeout runs a function once, and so does a Retry of one attempt."""
    seen, fn = seen_by(world)
    world.call(Pipeline(Timeout(5), Retry(1))(fn))
    assert [(call.pipeline, call.repeats) for call in seen] == [("", False)]


def test_id_is_the_same_on_every_attempt_and_another_for_every_call(world: World) -> None:
    """All attempts of a call have one id, and each call its own, as an idempotency key needs."""
    seen, fn = seen_by(world, OSError(), 7, OSError(), 8)
    guarded = Retry(2, wait=0)(fn)
    world.call(guarded)
    world.call(guarded)
    first, again, second, second_again = (call.id for call in seen)
    assert first == again != second == second_again
    assert first


def test_id_is_the_same_however_often_one_asks() -> None:
    """All lookups in one attempt find the same id."""

    @Retry()
    def ask() -> tuple[Any, Any]:
        return current_call(), current_call()

    first, again = ask()
    assert first == again


def test_remaining_is_the_time_until_the_innermost_limit(world: World) -> None:
    """Of a Timeout for each attempt, when that is nearer than the total."""
    seen, fn = seen_by(world)
    world.call(Pipeline(Timeout(60), Retry(2, wait=0), Timeout(5))(fn))
    (call,) = seen
    assert call.remaining is not None
    assert 0 < call.remaining <= 5


def test_remaining_sees_an_inherited_deadline(world: World) -> None:
    """`remaining` is the time to the earliest of all limits."""
    seen, fn = seen_by(world)
    guarded = Pipeline(Timeout(60), Retry(2))(fn)

    def within() -> Any:
        with deadline(5):
            return guarded()

    async def within_async() -> Any:
        with deadline(5):
            return await guarded()

    world.call(within_async if world.is_async else within)
    (call,) = seen
    assert call.remaining is not None
    assert 0 < call.remaining <= 5


def test_current_call_in_a_method_is_that_of_the_method(world: World) -> None:
    """A guarded method is a guarded function."""
    users = Pipeline(Retry(), name="users")

    class Client:
        @users
        def ask(self) -> Any:
            return current_call()

        @users
        async def ask_async(self) -> Any:
            return current_call()

    call = world.call(Client().ask_async if world.is_async else Client().ask)
    assert call.pipeline == "users"


def test_current_call_is_found_from_called_functions(world: World) -> None:
    """However deep; they need not be handed anything."""
    seen, fn = seen_by(world)

    def deep() -> Any:
        return fn()

    async def deep_async() -> Any:
        return await fn()

    world.call(Pipeline(Retry(), name="users")(deep_async if world.is_async else deep))
    assert [call.pipeline for call in seen] == ["users"]


def test_calls_within_calls_have_their_outer_ones(world: World) -> None:
    """Innermost first, each with its own attempt and id."""
    seen, fn = seen_by(world, OSError(), None)
    inner = Pipeline(Timeout(5), name="inner")(fn)

    def middle() -> Any:
        return inner()

    async def middle_async() -> Any:
        return await inner()

    world.call(Pipeline(Retry(2, wait=0), name="outer")(middle_async if world.is_async else middle))
    first, second = seen
    for number, call in enumerate(seen, 1):
        assert (call.pipeline, call.attempt, call.repeats) == ("inner", 1, False)
        assert call.outer is not None
        assert (call.outer.pipeline, call.outer.attempt, call.outer.outer) == ("outer", number, None)
    assert first.id != second.id  # two calls of the inner pipeline
    assert first.outer.id == second.outer.id  # type: ignore[union-attr]  # two attempts of the outer one


def test_nested_pipelines_are_one_call(world: World) -> None:
    """Attempts of the inner one's Retry are attempts of the call."""
    seen, fn = seen_by(world, OSError(), None)
    world.call(Pipeline(Timeout(5), Pipeline(Retry(2, wait=0), name="inner"), name="outer")(fn))
    assert [(call.attempt, call.repeats, call.outer) for call in seen] == [(1, True, None), (2, True, None)]
    assert len({call.id for call in seen}) == 1


def test_current_call_is_none_again_after_an_error(world: World) -> None:
    """After an error, and after a fallback, whose function runs in the call, there is no current call."""
    inside: list[Any] = []

    def stand_in(error: Any) -> Any:
        inside.append(current_call())

    seen, fn = seen_by(world, OSError())
    world.call(Pipeline(Fallback(call=stand_in), name="users")(fn))
    assert [call.pipeline for call in inside] == ["users"]
    assert inside[0].id == seen[0].id
    assert current_call() is None


def test_current_call_where_nothing_is_guarded_because_of_a_switch_is_none() -> None:
    """In a pipeline that is switched off there is no current call."""
    pipeline = Pipeline(Retry())
    with pipeline.switch("off"):
        assert pipeline.call(current_call) is None


def test_current_call_where_somebody_listens_is_the_same(world: World) -> None:
    """The frames that emit events do not change the current call."""
    pipeline = Pipeline(Retry(), Timeout(5), name="users")
    pipeline.listen(lambda event: None)
    seen, fn = seen_by(world)
    world.call(pipeline(fn))
    assert [call.pipeline for call in seen] == ["users"]


# -- in the background ----------------------------------------------------------------------------------------------


def hedged(world: World, **options: Any) -> Hedge:
    return Hedge(5, thread=not world.is_async, **options)  # the second copy follows a failure


def test_hedge_copies_see_the_same_call(world: World) -> None:
    """In tasks and threads of their own."""
    seen, fn = seen_by(world, OSError(), 7)
    assert world.call(Pipeline(hedged(world), name="users")(fn)) == 7
    assert [(call.pipeline, call.attempt, call.repeats) for call in seen] == [("users", 1, True)] * 2
    assert len({call.id for call in seen}) == 1


def test_hedge_copies_of_every_attempt_see_the_attempt(world: World) -> None:
    """Retries outside a hedge go on counting."""
    seen, fn = seen_by(world, OSError(), OSError(), 7)
    assert world.call(Pipeline(Retry(2, wait=0), hedged(world))(fn)) == 7
    assert [call.attempt for call in seen] == [1, 1, 2]
    assert len({call.id for call in seen}) == 1


@pytest.mark.parametrize("guard", ["hedge", "thread"])
def test_current_call_after_one_that_ran_beside_its_caller_is_none(world: World, guard: str) -> None:
    """What a copy has set in its context comes back to the caller, but not that it was a copy."""
    policy = hedged(world) if guard == "hedge" else Timeout(5, thread=True, abandon=True)
    seen, fn = seen_by(world)
    guarded = Pipeline(policy, name="users")(fn)

    def call() -> Any:
        guarded()
        return current_call()

    async def call_async() -> Any:
        await guarded()
        return current_call()

    assert world.call(call_async if world.is_async else call) is None
    assert [call.pipeline for call in seen] == ["users"]


def test_hedge_copy_within_a_call_has_it_as_outer(world: World) -> None:
    """The callers of a copy are its caller's."""
    seen, fn = seen_by(world)
    inner = Pipeline(hedged(world), name="inner")(fn)

    def middle() -> Any:
        return inner()

    async def middle_async() -> Any:
        return await inner()

    world.call(Pipeline(Retry(), name="outer")(middle_async if world.is_async else middle))
    (call, *_) = seen
    assert call.pipeline == "inner"
    assert call.outer is not None
    assert (call.outer.pipeline, call.outer.outer) == ("outer", None)


def test_call_within_a_hedge_copy_has_the_copy_as_outer(world: World) -> None:
    """A guarded call in a copy of a hedge has the copy as its outer call."""
    seen, fn = seen_by(world)
    inner = Pipeline(Timeout(5), name="inner")(fn)

    def middle() -> Any:
        return inner()

    async def middle_async() -> Any:
        return await inner()

    world.call(Pipeline(hedged(world), name="outer")(middle_async if world.is_async else middle))
    (call, *_) = seen
    assert call.pipeline == "inner"
    assert call.outer is not None
    assert (call.outer.pipeline, call.outer.repeats, call.outer.outer) == ("outer", True, None)


def test_beside_within_beside_is_one_call(world: World) -> None:
    """Copies of copies are copies of the same call."""
    seen, fn = seen_by(world, OSError(), 7)
    pipeline = Pipeline(hedged(world), Timeout(60, thread=True, abandon=True), name="users")
    assert world.call(pipeline(fn)) == 7
    assert {(call.pipeline, call.outer) for call in seen} == {("users", None)}
    assert len({call.id for call in seen}) == 1


@pytest.mark.every_loop
async def test_inline_hedge_copies_see_the_same_call() -> None:
    """All copies of an inline hedge have one id, that in the caller's task included."""
    seen: list[Any] = []

    @Pipeline(Hedge(0.005, inline=True), name="users")
    async def ask() -> None:
        seen.append(current_call())
        if len(seen) == 1:
            await asyncio.sleep(10)

    await ask()
    assert [call.pipeline for call in seen] == ["users"] * 2
    assert seen[0].id == seen[1].id
    assert current_call() is None


@pytest.mark.every_loop
async def test_abandoned_work_goes_on_seeing_its_call() -> None:
    """After its caller has gone, and the caller's deadline with it, the id is still the one to log."""
    seen: list[Any] = []
    go_on = asyncio.Event()
    done = asyncio.Event()

    @Pipeline(Timeout(0.01, abandon=True), name="commits")
    async def commit() -> None:
        seen.append(current_call())
        await go_on.wait()
        seen.append(current_call())
        done.set()

    with pytest.raises(TimedOut):
        await commit()
    go_on.set()
    await done.wait()
    first, second = seen
    assert first.id == second.id
    assert second.pipeline == "commits"
    assert first.remaining > 0
    assert second.remaining is None


async def test_task_begun_inside_is_a_call_of_its_own() -> None:
    """A task that the function starts has no current call, as documented."""

    @Retry()
    async def ask() -> Any:
        async def task() -> Any:
            return current_call()

        return await asyncio.create_task(task())

    assert await ask() is None


def test_task_begun_inside_on_trio_is_a_call_of_its_own() -> None:
    """A task that the function starts on trio has no current call, either."""
    seen: list[Any] = []

    async def task() -> None:
        seen.append(current_call())

    @Retry()
    async def ask() -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)

    trio.run(ask)
    assert seen == [None]


def test_calls_at_once_do_not_see_each_other(world: World) -> None:
    """Concurrent calls have each their own id."""
    seen, fn = seen_by(world)
    guarded = Retry()(fn)
    world.together(*[guarded] * 5)
    assert len({call.id for call in seen}) == 5


def test_copies_in_threads_that_ask_at_once_get_one_id() -> None:
    """The first of several threads makes the id, and all get the same."""
    copies = 8
    for _ in range(20):
        barrier = threading.Barrier(copies)
        ids: list[str] = []

        @Hedge(0, copies=copies, thread=True)
        def ask(barrier: threading.Barrier = barrier, ids: list[str] = ids) -> None:
            barrier.wait(5)
            call = current_call()
            assert call is not None
            ids.append(call.id)
            barrier.wait(5)

        ask()
        assert len(ids) == copies
        assert len(set(ids)) == 1


def test_collector_is_off_while_the_frames_of_threads_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer that ran meanwhile could stop all threads for ever; and it goes on afterwards."""
    was_on: list[bool] = []
    list_frames = sys._current_frames

    def listed() -> dict[int, Any]:
        was_on.append(gc.isenabled())
        return list_frames()

    monkeypatch.setattr(sys, "_current_frames", listed)

    @Timeout(5, thread=True)
    def ask() -> str | None:
        call = current_call()
        return call and call.id

    assert ask() is not None
    assert was_on
    assert not any(was_on)
    assert gc.isenabled()


# -- Retry(nested="once") -------------------------------------------------------------------------------------------


def layers(world: World, *pipelines: Pipeline) -> tuple[list[int], Any]:
    """A function that always fails, guarded by these, outermost first, each around a function of its own."""
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise OSError

    async def fail_async() -> None:
        fail()

    def around(pipeline: Pipeline, inner: Any) -> Any:
        def layer() -> Any:
            return inner()

        async def layer_async() -> Any:
            return await inner()

        return pipeline(layer_async if world.is_async else layer)

    fn: Any = fail_async if world.is_async else fail
    for pipeline in reversed(pipelines):
        fn = around(pipeline, fn)
    return calls, fn


def patient(**options: Any) -> Pipeline:
    return Pipeline(Retry(3, wait=0, **options))


def test_nested_retries_multiply_by_default(world: World) -> None:
    """Two nested Retries of three attempts make nine requests."""
    calls, fn = layers(world, patient(), patient())
    assert isinstance(world.outcome(fn).error, OSError)
    assert len(calls) == 9


def test_retry_once_beneath_a_retry_leaves_repeating_to_it(world: World) -> None:
    """An inner Retry with nested="once" leaves repeating to the outer one: three requests, not nine."""
    calls, fn = layers(world, patient(), patient(nested="once"))
    assert isinstance(world.outcome(fn).error, OSError)
    assert len(calls) == 3


def test_retry_once_alone_repeats(world: World) -> None:
    """Beneath nothing, and beneath what does not repeat."""
    for above in ([], [Pipeline(Timeout(5))], [Pipeline(Retry(1))]):
        calls, fn = layers(world, *above, patient(nested="once"))
        world.outcome(fn)
        assert len(calls) == 3


def test_only_the_outermost_of_three_layers_repeats(world: World) -> None:
    """Of three nested Retries only the outermost repeats: three requests, not twenty-seven."""
    calls, fn = layers(world, *[patient(nested="once") for _ in range(3)])
    world.outcome(fn)
    assert len(calls) == 3


def test_retry_once_sees_a_retry_beyond_a_layer_that_does_not_repeat(world: World) -> None:
    """An outer Retry counts also if a pipeline without one is between."""
    calls, fn = layers(world, patient(), Pipeline(Timeout(5)), patient(nested="once"))
    world.outcome(fn)
    assert len(calls) == 3


def test_retry_once_says_why_it_gave_up(world: World) -> None:
    """The GaveUp event of the inner Retry says why it did not repeat."""
    _, fn = layers(world, patient(), patient(nested="once"))
    error = world.outcome(fn).error
    assert error is not None
    inner = Pipeline(Retry(2, wait=0, nested="once"), name="inner")
    heard: list[Any] = []
    inner.listen(heard.append)
    _, fn = layers(world, patient(), inner)
    world.outcome(fn)
    reasons = {event.reason for event in heard if type(event).__name__ == "GaveUp"}
    assert reasons == {"the call that this one is part of is repeated as a whole"}


def test_retry_once_beneath_a_hedge_copy_leaves_repeating_to_the_hedge(world: World) -> None:
    """Inside a hedge each of two copies is tried once."""
    calls, fn = layers(world, Pipeline(hedged(world)), patient(nested="once"))
    assert isinstance(world.outcome(fn).error, OSError)
    assert len(calls) == 2


def test_retry_once_within_its_own_pipelines_hedge_repeats(world: World) -> None:
    """A Retry with nested="once" repeats inside a Hedge of its own pipeline, which is no outer call."""
    calls, fn = layers(world, Pipeline(hedged(world), Retry(3, wait=0, nested="once")))
    world.outcome(fn)
    assert len(calls) == 6


def test_retry_once_after_a_hedged_call_repeats(world: World) -> None:
    """A copy that is over encloses nothing."""
    hedge = Pipeline(hedged(world))
    seen, fine = seen_by(world)
    guarded = hedge(fine)
    calls, fn = layers(world, patient(nested="once"))

    def both() -> Any:
        guarded()
        fn()

    async def both_async() -> Any:
        await guarded()
        await fn()

    world.outcome(both_async if world.is_async else both)
    assert seen
    assert len(calls) == 3


def test_retry_once_in_mode_off_of_the_outer_repeats(world: World) -> None:
    """An outer pipeline that is switched off repeats nothing."""
    outer = patient()
    outer.switch("off")
    calls, fn = layers(world, outer, patient(nested="once"))
    world.outcome(fn)
    assert len(calls) == 3


@pytest.mark.parametrize("value", ["twice", "", None, True, 1])
def test_nested_that_is_unknown_is_refused(value: Any) -> None:
    """An unknown value of `nested` is refused with a message that names both."""
    with pytest.raises(ValueError, match=f"nested must be one of multiply, once, got {value!r}"):
        Retry(nested=value)


def test_retry_once_with_results_leaves_repeating_to_the_outer_too(world: World) -> None:
    """Results that are failures are left to the outer Retry, too."""
    judge = Classifier(results=lambda result: result is None)
    calls: list[int] = []

    def nothing() -> None:
        calls.append(1)

    async def nothing_async() -> None:
        calls.append(1)

    inner = Pipeline(Retry(3, wait=0, nested="once"), classify=judge)(nothing_async if world.is_async else nothing)

    def layer() -> Any:
        return inner()

    async def layer_async() -> Any:
        return await inner()

    world.call(Pipeline(Retry(3, wait=0), classify=judge)(layer_async if world.is_async else layer))
    assert len(calls) == 3


# -- what it is -----------------------------------------------------------------------------------------------------


def test_current_call_is_a_view_that_does_not_change() -> None:
    """What one has asked for stays as it was."""

    @Retry()
    def ask() -> Any:
        return current_call()

    call = ask()
    with pytest.raises(AttributeError):
        call.attempt = 7
    assert remaining() is None
