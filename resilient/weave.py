"""Binds a list of policies, outermost first, into one function of a `Call`. Nothing is built per call that can be
built once: neighbouring gates share one frame (`resilient.frame`), and a wrap's frame is its own coroutine.
"""

from __future__ import annotations

from collections.abc import Sequence

from resilient.frame import gate_frame
from resilient.policy import Gate, Layer, Policy, Recovery, Scope

__all__ = ["weave"]


def weave(
    policies: Sequence[Policy], scope: Scope, leaf: Layer, *, waits: bool = False
) -> tuple[Layer, Recovery | None]:
    """The function that applies `policies` around `leaf`, and what to do when it raises an `Exception`.

    `waits`: something inside `leaf` may have a queue.
    """
    layer = leaf
    for policy in policies:
        policy.attach(scope.channel)
    at = len(policies)
    while at > 0:
        last = at
        while at > 0 and isinstance(policies[at - 1], Gate):
            at -= 1
        if at < last:
            gates = [policy for policy in policies[at:last] if isinstance(policy, Gate)]
            queues = waits or any(policy.waits for policy in policies[last:])
            layer = gate_frame(gates, layer, scope, _nearest_limit(policies, at, last), queues)
        else:
            at -= 1
            recover = policies[at].recovery(layer, scope) if at == 0 else None
            if recover is not None:
                return layer, recover
            layer = policies[at].bind(layer, scope)
    return layer, None


def _nearest_limit(policies: Sequence[Policy], begin: int, end: int) -> float | None:
    """The limit of the Timeout nearest to the gates in [begin, end): of those inside them, else of those outside."""
    for policy in (*policies[end:], *reversed(policies[:begin])):
        if policy.limit is not None:
            return policy.limit
    return None
