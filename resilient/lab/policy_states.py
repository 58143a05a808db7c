"""The state of the policies of a run at one moment: circuits, budgets, limits and hedge delays, for curves over
time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resilient.core.budget import Budget
from resilient.pipeline import Pipeline, flat
from resilient.policies.adaptive import AdaptiveLimit
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.hedge import Hedge
from resilient.policies.keyed import Keyed

__all__ = ["PolicyStates", "Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of the policies at one moment, averaged over them; None where a run has no such policy.

    Attributes:
        at: the moment, in seconds.
        open, half_open: the share of circuits in this state.
        tokens: of a budget.
        limit: of an AdaptiveLimit: of the servers', if they have one, else of the clients'.
        hedge_delay: the observed delay of a Hedge, in seconds.
    """

    at: float
    open: float | None
    half_open: float | None
    tokens: float | None
    limit: float | None = None
    hedge_delay: float | None = None


class PolicyStates:
    """The policies of all clients whose state is sampled. A policy that several clients share counts once."""

    def __init__(self) -> None:
        self.breakers: dict[int, CircuitBreaker] = {}
        self.keyed: dict[int, Keyed] = {}
        self.budgets: dict[int, Budget] = {}
        self.hedges: dict[int, Hedge] = {}
        self.limits: dict[int, AdaptiveLimit] = {}

    def add(self, pipeline: Pipeline) -> None:
        """Add the policies of one more pipeline."""
        for policy in flat(pipeline.policies):
            if isinstance(policy, CircuitBreaker):
                self.breakers[id(policy)] = policy
            if isinstance(policy, Keyed):
                self.keyed[id(policy)] = policy
            if isinstance(policy, Hedge) and policy.observes is not None:
                self.hedges[id(policy)] = policy
            if isinstance(policy, AdaptiveLimit):
                self.limits[id(policy)] = policy
            budget = policy.facts.budget
            if budget is not None:
                self.budgets[id(budget)] = budget

    def sample(self, now: float, admissions: Sequence[Pipeline]) -> Sample:
        """The state at the moment `now`. Limits are those of the servers' `admissions`, if any of these has a limit."""
        gates = [gate for keyed in self.keyed.values() for gate in keyed.snapshot()["gates"].values()]
        states = [breaker.state for breaker in self.breakers.values()]
        states += [gate["state"] for gate in gates if "state" in gate]
        opened = sum(state in ("open", "isolated") for state in states)
        budgets = [each for budget in self.budgets.values() for each in (list(budget.each.values()) or [budget])]
        tokens = [budget.balance(now) for budget in budgets]
        served = [
            policy for pipeline in admissions for policy in flat(pipeline.policies) if isinstance(policy, AdaptiveLimit)
        ]
        limits = [policy.current_limit for policy in served or self.limits.values()]
        if not served:
            limits += [gate["limit"] for gate in gates if "limit" in gate]
        delays = [delay for hedge in self.hedges.values() for delay in _delays_of(hedge)]
        return Sample(
            now,
            opened / len(states) if states else None,
            states.count("half-open") / len(states) if states else None,
            sum(tokens) / len(tokens) if tokens else None,
            sum(limits) / len(limits) if limits else None,
            sum(delays) / len(delays) if delays else None,
        )


def _delays_of(hedge: Hedge) -> list[float]:
    """The observed hedge delay in seconds of each key; empty while it is unknown."""
    snapshot = hedge.snapshot()
    observed = snapshot["observed"].values() if "observed" in snapshot else [snapshot]
    return [delays[0] for each in observed if (delays := each.get("delays")) and delays[0] is not None]
