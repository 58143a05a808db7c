"""A gate group: neighbouring gates of a pipeline, how they all admit a call, and how they learn of its end.

The path of a call that is admitted at once and succeeds is generated source (`resilient.pipeline.gate_layer_source`),
which calls a `GateGroup` for everything else. These rules hold at every await:

- *All or nothing.* When a later gate refuses, or the call is cancelled in a queue, earlier gates get their tickets
  back, innermost first.
- *No stale admissions.* After a wait, gates that decide by evidence must admit the call again if they admitted it
  before the wait.
- *Evidence is what the dependency did.* After an outcome that says nothing, tickets are released and no gate learns. A
  call that was cut short is a failure if it had reached its configured limit (the nearest Timeout of its pipeline, or
  else the gate's `slow`), and nothing if it was younger; time in local queues does not count as its age. A call that
  returned after its limit is a failure for the gates, though its caller gets the result. Where a good result is still
  open (`ResultLifecycle`: the body of a response), gates learn when it has ended.
- *A gate that raises at the end of a call affects only itself.* Its error is logged; the other gates get their tickets,
  and the caller gets the call's own result or error. (A BaseException that is no Exception, such as a Ctrl-C, is raised
  after that.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from resilient._atomic import GIL
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.deadline import in_callers_time
from resilient.core.gate import Gate, Ticket, Withdrawn
from resilient.core.shadow import Shadow
from resilient.errors import Rejected, is_cancellation, place_of, reason_of
from resilient.events import CallRejected, Waited
from resilient.events.counters import Counter

__all__ = ["FILE", "GateGroup", "givers"]

_log = logging.getLogger("resilient")

Tickets = Sequence[Ticket | None]
"""The tickets of a gate group, outermost first; None for a gate that has given none."""

EndTicket = Callable[[Gate, Ticket], None]
"""Ends a ticket at its gate: settles, cuts, withdraws, undoes or releases it."""

FILE = "<resilient gate layer "
"""The file name of generated code begins with this; a number follows."""


class _Refusals:
    """The counter of refusals for one reason, kept at hand: while a circuit is open, all calls are refused for one."""

    __slots__ = ("code", "counter")

    def __init__(self, code: str, counter: Counter) -> None:
        self.code = code
        self.counter = counter


class GateGroup:
    """Neighbouring gates, outermost first, with nothing between them.

    Args:
        limit: seconds of the nearest Timeout.
        waits: whether a policy inside the gates has a queue.

    Attributes:
        learns: whether a gate learns from the end of calls.
        looks_at_results: whether results must be classified for that.
        follows: whether the gates wait for the end of results that are still open.
        clocked: whether a gate needs the duration of a call.
        dated: whether a gate needs the time at which it ended.
        kinds, endings: see `gate_layer_source.Shape`.
        names: the values of names in the generated source.
    """

    def __init__(self, gates: Sequence[Gate], context: PipelineContext, limit: float | None, waits: bool) -> None:
        self.gates = gates = [Shadow(gate, context) if gate.shadow else gate for gate in gates]
        self.context = context
        self.limit = limit
        self.waits = waits
        learning = [gate for gate in gates if gate.facts.learns]
        self.learns = bool(learning)
        self.looks_at_results = context.classifier.judges_results and self.learns
        self.follows = context.lifecycle.may_be_open and any(gate.facts.follows for gate in learning)
        places = range(len(gates))[::-1]
        self._followers = [at for at in places if gates[at].facts.learns and gates[at].facts.follows]
        self._others = [at for at in places if at not in self._followers]
        self.clocked = self.learns and (limit is not None or any(gate.facts.timed for gate in learning))
        self.dated = any(gate.facts.dated for gate in learning)
        self.kinds = tuple([type(gate).__name__ for gate in gates])
        facts = [gate.facts for gate in gates]
        self.endings = tuple(["settle" if each.learns else "release" if each.holds else "" for each in facts])
        self._last_refusal = _Refusals("", Counter())
        self.names: dict[str, Any] = {
            "verdict_on": context.on_result,
            "is_open": context.lifecycle.is_open,
            "too_late": math.inf if limit is None else limit,
        }
        for at, gate in enumerate(gates):
            self.names |= {f"admit{at}": gate.admit, f"settle{at}": gate.settle, f"release{at}": gate.release}

    # -- on the way in ------------------------------------------------------------------------------------------

    def failed(self, call: Call, tickets: Tickets, error: BaseException, begin: float) -> None:
        """Handle an error of the call: of a gate if the last ticket is None, else of the layer inside the gates."""
        if tickets[-1] is not None:
            self.learn_error(call, tickets, error, begin)
            return
        if len(tickets) > 1:  # gates outside the one that raised have given tickets
            self._end(tickets, _undo)
        if isinstance(error, Rejected):
            context = self.context
            code, last = error._code, self._last_refusal
            is_same = code is last.code and len(tickets) == 1
            counter = last.counter if is_same else self._refusals_by(code, error.policy, tickets)
            if GIL:
                counter.number += 1  # `Counter.add`, inlined
            else:
                counter.add()
            if context.name and not error.pipeline:
                error.pipeline = context.name
            if context.channel.wants[CallRejected]:
                now, reason = call.begin().now(), reason_of(error)
                context.channel.emit(CallRejected(context.name, now, place_of(error), reason, error.retry_after))

    def _refusals_by(self, code: str, policy: str, tickets: Tickets) -> Counter:
        """The counter of the refusals for one reason. Without a wait the first gate without a ticket has refused; after
        one (`queue`, which has taken all tickets), the gate that the error names."""
        rest = self.gates[tickets.index(None) :]
        gate = next((gate for gate in rest if gate._refuses_as == policy), rest[0])
        counter = self.context.counters.counter("rejections", gate.name, code)
        self._last_refusal = _Refusals(code, counter)
        return counter

    async def queue(self, call: Call, tickets: Tickets) -> Tickets:
        """Wait at the first gate that has given no ticket, ask the gates inside it, and return all tickets."""
        held = [ticket for ticket in tickets if ticket is not None]
        must_wait = True
        try:
            while len(held) < len(self.gates):
                gate = self.gates[len(held)]
                ticket = None if must_wait else gate.admit(call)
                if ticket is None:
                    await self._wait(gate, call, held)
                    must_wait = not self._ask_again(held, call)
                else:
                    held.append(ticket)
                    must_wait = False
        except BaseException:
            self._end(held, _undo)
            raise
        return held

    def _ask_again(self, held: list[Ticket | None], call: Call) -> bool:
        """Call `admit` again on the gates outside the last one that decide by evidence, which may have changed during
        the wait.

        Returns whether all admit the call. If one makes it wait, the gates inside that one get their tickets back: a
        call that waits at an outer gate must not hold a permit for which other calls wait at an inner one.
        """
        for at, gate in enumerate(self.gates[: len(held) - 1]):
            if gate.facts.by_evidence:
                stale, held[at] = held[at], None
                self._end([*[None] * at, stale], _undo)
                held[at] = gate.admit(call)
                if held[at] is None:
                    inner = [*[None] * at, *held[at:]]
                    del held[at:]
                    self._end(inner, _undo)
                    return False
        return True

    async def _wait(self, gate: Gate, call: Call, held: list[Ticket | None]) -> None:
        """Wait at a gate, and add its ticket to `held`. The time counts as local waiting (`Call.waited`)."""
        now = call.begin().now
        begin = call.queued_at = now()
        try:
            held.append(await in_callers_time(call, self.context, lambda _: gate.wait(call, self.context)))
        finally:
            end = now()
            call.waited += end - begin
            call.queued_at = None
        if end > begin:
            self.context.counters.count("waits", gate.name, "queue")
            self.context.counters.add_seconds(end - begin, "wait.time", gate.name, "queue")
        if end > begin and self.context.channel.wants[Waited]:
            self.context.channel.emit(Waited(self.context.name, end, gate.name, "queue", end - begin))

    # -- on the way out -----------------------------------------------------------------------------------------

    def learn_error(self, call: Call, tickets: Tickets, error: BaseException, begin: float) -> None:
        """Classify the error of the call, and call `settle`, `_cut`, `_withdraw` or `release` of each gate."""
        if type(error) is Withdrawn:
            again = error.again

            def withdraw(gate: Gate, ticket: Ticket) -> None:
                if (undo := gate._withdraw(ticket)) is not None:
                    again.append(undo)

            self._end(tickets, withdraw)
            return
        if not self.learns or issubclass(type(error), GeneratorExit):  # dropped, perhaps where no event loop runs
            self.release_all(tickets)
            return
        end = call.begin().now()
        elapsed = end - begin - (call.waited if self.waits else 0.0) if self.clocked else 0.0
        if self.clocked and call.attempt == 1:
            call.elapsed = elapsed
        if isinstance(error, Exception):
            try:
                kind = self.context.on_error(call, error).kind
            except BaseException:
                self.release_all(tickets)
                raise
            self.learn(tickets, kind, elapsed, end, error)
        elif is_cancellation(error, call.runtime.cancelled):

            def cut(gate: Gate, ticket: Ticket) -> None:
                if gate.facts.learns:
                    gate._cut(ticket, elapsed, end, self.limit)
                else:
                    gate.release(ticket)

            self._end(tickets, cut)
        else:
            self.release_all(tickets)

    def learn(self, tickets: Tickets, kind: str, elapsed: float, end: float | None, error: Exception | None) -> None:
        """Settle the tickets by the `kind` of a verdict: "success", "failure" or "nothing"."""
        if kind == "nothing":
            self.release_all(tickets)
        else:
            self._end(tickets, _settling(kind == "failure", elapsed, end, error))

    def follow(self, call: Call, tickets: Tickets, result: Any, late: bool, elapsed: float) -> None:
        """Settle the tickets of a good result that is still open: at its end if their gates follow it, else now."""
        end = call.begin().now() if self.clocked or self.dated else None
        try:
            self.context.lifecycle.follow(result, _OpenTickets(self, call, tickets, late, elapsed))
        except BaseException:
            self.release_all(tickets)
            raise
        self._end(tickets, _settling(late, elapsed, end, None), self._others)

    def end_following(self, tickets: Tickets, end_ticket: EndTicket) -> None:
        """End the tickets of the gates that have followed a result to its end."""
        self._end(tickets, end_ticket, self._followers)

    def release_all(self, tickets: Tickets) -> None:
        """Release the tickets; the gates learn nothing."""
        self._end(tickets, lambda gate, ticket: gate.release(ticket))

    def raised(self, at: int, tickets: Tickets, error: BaseException) -> None:
        """Handle an error that the gate at place `at` raised at the end of a call.

        An `Exception` is logged, and the caller does not get it. A `BaseException` that is no `Exception` is raised
        again, after the tickets of the gates outside this one are released.
        """
        if isinstance(error, Exception):
            _log.error("resilient: %s raised at the end of a call", self.gates[at].name, exc_info=error)
            return
        self.release_all(tickets[:at])
        raise error

    def _end(self, tickets: Tickets, end_ticket: EndTicket, places: Sequence[int] | None = None) -> None:
        """End each ticket that a gate has given, innermost first; with `places`, only the tickets at these."""
        for at in reversed(range(len(tickets))) if places is None else places:
            if tickets[at] is not None:
                try:
                    end_ticket(self.gates[at], tickets[at])
                except BaseException as error:
                    self.raised(at, tickets, error)


def _settling(failed: bool, elapsed: float, end: float | None, error: Exception | None) -> EndTicket:
    """An `EndTicket` that settles tickets of gates that learn, and releases the others."""

    def settle(gate: Gate, ticket: Ticket) -> None:
        if gate.facts.learns:
            gate.settle(ticket, failed, elapsed, end, error)
        else:
            gate.release(ticket)

    return settle


def _undo(gate: Gate, ticket: Ticket) -> None:
    gate.undo(ticket)


class _OpenTickets:
    """An `EndObserver` that settles the tickets of a call whose result was still open when the call returned it."""

    __slots__ = ("elapsed", "gate_group", "late", "runtime", "tickets")

    def __init__(self, gate_group: GateGroup, call: Call, tickets: Tickets, late: bool, elapsed: float) -> None:
        self.gate_group = gate_group
        # The call is not kept, because its verdict refers to the result.
        self.runtime = call.begin() if gate_group.clocked or gate_group.dated else None
        self.tickets = tickets
        self.late = late
        self.elapsed = elapsed

    def learn(self, error: Exception | None) -> None:
        gate_group = self.gate_group
        now = None if self.runtime is None else self.runtime.now()
        failed = self.late or error is not None
        gate_group.end_following(self.tickets, _settling(failed, self.elapsed, now, error))

    def drop(self, *, collected: bool = False) -> None:
        self.gate_group.end_following(self.tickets, lambda gate, ticket: gate.release(ticket))


def givers(frame: FrameType) -> Iterator[Gate | None]:
    """The gates whose tickets the call in this Python frame holds; none if it is not the frame of a gate layer."""
    names = frame.f_locals
    if frame.f_code is GateGroup.queue.__code__:
        gates, tickets = names["self"].gates, names.get("held", ())
    elif frame.f_code.co_filename.startswith(FILE) and "gate_group" in names:
        gates = names["gate_group"].gates
        tickets = [names.get(f"t{at}") for at in range(len(gates))]
        if tickets[-1] is None:
            return  # being admitted: `queue` holds them
    else:
        return
    for gate, ticket in zip(gates, tickets, strict=False):
        if ticket is not None:
            yield gate._giver(ticket)
