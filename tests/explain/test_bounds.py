"""No adversary exceeds a bound of `explain`, and adversaries reach the values that it says can happen.

Random pipelines of all policies, each against up to hundreds of adversaries, in virtual time. Here a few thousand calls
are made. `RESILIENT_ADVERSARIAL_CALLS=100000 pytest tests/explain/test_bounds.py` makes more.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from resilient import AdaptiveLimit, Chaos, Pipeline, Retry
from resilient.explain import Explanation, explain
from resilient.policies.retry import schedule
from tests.explain.adversaries import ENOUGH, Found, attack
from tests.explain.stacks import HANG, build, random_stack

CALLS = int(os.environ.get("RESILIENT_ADVERSARIAL_CALLS", "2500"))


@pytest.fixture(autouse=True, scope="module")
def each_wait_is_read_once() -> Iterator[None]:
    """Keeps the span that a wait strategy has after each attempt: thousands of pipelines are built of few strategies,
    and each of them asks for a thousand spans."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "span", functools.cache(schedule.span))
        yield


def worst_found(
    make: Callable[[], Sequence[Pipeline]], explanation: Explanation, dice: random.Random, what: str, tries: int = 1500
) -> tuple[Found, int]:
    """The largest value of each quantity that adversaries have reached, none beyond its bound; and the number of
    calls."""
    worst, calls = explanation.overall, 0
    longest = Found(0.0, 0, 0)
    for found in attack(make, explanation, dice, tries):
        calls += 1
        longest = Found(
            max(longest.seconds, found.seconds),
            max(longest.requests, found.requests),
            max(longest.attempts, found.attempts),
        )
    assert longest.seconds <= worst.seconds.most * (1 + 1e-9) + 1e-6, what
    assert longest.requests <= worst.requests.most, what
    assert longest.attempts <= worst.attempts.most, what
    return longest, calls


def stacks_of(pipeline: Pipeline) -> Iterator[Any]:
    """All policies, including those of nested pipelines."""
    for policy in pipeline.policies:
        if isinstance(policy, Pipeline):
            yield from stacks_of(policy)
        else:
            yield policy


def is_found(*pipelines: Pipeline) -> bool:
    """Whether adversaries usually find the worst case: not if it depends on chance, on a limit that counts from a
    moment within the call, or on runs that consist of runs."""
    policies = [policy for pipeline in pipelines for policy in stacks_of(pipeline)]
    repeating = [policy for policy in policies if policy.facts.runs != 1]
    timed = any(isinstance(policy, Retry) and policy._schedule.stop.timed for policy in repeating)
    return not (any(isinstance(each, AdaptiveLimit | Chaos) for each in policies) or (timed and len(repeating) > 1))


def test_bounds_hold_and_what_can_happen_is_brought_about() -> None:
    """Latency, attempts and requests never exceed their bounds, and the worst found is within 10% of the value that can
    happen; if that equals the bound, the bound is exact."""
    seed = calls = 0
    while calls < 0.8 * CALLS:
        seed += 1
        dice = random.Random(seed)
        stack = random_stack(dice)
        explanation = explain(build(stack))
        worst = explanation.worst
        what = f"seed {seed}:\n{build(stack).describe()}\n{worst}"
        findable = is_found(build(stack))
        tries = 1500 if findable else 50
        found, made = worst_found(lambda stack=stack: [build(stack)], explanation, dice, what, tries)  # type: ignore[misc]
        calls += made
        if findable:
            assert found.seconds >= 0.9 * min(worst.seconds.sure, HANG / 2), what
            assert found.requests >= min(worst.requests.sure, ENOUGH), what


def test_bounds_hold_behind_another_pipeline() -> None:
    """The call through one pipeline is the function of another: the bounds of both together hold."""
    seed = calls = 0
    while calls < 0.2 * CALLS:
        seed += 1
        dice = random.Random(f"layered {seed}")
        outer, inner = random_stack(dice, 2), random_stack(dice, 3)
        explanation = explain(build(inner), behind=build(outer))
        worst = explanation.overall
        what = f"seed {seed}:\n{build(outer).describe()}\n{build(inner).describe()}\n{worst}"
        findable = is_found(build(outer), build(inner)) and not (build(outer).facts.waits or build(inner).facts.waits)
        found, made = worst_found(
            lambda o=outer, i=inner: [build(o), build(i)],  # type: ignore[misc]
            explanation,
            dice,
            what,
            tries=1500 if findable else 20,
        )
        calls += made
        if findable:
            assert found.seconds >= 0.9 * min(worst.seconds.sure, HANG / 2), what
            assert found.requests >= min(worst.requests.sure, ENOUGH), what
