"""The levels of a pipeline: each policy around the rest, as the worst case asks them, from the outside inward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from resilient.core.context import PipelineContext
from resilient.core.policy import Policy
from resilient.core.worst_case import InnerCost, Surroundings, WorstCase

__all__ = ["Level", "levels"]


class Level:
    """A policy of a pipeline with this `context`, around the rest; asked once for each view.

    Attributes:
        seen: what it was asked for first: the worst case as the first attempt meets it.
    """

    def __init__(self, policy: Policy, inner: InnerCost, context: PipelineContext) -> None:
        self.policy = policy
        self._inner = inner
        self._context = context
        self._known: dict[Surroundings, WorstCase] = {}

    def __call__(self, view: Surroundings) -> WorstCase:
        context = self._context
        if view.classifier is not context.classifier or view.lifecycle is not context.lifecycle:
            view = replace(view, classifier=context.classifier, lifecycle=context.lifecycle)
        known = self._known.get(view)
        if known is None:
            known = self._known[view] = self.policy.worst(self._inner, view)
        return known

    @property
    def seen(self) -> WorstCase | None:
        return next(iter(self._known.values()), None)


def levels(policies: Sequence[tuple[Policy, PipelineContext]], inner: InnerCost) -> list[Level]:
    """Each of the policies, with the context of its pipeline, around those inside it; outermost first."""
    found: list[Level] = []
    for policy, context in reversed(policies):
        found.append(Level(policy, found[-1] if found else inner, context))
    return found[::-1]
