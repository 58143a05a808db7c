"""Binds a list of policies, outermost first, into one function of a `Call`. Nothing is built per call that can be
built once: neighbouring gates share one frame (`resilient.frame`), and a wrap's frame is its own coroutine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resilient.call import Call
from resilient.frame import gate_frame
from resilient.policy import Gate, Layer, Policy, Recovery, Scope, mended

__all__ = ["weave"]


def weave(
    policies: Sequence[Policy], scope: Scope, leaf: Layer, *, waits: bool = False
) -> tuple[Layer, Recovery | None]:
    """The function that applies `policies` around `leaf`, and what to do when it raises an `Exception`.

    `waits`: something inside `leaf` may have a queue; so has a `leaf` that says so itself.
    """
    waits = waits or getattr(leaf, "waits", False)
    for policy in policies:
        policy.attach(scope.channel)
    menders = 0  # the outermost that act only after a failure
    while menders < len(policies) and policies[menders].mends(scope):
        menders += 1
    layer = leaf
    at = len(policies)
    while at > menders:
        last = at
        while at > menders and isinstance(policies[at - 1], Gate):
            at -= 1
        if at < last:
            gates = [policy for policy in policies[at:last] if isinstance(policy, Gate)]
            queues = waits or any(policy.waits for policy in policies[last:])
            layer = gate_frame(gates, layer, scope, _nearest_limit(policies, at, last), queues)
        else:
            at -= 1
            layer = policies[at].bind(layer, scope)
    recover: Recovery | None = None
    for policy in reversed(policies[:menders]):
        inner = layer if recover is None else mended(layer, recover)
        outer = policy.recovery(inner, scope)
        recover = outer if recover is None else _one_after_the_other(recover, outer)
    return layer, recover


def _one_after_the_other(first: Recovery, second: Recovery) -> Recovery:
    async def recover(call: Call, error: Exception) -> Any:
        try:
            return await first(call, error)
        except Exception as again:
            recovery = second(call, again)
        return await recovery

    return recover


def _nearest_limit(policies: Sequence[Policy], begin: int, end: int) -> float | None:
    """The limit of the Timeout nearest to the gates in [begin, end): of those inside them, else of those outside."""
    for policy in (*policies[end:], *reversed(policies[:begin])):
        if policy.limit is not None:
            return policy.limit
    return None
