"""The levels of a pipeline: each policy around the rest, as the worst case asks them, from the outside inward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from resilient.core.classify import Classifier
from resilient.core.policy import Policy
from resilient.core.worst_case import Inside, View, Worst

__all__ = ["Level", "levels"]


class Level:
    """A policy of a pipeline, which is judged by `judge`, around the rest; asked once for each view.

    Attributes:
        seen: what it was asked for first: the worst case as the first attempt meets it.
    """

    def __init__(self, policy: Policy, inner: Inside, judge: Classifier) -> None:
        self.policy = policy
        self._inner = inner
        self._judge = judge
        self._known: dict[View, Worst] = {}

    def __call__(self, view: View) -> Worst:
        if view.judge is not self._judge:
            view = replace(view, judge=self._judge)
        known = self._known.get(view)
        if known is None:
            known = self._known[view] = self.policy.worst(self._inner, view)
        return known

    @property
    def seen(self) -> Worst | None:
        return next(iter(self._known.values()), None)


def levels(policies: Sequence[tuple[Policy, Classifier]], inner: Inside) -> list[Level]:
    """Each of the policies, with the classifier of its pipeline, around those inside it; outermost first."""
    found: list[Level] = []
    for policy, judge in reversed(policies):
        found.append(Level(policy, found[-1] if found else inner, judge))
    return found[::-1]
