"""AdaptiveLimit: limits concurrent calls to the number that the dependency can process, as their durations show.

A fixed limit is wrong by next week: too high, and calls wait at the dependency until their callers have gone; too low,
and calls are refused that could be served. Here each window of time ends with a new limit, from a rule that can be
replaced (`resilient.limiters`). Between windows this is a bulkhead with priorities.

Each class of calls (`resilient.core.priority`) has a share of the limit, and is admitted while fewer calls than that
are inside, of any class. So when there is not enough room, sheddable calls are refused first, and the last permits are
for critical calls. The queue is ordered by class, and within a class by arrival.

One instance keeps one limit over all event loops and threads. While there is room for every class, and the queue is
empty, a call is admitted and settled without a lock.
"""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from resilient import _validation, events
from resilient._atomic import atomic
from resilient.core.call import Call
from resilient.core.callbacks import CallbackError, ask_about_call
from resilient.core.context import PipelineContext
from resilient.core.deadlocks import refuse_endless_wait
from resilient.core.facts import IN_SHADOW, shared_facts
from resilient.core.gate import Gate
from resilient.core.priority import PRIORITIES, RANKS, Priority, current_priority
from resilient.core.shadow_queue import ShadowQueue
from resilient.core.wait_queue import PermitQueue
from resilient.core.worst_case import Bound, InnerCost, Surroundings, WorstCase
from resilient.errors import LimitExceeded, Template, refusal
from resilient.events.channel import Emitter
from resilient.limiters import Limiter, Vegas, Window
from resilient.runtime import current

__all__ = ["AdaptiveLimit"]

_log = logging.getLogger("resilient")

SHARES: Mapping[Priority, float] = MappingProxyType({"critical": 1.0, "normal": 0.9, "sheddable": 0.7})

_NO_ROOM = "{} of {} has no room for a {} call: {}"
NO_ROOM = {code: Template(_NO_ROOM, code) for code in ("no-room", "queue-timeout", "evicted")}


class _Count:
    """The number of calls inside; the ticket of each. (Calls that began before a fork end in the parent's count.)"""

    __slots__ = ("inside",)

    def __init__(self) -> None:
        self.inside = 0


