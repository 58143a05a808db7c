"""Errors of callbacks (a classifier, a predicate, a strategy, a key function) are raised to the caller on every path;
the call is not repeated, and no policy learns from it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    Retry,
    Timeout,
    Verdict,
    quantile,
    standard,
)
from resilient.core.callbacks import CallbackError, is_callback_error, raise_original
from resilient.core.policy import Policy
from tests.worlds import World


class Broken(Exception):
    """The error that the callbacks of these tests raise."""


class Answer:
    """A result that must be closed, like a response."""

    status_code = 200

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def broken(*args: Any, **kwargs: Any) -> Any:
    """A predicate that raises."""
    raise Broken("in the predicate")


class BrokenResult(Classifier):
    """A classifier whose `result` raises."""

    @property
    def judges_results(self) -> bool:
        return True

    def result(self, result: Any) -> Verdict:
        raise Broken("in the subclass")


class BrokenError(Classifier):
    """A classifier whose `error` raises."""

    def error(self, error: Exception) -> Verdict:
        raise Broken("in the subclass")


RESULTS = [Classifier(results=broken), BrokenResult()]
ERRORS = [Classifier(failures=broken), Classifier(ignore=broken), Classifier(fatal=broken), BrokenError()]
OUTER: dict[str, Callable[[], Policy]] = {
    "Retry": lambda: Retry(3, wait=0),
    "CircuitBreaker": lambda: CircuitBreaker(None, fail_max=1),
    "Fallback": lambda: Fallback("stale"),
}

POLICIES: dict[str, Callable[[], tuple[Policy, ...]]] = {
    "retry": lambda: (Retry(3, wait=0),),
    "retry by tenacity": lambda: (Retry(3, wait=tenacity.wait_none()),),
    "breaker": lambda: (CircuitBreaker(None, fail_max=1),),
    "adaptive limit": lambda: (AdaptiveLimit(),),
    "fallback": lambda: (Fallback("stale"),),
    "hedge": lambda: (Hedge(10, thread=True),),
    "hedge that observes": lambda: (Hedge(quantile(0.9), thread=True),),
    "all": lambda: (Fallback("stale"), Retry(3, wait=0), Bulkhead(5), CircuitBreaker(None, fail_max=1), Timeout(5)),
    "nested": lambda: (Retry(3, wait=0), Pipeline(Retry(1), CircuitBreaker(None, fail_max=1), classify=RESULTS[0])),
}


def raised(world: World, pipeline: Policy, dependency: Any) -> BaseException:
    """The error that the caller of a guarded function gets."""
    error = world.outcome(pipeline(dependency.fn)).error
    assert error is not None
    return error


def untouched(pipeline: Pipeline) -> bool:
    """Whether no gate of a pipeline has given out a permit or learned of a failure."""
    states = pipeline.snapshot()["policies"]
    return not any(state.get(key) for state in states for key in ("in_use", "in_flight", "failures", "probes"))


@pytest.mark.parametrize("classify", RESULTS, ids=["results", "subclass"])
@pytest.mark.parametrize("policies", POLICIES.values(), ids=POLICIES)
def test_result_predicate_that_raises_repeats_nothing(world: World, policies: Any, classify: Classifier) -> None:
    """The call has succeeded, so it is not repeated; its result is closed, and the circuit learns nothing."""
    pipeline, answer = Pipeline(*policies(), classify=classify), Answer()
    dependency = world.dependency(answer, answer, answer)
    assert type(raised(world, pipeline, dependency)) is Broken
    assert len(dependency.calls) == 1
    assert answer.closed == 1
    assert untouched(pipeline)


@pytest.mark.parametrize("classify", ERRORS, ids=["failures", "ignore", "fatal", "subclass"])
@pytest.mark.parametrize("policies", [*POLICIES.values()][:-1], ids=[*POLICIES][:-1])
def test_error_predicate_that_raises_repeats_nothing(world: World, policies: Any, classify: Classifier) -> None:
    """The caller gets the error of the predicate, with the error of the function in its context."""
    pipeline, down = Pipeline(*policies(), classify=classify), OSError("down")
    dependency = world.dependency(down, down, down)
    error = raised(world, pipeline, dependency)
    assert type(error) is Broken
    assert error.__context__ is down
    assert not error.__suppress_context__
    assert len(dependency.calls) == 1
    assert untouched(pipeline)


ASKED: dict[str, Callable[[], Policy]] = {
    "Retry(on)": lambda: Retry(3, wait=0, on=broken),
    "Retry(on=tenacity)": lambda: Retry(3, wait=0, on=tenacity.retry_if_exception(broken)),
    "Retry(wait)": lambda: Retry(3, wait=broken),
    "Retry(stop)": lambda: Retry(stop=broken, wait=0),
    "Retry(after)": lambda: Retry(3, wait=0, after=broken),
    "Retry(before_sleep)": lambda: Retry(3, wait=0, before_sleep=broken),
    "Fallback(on)": lambda: Fallback("stale", on=broken),
}


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")  # an order that nobody should write
@pytest.mark.parametrize("outer", OUTER.values(), ids=OUTER)
@pytest.mark.parametrize("policy", ASKED.values(), ids=ASKED)
def test_strategy_that_raises_is_no_failure_to_the_policies_around(world: World, policy: Any, outer: Any) -> None:
    """The dependency has no part in such an error: it is not repeated or counted, and no Fallback answers for it."""
    down = OSError("down")
    dependency = world.dependency(down, down)
    error = raised(world, Pipeline(outer(), policy(), Bulkhead(5)), dependency)
    assert type(error) is Broken
    assert error.__context__ is down
    assert len(dependency.calls) == 1


KEYS: dict[str, Callable[[], Policy]] = {
    "Keyed(key)": lambda: Keyed(lambda: Bulkhead(5), key=broken),
    "Keyed(queue)": lambda: Keyed(lambda: Bulkhead(5, queue=5), key=broken),
    "Keyed(key=missing)": lambda: Keyed(CircuitBreaker, key=lambda: {}["tenant"]),
    "Keyed(key=unhashable)": lambda: Keyed(CircuitBreaker, key=lambda: []),
    "Hedge(key)": lambda: Hedge(quantile(0.9), key=broken, thread=True),
    "AdaptiveLimit(priority)": lambda: AdaptiveLimit(priority=broken),
    "AdaptiveLimit(priority=unknown)": lambda: AdaptiveLimit(priority=lambda: "urgent"),
}


@pytest.mark.parametrize("policy", KEYS.values(), ids=KEYS)
def test_key_function_that_raises_is_asked_once(world: World, policy: Any) -> None:
    """A Retry around the call does not call the key function again, and a Fallback does not hide its error."""
    dependency = world.dependency()
    error = raised(world, Pipeline(Fallback("stale"), Retry(3, wait=0), policy()), dependency)
    assert type(error) in (Broken, KeyError, TypeError, ValueError)
    assert len(dependency.calls) == 0


def test_accept_that_raises_closes_the_result(world: World) -> None:
    """The copy of a hedge whose result cannot be classified does not win."""
    answer = Answer()
    dependency = world.dependency(answer)
    error = raised(world, Pipeline(Retry(3, wait=0), Hedge(10, accept=broken, thread=True)), dependency)
    assert type(error) is Broken
    assert (len(dependency.calls), answer.closed) == (1, 1)


def test_standard_pipeline_charges_once_for_each_call(world: World) -> None:
    """An unexpected answer that makes a predicate raise does not make the pipeline send the request again."""
    dependency = world.dependency(*[{"status": "ok"}] * 12)
    pipeline = standard(classify=Classifier(results=lambda answer: answer["code"] >= 500))
    for _ in range(12):
        assert type(raised(world, pipeline, dependency)) is KeyError
    assert len(dependency.calls) == 12


def test_predicate_that_raises_from_another_error_keeps_its_own_chain(world: World) -> None:
    """The error of the function is appended to the end of the chain of contexts that the predicate made."""
    down = OSError("down")

    def chained(error: Exception) -> bool:
        try:
            return {}["missing"]  # type: ignore[no-any-return]
        except KeyError:
            raise Broken from None

    error = raised(world, Retry(3, wait=0, on=chained), world.dependency(down))
    assert isinstance(error.__context__, KeyError)
    assert error.__context__.__context__ is down


def test_predicate_that_raises_the_error_itself_raises_that(world: World) -> None:
    """The error is not made its own context."""
    down = OSError("down")

    def again(error: Exception) -> bool:
        raise error

    assert raised(world, Pipeline(Retry(3, wait=0, on=again), Bulkhead(5)), world.dependency(down)) is down
    assert down.__context__ is None


def test_classifier_that_returns_no_verdict_is_told(world: World) -> None:
    """The error of a subclass without a `return` says so, instead of that None has no attribute `kind`."""

    class Forgetful(Classifier):
        def error(self, error: Exception) -> Verdict:
            return None  # type: ignore[return-value]

    error = raised(world, Pipeline(Retry(3, wait=0), classify=Forgetful()), world.dependency(OSError()))
    assert type(error) is TypeError
    assert str(error) == "Forgetful.error() must return a Verdict, got None"


@pytest.mark.parametrize("way", ["attempt", "deadline"])
def test_listener_alone_does_not_make_a_broken_predicate_an_error(world: World, way: str) -> None:
    """If no policy classifies results, a listener of events does not make the call fail."""
    pipeline, answer, heard = Pipeline(Bulkhead(5), classify=RESULTS[0]), Answer(), []
    pipeline.listen(heard.append)
    assert world.call(pipeline(world.dependency(answer).fn)) is answer
    assert [type(event).__name__ for event in heard] == ["AttemptStarted", "AttemptReturned", "CallEnded"]


def test_block_whose_result_cannot_be_judged_ends_with_the_error() -> None:
    """`attempts()` does not swallow the error of a callback."""
    pipeline, rounds = Pipeline(Retry(3, wait=0), CircuitBreaker(None, fail_max=1), classify=RESULTS[0]), 0
    with pytest.raises(Broken):
        for attempt in pipeline.attempts():
            with attempt:
                rounds += 1
                attempt.result = 7
    assert rounds == 1
    assert untouched(pipeline)


def test_raise_original_leaves_no_callback_error_behind() -> None:
    """The `CallbackError` is freed when the error that it carries has been raised."""
    callback_error = CallbackError(Broken("x"), OSError("down"))
    carrier = weakref.ref(callback_error)
    with pytest.raises(Broken) as caught:
        try:
            raise callback_error
        except CallbackError as carried:
            del callback_error
            raise_original(carried)
    gc.collect()
    assert carrier() is None
    assert isinstance(caught.value.__context__, OSError)


# -- asked once -----------------------------------------------------------------------------------------------------


class Counting(Classifier):
    """A classifier that counts its calls."""

    def __init__(self) -> None:
        super().__init__(results=lambda result: result == "bad")
        self.asked: list[Any] = []

    def error(self, error: Exception) -> Verdict:
        self.asked.append(error)
        return super().error(error)

    def result(self, result: Any) -> Verdict:
        self.asked.append(result)
        return super().result(result)


@pytest.mark.parametrize("listens", [False, True], ids=["", "with a listener"])
def test_each_outcome_is_judged_once(world: World, listens: bool) -> None:
    """The classifier is called once for the outcome of each attempt, however many policies and listeners use the
    verdict."""
    classify, down = Counting(), [OSError(), OSError()]
    budget = Budget()
    policies = (
        Fallback("stale"),
        Timeout(1000),
        Retry(4, wait=0, budget=budget),
        Hedge(10, thread=True),
        AdaptiveLimit(),
        CircuitBreaker(),
        Timeout(20),
        CircuitBreaker(name="another"),
    )
    pipeline = Pipeline(*policies, classify=classify)
    if listens:
        pipeline.listen(lambda event: None)
    assert world.call(pipeline(world.dependency(down[0], "bad", down[1], "good").fn)) == "good"
    assert classify.asked == [down[0], "bad", down[1], "good"]


def test_last_failure_is_judged_once(world: World) -> None:
    """The outer policies use the verdict on the failure that comes back when attempts end, also after a rejection."""
    classify, down = Counting(), OSError()
    breaker = CircuitBreaker(None, fail_max=1)
    pipeline = Pipeline(Fallback("stale"), Retry(3, wait=0, on=(OSError,)), breaker, classify=classify)
    assert world.call(pipeline(world.dependency(down).fn)) == "stale"
    assert classify.asked[0] is down
    assert classify.asked.count(down) == 1


def test_same_object_is_judged_anew_for_each_attempt(world: World) -> None:
    """The verdict on a result object that changes between attempts is not kept from the attempt before."""
    states = iter(["pending", "done"])
    pipeline = Pipeline(Retry(3, wait=0), classify=Classifier(results=lambda job: job["state"] == "pending"))
    job: dict[str, str] = {}

    def poll() -> dict[str, str]:
        job["state"] = next(states)
        return job

    assert pipeline(poll)() == {"state": "done"}


def test_error_of_the_callers_own_code_is_told_from_a_failure(world: World) -> None:
    """`is_callback_error` tells it to code that catches the error outside the pipeline."""
    down = OSError()
    judged = Pipeline(Retry(2, wait=0), classify=Classifier(failures=lambda error: error.errno > 7))
    with pytest.raises(TypeError) as mistaken:
        world.call(judged(world.dependency(down, down).fn))
    with pytest.raises(OSError) as failed:
        world.call(Pipeline(Retry(2, wait=0))(world.dependency(down, down).fn))

    assert is_callback_error(mistaken.value)
    assert not is_callback_error(failed.value)
