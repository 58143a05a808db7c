"""Exceptions whose attributes raise: the caller gets them unchanged, and every policy handles them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock, Mock

import pybreaker
import pytest
import tenacity

import resilient
from resilient import (
    AdaptiveLimit,
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    Retry,
    Timeout,
    quantile,
    standard,
)
from resilient.core.classify import FAILURE
from resilient.core.policy import Policy
from tests.worlds import ThreadWorld, VirtualWorld, World


def odd(name: str, **members: Any) -> type[Exception]:
    """Return a class of exceptions with these members."""
    return type(name, (Exception,), members)


def raises(*args: Any) -> Any:
    """A member that raises."""
    raise RuntimeError("of the exception itself")


class Notes(Exception):
    """An exception whose notes raise."""

    def __getattr__(self, name: str) -> Any:
        if name == "__notes__":
            raise RuntimeError("no")
        raise AttributeError(name)


ODD = [
    odd("RetryAfter", retry_after=property(lambda self: {}["Retry-After"])),
    odd("Bool", __bool__=raises),
    odd("Len", __len__=lambda self: 0),
    odd("Eq", __eq__=raises, __hash__=raises),
    odd("Str", __str__=raises),
    odd("SetAttr", __setattr__=raises),
    odd("Class", __class__=property(raises)),
    odd("Getattr", __getattr__=raises),
    odd("Dict", __dict__=property(raises)),
    odd("Args", args=property(raises)),
    odd("Cause", __cause__=property(raises), __context__=property(raises)),
    odd("Response", response=property(raises), status=property(raises), sqlstate=property(raises)),
    odd("Dynamic", __getattr__=lambda self, name: MagicMock()),
    odd("Iter", __iter__=raises, __contains__=raises),
    Notes,
]

POLICIES: dict[str, Callable[[], tuple[Policy, ...]]] = {
    "retry": lambda: (Retry(2, wait=0),),
    "retry on": lambda: (Retry(2, wait=0, on=(OSError, Exception)),),
    "tenacity": lambda: (Retry(2, wait=tenacity.wait_none()),),
    "breaker": lambda: (Bulkhead(5), CircuitBreaker(listeners=[pybreaker.CircuitBreakerListener()])),
    "hedge": lambda: (Hedge(60, thread=True),),
    "hedge that observes": lambda: (Hedge(quantile(0.9), thread=True),),
    "keyed": lambda: (Keyed(CircuitBreaker, key=lambda: 1), Timeout(5)),
    "adaptive": lambda: (AdaptiveLimit(),),
    "standard": lambda: standard().policies,
}


@pytest.fixture(params=ODD, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Exception]:
    """Each odd class of exceptions."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[VirtualWorld, ThreadWorld], ids=["virtual", "threads"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Coroutines and plain functions: the rest of a runtime has no part in it."""
    made = request.param()
    yield made
    made.close()


def caught(world: World, policy: Policy, error: Exception) -> object:
    """What the caller of a function that raises `error` gets; caught inside, for asyncio itself fails over some."""

    async def fails_async() -> None:
        raise error

    def fails() -> None:
        raise error

    async def main_async() -> object:
        try:
            return await policy(fails_async)()
        except Exception as raised:
            return raised

    def main() -> object:
        try:
            return policy(fails)()
        except Exception as raised:
            return raised

    return world.run(main_async if world.is_async else main)


@pytest.mark.parametrize("policies", POLICIES.values(), ids=POLICIES)
def test_exception_that_misbehaves_reaches_the_caller(world: World, kind: type[Exception], policies: Any) -> None:
    """The caller gets the exception itself, and no permit is lost, with and without listeners."""
    for listens in (False, True):
        pipeline, error = Pipeline(*policies()), kind("x")
        if listens:
            pipeline.listen(lambda event: None)
        assert caught(world, pipeline, error) is error
        states = pipeline.snapshot()["policies"]
        assert not any(state.get("in_use") or state.get("in_flight") for state in states)


@pytest.mark.parametrize("policies", POLICIES.values(), ids=POLICIES)
def test_why_of_an_exception_that_misbehaves(world: World, kind: type[Exception], policies: Any) -> None:
    """It is reported as others are."""
    error = kind("x")
    pipeline = Pipeline(*policies(), name="odd")
    assert caught(world, pipeline, error) is error
    report = resilient.why(error)
    assert [call["pipeline"] for call in report.as_json()["calls"]] == ["odd"]
    assert str(report).startswith(f"{kind.__name__}: ")


def test_exception_that_misbehaves_is_a_failure(kind: type[Exception]) -> None:
    """What it cannot tell does not speak for it."""
    assert Classifier().error(kind("x")) == FAILURE
    assert Classifier().error(ExceptionGroup("", [kind("x")])) == FAILURE


def test_fallback_answers_for_an_exception_that_misbehaves(world: World, kind: type[Exception]) -> None:
    """An exception whose members raise is a failure like others, and a Fallback answers."""
    assert caught(world, Fallback("stale"), kind("x")) == "stale"


@pytest.mark.parametrize("answer", [Mock(), MagicMock(), Mock(status_code="404"), MagicMock(status_code=True), 404, {}])
def test_exception_with_a_mocked_answer_is_a_failure(answer: Any) -> None:
    """A mock has every attribute, and none of a type that would say something."""
    error = RuntimeError("x")
    error.response = answer  # type: ignore[attr-defined]
    assert Classifier().error(error) == FAILURE
