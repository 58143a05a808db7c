"""The parts of an error that a trace keeps: the name of its class, and the few facts by which it is classified.

A name is `module:Qualified.Name`, as in files of faults; Python's own exceptions have no module. A fact is a number, a
flag or a code of a known vocabulary, under the path of the attribute that had it:

    {"response.status_code": 503, "retry_after": 2.0}     an HTTP status, and the pause that was asked for
    {"sqlstate": "40001"}, {"pgcode": "23505"}            a state of SQL
    {"code()": "UNAVAILABLE", "pushback_ms": -1}          grpc
    {"response.Error.Code": "SlowDown"}                   botocore
    {"args.0": "LOADING"}                                 redis, or the status that a proxy has refused with
    {"errno": 104}, {"evidence": false}                   an OSError; a TimedOut whose time went by in local queues
    {"certificate": true}                                 its cause is a certificate that does not verify

No text of an error is a fact: messages, URLs, header fields and bodies may hold secrets. `resilient.core.known_errors`
reads the same attributes; `resilient.lab.recorded_errors` puts the facts back.
"""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from types import ModuleType
from typing import Any, cast

from resilient.core.classify import asked_to_wait
from resilient.core.known_errors import GRPC, ILL_REDIS, has_only_message, is_untrusted, pushback_ms, read_of, reader_of
from resilient.core.pushback import FAILURE_STATUSES, LONGEST_PAUSE
from resilient.core.verdict import pause_of
from resilient.errors import TimedOut, is_group, leaves

__all__ = [
    "Evidence",
    "Fact",
    "as_json",
    "class_named",
    "evidence_from",
    "evidence_of",
    "is_findable",
    "lineage",
    "module_of",
    "qualified_name",
]

Fact = bool | int | float | str

LONGEST_NAME = 200
"""The most characters of the name of a class."""

LONGEST_LINEAGE = 12
"""The most base classes that are listed for a class."""

ANSWERS = frozenset(
    {"response.status_code", "response.status", "status_code", "status", "response.ResponseMetadata.HTTPStatusCode"}
)
"""The facts that only errors with a response have. Such an error may have header fields."""

MOST_LEAVES = 10
"""The most different errors of a group that are listed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The facts by which a classifier can classify an error, or a result that is a failure.

    Attributes:
        facts: pairs of a path and the value that was found there, as in this module's docstring.
        leaves: of a group of errors: the name and the evidence of each different error in it, nested groups resolved.
    """

    facts: tuple[tuple[str, Fact], ...] = ()
    leaves: tuple[tuple[str, Evidence | None], ...] = ()


# -- names ----------------------------------------------------------------------------------------------------------


def qualified_name(kind: type[BaseException]) -> str:
    """Return the name of a class of exceptions. Characters that cannot be printed are replaced, and a long name is cut.

    A class of the program's main module has the module's name as others import it.
    """
    return _qualified_name(cast("Any", kind))


@lru_cache(1_000)
def _qualified_name(kind: Any) -> str:
    module, qualified = module_of(kind), type.__dict__["__qualname__"].__get__(kind)
    if module == "__main__":
        module = _main()
    name = qualified if module == "builtins" else f"{module}:{qualified}"
    return "".join(each if each.isprintable() else "_" for each in name[:LONGEST_NAME])


def module_of(kind: type) -> str:
    """Return the module of a class, whatever its metaclass says; "?" where it has none."""
    module = type.__dict__["__module__"].__get__(kind)
    return module if isinstance(module, str) else "?"


def _main() -> str:
    """Return the name by which other modules import the main module: its name with `python -m`, or as a file;
    `__main__` without either."""
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return PurePath(file).stem if isinstance(file, str) else "__main__"


def class_named(name: str) -> type[BaseException] | None:
    """Return the class of exceptions with this name in a module that is imported already, or None.

    It imports nothing, and runs no code of modules and classes: it reads only their own dictionaries.
    """
    module, _, qualified = name.rpartition(":")
    return _class_in(module or "builtins", qualified)


