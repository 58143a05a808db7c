"""Retry speaks tenacity: its strategies decide, and its hooks see what tenacity would have shown them.

The judge is tenacity itself: the same script, strategies and hooks go through its `AsyncRetrying` and through our
`Retry` in virtual time, and every look at a `RetryCallState` has to be the same, field by field and second by second.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import tenacity
import tenacity.asyncio
from hypothesis import given
from hypothesis import strategies as st

from resilient import BulkheadFull, Classifier, Pipeline, Retry
from resilient.policies.retry.tenacity import awaits
from resilient.runtime import virtual
from resilient.testing import Dependency
from tests.hypothesis_settings import search
from tests.worlds import World

# -- the same script through both -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What a strategy or hook saw in the state, and when."""

    who: str
    at: float
    attempt_number: int
    outcome: str
    outcome_attempt: int | None
    start_time: float
    outcome_timestamp: float | None
    seconds_since_start: float | None
    idle_for: float
    upcoming_sleep: float
    next_action: str
    fn: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    controller: type


@dataclass
class Journal:
    """All looks of one call, and how the call ended."""

    clock: Callable[[], float]
    looks: list[Look] = field(default_factory=list)
    attempts: list[float] = field(default_factory=list)
    states: set[int] = field(default_factory=set)
    end: str = ""

    def look(self, who: str, state: tenacity.RetryCallState) -> None:
        self.states.add(id(state))
        self.looks.append(
            Look(
                who=who,
                at=self.clock(),
                attempt_number=state.attempt_number,
                outcome=told(state.outcome),
                outcome_attempt=None if state.outcome is None else state.outcome.attempt_number,
                start_time=state.start_time,
                outcome_timestamp=state.outcome_timestamp,
                seconds_since_start=state.seconds_since_start,
                idle_for=state.idle_for,
                upcoming_sleep=state.upcoming_sleep,
                next_action=repr(state.next_action),
                fn=state.fn,
                args=state.args,
                kwargs=state.kwargs,
                controller=type(state.retry_object),
            )
        )

    def hook(self, who: str, *, later: bool) -> Callable[[tenacity.RetryCallState], Any]:
        async def hook_later(state: tenacity.RetryCallState) -> None:
            self.look(who, state)

        return hook_later if later else lambda state: self.look(who, state)

    def watched(self, who: str, strategy: Callable[..., Any]) -> Any:
        """A `strategy` that journals the state before it answers; async if the strategy is."""

        class Watched(tenacity.retry_base):
            def __call__(_, retry_state: tenacity.RetryCallState) -> Any:
                self.look(who, retry_state)
                return strategy(retry_state)

        class WatchedLater(tenacity.retry_base):
            async def __call__(_, retry_state: tenacity.RetryCallState) -> Any:  # type: ignore[override]
                self.look(who, retry_state)
                return await strategy(retry_state)

        later = inspect.iscoroutinefunction(type(strategy).__call__) or inspect.iscoroutinefunction(strategy)
        return WatchedLater() if later else Watched()

    def ended(self, result: Any) -> None:
        self.end = f"at {self.clock()} returned {result!r}"

    def failed(self, error: Exception) -> None:
        self.end = f"at {self.clock()} raised {error!r}"


def told(outcome: tenacity.Future | None) -> str:
    """A future as text, which is equal for equal outcomes of two runs."""
    if outcome is None:
        return "none"
    error = outcome.exception()
    return f"returned {outcome.result()!r}" if error is None else f"raised {error!r}"


