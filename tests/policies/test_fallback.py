"""Fallback: who is answered for, by what, and who hears of it."""

from __future__ import annotations

import asyncio
import functools
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    RateLimit,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    Verdict,
)
from resilient.events import FellBack
from tests.properties.cancellation_driver import assert_idle, cancel_at_every_point
from tests.worlds import Hang, Until, World, left_queue

BAD = Classifier(results=lambda result: result == "bad")


def asked(world: World, answer: Any) -> tuple[list[Any], Callable[..., Any]]:
    """A function for `Fallback(call=...)` that notes its arguments and then returns or raises `answer`; and the list of
    notes."""
    calls: list[Any] = []

    def ask(error: Exception | None, *args: Any, **kwargs: Any) -> Any:
        calls.append((error, args, kwargs))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def ask_async(error: Exception | None, *args: Any, **kwargs: Any) -> Any:
        await world.sleep(0)
        return ask(error, *args, **kwargs)

    return calls, ask_async if world.is_async else ask


# -- what it answers ------------------------------------------------------------------------------------------------


def test_call_that_succeeds_is_left_alone(world: World) -> None:
    """A result comes back, and the fallback is not called."""
    calls, ask = asked(world, "instead")
    assert world.call(Fallback(call=ask)(world.dependency(7).fn)) == 7
    assert world.call(Fallback("instead")(world.dependency(None).fn)) is None
    assert calls == []


@pytest.mark.parametrize("value", ["instead", None, 0, (), OSError("as a value")])
def test_value_is_returned_for_a_call_that_failed(world: World, value: Any) -> None:
    """Any value is returned: also None, and an exception, which is not raised."""
    assert world.call(Fallback(value)(world.dependency(OSError()).fn)) is value


def test_function_is_asked_with_the_error_and_the_arguments(world: World) -> None:
    """`call` gets the error and the arguments; in async worlds it is a coroutine function."""
    calls, ask = asked(world, "instead")
    error = OSError()
    guarded = Fallback(call=ask)(world.dependency(error).fn)
    assert world.call(guarded, 1, 2, key="three") == "instead"
    assert calls == [(error, (1, 2), {"key": "three"})]
    assert calls[0][0] is error


def test_plain_function_may_stand_in_for_a_coroutine_function(world: World) -> None:
    """Around an `async def`, `call` may be a plain function."""
    assert world.call(Fallback(call=lambda error: [type(error)])(world.dependency(OSError()).fn)) == [OSError]


@pytest.mark.every_loop
async def test_method_and_guarded_function_may_stand_in() -> None:
    """`call` may be any callable."""

    class Cache:
        @Retry(2, wait=0)
        async def stale(self, error: Exception | None, key: str) -> str:
            return f"stale {key}"

    @Fallback(call=Cache().stale)
    async def fetch(key: str) -> str:
        raise OSError

    assert await fetch("price") == "stale price"


def test_own_failure_is_what_comes_back_with_the_original_as_context(world: World) -> None:
    """An error of `call` comes back with the original error as its context."""
    original, failure = OSError("original"), KeyError("cache is empty")
    _, ask = asked(world, failure)
    error = world.outcome(Fallback(call=ask)(world.dependency(original).fn)).error
    assert error is failure
    assert error.__context__ is original
    assert "original" in "".join(traceback.format_exception(error))


def test_own_failure_that_has_a_cause_keeps_it(world: World) -> None:
    """An error of `call` that has a cause keeps it."""
    cause = ValueError()

    def ask(error: Exception | None) -> None:
        raise KeyError from cause

    error = world.outcome(Fallback(call=ask)(world.dependency(OSError()).fn)).error
    assert isinstance(error, KeyError)
    assert error.__cause__ is cause


def test_fallback_may_raise_the_error_itself(world: World) -> None:
    """`call` may raise the error that it gets, which then is not its own context."""
    original = OSError()

    def ask(error: Exception | None) -> None:
        assert error is not None
        raise error

    error = world.outcome(Fallback(call=ask)(world.dependency(original).fn)).error
    assert error is original
    assert error.__context__ is None