def _class_in(module: str, qualified: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    if not isinstance(found, ModuleType):
        return None
    names: Mapping[str, Any] = ModuleType.__getattribute__(found, "__dict__")
    for part in qualified.split("."):
        found = names.get(part)
        if not isinstance(found, type):
            return None
        names = type.__dict__["__dict__"].__get__(found)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def is_findable(kind: type[BaseException]) -> bool:
    """Whether the name of a class leads to this class: not so for a class in a function, or where another class has the
    name."""
    return _class_in(module_of(kind), type.__dict__["__qualname__"].__get__(kind)) is kind


def lineage(kind: type[BaseException]) -> list[str]:
    """Return the names of the base classes of a class up to `Exception`, in the order in which attributes are looked
    up."""
    above = kind.__mro__[1:]
    found = [qualified_name(each) for each in above if issubclass(each, Exception) and is_findable(each)]
    return [each for each in found if each != "Exception"][:LONGEST_LINEAGE]


# -- facts ----------------------------------------------------------------------------------------------------------


def evidence_of(error: Any) -> Evidence | None:
    """Return what is known of an exception, or of a result that failed, beyond its class; None: nothing."""
    kind: Any = type(error)
    if is_group(kind):
        different = {(qualified_name(type(each)), evidence_of(each)): None for each in leaves(error)}
        return Evidence(leaves=tuple(different)[:MOST_LEAVES])
    found: dict[str, Fact] = {}
    try:
        own = vars(error)
    except Exception:  # it has none
        own = {}
    paths = _paths_of(kind)
    if own:
        paths = tuple(path for path in CHECKS if path in paths or path.partition(".")[0] in own)
    for path in paths:
        try:
            fact = CHECKS[path](_at(error, path))
        except Exception:  # an attribute that is not there, or that raises, says nothing
            continue
        if fact is not None:
            found[path] = fact
    if not ANSWERS.isdisjoint(found) and "retry_after" not in found and (asked := _asked_by(error)) is not None:
        found["retry_after"] = asked
    return Evidence(tuple(found.items())) if found else None


@lru_cache(1_000)
def _paths_of(kind: Any) -> tuple[str, ...]:
    """Return the paths of the facts that errors of a class can have, as far as the class shows them."""
    names = {name for each in kind.__mro__ for name in vars(each)}
    libraries = {module_of(each).partition(".")[0] for each in kind.__mro__}
    special = {
        "code()": "grpc" in libraries,
        "pushback_ms": "grpc" in libraries,
        "args.0": "redis" in libraries or any(each.__name__ == "ProxyError" for each in kind.__mro__),
        "evidence": issubclass(kind, TimedOut),
        "certificate": issubclass(kind, Exception),
    }
    any_name = "__getattr__" in names
    return tuple(path for path in CHECKS if special.get(path, any_name or path.partition(".")[0] in names))


def _at(error: Any, path: str) -> Any:
    """Return the value that an error has at a path of `CHECKS`. Raises an exception where it has none."""
    match path:
        case "retry_after":
            asked = asked_to_wait(error)
            return None if asked is None else round(asked, 3)
        case "code()":
            return error.code().name
        case "pushback_ms":
            return pushback_ms(error)
        case "args.0":
            return str(error.args[0]).partition(" ")[0]
        case "certificate":
            return (isinstance(error, ssl.SSLError) or not has_only_message(error)) and is_untrusted(error)
    found = error
    for name in path.split("."):
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    return found


def _asked_by(error: Any) -> float | None:
    """Return the seconds that the response in an error asks for in its header fields; None: it asks for no pause."""
    verdict = read_of(reader_of(type(error)), error, FAILURE_STATUSES) if isinstance(error, Exception) else None
    asked = None if verdict is None else verdict.retry_after
    return None if asked is None else round(asked, 3)


def _whole(least: int, most: int) -> Callable[[Any], Fact | None]:
    def check(value: Any) -> Fact | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return int(value) if fits else None

    return check


def _text(pattern: str, known: Collection[str] = ()) -> Callable[[Any], Fact | None]:
    def check(value: Any) -> Fact | None:
        return value if isinstance(value, str) and (value in known or re.fullmatch(pattern, value)) else None

    return check


def _seconds(value: Any) -> Fact | None:
    asked = pause_of(value)
    return asked if asked is None or asked <= LONGEST_PAUSE else None


_STATUS = _whole(100, 599)
_STATE = _text("[0-9A-Za-z]{5}")

CHECKS: Mapping[str, Callable[[Any], Fact | None]] = {
    "response.status_code": _STATUS,
    "response.status": _STATUS,
    "response.Error.Code": _text("[0-9A-Za-z.]{1,80}"),
    "response.ResponseMetadata.HTTPStatusCode": _STATUS,
    "status_code": _STATUS,
    "status": _STATUS,
    "sqlstate": _STATE,
    "pgcode": _STATE,
    "errno": _whole(0, 1_000_000),
    "code()": _text("(?!)", GRPC),
    "pushback_ms": _whole(-1, int(1000 * LONGEST_PAUSE)),
    "args.0": _text("[1-5][0-9]{2}", ILL_REDIS),
    "retry_after": _seconds,
    "evidence": lambda value: False if value is False else None,
    "certificate": lambda value: True if value is True else None,
}
"""For each path, a function that returns a value as a fact, or None if the value cannot be one."""


# -- in files -------------------------------------------------------------------------------------------------------


def as_json(evidence: Evidence | None) -> dict[str, Any]:
    """Return evidence as fields of a line of a trace."""
    data: dict[str, Any] = {}
    if evidence is not None and evidence.facts:
        data["has"] = dict(evidence.facts)
    if evidence is not None and evidence.leaves:
        data["of"] = [{"e": name, **as_json(each)} for name, each in evidence.leaves]
    return data


def evidence_from(line: Mapping[str, Any], *, in_group: bool = False) -> Evidence | None:
    """Return the evidence that `as_json` has put into a line. Raises `ValueError` that names the field and the
    value."""
    facts, members = line.get("has"), None if in_group else line.get("of")
    if facts is None and members is None:
        return None
    if not isinstance(facts, dict | None):
        raise ValueError(f"has must be an object, got {facts!r}")
    found = []
    for path, value in (facts or {}).items():
        fact = CHECKS[path](value) if path in CHECKS else None
        if fact is None:
            raise ValueError(f"has may not have {path!r}: {value!r}")
        found.append((path, fact))
    return Evidence(tuple(found), tuple(map(_leaf, _members(members))))


def _members(members: Any) -> list[Any]:
    if members is None:
        return []
    if not isinstance(members, list) or len(members) > MOST_LEAVES:
        raise ValueError(f"of must be a list of up to {MOST_LEAVES} errors, got {members!r}")
    return members


def _leaf(each: Any) -> tuple[str, Evidence | None]:
    if not isinstance(each, dict) or not isinstance(name := each.get("e"), str):
        raise ValueError(f"of must be a list of errors, each with its e, got {each!r}")
    return name, evidence_from(each, in_group=True)
