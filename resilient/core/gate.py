"""A gate: a policy that decides before a call and learns after it, such as a bulkhead, a circuit breaker, a rate limit.

The pipeline calls its methods in this order:

    admit                     before the call: a ticket, a refusal, or None
    wait                      only after None: a ticket, later
    settle, release, undo     once for each ticket: the call ended, the call ended without evidence, or the call was
                              never made

Gates next to each other share one layer, and a call gets the tickets of all of them or of none
(`resilient.core.gate_group`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from resilient import _validation
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.facts import IN_SHADOW
from resilient.core.policy import Policy
from resilient.core.worst_case import Bound, Ending, InnerCost, Reaction, Surroundings, WorstCase
from resilient.errors import Rejected

__all__ = ["NEARLY", "Gate", "Ticket", "Withdrawn"]

Ticket = Any
"""The data that a gate gives to a call it admits, and gets back at the call's end. Anything but None."""

NEARLY = 0.99
"""A share of a limit that counts as the whole limit, because a Timeout outside a gate starts its clock a little earlier
than the gate does."""


class Withdrawn(BaseException):
    """Raised into an admitted call by the code that drives it: the call is taken back, and may be made later.

    Gates take their tickets back (`Gate._withdraw`) and learn nothing. No event reports a failed attempt.

    Attributes:
        again: functions to call just before the call is made after all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.again: list[Callable[[], None]] = []


class Gate(Policy):
    """Decides before a call, learns after it, and never runs it.

    A subclass defines `admit` and `release`; also `wait`, if `admit` may return None (`Facts(waits=True)`), and
    `settle`, if it learns (`Facts(learns=True)`). All methods but `wait` are synchronous, do no I/O, and raise nothing
    but what is said here.

    Args:
        shadow: decide and count, but neither refuse a call nor make it wait.
    """

    _shadow_queue: Any = None
    """In shadow mode: the gate that decides in place of this one, where calls would wait for each other; or None."""

    _would_have_refused: int = 0
    _would_have_queued: int = 0
    """Calls that a gate in shadow mode would have refused or queued."""

    def __init__(self, name: str | None = None, *, shadow: bool = False) -> None:
        super().__init__(name)
        self.shadow = _validation.flag("shadow", shadow)
        """Whether the gate only decides and counts (see `resilient.core.shadow`)."""
        if shadow:
            self.facts = replace(self.facts, inactive=IN_SHADOW)
        self._made_for: Any = None
        """The `resilient.policies.keyed.key_table.KeyTable` whose factory has made this gate, if one has."""

    @property
    def _refuses_as(self) -> str:
        """The name of the policy in refusals of this gate (`Rejected.policy`)."""
        return self.name

    @property
    def _counted_as(self) -> str:
        """The name of the policy in metrics: for the gate of a key, the name of its `Keyed`."""
        return self.name if self._made_for is None else self._made_for.name

    def admit(self, call: Call) -> Ticket | None:
        """A ticket, or None if the call must `wait`. Raises a `Rejected` to refuse the call."""
        raise NotImplementedError

    async def wait(self, call: Call, context: PipelineContext) -> Ticket:
        """Wait in a queue for a ticket. Raises a `Rejected` if the queue is full, or the wait takes too long."""
        raise NotImplementedError

    def settle(self, ticket: Ticket, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        """Learn from a call's end, and take the ticket back.

        Args:
            failed: whether the classifier calls the outcome a failure.
            elapsed: seconds that the dependency took, local queues not counted; 0 for a success that is not timed: the
                gate is not `timed`, and its pipeline has no Timeout.
            now: the time at which the call ended; None for a success that is not timed, unless the gate is `dated`.
            error: the exception of the call, if it raised one.
        """
        self.release(ticket)

    def release(self, ticket: Ticket) -> None:
        """Take the ticket back without learning anything."""
        raise NotImplementedError

    def undo(self, ticket: Ticket) -> None:
        """Take back the ticket of a call that was never made: a gate inside this one refused it, or it was cancelled in
        a queue."""
        self.release(ticket)

    # -- called by a pipeline, in special cases ---------------------------------------------------------------------

    def _cut(self, ticket: Ticket, elapsed: float, now: float, limit: float | None) -> None:
        """Take back the ticket of a call that was cut short at the age of `elapsed`. The call is a failure if it had
        reached its configured limit (the nearest Timeout of its pipeline, or else `Facts.slow`); if it was younger,
        the gate learns nothing."""
        full_age = self.facts.slow if limit is None else limit
        if full_age is not None and elapsed >= full_age * NEARLY:
            self.settle(ticket, True, elapsed, now, None)
        else:
            self.release(ticket)

    def _giver(self, ticket: Ticket) -> Gate | None:
        """The gate whose permit this ticket holds (for `Keyed`: the gate of the key); None: the ticket holds no
        permit."""
        return self

    def _withdraw(self, ticket: Ticket) -> Callable[[], None] | None:
        """Take back the ticket of a call that may be made again later. Frees what other calls can use meanwhile.
        Returns a function that frees the rest, to be called just before the call is made again; None: nothing is
        left."""
        self.undo(ticket)
        return None

    # -- what Keyed asks: whether the gate of a key may be evicted ------------------------------------------------

    @property
    def _at_rest(self) -> bool:
        """Whether the gate can be replaced by a new one without loss of state."""
        return True

    @property
    def _set_by_hand(self) -> bool:
        """Whether the gate's state was set by hand: then `Keyed` never evicts the gate."""
        return False

    # -- what shadow mode asks: see `resilient.core.shadow` -------------------------------------------------------

    def _enqueue(self, call: Call, refused: Callable[[Call, Rejected, bool | None], None]) -> Ticket | None:
        """In place of `wait`: the ticket of a call that would wait; None if it is not yet known whether the call would
        be admitted. Raises a `Rejected` if the queue is full. `refused(call, error, went_well)` is called later if the
        call would have been refused in the queue."""
        return None

    def _report_queued(self) -> None:
        """Report the calls in the queue that would be refused if no others came, unless some are running."""
        if self._shadow_queue is not None:
            self._shadow_queue._report_queued()

    def _shadow_counts(self) -> dict[str, int]:
        """The part of a snapshot about shadow mode; empty without it."""
        if not self.shadow:
            return {}
        return {"would_have_refused": self._would_have_refused, "would_have_queued": self._would_have_queued}

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        """The worst case of a call through a gate that never repeats it. The default assumes that the gate may refuse
        the call, and that a wait takes up to `longest_wait`."""
        rest, facts = inner(around), self.facts
        wait = min(math.inf if facts.longest_wait is None else facts.longest_wait, around.within)
        most = rest.seconds.most + (wait if facts.waits and not self.shadow else 0.0)
        why = f"{self} is not known here, and may make a call wait" if facts.waits else rest.why
        return replace(
            rest,
            seconds=Bound(0, most),
            attempts=Bound(0, rest.attempts.most),
            requests=Bound(0, rest.requests.most),
            why=why,
            max_failing_runs=1,
            fails=False,
        )

    def meets(self, end: Ending) -> Reaction | None:
        """A gate that learns counts a failure; None for one that does not learn, and in shadow mode."""
        if not self.facts.learns or self.shadow:
            return None
        if end.verdict is None:
            return Reaction("counts a failure if the limit of its Timeout had been reached, else nothing")
        return Reaction("counts a failure") if end.failed else None
