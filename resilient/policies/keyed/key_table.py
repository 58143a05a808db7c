"""The table of the keys of a `Keyed`, each with its own gate: bounded in size, least recently used first.

Keys often come from strangers: addresses, host names, tenants. So when a new key comes, those that were used longest
ago are looked at until there is room, but at most `LOOKS` of them, so a call costs the same however many keys there
are:

- A key with calls inside is never forgotten: with a new gate it would have twice its permits. So there may be more than
  `max_keys` keys, but only while calls of others are in flight, which take more memory than their keys do.
- A key whose gate is at rest (a closed circuit, a full bucket) is forgotten when there is no room, or when it has been
  idle for too long: its gate knows nothing that a new one does not.
- A key whose gate is not at rest (an open circuit, a bucket that is not full) lets the next one go in its place. Only
  where all that were looked at are such is the one that was used longest ago forgotten. That costs a few calls to a
  dependency that may still be dead, or a burst beyond a limit. Refusing the new key instead would let strangers who
  come first shut everybody else out; keeping both would let them take all memory. An isolated circuit is kept: no
  stranger can isolate one.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from operator import is_
from typing import Any

from resilient import _validation, events
from resilient._atomic import GIL, atomic, members
from resilient.core.policy import Gate
from resilient.events.channel import Emitter

__all__ = ["LOOKS", "Entry", "Keys"]

LOOKS = 16
"""The most keys that are looked at when a new key comes. Of so many open circuits in a row, one is forgotten."""


class _Span:
    """The time between the arrivals of two new keys. `end` is infinite until the second one arrives."""

    __slots__ = ("end",)

    def __init__(self) -> None:
        self.end = math.inf


class Entry:
    """What is kept for one key.

    Attributes:
        gate: of this key.
        acts: the gate that decides: in shadow mode the gate's `shadow_queue`, if it has one.
        inside: calls that were admitted or wait, and have not ended.
        used: when it was last used, of the uses at which the clock was read.
        span: the time in which it was used again after that, or None. Reading the clock at each use would cost more
            than finding the entry.
    """

    __slots__ = ("acts", "gate", "inside", "key", "span", "used")

    def __init__(self, key: Hashable, gate: Gate, now: float) -> None:
        self.key = key
        self.gate = gate
        self.acts = gate._shadow_queue or gate
        self.inside = 0
        self.used = now
        self.span: _Span | None = None

    def idle(self, now: float) -> float:
        """Seconds since its last use; fewer where the clock was not read at that use."""
        return now - (self.used if self.span is None else self.span.end)


class Keys(Emitter):
    """The table of keys, shared by a `Keyed` and those derived from it.

    Args:
        factory: makes the gate of a new key.
        pattern: the first gate that the factory made, which guards no call.
        max_keys, idle: as in `Keyed`.

    Attributes:
        at_hand: the table for a look-up without the lock; empty on free-threaded builds, where each look-up takes it.
        latest: the entry that was used last.
        span: the time since the last new key arrived.
    """

    def __init__(self, factory: Callable[[], Gate], pattern: Gate, max_keys: int, idle: float) -> None:
        self.max_keys = max_keys
        self.idle = idle
        self._factory = factory
        self._pattern = pattern
        self._table: OrderedDict[Hashable, Entry] = OrderedDict()  # least recently used first, `latest` anywhere
        self.at_hand: Mapping[Hashable, Entry] = self._table if GIL else {}
        self.latest: Entry | None = None
        self.span = _Span()
        self._lock = threading.RLock()  # held while the table changes
        pattern._made_for = self

    def enter(self, key: Hashable, now: float, calls: int = 1) -> Entry:
        """The entry of a key, made if there is none. `calls` are counted as inside it."""
        with self._lock:
            entry = self._table.get(key)
            if entry is not None:
                return self._used(entry, now, calls)
        gate = self._make(key)  # the user's code: under no lock
        with self._lock:
            entry = self._table.get(key)  # another thread may have made it meanwhile
            if entry is None:
                self._make_room(now)
                entry = self._table[key] = Entry(key, gate, now)
                self.span.end = now
                self.span = _Span()
                for channel in self._attached():
                    gate._attach(channel)
            return self._used(entry, now, calls)

    def _used(self, entry: Entry, now: float, calls: int) -> Entry:
        entry.inside += calls
        entry.used, entry.span = now, None
        self.used_last(entry)
        return entry

    def used_last(self, entry: Entry) -> None:
        """Move an entry to the end of the table: it is forgotten last."""
        self.latest = entry
        try:
            self._table.move_to_end(entry.key)
        except KeyError:
            pass  # `_make_room` has it out in another thread, and puts it back; or `forget` has removed it

    @atomic
    def leave(self, entry: Entry) -> None:
        """Count one call less inside an entry."""
        entry.inside -= 1

    def forget(self, key: Hashable) -> bool:
        """Forget a key, whatever its state. Returns whether it was known."""
        with self._lock:
            return self._table.pop(key, None) is not None

    def entries(self) -> list[Entry]:
        """A copy of the table's entries, least recently used first."""
        with self._lock:
            return members(self._table.values())  # a key that hashes by Python code may let another thread in

    def _attach(self, channel: events.Channel) -> None:
        """Connect the gates of all keys, later ones included, to the channel of a pipeline."""
        with self._lock:
            super()._attach(channel)
            for entry in self.entries():
                entry.gate._attach(channel)

    def renew(self) -> None:
        """In a forked child: take new locks, and count no call as inside."""
        self._lock = threading.RLock()
        self._pattern._renew()
        for key, entry in list(self._table.items()):
            entry.gate._renew()
            new = self._table[key] = Entry(key, entry.gate, entry.used)
            new.span = entry.span
        self.latest = None

    def _make_room(self, now: float) -> None:
        """Look at the least recently used keys, and forget those that can go, by the rules of the module."""
        table, spared = self._table, list[Entry]()
        for _ in range(min(LOOKS, len(table))):
            full = len(table) + len(spared) >= self.max_keys
            key, entry = table.popitem(last=False)  # no call can enter while it is out
            if not full and entry.idle(now) < self.idle:
                table[key] = entry
                table.move_to_end(key, last=False)
                break
            if entry.inside or entry.gate._steered:
                table[key] = entry
            elif not entry.gate._at_rest:
                spared.append(entry)
        too_many = max(0, len(table) + len(spared) + 1 - self.max_keys)
        for entry in spared[too_many:]:
            table[entry.key] = entry
        if too_many:  # those left were used before the others, and stay first
            for entry in reversed(spared[too_many:]):
                table.move_to_end(entry.key, last=False)

    def _make(self, key: Hashable) -> Gate:
        """Make a gate for a key, named after it. Raises if it is not like the gates of the other keys."""
        gate = self._factory()
        if not isinstance(gate, Gate) or _kind(gate) != _kind(self._pattern):
            raise TypeError(f"factory must always make the same kind of gate: first {self._pattern!r}, now {gate!r}")
        with self._lock:
            if gate._made_for is self:
                raise ValueError(f"factory must make a new gate for each key, got the same {gate!r} again")
            gate._made_for = self
        if _is_given_the_same(gate, self._pattern):
            gate._init_args = self._pattern._init_args  # one tuple for all keys takes less memory
        gate.name = f"{gate.name}[{_validation.legible(key)}]"
        return gate


def _is_given_the_same(gate: Gate, other: Gate) -> bool:
    """Whether two gates were made with the same objects, as they are by one line of code with constants."""
    (args, kwargs), (others, named) = gate._init_args, other._init_args
    return (
        len(args) == len(others)
        and kwargs.keys() == named.keys()
        and all(map(is_, args, others))
        and all(value is named[name] for name, value in kwargs.items())
    )


def _kind(gate: Gate) -> tuple[Any, ...]:
    """The facts that the source of a gate layer depends on: they must be the same for the gates of all keys."""
    facts = gate.facts
    return (
        type(gate),
        gate.shadow,
        facts.by_evidence,
        facts.learns,
        facts.waits,
        facts.holds,
        facts.timed,
        facts.dated,
        facts.slow,
    )
