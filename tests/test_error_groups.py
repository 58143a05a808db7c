"""Groups of errors, as TaskGroup, anyio and trio raise them, are judged by the errors in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from resilient import (
    AdaptiveLimit,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    RateLimited,
    Retry,
    TimedOut,
    Timeout,
    Verdict,
    quantile,
)
from resilient.core.classify import FAILURE, FATAL, IGNORED, REFUSED, WAITED
from resilient.core.policy import Policy
from resilient.core.verdict import UNTRUSTED, together
from resilient.errors import is_cancellation, leaves
from tests.worlds import Slow, World


class NotFound(Exception):
    """An error that is an answer of the dependency."""


class Asks(OSError):
    """A failure that asks for a pause."""

    def __init__(self, seconds: float) -> None:
        super().__init__("slow down")
        self.retry_after = seconds


class Liar(ExceptionGroup[Exception]):
    """A group whose attributes cannot be trusted."""

    @property
    def exceptions(self) -> Any:
        raise RuntimeError("no")


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    """Return an error group as a TaskGroup raises it."""
    return ExceptionGroup("unhandled errors in a TaskGroup", errors)


# -- the verdict ----------------------------------------------------------------------------------------------------

ALIKE = [
    (OSError(), FAILURE),
    (TypeError(), IGNORED),
    (CircuitOpen(retry_after=5), REFUSED),
    (TimedOut(), FAILURE),
    (TimedOut(evidence=False), WAITED),
    (NotFound(), IGNORED),
    (PermissionError(), FATAL),
    (Asks(3), Verdict("failure", retryable=True, retry_after=3)),
]


@pytest.mark.parametrize(("error", "verdict"), ALIKE, ids=[repr(error) for error, _ in ALIKE])
def test_group_of_one_kind_is_judged_as_its_errors(error: Exception, verdict: Verdict) -> None:
    """However many there are, and however deep."""
    classify = Classifier(ignore=NotFound, fatal=PermissionError)
    assert classify.error(error) == verdict
    for wrapped in (group(error), group(error, error), group(group(error), group(group(error)))):
        assert classify.error(wrapped) == verdict


MIXED = [
    ((FAILURE, IGNORED), Verdict("failure")),
    ((FAILURE, FATAL), Verdict("failure")),
    ((FAILURE, WAITED), FAILURE),
    ((FAILURE, REFUSED), Verdict("failure")),
    ((WAITED, REFUSED), IGNORED),
    ((IGNORED, REFUSED), IGNORED),
    ((FAILURE, UNTRUSTED), Verdict("failure", final=True)),
    ((Verdict("failure", True, 2.0), Verdict("failure", True, 7.0)), Verdict("failure", True, 7.0)),
    ((Verdict("failure", True, 2.0), FAILURE), Verdict("failure", True, 2.0)),
]


@pytest.mark.parametrize(("verdicts", "verdict"), MIXED)
def test_mixed_group_is_a_failure_if_one_is_and_repeated_if_all_may_be(verdicts: Any, verdict: Verdict) -> None:
    """The dependency did fail; but what cannot do better fails the whole again. The longest pause holds."""
    assert together(verdicts) == verdict
    assert together(reversed(verdicts)) == verdict


def test_predicates_are_asked_about_each_error_of_a_group() -> None:
    """Predicates get each error of a group, because they may read attributes that a group does not have."""
    asked: list[Exception] = []
    first, second = Asks(1), Asks(2)
    classify = Classifier(failures=lambda error: bool(asked.append(error)) or error.retry_after > 0)  # type: ignore[attr-defined]
    assert classify.error(group(first, group(second))).kind == "failure"
    assert asked == [first, second]


def test_subclass_judges_the_errors_of_a_group() -> None:
    """What it says of an error it says of one in a group."""

    class Mine(Classifier):
        def error(self, error: Exception) -> Verdict:
            return FATAL if type(error) is ValueError else super().error(error)

    assert Mine().error(group(ValueError())) == FATAL
    assert Mine().error(group(ValueError(), OSError())) == Verdict("failure")


def test_group_whose_attributes_lie_is_judged_by_what_is_in_it() -> None:
    """A subclass may define what it likes."""
    assert Classifier().error(Liar("", [TypeError()])) == IGNORED
    assert [type(each) for each in leaves(Liar("", [TypeError(), OSError()]))] == [TypeError, OSError]


def test_deep_groups_need_no_deep_stack() -> None:
    """Thousands of levels are looked through without recursion."""
    deep: Exception = OSError()
    for _ in range(5000):
        deep = group(deep)
    assert [type(each) for each in leaves(deep)] == [OSError]


# -- the policies ---------------------------------------------------------------------------------------------------


def calls(world: World, policies: tuple[Policy, ...], *script: Any, **settings: Any) -> tuple[int, int]:
    """Calls made, and failures that a breaker counted."""
    breaker = CircuitBreaker(min_calls=100)
    dependency = world.dependency(*script)
    world.outcome(Pipeline(*policies, breaker, **settings)(dependency.fn))
    return len(dependency.calls), breaker.snapshot()["failures"]


@pytest.mark.parametrize("error", [TypeError(), CircuitOpen("b is open"), NotFound()], ids=repr)
def test_group_that_says_nothing_is_neither_repeated_nor_counted(world: World, error: Exception) -> None:
    """A TaskGroup around a refusal does not make it evidence, nor worth repeating."""
    classify = Classifier(ignore=NotFound)
    assert calls(world, (Retry(3, wait=0),), group(error), classify=classify) == (1, 0)


def test_group_of_local_timeouts_is_repeated_and_not_counted(world: World) -> None:
    """A group of local timeouts is repeated and not counted, as a single one is."""
    late = TimedOut(evidence=False)
    assert calls(world, (Retry(2, wait=0),), group(late), group(late)) == (2, 0)


ON: dict[str, tuple[Any, Exception, int]] = {
    "named": (OSError, group(OSError(), ConnectionError()), 2),
    "in two groups": (OSError, group(group(OSError()), OSError()), 2),
    "one of them not": (OSError, group(OSError(), ValueError()), 1),
    "the group itself": (ExceptionGroup, group(ValueError()), 2),
    "all": (Exception, group(ValueError(), OSError()), 2),
    "a predicate": (lambda error: error.errno == 7, group(OSError(7, ""), OSError(7, "")), 2),
    "a predicate that says no to one": (lambda error: error.errno == 7, group(OSError(7, ""), OSError(8, "")), 1),
    "a rejection that is not named": (Exception, group(CircuitOpen()), 1),
    "a rejection beside others": (Exception, group(OSError(), CircuitOpen()), 1),
    "a rejection that is named": (RateLimited, group(RateLimited()), 2),
    "one of two rejections named": (RateLimited, group(RateLimited(), CircuitOpen()), 1),
    "a rejection and others named": ((RateLimited, OSError), group(RateLimited(), OSError()), 2),
}


@pytest.mark.parametrize(("on", "error", "made"), ON.values(), ids=ON)
def test_on_of_a_retry_looks_into_groups(world: World, on: Any, error: Exception, made: int) -> None:
    """A group is repeated if each error in it is named."""
    dependency = world.dependency(error, error)
    world.outcome(Retry(2, wait=0, on=on)(dependency.fn))
    assert len(dependency.calls) == made


@pytest.mark.parametrize(
    ("on", "error"),
    [
        (None, group(OSError())),
        (None, group(CircuitOpen())),
        (None, group(TimedOut(evidence=False))),
        (OSError, group(OSError(), ConnectionError())),
        (lambda error: error.errno is None, group(OSError())),
    ],
)
def test_fallback_answers_for_groups(world: World, on: Any, error: Exception) -> None:
    """A Fallback answers for a group if it answers for each of the errors in it."""
    assert world.call(Fallback("stale", on=on)(world.dependency(error).fn)) == "stale"


@pytest.mark.parametrize(("on", "error"), [(None, group(TypeError())), (OSError, group(OSError(), ValueError()))])
def test_fallback_lets_other_groups_pass(world: World, on: Any, error: Exception) -> None:
    """A Fallback does not answer for a group with an error that it is not for."""
    assert world.outcome(Fallback("stale", on=on)(world.dependency(error).fn)).error is error


def test_longest_pause_in_a_group_is_kept(world: World) -> None:
    """What one of the servers asks for holds for the whole that is repeated; more than `max_retry_after` ends it."""
    dependency = world.dependency(group(Asks(0), Asks(100)))
    error = world.outcome(Retry(3, wait=0, max_retry_after=60)(dependency.fn)).error
    assert len(dependency.calls) == 1
    assert error is not None
    assert "asked to wait 100 s" in error.__notes__[0]


def test_rejection_in_a_group_does_not_replace_the_failure_before_it(world: World) -> None:
    """The last real error is what comes back."""
    down = OSError("down")
    dependency = world.dependency(down, group(CircuitOpen("b is open")))
    assert world.outcome(Retry(3, wait=0)(dependency.fn)).error is down


def test_hedge_goes_on_after_a_group_of_refusals(world: World) -> None:
    """After a group of refusals a hedge sends its next copy, which may go elsewhere."""
    dependency = world.dependency(group(CircuitOpen()), "good")
    assert world.call(Hedge(60, thread=True)(dependency.fn)) == "good"


@pytest.mark.parametrize("error", [CircuitOpen(), TimedOut(evidence=False)], ids=["refused", "waited"])
def test_hedge_observes_no_latency_of_local_groups(world: World, error: Exception) -> None:
    """A refusal, or an inherited deadline, in a TaskGroup says nothing about the dependency's latency."""
    hedge = Hedge(quantile(0.9, initial=0.002), thread=True)
    world.outcome(hedge(world.dependency(Slow(0.01, group(error)), group(error)).fn))
    assert hedge.snapshot()["samples"] == 0


