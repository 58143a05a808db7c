"""The levels of a pipeline, of which its worst case is computed: each is one policy around all that is inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from resilient.core.context import PipelineContext
from resilient.core.policy import Policy
from resilient.core.worst_case import InnerCost, Surroundings, WorstCase

__all__ = ["Level", "levels"]


class Level:
    """One policy of a pipeline with this `context`, around all that is inside it.

    `level(surroundings)` returns its worst case, computed once for each surroundings.

    Attributes:
        seen: the worst case that was computed first: that of the first attempt; None: no worst case was computed.
    """

    def __init__(self, policy: Policy, inner: InnerCost, context: PipelineContext) -> None:
        self.policy = policy
        self._inner = inner
        self._context = context
        self._known: dict[Surroundings, WorstCase] = {}

    def __call__(self, around: Surroundings) -> WorstCase:
        context = self._context
        if around.classifier is not context.classifier or around.lifecycle is not context.lifecycle:
            around = replace(around, classifier=context.classifier, lifecycle=context.lifecycle)
        known = self._known.get(around)
        if known is None:
            known = self._known[around] = self.policy.worst(self._inner, around)
        return known

    @property
    def seen(self) -> WorstCase | None:
        return next(iter(self._known.values()), None)


def levels(policies: Sequence[tuple[Policy, PipelineContext]], inner: InnerCost) -> list[Level]:
    """Return a level for each of the policies, with the context of its pipeline; outermost first. `inner`: the cost of
    the function itself."""
    found: list[Level] = []
    for policy, context in reversed(policies):
        found.append(Level(policy, found[-1] if found else inner, context))
    return found[::-1]
