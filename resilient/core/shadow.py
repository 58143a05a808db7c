"""Gates in shadow mode: each decides and counts, and every call goes on at once.

For most gates it is enough to ignore their refusals, and a `RateLimit` knows when each token comes. A gate whose calls
wait for each other needs more, a `ShadowQueue` (`resilient.core.shadow_queue`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.deadline import holding
from resilient.core.emit import emit_event
from resilient.core.gate import Gate, Ticket
from resilient.errors import Rejected, reason_of
from resilient.events import CallRejected
from resilient.runtime.threads import THREADS

__all__ = ["Shadow"]


class Shadow(Gate):
    """Replaces a gate in shadow mode: counts calls that the gate would have refused or queued, and admits them with the
    `BYPASS` ticket.

    Args:
        gate: in shadow mode.
        context: of the pipeline.
    """

    BYPASS = object()
    """The ticket of a call that the gate does not know of."""

    def __init__(self, gate: Gate, context: PipelineContext) -> None:
        super().__init__(gate.name)
        self.gate = gate
        self.context = context
        self.decides = gate._shadow_queue or gate
        decides = self.decides.facts
        self.facts = replace(gate.facts, learns=decides.learns, follows=decides.follows)

    def admit(self, call: Call) -> Ticket:
        try:
            ticket = self.decides.admit(call)
            if ticket is not None:
                return ticket
            ticket = self._queue(call)
        except Rejected as error:
            self.refused(call, error)
            return self.BYPASS
        self.gate._would_have_queued += 1
        self.context.counters.count("shadow.actions", self.name, "wait")
        self._tell(call, f"{self.gate.name} would have made it wait", would_wait=True)
        return self.BYPASS if ticket is None else ticket

    def _queue(self, call: Call) -> Ticket | None:
        """Put a call into the simulated queue, with the deadline that it would have there (see `in_callers_time`)."""
        deadline = call.deadline
        limit = holding(call) if call.begin() is THREADS else None
        if limit is not None and (deadline is None or limit.at < deadline):
            call.deadline = limit.at
        try:
            return self.decides._enqueue(call, self.refused)
        finally:
            call.deadline = deadline

    def refused(self, call: Call, error: Rejected, went_well: bool | None = None) -> None:
        """Count a call that the gate would have refused.

        Args:
            call: the call.
            error: the refusal.
            went_well: whether the call succeeded; None: it has not ended yet.
        """
        self.gate._would_have_refused += 1
        self.context.counters.count("shadow.actions", self.name, "reject")
        self._tell(call, reason_of(error), error.retry_after, went_well)

    def _tell(
        self,
        call: Call,
        reason: str,
        retry_after: float | None = None,
        went_well: bool | None = None,
        *,
        would_wait: bool = False,
    ) -> None:
        if self.context.channel.wants[CallRejected]:
            event = CallRejected(
                self.context.name,
                call.begin().now(),
                self.gate.name,
                reason,
                retry_after,
                shadow=True,
                went_well=went_well,
                would_wait=would_wait,
            )
            emit_event(call, self.context, event)

    def settle(self, ticket: Ticket, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        if ticket is not self.BYPASS:
            self.decides.settle(ticket, failed, elapsed, now, error)

    def _cut(self, ticket: Ticket, elapsed: float, now: float, limit: float | None) -> None:
        if ticket is not self.BYPASS:
            self.decides._cut(ticket, elapsed, now, limit)

    def release(self, ticket: Ticket) -> None:
        if ticket is not self.BYPASS:
            self.decides.release(ticket)

    def undo(self, ticket: Ticket) -> None:
        if ticket is not self.BYPASS:
            self.decides.undo(ticket)

    def _withdraw(self, ticket: Ticket) -> Callable[[], None] | None:
        return None if ticket is self.BYPASS else self.decides._withdraw(ticket)

    def _giver(self, ticket: Ticket) -> Gate | None:
        return None if ticket is self.BYPASS else self.decides._giver(ticket)