def test_stop_iteration_gets_through_both_ways(world: World) -> None:
    """A StopIteration of the function reaches `call`, and one of `call` reaches the caller."""
    if not world.is_async:
        calls, ask = asked(world, StopIteration("instead"))
        original = StopIteration("original")

        def fails() -> None:
            raise original

        error = world.outcome(Fallback(call=ask)(fails)).error
        assert isinstance(error, StopIteration)
        assert error.value == "instead"
        assert calls[0][0] is original
        assert world.call(Fallback(7)(fails)) == 7
        return
    error = world.outcome(Fallback(call=lambda error: 1 / 0)(world.dependency(OSError()).fn)).error
    assert isinstance(error, ZeroDivisionError)


# -- which failures it answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TypeError, AttributeError, AssertionError, NotImplementedError])
def test_programming_errors_pass(world: World, error: type[Exception]) -> None:
    """Programming errors are not answered for."""
    bug = error()
    assert world.outcome(Fallback(7)(world.dependency(bug).fn)).error is bug
    pipeline = Pipeline(Fallback(7), classify=BAD)
    assert world.outcome(pipeline(world.dependency(bug).fn)).error is bug


def test_errors_that_the_classifier_ignores_pass(world: World) -> None:
    """An ignored error, such as a "not found", is not answered for."""
    not_found = KeyError()
    for judge in (Classifier(ignore=KeyError), Classifier(ignore=KeyError, results=lambda result: False)):
        guarded = Pipeline(Fallback(7), classify=judge)(world.dependency(not_found, OSError()).fn)
        assert world.outcome(guarded).error is not_found
        assert world.call(guarded) == 7


def test_fatal_failures_are_answered_for(world: World) -> None:
    """A fatal failure is not repeated, but answered for."""
    pipeline = Pipeline(Fallback(7), classify=Classifier(fatal=PermissionError))
    assert world.call(pipeline(world.dependency(PermissionError()).fn)) == 7


@pytest.mark.parametrize("on", [OSError, (OSError, KeyError), lambda error: isinstance(error, OSError)])
def test_on_says_for_which_errors(world: World, on: Any) -> None:
    """`on` takes types or a predicate; other errors pass."""
    other = ValueError()
    guarded = Fallback(7, on=on)(world.dependency(ConnectionError(), other).fn)
    assert world.call(guarded) == 7
    assert world.outcome(guarded).error is other


def test_on_goes_before_the_classifier(world: World) -> None:
    """`on` can include programming errors and leave out rejections."""
    breaker = CircuitBreaker()
    breaker.isolate()
    pipeline = Pipeline(Fallback(7, on=TypeError), breaker)
    assert isinstance(world.outcome(pipeline(world.dependency().fn)).error, CircuitOpen)
    breaker.close()
    assert world.call(pipeline(world.dependency(TypeError()).fn)) == 7


def test_predicate_that_raises_is_the_callers_error(world: World) -> None:
    """The caller gets the error of the `on` predicate."""
    error = world.outcome(Fallback(7, on=lambda error: 1 / 0)(world.dependency(OSError()).fn)).error  # type: ignore[arg-type, return-value]
    assert isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize(
    "gate",
    [
        lambda: Bulkhead(1),
        lambda: RateLimit(1, per=1000, burst=2),
        lambda: CircuitBreaker(fail_max=1, failure_rate=None),
    ],
    ids=["bulkhead", "rate limit", "breaker"],
)
def test_rejections_are_answered_for(world: World, gate: Callable[[], Any]) -> None:
    """Every kind of rejection is answered for."""
    policy = gate()
    pipeline = Pipeline(Fallback("instead"), policy)
    assert world.call(pipeline(world.dependency(7).fn)) == 7
    if isinstance(policy, CircuitBreaker):
        policy.isolate()
    assert world.call(world.nested(pipeline)) == "instead"


def test_closed_pipeline_is_not_answered_for() -> None:
    """A closed pipeline takes no calls, so `PipelineClosed` comes back."""
    pipeline = Pipeline(Fallback(7))
    pipeline.close()
    with pytest.raises(Rejected, match="closed"):
        pipeline.call(lambda: 1)


