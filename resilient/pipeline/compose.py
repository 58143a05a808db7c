"""Composes policies, outermost first, into layers around a guarded function.

What can be built once is not built for each call. Policies that act only after a failure, and the gate group inside
them, share one gate layer (`resilient.pipeline.gate_layer`); every other wrap is one coroutine.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.gate import Gate
from resilient.core.gate_group import GateGroup
from resilient.core.layer import BoundLayer, Recovery
from resilient.core.policy import Policy
from resilient.pipeline.gate_layer import Composed, layer_of

__all__ = ["check_policies", "compose"]


def compose(policies: Sequence[Policy], context: PipelineContext, leaf: BoundLayer, *, waits: bool = False) -> Composed:
    """Bind `policies` around `leaf`, the layer that calls the guarded function.

    Works from the inside out, and repeats three steps: (1) take the neighbouring gates; (2) take the policies around
    them that act only after a failure; (3) bind one other policy.

    `waits`: whether a policy inside `leaf` may have a queue even if `leaf.waits` is false.
    """
    waits = waits or leaf.waits
    inner, at = leaf, len(policies)
    while True:
        last = at
        while at and isinstance(policies[at - 1], Gate):
            at -= 1
        gates = [policy for policy in policies[at:last] if isinstance(policy, Gate)]
        queues = waits or any(policy.facts.waits for policy in policies[last:])
        gate_group = GateGroup(gates, context, _nearest_limit(policies, at, last), queues)
        layer = layer_of(gate_group, inner)
        recover: Recovery | None = None
        while at and policies[at - 1]._failure_only(context):
            at -= 1
            outer = policies[at]._recovery(layer if recover is None else layer_of(gate_group, inner, recover), context)
            recover = outer if recover is None else _one_after_the_other(recover, outer)
        if not at:
            return Composed(recover, gate_group, inner, layer)
        bare = not gates and recover is None and policies[at - 1]._is_transparent
        if not bare:
            inner = layer if recover is None else layer_of(gate_group, inner, recover)
        if not isinstance(policies[at - 1], Gate):
            at -= 1
            inner = policies[at]._bind(inner, context)


def _one_after_the_other(first: Recovery, second: Recovery) -> Recovery:
    async def go_on(call: Call, recovery: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await recovery
        except Exception as again:
            rest = second(call, again)
            if rest is None:
                raise
        return await rest

    def recover(call: Call, error: Exception) -> Coroutine[Any, Any, Any] | None:
        recovery = first(call, error)
        return second(call, error) if recovery is None else go_on(call, recovery)

    return recover


def _nearest_limit(policies: Sequence[Policy], begin: int, end: int) -> float | None:
    """The limit of the Timeout nearest to the gates at places `begin` to `end`: the outermost one inside them, else the
    innermost one outside. A gate can have a limit, too (`server.admission`)."""
    for policy in (*policies[end:], *reversed(policies[:end])):
        if policy.facts.time_limit is not None:
            return policy.facts.time_limit
    return None


def check_policies(policies: tuple[Policy, ...]) -> None:
    """Raise `TypeError` if one of `policies` is no policy that can be composed. The message says what to write
    instead."""
    for policy in policies:
        if not isinstance(policy, Policy):
            raise TypeError(f"a pipeline is made of policies, got {policy!r}{_instead(policy)}")
        if type(policy)._bind is Policy._bind and not isinstance(policy, Gate):
            raise TypeError(f"{policy!r} is neither a Gate nor a Wrap")


def _instead(given: object) -> str:
    """What to write instead of something that is no policy, as the end of a sentence."""
    if isinstance(given, type):
        return f": write {given.__name__}()" if issubclass(given, Policy) else ""
    if isinstance(given, str):
        return f": write name={given!r}"
    if isinstance(given, list | tuple):
        return ": write them one after the other, Pipeline(Retry(), Timeout(2)), or Pipeline(*policies)"
    if callable(given):
        return ": write @Pipeline(...), with policies in the parentheses, above a function"
    return ""
