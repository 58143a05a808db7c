"""The frame of neighbouring gates: one coroutine that passes them all, on the way in and on the way out.

It keeps, in every tick:

- *All or nothing.* When a later gate refuses, or the call is cancelled in a queue, earlier tickets go back, last first.
- *Judgements do not go stale.* After a wait, judging gates that had admitted the call before it are asked again.
- *Evidence is what the dependency did.* Outcomes that say nothing give tickets back unread. A call that was cut short
  is a failure if it had reached its configured limit (the nearest Timeout of its pipeline, or else the gate's `slow`),
  and nothing if it was younger; time spent in local queues does not count as its age. A call that came back after its
  limit all the same is a failure for those who learn, though its caller gets its result. Where a good result has an
  open end (`Classifier.follows`: the body of a response), they learn when it has ended.
- *A gate that raises when a call ends harms nobody else.* Its error is logged; the other gates get their tickets, and
  the caller the call's own result or error. (What is no `Exception`, as a Ctrl-C, is raised once they have.)

Every guarded call passes here, so the frame is written out for just the gates at hand, as `dataclasses` writes out an
`__init__`: no loop, no pairs of pairs, no clock that nobody reads. Measured for a bulkhead and a breaker, a loop over
gates costs three bare awaits more.
"""

from __future__ import annotations

import functools
import itertools
import linecache
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from sys import modules
from types import CodeType, FrameType
from typing import Any

from resilient.call import Call
from resilient.clock import monotonic
from resilient.deadlines import in_callers_time
from resilient.errors import Rejected, reason_of
from resilient.events import CallRejected, Waited
from resilient.groups import is_cut
from resilient.policy import Gate, Layer, Scope, Ticket, Withdrawn
from resilient.runtime import TRIO, VIRTUAL
from resilient.shadow import Shadow

__all__ = ["gate_frame", "givers"]

_log = logging.getLogger("resilient")

Tickets = Sequence[Ticket | None]

FILE = "<resilient gates "
"""With a number, in place of the file's name of a frame's code."""

_number = itertools.count(1)


def gate_frame(gates: Sequence[Gate], inner: Layer, scope: Scope, limit: float | None, waits: bool) -> Layer:
    """The layer that passes `gates`, outermost first, around `inner`.

    `limit`: seconds of the nearest Timeout; `waits`: something inside has a queue.
    """
    gates = [Shadow(gate, scope) if gate.shadow else gate for gate in gates]
    rest = _Rest(gates, scope, limit, waits)
    names: dict[str, Any] = {
        "inner": getattr(inner, "plainly", inner),
        "rest": rest,
        "verdict_on": scope.on_result,
        "is_open": scope.judge.is_open,
        "too_late": math.inf if limit is None else limit,
        "modules": modules,
        "monotonic": monotonic,
    }
    for at, gate in enumerate(gates):
        names |= {f"admit{at}": gate.admit, f"settle{at}": gate.settle, f"release{at}": gate.release}
    source = _source(gates, rest, plain=hasattr(inner, "plainly"))
    exec(_compiled(source), names)
    return names["pass_gates"]  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=256)
def _compiled(source: str) -> CodeType:
    """There are few shapes of frames, and many pipelines."""
    file = f"{FILE}{next(_number)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
    return compile(source, file, "exec")


def _source(gates: Sequence[Gate], rest: _Rest, *, plain: bool) -> str:
    tickets = [f"t{at}" for at in range(len(gates))]
    together = f"({', '.join(tickets)},)"
    lines = ["async def pass_gates(call):", f"    {' = '.join(tickets)} = None", "    try:"]
    for at, ticket in enumerate(tickets):
        guard = f"if {tickets[at - 1]} is not None: " if at else ""
        lines += [f"        {guard}{ticket} = admit{at}(call)"]
    lines += [
        "    except BaseException as error:",
        f"        rest.refused(call, {together}, error)",
        "        raise",
        f"    if {tickets[-1]} is None:",
        f"        {together} = await rest.queue(call, {together})",
    ]
    waited = " - call.waited" if rest.waits else ""
    if rest.clocked:
        lines += ["    now = call.runtime.now", f"    begin = now(){waited}"]
    lines += [
        "    try:",
        f"        result = {'' if plain else 'await '}inner(call)",
        "    except BaseException as error:",
        f"        rest.learn_error(call, {together}, error, {'begin' if rest.clocked else '0.0'})",
        "        raise",
    ]
    late, elapsed, end = "False", "0.0", "None"
    if rest.clocked:
        lines += ["    end = now()", f"    elapsed = end - begin{waited}"]
        late, elapsed, end = "elapsed > too_late", "elapsed", "end"
    elif rest.dated:  # while there is one clock, its runtime need not be found
        lines += [f"    end = call.begin().now() if {TRIO!r} in modules or {VIRTUAL!r} in modules else monotonic()"]
        end = "end"
    if rest.looks_at_results:
        lines += [
            "    try:",
            "        verdict = verdict_on(call, result)",
            "    except BaseException:",
            f"        rest.give_back({together})",
            "        raise",
            '    if verdict.kind != "success":',
            f"        rest.learn({together}, verdict.kind, {elapsed}, {end}, None)",
            "        return result",
        ]
    if rest.follows:
        lines += [
            "    try:",
            "        open_ended = is_open(result)",
            "    except BaseException:",
            f"        rest.give_back({together})",
            "        raise",
            "    if open_ended:",
            f"        rest.follow(call, {together}, result, {late}, {elapsed})",
            "        return result",
        ]
    for at in reversed(range(len(gates))):
        if gates[at].learns or gates[at].holds:
            ends = f"settle{at}(t{at}, {late}, {elapsed}, {end}, None)" if gates[at].learns else f"release{at}(t{at})"
            lines += [
                "    try:",
                f"        {ends}",
                "    except BaseException as error:",
                f"        rest.raised({at}, {together}, error)",
            ]
    return "\n".join([*lines, "    return result", ""])


