"""Mistakes that look right: the message of the error says what to write instead."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import tenacity

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
    deadline,
    standard,
)
from tests.worlds import World


def fetch() -> None: ...


async def fetch_async() -> None: ...


class Fetches:
    """A class that a policy decorates by mistake."""


ABOVE: dict[str, Callable[[Any], Any]] = {
    "@Retry()": Retry,
    "@Timeout(2)": Timeout,
    "@Bulkhead(100)": Bulkhead,
    "@CircuitBreaker()": CircuitBreaker,
    "@Hedge(0.5)": Hedge,
    "@RateLimit(10)": RateLimit,
    "@AdaptiveLimit()": AdaptiveLimit,
    "@Pipeline(...)": Pipeline,
}


@pytest.mark.parametrize("fn", [fetch, fetch_async, lambda: 1, fetch.__call__], ids=repr)
@pytest.mark.parametrize(("written", "policy"), ABOVE.items(), ids=ABOVE)
def test_policy_without_parentheses_is_told_of_them(written: str, policy: Callable[[Any], Any], fn: Any) -> None:
    """`@Retry` above a function raises, and the message shows the parentheses."""
    with pytest.raises(TypeError, match=re.escape(f"write {written}")):
        policy(fn)


def test_policy_of_a_user_is_told_by_its_own_name() -> None:
    """The message for a subclass names the subclass."""

    class Patient(Retry):
        pass

    with pytest.raises(TypeError, match=re.escape("write @Patient()")):
        Patient(fetch)  # type: ignore[arg-type]


INSTEAD: dict[str, Callable[[], Any]] = {
    "name='users'": lambda: Pipeline("users", Retry()),  # type: ignore[arg-type]
    "them one after the other, Pipeline(Retry(), Timeout(2)), or Pipeline(*policies)": lambda: Pipeline(
        [Retry(), Timeout(2)]
    ),  # type: ignore[arg-type]
    "Retry()": lambda: Pipeline(Retry),  # type: ignore[arg-type]
    "Budget()": lambda: Retry(budget=Budget),  # type: ignore[arg-type]
    "Classifier()": lambda: Pipeline(Retry(), classify=Classifier),  # type: ignore[arg-type]
    "Classifier(results=...)": lambda: Pipeline(Retry(), classify=lambda r: True),  # type: ignore[arg-type]
    "Fallback(call=...)": lambda: Fallback(fetch),
    "fail_max=5": lambda: CircuitBreaker(5),
    "stop=...": lambda: Retry(tenacity.stop_after_attempt(3)),  # type: ignore[arg-type]
    "3, without quotes": lambda: Retry("3"),  # type: ignore[arg-type]
    "2.5, without quotes": lambda: Timeout("2.5"),  # type: ignore[arg-type]
    "90": lambda: Timeout(timedelta(minutes=1.5)),  # type: ignore[arg-type]
    "the policy below @property": lambda: Retry()(property(lambda self: 1)),  # type: ignore[call-overload]
    "the policy below @cached_property": lambda: Retry()(functools.cached_property(lambda self: 1)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("written", "make"), INSTEAD.items(), ids=INSTEAD)
def test_what_looks_right_is_told_what_to_write(written: str, make: Callable[[], Any]) -> None:
    """The message of the error says what to write instead."""
    with pytest.raises((TypeError, ValueError), match=re.escape(f"write {written}")):
        make()


def test_share_of_a_hundred_is_told_as_one() -> None:
    """The message for 10 as a share suggests 0.1."""
    with pytest.raises(ValueError, match=re.escape("got 10: 10% is 0.1")):
        Budget(10)


@pytest.mark.parametrize("value", ["soon", "", "p95"])
def test_text_that_is_no_number_has_no_hint(value: str) -> None:
    """A text that is no number suggests nothing."""
    with pytest.raises(TypeError, match=re.escape(f"got {value!r}") + "$"):
        deadline(value).__enter__()  # type: ignore[arg-type]


TYPES: dict[str, Any] = {
    "list": [OSError, KeyError],
    "set": {OSError, KeyError},
    "union": OSError | KeyError,
    "tuple": (OSError, KeyError),
}


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
def test_exception_types_may_be_written_in_any_way(world: World, types: Any) -> None:
    """One type, a tuple or a union: in `on=`, `failures=`, `fatal=` and `ignore=`."""
    dependency = world.dependency(KeyError(), OSError(), ValueError(), KeyError(), OSError())
    assert isinstance(world.outcome(Retry(5, wait=0, on=types)(dependency.fn)).error, ValueError)
    assert world.outcome(Fallback(7, on=types)(dependency.fn)).value == 7
    assert [Classifier(ignore=types).error(error).kind for error in (OSError(), ValueError())] == ["nothing", "failure"]
    assert [Classifier(failures=types).error(error).kind for error in (OSError(), ValueError())] == [
        "failure",
        "nothing",
    ]
    assert [Classifier(fatal=types).error(error).retryable for error in (KeyError(), ValueError())] == [False, True]


@pytest.mark.parametrize("types", [[503], [OSError, "KeyError"], OSError | int, {}], ids=repr)
def test_what_is_no_exception_type_is_refused(types: Any) -> None:
    """The constructor raises for it, not the first failing call."""
    with pytest.raises(TypeError, match="on must be exception types or a predicate"):
        Retry(on=types)


def test_rejections_named_in_a_union_are_repeated(world: World) -> None:
    """A union names rejections as a tuple does."""
    dependency = world.dependency(CircuitOpen(), 7)
    assert world.call(Retry(2, wait=0, on=CircuitOpen | OSError)(dependency.fn)) == 7


def test_standard_with_a_name_only_keeps_its_figures() -> None:
    """`standard("name")` keeps the defaults of its other settings."""
    assert [policy.facts.time_limit for policy in standard("users").policies if policy.facts.time_limit] == [30, 9]
