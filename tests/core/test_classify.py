"""The classifier: the verdicts on errors and results, and what a Retry and a circuit do with them."""

from __future__ import annotations

import asyncio
import math
import pickle
import ssl
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pybreaker
import pytest

from resilient import (
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    PipelineClosed,
    Retry,
    TimedOut,
    Verdict,
)
from resilient.core.call import new_call
from resilient.core.classify import FAILURE, FATAL, IGNORED, PROGRAMMING_ERRORS, REFUSED, SUCCESS, WAITED
from resilient.core.context import PipelineContext
from tests.worlds import World

NONSENSE = [math.nan, math.inf, -math.inf, -1, -0.001, True, False, "3", b"3", None, [3], 3j, 10**400, Decimal(3)]


class Asks(OSError):
    """An error with a `retry_after`."""

    def __init__(self, retry_after: Any) -> None:
        super().__init__("slow down")
        self.retry_after = retry_after


class Foreign(Exception):
    """The refusal of another library's rate limiter."""


class AlwaysAsks(Exception):
    """A type whose errors all have the same `retry_after`."""

    retry_after = 3


class Answers(Exception):
    """An error that has every attribute."""

    def __getattr__(self, name: str) -> float:
        return 4.0


def with_attributes(error: Exception, **attributes: Any) -> Exception:
    vars(error).update(attributes)
    return error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


UNTRUSTED = ssl.SSLCertVerificationError("certificate verify failed")

ERRORS: list[Callable[[], Exception]] = [
    ValueError,
    OSError,
    *PROGRAMMING_ERRORS,
    AlwaysAsks,
    Answers,
    lambda: Asks(5),
    lambda: with_attributes(ValueError(), retry_after=6),
    lambda: with_attributes(Foreign(), status_code=404),
    lambda: with_attributes(Foreign(), __notes__=["seen"]),
    lambda: Foreign(UNTRUSTED),
    lambda: Foreign("why", UNTRUSTED),
    lambda: caused(Foreign(), UNTRUSTED),
    lambda: caused(ValueError(), UNTRUSTED),
    lambda: TimedOut(evidence=False),
    CircuitOpen,
    pybreaker.CircuitBreakerError,
    lambda: ExceptionGroup("two", [ValueError(), TypeError()]),
]

# -- exceptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(), ValueError(), KeyError(), TimeoutError(), RuntimeError(), Exception()])
def test_error_of_a_dependency_is_a_retryable_failure(error: Exception) -> None:
    """By default every error that a dependency raises is a failure worth repeating."""
    assert Classifier().error(error) == FAILURE


@pytest.mark.parametrize("make", ERRORS)
@pytest.mark.parametrize("filters", [{}, {"fatal": ValueError}, {"ignore": Foreign}], ids=str)
def test_verdict_of_a_pipeline_is_that_of_its_classifier(filters: Any, make: Callable[[], Exception]) -> None:
    """The context returns the classifier's verdict also for the second error of a type, which it knows by then."""
    classifier = Classifier(**filters)
    context = PipelineContext("", classifier)
    for _ in range(2):
        error = make()
        assert context.on_error(new_call(print, (), {}, None), error) == classifier.error(error)


@pytest.mark.parametrize("kind", PROGRAMMING_ERRORS)
def test_programming_error_says_nothing(kind: type[Exception]) -> None:
    """An error of the caller's code opens no circuit and is not repeated."""
    assert Classifier().error(kind()) == IGNORED


@pytest.mark.parametrize("kind", [CircuitOpen, BulkheadFull, PipelineClosed])
def test_rejection_says_nothing_whatever_the_classifier_counts(kind: type[Exception]) -> None:
    """A local refusal is no evidence, even if `failures=` names every exception."""
    assert Classifier().error(kind()) == REFUSED
    assert Classifier(failures=Exception).error(kind()) == REFUSED
    assert Classifier(failures=lambda error: True).error(kind()) == REFUSED


def test_rejection_keeps_its_retry_after_to_itself() -> None:
    """The `retry_after` of a rejection is not a pause that the dependency asked for."""
    assert Classifier().error(CircuitOpen(retry_after=31.0)).retry_after is None


def test_timeout_of_the_pipeline_is_a_failure_only_with_evidence() -> None:
    """A timeout whose time passed in local queues is no evidence about the dependency, though another attempt may
    help."""
    assert Classifier().error(TimedOut(evidence=True)) == FAILURE
    assert Classifier().error(TimedOut(evidence=False)) == Verdict("nothing", retryable=True)


@pytest.mark.parametrize("failures", [OSError, (OSError, KeyError), lambda error: isinstance(error, OSError)])
def test_failures_given_leave_the_rest_unjudged(failures: Any) -> None:
    """With `failures=` (types, a tuple of types or a predicate), other errors are no evidence and are not repeated."""
    classifier = Classifier(failures=failures)
    assert classifier.error(ConnectionResetError()) == FAILURE
    assert classifier.error(ValueError()) == IGNORED


