"""tenacity's own strategies are understood like the library's."""

from __future__ import annotations

import math
import random
import threading
import warnings
from datetime import timedelta
from typing import Any

import pytest
import tenacity
import tenacity.asyncio
from hypothesis import given
from hypothesis import strategies as st

from resilient import Classifier, Pipeline, PipelineWarning, Retry, Timeout
from resilient.core.worst_case import Bound
from resilient.explain import Explanation, explain
from resilient.policies.retry.tenacity import answer_to, span
from tests.hypothesis_settings import search


def of(*policies: Any, classify: Classifier | None = None) -> Explanation:
    """The explanation of a pipeline of these policies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return explain(Pipeline(*policies, classify=classify))


def exactly(value: float) -> Bound:
    """An exact worst case."""
    return Bound(value, value)


def _a_while(state: tenacity.RetryCallState) -> float:
    return 1.0


def _enough(state: tenacity.RetryCallState) -> bool:
    return True


FIXED, HALVES = tenacity.wait_fixed(2), tenacity.wait_fixed(0.5)


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [
        (FIXED, 2 + 2 + 2),
        (tenacity.wait_none(), 0),
        (tenacity.wait_random(1, 3), 3 + 3 + 3),
        (tenacity.wait_random(3, 1), 3 + 3 + 3),
        (tenacity.wait_random(min=timedelta(seconds=1), max=timedelta(seconds=2)), 2 + 2 + 2),
        (tenacity.wait_incrementing(1, 2, max=4), 1 + 3 + 4),
        (tenacity.wait_incrementing(5, -3), 5 + 2 + 0),
        (tenacity.wait_exponential(), 1 + 2 + 4),
        (tenacity.wait_exponential(multiplier=0.5, exp_base=4, max=timedelta(seconds=6)), 0.5 + 2 + 6),
        (tenacity.wait_exponential(min=3, max=1), 3 + 3 + 3),
        (tenacity.wait_random_exponential(max=3), 1 + 2 + 3),
        (tenacity.wait_random_exponential(min=2, max=1), 2 + 2 + 2),
        (tenacity.wait_exponential_jitter(jitter=0.5, max=4), 1.5 + 2.5 + 4),
        (tenacity.wait_exponential_jitter(jitter=0, max=2), 1 + 2 + 2),
        (tenacity.wait_chain(FIXED, HALVES), 2 + 0.5 + 0.5),
        (tenacity.wait_combine(FIXED, HALVES, tenacity.wait_random(0, 1)), 3.5 * 3),
        (FIXED + HALVES, 2.5 * 3),
        (sum([FIXED, HALVES]), 2.5 * 3),
    ],
    ids=repr,
)
def test_waits_of_tenacity_are_read(wait: Any, seconds: float) -> None:
    """Four attempts of a second, and the longest value of each of the three pauses."""
    retry = Retry(4, wait=wait, max_retry_after=0)
    assert retry.facts.pause == seconds
    assert of(retry, Timeout(1)).worst.seconds == exactly(4 + seconds)


@pytest.mark.parametrize(
    ("stop", "attempts", "seconds"),
    [
        (tenacity.stop_after_attempt(3), 3, 3 * 2 + 2 * 2),
        (tenacity.stop_after_attempt(0), 1, 2),
        (tenacity.stop_after_delay(5), 4, 5 + 2 + 2),  # the last but one ends just before 5 s, the last begins at 7 s
        (tenacity.stop_after_delay(timedelta(seconds=5)), 4, 5 + 2 + 2),
        (tenacity.stop_before_delay(5), 3, 5 + 2),
        (tenacity.stop_after_attempt(2) | tenacity.stop_after_delay(5), 2, 2 * 2 + 2),
        (tenacity.stop_after_attempt(9) | tenacity.stop_after_delay(5), 4, 5 + 2 + 2),
        (tenacity.stop_after_attempt(5) & tenacity.stop_after_delay(5), 5, 5 * 2 + 4 * 2),
        (tenacity.stop_any(tenacity.stop_never, tenacity.stop_after_attempt(2)), 2, 2 * 2 + 2),
        (tenacity.stop_all(tenacity.stop_after_delay(5), tenacity.stop_before_delay(3)), 4, 5 + 2 + 2),
        (tenacity.stop_never, math.inf, math.inf),
        (tenacity.stop_when_event_set(threading.Event()), math.inf, math.inf),
        (tenacity.stop_never & tenacity.stop_after_attempt(2), math.inf, math.inf),
    ],
    ids=repr,
)
def test_stops_of_tenacity_are_read(stop: Any, attempts: float, seconds: float) -> None:
    """Attempts of up to 2 s, and 2 s between them: exact for each stop strategy."""
    worst = of(Retry(stop=stop, wait=FIXED, max_retry_after=0), Timeout(2)).worst
    assert (worst.attempts, worst.seconds) == (exactly(attempts), exactly(seconds))


def test_functions_of_users_are_not_known() -> None:
    """Their results are unknown; only a total bounds them, and the explanation names them."""
    waiting, stopping = Retry(3, wait=_a_while), Retry(stop=_enough, wait=0, max_retry_after=0)
    assert of(waiting, Timeout(2)).worst.seconds == Bound(3 * 2, math.inf)
    assert of(Timeout(30), waiting, Timeout(2)).worst.seconds == Bound(2, 30)
    assert of(Timeout(30), stopping, Timeout(2)).worst.seconds == Bound(2, 30)
    assert of(stopping, Timeout(2)).worst.requests == Bound(1, math.inf)
    assert "what _a_while says is not known: it may be any pause" in of(waiting).assumes
    assert "what _enough says is not known: it may end the attempts at any time, or never" in of(stopping).assumes


# -- how long they wait ---------------------------------------------------------------------------------------------


SECONDS = st.floats(0, 50, allow_nan=False) | st.floats(0, 50).map(lambda value: timedelta(seconds=value))
MANY = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, 1e200])
PLAIN = st.one_of(
    st.builds(tenacity.wait_fixed, SECONDS),
    st.builds(tenacity.wait_none),
    st.builds(tenacity.wait_random, min=SECONDS, max=SECONDS),
    st.builds(tenacity.wait_incrementing, start=SECONDS, increment=st.floats(-20, 20), max=SECONDS),
    st.builds(tenacity.wait_exponential, multiplier=MANY, max=SECONDS, exp_base=MANY, min=SECONDS),
    st.builds(tenacity.wait_random_exponential, multiplier=MANY, max=SECONDS, exp_base=MANY, min=SECONDS),
    st.builds(
        tenacity.wait_exponential_jitter, multiplier=MANY, max=SECONDS, exp_base=MANY, jitter=SECONDS, min=SECONDS
    ),
)
WAITS = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(lambda parts: tenacity.wait_chain(*parts)),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: tenacity.wait_combine(*parts)),
    ),
    max_leaves=5,
)


class Attempt:
    """The argument of wait strategies."""

    def __init__(self, number: int) -> None:
        self.attempt_number = number


@search(150)
@given(WAITS, st.integers(1, 2000), st.randoms(use_true_random=False))
def test_what_a_wait_strategy_says_lies_between_what_is_read(wait: Any, attempt: int, dice: random.Random) -> None:
    """Random waits reach both ends of the range."""
    known = span(wait, attempt)
    assert known is not None
    least, most = known
    said = []
    for share in (0.0, dice.random(), 1.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tenacity.wait.random, "random", lambda share=share: share)
            patch.setattr(
                tenacity.wait.random, "uniform", lambda low, high, share=share: low * (1 - share) + high * share
            )
            said.append(max(0.0, wait(retry_state=Attempt(attempt))))
    slack = 1e-9 * max(1.0, most)
    assert all(least - slack <= each <= most + slack for each in said)


@pytest.mark.parametrize(
    "wait",
    [
        lambda state: 1.0,
        tenacity.wait_exception(lambda error: 1.0),
        tenacity.wait_fixed(1) + (lambda state: 1.0),
        tenacity.wait_chain(lambda retry_state: 1.0),
        tenacity.wait_fixed(math.nan),
        type("Mine", (tenacity.wait_fixed,), {"__call__": lambda self, state: 9.0})(1),
    ],
    ids=repr,
)
def test_waits_of_users_are_not_read(wait: Any) -> None:
    """Nor waits with a user's function inside, or with values that are no numbers."""
    assert span(wait, 1) is None
    assert Retry(3, wait=wait).facts.pause is None


