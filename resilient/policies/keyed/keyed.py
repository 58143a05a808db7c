"""Keyed: one circuit, one bulkhead or one limit for each host or tenant, evicted when idle.

A dependency often has many parts: the shards behind one client, the tenants of one API. One circuit for all of them
opens for the nine healthy parts when the tenth fails. So a key is computed from the arguments of each call, and each
key has its own gate, made when it is first needed.

The number of keys is bounded, since keys often come from outside; `resilient.policies.keyed.key_table` has the rules of
eviction.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, Self

from resilient import _validation
from resilient._atomic import GIL
from resilient.core.call import Call
from resilient.core.callbacks import CallbackError, ask_about_call
from resilient.core.context import PipelineContext
from resilient.core.gate import Gate, Ticket
from resilient.core.policy import Policy
from resilient.core.worst_case import Ending, InnerCost, Reaction, Surroundings, WorstCase
from resilient.errors import Rejected
from resilient.events import Channel
from resilient.policies.keyed.key_table import Entry, KeyTable
from resilient.runtime import current

__all__ = ["Keyed"]

SHOWN = 100
"""Keys in a snapshot: those used most recently."""


class Keyed(Gate, judgements=("key",), effects=("factory",)):
    """Keeps one gate for each key.

    Args:
        factory: makes a gate: `lambda: CircuitBreaker(fail_max=5)`, or a class. It is called once at once, to learn the
            kind of gate, and then for each new key. It must return a new gate each time, always of the same kind.
        key: a function of the call's arguments that returns the call's key: `lambda host, *rest: host`. Any hashable
            key is allowed. An error that it raises, or a key that cannot be hashed, is an error of the caller. For a
            call that must wait it is called twice.
        max_keys: the number of keys that are kept; more only while they have calls inside. Default 1,024. A key takes
            about 1 KB with a CircuitBreaker, Bulkhead or RateLimit, 2 KB with an AdaptiveLimit, besides the memory of
            the key itself. Choose more than the number of keys in use within minutes: an evicted key loses the state of
            its limit.
        idle: seconds without a call after which a key may be evicted. Default 300. Where nothing else reads the clock
            (a count window or a bulkhead, without Timeout), a key counts as used until the next new key comes.
        name: for snapshots; default "Keyed". In events, each gate has its own name and its key:
            "CircuitBreaker[eu-1]". In errors these are two attributes, `policy` and `key`.
    """

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
        make: Any = factory if inspect.isclass(factory) else _validation.callback("factory", factory)
        self._key = key if inspect.isclass(key) else _validation.callback("key", key)
        self.max_keys = _validation.count("max_keys", max_keys)
        self.idle = _validation.seconds("idle", idle)
        pattern = make()
        if not isinstance(pattern, Gate):
            raise TypeError(f"factory must make a gate (CircuitBreaker, Bulkhead, RateLimit, ...), got {pattern!r}")
        super().__init__(name, shadow=pattern.shadow)
        self._pattern = pattern
        """The first gate that the factory made. It guards no call; the gates of the keys are like it."""
        decides = (pattern._shadow_queue or pattern).facts
        self.facts = replace(
            pattern.facts,
            learns=decides.learns,
            follows=decides.follows,
            holds=True,  # the entry of the key
            pace=None,  # all keys together have none
        )
        self._keys = KeyTable(make, self.name, pattern, self.max_keys, self.idle)

    def _found_by(self, key: Callable[..., Hashable]) -> Self:
        """A copy of this policy that shares its gates, and finds them by the keys of another function. (The HTTP
        transports use this.)"""
        if key is self._key:
            return self
        derived = self._derived(key=key)
        derived._key = key
        return derived

    # -- the gate -----------------------------------------------------------------------------------------------

    def admit(self, call: Call) -> Ticket | None:
        kwargs, keys = call.kwargs, self._keys
        try:
            key = self._key(*call.args, **kwargs) if kwargs else self._key(*call.args)
        except Exception as error:
            raise CallbackError(error) from None
        try:
            entry = keys.lock_free[key]
            entry.inside += 1  # no call between these two lines: from here on it is not evicted
        except KeyError:
            entry = self._enter(key, call)
        except Exception as error:  # it cannot be hashed
            raise CallbackError(error) from None
        else:
            entry.span = keys.span
            if entry is not keys.latest:
                keys.move_to_end(entry)
        try:
            ticket = entry.decides.admit(call)
        except BaseException as error:
            self._keys.leave(entry)
            if isinstance(error, Rejected):
                entry.name_refusal(error)
            raise
        if ticket is None:
            self._keys.leave(entry)  # `wait` will enter again
            return None
        return entry, ticket

    async def wait(self, call: Call, context: PipelineContext) -> Ticket:
        entry = self._enter(ask_about_call(call, self._key), call)
        try:
            return entry, await entry.gate.wait(call, context)
        except BaseException as error:
            self._keys.leave(entry)
            if isinstance(error, Rejected):
                entry.name_refusal(error)
            raise

    def _enqueue(self, call: Call, refused: Callable[[Call, Rejected, bool | None], None]) -> Ticket | None:
        entry = self._enter(ask_about_call(call, self._key), call)
        ticket = None
        try:
            ticket = entry.decides._enqueue(call, refused)
        except Rejected as error:
            entry.name_refusal(error)
            raise
        finally:
            if ticket is None:
                self._keys.leave(entry)
        return None if ticket is None else (entry, ticket)

    def _report_queued(self) -> None:
        for entry in self._keys.entries():
            entry.gate._report_queued()

    def settle(self, ticket: Ticket, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        entry, inner = ticket
        try:
            entry.decides.settle(inner, failed, elapsed, now, error)
        finally:
            if now is not None:
                entry.used, entry.span = now, None
            if GIL:
                entry.inside -= 1
            else:
                self._keys.leave(entry)

    def _cut(self, ticket: Ticket, elapsed: float, now: float, limit: float | None) -> None:
        entry, inner = ticket
        try:
            entry.decides._cut(inner, elapsed, now, limit)
        finally:
            entry.used, entry.span = now, None
            self._keys.leave(entry)

    def release(self, ticket: Ticket) -> None:
        entry, inner = ticket
        try:
            entry.decides.release(inner)
        finally:
            if GIL:
                entry.inside -= 1
            else:
                self._keys.leave(entry)

    def undo(self, ticket: Ticket) -> None:
        entry, inner = ticket
        try:
            entry.decides.undo(inner)
        finally:
            self._keys.leave(entry)

    def _withdraw(self, ticket: Ticket) -> Callable[[], None] | None:
        entry, inner = ticket
        try:
            return entry.decides._withdraw(inner)  # type: ignore[no-any-return]
        finally:
            self._keys.leave(entry)

    def _giver(self, ticket: Ticket) -> Gate | None:
        entry, inner = ticket
        return entry.decides._giver(inner)  # type: ignore[no-any-return]

    def _enter(self, key: Hashable, call: Call) -> Entry:
        """The entry of a key that the look-up without a lock did not find. Raises `CallbackError` for an error of the
        key's hash or of the factory."""
        try:
            return self._keys.enter(key, call.begin().now())
        except Exception as error:
            raise CallbackError(error) from None

    @property
    def _refuses_as(self) -> str:
        return self._pattern._refuses_as

    def _renew(self) -> None:
        super()._renew()
        self._keys.renew()

    def _key_text(self, call: Call) -> str:
        key, inner = _validation.legible(ask_about_call(call, self._key)), self._pattern._key_text(call)
        return f"{key}, {inner}" if inner else key

    # -- for people ---------------------------------------------------------------------------------------------

    def gate_for(self, key: Hashable) -> Gate:
        """The gate of a key, made if there is none: to inspect it, or to control it by hand."""
        return self._keys.enter(key, current().now(), calls=0).gate

    def forget(self, key: Hashable) -> bool:
        """Remove a key in any state: its next call gets a new gate. Calls inside end with the old one.

        Returns whether the key was there.
        """
        return self._keys.forget(key)

    def _attach(self, channel: Channel) -> None:
        self._keys._attach(channel)

    @property
    def _at_rest(self) -> bool:
        return all(not entry.inside and entry.gate._at_rest for entry in self._keys.entries())

    @property
    def _set_by_hand(self) -> bool:
        return any(entry.gate._set_by_hand for entry in self._keys.entries())

    def snapshot(self) -> dict[str, Any]:
        """The number of `keys`, and of calls inside (`in_use`); the `gates` of the 100 keys used most recently."""
        entries = self._keys.entries()
        shown = entries[: -SHOWN - 1 : -1]
        return {
            "keys": len(entries),
            "max_keys": self.max_keys,
            "idle_seconds": self.idle,
            "in_use": sum(entry.inside for entry in entries),
            "gates": _validation.by_name((entry.gate.name, entry.gate.snapshot()) for entry in shown),
            **self._shadow_counts(),
        }

    def describe(self) -> str:
        settings, colon, _ = self._pattern.describe().partition(": ")  # what follows is the state of the pattern
        return f"Keyed({settings}{')' if colon else ''} for each of up to {self.max_keys} keys, idle {self.idle:g} s)"

    @property
    def _noun(self) -> str:
        return f"Keyed({self._pattern._noun})"

    def _unfit(self, *, is_async: bool, block: bool) -> str | None:
        return self._pattern._unfit(is_async=is_async, block=block)

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        return self._pattern.worst(inner, around)

    def meets(self, end: Ending) -> Reaction | None:
        return self._pattern.meets(end)


def table_of(keyed: Keyed) -> KeyTable:
    """The table of the keys of a policy and their gates, for code that reads all of them: metrics, health, the live
    page."""
    return keyed._keys