@dataclass(frozen=True)
class Case:
    """One call: what the function does, and by which strategies it is repeated.

    Attributes:
        script: steps of the function: an exception type or a value each, and how many seconds it takes.
        retry, wait, stop: make a fresh strategy.
        watch: look on while the retry strategy is asked. (Seen through a wrapper, it is asked about results too.)
        later: the hooks are coroutine functions.
    """

    script: tuple[tuple[Any, float], ...]
    retry: Callable[[], Any]
    wait: Callable[[], Any]
    stop: Callable[[], Any]
    watch: bool = True
    later: bool = False

    def function(self, journal: Journal) -> Callable[..., Any]:
        async def fetch(*args: Any, **kwargs: Any) -> Any:
            number = len(journal.attempts)
            journal.attempts.append(journal.clock())
            step, seconds = self.script[number] if number < len(self.script) else (7, 0.0)
            await asyncio.sleep(seconds)
            if isinstance(step, type) and issubclass(step, tenacity.TryAgain):
                try:
                    raise OSError(number)
                except OSError:
                    raise step(number) from None
            if isinstance(step, type):
                raise step(number)
            return step

        return fetch

    def options(self, journal: Journal) -> dict[str, Any]:
        return {
            "wait": journal.watched("wait", self.wait()),
            "stop": journal.watched("stop", self.stop()),
            "before": journal.hook("before", later=self.later),
            "after": journal.hook("after", later=self.later),
            "before_sleep": journal.hook("before_sleep", later=self.later),
        }

    def predicate(self, journal: Journal) -> Any:
        return journal.watched("predicate", self.retry()) if self.watch else self.retry()

    async def through_tenacity(self) -> Journal:
        clock = asyncio.get_running_loop().time
        journal = Journal(clock)
        with patch.object(tenacity, "time", SimpleNamespace(monotonic=clock)):
            retrying = tenacity.AsyncRetrying(retry=self.predicate(journal), reraise=True, **self.options(journal))
            try:
                journal.ended(await retrying(self.function(journal), 1, key="value"))
            except tenacity.RetryError as error:  # a result that was to be repeated: ours returns it
                journal.ended(error.last_attempt.result())
            except Exception as error:
                journal.failed(error)
        return journal

    async def through_ours(self) -> Journal:
        journal = Journal(asyncio.get_running_loop().time)
        retry = Retry(on=self.predicate(journal), **self.options(journal))
        try:
            journal.ended(await retry(self.function(journal))(1, key="value"))
        except Exception as error:
            journal.failed(error)
        return journal


def both(case: Case) -> tuple[Journal, Journal]:
    """The journals of the case under tenacity and under `Retry`, each from a new virtual clock."""
    journals = []
    for through in (case.through_tenacity, case.through_ours):
        random.seed(7)
        journals.append(virtual.run(through(), start=1000.0))
    return journals[0], journals[1]


def assert_same(case: Case) -> Journal:
    """Assert that both journals are equal. Returns one, so that a test can check that the case covers what it means
    to."""
    theirs, ours = both(case)
    assert len({look.fn for look in theirs.looks}) <= 1
    assert len({look.fn for look in ours.looks}) <= 1
    assert [vars(look) | {"fn": look.fn.__qualname__} for look in ours.looks] == [
        vars(look) | {"fn": look.fn.__qualname__} for look in theirs.looks
    ]
    assert ours.attempts == theirs.attempts
    assert ours.end == theirs.end
    assert len(ours.states) == len(theirs.states) == 1
    return ours


async def _is_os_error(error: BaseException) -> bool:
    return isinstance(error, OSError)


async def _is_negative(result: Any) -> bool:
    return result < 0