def test_failures_given_may_name_programming_errors() -> None:
    """A type in `failures=` is a failure, even if it is a programming error."""
    assert Classifier(failures=TypeError).error(TypeError()) == FAILURE


def test_failures_empty_judges_no_error_a_failure() -> None:
    """With an empty tuple as `failures=` no error is a failure; it is not the same as the default."""
    assert Classifier(failures=()).error(OSError()) == IGNORED


def test_fatal_error_counts_and_is_not_retryable() -> None:
    """A fatal error is evidence against the dependency, but another attempt cannot cure it."""
    classifier = Classifier(fatal=PermissionError)
    assert classifier.error(PermissionError()) == FATAL
    assert classifier.error(OSError()) == FAILURE


def test_ignored_error_says_nothing_even_where_it_is_named_a_failure() -> None:
    """`ignore` comes before `failures` and `fatal`."""
    classifier = Classifier(failures=OSError, fatal=FileNotFoundError, ignore=FileNotFoundError)
    assert classifier.error(FileNotFoundError()) == IGNORED
    assert classifier.error(ConnectionError()) == FAILURE


@pytest.mark.parametrize("failures", [(), ValueError, lambda error: False], ids=["none", "a type", "a predicate"])
def test_timeout_of_the_pipeline_is_a_failure_whatever_failures_names(failures: Any) -> None:
    """`failures=` is about errors of the function; only `ignore=` can exclude the pipeline's own timeout."""
    assert Classifier(failures=failures).error(TimedOut()) == FAILURE
    assert Classifier(failures=failures, ignore=TimedOut).error(TimedOut()) == IGNORED
    assert Classifier(failures=failures, fatal=TimedOut).error(TimedOut()) == FATAL
    assert Classifier(failures=failures).error(TimedOut(evidence=False)) == WAITED


def test_hanging_dependency_opens_a_circuit_whose_failures_do_not_name_timeouts(world: World) -> None:
    """An attempt that the pipeline's Timeout ends is a failure of the dependency."""
    breaker = CircuitBreaker(None, fail_max=1)
    late = TimedOut(policy="Timeout", seconds=1.0)
    world.outcome(Pipeline(breaker, classify=Classifier(failures=ValueError))(world.dependency(late).fn))
    assert breaker.state == "open"


@pytest.mark.parametrize(
    ("error", "classify"),
    [
        (pybreaker.CircuitBreakerError("open"), Classifier()),
        (pybreaker.CircuitBreakerError("open"), Classifier(failures=Exception)),
        (Foreign(), Classifier(rejections=Foreign)),
        (Foreign(), Classifier(rejections=lambda error: isinstance(error, Foreign))),
        (ExceptionGroup("", [Foreign(), CircuitOpen()]), Classifier(rejections=Foreign)),
    ],
    ids=["pybreaker", "pybreaker and failures", "type", "predicate", "group"],
)
def test_refusal_of_another_library_is_a_rejection(world: World, error: Exception, classify: Classifier) -> None:
    """Such a refusal is neither counted nor repeated; a Fallback answers, a Hedge goes on, and the last real failure
    comes back."""
    assert classify.error(error) == REFUSED
    assert attempts_and_failures(world, classify, error) == (1, 0)
    assert world.call(Pipeline(Fallback("stale"), classify=classify)(world.dependency(error).fn)) == "stale"
    hedged = Pipeline(Hedge(60, thread=True), classify=classify)
    assert world.call(hedged(world.dependency(error, "good").fn)) == "good"
    down = OSError("down")
    guarded = Pipeline(Retry(3, wait=0), classify=classify)(world.dependency(down, error).fn)
    assert world.outcome(guarded).error is down


@pytest.mark.parametrize(("on", "calls"), [(Foreign, 2), ((Foreign, OSError), 2), (Exception, 1), (OSError, 1)])
def test_refusal_of_another_library_is_repeated_only_where_it_is_named(world: World, on: Any, calls: int) -> None:
    """`Retry(on=...)` must name the type of the refusal itself; naming a base class is not enough."""
    dependency = world.dependency(Foreign(), 7)
    world.outcome(Pipeline(Retry(2, wait=0, on=on), classify=Classifier(rejections=Foreign))(dependency.fn))
    assert len(dependency.calls) == calls


def test_call_that_another_library_refused_has_been_rejected(world: World) -> None:
    """Events, too, report the call as rejected."""
    pipeline, heard = Pipeline(Retry(2, wait=0), classify=Classifier(rejections=Foreign)), []
    pipeline.listen(heard.append)
    world.outcome(pipeline(world.dependency(Foreign()).fn))
    assert heard[-1].ending == "rejected"


