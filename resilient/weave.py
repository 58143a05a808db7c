"""Binds a list of policies, outermost first, into one function of a `Call`. Nothing is built per call that can be
built once: neighbouring gates share one frame, and a wrap's frame is its own coroutine.

What the frame of the gates keeps, in every tick:

- *All or nothing.* When a later gate refuses, or the call is cancelled in a queue, earlier tickets go back, last first.
- *Judgements do not go stale.* After a wait, judging gates that had admitted the call before it are asked again.
- *Evidence is what the dependency did.* Outcomes that say nothing give tickets back unread. A call that was cut short
  is a failure if it had reached its configured limit (the nearest Timeout of its pipeline, or else the gate's `slow`),
  and nothing if it was younger; time spent in local queues does not count as its age. A call that came back after its
  limit all the same is a failure for those who learn, though its caller gets its result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from resilient.call import Call
from resilient.errors import Rejected
from resilient.events import CallRejected, Waited
from resilient.policy import Gate, Layer, Policy, Recovery, Scope, Ticket

__all__ = ["weave"]


def weave(policies: Sequence[Policy], scope: Scope, leaf: Layer) -> tuple[Layer, Recovery | None]:
    """The function that applies `policies` around `leaf`, and what to do when it raises an `Exception`."""
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
            waits = any(policy.waits for policy in policies[last:])
            layer = _frame(gates, layer, scope, _nearest_limit(policies, at, last), waits)
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


def _frame(gates: Sequence[Gate], inner: Layer, scope: Scope, limit: float | None, waits: bool) -> Layer:
    """The frame of neighbouring gates, outermost first. `waits`: something inside them has a queue."""
    admits = tuple(gate.admit for gate in gates)
    settles = tuple((at, gate.settle) for at, gate in enumerate(gates) if gate.learns)[::-1]
    releases = tuple((at, gate.release) for at, gate in enumerate(gates) if not gate.learns)[::-1]
    judge = scope.judge
    looks_at_results = judge.judges_results and bool(settles)
    too_late = math.inf if limit is None else limit
    clocked = bool(settles) and (limit is not None or any(gate.timed for gate in gates))  # else nobody asks for ages
    plainly = getattr(inner, "plainly", None)

    async def pass_gates(call: Call) -> Any:
        tickets: list[Ticket] = []
        try:
            for admit in admits:
                ticket = admit(call)
                if ticket is None:
                    await _queue(gates, tickets, call, scope)
                    break
                tickets.append(ticket)
        except BaseException as error:
            _give_back(gates, tickets)
            if isinstance(error, Rejected):
                _tell_of_refusal(error, call, scope)
            raise
        begin = elapsed = 0.0
        end = None
        if clocked:
            now = call.runtime.now
            begin = now()
            if waits:
                begin -= call.waited
        try:
            result = await inner(call) if plainly is None else plainly(call)
        except BaseException as error:
            learn_error(call, tickets, error, begin)
            raise
        if clocked:
            end = now()
            elapsed = end - begin
            if waits:
                elapsed -= call.waited
        if looks_at_results:
            learn_result(tickets, result, elapsed, end)
            return result
        for at, settle in settles:
            settle(tickets[at], elapsed > too_late, elapsed, end, None)
        for at, release in releases:
            release(tickets[at])
        return result

    def learn_result(tickets: list[Ticket], result: Any, elapsed: float, end: float | None) -> None:
        try:
            kind = judge.result(result).kind
        except BaseException:
            _give_back(gates, tickets)
            raise
        learn(tickets, kind, elapsed, end, None, late=elapsed > too_late)

    def learn_error(call: Call, tickets: list[Ticket], error: BaseException, begin: float) -> None:
        if not settles:
            _give_back(gates, tickets)
            return
        end = call.begin().now()
        elapsed = end - begin - (call.waited if waits else 0.0) if clocked else 0.0
        if isinstance(error, Exception):
            try:
                kind = judge.error(error).kind
            except BaseException:
                _give_back(gates, tickets)
                raise
            learn(tickets, kind, elapsed, end, error)
        elif isinstance(error, call.runtime.cancelled):
            for at, gate in reversed(tuple(enumerate(gates))):
                if gate.learns:
                    gate.cut(tickets[at], elapsed, end, limit)
                else:
                    gate.release(tickets[at])
        else:
            _give_back(gates, tickets)

    def learn(
        tickets: list[Ticket],
        kind: str,
        elapsed: float,
        end: float | None,
        error: Exception | None,
        *,
        late: bool = False,
    ) -> None:
        if kind == "nothing":
            _give_back(gates, tickets)
            return
        for at, settle in settles:
            settle(tickets[at], late or kind == "failure", elapsed, end, error)
        for at, release in releases:
            release(tickets[at])

    return pass_gates


def _give_back(gates: Sequence[Gate], tickets: Sequence[Ticket | None]) -> None:
    """Release the tickets there are, last first."""
    for at in range(len(tickets) - 1, -1, -1):
        if tickets[at] is not None:
            gates[at].release(tickets[at])


async def _queue(gates: Sequence[Gate], tickets: list[Ticket | None], call: Call, scope: Scope) -> None:
    """Wait at the first gate of which there is no ticket yet, and go on through the rest.

    `tickets` holds at any time what would have to be given back.
    """
    tickets.append(await _wait(gates[len(tickets)], call, scope))
    _ask_again(gates, tickets, call)
    while len(tickets) < len(gates):
        ticket = gates[len(tickets)].admit(call)
        if ticket is None:
            ticket = await _wait(gates[len(tickets)], call, scope)
            tickets.append(ticket)
            _ask_again(gates, tickets, call)
        else:
            tickets.append(ticket)


def _ask_again(gates: Sequence[Gate], tickets: list[Ticket | None], call: Call) -> None:
    """Have the judging gates outside the last one judge anew: what they know has changed while the call waited."""
    for at, gate in enumerate(gates[: len(tickets) - 1]):
        if gate.judges:
            stale, tickets[at] = tickets[at], None
            gate.release(stale)
            tickets[at] = gate.admit(call)


async def _wait(gate: Gate, call: Call, scope: Scope) -> Ticket:
    """Wait at a gate; the time counts as local."""
    now = call.begin().now
    begin = now()
    try:
        ticket = await gate.wait(call, scope)
    finally:
        end = now()
        call.waited += end - begin
    if end > begin and scope.channel.listeners:
        scope.channel.emit(Waited(scope.name, end, gate.name, "queue", end - begin))
    return ticket


def _tell_of_refusal(error: Rejected, call: Call, scope: Scope) -> None:
    if not error.pipeline:
        error.pipeline = scope.name
    if scope.channel.listeners:
        event = CallRejected(scope.name, call.begin().now(), error.policy, str(error), error.retry_after)
        scope.channel.emit(event)
