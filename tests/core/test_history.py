"""The history of a call: what is recorded once something has failed, within bounds, and shared by the call's copies."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from resilient import CircuitOpen, TimedOut
from resilient.core import history
from resilient.core.call import Call, new_call
from resilient.core.history import FIRST, LAST, MOST, status_of_outcome, text_of
from resilient.errors import Opening
from resilient.observe.call_steps import Steps, steps_of
from resilient.runtime.threads import THREADS


def call() -> Call:
    return new_call(len, (), {}, THREADS)


def fail(steps: list[Any], made: Call, begin: float | None = None, error: Exception | None = None) -> float:
    """Record a failure of the current attempt."""
    return history.attempt_failed(steps, made, error or OSError(), None, None, begin)


def kinds(found: Steps) -> list[str]:
    return [step.kind for step in found.steps]


def test_call_has_none_until_something_fails() -> None:
    """A call that succeeds pays nothing for it."""
    assert not hasattr(call(), "history")


@pytest.mark.parametrize("attempts", [1, FIRST + LAST, FIRST + LAST + 1, MOST, MOST + 1, 10 * MOST])
def test_first_and_last_steps_are_kept(attempts: int) -> None:
    """The number of the others is exact, and the memory bounded."""
    steps: list[Any] = []
    made = call()
    for number in range(1, attempts + 1):
        made.attempt = number
        fail(steps, made, begin=THREADS.now())
        assert len(steps) <= MOST + 1
    history.retries_ended(steps, made, "Retry", "attempts spent")
    found = steps_of(made.history)
    numbers = [step.number for step in found.steps]
    if attempts <= FIRST + LAST:
        assert numbers == [*range(1, attempts + 1)]
    else:
        assert numbers == [*range(1, FIRST + 1), *range(attempts - LAST + 1, attempts + 1)]
    assert found.left_out == attempts - len(numbers)
    assert (found.attempts, found.policy, found.reason) == (attempts, "Retry", "attempts spent")


def test_steps_of_hedges_are_bounded_too() -> None:
    """A call may be hedged in each of many attempts."""
    made = call()
    for number in range(1000):
        history.copy_started(made, number, "delay")
    assert len(made.history) <= MOST + 1
    found = steps_of(made.history)
    assert len(found.steps) == FIRST + LAST
    assert found.left_out == 1000 - FIRST - LAST


def test_fork_shares_the_history_of_its_call() -> None:
    """Attempts in a copy are steps of the call."""
    made = call()
    fork = made.fork()
    steps: list[Any] = []
    fail(steps, fork)
    history.keep(steps, fork)
    history.copy_failed(made, 1, OSError(), None, None)
    assert kinds(steps_of(made.history)) == ["attempt", "copy failed"]
    assert not hasattr(fork, "history")


def test_attempt_in_two_retries_is_recorded_once() -> None:
    """The inner Retry has its duration; the outer one adds its pauses."""
    made = call()
    inner: list[Any] = []
    outer: list[Any] = []
    fail(inner, made)
    made.attempt = 2
    fail(inner, made)
    history.retries_ended(inner, made, "inner", "attempts spent")
    at = fail(outer, made)
    history.paused(outer, at, "outer", 0.5, None)
    made.attempt = 3
    again: list[Any] = []
    fail(again, made)
    history.retries_ended(again, made, "inner", "attempts spent")
    fail(outer, made)
    history.retries_ended(outer, made, "outer", "attempts spent")
    found = steps_of(made.history)
    assert kinds(found) == ["attempt", "attempt", "pause", "attempt"]
    assert [step.number for step in found.steps if step.kind == "attempt"] == [1, 2, 3]
    assert found.policy == "outer"


def test_records_are_kept_once() -> None:
    """A Retry keeps them when it gives up, and again when its error leaves it."""
    made = call()
    history.copy_started(made, 2, "delay")
    steps: list[Any] = []
    fail(steps, made)
    for _ in range(3):
        history.keep(steps, made)
    assert kinds(steps_of(made.history)) == ["copy started", "attempt"]


def test_timeout_of_an_attempt_gives_its_duration() -> None:
    """The Timeout is no step of its own, and the first attempt need not be measured by a gate."""
    made = call()
    error = TimedOut("Timeout of 2 s expired", policy="Timeout", seconds=2.0)
    history.timed_out(made, _context(), error, 0.0)
    steps: list[Any] = []
    fail(steps, made, error=error)
    history.keep(steps, made)
    (step,) = steps_of(made.history).steps
    assert (step.kind, step.seconds, step.text) == ("attempt", 2.0, "Timeout of 2 s expired")


def test_first_attempt_has_the_duration_that_its_gates_have_measured() -> None:
    """Without a gate or a Timeout it is not known."""
    made = call()
    steps: list[Any] = []
    fail(steps, made)
    made.attempt = 2
    fail(steps, made, begin=THREADS.now() - 0.25)
    history.keep(steps, made)
    assert [step.seconds for step in steps_of(made.history).steps] == [None, pytest.approx(0.25, abs=0.2)]
    assert steps_of(made.history, 0.125).steps[0].seconds == 0.125


def test_time_in_queues_is_no_part_of_an_attempt() -> None:
    """It is shown beside it."""
    made = call()
    steps: list[Any] = []
    made.waited = 0.5
    fail(steps, made)
    made.attempt, made.waited = 2, 3.5
    now = THREADS.now()
    fail(steps, made, begin=now - 4)
    first, second = steps_of(steps).steps
    assert first.queued == 0.5
    assert second.queued == 3.0
    assert second.seconds == pytest.approx(1.0, abs=0.5)


class Answer:
    """A response, or an error with one."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Answer(status_code=503), 503),
        (Answer(status=429), 429),
        (Answer(status_code=HTTPStatus.BAD_GATEWAY), 502),
        (Answer(response=Answer(status_code=500)), 500),
        (Answer(response=Answer(status=502)), 502),
        (Answer(status="503"), None),
        (Answer(status_code=True), None),
        (OSError(), None),
        (None, None),
    ],
)
def test_status_is_read_as_clients_name_it(outcome: object, status: int | None) -> None:
    """A value that is no number is no status."""
    assert status_of_outcome(outcome) == status


def test_text_is_that_of_our_errors_only() -> None:
    """Others may quote what was sent. An open circuit has the reason that opened it."""
    error = CircuitOpen("circuit is open", pipeline="users")
    assert text_of(ConnectionError("s3cret")) == ""
    assert text_of(error) == "circuit is open"
    error.opening = Opening("5 failures in a row", 1.0, 5.0)
    assert text_of(error) == "circuit is open (opened: 5 failures in a row)"
    assert type(text_of(error)) is str


def _context() -> Any:
    from resilient.core.classify import DEFAULT
    from resilient.core.context import PipelineContext

    return PipelineContext("users", DEFAULT)
