"""The line at a gate: calls that wait for their turn, in order of arrival, over all event loops and threads.

A turn that is given to a call which cannot run is lost to all others: its event loop may be closed, stopped between two
runs, or held up by code that does not await. So the calls of each loop stand together. When their loop does not come
for a turn, all of them are passed over, and those of the other loops keep their order. They are woken as they leave,
and take their old places when their loop runs again.

A closed or stopped loop is passed over at once: by who gives it a turn, and by who joins the line. (Else its calls in
line would keep it in memory, with all the permits that its other calls hold.) One that is held up cannot be told from
one that runs. So when a turn is given to another loop than the one that runs here, the first call of each other loop is
woken to look on, and passes it over when the turn is still unused after `PATIENCE` seconds. Where there is one loop,
none of this happens.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from itertools import count

from resilient.runtime import Parking, Runtime, Timed

__all__ = ["STALLED", "Line", "Place", "Turns"]

MOMENT = 1e-6
"""Seconds: sums of times and timers are about that exact."""

STALLED = 0.05
"""Seconds between two looks at a turn that another call does not use."""

PATIENCE = 2 * STALLED
"""Seconds for which a turn may lie unused while another call looks on. A pause between two looks counts for `STALLED`
at the most: the whole process may have stood still."""


class Place:
    """One call's place in line.

    Attributes:
        rank: those with a lower one go first, whenever they came.
        number: in order of arrival.
        parking: where the call waits; a new one each time it looks.
        home: its event loop.
        lying: whose turns were unused when it looked last, and how long it has seen them so.
        looked: when that was.
        evicted: whether its place went to another call, and there is no turn for it.
    """

    __slots__ = ("evicted", "home", "looked", "lying", "number", "parking", "rank")

    def __init__(self, parking: Parking, rank: int, number: int) -> None:
        self.parking = parking
        self.home = parking.home
        self.rank = rank
        self.number = number
        self.lying: Mapping[Place, float] = {}
        self.looked = 0.0
        self.evicted = False

    @property
    def order(self) -> tuple[int, int]:
        """Of two places, the lower one goes first."""
        return self.rank, self.number


class Line:
    """The order of those who wait. Its methods are called under its owner's lock; only `len` and `rank` need none."""

    __slots__ = ("_next_number", "groups")

    def __init__(self) -> None:
        self.groups: dict[tuple[int, Hashable], OrderedDict[Place, None]] = {}
        """By rank and home, each in order of arrival. Empty when nobody waits: false, without a call."""
        self._next_number = count().__next__

    def __len__(self) -> int:
        return sum(map(len, list(self.groups.values())))  # a copy: snapshots take no lock

    def __contains__(self, place: Place) -> bool:
        return place in self.groups.get((place.rank, place.home), ())

    @property
    def rank(self) -> float:
        """Of the first; infinite when nobody waits."""
        return min((rank for rank, _ in list(self.groups)), default=math.inf)

    def join(self, runtime: Runtime, rank: int = 0) -> Place:
        """A new place at the end of its rank."""
        place = Place(runtime.park(), rank, self._next_number())
        self.enter(place)
        return place

    def enter(self, place: Place) -> None:
        """Stand in line, at a place that was given once."""
        group = self.groups.setdefault((place.rank, place.home), OrderedDict())
        late = group and next(reversed(group)).number > place.number
        group[place] = None
        if late:
            for each in sorted(group, key=lambda each: each.number):
                group.move_to_end(each)

    def remove(self, place: Place) -> None:
        """Leave the line; no matter if it is not in it."""
        group = self.groups.get((place.rank, place.home))
        if group is not None:
            group.pop(place, None)
            if not group:
                del self.groups[place.rank, place.home]

    def heads(self) -> list[Place]:
        """The first of each rank and home."""
        return [next(iter(group)) for group in self.groups.values()]

    def first(self) -> Place | None:
        """Whose turn it is next."""
        if not self.groups:
            return None
        return min(self.heads(), key=lambda place: place.order)

    def last(self) -> Place | None:
        """Who goes when there are too many."""
        tails = (next(reversed(group)) for group in self.groups.values())
        return max(tails, key=lambda place: place.order, default=None)

    def up_to(self, rank: int) -> int:
        """How many there are of a rank and those before it."""
        return sum(len(group) for (each, _), group in self.groups.items() if each <= rank)

    def pass_over(self, home: Hashable) -> None:
        """Have all calls of an event loop leave the line; they come again when it runs."""
        for key in [key for key in self.groups if key[1] == home]:
            for place in self.groups.pop(key):
                place.parking.wake()


