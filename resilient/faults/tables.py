"""Faults from plain data: the tables of a scenario file or of the demo's plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields

from resilient import _validation
from resilient.faults.fault import Fault
from resilient.faults.kinds import KINDS

__all__ = ["fault_from", "faults_from"]


def fault_from(data: object, where: str = "fault", kinds: Iterable[type[Fault]] = tuple(KINDS.values())) -> Fault:
    """A fault from plain data.

    Args:
        data: a mapping with the fault's `kind` and its arguments.
        where: its name in messages: `"faults[2]"`.
        kinds: the kinds that are allowed. Default: all.

    Raises `ValueError` or `TypeError`, in one line that names the wrong key and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"{where} must be a table with a kind, got {data!r}")
    known = {each.kind: each for each in kinds}
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in known:
        got = f", got {kind!r}" if "kind" in data else ": it is missing"
        raise ValueError(f"{where}.kind must be one of {', '.join(sorted(known))}{got}{_validation.meant(kind, known)}")
    cls = known[kind]
    keys = {field.name: field for field in fields(cls)}
    values = {key: value for key, value in data.items() if key != "kind"}
    for key in values:
        if key not in keys:
            raise ValueError(
                f"{where} has no {key!r}: {kind} may have {', '.join(sorted(keys))}{_validation.meant(key, keys)}"
            )
    for name, field in keys.items():
        if field.default is MISSING and name not in values:
            raise ValueError(f"{where}.{name} is missing: {kind} needs it")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}.{error}") from None


def faults_from(
    data: object, where: str = "faults", kinds: Iterable[type[Fault]] = tuple(KINDS.values())
) -> tuple[Fault, ...]:
    """Faults from plain data: a list of tables as `fault_from` reads them. Messages count the faults from 0."""
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise TypeError(f"{where} must be a list of tables, got {data!r}")
    kinds = tuple(kinds)
    return tuple(fault_from(each, f"{where}[{number}]", kinds) for number, each in enumerate(data))
