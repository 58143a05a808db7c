"""The gates of a `Keyed` by key: an LRU table of bounded size.

Keys often come from outside: addresses, host names, tenants. So when a new key comes, the table examines the least
recently used keys until there is room, but at most `LOOKS` of them, so that a call costs the same with any number of
keys:

- A key with calls inside is never evicted: with a new gate it would have twice its permits. So there may be more than
  `max_keys` keys, but only while calls of other keys are in flight, which take more memory than their keys do.
- A key whose gate is at rest (a closed circuit, a full bucket) is evicted when there is no room, or when it has been
  idle for too long: its gate has no more state than a new one.
- A key whose gate is not at rest (an open circuit, a bucket that is not full) stays, and the next one is examined. If
  all examined keys stay, the least recently used of them is evicted after all. That costs a few calls to a dependency
  that may still be dead, or a burst beyond a limit. If the new key were refused instead, an attacker who comes first
  could lock out all other keys; if both keys were kept, the attacker could use up all memory. An isolated circuit is
  kept: only an operator can isolate one.
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
from resilient.core.gate import Gate
from resilient.errors import Rejected, add_key
from resilient.events.channel import Emitter

__all__ = ["LOOKS", "Entry", "KeyTable"]

LOOKS = 16
"""Keys examined at most when a new key comes. If the circuits of all of them are open, one is evicted."""


class _Span:
    """The time between the arrivals of two new keys.

    Attributes:
        end: the time at which the second one arrived; infinite before.
    """

    __slots__ = ("end",)

    def __init__(self) -> None:
        self.end = math.inf


class Entry:
    """The entry of one key.

    Attributes:
        key: the key.
        shown: the key as text, in names and errors.
        gate: the gate of this key.
        decides: the gate that decides: in shadow mode the gate's `_shadow_queue`, if it has one.
        inside: calls that were admitted or wait, and have not ended.
        used: the time of the latest use at which the clock was read.
        span: the span between two new keys in which the latest use fell, or None if the clock was read at that use.
            Reading the clock at each use would cost more than finding the entry.
    """

    __slots__ = ("decides", "gate", "inside", "key", "shown", "span", "used")

    def __init__(self, key: Hashable, shown: str, gate: Gate, now: float) -> None:
        self.key = key
        self.shown = shown
        self.gate = gate
        self.decides = gate._shadow_queue or gate
        self.inside = 0
        self.used = now
        self.span: _Span | None = None

    def idle(self, now: float) -> float:
        """Seconds since the last use of the key. The value may be too small where the clock was not read at that
        use."""
        return now - (self.used if self.span is None else self.span.end)

    def name_refusal(self, error: Rejected) -> None:
        """Add the key to a refusal of its gate, whose name has the key in brackets."""
        add_key(error, self.gate.name[: -2 - len(self.shown)], self.shown)


class KeyTable(Emitter):
    """The table of keys, shared by a `Keyed` and those derived from it.

    Args:
        factory: makes the gate of a new key.
        name: of the `Keyed`.
        pattern: the first gate that the factory made, which guards no call.
        max_keys, idle: as in `Keyed`.

    Attributes:
        lock_free: the table, for look-ups without the lock; empty on free-threaded builds, where each one takes it.
        latest: the entry that was used last.
        span: the current span: it began when the last new key arrived.
    """

    def __init__(self, factory: Callable[[], Gate], name: str, pattern: Gate, max_keys: int, idle: float) -> None:
        self.name = name
        self.max_keys = max_keys
        self.idle = idle
        self._factory = factory
        self._pattern = pattern
        self._table: OrderedDict[Hashable, Entry] = OrderedDict()  # least recently used first, `latest` anywhere
        self.lock_free: Mapping[Hashable, Entry] = self._table if GIL else {}
        self.latest: Entry | None = None
        self.span = _Span()
        self._lock = threading.RLock()  # held while the table changes
        pattern._made_for = self

    def enter(self, key: Hashable, now: float, calls: int = 1) -> Entry:
        """Return the entry of a key, made if there is none, and count `calls` more as inside it."""
        with self._lock:
            entry = self._table.get(key)
            if entry is not None:
                return self._used(entry, now, calls)
        gate = self._make(key)  # the user's code runs without the lock
        with self._lock:
            entry = self._table.get(key)  # another thread may have made it meanwhile
            if entry is None:
                self._make_room(now)
                entry = self._table[key] = Entry(key, _validation.legible(key), gate, now)
                self.span.end = now
                self.span = _Span()
                for channel in self._attached():
                    gate._attach(channel)
            return self._used(entry, now, calls)

    def _used(self, entry: Entry, now: float, calls: int) -> Entry:
        entry.inside += calls
        entry.used, entry.span = now, None
        self.move_to_end(entry)
        return entry

    def move_to_end(self, entry: Entry) -> None:
        """Move an entry to the end of the table: it is evicted last."""
        self.latest = entry
        try:
            self._table.move_to_end(entry.key)
        except KeyError:
            pass  # another thread has taken it out in `_make_room`, and puts it back; or `forget` has removed it

    @atomic
    def leave(self, entry: Entry) -> None:
        """Count a call of an entry as ended."""
        entry.inside -= 1

    def forget(self, key: Hashable) -> bool:
        """Remove a key in any state. Returns whether it was there."""
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
            new = self._table[key] = Entry(key, entry.shown, entry.gate, entry.used)
            new.span = entry.span
        self.latest = None

    def _make_room(self, now: float) -> None:
        """Examine the least recently used keys, and evict some by the rules of the module."""
        table, spared = self._table, list[Entry]()
        for _ in range(min(LOOKS, len(table))):
            full = len(table) + len(spared) >= self.max_keys
            key, entry = table.popitem(last=False)  # no call can enter while it is out
            if not full and entry.idle(now) < self.idle:
                table[key] = entry
                table.move_to_end(key, last=False)
                break
            if entry.inside or entry.gate._set_by_hand:
                table[key] = entry
            elif not entry.gate._at_rest:
                spared.append(entry)
        too_many = max(0, len(table) + len(spared) + 1 - self.max_keys)
        for entry in spared[too_many:]:
            table[entry.key] = entry
        if too_many:  # the remaining ones were used before the others, and stay first
            for entry in reversed(spared[too_many:]):
                table.move_to_end(entry.key, last=False)

    def _make(self, key: Hashable) -> Gate:
        """Make a gate for a key, named after it. Raises `TypeError` or `ValueError` if the factory made no new gate of
        the same kind."""
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
    """Whether two gates were made with the same objects, as by one line of code whose arguments are constants."""
    (args, kwargs), (others, named) = gate._init_args, other._init_args
    return (
        len(args) == len(others)
        and kwargs.keys() == named.keys()
        and all(map(is_, args, others))
        and all(value is named[name] for name, value in kwargs.items())
    )


def _kind(gate: Gate) -> tuple[Any, ...]:
    """The facts on which the source of a gate layer depends: they must be equal for the gates of all keys."""
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