def test_users_own_group_comes_back(world: World) -> None:
    """The very object, so that `except*` works around a guarded call."""
    error = group(OSError(), ValueError())
    assert world.outcome(Retry(2, wait=0)(world.dependency(error, error).fn)).error is error


# -- cuts -----------------------------------------------------------------------------------------------------------


class Cut(BaseException):
    """The type of a cancellation, as a runtime has one."""


CUTS: list[tuple[BaseException, bool]] = [
    (Cut(), True),
    (ValueError(), False),
    (BaseExceptionGroup("", [Cut(), Cut()]), True),
    (BaseExceptionGroup("", [Cut(), BaseExceptionGroup("", [Cut()])]), True),
    (BaseExceptionGroup("", [Cut(), ValueError()]), True),
    (BaseExceptionGroup("", [Cut(), KeyboardInterrupt()]), False),
    (BaseExceptionGroup("", [KeyboardInterrupt()]), False),
    (group(ValueError()), False),
]


@pytest.mark.parametrize(("error", "cut"), CUTS, ids=[repr(error) for error, _ in CUTS])
def test_group_with_a_cancellation_is_a_cut(error: BaseException, cut: bool) -> None:
    """A group of a cancellation and errors of the clean-up is a cancellation; with a Ctrl-C in it, it is not."""
    assert is_cancellation(error, Cut) is cut