RETRIES: dict[str, Callable[[], Any]] = {
    "exception_type": lambda: tenacity.retry_if_exception_type(OSError),
    "exception_types": lambda: tenacity.retry_if_exception_type((KeyError, TypeError)),
    "not_exception_type": lambda: tenacity.retry_if_not_exception_type(KeyError),
    "exception": lambda: tenacity.retry_if_exception(lambda error: not isinstance(error, KeyError)),
    "unless_exception_type": lambda: tenacity.retry_unless_exception_type(KeyError),
    "cause_type": lambda: tenacity.retry_if_exception_cause_type(OSError),
    "message": lambda: tenacity.retry_if_exception_message(match="[0-2]"),
    "not_message": lambda: tenacity.retry_if_not_exception_message(message="3"),
    "result": lambda: tenacity.retry_if_result(lambda result: result < 0),
    "not_result": lambda: tenacity.retry_if_not_result(lambda result: result > 0),
    "always": lambda: tenacity.retry_always,
    "never": lambda: tenacity.retry_never,
    "any": lambda: tenacity.retry_any(
        tenacity.retry_if_exception_type(KeyError), tenacity.retry_if_result(lambda result: result == 0)
    ),
    "any of errors": lambda: tenacity.retry_any(
        tenacity.retry_if_exception_type(KeyError), tenacity.retry_if_exception_type(OSError)
    ),
    "all": lambda: tenacity.retry_all(
        tenacity.retry_if_exception_type((OSError, KeyError)), tenacity.retry_if_not_exception_type(KeyError)
    ),
    "or": lambda: tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_result(lambda result: result < 0),
    "and": lambda: tenacity.retry_always & tenacity.retry_if_exception_type(OSError),
    "or callable": lambda: tenacity.retry_never | (lambda state: state.attempt_number < 3),
    "async exception": lambda: tenacity.asyncio.retry_if_exception(_is_os_error),
    "async result": lambda: tenacity.asyncio.retry_if_result(_is_negative),
    "async any": lambda: tenacity.asyncio.retry_any(
        tenacity.asyncio.retry_if_exception(_is_os_error), tenacity.retry_if_result(lambda result: result == 0)
    ),
    "async all": lambda: tenacity.asyncio.retry_all(
        tenacity.asyncio.retry_if_exception(_is_os_error), tenacity.retry_always
    ),
    "async or": lambda: tenacity.asyncio.retry_if_exception(_is_os_error) | tenacity.retry_if_exception_type(KeyError),
}
try:
    RETRIES["or callable"]()
except AttributeError:
    del RETRIES["or callable"]  # new in tenacity 9.2
WAITS: dict[str, Callable[[], Any]] = {
    "none": tenacity.wait_none,
    "fixed": lambda: tenacity.wait_fixed(1.5),
    "random": lambda: tenacity.wait_random(1, 3),
    "exponential": lambda: tenacity.wait_exponential(multiplier=0.5, max=3),
    "random exponential": lambda: tenacity.wait_random_exponential(multiplier=0.5, max=10),
    "exponential jitter": lambda: tenacity.wait_exponential_jitter(max=4),
    "incrementing": lambda: tenacity.wait_incrementing(start=0, increment=1),
    "chain": lambda: tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(0), tenacity.wait_fixed(2)),
    "combined": lambda: tenacity.wait_fixed(1) + tenacity.wait_random(0, 1),
    "by state": lambda: lambda state: state.attempt_number + state.idle_for,
    "async": lambda: _wait_later,
}
if hasattr(tenacity, "wait_exception"):  # new in 9.1.3
    WAITS["exception"] = lambda: tenacity.wait_exception(lambda error: 2.5)  # raises when asked about a result
STOPS: dict[str, Callable[[], Any]] = {
    "after_attempt": lambda: tenacity.stop_after_attempt(4),
    "after_delay": lambda: tenacity.stop_any(tenacity.stop_after_delay(4), tenacity.stop_after_attempt(9)),
    "before_delay": lambda: tenacity.stop_any(tenacity.stop_before_delay(4), tenacity.stop_after_attempt(9)),
    "all": lambda: tenacity.stop_all(tenacity.stop_after_attempt(2), tenacity.stop_after_attempt(5)),
    "or": lambda: tenacity.stop_after_attempt(6) | tenacity.stop_after_delay(3),
    "by state": lambda: lambda state: state.idle_for > 2 or state.attempt_number > 5,
    "async": lambda: _stop_later,
}


async def _wait_later(state: tenacity.RetryCallState) -> float:
    await asyncio.sleep(0)
    return 0.5 * state.attempt_number


async def _stop_later(state: tenacity.RetryCallState) -> bool:
    await asyncio.sleep(0)
    return state.attempt_number >= 3


STEPS: tuple[Any, ...] = (OSError, KeyError, ConnectionError, ValueError, TypeError, -1, 0, 7)
if "or callable" in RETRIES:  # before 9.2, tenacity ended with the error before a TryAgain
    STEPS += (tenacity.TryAgain,)


