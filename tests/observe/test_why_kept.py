"""What the answers of `resilient.why` keep: no argument, result, error or traceback; and where an error takes them."""

from __future__ import annotations

import concurrent.futures
import gc
import json
import pickle
import subprocess
import sys
import weakref
from typing import Any

import pytest

import resilient
from resilient import (
    CircuitBreaker,
    Pipeline,
    Retry,
    TimedOut,
    Timeout,
    why,
)
from resilient.core.history import FIRST, LAST
from tests.worlds import World

pytestmark = pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")


class Secret:
    """An argument or a result whose end can be seen."""

    def __repr__(self) -> str:
        return "s3cret-argument"


class Failure(ConnectionError):
    """An error whose end can be seen."""


def test_answer_and_the_call_keep_nothing_alive(world: World) -> None:
    """Arguments, results, errors and tracebacks end with the error, though the answer is kept."""
    argument = Secret()
    ends: list[weakref.ref[Any]] = [weakref.ref(argument)]

    async def fails(secret: Secret) -> None:
        failure = Failure("s3cret-message")
        ends.append(weakref.ref(failure))
        raise failure

    def fails_plainly(secret: Secret) -> None:
        failure = Failure("s3cret-message")
        ends.append(weakref.ref(failure))
        raise failure

    pipeline = Pipeline(Timeout(5), Retry(3, wait=0), CircuitBreaker(), name="why")
    outcome = world.outcome(pipeline(fails if world.is_async else fails_plainly), argument)
    assert outcome.error is not None
    answer = why(outcome.error)
    data, text = json.dumps(answer.as_json()), str(answer)
    del outcome, argument
    gc.collect()
    assert [end() for end in ends] == [None] * 4
    assert "s3cret" not in data + text + repr(answer)


def test_steps_are_bounded(world: World) -> None:
    """Of many attempts the first and the last are kept, and the number of the others."""
    guarded = Pipeline(Retry(200, wait=0), name="why")(world.dependency(*[OSError() for _ in range(200)]).fn)
    error = world.outcome(guarded).error
    assert error is not None
    (call,) = why(error).as_json()["calls"]
    numbers = [step["number"] for step in call["steps"]]
    assert numbers == [*range(1, FIRST + 1), *range(201 - LAST, 201)]
    assert (call["attempts"], call["left_out"]) == (200, 200 - FIRST - LAST)
    assert "       ...  185 more steps" in str(why(error)).splitlines()


def test_error_object_that_is_raised_again_and_again_has_the_last_call_only() -> None:
    """A shared exception object: Python makes its traceback longer each time, the answer stays the same."""
    shared = OSError("shared")

    def fail() -> None:
        raise shared

    guarded = Pipeline(Retry(2, wait=0), CircuitBreaker(min_calls=1000), name="why")(fail)

    def handle() -> int:
        try:
            guarded()
        except OSError as error:
            return len(json.dumps([call | {"seconds": 0, "steps": 0} for call in why(error).as_json()["calls"]]))
        raise AssertionError

    assert len({handle() for _ in range(50)}) == 1


def test_error_without_attributes_of_its_own(world: World) -> None:
    """Slots, a frozen class: nothing is written to the error."""

    class Slotted(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    guarded = Pipeline(Retry(2, wait=0), name="why")(world.dependency(Slotted(), Slotted()).fn)
    error = world.outcome(guarded).error
    assert error is not None
    assert why(error).as_json()["calls"][0]["attempts"] == 2


def _work() -> None:
    breaker = CircuitBreaker()
    breaker.isolate()
    Pipeline(Retry(2), breaker, name="in another process").call(len, "")


def test_error_of_another_process_has_the_answer_with_it() -> None:
    """A process pool pickles errors."""
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        error = pool.submit(_work).exception()
    assert isinstance(error, resilient.CircuitOpen)
    found = why(error).as_json()
    assert [call["pipeline"] for call in found["calls"]] == ["in another process"]
    assert error.opening is not None
    assert error.opening.reason == "by hand"


def test_error_of_the_function_keeps_its_note_when_pickled(world: World) -> None:
    """Its answer is not pickled with it: the class is not ours. The note says why retries ended."""
    guarded = Pipeline(Retry(2, wait=0), name="why")(world.dependency(OSError(), OSError()).fn)
    error = pickle.loads(pickle.dumps(world.outcome(guarded).error))
    assert str(why(error)).splitlines() == [
        "OSError: no guarded call raised this error",
        "  pipeline 'why' gave up after 2 attempts: attempts spent",
    ]


def test_error_that_no_call_has_raised_pickles_as_it_is() -> None:
    """Nothing is added to it."""
    error = TimedOut("by hand", seconds=2)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


def test_answer_is_data(world: World) -> None:
    """It is JSON, and pickles."""
    guarded = Pipeline(Timeout(5), Retry(2, wait=0), name="why")(world.dependency(OSError(), OSError()).fn)
    error = world.outcome(guarded).error
    assert error is not None
    answer = why(error)
    assert json.loads(json.dumps(answer.as_json())) == answer.as_json()
    assert str(pickle.loads(pickle.dumps(answer))) == str(answer)


LAZY = """
import pickle, sys, resilient
assert not any(name.startswith("resilient.observe") for name in sys.modules), "imported too early"
breaker = resilient.CircuitBreaker()
breaker.isolate()
try:
    resilient.Pipeline(breaker, name="lazy").call(len, "")
except resilient.CircuitOpen as error:
    again = pickle.loads(pickle.dumps(error))
assert resilient.why(again).as_json()["calls"][0]["function"] == "len"
assert "why" in dir(resilient)
"""


def test_code_is_imported_when_it_is_needed() -> None:
    """`import resilient` does not get heavier, and errors pickle with their answer all the same."""
    subprocess.run([sys.executable, "-c", LAZY], check=True)
