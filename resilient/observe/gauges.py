"""The gauges of policies for metrics, read from their snapshots.

`Policy.snapshot` returns the state of a policy as plain data. A gauge is one of its values, found by its name in the
snapshot; so a policy of a user with such values has gauges, too. The gates of a `Keyed` are read key by key.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator
from typing import Any

from resilient import _validation
from resilient._atomic import module_lock
from resilient.core.policy import Policy
from resilient.policies.breaker.circuit import CLOSED, HALF_OPEN, ISOLATED, OPEN
from resilient.policies.keyed import Keyed, table_of
from resilient.policies.keyed.key_table import Entry, KeyTable
from resilient.runtime import current

__all__ = ["OTHER_KEY", "Gauge", "gauges_of"]

Gauge = tuple[str, str, tuple[str, ...], float]
"""The name of the metric without "resilient."; the key of a `Keyed`, or ""; values of further labels; the value."""

OTHER_KEY = "other"
"""The label of the keys that have no series of their own."""

STATES = (CLOSED, OPEN, HALF_OPEN, ISOLATED)

NAMES = {
    "in_use": "permits.in_use",
    "max_concurrent": "permits.limit",
    "limit": "permits.limit",
    "in_flight": "permits.in_use",
    "queued": "queue.length",
    "queue": "queue.limit",
    "tokens": "tokens",
    "stragglers": "stragglers",
    "abandoned": "stragglers",
}
"""The metrics of numbers in a snapshot, by their names in it."""


def gauges_of(policy: Policy, keys: int) -> Iterator[Gauge]:
    """The gauges of a policy now.

    `keys`: the most keys of a `Keyed` that are named; the others have the key "other". With 0 no key is named.
    """
    if isinstance(policy, Keyed):
        yield from _of_keys(policy, keys)
    else:
        yield from _of_one(policy, "")


def _of_keys(policy: Keyed, keys: int) -> Iterator[Gauge]:
    entries = table_of(policy).entries()
    yield "keys", "", (), len(entries)
    named = _named_keys(table_of(policy), entries, keys)
    if keys:
        yield "keys.hidden", "", (), len(entries) - len(named)
    other = OTHER_KEY if keys else ""
    for entry in entries:
        yield from _of_one(entry.gate, _validation.legible(entry.key) if entry.key in named else other)


def _of_one(policy: Policy, key: str) -> Iterator[Gauge]:
    snapshot = policy.snapshot()
    for name, metric in NAMES.items():
        value = snapshot.get(name)
        if isinstance(value, int | float):
            yield metric, key, (), value
    if (state := snapshot.get("state")) in STATES:
        for each in STATES:
            yield "circuit.state", key, (each,), int(state == each)
        calls = snapshot.get("calls", 0)
        yield "circuit.failure_rate", key, (), snapshot.get("failures", 0) / calls if calls else 0.0
    delays = [each["delays"] for each in snapshot.get("observed", {}).values()] + [snapshot.get("delays") or [None]]
    known = [delay[0] for delay in delays if delay[0] is not None]
    if known:
        yield "hedge.delay", key, (), max(known)
    if (budget := policy.facts.budget) is not None:
        now = current().now()
        yield "budget.tokens", key, (), min(each.balance(now) for each in budget.each.copy().values() or (budget,))


_lock = module_lock()
_named: weakref.WeakKeyDictionary[KeyTable, dict[int, dict[Hashable, None]]] = weakref.WeakKeyDictionary()
"""For each table of keys, and each number of keys that an exporter names: the keys."""


def _named_keys(table: KeyTable, entries: list[Entry], keys: int) -> dict[Hashable, None]:
    """The keys that are named: those that have been named before, as long as the table has them, because a series
    should go on; then the keys used most recently."""
    if not keys:
        return {}
    there = {entry.key: None for entry in reversed(entries)}
    with _lock:
        by_number: dict[int, Any] = _named.setdefault(table, {})
        named = {key: None for key in by_number.get(keys, ()) if key in there}
        for key in there:
            if len(named) >= keys:
                break
            named[key] = None
        by_number[keys] = named
    return named