def test_timeouts_are_answered_for(world: World) -> None:
    """A TimedOut is answered for."""
    pipeline = Pipeline(Fallback("instead"), Timeout(0.02, thread=True))
    assert world.call(pipeline(world.dependency(Hang()).fn)) == "instead"


def test_time_that_went_by_in_a_queue_is_answered_for(world: World) -> None:
    """A TimedOut in a queue is no evidence about the dependency, but it is answered for."""
    bulkhead = Bulkhead(1, queue=1, name="compartment")
    pipeline = Pipeline(Fallback("instead"), Timeout(0.03), bulkhead)
    holding = bulkhead(world.dependency(Until(left_queue(bulkhead), 7)).fn)
    outcomes = world.together(holding, pipeline(world.dependency().fn))
    assert [outcome.value for outcome in outcomes] == [7, "instead"]


def test_results_that_are_judged_failures_are_answered_for(world: World) -> None:
    """For a result that is judged a failure, `call` gets None as the error."""
    calls, ask = asked(world, "instead")
    guarded = Pipeline(Fallback(call=ask), classify=BAD)(world.dependency("bad", "good").fn)
    assert world.call(guarded, 1) == "instead"
    assert calls == [(None, (1,), {})]
    assert world.call(guarded) == "good"


@pytest.mark.parametrize(("verdict", "answer"), [("failure", "instead"), ("nothing", 7), ("success", 7)])
def test_verdict_says_whether_a_result_is_a_failure(world: World, verdict: Any, answer: Any) -> None:
    """Only a result with a failure verdict is answered for."""
    judge = Classifier(results=lambda result: Verdict(verdict))
    assert world.call(Pipeline(Fallback("instead"), classify=judge)(world.dependency(7).fn)) == answer


@pytest.mark.every_loop
async def test_cancellation_is_not_answered_for() -> None:
    """A cancelled caller gets its CancelledError."""
    entered = asyncio.Event()

    @Fallback(7)
    async def fetch() -> int:
        entered.set()
        await asyncio.sleep(60)
        return 1

    task = asyncio.create_task(fetch())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_base_exceptions_pass(error: type[BaseException]) -> None:
    """A BaseException is not answered for, not even if `on` names it."""
    for on in (None, error):

        @Fallback(7, on=on)
        def fetch() -> None:
            raise error

        with pytest.raises(error):
            fetch()


class Stale:
    """An object with an async `__call__` that answers."""

    async def __call__(self, error: Exception | None, key: str) -> str:
        return key


async def _stale(error: Exception | None, key: str) -> str:
    return key


@pytest.mark.parametrize("ask", [_stale, Stale(), functools.partial(_stale), Stale().__call__], ids=repr)
def test_async_answer_around_a_def_is_refused_when_it_is_decorated(ask: Any) -> None:
    """The refusal comes at decoration, not in the first outage."""

    def fetch(key: str) -> str:
        raise OSError

    async def fetch_async(key: str) -> str:
        raise OSError

    with pytest.raises(TypeError, match="its call= is an async def, which a plain def cannot await"):
        Fallback(call=ask)(fetch)
    assert asyncio.run(Fallback(call=ask)(fetch_async)("key")) == "key"  # type: ignore[arg-type]


# -- the result that it replaces ------------------------------------------------------------------------------------


class Response:
    """A result that must be closed, because it has a status."""

    status_code = 500

    def __init__(self, error: Exception | None = None) -> None:
        self.closed = 0
        self.error = error

    def close(self) -> None:
        self.closed += 1
        if self.error is not None:
            raise self.error


class AsyncResponse(Response):
    """A response that a coroutine closes, as httpx's streams do."""

    def close(self) -> None:
        raise AssertionError("`aclose` goes before `close`")

    async def aclose(self) -> None:
        super().close()