@search(400)
@given(
    case=st.builds(
        Case,
        script=st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from((0.0, 0.25, 2.0))), max_size=8).map(tuple),
        retry=st.sampled_from(list(RETRIES.values())),
        wait=st.sampled_from(list(WAITS.values())),
        stop=st.sampled_from(list(STOPS.values())),
        watch=st.booleans(),
        later=st.booleans(),
    )
)
def test_retry_does_what_tenacity_does(case: Case) -> None:
    """With any script and any strategies: the same looks at the same times, the same attempts, the same end."""
    assert_same(case)


@pytest.mark.parametrize("watch", [True, False])
@pytest.mark.parametrize("retry", RETRIES.values(), ids=RETRIES)
def test_each_retry_strategy_decides_as_under_tenacity(retry: Callable[[], Any], watch: bool) -> None:
    """Each retry strategy is asked about errors and results, alone and in combinations, plain and async."""
    for first in STEPS:
        case = Case(((first, 1.0), (OSError, 0.5), (-1, 0.0)), retry, WAITS["fixed"], STOPS["after_attempt"], watch)
        assert assert_same(case).attempts


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_each_wait_and_stop_strategy_decides_as_under_tenacity(
    wait: Callable[[], Any], stop: Callable[[], Any]
) -> None:
    """Each pair of a wait and a stop strategy sees a row of failures that take time."""
    ours = assert_same(Case(((OSError, 0.25),) * 9, RETRIES["exception_type"], wait, stop))
    assert len(ours.attempts) >= 2


@pytest.mark.parametrize("later", [False, True])
def test_hooks_and_strategies_are_asked_in_tenacitys_order(later: bool) -> None:
    """The order is before, predicate, after, wait, stop, before_sleep, before; after a success only the predicate is
    asked."""
    case = Case(((OSError, 1.0), (7, 1.0)), RETRIES["or"], WAITS["fixed"], STOPS["after_attempt"], later=later)
    ours = assert_same(case)
    assert [(look.who, look.at - 1000) for look in ours.looks] == [
        ("before", 0.0),
        ("predicate", 1.0),
        ("after", 1.0),
        ("wait", 1.0),
        ("stop", 1.0),
        ("before_sleep", 1.0),
        ("before", 2.5),
        ("predicate", 3.5),
    ]


def test_state_shows_the_call_at_every_point() -> None:
    """The fields of the state have the expected values at each strategy and hook, stated without tenacity."""
    case = Case(((OSError, 1.0), (KeyError, 2.0)), RETRIES["exception_type"], WAITS["fixed"], STOPS["after_attempt"])
    ours = virtual.run(case.through_ours(), start=1000.0)
    before, predicate, after, wait, stop, before_sleep, again, last = ours.looks
    for look in ours.looks:
        assert (look.start_time, look.args, look.kwargs) == (1000.0, (1,), {"key": "value"})
        assert look.controller is tenacity.AsyncRetrying
    assert (before.attempt_number, before.outcome, before.seconds_since_start) == (1, "none", None)
    for look in (predicate, after, wait, stop, before_sleep):
        assert (look.attempt_number, look.outcome, look.outcome_attempt) == (1, "raised OSError(0)", 1)
        assert (look.outcome_timestamp, look.seconds_since_start) == (1001.0, 1.0)
    assert [look.upcoming_sleep for look in ours.looks] == [0, 0, 0, 0, 1.5, 1.5, 1.5, 1.5]
    assert [look.idle_for for look in ours.looks] == [0, 0, 0, 0, 0, 1.5, 1.5, 1.5]
    assert [look.next_action for look in ours.looks] == [
        *(["None"] * 5),
        "RetryAction(sleep=1.5)",
        *(["None"] * 2),
    ]
    assert (again.attempt_number, again.outcome, again.seconds_since_start) == (2, "none", None)
    assert (last.attempt_number, last.outcome, last.seconds_since_start) == (2, "raised KeyError(1)", 4.5)


# -- in every runtime -----------------------------------------------------------------------------------------------


