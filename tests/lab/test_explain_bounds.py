"""No adversary ever gets more out of a pipeline than `explain` says; and what it says can happen, one brings about.

Over a thousand random pipelines, each against up to hundreds of adversaries, in virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from resilient import Pipeline
from resilient.lab.explain import Explanation, explain
from tests.lab.adversaries import HANG, Found, attack, build, random_stack

BATCH = 50


def worst_found(
    make: Callable[[], Sequence[Pipeline]], explanation: Explanation, dice: random.Random, what: str, tries: int = 1500
) -> Found:
    """The worst of each quantity that adversaries have brought about; none of it beyond the bounds."""
    worst = explanation.overall
    longest = Found(0.0, 0, 0)
    for found in attack(make, explanation, dice, tries):
        longest = Found(
            max(longest.seconds, found.seconds),
            max(longest.requests, found.requests),
            max(longest.attempts, found.attempts),
        )
    assert longest.seconds <= worst.seconds.most * (1 + 1e-9) + 1e-6, what
    assert longest.requests <= worst.requests.most, what
    assert longest.attempts <= worst.attempts.most, what
    return longest


@pytest.mark.parametrize("batch", range(20))
def test_bounds_hold_and_what_can_happen_is_brought_about(batch: int) -> None:
    """Neither latency nor attempts and requests ever exceed the bound, and the worst that is found is within 10% of
    what is said to be possible: where that is the bound itself, the bound is exact."""
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        dice = random.Random(seed)
        stack = random_stack(dice)
        explanation = explain(build(stack))
        worst = explanation.worst
        what = f"seed {seed}:\n{build(stack).describe()}\n{worst}"
        found = worst_found(lambda stack=stack: [build(stack)], explanation, dice, what)  # type: ignore[misc]
        assert found.seconds >= 0.9 * min(worst.seconds.sure, HANG / 2), what
        assert found.requests >= worst.requests.sure, what


@pytest.mark.parametrize("batch", range(4))
def test_bounds_hold_behind_another_pipeline(batch: int) -> None:
    """The call through one pipeline is the function of another: the same holds for both together."""
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        dice = random.Random(f"layered {seed}")
        outer, inner = random_stack(dice, 2), random_stack(dice, 3)
        explanation = explain(build(inner), behind=build(outer))
        worst = explanation.overall
        what = f"seed {seed}:\n{build(outer).describe()}\n{build(inner).describe()}\n{worst}"
        queues = any(policy.waits for policy in (build(outer), build(inner)))
        found = worst_found(
            lambda o=outer, i=inner: [build(o), build(i)],  # type: ignore[misc]
            explanation,
            dice,
            what,
            tries=20 if queues else 1500,
        )
        assert queues or found.seconds >= 0.9 * min(worst.seconds.sure, HANG / 2), what
        assert queues or found.requests >= worst.requests.sure, what
