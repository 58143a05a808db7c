"""The checked arguments of a Retry, and its counters."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from resilient.core.background import Stragglers
from resilient.core.budget import Budget
from resilient.policies.retry.backoff import Fixed, FullJitter
from resilient.policies.retry.predicate import Predicate
from resilient.policies.retry.tenacity import Strategy

__all__ = ["Counts", "Settings"]


@dataclass(slots=True)
class Counts:
    """The counters of a Retry: further attempts that it `retried`, and those that it `would_have_retried` in
    shadow mode."""

    retried: int = 0
    would_have_retried: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked arguments of a Retry.

    Attributes:
        name: of the policy, for events and notes.
        attempts, stop: as for `Retry`.
        wait, backoff: tenacity's wait strategy, or ours: one of them.
        predicate: says which outcomes are worth repeating.
        hooks: tenacity's hooks that are given, by the names of their arguments.
        max_retry_after, budget, shadow: as for `Retry`.
        once: whether it repeats nothing within a guarded call that retries (`nested="once"`).
        counts: of all calls.
        closing: results that are being closed in the background.
    """

    name: str
    attempts: int | None
    stop: Strategy | None
    wait: Strategy | None
    backoff: FullJitter | Fixed | None
    predicate: Predicate
    hooks: dict[str, Strategy]
    max_retry_after: float
    budget: Budget | None
    once: bool
    shadow: bool
    counts: Counts = field(default_factory=Counts)
    closing: Stragglers = field(default_factory=lambda: Stragglers(sys.maxsize))

    @property
    def speaks_tenacity(self) -> bool:
        """Whether strategies or hooks of tenacity are given."""
        return bool(self.hooks) or any((self.stop, self.wait, self.predicate.strategy))
