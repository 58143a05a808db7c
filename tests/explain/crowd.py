"""Other callers, for adversaries: they hold the permits and take the tokens that a call waits for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

from resilient import AdaptiveLimit, Bulkhead, Keyed, Pipeline, RateLimit, Rejected
from resilient.core.call import new_call
from resilient.core.policy import Policy
from resilient.events import Event, Queued, Retrying
from resilient.explain import Explanation
from resilient.runtime import current_async
from tests.explain.stacks import HANG, elsewhere

__all__ = ["LESS", "Crowd", "gate_of", "limited", "others"]

LESS = 1 - 1e-7
"""A moment before."""


def gate_of(policy: Policy) -> Policy:
    """The gate itself; for a gate by keys, the one that all calls here use."""
    return policy.gate_for("everybody") if isinstance(policy, Keyed) else policy


def limited(policies: Sequence[Policy], at: int) -> tuple[float, float]:
    """Seconds between the tokens of a rate limit, and the longest wait of a call for one."""
    limits = [policy.facts.time_limit for policy in policies[:at] if policy.facts.time_limit is not None]
    gate = gate_of(policies[at])
    assert gate.facts.pace is not None
    assert gate.facts.longest_wait is not None
    return 1 / gate.facts.pace[1], min(gate.facts.longest_wait, *limits, HANG) * LESS


def others(interval: float, wait: float) -> int:
    """The number of tokens until a caller has waited this long: one for each caller before it, and its own."""
    return max(1, math.ceil(wait / interval))


class Crowd:
    """Other callers: they hold all permits until the call has waited its longest, and take every token."""

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        policies: Sequence[Policy],
        explanation: Explanation,
        chosen: frozenset[int],
    ) -> None:
        self.pipelines = pipelines
        self.waits: dict[str, tuple[Any, float]] = {}
        self.limits: list[tuple[RateLimit, int]] = []
        self.tickets: dict[Any, Any] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        after = [part.worst for part in explanation.parts[1:]]
        policies = policies[-len(explanation.parts) :]
        waiting = [policy for policy in policies if policy.facts.waits]
        mine = [policy for number, policy in enumerate(waiting) if number in chosen]
        for policy, rest in zip(policies, [*after, None], strict=True):
            if policy not in mine:
                continue
            gate = gate_of(policy)
            if gate.facts.inactive is not None:
                continue
            if isinstance(gate, Bulkhead) and gate.queue:
                hold = HANG if rest is None else rest.seconds.most
                rounds = -(-gate.queue // gate.max_concurrent)
                longest = min(gate.queue_timeout or HANG, hold * rounds)
                self.waits[gate.name] = gate, longest
            if isinstance(gate, AdaptiveLimit) and gate.queue_timeout:
                self.waits[gate.name] = gate, gate.queue_timeout
            if isinstance(gate, RateLimit):
                self.limits.append((gate, others(*limited(policies, policies.index(policy)))))

    def gather(self) -> None:
        """Start before the call."""
        _listen(self.pipelines, self.hear)
        self.push()
        for gate, before in self.limits:
            for _ in range(before - 1):
                self.tasks.append(asyncio.create_task(Pipeline(gate)(elsewhere)(None)))

    def hear(self, event: Event) -> None:
        if isinstance(event, Queued) and event.policy in self.waits:
            gate, seconds = self.waits[event.policy]
            # The callers before it in the queue have finished by then: that is more permits than were held.
            asyncio.get_running_loop().call_later(seconds * LESS, gate.release, self.tickets[gate])
        if isinstance(event, Retrying):
            self.push()

    def push(self) -> None:
        """Take every ticket that the gates give at once."""
        call = new_call(len, (), {}, current_async())
        for gate in [*(gate for gate, _ in self.waits.values()), *(gate for gate, _ in self.limits)]:
            try:
                while (ticket := gate.admit(call)) is not None:
                    self.tickets[gate] = ticket
            except Rejected:
                pass


def _listen(policies: Sequence[Policy], listener: Callable[[Event], None]) -> None:
    for policy in policies:
        if isinstance(policy, Pipeline):
            policy.listen(listener)
            _listen(policy.policies, listener)