class AdaptiveLimit(Emitter, Gate, example="", judgements=("limiter", "priority")):
    """Limits concurrent calls, and adapts the limit to the number that the dependency can process.

    Args:
        initial: the first limit. Default 20 (Netflix).
        min_limit, max_limit: the limit never leaves these bounds. Default 1 and 1,000 (Netflix).
        limiter: makes the rule that finds the limit: a class, or `lambda: Vegas(window=0.5)`. Default `Vegas`.
        queue: how many calls may wait for a permit; 0 (the default): none. When the queue is full, a call takes the
            place of the last one of a less important class.
        queue_timeout: seconds a call waits at most; None: until its deadline.
        shares: of the limit, for each class. Default 1 for critical calls, 0.9 for normal ones, 0.7 for sheddable ones.
        priority: a function of the call's arguments that returns its class, instead of `current_priority()`. For a call
            that must wait it is called twice. Any other name raises `ValueError` to the caller.
        shadow: count the calls that it would have refused or queued, and admit all.
        name: for events and errors; default "AdaptiveLimit".

    Raises `LimitExceeded` to refuse a call; and `Deadlock` where a plain `def` would wait for ever, because its own
    callers in the same thread hold all permits.
    """

    shares: Mapping[Priority, float] = SHARES

    _begin: float
    _end: float
    _successes: int
    _failures: int
    _peak: int
    _elapsed: float
    _squares: float

    def __init__(
        self,
        initial: int = 20,
        *,
        min_limit: int = 1,
        max_limit: int = 1000,
        limiter: Callable[[], Limiter] = Vegas,
        queue: int = 0,
        queue_timeout: float | None = None,
        shares: Mapping[Priority, float] | None = None,
        priority: Callable[..., Priority] | None = None,
        shadow: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name, shadow=shadow)
        self.min_limit = _validation.count("min_limit", min_limit)
        self.max_limit = _validation.count("max_limit", max_limit)
        self.initial = _validation.count("initial", initial)
        if not min_limit <= initial <= max_limit:
            raise ValueError(f"initial={initial!r} must be within min_limit={min_limit!r} and max_limit={max_limit!r}")
        self.queue = _validation.count("queue", queue, least=0)
        self.queue_timeout = None if queue_timeout is None else _validation.seconds("queue_timeout", queue_timeout)
        if queue_timeout is not None and not queue:
            raise ValueError(f"queue_timeout={queue_timeout!r} has no meaning without a queue: give queue= too")
        rule = (limiter if inspect.isclass(limiter) else _validation.callback("limiter", limiter))()
        if not isinstance(rule, Limiter):
            raise TypeError(f"limiter must make a Limiter, as Vegas does, got {rule!r}")
        self.limiter: Limiter = rule
        if shares is not None:
            self.shares = _checked(shares)
        self._priority = None if priority is None else _validation.callback("priority", priority)
        self.facts = shared_facts(
            learns=True,
            follows=False,  # the duration of a stream depends on its reader
            waits=queue > 0,
            longest_wait=self.queue_timeout,
            permits=True,
            raises=(LimitExceeded,),
            inactive=IN_SHADOW if shadow else None,
        )
        self._refused = dict.fromkeys(PRIORITIES, 0)
        self._limit = float(initial)
        self._channels = ()
        self._count = _Count()
        self._lock = threading.RLock()
        self._permit_queue = PermitQueue(self._lock, self._take, self._give_back)
        self._waiting = self._permit_queue.waiters.groups  # empty, and so false, when no call waits
        self._forget(math.inf, math.inf)
        self._set_bounds()
        # Instances share the keys of their dictionaries as long as they have no more attributes than these.
        if self.shadow and queue:
            self._shadow_queue = ShadowQueue(
                self, lambda rank: self._bounds[rank], self._refusal, self._rank, self._learn_in_shadow
            )

    def _renew(self) -> None:
        super()._renew()
        self._count = _Count()
        self._lock = threading.RLock()
        self._permit_queue.renew(self._lock)
        if self._shadow_queue is not None:
            self._shadow_queue._renew()

    # -- admission ----------------------------------------------------------------------------------------------

    def admit(self, call: Call) -> object | None:
        if self._priority is None:
            count = self._enter_at_once()
            if count is not None:
                return count
        rank = self._rank(call)
        count = self._enter(rank)
        if count is not None:
            return count
        if not self.queue:
            raise self._refusal(rank)
        return None

    @atomic
    def _enter_at_once(self) -> _Count | None:
        """Admit a call if there is room for any class, and the queue is empty."""
        count = self._count
        if count.inside < self._open and not self._waiting:
            count.inside += 1
            return count
        return None

    @atomic
    def _enter(self, rank: int) -> _Count | None:
        """Admit a call of this rank if there is room for it, and no call in the queue goes before it."""
        if self._waiting and rank >= self._permit_queue.waiters.rank:
            return None
        return self._count if self._take(rank) else None

    def _rank(self, call: Call) -> int:
        name = current_priority() if self._priority is None else ask_about_call(call, self._priority)
        try:
            return RANKS[name]
        except (KeyError, TypeError):
            wrong = ValueError(f"priority must be one of {', '.join(PRIORITIES)}, got {name!r}")
            raise CallbackError(wrong) from None

    async def wait(self, call: Call, context: PipelineContext) -> _Count:
        queue, runtime, rank = self._permit_queue, call.runtime, self._rank(call)
        waiters = queue.waiters
        with self._lock:
            waiter = waiters.join(runtime, rank)
            queue.grant()  # a permit may have come free since `admit`
            evicted = waiters.last() if len(waiters) > self.queue else None
            if evicted is not None:
                waiters.remove(evicted)
                evicted.evicted = True
                evicted.parking.wake()
            position = waiters.count_to(rank)
        try:
            if evicted is waiter:
                raise self._refusal(rank)
            if queue.look(waiter, runtime) is not None:
                if context.channel.wants[events.Queued]:
                    context.channel.emit(events.Queued(context.name, runtime.now(), self.name, position))
                if self.queue_timeout is None:
                    refuse_endless_wait(self, call, max(self._bounds[rank], self._count.inside))
                if not await queue.wait(waiter, call, runtime, self.queue_timeout):
                    if waiter.evicted:
                        raise self._refusal(rank, "its place in the queue went to a more important call", "evicted")
                    raise self._refusal(rank, f"no permit within {self.queue_timeout:g} s", "queue-timeout")
            return self._count
        finally:
            queue.leave(waiter)

    # -- the end of a call --------------------------------------------------------------------------------------

    def settle(self, ticket: _Count, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        if now is None:
            now = current().now()
        if self._learn(ticket, failed, elapsed, now):
            self._turn(now)
        if self._waiting:
            self._permit_queue.grant()

    def _learn_in_shadow(self, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        """Learn from a call in shadow mode, whose permit is released at the simulated time, not now."""
        seen = _Count()
        seen.inside = (self._shadow_queue or self._count).inside
        self.settle(seen, failed, elapsed, now, error)

    @atomic
    def _learn(self, ticket: _Count, failed: bool, elapsed: float, now: float) -> bool:
        """Take a permit back, and add the call to the window. Returns whether the window is over."""
        inside = ticket.inside
        ticket.inside = inside - 1
        if inside > self._peak:  # noqa: PLR1730 (a call of `max` would let other threads in)
            self._peak = inside
        if failed:
            self._failures += 1
        else:
            self._successes += 1
            self._elapsed += elapsed
            self._squares += elapsed * elapsed
        return not self._begin <= now < self._end

    @atomic
    def release(self, ticket: _Count) -> None:
        ticket.inside -= 1
        if self._waiting:
            self._permit_queue.grant()

    @atomic
    def _take(self, rank: int) -> bool:
        count = self._count
        if count.inside < self._bounds[rank]:
            count.inside += 1
            return True
        return False

    @atomic
    def _give_back(self) -> None:
        self._count.inside -= 1

    def _refusal(self, rank: int, why: str = "", code: str = "no-room") -> LimitExceeded:
        name = PRIORITIES[rank]
        with self._lock:
            self._refused[name] += 1
        why = why or f"{(self._shadow_queue or self._count).inside} inside, {self.queued} queued"
        return refusal(LimitExceeded, (NO_ROOM[code], self.name, int(self._limit), name, why), self.name)

    # -- the limit ----------------------------------------------------------------------------------------------

    def _turn(self, now: float) -> None:
        """End the window, if enough calls have ended in it, and compute the next limit."""
        with self._lock:
            if self._begin <= now < self._end:
                return  # another thread was first
            if not self._begin <= now:  # the first call, or another clock
                self._forget(now, now + self.limiter.window)
                return
            count = self._successes + self._failures
            if count < max(self.limiter.samples, 2 * self._peak):
                return
            window = self._seen(now - self._begin)
            old = int(self._limit)
            try:
                limit = float(self.limiter.update(self._limit, window))
                self._limit = min(max(limit, self.min_limit), self.max_limit)
                new = int(self._limit)
            except Exception:  # an error of the rule does not concern the call that ends here
                _log.exception("resilient: %s has failed to find the next limit of %s", self.limiter, self.name)
                self._limit = new = old
            self._forget(now, now + self.limiter.window)
            self._set_bounds()
        if old != new:
            self._count_event("limit.changes", self._counted_as)
            self._emit(events.LimitChanged, now, self.name, old, new, str(window))

    def _seen(self, seconds: float) -> Window:
        """The evidence of the window that ends now, after `seconds`."""
        count = self._successes
        mean = self._elapsed / count if count else 0.0
        deviation = math.sqrt(max(0.0, self._squares / count - mean * mean)) if count else 0.0
        return Window(seconds, count, self._failures, mean, deviation, self._peak)

    def _forget(self, begin: float, end: float) -> None:
        """Begin a new window, and forget the last one."""
        self._begin, self._end = begin, end
        self._successes = self._failures = self._peak = 0
        self._elapsed = self._squares = 0.0

    def _set_bounds(self) -> None:
        """Compute for each class of priority how many calls may be inside when a call of that class is admitted."""
        self._bounds = tuple(max(1, int(self._limit * self.shares[name] + 1e-9)) for name in PRIORITIES)
        self._open = self._bounds[-1]

    # -- for people ---------------------------------------------------------------------------------------------

    @property
    def current_limit(self) -> int:
        """The number of calls that may be inside at a time now. (The `limit` of a policy is in seconds: where it is a
        Timeout.)"""
        return int(self._limit)

    @property
    def queued(self) -> int:
        """Calls in the queue; in shadow mode, those that would be."""
        return len((self._shadow_queue or self._permit_queue).waiters)

    @property
    def _at_rest(self) -> bool:
        return not self._count.inside and not self._waiting

    def snapshot(self) -> dict[str, Any]:
        """`limit` and `in_flight` now; `queued` of `queue`; `unloaded_seconds` of a call; how many were `refused`."""
        return {
            "limit": self.current_limit,
            "in_flight": self._count.inside if self._shadow_queue is None else self._shadow_queue.in_use,
            "queued": self.queued,
            "queue": self.queue,
            "unloaded_seconds": self.limiter.unloaded,
            "refused": dict(self._refused),
            **self._shadow_counts(),
        }

    def describe(self) -> str:
        line = f", queue {self.queue}" if self.queue else ""
        timeout = "" if self.queue_timeout is None else f" for up to {self.queue_timeout:g} s"
        shadow = ", shadow" if self.shadow else ""
        rule = type(self.limiter).__name__
        return f"AdaptiveLimit({rule} from {self.initial}, {self.min_limit} to {self.max_limit}{line}{timeout}{shadow})"

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        if self.shadow:
            return inner(around)
        around = replace(around, again=around.again or self.queue > 0)
        rest = inner(around)
        if not self.queue:
            return replace(rest, at_once=min(rest.at_once, self.initial))
        # More important calls may come all the time: nothing but these limits ends the wait.
        line = min(math.inf if self.queue_timeout is None else self.queue_timeout, around.within)
        if math.isinf(line):
            why = f"nothing bounds the wait in the queue of {self}"
        elif math.isinf(rest.seconds.most):
            why = rest.why
        else:
            why = f"{line:.4g} s in the queue of {self}, then {rest.seconds.most:.4g} s"
        late = inner(around.after(line)).seconds.sure if line < math.inf else math.inf
        return replace(
            rest,
            seconds=Bound(max(rest.seconds.sure, line + late), line + rest.seconds.most),
            why=why,
            at_once=min(rest.at_once, self.initial, self.queue),
        )


def _checked(given: Mapping[Priority, float]) -> dict[Priority, float]:
    """The share of each class: the given ones, checked, and defaults."""
    if not isinstance(given, Mapping):
        raise TypeError(f"shares must map classes of calls to shares, got {given!r}")
    unknown = [name for name in given if name not in PRIORITIES]
    if unknown:
        raise ValueError(f"shares must name {', '.join(PRIORITIES)}, got {unknown[0]!r}")
    shares: dict[Priority, float] = {
        name: _validation.share(f"shares[{name!r}]", given.get(name, SHARES[name])) for name in PRIORITIES
    }
    if not shares["critical"] >= shares["normal"] >= shares["sheddable"]:
        raise ValueError(f"shares must not grow from critical to sheddable, got {shares!r}")
    return shares
