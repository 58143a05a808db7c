"""Pipeline: composition, variations, switches, closing, and its descriptions of itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import resilient
from resilient import (
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Deadlock,
    Hedge,
    Pipeline,
    PipelineClosed,
    PipelineWarning,
    Retry,
    TimedOut,
    Timeout,
    registry,
)
from resilient.core.policy import Wrap
from resilient.events import AttemptStarted, CallRejected, Retrying
from tests.worlds import Slow, World


def tripping(name: str | None = None) -> CircuitBreaker:
    """A breaker that opens after one failure."""
    return CircuitBreaker(fail_max=1, failure_rate=None, name=name)


# -- guarding ---------------------------------------------------------------------------------------------------------


def test_pipeline_as_decorator_applies_its_policies_outermost_first(world: World) -> None:
    """The first policy sees the result of all others."""
    order: list[str] = []

    class Noting(Wrap):
        async def run(self, call: Any, inner: Any, context: Any) -> Any:
            order.append(f"{self.name} in")
            try:
                return await inner(call)
            finally:
                order.append(f"{self.name} out")

    dependency = world.dependency(7)
    assert world.call(Pipeline(Noting("a"), Noting("b"), Noting("c"))(dependency.fn)) == 7
    assert order == ["a in", "b in", "c in", "c out", "b out", "a out"]


def test_call_guards_without_decorating(world: World) -> None:
    """`pipeline.call(fn, *args, **kwargs)` calls the function once, guarded, with these arguments."""
    dependency = world.dependency(OSError(), "answer")
    assert world.call(Pipeline(Retry(attempts=2, wait=0)).call, dependency.fn, 1, key=2) == "answer"
    assert dependency.arguments == [((1,), {"key": 2})] * 2


def test_call_leaves_argument_names_to_the_function() -> None:
    """The function may have parameters called `fn` or `self`."""

    def fetch(**kwargs: int) -> dict[str, int]:
        return kwargs

    assert Pipeline(Retry()).call(fetch, fn=1, self=2) == {"fn": 1, "self": 2}


def test_pipeline_may_guard_several_functions_with_one_state(world: World) -> None:
    """A breaker learns from all functions of its pipeline."""
    pipeline = Pipeline(tripping())
    bad, good = world.dependency(OSError()), world.dependency("never")
    assert isinstance(world.outcome(pipeline(bad.fn)).error, OSError)
    assert isinstance(world.outcome(pipeline(good.fn)).error, CircuitOpen)


def test_pipelines_that_share_an_instance_share_its_state(world: World) -> None:
    """Two pipelines with one breaker have one circuit."""
    breaker = tripping()
    assert world.outcome(Pipeline(breaker)(world.dependency(OSError()).fn)).error
    assert isinstance(world.outcome(Pipeline(Retry(), breaker)(world.dependency().fn)).error, CircuitOpen)


def test_policy_alone_is_a_decorator_that_keeps_its_state(world: World) -> None:
    """A policy used as a decorator shares its state with the pipelines that it is in."""
    breaker = tripping()
    assert world.outcome(breaker(world.dependency(OSError()).fn)).error
    assert isinstance(world.outcome(breaker(world.dependency().fn)).error, CircuitOpen)
    assert isinstance(world.outcome(Pipeline(breaker)(world.dependency().fn)).error, CircuitOpen)


def test_error_of_the_function_comes_out_itself(world: World) -> None:
    """The error object passes four policies without a wrapper."""
    error = OSError("mine")
    pipeline = Pipeline(Timeout(5), Retry(attempts=1), Bulkhead(1), CircuitBreaker(), Timeout(1))
    assert world.outcome(pipeline(world.dependency(error).fn)).error is error


@pytest.mark.parametrize("policies", [(Retry,), ("retry",), (None,), (Retry(), Timeout)])
def test_pipeline_of_something_else_is_refused(policies: Any) -> None:
    """The message says what was given, and what to write if it was a class."""
    with pytest.raises(TypeError, match="a pipeline is made of policies, got") as caught:
        Pipeline(*policies)
    assert (f"write {getattr(policies[-1], '__name__', '')}()" in str(caught.value)) == isinstance(policies[-1], type)


def test_pipeline_without_policies_is_refused() -> None:
    """A pipeline without policies would guard nothing."""
    with pytest.raises(ValueError, match="guards nothing"):
        Pipeline()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"name": ""}, ValueError, "name must not be empty or blank, got ''"),
        ({"name": " "}, ValueError, "name must not be empty or blank, got ' '"),
        ({"name": 7}, TypeError, "name must be a string, got 7"),
        ({"classify": lambda error: True}, TypeError, "classify must be a Classifier, got <function"),
        ({"classify": Classifier}, TypeError, "classify must be a Classifier, got <class"),
        ({"retries": 3}, TypeError, "unexpected keyword argument 'retries'"),
    ],
)
def test_pipeline_with_a_bad_option_is_refused(options: Any, error: type[Exception], words: str) -> None:
    """The constructor raises, and names the argument and the value."""
    with pytest.raises(error, match=words):
        Pipeline(Retry(), **options)


# -- nesting ----------------------------------------------------------------------------------------------------------


def test_nested_pipeline_guards_like_its_policies_in_place(world: World) -> None:
    """A pipeline is a policy, so pipelines nest."""
    dependency = world.dependency(OSError(), 7)
    assert world.call(Pipeline(Timeout(5), Pipeline(Retry(attempts=2, wait=0)))(dependency.fn)) == 7


def test_nested_pipeline_keeps_its_name_in_errors_and_events(world: World) -> None:
    """A rejection names the pipeline of the policy that refused."""
    breaker = tripping("inner breaker")
    inner = Pipeline(breaker, name="inner")
    outer = Pipeline(Retry(attempts=1), inner, name="outer")
    breaker.isolate()
    heard: list[Any] = []
    inner.listen(heard.append)
    error = world.outcome(outer(world.dependency().fn)).error
    assert isinstance(error, CircuitOpen)
    assert (error.pipeline, error.policy) == ("inner", "inner breaker")
    assert [(type(event), event.pipeline) for event in heard] == [(CallRejected, "inner")]


def test_nested_pipeline_keeps_its_classifier(world: World) -> None:
    """The inner classifier decides for the inner breaker, the outer one for the outer Retry."""
    breaker = tripping()
    inner = Pipeline(breaker, classify=Classifier(ignore=KeyError))
    outer = Pipeline(Retry(attempts=2, wait=0), inner)
    assert world.call(outer(world.dependency(KeyError(), 7).fn)) == 7
    assert breaker.state == "closed"


def test_nested_pipeline_keeps_its_mode(world: World) -> None:
    """The inner pipeline can be off while the outer one is on, and the reverse."""
    breaker = tripping()
    inner = Pipeline(breaker)
    outer = Pipeline(Retry(attempts=3, wait=0), inner)
    breaker.isolate()
    with inner.switch("off"):
        assert world.call(outer(world.dependency(OSError(), OSError(), 7).fn)) == 7
    assert isinstance(world.outcome(outer(world.dependency().fn)).error, CircuitOpen)
    with outer.switch("off"):
        assert world.call(outer(world.dependency(7).fn)) == 7


def test_nested_pipeline_keeps_its_listeners(world: World) -> None:
    """Events of inner policies go to listeners of the inner pipeline, and those of outer ones to the outer."""
    inner = Pipeline(Retry(attempts=2, wait=0), name="inner")
    outer = Pipeline(Timeout(5), inner, name="outer")
    heard: dict[str, list[Any]] = {"inner": [], "outer": []}
    inner.listen(heard["inner"].append)
    outer.listen(heard["outer"].append)
    world.call(outer(world.dependency(OSError(), 7).fn))
    assert [event.pipeline for event in heard["inner"] if isinstance(event, Retrying)] == ["inner"]
    assert [event for event in heard["outer"] if isinstance(event, Retrying)] == []
    assert [event.pipeline for event in heard["outer"] if isinstance(event, AttemptStarted)] == ["outer", "outer"]


def test_nested_pipeline_that_is_closed_refuses_the_outer_ones_calls(world: World) -> None:
    """Its policies take no more calls, and the outer pipeline stays open."""
    inner = Pipeline(Bulkhead(1), name="inner")
    outer = Pipeline(Retry(attempts=2, wait=0), inner, name="outer")
    inner.close()
    error = world.outcome(outer(world.dependency().fn)).error
    assert isinstance(error, PipelineClosed)
    assert error.pipeline == "inner"
    assert not outer.snapshot()["closed"]


# -- variations -------------------------------------------------------------------------------------------------------


def test_with_replaces_the_policy_of_the_same_class(world: World) -> None:
    """The variation has the new policy, and the original keeps its own."""
    pipeline = Pipeline(Retry(attempts=1), Timeout(5))
    varied = pipeline.with_(Retry(attempts=2, wait=0))
    assert world.call(varied(world.dependency(OSError(), 7).fn)) == 7
    assert isinstance(world.outcome(pipeline(world.dependency(OSError()).fn)).error, OSError)


def test_with_keeps_the_order_of_the_policies() -> None:
    """Each new policy stands in the place of the one that it replaces."""
    pipeline = Pipeline(Timeout(20, name="total"), Retry(), Bulkhead(5, queue=5), Timeout(2, name="each"))
    varied = pipeline.with_(Timeout(3, name="each"), Retry(attempts=2))
    assert [policy.describe() for policy in varied.policies] == [
        "Timeout(20 s)",
        Retry(attempts=2).describe(),
        "Bulkhead(5, queue 5)",
        "Timeout(3 s)",
    ]


def test_with_shares_the_state_of_what_it_does_not_replace(world: World) -> None:
    """The variation shares the circuit of the original."""
    pipeline = Pipeline(Retry(attempts=1), tripping())
    varied = pipeline.with_(Retry(attempts=3, wait=0))
    assert world.outcome(pipeline(world.dependency(OSError()).fn)).error
    assert isinstance(world.outcome(varied(world.dependency().fn)).error, CircuitOpen)


def test_with_without_leaves_classes_out(world: World) -> None:
    """`without=` leaves out every policy of these classes."""
    pipeline = Pipeline(Timeout(10), Retry(attempts=1), tripping(), Timeout(1))
    varied = pipeline.with_(without=(Timeout, CircuitBreaker))
    assert varied.policies == (pipeline.policies[1],)


def test_with_without_everything_is_refused() -> None:
    """A variation without policies would guard nothing."""
    with pytest.raises(ValueError, match="guards nothing"):
        Pipeline(Retry()).with_(without=(Retry,))


def test_with_nothing_to_replace_is_refused() -> None:
    """A variation adds no policies, because it could not know their places."""
    with pytest.raises(ValueError, match=r"has no Bulkhead that Bulkhead\(5\) could replace"):
        Pipeline(Retry()).with_(Bulkhead(5))


def test_with_several_candidates_is_refused_unless_they_are_named() -> None:
    """The message says to give them names."""
    pipeline = Pipeline(Timeout(10), Retry(attempts=1), Timeout(1))
    with pytest.raises(ValueError, match=r"has 2 Timeouts: give them names, and Timeout\(2 s\) the one it replaces"):
        pipeline.with_(Timeout(2))


def test_with_keeps_name_classifier_and_mode(world: World) -> None:
    """Options that are not given stay as in the original."""
    classifier = Classifier(ignore=KeyError)
    pipeline = Pipeline(Retry(attempts=3, wait=0), name="users", classify=classifier)
    pipeline.switch("once")
    varied = pipeline.with_(Retry(attempts=2, wait=0))
    assert (varied.name, varied.classify, varied.mode) == ("users", classifier, "once")
    dependency = world.dependency(KeyError())
    assert isinstance(world.outcome(varied(dependency.fn)).error, KeyError)
    assert len(dependency.calls) == 1


def test_with_uses_its_name_in_every_event(world: World) -> None:
    """Attempts, retries and errors of a variation carry the pipeline's name, or the variation's own."""
    pipeline = Pipeline(Timeout(5), Retry(attempts=2, wait=0), name="users")
    for varied, name in [(pipeline.with_(Timeout(4)), "users"), (pipeline.with_(Timeout(4), name="search"), "search")]:
        heard: list[Any] = []
        varied.listen(heard.append)
        world.call(varied(world.dependency(OSError(), 7).fn))
        assert len(heard) == 6
        assert {event.pipeline for event in heard} == {name}


def test_with_a_new_classifier_classifies_by_it(world: World) -> None:
    """`classify=` replaces the classifier of the variation only."""
    pipeline = Pipeline(Retry(attempts=2, wait=0))
    varied = pipeline.with_(classify=Classifier(ignore=OSError))
    dependency = world.dependency(OSError())
    assert isinstance(world.outcome(varied(dependency.fn)).error, OSError)
    assert world.call(pipeline(world.dependency(OSError(), 7).fn)) == 7


def test_with_has_listeners_and_closing_of_its_own(world: World) -> None:
    """A variation is a pipeline: closing it does not close the original."""
    pipeline = Pipeline(Retry())
    heard: list[Any] = []
    pipeline.listen(heard.append)
    varied = pipeline.with_()
    world.call(varied(world.dependency(7).fn))
    varied.close()
    assert heard == []
    assert world.call(pipeline(world.dependency(7).fn)) == 7


def test_derived_pipeline_has_the_same_listeners_mode_and_closing(world: World) -> None:
    """Its calls count as calls of the original."""
    pipeline = Pipeline(Retry(attempts=3, wait=0), name="users")
    derived = pipeline._derive((Retry(attempts=2, wait=0),))
    heard: list[Any] = []
    pipeline.listen(heard.append)
    assert world.call(derived(world.dependency(OSError(), 7).fn)) == 7
    assert {event.pipeline for event in heard} == {"users"}
    with pipeline.switch("once"):
        assert derived.mode == "once"
    assert derived.mode == "on"
    with derived.switch("off"):
        assert pipeline.mode == "off"
    pipeline.close()
    assert isinstance(world.outcome(derived(world.dependency(7).fn)).error, PipelineClosed)


def test_derived_pipeline_warns_of_the_decorators_beneath(world: World) -> None:
    """A derived pipeline warns as any other does."""
    derived = Pipeline(Timeout(9))._derive((Timeout(1),))
    with pytest.warns(PipelineWarning):
        derived(Pipeline(Timeout(2))(world.dependency(7).fn))


def test_derived_pipeline_has_policies_and_a_classifier_of_its_own(world: World) -> None:
    """Its policies and its classifier may differ. It does not repeat the original\'s warnings."""
    with pytest.warns(PipelineWarning):
        pipeline = Pipeline(CircuitBreaker(), Retry(attempts=2, wait=0))
    derived = pipeline._derive(pipeline.policies, Classifier(ignore=OSError))
    dependency = world.dependency(OSError())
    assert isinstance(world.outcome(derived(dependency.fn)).error, OSError)
    assert len(dependency.calls) == 1


