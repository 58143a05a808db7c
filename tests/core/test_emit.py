"""Events of calls and attempts have the verdicts that the policies learned, on every path."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resilient import CircuitBreaker, Classifier, Fallback, Hedge, Pipeline, Retry, Timeout, current_call
from resilient.events import CallEnded
from resilient.observe.shadow import report_shadows
from resilient.observe.trace import read_trace, record_trace
from tests.recorders import EventRecorder, LearningRecorder
from tests.worlds import Hang, Slow, World

SCRIPT = ("good", "bad", OSError(), KeyError(), TypeError(), "good")
VERDICTS = ["success", "failure", "failure", "nothing", "nothing", "success"]
ENDINGS = ["success", "failure", "failure", "failure", "failure", "success"]


class BadResults(Classifier):
    """Bad results are failures, a KeyError says nothing; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__(ignore=KeyError, results=lambda result: result == "bad")
        self.asked = 0

    def error(self, error: Exception) -> Any:
        self.asked += 1
        return super().error(error)

    def result(self, result: Any) -> Any:
        self.asked += 1
        return super().result(result)


def decorated(world: World, pipeline: Pipeline, fn: Callable[..., Any]) -> Callable[[], Any]:
    """Guard the function by a decorator."""
    return pipeline(fn)


def called(world: World, pipeline: Pipeline, fn: Callable[..., Any]) -> Callable[[], Any]:
    """Guard the function by `Pipeline.call`, without a decorator."""
    return lambda: pipeline.call(fn)


def blocked(world: World, pipeline: Pipeline, fn: Callable[..., Any]) -> Callable[[], Any]:
    """Guard the function as a block."""

    async def block() -> None:
        async for attempt in pipeline.attempts():
            async with attempt:
                attempt.result = await fn()

    def block_def() -> None:
        for attempt in pipeline.attempts():
            with attempt:
                attempt.result = fn()

    return block if world.is_async else block_def


WAYS = [decorated, called, blocked]


WANTED = pytest.mark.parametrize("wanted", [(), (CallEnded,)], ids=["everything", "ends"])


@WANTED
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("derived", [False, True], ids=["pipeline", "derived"])
def test_told_is_what_was_learned(world: World, way: Any, derived: bool, wanted: Any) -> None:
    """Of each attempt and of each call, by the judgement of the pipeline that makes them; which is asked once."""
    ledger, classifier = LearningRecorder(), BadResults()
    pipeline = Pipeline(ledger, classify=None if derived else classifier)
    told = EventRecorder(pipeline, *wanted)
    if derived:
        pipeline = pipeline._derive((ledger,), classifier)
    dependency = world.dependency(*SCRIPT)
    for _ in SCRIPT:
        world.outcome(way(world, pipeline, dependency.fn))
    assert ledger.learned == VERDICTS
    assert told.verdicts == ([] if wanted else VERDICTS)
    assert [call.verdict for call in told.calls] == VERDICTS
    assert [call.ending for call in told.calls] == ENDINGS
    assert sum(call.requests for call in told.calls) == len(dependency.calls) == len(SCRIPT)
    assert classifier.asked == len(SCRIPT)


@WANTED
@pytest.mark.parametrize("way", WAYS)
def test_told_is_the_last_outcome_of_a_call_that_was_repeated(world: World, way: Any, wanted: Any) -> None:
    """The call ends with its last outcome, and each attempt with its own."""
    ledger = LearningRecorder()
    pipeline = Pipeline(Retry(2, wait=0), ledger, classify=BadResults())
    told = EventRecorder(pipeline, *wanted)
    dependency = world.dependency("bad", "good", "bad", OSError(), OSError(), "bad", OSError(), KeyError())
    for _ in range(4):
        world.outcome(way(world, pipeline, dependency.fn))
    assert told.verdicts == ([] if wanted else ledger.learned)
    assert [(call.ending, call.verdict, call.requests) for call in told.calls] == [
        ("success", "success", 2),
        ("failure", "failure", 2),
        ("failure", "failure", 2),
        ("failure", "nothing", 2),
    ]


@pytest.mark.parametrize(("value", "ending"), [("stale", "success"), ("bad", "failure")])
def test_answer_of_a_fallback_says_nothing_of_the_dependency(world: World, value: str, ending: str) -> None:
    """The answer of a Fallback has the verdict "nothing", and ends the call well or not."""
    pipeline = Pipeline(Fallback(value), LearningRecorder(), classify=BadResults())
    told = EventRecorder(pipeline)
    for step in (OSError(), "bad", "good"):
        world.call(pipeline(world.dependency(step).fn))
    assert [(call.ending, call.verdict) for call in told.calls] == [
        (ending, "nothing"),
        (ending, "nothing"),
        ("success", "success"),
    ]


def test_refusal_says_nothing_and_a_timeout_is_a_failure(world: World) -> None:
    """Events judge a refusal as nothing and a timeout as a failure, as gates do."""
    ledger, breaker = LearningRecorder(), CircuitBreaker(None, fail_max=1)
    pipeline = Pipeline(ledger, breaker, Timeout(0.01, thread=True))
    told = EventRecorder(pipeline)
    dependency = world.dependency(Hang())
    for _ in range(2):
        world.outcome(pipeline(dependency.fn))
    assert ledger.learned == ["failure", "nothing"]
    assert [(call.ending, call.verdict, call.requests) for call in told.calls] == [
        ("timeout", "failure", 1),
        ("rejected", "nothing", 0),
    ]


