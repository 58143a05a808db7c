"""Differences between two states, as JSON merge patches (RFC 7396): what has changed, and null for what is gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["apply", "difference"]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch that makes `new` of `old`: plain data without None. It is empty if they are equal."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for name, value in new.items():
        before = old.get(name)
        if before is value or before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            patch[name] = difference(before, value)
        else:
            patch[name] = value
    return patch


def apply(state: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state after a change that `difference` made, as a new dict. `state` stays as it is."""
    changed = dict(state)
    for name, value in change.items():
        if value is None:
            changed.pop(name, None)
        elif isinstance(value, dict):
            before = changed.get(name)
            changed[name] = apply(before if isinstance(before, dict) else {}, value)
        else:
            changed[name] = value
    return changed
