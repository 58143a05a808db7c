"""The queue of a gate: calls that wait for a permit, in order of arrival, over all event loops and threads.

A free permit is granted to the first waiter, which leaves the queue and is woken. It collects the permit when it runs
again. If its call is cancelled, or its time is over, between the two (in the same tick of the event loop), the permit
goes to the next waiter (`PermitQueue.leave`).

A permit that is granted to a call which cannot run is lost to all others: the call's event loop may be closed, stopped
between two runs, or blocked by code that does not await. So the calls of each event loop form a group. When a loop does
not use a permit that one of its calls got, its whole group is passed over: its calls leave the queue and are woken, and
those of the other loops keep their order. When the loop runs again, its calls return to their old places.

A closed or stopped loop is passed over at once, by the call that grants a permit and by each call that joins the queue.
(Else its waiting calls would keep it in memory, with all permits that its other calls hold.) A blocked loop looks like
one that runs. So when a permit is granted to a call of another loop, the first call of each other loop is woken to
watch, and passes that loop over if the permit is still unused after `PATIENCE` seconds. With one event loop, none of
this happens.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from itertools import count

from resilient.runtime import Parking, Runtime, Timed

__all__ = ["STALLED", "PermitQueue", "WaitQueue", "Waiter"]

MOMENT = 1e-6
"""Seconds: sums of times and timers are exact to about this."""

STALLED = 0.05
"""Seconds between two looks at a granted permit that another call does not use."""

PATIENCE = 2 * STALLED
"""Seconds for which a permit may stay unused while another call watches. The time between two looks counts as `STALLED`
at most: the whole process may have been suspended."""


class Waiter:
    """A call in a queue.

    Attributes:
        rank: calls of a lower rank go first, whenever they arrived.
        number: in order of arrival.
        parking: where the call waits; a new one for each wait.
        home: the call's event loop.
        unused: permits of other event loops that were unused at the last look: who got each, and for how many seconds
            it has been unused.
        looked_at: the time of the last look.
        evicted: whether a more important call has taken its place in the queue; then it gets no permit.
    """

    __slots__ = ("evicted", "home", "looked_at", "number", "parking", "rank", "unused")

    def __init__(self, parking: Parking, rank: int, number: int) -> None:
        self.parking = parking
        self.home = parking.home
        self.rank = rank
        self.number = number
        self.unused: Mapping[Waiter, float] = {}
        self.looked_at = 0.0
        self.evicted = False

    @property
    def order(self) -> tuple[int, int]:
        """The key by which waiters are sorted: the lowest goes first."""
        return self.rank, self.number


class WaitQueue:
    """The waiters of a gate, in order. The gate holds its lock around each method; `len` and `rank` need no lock."""

    __slots__ = ("_next_number", "groups")

    def __init__(self) -> None:
        self.groups: dict[tuple[int, Hashable], OrderedDict[Waiter, None]] = {}
        """The waiters by rank and event loop, each group in order of arrival. Empty, and so false, without waiters."""
        self._next_number = count().__next__

    def __len__(self) -> int:
        return sum(map(len, list(self.groups.values())))  # a copy: snapshots take no lock

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self.groups.get((waiter.rank, waiter.home), ())

    @property
    def rank(self) -> float:
        """The rank of the first waiter; infinite without waiters."""
        return min((rank for rank, _ in list(self.groups)), default=math.inf)

    def join(self, runtime: Runtime, rank: int = 0) -> Waiter:
        """Add a new waiter at the end of its rank, and return it."""
        waiter = Waiter(runtime.park(), rank, self._next_number())
        self.insert(waiter)
        return waiter

    def insert(self, waiter: Waiter) -> None:
        """Add a waiter by its rank and number: a new one, or one that was passed over."""
        group = self.groups.setdefault((waiter.rank, waiter.home), OrderedDict())
        late = group and next(reversed(group)).number > waiter.number
        group[waiter] = None
        if late:
            for each in sorted(group, key=lambda each: each.number):
                group.move_to_end(each)

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter, if it is in the queue."""
        group = self.groups.get((waiter.rank, waiter.home))
        if group is not None:
            group.pop(waiter, None)
            if not group:
                del self.groups[waiter.rank, waiter.home]

    def heads(self) -> list[Waiter]:
        """The first waiter of each rank and event loop."""
        return [next(iter(group)) for group in self.groups.values()]

    def first(self) -> Waiter | None:
        """The waiter that gets the next permit; None without waiters."""
        if not self.groups:
            return None
        return min(self.heads(), key=lambda waiter: waiter.order)

    def last(self) -> Waiter | None:
        """The waiter that is evicted when the queue is too long; None without waiters."""
        tails = (next(reversed(group)) for group in self.groups.values())
        return max(tails, key=lambda waiter: waiter.order, default=None)

    def count_to(self, rank: int) -> int:
        """The number of waiters of this rank and of those that go before it."""
        return sum(len(group) for (each, _), group in self.groups.items() if each <= rank)

    def pass_over(self, home: Hashable) -> None:
        """Remove all waiters of an event loop and wake them: each joins again when its loop runs."""
        for key in [key for key in self.groups if key[1] == home]:
            for waiter in self.groups.pop(key):
                waiter.parking.wake()


