"""Gates in shadow mode: each decides and counts, and every call goes on at once.

Most gates need nothing for that but that their refusals are ignored, and a RateLimit knows when each token comes. A
gate whose calls wait for each other needs more: a call that would wait begins at once instead, so its permit comes back
too early, and the calls behind it seem to find room. Such a gate has a `ShadowQueue`, in which calls stand in line
while they run.

What it knows: a call holds its permit for as long as it really takes (but not beyond its deadline), beginning when it
would have got it. In shadow mode a call ends no later than it would have after a wait, so how long it takes is known
before its would-be end. The queue is lived through event by event: who begins, whose patience (`queue_timeout`, a
deadline) ends in line, who loses the place to a more important call. When no call runs, what is left in line is lived
through at once; where calls have classes, and later ones could overtake, when the next call comes or a report is read.

What it assumes: calls take as long as they would take behind the gate; refused callers do not come again at once; and
no caller gives up in line. The error against the acting gate, in refused calls of 100 (tests/core/test_shadow.py
measures):

    calls take as long, however many are inside     0, at all loads
    the same, and an AdaptiveLimit that finds its   up to 0.3
      limit by them
    an overload makes calls slower in proportion    0 at half the load that it can do with, +2 at 0.7, +38 at 0.9

The last row is no error of counting: without the gate the dependency is in an overload that the gate would prevent.
Then shadow mode says that a gate is needed, not how many calls it would refuse.

A call costs O(log n), with n calls in line and inside.
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
from resilient.core.deadline import holding
from resilient.core.emit import tell
from resilient.core.policy import Gate, PipelineContext, Ticket
from resilient.core.wait_queue import Line, Place
from resilient.errors import Rejected, reason_of
from resilient.events import CallRejected
from resilient.runtime.threads import THREADS
from resilient.stats.window import CLOCK_CHANGE

__all__ = ["WOULD_WAIT", "Shadow", "ShadowQueue"]

WOULD_WAIT = "would have made it wait"
"""How the reason of a `CallRejected` ends where the gate would have had the call wait, not refused it."""


class Shadow(Gate):
    """Stands for a gate in shadow mode: calls that the gate would have refused or queued are counted, and admitted."""

    BYPASS = object()
    """The ticket of a call that the gate knows nothing of."""

    def __init__(self, gate: Gate, context: PipelineContext) -> None:
        super().__init__(gate.name)
        self.gate = gate
        self.context = context
        self.decides = gate.shadow_queue or gate
        self.by_evidence = gate.by_evidence
        self.learns, self.follows = self.decides.learns, self.decides.follows
        self.holds = gate.holds
        self.timed, self.dated = gate.timed, gate.dated
        self.slow = gate.slow

    def admit(self, call: Call) -> Ticket:
        try:
            ticket = self.decides.admit(call)
            if ticket is not None:
                return ticket
            ticket = self._line_up(call)
        except Rejected as error:
            self.refused(call, error)
            return self.BYPASS
        self.gate.would_have_queued += 1
        self._tell(call, f"{self.gate.name} {WOULD_WAIT}")
        return self.BYPASS if ticket is None else ticket

    def _line_up(self, call: Call) -> Ticket | None:
        """Put a call into the line, with the deadline that it would have there (see `in_callers_time`)."""
        deadline = call.deadline
        limit = holding(call) if call.begin() is THREADS else None
        if limit is not None and (deadline is None or limit.at < deadline):
            call.deadline = limit.at
        try:
            return self.decides.line_up(call, self.refused)
        finally:
            call.deadline = deadline

    def refused(self, call: Call, error: Rejected, went_well: bool | None = None) -> None:
        """Count a call that the gate would have refused; `went_well`: how it has ended, if it has."""
        self.gate.would_have_refused += 1
        self._tell(call, reason_of(error), error.retry_after, went_well)

    def _tell(self, call: Call, reason: str, retry_after: float | None = None, went_well: bool | None = None) -> None:
        if self.context.channel.wants[CallRejected]:
            at, name = call.begin().now(), self.context.name
            event = CallRejected(name, at, self.gate.name, reason, retry_after, shadow=True, went_well=went_well)
            tell(call, self.context, event)

    def settle(self, ticket: Ticket, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        if ticket is not self.BYPASS:
            self.decides.settle(ticket, failed, elapsed, now, error)

    def cut(self, ticket: Ticket, elapsed: float, now: float, limit: float | None) -> None:
        if ticket is not self.BYPASS:
            self.decides.cut(ticket, elapsed, now, limit)

    def release(self, ticket: Ticket) -> None:
        if ticket is not self.BYPASS:
            self.decides.release(ticket)

    def undo(self, ticket: Ticket) -> None:
        if ticket is not self.BYPASS:
            self.decides.undo(ticket)

    def withdraw(self, ticket: Ticket) -> Callable[[], None] | None:
        return None if ticket is self.BYPASS else self.decides.withdraw(ticket)

    def giver(self, ticket: Ticket) -> Gate | None:
        return None if ticket is self.BYPASS else self.decides.giver(ticket)


class _ShadowPlace(Place):
    """One call in a `ShadowQueue`: its ticket.

    Attributes:
        now: the clock of its runtime.
        epoch: of the queue, when it came.
        began: when it came, and really began.
        deadline: of the call; infinite without one.
        start: when it would have begun; None while it would be in line, and for calls that would never begin.
        seconds: how long it took; None while it runs.
        went_well: None while it runs.
        out: whether it would have been refused.
        call, refused: who is told when it would be refused in line. None once it cannot be.
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
"""The epoch of a call that came in the midst of another one's admission, from a signal handler or a finalizer."""