@pytest.mark.parametrize("error", [None, OSError()])
def test_replaced_result_is_closed(world: World, error: Exception | None) -> None:
    """The replaced result is closed once, before `call`; errors of its closing are ignored."""
    response = AsyncResponse(error) if world.is_async else Response(error)
    closed: list[int] = []

    def ask(error: Exception | None) -> str:
        closed.append(response.closed)
        return "instead"

    judge = Classifier(results=lambda result: isinstance(result, Response))
    assert world.call(Pipeline(Fallback(call=ask), classify=judge)(world.dependency(response).fn)) == "instead"
    assert closed == [1]
    assert response.closed == 1


def test_result_that_is_the_fallbacks_own_value_is_not_closed(world: World) -> None:
    """The function returns the same object that is the Fallback's value: it is not closed."""
    response = Response()
    pipeline = Pipeline(Fallback(response), classify=Classifier(results=lambda result: True))
    assert world.call(pipeline(world.dependency(response).fn)) is response
    assert response.closed == 0


def test_result_that_is_returned_is_not_closed(world: World) -> None:
    """A result that comes back to the caller is not closed."""
    response = Response()
    assert world.call(Pipeline(Fallback(7), classify=BAD)(world.dependency(response).fn)) is response
    assert response.closed == 0


# -- events ---------------------------------------------------------------------------------------------------------


def test_standing_in_is_told_of(world: World) -> None:
    """FellBack has the error, or None for a result; it is not emitted for a call that succeeds."""
    pipeline = Pipeline(Fallback(7, name="stale"), name="prices", classify=BAD)
    heard: list[Any] = []
    pipeline.listen(lambda event: heard.append(event) if type(event) is FellBack else None)
    error = OSError()
    guarded = pipeline(world.dependency("good", error, "bad", TypeError()).fn)
    world.call(guarded)
    assert heard == []
    world.call(guarded)
    world.call(guarded)
    world.outcome(guarded)
    assert [(event.pipeline, event.policy, event.error) for event in heard] == [
        ("prices", "stale", error),
        ("prices", "stale", None),
    ]


# -- in a stack -----------------------------------------------------------------------------------------------------


def test_fallback_around_a_retry_answers_after_the_last_attempt(world: World) -> None:
    """`call` gets the last real error, with the note of the attempts."""
    calls, ask = asked(world, "instead")
    last = OSError("last")
    dependency = world.dependency(OSError(), OSError(), last)
    assert world.call(Pipeline(Fallback(call=ask), Retry(3, wait=0))(dependency.fn)) == "instead"
    assert len(dependency.calls) == 3
    assert calls[0][0] is last
    assert last.__notes__ == ["resilient: Retry gave up after 3 attempts: attempts spent"]


def test_fallback_around_a_retry_that_succeeds_is_not_asked(world: World) -> None:
    """A failure that was repeated with success is not answered for."""
    assert world.call(Pipeline(Fallback("instead"), Retry(2, wait=0))(world.dependency(OSError(), 7).fn)) == 7


def test_two_fallbacks_are_asked_one_after_the_other(world: World) -> None:
    """The outer Fallback answers for a failure of the inner one."""
    first, second = OSError(), KeyError()
    inner_calls, inner = asked(world, second)
    outer_calls, outer = asked(world, "at last")
    pipeline = Pipeline(Fallback(call=outer), Fallback(call=inner))
    assert world.call(pipeline(world.dependency(first).fn), 1) == "at last"
    assert inner_calls == [(first, (1,), {})]
    assert outer_calls == [(second, (1,), {})]


def test_fallback_inside_answers_before_what_stands_outside_it_sees_anything(world: World) -> None:
    """For a bulkhead outside the Fallback, the call succeeds."""
    bulkhead = Bulkhead(1)
    pipeline = Pipeline(bulkhead, Fallback("instead"), Timeout(5))
    assert world.call(pipeline(world.dependency(OSError()).fn)) == "instead"
    assert_idle(pipeline.snapshot())