def test_rejections_that_are_no_types_are_refused() -> None:
    """The constructor raises an error that quotes the value."""
    with pytest.raises(TypeError, match="rejections must be exception types or a predicate"):
        Classifier(rejections="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["failures", "fatal", "ignore"])
def test_predicate_is_given_the_error_itself(option: str) -> None:
    """A predicate gets the very object that was raised."""
    seen: list[Exception] = []
    options: dict[str, Any] = {option: lambda error: bool(seen.append(error))}
    error = OSError()
    Classifier(**options).error(error)
    assert seen == [error]
    assert seen[0] is error


@pytest.mark.parametrize("option", ["failures", "fatal", "ignore"])
def test_predicate_that_raises_reaches_whoever_asked(option: str) -> None:
    """`Classifier.error` does not hide the errors of its predicates."""

    def broken(error: Exception) -> bool:
        raise LookupError("broken predicate")

    options: dict[str, Any] = {option: broken}
    with pytest.raises(LookupError, match="broken predicate"):
        Classifier(**options).error(OSError())


@pytest.mark.parametrize("asked", [0, 0.0, 2, 1.5, Fraction(1, 2), 1e300])
def test_retry_after_of_an_error_is_taken_over(asked: Any) -> None:
    """A finite `retry_after` of at least 0 is the pause that the dependency asked for."""
    verdict = Classifier().error(Asks(asked))
    assert verdict == Verdict("failure", retryable=True, retry_after=float(asked))


@pytest.mark.parametrize("asked", NONSENSE, ids=lambda asked: repr(asked)[:9])
def test_retry_after_that_makes_no_sense_is_disregarded(asked: Any) -> None:
    """Such a value comes from outside and does not change the verdict on the failure itself."""
    assert Classifier().error(Asks(asked)) == FAILURE


def test_retry_after_of_a_fatal_error_is_kept_beside_its_verdict() -> None:
    """A pause does not make a fatal error retryable."""
    assert Classifier(fatal=Asks).error(Asks(3)) == Verdict("failure", retryable=False, retry_after=3.0)


# -- results --------------------------------------------------------------------------------------------------------


def test_results_are_successes_by_default() -> None:
    """Without `results=` no result is a failure, not even an exception object."""
    classifier = Classifier()
    assert not classifier.judges_results
    assert [classifier.result(each) for each in (None, 0, OSError())] == [SUCCESS] * 3


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (True, FAILURE),
        (False, SUCCESS),
        (None, SUCCESS),
        (1, FAILURE),
        (Verdict("nothing"), IGNORED),
        (Verdict("failure", True, 2.0), Verdict("failure", True, 2.0)),
    ],
)
def test_results_answer_is_the_verdict(answer: Any, verdict: Verdict) -> None:
    """`results=` returns true for a failure worth repeating, false for a success, or a `Verdict`, which is used as it
    is."""
    classifier = Classifier(results=lambda result: answer)
    assert classifier.judges_results
    assert classifier.result("anything") == verdict


def test_results_that_raises_reaches_whoever_asked() -> None:
    """`Classifier.result` does not hide the errors of `results=`."""
    with pytest.raises(ZeroDivisionError):
        Classifier(results=lambda result: 1 / result).result(0)


# -- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", NONSENSE, ids=lambda asked: repr(asked)[:9])
def test_verdict_with_a_senseless_retry_after_has_none(asked: Any) -> None:
    """A user may pass the value of a header to a `Verdict`: one that makes no sense becomes None, as with
    exceptions."""
    assert Verdict("failure", True, asked).retry_after is None


@pytest.mark.parametrize("kind", ["faliure", "", None, True, "Failure"])
def test_verdict_of_an_unknown_kind_raises_value_error(kind: Any) -> None:
    """A misspelt kind would count as a success and not be noticed."""
    with pytest.raises(ValueError) as caught:
        Verdict(kind)
    assert str(caught.value) == f"kind must be one of success, failure, nothing, got {kind!r}"


@pytest.mark.parametrize("retryable", ["no", 1, None])
def test_verdict_with_a_retryable_that_is_no_bool_raises_type_error(retryable: Any) -> None:
    """`Verdict("failure", 3.0)`, with the pause in the wrong place, is not taken for retryable."""
    with pytest.raises(TypeError) as caught:
        Verdict("failure", retryable)
    assert str(caught.value) == f"retryable must be True or False, got {retryable!r}"


def test_verdict_pickles_and_compares_by_value() -> None:
    """A verdict is plain data, which can be sent to another process."""
    verdict = Verdict("failure", True, 1.5)
    assert pickle.loads(pickle.dumps(verdict)) == verdict
    assert len({verdict, Verdict("failure", True, 1.5), FAILURE}) == 2