@pytest.mark.parametrize("kind", [tenacity.wait_exponential, tenacity.wait_exponential_jitter])
def test_late_attempts_of_exponential_waits_are_read_in_no_time(kind: Any) -> None:
    """Two to the power of a quintillion does not fit into memory."""
    assert span(kind(multiplier=0, max=8, exp_base=2), 10**18) is not None
    assert span(kind(max=8, exp_base=2), 10**18) == (8, 8)
    assert of(Retry(stop=tenacity.stop_never, wait=kind(max=8))).worst.requests == exactly(math.inf)


def test_wait_of_a_subclass_with_other_figures_is_read() -> None:
    """It behaves as its base class does."""
    kind = type("Mine", (tenacity.wait_fixed,), {"__init__": lambda self: tenacity.wait_fixed.__init__(self, 7)})
    assert span(kind(), 1) == (7, 7)


# -- what they repeat -----------------------------------------------------------------------------------------------


OF_OS, OF_KEY = tenacity.retry_if_exception_type(OSError), tenacity.retry_if_exception_type(KeyError)
PREDICATE = tenacity.retry_if_exception(lambda error: True)


@pytest.mark.parametrize(
    ("strategy", "of_error", "of_result"),
    [
        (tenacity.retry_never, False, False),
        (tenacity.retry_always, True, True),
        (OF_OS, True, False),
        (OF_KEY, False, False),
        (tenacity.retry_if_not_exception_type(OSError), False, False),
        (tenacity.retry_unless_exception_type(OSError), False, True),
        (tenacity.retry_if_exception_message(match="in the"), True, False),
        (tenacity.retry_if_not_exception_message(match="in the"), False, True),
        (tenacity.retry_if_exception_cause_type(OSError), False, False),
        (PREDICATE, None, False),
        (tenacity.retry_if_result(bool), None, None),
        (OF_OS | PREDICATE, True, False),
        (OF_KEY | PREDICATE, None, False),
        (OF_KEY & PREDICATE, False, False),
        (OF_OS & PREDICATE, None, False),
        (tenacity.asyncio.retry_any(OF_OS, tenacity.asyncio.retry_if_exception(print)), True, False),
    ],
    ids=repr,
)
def test_answers_of_retry_strategies_are_known_without_their_users_predicates(
    strategy: Any, of_error: bool | None, of_result: bool | None
) -> None:
    """None means that a user's predicate decides; the predicate is not called."""
    assert (answer_to(strategy, ConnectionError("in the lab")), answer_to(strategy, None)) == (of_error, of_result)


@pytest.mark.parametrize(
    ("strategy", "does"),
    [
        (OF_OS, "repeats the call"),
        (OF_KEY, "does not repeat it"),
        (PREDICATE, "asks the predicate of retry_if_exception whether to repeat it"),
    ],
)
def test_what_a_retry_strategy_does_with_a_failure_is_said(strategy: Any, does: str) -> None:
    """The explanation names the strategy's predicate if the answer depends on it."""
    (step,) = of(Retry(3, on=strategy)).routes[0].steps
    assert step.does.startswith(does)
