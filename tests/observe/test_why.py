"""Why: the reason for which a call ended as it did, for errors of every kind, and on request for results."""

from __future__ import annotations

import asyncio
import copy
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import resilient
from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
    deadline,
    why,
)
from resilient.core.call import new_call
from tests.observe.raising import raised
from tests.worlds import World

pytestmark = pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")


def steps_of(outcome: BaseException) -> list[str]:
    """The kinds of the steps of the outermost call."""
    return [step["what"] for step in why(outcome).as_json()["calls"][0]["steps"]]


# -- every way to fail -----------------------------------------------------------------------------------------------


def _used_up() -> Pipeline:
    return Pipeline(Retry(2), RateLimit(1, per=3600, burst=1), name="why")


def _isolated() -> Pipeline:
    breaker = CircuitBreaker()
    breaker.isolate()
    return Pipeline(Retry(2), breaker, name="why")


def _closed() -> Pipeline:
    pipeline = Pipeline(Bulkhead(1), name="why")
    pipeline.close()
    return pipeline


def _full(gate: Any) -> Callable[[], Pipeline]:
    def make() -> Pipeline:
        policy = gate()
        policy.admit(new_call(len, (), {}, None))
        return Pipeline(Retry(2), policy, name="why")

    return make


REFUSING: dict[str, tuple[Callable[[], Pipeline], str]] = {
    "CircuitOpen": (_isolated, "isolated"),
    "RateLimited": (_used_up, "no-token"),
    "PipelineClosed": (_closed, "closed"),
    "BulkheadFull": (_full(lambda: Bulkhead(1)), "full"),
    "LimitExceeded": (_full(lambda: AdaptiveLimit(1, max_limit=1)), "no-room"),
}


@pytest.mark.parametrize("name", REFUSING)
def test_refusals_of_all_kinds(world: World, name: str) -> None:
    """Each says its pipeline and its text, before and after it was pickled."""
    make, code = REFUSING[name]
    guarded = make()(world.dependency(7).fn)
    error: Any = world.outcome(guarded).error or world.outcome(guarded).error  # a RateLimit admits one
    assert error is not None
    for each in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        found = why(each).as_json()
        assert (found["error"], found["ended"]) == (f"resilient.errors:{name}", "rejected")
        assert (each.code, found["code"]) == (code, code)
        assert [call["pipeline"] for call in found["calls"]] == ["why"]
        assert f"why: {found['text']}" == str(error)


def test_error_of_the_function_after_retries(world: World) -> None:
    """In every runtime: attempts, and the reason that they ended."""
    guarded = Pipeline(Retry(3, wait=0.001), name="why")(world.dependency(OSError(), OSError(), ValueError()).fn)
    error = world.outcome(guarded).error
    assert isinstance(error, ValueError)
    (call,) = why(error).as_json()["calls"]
    assert (call["attempts"], call["policy"], call["reason"], call["code"]) == (
        3,
        "Retry",
        "attempts spent",
        "attempts",
    )
    assert [step["what"] for step in call["steps"]] == ["attempt", "pause", "attempt", "pause", "attempt"]
    assert [step["error"] for step in call["steps"][::2]] == ["OSError", "OSError", "ValueError"]
    assert all(step["seconds"] == 0.001 for step in call["steps"][1::2])


def test_error_without_a_retry(world: World) -> None:
    """A pipeline that makes no `Call` unless something fails: its calls are found, too."""
    for policies in ((Bulkhead(1),), (Fallback(0, on=KeyError),), (Timeout(5),)):
        pipeline = Pipeline(*policies, name="why")
        error = world.outcome(pipeline(world.dependency(OSError()).fn)).error
        assert error is not None
        (call,) = why(error).as_json()["calls"]
        assert (call["pipeline"], call["attempts"]) == ("why", 1)
        assert call["reason"] == "no policy of the pipeline repeats a call"


def test_error_that_is_not_repeated(world: World) -> None:
    """The reason is the verdict."""
    guarded = Pipeline(Retry(3), name="why")(world.dependency(TypeError()).fn)
    error = world.outcome(guarded).error
    assert error is not None
    assert str(why(error)).splitlines()[1] == "  not repeated: not worth repeating"