# -- one verdict for every policy ------------------------------------------------------------------------------------


def attempts_and_failures(world: World, classify: Classifier, *script: Any) -> tuple[int, int]:
    """The attempts that one call made, of three at most, and the failures that the breaker counted."""
    breaker = CircuitBreaker(min_calls=100)
    dependency = world.dependency(*script)
    world.outcome(Pipeline(Retry(3, wait=0), breaker, classify=classify)(dependency.fn))
    return len(dependency.calls), breaker.snapshot()["failures"]


def test_failure_is_repeated_and_counted(world: World) -> None:
    """Retry and breaker agree that the outcome is a failure."""
    assert attempts_and_failures(world, Classifier(), OSError(), OSError(), 1) == (3, 2)


def test_fatal_error_is_counted_and_not_repeated(world: World) -> None:
    """The breaker counts the failure; another attempt would be wasted."""
    assert attempts_and_failures(world, Classifier(fatal=PermissionError), PermissionError()) == (1, 1)


def test_ignored_error_is_neither_repeated_nor_counted(world: World) -> None:
    """An ignored error, such as a "not found", is an answer."""
    assert attempts_and_failures(world, Classifier(ignore=KeyError), KeyError("user 7")) == (1, 0)


def test_error_outside_failures_is_neither_repeated_nor_counted(world: World) -> None:
    """An error that `failures=` does not name is no evidence for any policy."""
    assert attempts_and_failures(world, Classifier(failures=OSError), ValueError()) == (1, 0)


@pytest.mark.parametrize("kind", PROGRAMMING_ERRORS)
def test_programming_error_is_neither_repeated_nor_counted(world: World, kind: type[Exception]) -> None:
    """A programming error is the caller's, and would be raised again."""
    assert attempts_and_failures(world, Classifier(), kind()) == (1, 0)


def test_failed_result_is_repeated_and_counted(world: World) -> None:
    """Retry and breaker agree that the result is a failure."""
    assert attempts_and_failures(world, Classifier(results=lambda status: status >= 500), 503, 503, 200) == (3, 2)


def test_result_verdict_not_retryable_is_counted_and_not_repeated(world: World) -> None:
    """A `Verdict` says separately whether a result is a failure and whether to repeat the call."""
    assert attempts_and_failures(world, Classifier(results=lambda status: Verdict("failure")), 501) == (1, 1)


def test_result_verdict_nothing_is_neither_counted_nor_repeated(world: World) -> None:
    """A result with the verdict "nothing" is neither a success nor a failure."""
    breaker = CircuitBreaker(min_calls=100)
    dependency = world.dependency(204)
    classify = Classifier(results=lambda status: Verdict("nothing"))
    assert world.call(Pipeline(Retry(3, wait=0), breaker, classify=classify)(dependency.fn)) == 204
    assert (len(dependency.calls), breaker.snapshot()["calls"]) == (1, 0)


def test_error_and_result_classifiers_work_side_by_side(world: World) -> None:
    """A call fails by an error, then by a result, and then succeeds."""
    classify = Classifier(failures=OSError, results=lambda status: status >= 500)
    assert attempts_and_failures(world, classify, OSError(), 503, 200) == (3, 2)


def test_classifier_of_an_inner_pipeline_judges_inside_it_only(world: World) -> None:
    """Each of two nested pipelines has its own classifier."""
    breaker = CircuitBreaker(min_calls=100)
    inner = Pipeline(breaker, classify=Classifier(ignore=OSError))
    dependency = world.dependency(OSError(), 1)
    assert world.call(Pipeline(Retry(2, wait=0), inner)(dependency.fn)) == 1
    assert (len(dependency.calls), breaker.snapshot()["failures"]) == (2, 0)


@pytest.mark.parametrize("kinds", [(Retry,), (CircuitBreaker,), (Retry, CircuitBreaker)])
def test_predicate_that_raises_reaches_the_caller(world: World, kinds: Any) -> None:
    """The caller gets the error of the predicate, and the call is not repeated."""

    def broken(error: Exception) -> bool:
        raise LookupError("broken predicate")

    dependency = world.dependency(OSError())
    with pytest.raises(LookupError, match="broken predicate"):
        world.call(Pipeline(*(kind() for kind in kinds), classify=Classifier(failures=broken))(dependency.fn))
    assert len(dependency.calls) == 1


async def test_cancellation_is_never_judged() -> None:
    """The classifier is not called for a `BaseException` that is no `Exception`."""
    asked: list[BaseException] = []
    classify = Classifier(
        failures=lambda error: bool(asked.append(error)), ignore=lambda error: bool(asked.append(error))
    )

    @Pipeline(Retry(3, wait=0), CircuitBreaker(), classify=classify)
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await cancelled()
    assert asked == []
