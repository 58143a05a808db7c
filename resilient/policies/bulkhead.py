"""Bulkhead: a slow dependency fills its own compartment with waiting calls, not the whole ship.

At most `max_concurrent` calls are inside at a time; up to `queue` more wait in order of arrival; the rest are refused
at once: a caller is better off with a quick refusal than with an answer that comes too late.

One instance keeps one limit over all event loops and threads. An admission that finds a free permit and an empty queue
takes the permit without a lock. A call that must wait joins the queue (`resilient.core.wait_queue`) under the lock and
looks again, so that no wake-up is lost.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

from resilient import _validation
from resilient._atomic import atomic
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.deadlocks import refuse_endless_wait
from resilient.core.facts import IN_SHADOW, shared_facts
from resilient.core.gate import Gate
from resilient.core.shadow_queue import ShadowQueue
from resilient.core.wait_queue import PermitQueue
from resilient.core.worst_case import Bound, InnerCost, Surroundings, WorstCase
from resilient.errors import BulkheadFull, Template, refusal
from resilient.events import Queued

__all__ = ["Bulkhead"]

FULL = Template("{} is full: {} running, {} queued", "full")
FULL_FOR = Template("{} is full: {}", "queue-timeout")


class _Permits:
    """The number of free permits; the ticket of each call. (Permits taken before a fork go back to the parent's.)"""

    __slots__ = ("free",)

    def __init__(self, free: int) -> None:
        self.free = free


class Bulkhead(Gate, example="100"):
    """Limits concurrent calls, with a bounded first-in-first-out queue.

    Args:
        max_concurrent: permits. Default 100 (Microsoft's default of 1,000 is for a whole process; a single dependency
            rarely needs more than 100 at once).
        queue: how many calls may wait for a permit; 0 (the default, as Microsoft's): none.
        queue_timeout: seconds a call waits for a permit at most; None: until its deadline.
        shadow: count the calls that it would have refused or queued, and admit all.
        name: for events and errors; default "Bulkhead".

    Raises `BulkheadFull` to refuse a call; and `Deadlock` where a plain `def` would wait for ever, because its own
    callers in the same thread hold all permits.
    """

    def __init__(
        self,
        max_concurrent: int = 100,
        *,
        queue: int = 0,
        queue_timeout: float | None = None,
        shadow: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name, shadow=shadow)
        self.max_concurrent = _validation.count("max_concurrent", max_concurrent)
        self.queue = _validation.count("queue", queue, least=0)
        self.queue_timeout = None if queue_timeout is None else _validation.seconds("queue_timeout", queue_timeout)
        if queue_timeout is not None and not queue:
            raise ValueError(f"queue_timeout={queue_timeout!r} has no meaning without a queue: give queue= too")
        self.facts = shared_facts(
            timed=False,
            waits=queue > 0,
            longest_wait=self.queue_timeout,
            permits=True,
            raises=(BulkheadFull,),
            inactive=IN_SHADOW if shadow else None,
        )
        self._permits = _Permits(self.max_concurrent)
        self._lock = threading.RLock()
        self._permit_queue = PermitQueue(self._lock, self._take, self._give_back)
        self._waiting = self._permit_queue.waiters.groups  # empty, and so false, when no call waits
        if self.shadow and queue:
            permits = self.max_concurrent
            self._shadow_queue = ShadowQueue(self, lambda rank: permits, lambda rank, why: self._full(why))

    def _renew(self) -> None:
        super()._renew()
        self._permits = _Permits(self.max_concurrent)
        self._lock = threading.RLock()
        self._permit_queue.renew(self._lock)
        if self._shadow_queue is not None:
            self._shadow_queue._renew()

    @atomic
    def admit(self, call: Call) -> _Permits | None:
        permits = self._permits
        if permits.free > 0 and not self._waiting:
            permits.free -= 1
            return permits
        if not self.queue:
            raise self._full()
        return None

    async def wait(self, call: Call, context: PipelineContext) -> _Permits:
        queue, runtime = self._permit_queue, call.runtime
        with self._lock:
            position = len(queue.waiters) + 1
            if position > self.queue + self._permits.free:
                raise self._full()
            waiter = queue.waiters.join(runtime)
        try:
            if queue.look(waiter, runtime) is not None:  # a permit may have come free since `admit`
                if context.channel.wants[Queued]:
                    context.channel.emit(Queued(context.name, runtime.now(), self.name, position))
                if self.queue_timeout is None:
                    refuse_endless_wait(self, call, self.max_concurrent)
                if not await queue.wait(waiter, call, runtime, self.queue_timeout):
                    raise self._full(f"no permit within {self.queue_timeout:g} s")
            return self._permits
        finally:
            queue.leave(waiter)

    @atomic
    def release(self, ticket: _Permits) -> None:
        ticket.free += 1
        if self._waiting:
            self._permit_queue.grant()

    @atomic
    def _take(self, rank: int) -> bool:
        permits = self._permits
        if permits.free > 0:
            permits.free -= 1
            return True
        return False

    @atomic
    def _give_back(self) -> None:
        self._permits.free += 1

    def _full(self, why: str = "") -> BulkheadFull:
        name = self.name
        message = (FULL_FOR, name, why) if why else (FULL, name, self.max_concurrent, self.queue)
        return refusal(BulkheadFull, message, name)

    @property
    def _at_rest(self) -> bool:
        return self._permits.free == self.max_concurrent and not self._waiting

    def snapshot(self) -> dict[str, Any]:
        """`in_use` and `queued` now, of `max_concurrent` and `queue`."""
        shadow = self._shadow_queue
        return {
            "in_use": self.max_concurrent - self._permits.free if shadow is None else shadow.in_use,
            "max_concurrent": self.max_concurrent,
            "queued": len((shadow or self._permit_queue).waiters),
            "queue": self.queue,
            **self._shadow_counts(),
        }

    def describe(self) -> str:
        line = f", queue {self.queue}" if self.queue else ""
        timeout = "" if self.queue_timeout is None else f" for up to {self.queue_timeout:g} s"
        return f"Bulkhead({self.max_concurrent}{line}{timeout}{', shadow' if self.shadow else ''})"

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        if self.shadow:
            return inner(around)
        around = replace(around, again=around.again or self.queue > 0)
        rest = inner(around)
        if not self.queue:
            return replace(rest, at_once=min(rest.at_once, self.max_concurrent))
        # The calls that hold the permits, and those before it in the queue, are like this one.
        rounds = math.ceil(self.queue / self.max_concurrent)
        limit = min(math.inf if self.queue_timeout is None else self.queue_timeout, around.within)
        line = rest.seconds.times(rounds, rounds).up_to(limit)
        late = inner(around.after(line.sure)) if line.sure < math.inf else rest
        if math.isinf(line.most):
            why = f"nothing bounds the wait in the queue of {self}"
        elif math.isinf(rest.seconds.most):
            why = rest.why
        else:
            why = f"{line.most:.4g} s in the queue of {self}, then {rest.seconds.most:.4g} s"
        return replace(
            rest,
            seconds=Bound(max(rest.seconds.sure, line.sure + late.seconds.sure), line.most + rest.seconds.most),
            why=why,
            at_once=min(rest.at_once, self.max_concurrent, self.queue),
        )