async def nursery() -> None:
    """A function that hangs, with a task of its own."""
    async with trio.open_nursery() as tasks:
        tasks.start_soon(trio.sleep_forever)
        await trio.sleep_forever()


async def nursery_that_fails_when_cut() -> None:
    """The same; one of its tasks fails while it is cleaned up."""

    async def task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the clean-up")

    async with trio.open_nursery() as tasks:
        tasks.start_soon(trio.sleep_forever)
        tasks.start_soon(task)


@pytest.mark.parametrize("hangs", [nursery, nursery_that_fails_when_cut])
@pytest.mark.parametrize("gate", [lambda: CircuitBreaker(None, fail_max=1), AdaptiveLimit], ids=["breaker", "limit"])
def test_hanging_function_with_a_nursery_counts_under_trio(gate: Callable[[], Any], hangs: Any) -> None:
    """A Timeout that cuts it has the gate inside learn of a failure, as it learns of one without a nursery."""
    settled: list[bool] = []
    judge = gate()
    settle = judge.settle

    def spy(ticket: Any, failed: bool, *rest: Any) -> None:
        settled.append(failed)
        settle(ticket, failed, *rest)

    judge.settle = spy
    guarded = Pipeline(Timeout(1), judge)(hangs)

    async def main() -> None:
        with pytest.raises((TimedOut, ExceptionGroup)):
            await guarded()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert settled == [True]


def test_young_nursery_that_its_caller_cuts_says_nothing_under_trio() -> None:
    """A cancellation by the caller is no evidence."""
    breaker = CircuitBreaker(None, fail_max=1)
    guarded = Pipeline(Timeout(10), breaker)(nursery)

    async def main() -> None:
        with trio.move_on_after(1):
            await guarded()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert breaker.state == "closed"


async def test_timeout_takes_a_cancelled_group_for_its_own() -> None:
    """On asyncio a callee may pass its cancellation on in a group."""

    async def hangs() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            raise BaseExceptionGroup("", [error, ValueError("in the clean-up")]) from None

    with pytest.raises(TimedOut):
        await Timeout(0.001)(hangs)()