class _Rest:
    """What the frame does when not all goes well."""

    def __init__(self, gates: Sequence[Gate], scope: Scope, limit: float | None, waits: bool) -> None:
        self.gates = gates
        self.scope = scope
        self.limit = limit
        self.waits = waits
        learning = [gate for gate in gates if gate.learns]
        self.learns = bool(learning)
        self.looks_at_results = scope.judge.judges_results and self.learns
        self.follows = scope.judge.follows and any(gate.follows for gate in learning)
        places = range(len(gates))[::-1]
        self._followers = [at for at in places if gates[at].learns and gates[at].follows]
        self._others = [at for at in places if at not in self._followers]
        self.clocked = self.learns and (limit is not None or any(gate.timed for gate in learning))
        """Whether anybody asks how old a call is."""
        self.dated = any(gate.dated for gate in learning)
        """Whether anybody asks when it has ended."""

    # -- on the way in ------------------------------------------------------------------------------------------

    def refused(self, call: Call, tickets: Tickets, error: BaseException) -> None:
        """A gate raised: give back what those outside it have given."""
        self._end(tickets, _undo)
        if not isinstance(error, Rejected):
            return
        if not error.pipeline:
            error.pipeline = self.scope.name
        if self.scope.channel.wants[CallRejected]:
            at, reason = call.begin().now(), reason_of(error)
            self.scope.channel.emit(CallRejected(self.scope.name, at, error.policy, reason, error.retry_after))

    async def queue(self, call: Call, tickets: Tickets) -> Tickets:
        """Wait at the first gate that has no ticket for us yet, go on through the others, and return all tickets."""
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
        except BaseException as error:
            self.refused(call, held, error)
            raise
        return held

    def _ask_again(self, held: list[Ticket | None], call: Call) -> bool:
        """Have the judging gates outside the last one judge anew: what they know has changed while the call waited.

        Returns whether all admit it. Where one makes it wait, those inside that one have their tickets back: whoever
        waits outside must not hold what others wait for inside.
        """
        for at, gate in enumerate(self.gates[: len(held) - 1]):
            if gate.judges:
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
        """Wait at a gate, and add its ticket to those that are `held`; the time counts as local."""
        now = call.begin().now
        begin = call.queued_at = now()
        try:
            held.append(await in_callers_time(call, self.scope, lambda _: gate.wait(call, self.scope)))
        finally:
            end = now()
            call.waited += end - begin
            call.queued_at = None
        if end > begin and self.scope.channel.wants[Waited]:
            self.scope.channel.emit(Waited(self.scope.name, end, gate.name, "queue", end - begin))

    # -- on the way out -----------------------------------------------------------------------------------------

    def learn_error(self, call: Call, tickets: Tickets, error: BaseException, begin: float) -> None:
        """Have an error judged, and tell the gates."""
        if type(error) is Withdrawn:
            again = error.again

            def withdraw(gate: Gate, ticket: Ticket) -> None:
                if (undo := gate.withdraw(ticket)) is not None:
                    again.append(undo)

            self._end(tickets, withdraw)
            return
        if not self.learns or issubclass(type(error), GeneratorExit):  # dropped, perhaps where no event loop runs
            self.give_back(tickets)
            return
        end = call.begin().now()
        elapsed = end - begin - (call.waited if self.waits else 0.0) if self.clocked else 0.0
        if isinstance(error, Exception):
            try:
                kind = self.scope.on_error(call, error).kind
            except BaseException:
                self.give_back(tickets)
                raise
            self.learn(tickets, kind, elapsed, end, error)
        elif is_cut(error, call.runtime.cancelled):

            def cut(gate: Gate, ticket: Ticket) -> None:
                if gate.learns:
                    gate.cut(ticket, elapsed, end, self.limit)
                else:
                    gate.release(ticket)

            self._end(tickets, cut)
        else:
            self.give_back(tickets)

    def learn(self, tickets: Tickets, kind: str, elapsed: float, end: float | None, error: Exception | None) -> None:
        """Tell the gates how the call ended."""

        def learn(gate: Gate, ticket: Ticket) -> None:
            if gate.learns:
                gate.settle(ticket, kind == "failure", elapsed, end, error)
            else:
                gate.release(ticket)

        if kind == "nothing":
            self.give_back(tickets)
        else:
            self._end(tickets, learn)

    def follow(self, call: Call, tickets: Tickets, result: Any, late: bool, elapsed: float) -> None:
        """Have those gates that follow a good result to its end wait for it; the others know enough now."""
        end = call.begin().now() if self.clocked or self.dated else None

        def learn(gate: Gate, ticket: Ticket) -> None:
            if gate.learns:
                gate.settle(ticket, late, elapsed, end, None)
            else:
                gate.release(ticket)

        try:
            self.scope.judge.follow(result, _Unsettled(self, call, tickets, late, elapsed))
        except BaseException:
            self.give_back(tickets)
            raise
        self._end(tickets, learn, self._others)

    def follow_to(self, tickets: Tickets, tell: Callable[[Gate, Ticket], None]) -> None:
        """`tell` those gates of the end of a result that they have followed."""
        self._end(tickets, tell, self._followers)

    def give_back(self, tickets: Tickets) -> None:
        """Take tickets back without their gates learning anything."""
        self._end(tickets, lambda gate, ticket: gate.release(ticket))

    def raised(self, at: int, tickets: Tickets, error: BaseException) -> None:
        """The gate at this place raised when it was told of a call's end.

        An `Exception` is logged, and is not the caller's. Anything else is raised again, when the gates outside have
        their tickets back.
        """
        if isinstance(error, Exception):
            _log.error("resilient: %s raised at the end of a call", self.gates[at].name, exc_info=error)
            return
        self.give_back(tickets[:at])
        raise error

    def _end(self, tickets: Tickets, tell: Callable[[Gate, Ticket], None], places: Sequence[int] | None = None) -> None:
        """Have `tell` take the tickets back, last first, from all the gates that have given one; or from those at these
        `places`."""
        for at in reversed(range(len(tickets))) if places is None else places:
            if tickets[at] is not None:
                try:
                    tell(self.gates[at], tickets[at])
                except BaseException as error:
                    self.raised(at, tickets, error)