# -- descriptions -----------------------------------------------------------------------------------------------------


def test_describe_is_a_tree_outermost_first() -> None:
    """Nested pipelines are branches of the tree."""
    inner = Pipeline(Bulkhead(5), CircuitBreaker(), name="inner")
    pipeline = Pipeline(Timeout(20), Pipeline(Retry(attempts=3)), inner, Timeout(2), name="users")
    assert pipeline.describe() == "\n".join(
        [
            "users",
            "├─ Timeout(20 s)",
            "├─ pipeline",
            "│  └─ Retry(3 attempts, full jitter 0.1 s to 20 s)",
            "├─ inner",
            "│  ├─ Bulkhead(5)",
            "│  └─ CircuitBreaker(50% failures of >= 10 in 10 s, break 5 s: closed)",
            "└─ Timeout(2 s)",
        ]
    )


def test_repr_is_one_line_with_the_name() -> None:
    """The text is close to the source."""
    assert repr(Pipeline(Timeout(5), Bulkhead(2), name="users")) == "Pipeline(Timeout(5 s), Bulkhead(2), name='users')"
    assert repr(Pipeline(Bulkhead(2))) == "Pipeline(Bulkhead(2))"


def test_snapshot_is_plain_data_of_the_state_now() -> None:
    """Name, mode, calls in flight, and the state of each policy, also in nested pipelines."""
    breaker = tripping("circuit")
    pipeline = Pipeline(Bulkhead(2, queue=3), Pipeline(breaker, name="inner"), name="users")
    seen: list[Any] = []
    pipeline.call(lambda: seen.append(pipeline.snapshot()))
    (snapshot,) = seen
    assert {key: snapshot[key] for key in ("name", "mode", "closed", "in_flight")} == {
        "name": "users",
        "mode": "on",
        "closed": False,
        "in_flight": 1,
    }
    bulkhead, inner = snapshot["policies"]
    expected = {"policy": "Bulkhead", "kind": "Bulkhead", "in_use": 1, "max_concurrent": 2, "queued": 0, "queue": 3}
    assert bulkhead == expected
    assert (inner["name"], inner["in_flight"]) == ("inner", 1)
    (circuit,) = inner["policies"]
    assert (circuit["policy"], circuit["kind"], circuit["state"]) == ("circuit", "CircuitBreaker", "closed")