def test_hooks_see_a_real_state_in_every_runtime(world: World) -> None:
    """Hooks get a real `RetryCallState` of the user's function, with a controller of the right kind."""
    looks: list[Look] = []
    journal = Journal(world.now, looks)
    dependency = world.dependency(OSError(1), OSError(2), 7)
    states: list[tenacity.RetryCallState] = []
    retry = Retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_fixed(0.01),
        on=tenacity.retry_if_exception_type(OSError),
        before=lambda state: states.append(state) or journal.look("before", state),
        after=journal.hook("after", later=False),
        before_sleep=journal.hook("before_sleep", later=False),
    )
    payload = object()
    begin = world.now()
    assert world.call(retry(dependency.fn), payload, key=payload) == 7
    assert [look.who for look in looks] == [*(("before", "after", "before_sleep") * 2), "before"]
    assert [look.attempt_number for look in looks] == [1, 1, 1, 2, 2, 2, 3]
    assert [look.outcome for look in looks] == [
        *("none", "raised OSError(1)", "raised OSError(1)", "none", "raised OSError(2)", "raised OSError(2)", "none"),
    ]
    kind = tenacity.AsyncRetrying if world.is_async else tenacity.Retrying
    for look in looks:
        assert look.fn is dependency.fn
        assert look.args == (payload,)
        assert look.kwargs == {"key": payload}
        assert look.controller is kind
        assert begin <= look.start_time <= looks[0].at
    assert len({look.start_time for look in looks}) == 1
    assert looks[4].seconds_since_start >= 0.009
    assert looks[5].idle_for == pytest.approx(0.02)
    assert all(isinstance(state, tenacity.RetryCallState) for state in states)
    assert states[0] is states[1] is states[2]


def test_sync_hooks_see_what_tenacitys_retrying_shows() -> None:
    """Around a `def`, hooks see the same as under `tenacity.Retrying`, except for times."""
    journals = []
    for ours in (False, True):
        journal = Journal(lambda: 0.0)
        case = Case(((OSError, 0.0),) * 5, RETRIES["or"], WAITS["none"], STOPS["after_attempt"])
        fetch = Dependency(OSError(0), -1, OSError(2), 7).plain
        if ours:
            guarded = Retry(on=case.predicate(journal), **case.options(journal))(fetch)
        else:
            guarded = tenacity.Retrying(retry=case.predicate(journal), **case.options(journal)).wraps(fetch)
        journal.ended(guarded(1, key=2))
        journals.append(journal)
    timeless = {"start_time": 0, "outcome_timestamp": 0, "seconds_since_start": 0, "fn": 0}
    theirs, ours_ = ([vars(look) | timeless for look in journal.looks] for journal in journals)
    assert ours_ == theirs
    assert len(ours_) == 20
    assert journals[0].end == journals[1].end == "at 0.0 returned 7"


@pytest.mark.parametrize(
    ("on", "script", "calls"),
    [
        (tenacity.retry_if_exception_type(OSError), (OSError(), KeyError()), 2),
        (tenacity.retry_if_exception_type(), (OSError(), TypeError(), 7), 3),
        (tenacity.retry_if_not_exception_type(KeyError), (OSError(), TypeError(), KeyError()), 3),
        (tenacity.retry_if_result(lambda result: result is None), (None, None, 7), 3),
        (tenacity.retry_if_result(lambda result: result is None), (None, OSError()), 2),
        (tenacity.retry_if_not_result(bool), (0, "", 7), 3),
        (tenacity.retry_always, (7, OSError(), 7, 7), 4),
        (tenacity.retry_never, (OSError(),), 1),
        (tenacity.retry_unless_exception_type(KeyError), (7, OSError(), 7, KeyError()), 4),
        (tenacity.retry_if_exception_message(match="again"), (OSError("again"), OSError("no")), 2),
        (tenacity.retry_if_not_exception_message("done"), (OSError("no"), 7, OSError("done")), 3),
        (tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_result(lambda r: r == 0), (OSError(), 0, 7), 3),
        (tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_exception_message("x"), (OSError("x"), 7), 2),
        (tenacity.retry_any(tenacity.retry_if_exception_type(OSError)), (OSError(), 7), 2),
        (tenacity.retry_all(tenacity.retry_if_exception_type(OSError), tenacity.retry_never), (OSError(),), 1),
        (tenacity.asyncio.retry_if_exception(_is_os_error), (OSError(), KeyError()), 2),
        (tenacity.asyncio.retry_if_result(_is_negative), (-1, -2, 7), 3),
        (
            tenacity.asyncio.retry_if_result(_is_negative) | tenacity.retry_if_exception_type(OSError),
            (-1, OSError(), 7),
            3,
        ),
        (tenacity.asyncio.retry_all(tenacity.asyncio.retry_if_exception(_is_os_error)), (OSError(), 7), 2),
    ],
)
def test_on_takes_tenacitys_retry_strategies_in_every_runtime(
    world: World, on: Any, script: tuple[Any, ...], calls: int
) -> None:
    """`on` takes strategies that look at errors or results, and async ones around an `async def`."""
    if awaits(on) and not world.is_async:
        return
    dependency = world.dependency(*script)
    outcome = world.outcome(Retry(4, wait=0, on=on)(dependency.fn))
    assert len(dependency.calls) == calls
    last = script[-1]
    assert (outcome.error or outcome.value) is last