def test_error_that_the_retry_leaves_out(world: World) -> None:
    """The classifier calls it worth repeating, but `on` does not name it."""
    guarded = Pipeline(Retry(3, on=KeyError), name="why")(world.dependency(OSError()).fn)
    error = world.outcome(guarded).error
    assert error is not None
    assert str(why(error)).splitlines()[1] == "  not repeated: no policy of the pipeline repeats this error"


def test_error_of_a_callback(world: World) -> None:
    """It is the caller's own, and the dependency has no part in it."""

    def predicate(error: BaseException) -> bool:
        raise ZeroDivisionError

    guarded = Pipeline(Retry(3, on=predicate), name="why")(world.dependency(OSError()).fn)
    error = world.outcome(guarded).error
    assert isinstance(error, ZeroDivisionError)
    assert "not repeated: your own code raised it" in str(why(error))


@pytest.mark.virtual_time
async def test_failed_hedge_is_not_called_unrepeated() -> None:
    """Its copies were repetitions."""

    @Pipeline(Hedge(0.02), name="why")
    async def fails() -> None:
        await asyncio.sleep(0.05)
        raise OSError

    assert "not repeated" not in str(why(await raised(fails)))


def test_classifier_that_raises_leaves_the_reason_open(world: World) -> None:
    """An error of the classifier, when it is asked for a report, changes nothing."""
    broken: list[bool] = []

    class Breaking(Classifier):
        def error(self, error: Exception) -> Any:
            if broken:
                raise KeyError
            return super().error(error)

    guarded = Pipeline(Retry(3), name="why", classify=Breaking())(world.dependency(TypeError()).fn)
    error = world.outcome(guarded).error
    assert isinstance(error, TypeError)
    assert "not repeated: not worth repeating" in str(why(error))
    broken.append(True)
    assert "not repeated" not in str(why(error))


def test_budget_that_is_exhausted(world: World) -> None:
    """The reason that retries ended is the budget's."""
    budget = Budget(reserve=0.0)
    guarded = Pipeline(Retry(3, wait=0, budget=budget), name="why")(world.dependency(OSError()).fn)
    error = world.outcome(guarded).error
    assert error is not None
    assert "  retries ended: the budget for extra requests is exhausted (Retry, 1 attempt)" in str(why(error))


@pytest.mark.virtual_time
async def test_deadline_of_the_caller() -> None:
    """A call that an outer deadline ends says so."""

    @Pipeline(Retry(3, wait=1), name="why")
    async def slow() -> None:
        await asyncio.sleep(5)

    with deadline(2):
        error = await raised(slow)
    assert str(why(error)).splitlines()[:2] == [
        "TimedOut: slow timed out in pipeline why",
        "  the deadline of 2 s, set by the caller, has passed",
    ]
    assert steps_of(error) == ["timeout"]


@pytest.mark.virtual_time
async def test_pause_that_would_outlive_the_deadline() -> None:
    """The time that was left is shown."""

    @Pipeline(Timeout(3), Retry(9, wait=2), name="why")
    async def fails() -> None:
        raise OSError

    text = str(why(await raised(fails)))
    reason = "retries ended: a wait of 2 s would outlive the deadline (Retry, 2 attempts in 2 s)"
    assert reason in " ".join(text.split())
    assert "  1 s were left until its deadline" in text.splitlines()


@pytest.mark.virtual_time
async def test_cancelled_call() -> None:
    """A cancellation through a guarded call is reported as such."""

    @Pipeline(Retry(3, wait=0), CircuitBreaker(), Timeout(9), name="why")
    async def hang() -> None:
        await asyncio.sleep(5)

    task = asyncio.create_task(hang())
    await asyncio.sleep(1)
    task.cancel()
    error = await raised(lambda: task)
    assert str(why(error)).splitlines() == [
        "CancelledError: hang was cancelled in pipeline why",
        "",
        "      0 ms  attempt 1            1 s  CancelledError",
    ]


def test_block(world: World) -> None:
    """The attempts of a block have their pipeline and their name."""
    pipeline = Pipeline(Retry(2, wait=0), name="why")

    async def main() -> None:
        async for attempt in pipeline.attempts("my block"):
            async with attempt:
                raise OSError

    def main_plainly() -> None:
        for attempt in pipeline.attempts("my block"):
            with attempt:
                raise OSError

    error = world.outcome(main if world.is_async else main_plainly).error
    assert error is not None
    (call,) = why(error).as_json()["calls"]
    assert (call["pipeline"], call["function"], call["attempts"]) == ("why", "my block", 2)