MOMENT = 1e-6
"""Seconds: sums of times are about that exact."""

Late = list[tuple[_ShadowPlace, str]]
"""Calls that are found to be refused in line, each with the reason."""


class _Queueing(Protocol):
    """A gate with a queue, as a `ShadowQueue` sees it."""

    name: str
    queue: int
    queue_timeout: float | None
    learns: bool
    follows: bool
    slow: float | None


class ShadowQueue(Gate):
    """The queue of a gate in shadow mode, which decides in the gate's place.

    Args:
        gate: whose queue it is: so many places it has, and so long is a call in line at the most.
        permits: how many calls may be inside when one of a rank is admitted.
        refusal: makes the gate's refusal of a call of a rank; of a reason, or "" for a full line.
        rank: of a call; lower ones go first. teach: has the gate learn how a call ended, as `Gate.settle` says.
    """

    learns = True

    def __init__(
        self,
        gate: _Queueing,
        permits: Callable[[int], int],
        refusal: Callable[[int, str], Rejected],
        rank: Callable[[Call], int] | None = None,
        teach: Callable[[bool, float, float | None, Exception | None], None] | None = None,
    ) -> None:
        super().__init__(gate.name)
        self.follows = gate.learns and gate.follows
        self.slow = gate.slow
        self._places = gate.queue
        self._patience = gate.queue_timeout
        self._permits, self._refusal, self._teach = permits, refusal, teach
        self._rank = rank or (lambda call: 0)
        self._is_fair = rank is None  # no call that comes later changes what becomes of one that is in line
        self._next_number = count().__next__
        self._epoch = NOT_COUNTED
        self._ended: deque[tuple[_ShadowPlace, float]] = deque()  # calls, and when
        self._busy = False
        self._lock = threading.RLock()
        self._begin_anew()

    def renew(self) -> None:
        """In a forked child, where the gate's permits are new."""
        super().renew()
        self._lock = threading.RLock()
        self._busy = False
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget all calls; those inside end without a word."""
        self._epoch += 1
        self.line = Line()
        """Calls that would be in line, as far as all is lived through."""
        self._running = 0  # calls that would be in line or inside, and have not ended
        self.inside = 0
        """Calls that would hold a permit then."""
        self.in_use = 0
        """Calls that would hold a permit, and run."""
        self._ends: list[float] = []  # when permits come back, of calls inside that have ended; a heap
        self._patiences: list[tuple[float, int, _ShadowPlace]] = []  # when calls in line give up; a heap
        self._leaving: list[float] = []  # when calls leave the line of whom it is known already; a heap
        self._now = self._moment = -math.inf  # the time; how far all is lived through, which may be later

    # -- the gate -----------------------------------------------------------------------------------------------

    def admit(self, call: Call) -> _ShadowPlace | None:
        rank = self._rank(call)
        late = self._hold()
        if late is None:
            return _ShadowPlace(call, rank, 0, NOT_COUNTED, 0.0)
        place = None
        try:
            now = self._live(call.begin().now(), late)
            first = self.line.first()
            if (first is None or rank < first.rank) and self.inside < self._permits(rank):
                place = self._place(call, rank, now)
                self._begin(place, now)
        finally:
            self._let_go(late)
        return place

    def line_up(self, call: Call, refused: Callable[[Call, Rejected, bool | None], None]) -> _ShadowPlace:
        rank = self._rank(call)
        late = self._hold()
        assert late is not None, "`admit` has given it a place"
        try:
            now = self._live(call.begin().now(), late)
            place = self._place(call, rank, now)
            self.line.enter(place)
            self._move_up()  # a permit may have come free since `admit` looked
            while self._leaving and self._leaving[0] <= now:
                heappop(self._leaving)
            if place in self.line and len(self.line) + len(self._leaving) > self._places:
                last = self.line.last()
                assert isinstance(last, _ShadowPlace)
                self._leave(last)
                if last is not place:
                    late.append((last, "its place in line went to a more important call"))
            if place in self.line:
                place.refused = refused
                self._bound(place)
        finally:
            self._let_go(late)
        if place.out:
            raise self._refusal(rank, "")
        return place

    def settle(self, ticket: Ticket, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        if self._teach is not None and not ticket.out:
            self._teach(failed, elapsed, now, error)
        self._end(ticket, went_well=not failed)

    def release(self, ticket: Ticket) -> None:
        self._end(ticket, went_well=False)

    def _end(self, place: _ShadowPlace, went_well: bool) -> None:
        """Note that a call has ended, and live through what that changes in the line."""
        place.went_well = went_well
        self._ended.append((place, max(place.now(), place.began)))
        late = self._hold()
        if late is not None:
            self._let_go(late)  # which takes it in

    def foretell(self) -> None:
        """If no call runs, tell of those in line that would be refused unless others come."""
        late = self._hold()
        if late is not None:
            try:
                self._live(self._now, late, ahead=True)
            finally:
                self._let_go(late)

    def _hold(self) -> Late | None:
        """Take the lock, until `_let_go`; returns where to put the calls that are found to be refused in line.

        A signal handler or a finalizer may come here in the midst of that: then it gets None, and changes nothing.
        """
        self._lock.acquire()
        if self._busy:
            self._lock.release()
            return None
        self._busy = True
        return []

    def _let_go(self, late: Late) -> None:
        """Take in the calls that have ended, give the lock back, and tell of those that are refused in line."""
        try:
            while self._ended:
                self._take_in(*self._ended.popleft(), late)
        finally:
            self._busy = False
            self._lock.release()
        for place, why in late:
            if place.refused is not None and place.call is not None:
                place.refused(place.call, self._refusal(place.rank, why), place.went_well)
            place.call = place.refused = None

    def _take_in(self, place: _ShadowPlace, now: float, late: Late) -> None:
        """A call has ended: its permit comes back that long after it would have begun."""
        if place.epoch != self._epoch or place.out:
            return
        self._running -= 1
        place.seconds = now - place.began
        if place.start is not None:
            self.in_use -= 1
            self._ends_at(place, now + (place.start - place.began))
        self._live(now, late)

    # -- the line -----------------------------------------------------------------------------------------------

    def _place(self, call: Call, rank: int, now: float) -> _ShadowPlace:
        self._running += 1
        return _ShadowPlace(call, rank, self._next_number(), self._epoch, now)

    def _bound(self, place: _ShadowPlace) -> None:
        """Have a call leave the line when its patience or its deadline ends."""
        until, is_deadline = place.deadline, True
        if self._patience is not None and place.began + self._patience < until:
            until, is_deadline = place.began + self._patience, False
        if until == math.inf:
            return
        if len(self._patiences) > 2 * len(self.line) + 100:
            self._patiences = [each for each in self._patiences if each[2] in self.line]
            heapify(self._patiences)
        # In one moment, a deadline ends before a permit comes back, and a patience after that.
        heappush(self._patiences, (until - MOMENT if is_deadline else until + MOMENT, place.number, place))

    def _live(self, now: float, late: Late, *, ahead: bool = False) -> float:
        """Live through all that would have happened by `now`; and, if no call runs, through what would happen later,
        where no other call could change it (`ahead`: where it could, too). Returns the time."""
        ahead = ahead or self._is_fair
        if now < self._now - CLOCK_CHANGE:
            self._begin_anew()
        self._now = now = max(now, self._now)
        while self.line.groups:
            self._move_up()
            end = self._ends[0] if self._ends else math.inf
            until = self._patiences[0][0] if self._patiences else math.inf
            moment = min(end, until)
            if not self.line.groups or moment == math.inf or (moment > now and (self._running or not ahead)):
                break
            self._moment = max(self._moment, moment)
            if end <= until:
                self._give_back()
                continue
            place = heappop(self._patiences)[2]
            if place in self.line:
                self._leave(place)
                if until > now:
                    heappush(self._leaving, until)
                why = f"no place in line for longer than {until - place.began:.4g} s"
                late.append((place, why))
        while self._ends and self._ends[0] <= now:
            self._give_back()
        self._moment = max(self._moment, now)
        return now

    def _move_up(self) -> None:
        """Let those in line begin for whom there is a permit."""
        while (place := self.line.first()) is not None and self.inside < self._permits(place.rank):
            assert isinstance(place, _ShadowPlace)
            self.line.remove(place)
            self._begin(place, self._moment)
            if self._moment > self._now:
                heappush(self._leaving, self._moment)

    def _begin(self, place: _ShadowPlace, moment: float) -> None:
        """A call would get its permit."""
        self.inside += 1
        place.start, place.call, place.refused = moment, None, None
        if place.seconds is None:
            self.in_use += 1
        else:
            self._ends_at(place, moment + place.seconds)

    def _ends_at(self, place: _ShadowPlace, moment: float) -> None:
        """The permit of a call comes back then, or at its deadline."""
        heappush(self._ends, min(moment, place.deadline))

    def _leave(self, place: _ShadowPlace) -> None:
        """A call would be refused in line."""
        self.line.remove(place)
        place.out = True
        if place.seconds is None:
            self._running -= 1

    def _give_back(self) -> None:
        heappop(self._ends)
        self.inside -= 1