def test_strategy_on_results_returns_the_last_one_when_attempts_are_spent(world: World) -> None:
    """The last result comes back as the same object, not in a `RetryError`."""
    script: list[list[int]] = [[1], [2], [3]]
    dependency = world.dependency(*script)
    assert world.call(Retry(3, wait=0, on=tenacity.retry_always)(dependency.fn)) is script[-1]


def test_strategy_beside_a_classifier_of_results_repeats_what_either_names(world: World) -> None:
    """A result is repeated if the strategy asks for it, or if the pipeline's classifier calls it a failure."""
    dependency = world.dependency(503, -1, OSError(), 200)
    retry = Retry(
        5, wait=0, on=tenacity.retry_if_result(lambda result: result < 0) | tenacity.retry_if_exception_type()
    )
    pipeline = Pipeline(retry, classify=Classifier(results=lambda status: status == 503))
    assert world.call(pipeline(dependency.fn)) == 200
    assert len(dependency.calls) == 4


def test_async_hooks_are_awaited(world: World) -> None:
    """Around an `async def`, coroutine functions are accepted as hooks and awaited."""
    if not world.is_async:
        return
    heard: list[str] = []

    def hook(name: str) -> Any:
        async def hear(state: tenacity.RetryCallState) -> None:
            heard.append(name)

        return hear

    dependency = world.dependency(OSError(), 7)
    retry = Retry(2, wait=0, before=hook("before"), after=hook("after"), before_sleep=hook("before_sleep"))
    assert world.call(retry(dependency.fn)) == 7
    assert heard == ["before", "after", "before_sleep", "before"]


def test_async_hook_that_really_waits_around_a_def_raises_runtime_error() -> None:
    """A hook that only shows at its call that it is async raises in plain code, instead of blocking it."""

    async def wait(state: tenacity.RetryCallState) -> None:
        await asyncio.sleep(0)

    def hook(state: tenacity.RetryCallState) -> Any:
        return wait(state)

    def fetch() -> None:
        raise OSError

    with pytest.raises(RuntimeError, match="a policy or a strategy around a plain def awaited something that suspends"):
        Retry(2, wait=0, before=hook)(fetch)()


class AsyncStrategy:
    """A strategy whose `__call__` is a coroutine function."""

    async def __call__(self, state: tenacity.RetryCallState) -> Any: ...


async def _ask(*args: Any) -> Any: ...


AWAITS: dict[str, Callable[[], tuple[str, Any]]] = {
    "hook": lambda: ("before_sleep", _ask),
    "object": lambda: ("after", AsyncStrategy()),
    "partial of an object": lambda: ("before", functools.partial(AsyncStrategy())),
    "wait": lambda: ("wait", _ask),
    "stop": lambda: ("stop", AsyncStrategy()),
    "part of a stop": lambda: ("stop", tenacity.stop_any(tenacity.stop_after_attempt(3), AsyncStrategy())),
    "part of a wait": lambda: ("wait", tenacity.wait_combine(tenacity.wait_none(), _ask)),
    "predicate": lambda: ("on", tenacity.retry_if_exception(_ask)),
    "async strategy": lambda: ("on", tenacity.asyncio.retry_if_exception(_ask)),
    "part of an async strategy": lambda: ("on", tenacity.asyncio.retry_any(tenacity.retry_if_exception(_ask))),
}


