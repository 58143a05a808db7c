"""The state of all pipelines as plain data, for the page and for `/state.json` (the shape is in the docstring of the
package).

Snapshots are read from a thread of the feed, or while a request is answered. A snapshot that raises is an `error` in
its place: one broken policy does not hide the others.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from resilient._validation import in_a_line, legible
from resilient.core.policy import Policy
from resilient.pipeline import Pipeline
from resilient.pipeline.names import named
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.keyed import Keyed, table_of

__all__ = ["GATES", "find", "gates_of", "read_pipelines"]

GATES = 50
"""The most keys of a Keyed in the state."""

DEEPEST, WIDEST, LONGEST = 4, 100, 500
"""The most levels and entries of the snapshot of a policy, and characters of a text in it."""


def read_pipelines() -> dict[str, Any]:
    """Return the state of each named pipeline."""
    return {name: _safely(_pipeline, pipeline) for name, pipeline in named().items()}


def find(pipeline: str, path: str) -> Policy:
    """Return the policy at a path: its number in the pipeline, and after a point its number in a nested one ("2.0");
    "" is the pipeline itself. Raises `LookupError` that names what there is."""
    known = named()
    found: Policy | None = known.get(pipeline)
    if found is None:
        names = ", ".join(map(legible, list(known)[:20])) or "none"
        raise LookupError(
            f"no pipeline is called {legible(pipeline)!r}; there are: {names}{', ...' * (len(known) > 20)}"
        )
    for part in path.split(".") if path else ():
        inner = found.policies if isinstance(found, Pipeline) else ()
        if not (part.isascii() and part.isdigit() and len(part) < 5 and int(part) < len(inner)):
            raise LookupError(f"the pipeline {legible(pipeline)!r} has no policy at {legible(path)!r}")
        found = inner[int(part)]
    return found


def gates_of(keyed: Keyed, wanted: str, most: int) -> dict[str, Any]:
    """Return the gates of the keys of a Keyed that contain the text `wanted` (in any case), by the name of the gate: at
    most `most`; circuits that are not closed first, then in the order of their names."""
    text = wanted.casefold()
    entries = [each for each in table_of(keyed).entries() if not text or text in each.gate.name.casefold()]
    chosen = heapq.nsmallest(most, entries, key=lambda entry: (not _is_notable(entry.gate), entry.gate.name))
    found: dict[str, Any] = {}
    for entry in chosen:
        name = entry.gate.name
        while name in found:  # keys with one text, as 1 and "1"
            name += "'"
        found[name] = {"key": legible(entry.key), **_safely(_policy, entry.gate)}
    return found


def _is_notable(gate: Policy) -> bool:
    return isinstance(gate, CircuitBreaker) and gate.state != "closed"


def _safely(read: Callable[[Any], dict[str, Any]], policy: Any) -> dict[str, Any]:
    try:
        return read(policy)
    except Exception as error:
        return {"error": in_a_line(error)}


def _pipeline(pipeline: Pipeline) -> dict[str, Any]:
    own = pipeline.own_mode
    return {
        "mode": pipeline.mode,
        **({} if own is None else {"own_mode": own}),
        "in_flight": pipeline._in_flight.inside,
        "closed": pipeline._in_flight.closed,
        "policies": {str(at): _node(policy) for at, policy in enumerate(pipeline.policies)},
    }


def _node(policy: Policy) -> dict[str, Any]:
    """Return one policy of a tree."""
    kind = {"kind": type(policy).__name__, "name": policy.name}
    if isinstance(policy, Pipeline):
        return {**kind, **_safely(_pipeline, policy)}
    return {**kind, **_safely(_text, policy), **_safely(_policy, policy)}


def _text(policy: Policy) -> dict[str, Any]:
    text = policy.describe()
    if isinstance(policy, CircuitBreaker):
        text = text.removesuffix(f": {policy.state})") + ")" * text.endswith(f": {policy.state})")
    shadow = {"shadow": True} if getattr(policy, "shadow", False) else {}
    return {"text": text[:LONGEST], **shadow}


def _policy(policy: Policy) -> dict[str, Any]:
    """Return the state of one policy without its name."""
    if isinstance(policy, CircuitBreaker):
        return {"circuit": _circuit(policy.snapshot())}
    if isinstance(policy, Keyed):
        return _keyed(policy)
    return {"now": _plain(policy.snapshot())}


def _circuit(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    left = snapshot["retry_after_seconds"]
    return {
        "state": snapshot["state"],
        "calls": snapshot["calls"],
        "failures": snapshot["failures"],
        "slow": snapshot["slow"],
        "in_a_row": snapshot["failures_in_a_row"],
        "refused": snapshot["refused"] + snapshot["would_have_refused"],
        "probes": snapshot["probes"],
        **({} if left is None else {"probe_at": round(time.time() + left, 1)}),
    }


def _keyed(policy: Keyed) -> dict[str, Any]:
    entries = table_of(policy).entries()
    states: dict[str, int] = {}
    for entry in entries:
        if isinstance(entry.gate, CircuitBreaker):
            state = entry.gate.state
            states[state] = states.get(state, 0) + 1
    return {
        "keys": len(entries),
        "max_keys": policy.max_keys,
        "in_use": sum(entry.inside for entry in entries),
        "states": states,
        "gates": gates_of(policy, "", GATES),
    }


def _plain(value: Any, depth: int = 0) -> Any:
    """Return the snapshot of a policy, which may be the user's, as JSON: bounded, without None, NaN and infinity."""
    if isinstance(value, bool | str):
        return value[:LONGEST] if isinstance(value, str) else value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)[:LONGEST]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    if depth < DEEPEST and isinstance(value, Mapping):
        items = [(str(name)[:LONGEST], each) for name, each in list(value.items())[:WIDEST] if each is not None]
        return {name: _plain(each, depth + 1) for name, each in items}
    if depth < DEEPEST and isinstance(value, list | tuple):
        return ["-" if each is None else _plain(each, depth + 1) for each in value[:WIDEST]]
    return legible(value)