def test_snapshot_counts_calls_in_flight_of_every_runtime(world: World) -> None:
    """Waiting calls count, too; none counts after its end."""
    pipeline = Pipeline(Timeout(5), Bulkhead(5))
    seen: list[int] = []
    dependency = world.dependency(Slow(0.02), Slow(0.02, OSError()), Slow(0.02))
    guarded = pipeline(dependency.fn)

    def watch() -> Any:
        seen.append(pipeline.snapshot()["in_flight"])
        return world.dependency(None).fn()

    world.together(guarded, guarded, guarded, watch)
    if world.is_async:
        assert seen == [3]
    assert pipeline.snapshot()["in_flight"] == 0


# -- closing ----------------------------------------------------------------------------------------------------------


def test_closed_pipeline_refuses_calls_by_its_name(world: World) -> None:
    """Every way to make a call raises an error that names the pipeline."""
    pipeline = Pipeline(Retry(attempts=3), name="users")
    dependency = world.dependency()
    guarded = pipeline(dependency.fn)
    pipeline.close()
    for call in (guarded, lambda: pipeline.call(dependency.fn)):
        error = world.outcome(call).error
        assert isinstance(error, PipelineClosed)
        assert error.pipeline == "users"
        assert str(error) == "users: the pipeline is closed"
    assert len(dependency.calls) == 0
    assert pipeline.snapshot()["closed"]