@pytest.mark.parametrize("given", AWAITS.values(), ids=AWAITS)
def test_async_strategy_around_a_def_is_refused_when_it_is_decorated(given: Callable[[], tuple[str, Any]]) -> None:
    """The refusal comes at decoration, not in the first outage."""
    argument, strategy = given()
    retry = Retry(3, **{argument: strategy})

    def fetch() -> None: ...

    async def fetch_async() -> None: ...

    with pytest.raises(TypeError, match=f"its {argument}= is an async def, which a plain def cannot await"):
        retry(fetch)
    with pytest.raises(TypeError, match=f"its {argument}= is an async def"):
        for attempt in Pipeline(retry).attempts():
            with attempt:
                pass
    retry(fetch_async)


def test_hooks_alone_do_not_change_what_is_repeated(world: World) -> None:
    """With hooks and no strategy, the classifier decides what is repeated."""
    heard: list[int] = []
    dependency = world.dependency(OSError(), TypeError())
    retry = Retry(3, wait=0, after=lambda state: heard.append(state.attempt_number))
    assert isinstance(world.outcome(retry(dependency.fn)).error, TypeError)
    assert heard == [1]


# -- TryAgain -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"on": KeyError}, {"on": tenacity.retry_never}, {"on": lambda error: False}])
def test_try_again_is_repeated_whatever_on_says(world: World, options: dict[str, Any]) -> None:
    """A `TryAgain` of the function is repeated, whatever `on` says."""
    dependency = world.dependency(tenacity.TryAgain(), 7)
    assert world.call(Retry(3, wait=0, **options)(dependency.fn)) == 7


def test_try_again_is_not_shown_to_the_predicate(world: World) -> None:
    """The predicate is not asked about a `TryAgain`, as in tenacity."""
    asked: list[BaseException] = []
    on = tenacity.retry_if_exception(lambda error: bool(asked.append(error)))
    dependency = world.dependency(tenacity.TryAgain(), 7)
    assert world.call(Retry(3, wait=0, on=on)(dependency.fn)) == 7
    assert asked == []


def test_try_again_to_the_end_is_raised_itself(world: World) -> None:
    """A `TryAgain` without another error behind it comes back itself."""
    last = tenacity.TryAgain()
    dependency = world.dependency(tenacity.TryAgain(), last)
    assert world.outcome(Retry(2, wait=0)(dependency.fn)).error is last


def test_try_again_from_an_error_raises_that_error_at_the_end(world: World) -> None:
    """A `TryAgain` raised in an `except` block, or `from` an error, stands for that error."""
    errors = [OSError("caught"), OSError("named")]
    calls = []

    def step() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise tenacity.TryAgain from errors[1]
        try:
            raise errors[0]
        except OSError:
            raise tenacity.TryAgain  # noqa: B904

    async def step_async() -> None:
        step()

    outcome = world.outcome(Retry(2, wait=0)(step_async if world.is_async else step))
    assert outcome.error is errors[0]
    calls.clear()
    outcome = world.outcome(Retry(1, wait=0)(step_async if world.is_async else step))
    assert outcome.error is errors[1]


# -- what looks at the controller -----------------------------------------------------------------------------------


def test_controller_has_the_strategies_and_hooks_of_the_policy() -> None:
    """A hook can read and call the strategies of its `retry_object`."""
    seen: list[Any] = []
    wait, on = tenacity.wait_fixed(0), tenacity.retry_if_exception_type(OSError)

    def after(state: tenacity.RetryCallState) -> None:
        controller = state.retry_object
        seen.append((controller.wait, controller.retry, controller.after, controller.reraise))
        seen.append((controller.stop(state), controller.retry(state), controller.wait(state)))

    def fetch() -> None:
        raise OSError

    with pytest.raises(OSError):
        Retry(2, stop=tenacity.stop_after_attempt(9), wait=wait, on=on, after=after)(fetch)()
    assert seen == [(wait, on, after, True), (False, True, 0), (wait, on, after, True), (True, True, 0)]