def test_nested_calls_are_shown_from_the_outside_in(world: World) -> None:
    """Each has its own attempts."""
    inner = Pipeline(Retry(2, wait=0), name="inner")
    outer = Pipeline(Retry(2, wait=0), name="outer")
    error = world.outcome(outer(inner(world.dependency(*[OSError() for _ in range(4)]).fn))).error
    assert error is not None
    calls = why(error).as_json()["calls"]
    assert [(call["pipeline"], call["attempts"]) for call in calls] == [("outer", 2), ("inner", 2)]
    assert "  inside it, " in str(why(error))


def test_two_retries_of_one_call_record_each_attempt_once(world: World) -> None:
    """A pipeline inside a pipeline works on the same call."""
    inner = Pipeline(Retry(2, wait=0, name="inner retry"))
    outer = Pipeline(Retry(2, wait=0, name="outer retry"), inner, name="outer")
    error = world.outcome(outer(world.dependency(*[OSError() for _ in range(4)]).fn)).error
    assert error is not None
    (call,) = why(error).as_json()["calls"]
    assert [step["number"] for step in call["steps"]] == [1, 2, 3, 4]
    assert (call["policy"], call["attempts"]) == ("outer retry", 4)


@pytest.mark.virtual_time
async def test_group_of_errors_has_the_reasons_of_its_members() -> None:
    """A group from a TaskGroup: each guarded call in it, and the call around it."""

    @Pipeline(Retry(2, wait=0), name="inner")
    async def fails() -> None:
        raise OSError

    @Pipeline(Bulkhead(5), name="outer")
    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(fails())

    error = await raised(both)
    found = why(error).as_json()
    assert [call["pipeline"] for call in found["calls"]] == ["outer"]
    assert [member["calls"][0]["attempts"] for member in found["members"]] == [2, 2]
    assert "  1. OSError: fails failed in pipeline inner" in str(why(error)).splitlines()
    many = ExceptionGroup("", [ValueError() for _ in range(50)])
    assert len(why(many).as_json()["members"]) == 5
    assert not why(many).guarded


# -- errors that no pipeline has raised ------------------------------------------------------------------------------


def test_error_of_no_guarded_call_says_so() -> None:
    """That is an answer, too."""
    for error in (ValueError("x"), KeyboardInterrupt(), resilient.Rejected("by hand")):
        found = why(error)
        assert not found.guarded
        assert str(found).splitlines()[0] == f"{type(error).__name__}: no guarded call raised this error"


def test_error_raised_from_one_of_a_guarded_call(world: World) -> None:
    """An SDK's own error has the answer of its cause."""
    guarded = Pipeline(Retry(2, wait=0), name="why")(world.dependency(OSError(), OSError()).fn)
    inner = world.outcome(guarded).error
    try:
        try:
            raise LookupError
        except LookupError:
            raise RuntimeError("wrapped") from inner
    except RuntimeError as error:
        found = why(error)
        assert found.guarded
        assert found.as_json()["cause"]["calls"][0]["attempts"] == 2
        assert "  its cause:" in str(found).splitlines()


def test_pipeline_that_is_switched_off_says_so(world: World) -> None:
    """Then nothing is known of the call."""
    pipeline = Pipeline(Retry(2, wait=0), name="why")
    with pipeline.switch("off"):
        error = world.outcome(pipeline(world.dependency(OSError()).fn)).error
    assert error is not None
    assert why(error).as_json()["switched_off"] == ["why"]
    assert "  the pipeline why was switched off" in str(why(error)).splitlines()


def test_error_whose_frames_were_cleared_says_so() -> None:
    """`unittest`'s `assertRaises` does that."""
    with pytest.raises(IndexError) as caught:
        Pipeline(Bulkhead(1), name="why").call([].pop)
    error, trace = caught.value, caught.value.__traceback__
    assert trace is not None
    traceback.clear_frames(trace.tb_next)
    assert "the frames of its traceback were cleared" in " ".join(str(why(error)).split())
    error.__traceback__ = None
    assert "no guarded call" in str(why(error))


@pytest.mark.parametrize("given", [7, None, "text", ValueError, object()])
def test_anything_else_is_refused(given: object) -> None:
    """The message says what to write instead."""
    with pytest.raises(TypeError, match=rf"got {type(given).__name__}: for other results write `with recording\(\)"):
        why(given)