def _undo(gate: Gate, ticket: Ticket) -> None:
    gate.undo(ticket)


def givers(frame: FrameType) -> Iterator[Gate | None]:
    """The gates that have given the tickets which the call of this frame holds, if it is a frame of gates."""
    names = frame.f_locals
    if frame.f_code is _Rest.queue.__code__:
        gates, tickets = names["self"].gates, names.get("held", ())
    elif frame.f_code.co_filename.startswith(FILE):
        gates = frame.f_globals["rest"].gates
        tickets = [names.get(f"t{at}") for at in range(len(gates))]
        if tickets[-1] is None:
            return  # on the way in: `queue` holds them
    else:
        return
    for gate, ticket in zip(gates, tickets, strict=False):
        if ticket is not None:
            yield gate.giver(ticket)


class _Unsettled:
    """The gates that learn from a result whose end is open."""

    __slots__ = ("elapsed", "late", "rest", "runtime", "tickets")

    def __init__(self, rest: _Rest, call: Call, tickets: Tickets, late: bool, elapsed: float) -> None:
        self.rest = rest
        self.runtime = (
            call.begin() if rest.clocked or rest.dated else None
        )  # not the call, which has the result with its verdict
        self.tickets = tickets
        self.late = late
        self.elapsed = elapsed

    def learn(self, error: Exception | None) -> None:
        rest = self.rest
        now = None if self.runtime is None else self.runtime.now()
        failed = self.late or error is not None
        rest.follow_to(self.tickets, lambda gate, ticket: gate.settle(ticket, failed, self.elapsed, now, error))

    def drop(self, *, collected: bool = False) -> None:
        self.rest.follow_to(self.tickets, lambda gate, ticket: gate.release(ticket))