def test_tenacitys_logging_hooks_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """`before_log`, `after_log` and `before_sleep_log` find all attributes that they read."""
    log = logging.getLogger("tests.tenacity")
    retry = Retry(
        2,
        wait=0,
        before=tenacity.before_log(log, logging.INFO),
        after=tenacity.after_log(log, logging.INFO),
        before_sleep=tenacity.before_sleep_log(log, logging.INFO),
    )
    dependency = world.dependency(OSError("down"), 7)
    with caplog.at_level(logging.INFO, logger="tests.tenacity"):
        assert world.call(retry(dependency.fn)) == 7
    first, after, sleep, second = [record.getMessage() for record in caplog.records]
    assert "dependency" in first
    assert "1st time" in first
    assert "1st time" in after
    assert "OSError" in sleep
    assert "down" in sleep
    assert "2nd time" in second


# -- what our own meanings add --------------------------------------------------------------------------------------


class Asks(OSError):
    """An error that asks for two seconds."""

    retry_after = 2.0


def test_requested_pause_is_part_of_upcoming_sleep() -> None:
    """`upcoming_sleep` is the whole pause, with what the dependency has asked for."""
    heard: list[tuple[float, Any, float]] = []

    def hear(state: tenacity.RetryCallState) -> None:
        heard.append((state.upcoming_sleep, state.next_action.sleep if state.next_action else None, state.idle_for))

    async def fetch() -> None:
        raise Asks

    async def main() -> None:
        retry = Retry(2, wait=tenacity.wait_fixed(1), before_sleep=hear, stop=lambda state: bool(hear(state)))
        with pytest.raises(Asks):
            await retry(fetch)()
        assert asyncio.get_running_loop().time() == 3.0

    virtual.run(main())
    assert heard == [(3.0, None, 0.0), (3.0, 3.0, 3.0)]


def test_instant_pipeline_shows_the_pause_that_is_made(world: World) -> None:
    """Under `switch("instant")`, `upcoming_sleep` is 0, so that stop strategies do not count a pause."""
    heard: list[tuple[float, float, float]] = []

    def hear(state: tenacity.RetryCallState) -> None:
        assert state.next_action is not None
        heard.append((state.upcoming_sleep, state.next_action.sleep, state.idle_for))

    pipeline = Pipeline(Retry(2, wait=tenacity.wait_fixed(60), stop=tenacity.stop_before_delay(50), before_sleep=hear))
    dependency = world.dependency(OSError(), 7)
    with pipeline.switch("instant"):
        assert world.call(pipeline(dependency.fn)) == 7
    assert heard == [(0.0, 0.0, 0.0)]


def test_rejection_is_not_shown_to_a_strategy(world: World) -> None:
    """A retry strategy is not asked about a rejection, which is no outcome of the dependency."""
    asked: list[BaseException] = []
    on = tenacity.retry_if_exception(lambda error: not asked.append(error))
    dependency = world.dependency(OSError(), BulkheadFull("full"))
    outcome = world.outcome(Retry(5, wait=0, on=on)(dependency.fn))
    assert isinstance(outcome.error, OSError)
    assert asked == [outcome.error]


def test_states_of_calls_at_once_are_apart(world: World) -> None:
    """Each of many calls through one Retry has a state of its own."""
    heard: dict[int, list[int]] = {}
    states: dict[int, set[int]] = {}
    kept: list[tenacity.RetryCallState] = []
    lock = threading.Lock()

    def before(state: tenacity.RetryCallState) -> None:
        with lock:
            kept.append(state)
            heard.setdefault(state.args[0], []).append(state.attempt_number)
            states.setdefault(state.args[0], set()).add(id(state))

    retry = Retry(6, wait=tenacity.wait_fixed(0.005), before=before)
    scripts = [world.dependency(*([OSError()] * number), number) for number in range(5)]
    calls = [lambda each=each, number=number: retry(each.fn)(number) for number, each in enumerate(scripts)]
    assert [outcome.value for outcome in world.together(*calls)] == [0, 1, 2, 3, 4]
    assert heard == {number: list(range(1, number + 2)) for number in range(5)}
    assert all(len(each) == 1 for each in states.values())
    assert len(set.union(*states.values())) == 5