class Turns:
    """Gives the permits of a gate to those in line.

    Args:
        take: `take(rank)` takes a permit for a call of this rank, if there is one.
        back: `back()` gives one back, and no more than that.
    """

    __slots__ = ("_back", "_given", "_lock", "_take", "line")

    def __init__(self, lock: threading.RLock, take: Callable[[int], bool], back: Callable[[], None]) -> None:
        self.line = Line()
        self._lock = lock
        self._take = take
        self._back = back
        self._given: dict[Place, None] = {}  # those that have a permit, and have not come for it

    def renew(self, lock: threading.RLock) -> None:
        """In a forked child: nobody is in line. (Calls of the parent that end here still leave it.)"""
        self._lock = lock
        self.line.groups.clear()
        self._given.clear()

    def hand_out(self) -> None:
        """Give free permits to those in line, first come first served."""
        line = self.line
        with self._lock:
            while (place := line.first()) is not None and self._take(place.rank):
                line.remove(place)
                woken = place.parking.wake()
                if woken in ("stands still", "gone"):
                    self._back()
                    self._pass_over(place.home)
                    continue
                self._given[place] = None
                if woken == "may run":
                    for head in line.heads():
                        if head.home != place.home:
                            head.parking.wake()

    def look(self, place: Place, runtime: Runtime) -> float | None:
        """Take the permit that it was given: None. Or how long to wait, unless woken, before it looks again."""
        with self._lock:
            now = runtime.now()
            passed = min(STALLED, now - place.looked)
            place.looked = now
            lying = {other: seconds + passed for other, seconds in place.lying.items() if other in self._given}
            for other in (*self._given, *self.line.heads()):
                if other.home != place.home and (
                    lying.get(other, 0.0) > PATIENCE - MOMENT or not other.parking.is_running
                ):
                    self._pass_over(other.home)
            if place not in self._given and place not in self.line and not place.evicted:
                self.line.enter(place)  # it was passed over
            place.parking = runtime.park()
            self.hand_out()
            if place in self._given:
                del self._given[place]
                return None
            place.lying = {other: lying.get(other, 0.0) for other in self._given if other.home != place.home}
            return STALLED if place.lying else math.inf

    async def wait(self, place: Place, call: Timed, runtime: Runtime, seconds: float | None) -> bool:
        """Wait for a permit, for `seconds` at the most (None: as long as its deadline lets it). Whether it has one."""
        end = math.inf if seconds is None else runtime.now() + seconds
        while (pause := self.look(place, runtime)) is not None:
            if place.evicted:
                return False
            left = max(0.0, end - runtime.now())
            woken = await place.parking.wait(None if pause == left == math.inf else min(pause, left), call)
            if not woken and left <= pause:  # unless it was given one in the tick in which its time was over
                return self.look(place, runtime) is None
        return True

    def leave(self, place: Place) -> None:
        """Leave the line. A permit that it was given and has not taken goes to the next."""
        with self._lock:
            self.line.remove(place)
            if self._given.pop(place, self) is None:
                self._back()
                self.hand_out()

    def _pass_over(self, home: Hashable) -> None:
        """Take back what the calls of an event loop were given; none of them gets more until it runs again."""
        for place in [place for place in self._given if place.home == home]:
            del self._given[place]
            self._back()
        self.line.pass_over(home)
