"""The policies of one pipeline, bound around the code that it guards: functions, blocks, parts of other pipelines.

Each kind is bound once, when it is first needed: coroutine functions, plain functions, blocks. All of them share the
pipeline's count of calls, its budgets, and its events.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Literal

from resilient.core.budget import Budget
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.current_call import register_guard
from resilient.core.emit import Ends
from resilient.core.layer import BoundLayer, Layer
from resilient.core.policy import Policy
from resilient.pipeline.attempts import block_call, block_leaf
from resilient.pipeline.call_path import full_path, unless_off
from resilient.pipeline.compose import compose
from resilient.pipeline.earnings import earning, earnings, watched_earnings, watched_recovery
from resilient.pipeline.functions import async_leaf, call_kind, sync_leaf
from resilient.pipeline.gate_layer import Composed, guard_with
from resilient.pipeline.in_flight import InFlight
from resilient.runtime import current_async
from resilient.runtime.inherited_deadline import seen
from resilient.runtime.threads import THREADS

__all__ = ["Bindings"]

Kind = Literal["async", "sync", "block"]
"""The kind of guarded code: a coroutine function, another function, a block."""


class Bindings:
    """Binds the policies of one pipeline.

    Args:
        policies: the policies, outermost first; a nested pipeline counts as one.
        every: all policies; a nested pipeline is replaced by its own policies.
        budgets: the budgets that a success pays into.
        attempt: called with the call in place of the guarded function; None: the function is called.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        every: Sequence[Policy],
        budgets: Sequence[Budget],
        context: PipelineContext,
        in_flight: InFlight,
        attempt: BoundLayer | None,
    ) -> None:
        self._policies = policies
        self._every = every
        self._context = context
        self._in_flight = in_flight
        self._attempt = attempt
        substitutes = any(policy.facts.substitutes for policy in policies)
        self._paid = self._earn = earnings(budgets, context, substitutes=substitutes)
        self._watches = [watch for watch in (policy._watch(context) for policy in policies) if watch is not None]
        if self._watches:
            self._earn = watched_earnings(self._paid, self._watches)
        self._ends = Ends(context, substitutes=substitutes)
        self.endings = self._ends.endings
        """Counts the calls of the pipeline."""
        self.timed = any(policy.facts.timed for policy in policies)
        """Whether calls get their runtime when they begin (see `Facts.timed`). Read when a function is guarded."""
        self._has_deadline = attempt is None and any(policy.facts.time_limit is not None for policy in every)
        self._composed: dict[Kind, tuple[Composed, Layer]] = {}
        self._guards: dict[Kind, Callable[[Any], Callable[..., Any]]] = {}
        self._unfit_for: dict[tuple[bool, bool], str | None] = {}

    # -- functions ------------------------------------------------------------------------------------------------

    def guard(self, fn: Any) -> Callable[..., Any]:
        """The outermost gate layer around a function. Raises `TypeError` if it cannot be guarded."""
        kind = call_kind(fn)
        self._refuse_unfit(is_async=kind == "async", block=False)
        self._note_deadline()
        if kind not in self._guards:
            composed, path = self._composed_for(kind)
            parts = (self._in_flight, self._context, composed, path, self._earn, self._ends)
            self._guards[kind] = guard_with(*parts, is_async=kind == "async", timed=self.timed)
        guarded = self._guards[kind](fn)
        register_guard(guarded.__code__)
        return guarded

    def _refuse_unfit(self, *, is_async: bool, block: bool) -> None:
        key = is_async, block
        if key not in self._unfit_for:
            reasons = ((policy, policy._unfit(is_async=is_async, block=block)) for policy in self._every)
            messages = (f"{policy!r} cannot guard this: {why}" for policy, why in reasons if why is not None)
            self._unfit_for[key] = next(messages, None)
        message = self._unfit_for[key]
        if message is not None:
            raise TypeError(message)

    def _note_deadline(self) -> None:
        """Make policies of other pipelines look for inherited deadlines, if calls of this one have any."""
        seen.limits = seen.limits or self._has_deadline

    # -- blocks ---------------------------------------------------------------------------------------------------

    def refuse_block(self, is_async: bool) -> None:
        """Raise `TypeError` if a policy cannot guard a block."""
        self._note_deadline()
        self._refuse_unfit(is_async=is_async, block=True)

    def start_block(self, block: Callable[..., Any], is_async: bool) -> tuple[Call, Coroutine[Any, Any, Any]]:
        """The call of a block, and the coroutine of its path through the pipeline."""
        call = block_call(block, current_async() if is_async else THREADS, repeats=self._context.repeats)
        _, path = self._composed_for("block")
        return call, path(call)

    # -- inside another pipeline ----------------------------------------------------------------------------------

    def nest(self, inner: BoundLayer) -> BoundLayer:
        """This pipeline as one layer of an outer pipeline. `inner` is the outer pipeline's next layer."""
        _, path = self._compose(inner, nested=True)
        return BoundLayer(unless_off(self._context, inner.run, path))

    # -- binding --------------------------------------------------------------------------------------------------

    def _composed_for(self, kind: Kind) -> tuple[Composed, Layer]:
        """The policies bound around one kind of guarded code; and the full path, for calls that the outermost gate
        layer does not handle, or that have no such layer (blocks)."""
        if kind not in self._composed:
            if kind == "block":
                leaf = block_leaf(self._context)
                composed, path = self._compose(leaf)
                self._composed[kind] = composed, unless_off(self._context, leaf.run, path)
            else:
                leaf = (async_leaf if kind == "async" else sync_leaf)(self._context, self._attempt)
                self._composed[kind] = self._compose(leaf)
        return self._composed[kind]

    def _compose(self, leaf: BoundLayer, *, nested: bool = False) -> tuple[Composed, Layer]:
        """Bind the policies around `leaf`. Returns them, and the full path of a call through them.

        Args:
            nested: whether `leaf` belongs to an outer pipeline, which may have queues, and which emits `CallEnded`.
        """
        self._context.is_bound = True
        composed = compose(self._policies, self._context, leaf, waits=nested)
        recover = composed.recover
        if recover is not None and self._paid is not None:
            recover = earning(recover, self._paid)
        if self._watches:
            recover = watched_recovery(recover, self._watches)
        composed = replace(composed, recover=recover)
        parts = (self._in_flight, self._context, composed.layer.run, recover, self._earn, self._ends)
        return composed, full_path(*parts, nested=nested)
