"""Keyed: one circuit, one bulkhead or one limit for each host or tenant, and none for those long unheard of.

A dependency is often many: the shards behind one client, the tenants of one API. One circuit for all of them opens for
the healthy nine when the tenth fails. So a key is taken from the arguments of each call, and each key has a gate of its
own, made when it is first needed.

What is remembered is bounded, for keys often come from strangers: addresses, host names, tenants. Keys stand in order
of their last use. When a new one comes, some of those that have stood longest are looked at (at most `LOOKS`, so a call
costs the same however many keys there are), until there is room:

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

import inspect
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from copy import copy
from operator import is_
from typing import Any, Self

from resilient import arguments, events
from resilient.atomic import GIL, atomic, members
from resilient.call import Call
from resilient.errors import Rejected
from resilient.events import Channel
from resilient.foresight import End, Inside, Meeting, View, Worst
from resilient.mistakes import Mistake, asked_of
from resilient.policy import Gate, Policy, Scope, Ticket
from resilient.runtime import current

__all__ = ["Keyed"]

LOOKS = 16
"""Keys that are looked at, at the most, when a new one comes: so many open circuits in a row are none forgotten for."""

SHOWN = 100
"""Keys in a snapshot, those used last."""


class _Span:
    """The time between two new keys. `end` is known when it has ended."""

    __slots__ = ("end",)

    def __init__(self) -> None:
        self.end = math.inf


class _Entry:
    """What is kept for one key.

    Attributes:
        acts: the gate that decides: in shadow mode the gate's `shadow_queue`, if it has one.
        inside: calls that were admitted, or wait, and have not ended.
        used: when it was used last, as far as anybody read the clock.
        span: in which it was used again after that, or None. Reading the clock at each use would cost more than
            finding the entry.
    """

    __slots__ = ("acts", "gate", "inside", "key", "span", "used")

    def __init__(self, key: Hashable, gate: Gate, now: float) -> None:
        self.key = key
        self.gate = gate
        self.acts = gate.shadow_queue or gate
        self.inside = 0
        self.used = now
        self.span: _Span | None = None

    def idle(self, now: float) -> float:
        """Seconds since its last use, or fewer."""
        return now - (self.used if self.span is None else self.span.end)


class _Order:
    """The order in which keys were used, as far as it is not the table's: one for all that share a table.

    Attributes:
        latest: the entry that was used last.
        span: the time since the latest new key came.
        lock: held while the table changes.
    """

    __slots__ = ("latest", "lock", "span")

    def __init__(self) -> None:
        self.latest: _Entry | None = None
        self.span = _Span()
        self.lock = threading.RLock()


class Keyed(Gate):
    """Keeps one gate for each key.

    Args:
        factory: makes a gate: `lambda: CircuitBreaker(fail_max=5)`, or a class. It is called once right away, to see
            what it makes, and then for each new key; a new gate each time, and always of the same kind.
        key: the key of a call, by the arguments of the call: `lambda host, *rest: host`. Anything hashable will do;
            what it raises, or a key that cannot be hashed, is an error of the caller. A call that must wait has its key
            taken twice.
        max_keys: so many keys are remembered, and beyond them only those with calls inside. Default 1,024. A key takes
            about 1 KB with a CircuitBreaker, Bulkhead or RateLimit, 2 KB with an AdaptiveLimit, besides what the
            key itself takes. It should be more than the keys that are in use within minutes: what a key has used of its
            limit is forgotten with it.
        idle: seconds without a call after which a key may be forgotten. Default 300. Where nothing else reads the clock
            (a count window or a bulkhead, without Timeout), a key counts as used until the next new key comes.
        name: for snapshots; default "Keyed". In errors and events, each gate goes by its own name and its key:
            "CircuitBreaker[eu-1]".
    """

    judgements = frozenset(("key",))
    effects = frozenset(("factory",))

    def __init__(
        self,
        factory: Callable[[], Gate],
        *,
        key: Callable[..., Hashable],
        max_keys: int = 1024,
        idle: float = 300.0,
        name: str | None = None,
    ) -> None:
        if isinstance(factory, Policy):
            raise TypeError(f"factory must make a new gate for each key, got a policy itself: {factory!r}")
        self._factory = factory if inspect.isclass(factory) else arguments.callback("factory", factory)
        self._key = key if inspect.isclass(key) else arguments.callback("key", key)
        self.max_keys = arguments.count("max_keys", max_keys)
        self.idle = arguments.seconds("idle", idle)
        pattern = self._factory()
        if not isinstance(pattern, Gate):
            raise TypeError(f"factory must make a gate (CircuitBreaker, Bulkhead, RateLimit, ...), got {pattern!r}")
        super().__init__(name, shadow=pattern.shadow)
        self._pattern = pattern
        self.judges, self.waits = pattern.judges, pattern.waits
        decides = pattern.shadow_queue or pattern
        self.learns, self.follows = decides.learns, decides.follows
        self.timed, self.dated, self.slow = pattern.timed, pattern.dated, pattern.slow
        self.permits, self.metered = pattern.permits, pattern.metered
        self.longest_wait, self.needs = pattern.longest_wait, pattern.needs  # all keys together have no pace
        self.slow_from, self.raises = pattern.slow_from, pattern.raises
        self._table: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._at_hand = self._table if GIL else {}  # where one may look without the lock
        self._order = pattern.made_for = _Order()
        self._channels: events.Channels = ()

    def found_by(self, key: Callable[..., Hashable]) -> Self:
        """The same gates, found by the keys of another function. (For our transports.)"""
        if key is self._key:
            return self
        twin = copy(self)
        twin._alone = None
        twin._key = key
        twin.given = self.given[0], {**self.given[1], "key": key}
        return twin

    @property
    def pattern(self) -> Gate:
        """The first gate that the factory made, which guards no call: those of the keys are like it."""
        return self._pattern

    # -- the gate -----------------------------------------------------------------------------------------------

    def admit(self, call: Call) -> Ticket | None:
        kwargs = call.kwargs
        try:
            key = self._key(*call.args, **kwargs) if kwargs else self._key(*call.args)
        except Exception as error:
            raise Mistake(error) from None
        try:
            entry = self._at_hand[key]
            entry.inside += 1  # no call between these two: from here on nobody forgets it
        except KeyError:
            entry = self._enter_new(key, call)
        except Exception as error:  # it cannot be hashed
            raise Mistake(error) from None
        else:
            order = self._order
            entry.span = order.span
            if entry is not order.latest:
                self._used_last(entry)
        try:
            ticket = entry.acts.admit(call)
        except BaseException:
            self._leave(entry)
            raise
        if ticket is None:
            self._leave(entry)  # `wait` will enter again
            return None
        return entry, ticket

    async def wait(self, call: Call, scope: Scope) -> Ticket:
        entry = self._enter_new(asked_of(call, self._key), call)
        try:
            return entry, await entry.gate.wait(call, scope)
        except BaseException:
            self._leave(entry)
            raise

    def line_up(self, call: Call, refused: Callable[[Call, Rejected, bool | None], None]) -> Ticket | None:
        entry = self._enter_new(asked_of(call, self._key), call)
        ticket = None
        try:
            ticket = entry.acts.line_up(call, refused)
        finally:
            if ticket is None:
                self._leave(entry)
        return None if ticket is None else (entry, ticket)

    def foretell(self) -> None:
        for entry in self._entries():
            entry.gate.foretell()

    def settle(self, ticket: Ticket, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        entry, inner = ticket
        try:
            entry.acts.settle(inner, failed, elapsed, now, error)
        finally:
            if now is not None:
                entry.used, entry.span = now, None
            if GIL:
                entry.inside -= 1
            else:
                self._leave(entry)

    def cut(self, ticket: Ticket, elapsed: float, now: float, limit: float | None) -> None:
        entry, inner = ticket
        try:
            entry.acts.cut(inner, elapsed, now, limit)
        finally:
            entry.used, entry.span = now, None
            self._leave(entry)

    def release(self, ticket: Ticket) -> None:
        entry, inner = ticket
        try:
            entry.acts.release(inner)
        finally:
            if GIL:
                entry.inside -= 1
            else:
                self._leave(entry)

    def undo(self, ticket: Ticket) -> None:
        entry, inner = ticket
        try:
            entry.acts.undo(inner)
        finally:
            self._leave(entry)

    def withdraw(self, ticket: Ticket) -> Callable[[], None] | None:
        entry, inner = ticket
        try:
            return entry.acts.withdraw(inner)  # type: ignore[no-any-return]
        finally:
            self._leave(entry)

    def giver(self, ticket: Ticket) -> Gate | None:
        entry, inner = ticket
        return entry.acts.giver(inner)  # type: ignore[no-any-return]

    # -- the table ----------------------------------------------------------------------------------------------

    def _enter_new(self, key: Hashable, call: Call) -> _Entry:
        """The entry of a key that is not at hand, for a call: what its hash or the factory raises is a `Mistake`."""
        try:
            return self._enter(key, call.begin().now())
        except Exception as error:
            raise Mistake(error) from None

    def _enter(self, key: Hashable, now: float, calls: int = 1) -> _Entry:
        """The entry of a key, with so many more calls inside; made if there is none."""
        with self._order.lock:
            entry = self._table.get(key)
            if entry is not None:
                return self._used(entry, now, calls)
        gate = self._make(key)  # the user's code: under no lock
        with self._order.lock:
            entry = self._table.get(key)  # another thread may have been quicker
            if entry is None:
                self._make_room(now)
                entry = self._table[key] = _Entry(key, gate, now)
                self._order.span.end = now
                self._order.span = _Span()
                for channel in events.alive(self._channels):
                    gate.attach(channel)
            return self._used(entry, now, calls)

    def _used(self, entry: _Entry, now: float, calls: int) -> _Entry:
        entry.inside += calls
        entry.used, entry.span = now, None
        self._used_last(entry)
        return entry

    def _used_last(self, entry: _Entry) -> None:
        """Put it at the end of the order."""
        self._order.latest = entry
        try:
            self._table.move_to_end(entry.key)
        except KeyError:
            pass  # another thread looks whether it may be forgotten, and will put it there; or it was, by `forget`

    @property
    def _lock(self) -> AbstractContextManager[object]:
        return self._order.lock

    @atomic
    def _leave(self, entry: _Entry) -> None:
        entry.inside -= 1

    def _make_room(self, now: float) -> None:
        """Look at the keys that have stood longest, and forget those that may be; the module says which."""
        table, spared = self._table, list[_Entry]()
        for _ in range(min(LOOKS, len(table))):
            full = len(table) + len(spared) >= self.max_keys
            key, entry = table.popitem(last=False)  # while it is out, nobody can enter
            if not full and entry.idle(now) < self.idle:
                table[key] = entry
                table.move_to_end(key, last=False)
                break
            if entry.inside or entry.gate.steered:
                table[key] = entry
            elif not entry.gate.at_rest:
                spared.append(entry)
        too_many = max(0, len(table) + len(spared) + 1 - self.max_keys)
        for entry in spared[too_many:]:
            table[entry.key] = entry
        if too_many:  # none of them was at rest: their order stays
            for entry in reversed(spared[too_many:]):
                table.move_to_end(entry.key, last=False)

    def _make(self, key: Hashable) -> Gate:
        """A new gate of the same kind as the others, by the name of its key."""
        gate = self._factory()
        if not isinstance(gate, Gate) or _kind(gate) != _kind(self._pattern):
            raise TypeError(f"factory must always make the same kind of gate: first {self._pattern!r}, now {gate!r}")
        with self._order.lock:
            if gate.made_for is self._order:
                raise ValueError(f"factory must make a new gate for each key, got the same {gate!r} again")
            gate.made_for = self._order
        if _is_given_the_same(gate, self._pattern):
            gate.given = self._pattern.given  # one copy for all keys
        gate.name = f"{gate.name}[{arguments.legible(key)}]"
        return gate

    def renew(self) -> None:
        super().renew()
        self._order.lock = threading.RLock()
        self._pattern.renew()
        for key, entry in list(self._table.items()):
            entry.gate.renew()
            new = self._table[key] = _Entry(key, entry.gate, entry.used)  # where nobody is inside
            new.span = entry.span
        self._order.latest = None

    # -- for people ---------------------------------------------------------------------------------------------

    def gate_for(self, key: Hashable) -> Gate:
        """The gate of a key, made if there is none: to look at it, or to steer it by hand."""
        return self._enter(key, current().now(), calls=0).gate

    def forget(self, key: Hashable) -> bool:
        """Forget a key, whatever its state: the next call has a new gate. Calls inside end with the old one.

        Returns whether it was known.
        """
        with self._order.lock:
            return self._table.pop(key, None) is not None

    def attach(self, channel: Channel) -> None:
        with self._order.lock:
            self._channels = events.joined(self._channels, channel)
            for entry in self._entries():
                entry.gate.attach(channel)

    @property
    def at_rest(self) -> bool:
        return all(not entry.inside and entry.gate.at_rest for entry in self._entries())

    @property
    def steered(self) -> bool:
        return any(entry.gate.steered for entry in self._entries())

    def _entries(self) -> list[_Entry]:
        """A copy of the table, used longest ago first."""
        with self._order.lock:
            return members(self._table.values())  # a key that hashes by Python code may let another thread in

    def snapshot(self) -> dict[str, Any]:
        """How many `keys` there are and how many calls are inside (`in_use`); the `gates` of the 100 used last."""
        entries = self._entries()
        shown = entries[: -SHOWN - 1 : -1]
        return {
            "keys": len(entries),
            "max_keys": self.max_keys,
            "idle_seconds": self.idle,
            "in_use": sum(entry.inside for entry in entries),
            "gates": arguments.by_name((entry.gate.name, entry.gate.snapshot()) for entry in shown),
            **self.would_have(),
        }

    def describe(self) -> str:
        settings, colon, _ = self._pattern.describe().partition(": ")  # what follows is the state of the pattern
        return f"Keyed({settings}{')' if colon else ''} for each of up to {self.max_keys} keys, idle {self.idle:g} s)"

    @property
    def noun(self) -> str:
        return f"Keyed({self._pattern.noun})"

    def worst(self, inner: Inside, view: View) -> Worst:
        return self._pattern.worst(inner, view)

    def meets(self, end: End) -> Meeting | None:
        return self._pattern.meets(end)

    def unfit(self, *, is_async: bool, block: bool) -> str | None:
        return self._pattern.unfit(is_async=is_async, block=block)


def _is_given_the_same(gate: Gate, other: Gate) -> bool:
    """Whether two gates were made with the same objects, as they are by one line of code with constants."""
    (args, kwargs), (others, named) = gate.given, other.given
    return (
        len(args) == len(others)
        and kwargs.keys() == named.keys()
        and all(map(is_, args, others))
        and all(value is named[name] for name, value in kwargs.items())
    )


def _kind(gate: Gate) -> tuple[Any, ...]:
    """What the frame of the gates has been written for."""
    return (
        type(gate),
        gate.shadow,
        gate.judges,
        gate.learns,
        gate.waits,
        gate.holds,
        gate.timed,
        gate.dated,
        gate.slow,
    )