@pytest.mark.parametrize("asks", ["error", "result"])
def test_mistake_of_the_classifier_is_told_as_the_callers(world: World, asks: str) -> None:
    """An error of the classifier is an event that says nothing about the dependency."""

    class Broken(Classifier):
        judges_results = True

        def error(self, error: Exception) -> Any:
            raise LookupError

        def result(self, result: Any) -> Any:
            raise LookupError

    ledger = LearningRecorder()
    pipeline = Pipeline(Retry(3, wait=0), ledger, classify=Broken())
    told = EventRecorder(pipeline)
    dependency = world.dependency(OSError() if asks == "error" else "good")
    assert isinstance(world.outcome(pipeline(dependency.fn)).error, LookupError)
    assert ledger.learned == ["nothing"]
    assert [(call.ending, call.verdict, type(call.error)) for call in told.calls] == [
        ("failure", "nothing", LookupError)
    ]


@WANTED
def test_mistake_says_nothing_though_its_type_would_be_a_failure(world: World, wanted: Any) -> None:
    """A mistake of the caller says nothing, also if the dependency has raised an error of the same type before."""

    def broken(error: Exception) -> bool:
        raise LookupError

    pipeline = Pipeline(Retry(3, wait=0, on=broken))
    told = EventRecorder(pipeline, *wanted)
    world.outcome(pipeline(world.dependency(LookupError()).fn))
    assert [(call.ending, call.verdict, type(call.error)) for call in told.calls] == [
        ("failure", "nothing", LookupError)
    ]


@WANTED
def test_copies_of_a_hedge_are_told_of_one_by_one(world: World, wanted: Any) -> None:
    """Each copy of a hedge has events with its own verdict."""
    ledger = LearningRecorder()
    pipeline = Pipeline(Hedge(60, copies=3, thread=True), ledger, classify=BadResults())
    told = EventRecorder(pipeline, *wanted)
    dependency = world.dependency(OSError(), "bad", Slow(0.005, "good"))
    assert world.call(pipeline(dependency.fn)) == "good"
    assert ledger.learned == ["failure", "failure", "success"]
    assert told.verdicts == ([] if wanted else ledger.learned)
    assert [(call.ending, call.verdict, call.requests) for call in told.calls] == [("success", "success", 3)]


@WANTED
@pytest.mark.parametrize("way", WAYS)
def test_listener_finds_the_call_that_is_told_of(world: World, way: Any, wanted: Any) -> None:
    """Once, also when a block has ended."""
    pipeline, found = Pipeline(Retry(2, wait=0), name="users"), []

    def hear(event: Any) -> None:
        call = current_call()
        found.append((type(event).__name__, call and call.pipeline, call and call.outer))

    pipeline.listen(hear, *wanted)
    world.outcome(way(world, pipeline, world.dependency(7).fn))
    named = ("CallEnded",) if wanted else ("AttemptStarted", "AttemptReturned", "CallEnded")
    assert found == [(name, "users", None) for name in named]


@pytest.mark.parametrize("way", WAYS)
def test_shadow_report_and_trace_have_what_was_learned(world: World, way: Any, tmp_path: Path) -> None:
    """Of the calls that would have been refused, the report counts those that succeeded."""
    ledger = LearningRecorder()
    breaker = CircuitBreaker(None, fail_max=1, break_duration=60, shadow=True)
    pipeline = Pipeline(ledger, breaker, name="users", classify=BadResults())
    dependency = world.dependency("bad", *SCRIPT)
    with report_shadows(pipeline) as report, record_trace(tmp_path / "trace.jsonl", pipeline):
        for _ in range(7):
            world.outcome(way(world, pipeline, dependency.fn))
    would = report.policies["users", "CircuitBreaker"]
    assert (would.refused, would.went_well) == (6, 2)
    trace = read_trace(tmp_path / "trace.jsonl")
    assert Counter(call.ending for call in trace.calls) == Counter(["failure", *ENDINGS])
    assert sum(attempt.failed and not attempt.ignored for attempt in trace.attempts) == ledger.learned.count("failure")
    assert sum(attempt.ignored for attempt in trace.attempts) == ledger.learned.count("nothing")


@pytest.mark.virtual_time
async def test_cancelled_call_says_nothing() -> None:
    """However old it is, that is the caller's."""
    ledger = LearningRecorder()
    pipeline = Pipeline(ledger, Timeout(60))
    told = EventRecorder(pipeline)
    task = asyncio.create_task(pipeline.call(asyncio.sleep, 50))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger.learned == ["nothing"]
    assert [(call.ending, call.verdict) for call in told.calls] == [("cancelled", "nothing")]
    assert told.verdicts == ["nothing"]


def test_event_has_a_verdict_by_default() -> None:
    """An event that is made by hand has the verdict "nothing"."""
    assert CallEnded("", 0.0, "f", 1, 0.0, "success", None).verdict == "nothing"