def test_fallback_in_a_nested_pipeline_answers_by_its_own_judgement(world: World) -> None:
    """An error that the inner classifier ignores passes the inner Fallback, and the outer one answers."""
    inner = Pipeline(Fallback("inner"), classify=Classifier(ignore=KeyError))
    pipeline = Pipeline(Fallback("outer"), inner)
    guarded = pipeline(world.dependency(KeyError(), OSError()).fn)
    assert world.call(guarded) == "outer"
    assert world.call(guarded) == "inner"


def test_fallback_around_a_whole_stack_answers_for_all_of_it(world: World) -> None:
    """The breaker inside opens all the same, and all permits are given back."""
    breaker = CircuitBreaker(fail_max=2, failure_rate=None)
    pipeline = Pipeline(Fallback("instead"), Timeout(60), Retry(2, wait=0), Bulkhead(1), breaker, Timeout(5))
    dependency = world.dependency(OSError(), OSError())
    guarded = pipeline(dependency.fn)
    assert [world.call(guarded) for _ in range(3)] == ["instead"] * 3
    assert breaker.state == "open"
    assert len(dependency.calls) == 2
    assert_idle(pipeline.snapshot())


def test_fallback_around_a_hedge_answers_when_all_copies_have_failed(world: World) -> None:
    """`call` gets the error of the first copy."""
    calls, ask = asked(world, "instead")
    first = OSError()
    pipeline = Pipeline(Fallback(call=ask), Hedge(5, thread=True))
    assert world.call(pipeline(world.dependency(first, OSError()).fn)) == "instead"
    assert calls[0][0] is first


def test_timeout_around_a_fallback_bounds_it() -> None:
    """A Timeout outside also limits the time of `call`."""

    async def main() -> float:
        async def slow(error: Exception | None) -> None:
            await asyncio.sleep(60)

        @Pipeline(Timeout(2), Fallback(call=slow))
        async def fetch() -> None:
            raise OSError

        with pytest.raises(TimedOut):
            await fetch()
        return asyncio.get_running_loop().time()

    from resilient.runtime import virtual

    assert virtual.run(main()) == 2


def test_switched_off_it_answers_for_no_call() -> None:
    """Under `switch("off")` the failure comes back."""
    pipeline = Pipeline(Fallback(7))

    def fetch() -> None:
        raise OSError

    with pipeline.switch("off"), pytest.raises(OSError):
        pipeline.call(fetch)


def test_block_is_refused() -> None:
    """A block has no result that could be replaced, and its error must not vanish."""
    with pytest.raises(TypeError, match="a block has no result that could be replaced; guard a function"):
        for attempt in Pipeline(Fallback(7)).attempts():
            with attempt:
                raise OSError


class Scene:
    """Calls that fail, queue, and fall back on a slow function."""

    starts = (0.0, 0.0, 0.125)

    def __init__(self) -> None:
        async def slow(error: Exception | None) -> str:
            await asyncio.sleep(0.125)
            return "instead"

        self.pipeline = Pipeline(Bulkhead(1, queue=2), Fallback(call=slow), Retry(2, wait=0.125), Timeout(1))

        @self.pipeline
        async def fetch() -> None:
            await asyncio.sleep(0.125)
            raise OSError

        self.call = lambda number: fetch()

    async def drain(self) -> None:
        """Does nothing: no work goes on in the background."""

    def assert_idle(self) -> None:
        assert_idle(self.pipeline.snapshot())


def test_everything_comes_back_wherever_a_call_that_falls_back_is_cancelled() -> None:
    """All permits come back, also if the caller is cancelled while `call` runs."""
    for victim in range(3):
        assert cancel_at_every_point(Scene, victim) > 3


# -- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [Fallback, lambda: Fallback(7, call=print)])
def test_fallback_needs_a_value_or_a_function(build: Callable[[], object]) -> None:
    """Exactly one of `value` and `call` must be given."""
    with pytest.raises(TypeError, match="Fallback needs a value, or call="):
        build()


def test_fallback_describes_itself() -> None:
    """The `repr` leaves out the value, which may be large or secret."""
    assert repr(Fallback("secret")) == "Fallback(a value)"
    assert repr(Fallback(call=print)) == "Fallback(print)"