def test_closing_twice_does_no_harm(world: World) -> None:
    """Also at the same time, and by `close` and `aclose`."""
    pipeline = Pipeline(Retry())
    if world.is_async:
        world.run(pipeline.aclose)
        world.run(pipeline.aclose)
    pipeline.close()
    pipeline.close()
    assert pipeline.snapshot()["closed"]


@pytest.mark.every_loop
async def test_aclose_waits_for_calls_in_flight_and_refuses_new_ones() -> None:
    """Calls in flight end as usual, after their further attempts."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), Bulkhead(5, queue=5))
    entered, leave, attempts = asyncio.Event(), asyncio.Event(), 0

    @pipeline
    async def fetch() -> str:
        nonlocal attempts
        attempts += 1
        entered.set()
        await leave.wait()
        if attempts == 1:
            raise OSError
        return "drained"

    call = asyncio.create_task(fetch())
    await entered.wait()
    closing = [asyncio.create_task(pipeline.aclose()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(PipelineClosed):
        await fetch()
    assert not any(task.done() for task in closing)
    leave.set()
    await asyncio.gather(*closing)
    assert call.done()
    assert await call == "drained"


@pytest.mark.every_loop
async def test_aclose_returns_when_the_last_call_is_cancelled() -> None:
    """A cancelled call has ended, too."""
    pipeline = Pipeline(Timeout(60))
    entered = asyncio.Event()

    @pipeline
    async def fetch() -> None:
        entered.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(fetch())
    await entered.wait()
    closing = asyncio.create_task(pipeline.aclose())
    await asyncio.sleep(0)
    call.cancel()
    await closing
    assert call.cancelled()


@pytest.mark.every_loop
async def test_aclose_can_be_bounded_and_leaves_the_pipeline_closed() -> None:
    """A timeout around `aclose` cancels no call in flight; new calls stay refused."""
    pipeline = Pipeline(Bulkhead(1))
    entered, leave = asyncio.Event(), asyncio.Event()

    @pipeline
    async def fetch() -> str:
        entered.set()
        await leave.wait()
        return "unharmed"

    call = asyncio.create_task(fetch())
    await entered.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pipeline.aclose()
    with pytest.raises(PipelineClosed):
        await fetch()
    leave.set()
    assert await call == "unharmed"
    await pipeline.aclose()


def test_aclose_on_trio_waits_for_calls_in_flight() -> None:
    """`aclose` waits on trio, too."""
    pipeline = Pipeline(Bulkhead(1))
    order: list[str] = []

    async def main() -> None:
        entered, leave = trio.Event(), trio.Event()

        @pipeline
        async def fetch() -> None:
            entered.set()
            await leave.wait()
            order.append("call ended")

        async def close() -> None:
            await pipeline.aclose()
            order.append("closed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            await entered.wait()
            nursery.start_soon(close)
            await trio.testing.wait_all_tasks_blocked()
            assert order == []
            leave.set()

    trio.run(main)
    assert order == ["call ended", "closed"]


def test_close_from_a_thread_waits_for_async_calls_in_flight() -> None:
    """`close()` blocks its thread until calls on an event loop in another thread have ended."""
    pipeline = Pipeline(Bulkhead(1))
    order: list[str] = []
    closed = threading.Event()

    async def main() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()

        @pipeline
        async def fetch() -> None:
            entered.set()
            await leave.wait()
            order.append("call ended")

        def close() -> None:
            pipeline.close()
            order.append("closed")
            closed.set()

        call = asyncio.create_task(fetch())
        await entered.wait()
        closer = threading.Thread(target=close)
        closer.start()
        assert not await asyncio.to_thread(closed.wait, 0.02)
        leave.set()
        await call
        await asyncio.to_thread(closer.join)

    asyncio.run(main())
    assert order == ["call ended", "closed"]


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "nested"])
def test_closing_inside_an_own_call_is_refused(world: World, nested: bool) -> None:
    """The close and the call would wait for each other. This holds for nested pipelines, derived ones and hedged
    copies, too."""
    pipeline = Pipeline(Bulkhead(5), name="users")
    outer = Pipeline(Retry(1), pipeline) if nested else pipeline

    async def close() -> None:
        await pipeline.aclose()

    guarded = outer(close if world.is_async else pipeline.close)
    error = world.outcome(guarded).error
    assert isinstance(error, Deadlock)
    assert "inside a call of users" in str(error)
    assert "a task that the call does not wait for" in str(error)
    assert not pipeline.snapshot()["closed"]
    world.run(pipeline.aclose) if world.is_async else pipeline.close()
    assert pipeline.snapshot()["closed"]


@pytest.mark.virtual_time
async def test_aclose_in_a_block_or_a_copy_of_its_own_is_refused_and_in_another_task_it_is_not() -> None:
    """Blocks and copies are parts of a call; a task that the call has started is not."""
    pipeline = Pipeline(Hedge(1, copies=2), Bulkhead(9))
    errors: list[Exception] = []

    async def close() -> str:
        await asyncio.sleep(1.5 * len(errors) + 1.5)
        try:
            await pipeline.aclose()
        except Deadlock as error:
            errors.append(error)
        return "done"

    assert await pipeline.call(close) == "done"
    block = Pipeline(Bulkhead(1))
    async for attempt in block.attempts():
        async with attempt:
            with pytest.raises(Deadlock):
                await block.aclose()
            closing = asyncio.create_task(block.aclose())
            await asyncio.sleep(1)
    await closing
    assert errors


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_close_in_the_thread_of_a_running_loop_does_not_wait_for_ever(loop: str) -> None:
    """Calls on that loop could never end: the message says to await `aclose()`. Without such calls it closes."""
    pipeline = Pipeline(Bulkhead(5))

    async def in_flight(inside: Callable[[], None], leave: Callable[[], Any]) -> None:
        inside()
        await leave()

    def act() -> None:
        with pytest.raises(Deadlock, match=r"await aclose\(\) instead"):
            pipeline.close()

    async def on_asyncio() -> None:
        event = asyncio.Event()
        call = asyncio.create_task(pipeline.call(in_flight, lambda: None, event.wait))
        await asyncio.sleep(0)
        act()
        event.set()
        await call
        pipeline.close()

    async def on_trio() -> None:
        event, began = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipeline.call, in_flight, began.set, event.wait)
            await began.wait()
            act()
            event.set()
        pipeline.close()

    asyncio.run(on_asyncio()) if loop == "asyncio" else trio.run(on_trio)


async def test_close_in_the_thread_of_a_running_loop_waits_for_other_threads() -> None:
    """Calls and background work in other threads end without the loop, as in a notebook."""
    abandoned, counted = Pipeline(Timeout(0.001, thread=True, abandon=True)), Pipeline(Bulkhead(5))
    began, go = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert go.wait(10)

    with pytest.raises(TimedOut):
        abandoned.call(work)
    began.clear()
    thread = threading.Thread(target=counted.call, args=[work])
    thread.start()
    assert began.wait(10)
    threading.Timer(0.01, go.set).start()
    counted.close()
    abandoned.close()
    thread.join()
    assert abandoned.snapshot()["policies"][0]["abandoned"] == 0


@pytest.mark.virtual_time
async def test_close_in_the_thread_of_a_running_loop_does_not_wait_for_abandoned_work() -> None:
    """Abandoned work on that loop goes on there."""
    pipeline = Pipeline(Timeout(1, abandon=True))
    with pytest.raises(TimedOut):
        await pipeline.call(asyncio.sleep, 5)
    with pytest.raises(Deadlock, match=r"await aclose\(\) instead"):
        pipeline.close()
    await pipeline.aclose()


async def test_aclose_waits_for_calls_in_threads() -> None:
    """`aclose` on an event loop waits for calls in threads."""
    pipeline = Pipeline(Bulkhead(1))
    entered, leave, order = threading.Event(), threading.Event(), []

    @pipeline
    def fetch() -> None:
        entered.set()
        leave.wait(5)
        order.append("call ended")

    call = asyncio.create_task(asyncio.to_thread(fetch))
    await asyncio.to_thread(entered.wait)
    closing = asyncio.create_task(pipeline.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    leave.set()
    await closing
    order.append("closed")
    await call
    assert order == ["call ended", "closed"]


@pytest.mark.parametrize("_", range(20))
def test_close_races_with_calls_from_threads_and_misses_none(_: int) -> None:
    """Each call either ends before `close` returns, or is refused."""
    pipeline = Pipeline(Bulkhead(100))
    lock, inside, calls = threading.Lock(), 0, threading.Event()

    @pipeline
    def fetch() -> None:
        nonlocal inside
        with lock:
            inside += 1
        calls.set()
        time.sleep(0)
        with lock:
            inside -= 1

    def work() -> None:
        try:
            while True:
                fetch()
        except PipelineClosed:
            pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    calls.wait(5)
    pipeline.close()
    assert inside == 0
    for thread in threads:
        thread.join()
    assert pipeline.snapshot()["in_flight"] == 0


# -- switching --------------------------------------------------------------------------------------------------------


def failing_twice(world: World) -> Any:
    return world.dependency(OSError(), OSError(), 7)


def test_mode_off_runs_the_bare_function(world: World) -> None:
    """No policy acts: nothing is repeated or refused."""
    breaker = tripping()
    pipeline = Pipeline(Retry(attempts=3, wait=0), breaker)
    breaker.isolate()
    pipeline.switch("off")
    dependency = failing_twice(world)
    assert isinstance(world.outcome(pipeline(dependency.fn)).error, OSError)
    assert len(dependency.calls) == 1
    assert pipeline.mode == "off"


def test_mode_once_makes_one_attempt(world: World) -> None:
    """Policies that do not repeat calls still act."""
    breaker = tripping()
    pipeline = Pipeline(Retry(attempts=3, wait=0), breaker)
    pipeline.switch("once")
    dependency = failing_twice(world)
    error = world.outcome(pipeline(dependency.fn)).error
    assert isinstance(error, OSError)
    assert len(dependency.calls) == 1
    assert "switched to one attempt" in error.__notes__[0]
    assert breaker.state == "open"


def test_mode_instant_makes_all_attempts_without_waiting(world: World) -> None:
    """A test of a service with long pauses then takes no time."""
    pipeline = Pipeline(Retry(attempts=3, wait=3600))
    pipeline.switch("instant")
    begin = world.now()
    assert world.call(pipeline(failing_twice(world).fn)) == 7
    assert world.now() - begin < 60


def test_mode_set_after_decorating_takes_effect_at_the_next_call(world: World) -> None:
    """Functions that are decorated already follow the mode."""
    pipeline = Pipeline(Retry(attempts=3, wait=0))
    dependency = world.dependency(OSError(), OSError(), OSError(), 7)
    guarded = pipeline(dependency.fn)
    with pipeline.switch("off"):
        assert world.outcome(guarded).error
    assert world.call(guarded) == 7


def test_switch_as_a_with_block_restores_the_mode_before() -> None:
    """Also if blocks are nested, and if the block raises."""
    pipeline = Pipeline(Retry())
    with pipeline.switch("instant"):
        with pytest.raises(KeyError), pipeline.switch("off"):
            assert pipeline.mode == "off"
            raise KeyError
        assert pipeline.mode == "instant"
    assert pipeline.mode == "on"


def test_switch_without_a_block_stays() -> None:
    """The mode stays until it is changed again."""
    pipeline = Pipeline(Retry())
    pipeline.switch("off")
    assert pipeline.mode == "off"
    pipeline.switch(None)
    assert pipeline.mode == "on"


def test_global_switch_reaches_pipelines_of_before_and_after(world: World) -> None:
    """It holds for earlier and later pipelines, and for policies used as decorators."""
    before, alone = Pipeline(Retry(attempts=3, wait=0)), Retry(attempts=3, wait=0)
    guarded = [before(failing_twice(world).fn), alone(failing_twice(world).fn)]
    with resilient.switch("off"):
        after = Pipeline(Retry(attempts=3, wait=0))
        assert (before.mode, after.mode) == ("off", "off")
        for each in (*guarded, after(failing_twice(world).fn)):
            assert isinstance(world.outcome(each).error, OSError)
    assert (before.mode, after.mode) == ("on", "on")
    assert world.call(after(failing_twice(world).fn)) == 7


def test_own_mode_goes_before_the_global_one() -> None:
    """A pipeline follows its own mode until that is set to None."""
    pipeline = Pipeline(Retry())
    with resilient.switch("off"):
        pipeline.switch("on")
        assert pipeline.mode == "on"
        pipeline.switch(None)
        assert pipeline.mode == "off"
    assert pipeline.mode == "on"


def test_global_switch_blocks_nest() -> None:
    """Each block restores the mode before it, also after an error."""
    pipeline = Pipeline(Retry())
    with resilient.switch("instant"):
        with pytest.raises(KeyError), resilient.switch("once"):
            assert pipeline.mode == "once"
            raise KeyError
        assert pipeline.mode == "instant"
        with resilient.switch(None):
            assert pipeline.mode == "on"
    assert pipeline.mode == "on"


@pytest.mark.parametrize("mode", ["of", "", True, 1, "OFF"])
def test_switch_to_an_unknown_mode_is_refused(mode: Any) -> None:
    """The message names the modes, and nothing changes."""
    pipeline = Pipeline(Retry())
    for switch in (pipeline.switch, resilient.switch):
        with pytest.raises(ValueError, match="mode must be one of on, off, once, instant, or None, got"):
            switch(mode)
    assert pipeline.mode == "on"


# -- the registry holds what is in use --------------------------------------------------------------------------------


def test_pipeline_named_in_a_decorator_is_found_while_its_function_lives(world: World) -> None:
    """`@Pipeline(..., name="inline")` leaves no other reference, and the registry still finds it."""
    guarded = Pipeline(Retry(), name="inline")(world.dependency(7).fn)
    assert registry.pipeline("inline").name == "inline"
    assert world.call(guarded) == 7
    del guarded
    assert "inline" not in registry.pipelines()


# -- several threads and loops ----------------------------------------------------------------------------------------


def test_one_pipeline_keeps_one_limit_over_event_loops_and_threads() -> None:
    """Two event loops and two threads share the permits of one bulkhead."""
    pipeline = Pipeline(Bulkhead(2))
    ready, leave = threading.Barrier(3, timeout=5), threading.Event()

    @pipeline
    async def fetch_async() -> None:
        await asyncio.to_thread(ready.wait)
        await asyncio.to_thread(leave.wait, 5)

    @pipeline
    def fetch() -> None:
        ready.wait()
        leave.wait(5)

    threads = [threading.Thread(target=fetch), threading.Thread(target=lambda: asyncio.run(fetch_async()))]
    for thread in threads:
        thread.start()
    ready.wait()
    with pytest.raises(BulkheadFull):
        fetch()
    with pytest.raises(BulkheadFull):
        asyncio.run(fetch_async())
    leave.set()
    for thread in threads:
        thread.join()
    assert pipeline.snapshot()["policies"][0]["in_use"] == 0


def test_pipeline_on_several_event_loops_one_after_the_other() -> None:
    """A guarded function is bound to no loop: its timers and queues end with each loop."""

    @Pipeline(Timeout(5), Retry(attempts=2, wait=0.001), Bulkhead(1, queue=1), Timeout(0.01))
    async def fetch(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    for _ in range(3):
        assert asyncio.run(fetch(0)) == "done"
        with pytest.raises(TimedOut):
            asyncio.run(fetch(60))


def test_async_function_without_an_event_loop_says_what_it_needs() -> None:
    """The coroutine is driven by hand, outside any event loop."""

    @Pipeline(Timeout(5))
    async def fetch() -> None: ...

    coroutine = fetch()
    with pytest.raises(RuntimeError, match="needs a running asyncio or trio event loop"):
        coroutine.send(None)


def test_with_warns_like_a_new_pipeline() -> None:
    """A variation that cannot work warns, too."""
    pipeline = Pipeline(Timeout(10), Retry(attempts=2), Timeout(1, name="each"))
    with pytest.warns(PipelineWarning, match="stands inside"):
        pipeline.with_(Timeout(20, name="each"))