class PermitQueue:
    """Grants the permits of a gate to its waiters.

    Args:
        lock: the gate's.
        take: `take(rank)` takes a permit for a call of this rank. It returns whether there was one.
        give_back: gives one permit back, and grants it to no waiter.

    Attributes:
        waiters: the calls that wait.
    """

    __slots__ = ("_give_back", "_granted", "_lock", "_take", "waiters")

    def __init__(self, lock: threading.RLock, take: Callable[[int], bool], give_back: Callable[[], None]) -> None:
        self.waiters = WaitQueue()
        self._lock = lock
        self._take = take
        self._give_back = give_back
        self._granted: dict[Waiter, None] = {}  # those that have got a permit, and have not collected it yet

    def renew(self, lock: threading.RLock) -> None:
        """Remove all waiters, in a forked child. (Calls of the parent that end in the child may still call `leave`.)"""
        self._lock = lock
        self.waiters.groups.clear()
        self._granted.clear()

    def grant(self) -> None:
        """Grant the free permits to the waiters, in order."""
        waiters = self.waiters
        with self._lock:
            while (waiter := waiters.first()) is not None and self._take(waiter.rank):
                waiters.remove(waiter)
                woken = waiter.parking.wake()
                if woken in ("stands still", "gone"):
                    self._give_back()
                    self._pass_over(waiter.home)
                    continue
                self._granted[waiter] = None
                if woken == "may run":
                    for head in waiters.heads():
                        if head.home != waiter.home:
                            head.parking.wake()

    def look(self, waiter: Waiter, runtime: Runtime) -> float | None:
        """Collect the permit that was granted to `waiter`, and return None. Without such a permit, return the seconds
        after which `waiter` should look again, unless it is woken before."""
        with self._lock:
            now = runtime.now()
            passed = min(STALLED, now - waiter.looked_at)
            waiter.looked_at = now
            unused = {other: seconds + passed for other, seconds in waiter.unused.items() if other in self._granted}
            for other in (*self._granted, *self.waiters.heads()):
                if other.home != waiter.home and (
                    unused.get(other, 0.0) > PATIENCE - MOMENT or not other.parking.is_running
                ):
                    self._pass_over(other.home)
            if waiter not in self._granted and waiter not in self.waiters and not waiter.evicted:
                self.waiters.insert(waiter)  # it was passed over
            waiter.parking = runtime.park()
            self.grant()
            if waiter in self._granted:
                del self._granted[waiter]
                return None
            waiter.unused = {other: unused.get(other, 0.0) for other in self._granted if other.home != waiter.home}
            return STALLED if waiter.unused else math.inf

    async def wait(self, waiter: Waiter, call: Timed, runtime: Runtime, seconds: float | None) -> bool:
        """Wait for a permit, for `seconds` at most (None: until the call's deadline). Returns whether it got one."""
        end = math.inf if seconds is None else runtime.now() + seconds
        while (pause := self.look(waiter, runtime)) is not None:
            if waiter.evicted:
                return False
            left = max(0.0, end - runtime.now())
            woken = await waiter.parking.wait(None if pause == left == math.inf else min(pause, left), call)
            if not woken and left <= pause:  # the time is over; the permit may have come in the same tick
                return self.look(waiter, runtime) is None
        return True

    def leave(self, waiter: Waiter) -> None:
        """Leave the queue, in whatever way the wait ended: with a permit, a timeout or a cancellation. A permit that
        was granted to `waiter` and not yet collected goes to the next waiter."""
        with self._lock:
            self.waiters.remove(waiter)
            if waiter in self._granted:
                del self._granted[waiter]
                self._give_back()
                self.grant()

    def _pass_over(self, home: Hashable) -> None:
        """Take back the uncollected permits of an event loop's calls. Its calls get no permit until the loop runs
        again."""
        for waiter in [waiter for waiter in self._granted if waiter.home == home]:
            del self._granted[waiter]
            self._give_back()
        self.waiters.pass_over(home)
