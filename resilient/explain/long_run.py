"""The limits that budgets set to a pipeline over many calls: requests per call, and a burst of saved-up tokens.

A budget earns from the successes of every pipeline that has it, and each of these calls counts: a call through two
layers that share a budget is paid for twice, and an attempt of the outer layer whose answer the outer layer rejects may
have been a success of the inner one. Earned tokens are spent at the outermost place, where they cost most: each further
run is multiplied by everything inside that repeats without a budget, and may earn again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from resilient.core.policy import Policy
from resilient.explain.records import LongRun
from resilient.pipeline import Pipeline, own_budgets

__all__ = ["long_run"]

ROUNDS = 1000
"""The most rounds of a fixed-point iteration: spending earns tokens, and earned tokens are spent, until nothing
changes."""

ENOUGH = 1e-12


Leaves = Callable[[Policy], bool]
"""Whether a policy leaves retries to an outer layer."""


def long_run(layers: Sequence[tuple[Pipeline, Leaves]], most: float) -> LongRun:
    """Requests per call through these layers, outermost first.

    Args:
        most: requests of a single call, without budgets.
    """
    a_call = _solved(layers, calls=1.0, saved=False)
    burst = _solved(layers, calls=0.0, saved=True).requests
    if a_call.requests >= most or math.isinf(burst):  # attempts are the tighter bound
        return LongRun(most, 0.0, ())
    return LongRun(a_call.requests, burst, tuple(a_call.words.values()))


Key = tuple[int, bool]
"""A budget, and whether each dependency has its own copy of it."""


@dataclass
class _Walk:
    """The way of calls through all layers, with given tokens of each budget.

    Attributes:
        tokens: that each budget may spend.
        saved: whether saved-up tokens are spent, in addition to those that calls earn.
        earned: tokens that these calls earn.
        words: descriptions of the budgets by their keys.
        requests: that the service receives.
    """

    tokens: dict[Key, float]
    saved: bool
    earned: dict[Key, float] = field(default_factory=dict)
    words: dict[Key, str] = field(default_factory=dict)
    requests: float = 0.0

    def through(self, pipeline: Pipeline, calls: float, leaves: Leaves) -> float:
        """The requests that leave a pipeline when `calls` calls enter it. Notes in `earned` what the budgets of the
        pipeline earn."""
        of_each = pipeline._context.call_options.has_dependencies
        for budget in own_budgets(pipeline.policies):
            key = id(budget), of_each
            self.earned[key] = self.earned.get(key, 0.0) + budget.ratio * calls
        requests = calls
        for policy in pipeline.policies:
            if isinstance(policy, Pipeline):
                requests = self.through(policy, requests, leaves)
            elif policy.facts.repeats and not leaves(policy):
                requests = self._repeated(policy, requests, of_each)
        return requests

    def _repeated(self, policy: Policy, requests: float, of_each: bool) -> float:
        times = 0.0 if not requests else math.inf if policy.facts.runs is None else requests * policy.facts.runs
        budget = policy.facts.budget
        if budget is None:
            return times
        key = id(budget), of_each
        if key not in self.words:
            self.words[key] = f"{budget}{' for each origin' if of_each else ''}"
            if self.saved:
                self.tokens[key] = self.tokens.get(key, 0.0) + budget.cap
        tokens = self.tokens.get(key, 0.0)
        spent = tokens if self.saved else min(tokens, times - requests)
        self.tokens[key] = tokens - spent
        return requests + spent


def _solved(layers: Sequence[tuple[Pipeline, Leaves]], *, calls: float, saved: bool) -> _Walk:
    tokens: dict[Key, float] = {}
    for _ in range(ROUNDS):
        walk = _Walk(dict(tokens), saved, requests=calls)
        for pipeline, leaves in layers:
            walk.requests = walk.through(pipeline, walk.requests, leaves)
        if all(earned - tokens.get(key, 0.0) <= ENOUGH for key, earned in walk.earned.items()):
            return walk
        tokens = walk.earned
    return _Walk({}, saved, requests=math.inf)
