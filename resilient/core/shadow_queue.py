"""The queue of a gate in shadow mode: a simulation, since no call really waits.

A call that would wait begins at once instead. So its permit is released too early, and the calls behind it would seem
to find room. In a `ShadowQueue` calls therefore wait, for the count, while they really run.

What is known: a call holds its permit for as long as it really takes (but not beyond its deadline), from the time at
which it would have got it. In shadow mode a call ends no later than it would have after a wait, so its duration is
known before its simulated end. The queue is simulated event by event: a call gets a permit, a `queue_timeout` or a
deadline ends a wait, a more important call evicts another. When no call runs, the rest of the queue is simulated at
once; where calls have classes, and later ones could overtake, when the next call arrives or a report is read.

What is assumed: calls take as long as they would take behind the gate; refused callers do not come again at once; and
no caller gives up in the queue. The error against the acting gate, in refused calls of 100 (tests/core/test_shadow.py
measures):

    calls take as long, however many are inside     0, at all loads
    the same, and an AdaptiveLimit that finds its   up to 0.3
      limit by them
    an overload makes calls slower in proportion    0 at half the load that it can do with, +2 at 0.7, +38 at 0.9

The last row is no error of counting: without the gate the dependency is in an overload that the gate would prevent.
Then shadow mode shows that a gate is needed, not how many calls it would refuse.

A call costs O(log n), with n calls waiting and inside.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Protocol

from resilient.core.call import Call
from resilient.core.facts import Facts
from resilient.core.gate import Gate, Ticket
from resilient.core.wait_queue import Waiter, WaitQueue
from resilient.errors import Rejected
from resilient.stats.window import CLOCK_CHANGE

__all__ = ["ShadowQueue"]


class _ShadowCall(Waiter):
    """One call in a `ShadowQueue`: its ticket.

    Attributes:
        now: the clock of its runtime.
        epoch: the queue's `_epoch` at its arrival.
        began: the time at which it arrived, and really began.
        deadline: of the call; infinite without one.
        start: the time at which it would have begun; None while it would wait, and for calls that would never begin.
        seconds: its real duration; None while it runs.
        went_well: whether it succeeded; None while it runs.
        out: whether it would have been refused.
        call, refused: the call, and the function to call when it would be refused in the queue. None once that cannot
            happen any more.
    """

    __slots__ = ("began", "call", "deadline", "epoch", "now", "out", "refused", "seconds", "start", "went_well")

    def __init__(self, call: Call, rank: int, number: int, epoch: int, began: float) -> None:
        self.call: Call | None = call
        self.refused: Callable[[Call, Rejected, bool | None], None] | None = None
        self.now = call.begin().now
        self.home = None
        self.rank = rank
        self.number = number
        self.epoch = epoch
        self.began = began
        self.deadline = math.inf if call.deadline is None else call.deadline
        self.start: float | None = None
        self.seconds: float | None = None
        self.went_well: bool | None = None
        self.out = False


NOT_COUNTED = 0
"""The epoch of a call that arrived during the admission of another one, from a signal handler or a finalizer."""

MOMENT = 1e-6
"""Seconds: sums of times are exact to about this."""

Refusals = list[tuple[_ShadowCall, str]]
"""Calls that would be refused in the queue, each with the reason."""


class _Queueing(Protocol):
    """A gate with a queue, as a `ShadowQueue` uses it."""

    name: str
    queue: int
    facts: Facts


class ShadowQueue(Gate):
    """Simulates the queue of a gate in shadow mode, and decides in the gate's place.

    Args:
        gate: the gate, with the length of its queue and the longest wait in it.
        permits: `permits(rank)`: how many calls may be inside when one of this rank is admitted.
        refusal: `refusal(rank, reason)` makes the gate's refusal of a call; the reason is "" for a full queue.
        rank: the rank of a call; lower ones go first. None: all are equal.
        learn: called with the outcome of a call, as `Gate.settle` is, for gates that learn.

    Attributes:
        waiters: calls that would wait, as far as they are simulated.
        inside: calls that would hold a permit at the simulated time.
        in_use: calls that would hold a permit, and really run.
    """

    def __init__(
        self,
        gate: _Queueing,
        permits: Callable[[int], int],
        refusal: Callable[[int, str], Rejected],
        rank: Callable[[Call], int] | None = None,
        learn: Callable[[bool, float, float | None, Exception | None], None] | None = None,
    ) -> None:
        super().__init__(gate.name)
        facts = gate.facts
        self.facts = Facts(learns=True, follows=facts.learns and facts.follows, slow=facts.slow)
        self._length = gate.queue
        self._queue_timeout = gate.facts.longest_wait
        self._permits, self._refusal, self._learn = permits, refusal, learn
        self._rank = rank or (lambda call: 0)
        self._is_fifo = rank is None  # no later call changes the fate of a waiting one
        self._next_number = count().__next__
        self._epoch = NOT_COUNTED
        self._ended: deque[tuple[_ShadowCall, float]] = deque()  # calls that have ended, and when
        self._busy = False
        self._lock = threading.RLock()
        self._reset()

    def _renew(self) -> None:
        """Start again without calls in a forked child, where the gate's permits are new."""
        super()._renew()
        self._lock = threading.RLock()
        self._busy = False
        self._reset()

    def _reset(self) -> None:
        """Forget all calls; the ends of those that run are ignored."""
        self._epoch += 1
        self.waiters = WaitQueue()
        self._running = 0  # calls that would wait or be inside, and really run
        self.inside = 0
        self.in_use = 0
        self._returns: list[float] = []  # times at which permits of ended calls are released; a heap
        self._expiries: list[tuple[float, int, _ShadowCall]] = []  # when waits end by a timeout or deadline; a heap
        self._departures: list[float] = []  # future times at which calls leave the queue, already simulated; a heap
        self._now = -math.inf
        self._simulated_to = -math.inf  # may be later than `_now`

    # -- the gate -----------------------------------------------------------------------------------------------

    def admit(self, call: Call) -> _ShadowCall | None:
        rank = self._rank(call)
        refusals = self._begin_update()
        if refusals is None:
            return _ShadowCall(call, rank, 0, NOT_COUNTED, 0.0)
        ticket = None
        try:
            now = self._advance(call.begin().now(), refusals)
            first = self.waiters.first()
            if (first is None or rank < first.rank) and self.inside < self._permits(rank):
                ticket = self._arrive(call, rank, now)
                self._start(ticket, now)
        finally:
            self._end_update(refusals)
        return ticket

    def _enqueue(self, call: Call, refused: Callable[[Call, Rejected, bool | None], None]) -> _ShadowCall:
        rank = self._rank(call)
        refusals = self._begin_update()
        assert refusals is not None, "`admit` has returned a ticket"
        try:
            now = self._advance(call.begin().now(), refusals)
            ticket = self._arrive(call, rank, now)
            self.waiters.insert(ticket)
            self._start_waiters()  # a permit may have come free since `admit`
            while self._departures and self._departures[0] <= now:
                heappop(self._departures)
            if ticket in self.waiters and len(self.waiters) + len(self._departures) > self._length:
                last = self.waiters.last()
                assert isinstance(last, _ShadowCall)
                self._refuse(last)
                if last is not ticket:
                    refusals.append((last, "its place in the queue went to a more important call"))
            if ticket in self.waiters:
                ticket.refused = refused
                self._expire_later(ticket)
        finally:
            self._end_update(refusals)
        if ticket.out:
            raise self._refusal(rank, "")
        return ticket

    def settle(self, ticket: Ticket, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        if self._learn is not None and not ticket.out:
            self._learn(failed, elapsed, now, error)
        self._end(ticket, went_well=not failed)

    def release(self, ticket: Ticket) -> None:
        self._end(ticket, went_well=False)

    def _end(self, ticket: _ShadowCall, went_well: bool) -> None:
        """Note that a call has ended, and simulate the consequences for the queue."""
        ticket.went_well = went_well
        self._ended.append((ticket, max(ticket.now(), ticket.began)))
        refusals = self._begin_update()
        if refusals is not None:
            self._end_update(refusals)  # which processes `_ended`

    def _report_queued(self) -> None:
        """If no call runs, report the waiting calls that would be refused if no other call came."""
        refusals = self._begin_update()
        if refusals is not None:
            try:
                self._advance(self._now, refusals, ahead=True)
            finally:
                self._end_update(refusals)

    def _begin_update(self) -> Refusals | None:
        """Take the lock, until `_end_update`. Returns an empty list for the calls that the update refuses.

        Returns None to a signal handler or a finalizer that interrupts an update of its own thread: it must not change
        anything.
        """
        self._lock.acquire()
        if self._busy:
            self._lock.release()
            return None
        self._busy = True
        return []

    def _end_update(self, refusals: Refusals) -> None:
        """Process the calls that have ended, release the lock, and report the calls that would be refused."""
        try:
            while self._ended:
                self._process_end(*self._ended.popleft(), refusals)
        finally:
            self._busy = False
            self._lock.release()
        for ticket, reason in refusals:
            if ticket.refused is not None and ticket.call is not None:
                ticket.refused(ticket.call, self._refusal(ticket.rank, reason), ticket.went_well)
            ticket.call = ticket.refused = None

    def _process_end(self, ticket: _ShadowCall, now: float, refusals: Refusals) -> None:
        """Process a call's end: its permit is released as long after its simulated begin as the call really took."""
        if ticket.epoch != self._epoch or ticket.out:
            return
        self._running -= 1
        ticket.seconds = now - ticket.began
        if ticket.start is not None:
            self.in_use -= 1
            self._return_at(ticket, now + (ticket.start - ticket.began))
        self._advance(now, refusals)

    # -- the simulation -----------------------------------------------------------------------------------------

    def _arrive(self, call: Call, rank: int, now: float) -> _ShadowCall:
        self._running += 1
        return _ShadowCall(call, rank, self._next_number(), self._epoch, now)

    def _expire_later(self, ticket: _ShadowCall) -> None:
        """Schedule the end of a wait: at the `queue_timeout` or at the call's deadline, if it has one of them."""
        until, is_deadline = ticket.deadline, True
        if self._queue_timeout is not None and ticket.began + self._queue_timeout < until:
            until, is_deadline = ticket.began + self._queue_timeout, False
        if until == math.inf:
            return
        if len(self._expiries) > 2 * len(self.waiters) + 100:
            self._expiries = [each for each in self._expiries if each[2] in self.waiters]
            heapify(self._expiries)
        # At one moment a deadline comes before the return of a permit, and a queue timeout after it.
        heappush(self._expiries, (until - MOMENT if is_deadline else until + MOMENT, ticket.number, ticket))

    def _advance(self, now: float, refusals: Refusals, *, ahead: bool = False) -> float:
        """Simulate what would have happened by `now`. If no call runs, simulate beyond it: in a first-in-first-out
        queue, where no later call can change the result, or with `ahead` in any.

        Args:
            now: the time; an earlier one by another clock resets the queue.
            refusals: gets the calls that would be refused.
            ahead: whether to simulate beyond `now` though a more important call could still come.

        Returns the time of the queue, which never goes back.
        """
        ahead = ahead or self._is_fifo
        if now < self._now - CLOCK_CHANGE:
            self._reset()
        self._now = now = max(now, self._now)
        while self.waiters.groups:
            self._start_waiters()
            end = self._returns[0] if self._returns else math.inf
            until = self._expiries[0][0] if self._expiries else math.inf
            moment = min(end, until)
            if not self.waiters.groups or moment == math.inf or (moment > now and (self._running or not ahead)):
                break
            self._simulated_to = max(self._simulated_to, moment)
            if end <= until:
                self._return_permit()
                continue
            ticket = heappop(self._expiries)[2]
            if ticket in self.waiters:
                self._refuse(ticket)
                if until > now:
                    heappush(self._departures, until)
                reason = f"no permit within {until - ticket.began:.4g} s"
                refusals.append((ticket, reason))
        while self._returns and self._returns[0] <= now:
            self._return_permit()
        self._simulated_to = max(self._simulated_to, now)
        return now

    def _start_waiters(self) -> None:
        """Start the waiters for which there are permits."""
        while (ticket := self.waiters.first()) is not None and self.inside < self._permits(ticket.rank):
            assert isinstance(ticket, _ShadowCall)
            self.waiters.remove(ticket)
            self._start(ticket, self._simulated_to)
            if self._simulated_to > self._now:
                heappush(self._departures, self._simulated_to)

    def _start(self, ticket: _ShadowCall, moment: float) -> None:
        """Give a call a permit at this moment."""
        self.inside += 1
        ticket.start, ticket.call, ticket.refused = moment, None, None
        if ticket.seconds is None:
            self.in_use += 1
        else:
            self._return_at(ticket, moment + ticket.seconds)

    def _return_at(self, ticket: _ShadowCall, moment: float) -> None:
        """Schedule the return of a call's permit: at this moment, or at the call's deadline if that is earlier."""
        heappush(self._returns, min(moment, ticket.deadline))

    def _refuse(self, ticket: _ShadowCall) -> None:
        """Remove a waiter: it would be refused."""
        self.waiters.remove(ticket)
        ticket.out = True
        if ticket.seconds is None:
            self._running -= 1

    def _return_permit(self) -> None:
        heappop(self._returns)
        self.inside -= 1
