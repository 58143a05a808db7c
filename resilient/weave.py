"""Binds a list of policies, outermost first, into one function of a `Call`. Nothing is built per call that can be
built once: neighbouring gates become one gate with one frame, and a wrap's frame is its own coroutine.

What the frame of a gate keeps, in every tick:

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
            gate = fuse([gate for gate in policies[at:last] if isinstance(gate, Gate)])
            if gate.learns:
                waits = any(policy.waits for policy in policies[last:])
                layer = _learning(gate, layer, scope, _nearest_limit(policies, at, last), waits)
            else:
                layer = _holding(gate, layer, scope)
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


def fuse(gates: Sequence[Gate]) -> Gate:
    """Neighbouring gates, outermost first, as one."""
    *outer, gate = gates
    for each in reversed(outer):
        gate = _Pair(each, gate)
    return gate


class _Pair(Gate):
    """Two neighbouring gates as one, whose ticket is the pair of theirs."""

    def __init__(self, outer: Gate, inner: Gate) -> None:
        super().__init__(f"{outer.name} + {inner.name}")
        self.outer = outer
        self.inner = inner
        self.learns = outer.learns or inner.learns
        self.timed = outer.timed or inner.timed
        self._admit_outer, self._admit_inner = outer.admit, inner.admit
        self._settle_outer, self._settle_inner = outer.settle, inner.settle

    def admit(self, call: Call) -> Ticket | None:
        first = self._admit_outer(call)
        if first is None:
            return None
        try:
            second = self._admit_inner(call)
        except BaseException:
            self.outer.release(first)
            raise
        if second is None:
            self.outer.release(first)
            return None  # both are asked again, in `wait`
        return first, second

    async def wait(self, call: Call, scope: Scope) -> Ticket:
        first = self.outer.admit(call)
        if first is None:
            first = await _queue(self.outer, call, scope)
        second = None
        try:
            second = self.inner.admit(call)
            if second is None:
                second = await _queue(self.inner, call, scope)
                if self.outer.judges:
                    stale, first = first, None
                    self.outer.release(stale)
                    first = self.outer.admit(call)
                    if first is None:
                        first = await _queue(self.outer, call, scope)
        except BaseException:
            if second is not None:
                self.inner.release(second)
            if first is not None:
                self.outer.release(first)
            raise
        return first, second

    def settle(self, ticket: Ticket, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        first, second = ticket
        self._settle_inner(second, failed, elapsed, now, error)
        self._settle_outer(first, failed, elapsed, now, error)

    def release(self, ticket: Ticket) -> None:
        first, second = ticket
        self.inner.release(second)
        self.outer.release(first)

    def cut(self, ticket: Ticket, elapsed: float, now: float, limit: float | None) -> None:
        first, second = ticket
        self.inner.cut(second, elapsed, now, limit)
        self.outer.cut(first, elapsed, now, limit)


def _holding(gate: Gate, inner: Layer, scope: Scope) -> Layer:
    """The frame of a gate that learns nothing: no clock, no judgement."""
    admit, release = gate.admit, gate.release

    async def held(call: Call) -> Any:
        try:
            ticket = admit(call)
            if ticket is None:
                ticket = await _queue(gate, call, scope)
        except Rejected as error:
            _refused(error, call, scope)
            raise
        try:
            return await inner(call)
        finally:
            release(ticket)

    return held


def _learning(gate: Gate, inner: Layer, scope: Scope, limit: float | None, waits: bool) -> Layer:
    """The frame of a gate that learns from how calls end. `waits`: something inside it has a queue."""
    admit, settle, release, judge = gate.admit, gate.settle, gate.release, scope.judge
    judges_results = judge.judges_results
    too_late = math.inf if limit is None else limit
    clocked = gate.timed or limit is not None  # else nobody asks how old a call is

    async def judged(call: Call) -> Any:
        try:
            ticket = admit(call)
            if ticket is None:
                ticket = await _queue(gate, call, scope)
        except Rejected as error:
            _refused(error, call, scope)
            raise
        begin = elapsed = 0.0
        end = None
        if clocked:
            now = call.runtime.now
            begin = now()
            if waits:
                begin -= call.waited
        try:
            result = await inner(call)
        except BaseException as error:
            learn_error(call, ticket, error, begin)
            raise
        if clocked:
            end = now()
            elapsed = end - begin
            if waits:
                elapsed -= call.waited
        if judges_results:
            learn_result(ticket, result, elapsed, end)
        else:
            settle(ticket, elapsed > too_late, elapsed, end, None)
        return result

    def learn_result(ticket: Ticket, result: Any, elapsed: float, end: float | None) -> None:
        try:
            kind = judge.result(result).kind
        except BaseException:
            release(ticket)
            raise
        if kind == "nothing":
            release(ticket)
        else:
            settle(ticket, elapsed > too_late or kind == "failure", elapsed, end, None)

    def learn_error(call: Call, ticket: Ticket, error: BaseException, begin: float) -> None:
        end = call.begin().now()
        elapsed = end - begin - (call.waited if waits else 0.0) if clocked else 0.0
        if isinstance(error, Exception):
            try:
                kind = judge.error(error).kind
            except BaseException:
                release(ticket)
                raise
            if kind == "nothing":
                release(ticket)
            else:
                settle(ticket, kind == "failure", elapsed, end, error)
        elif isinstance(error, call.runtime.cancelled):
            gate.cut(ticket, elapsed, end, limit)
        else:
            release(ticket)

    return judged


async def _queue(gate: Gate, call: Call, scope: Scope) -> Ticket:
    """Wait at a gate; the time counts as local."""
    if isinstance(gate, _Pair):
        return await gate.wait(call, scope)
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


def _refused(error: Rejected, call: Call, scope: Scope) -> None:
    if not error.pipeline:
        error.pipeline = scope.name
    if scope.channel.listeners:
        event = CallRejected(scope.name, call.begin().now(), error.policy, str(error), error.retry_after)
        scope.channel.emit(event)
