"""The errors of a trace, made again: instances of the very classes that were raised, where those are loaded.

A trace names classes, `module:Qualified.Name`. A name is looked up among the modules that are imported already, as
those of a candidate's code are; nothing is imported because a trace names it, and no attribute is asked of anything.
Where it is not found, or is not that class (it was made in a function, or its `__module__` was that of another), a new
class stands in: with the same name and module, below those classes of the original that are found, so `on=(OSError,)`
matches an `app:Busy` that was one. `resilient.known_errors` knows it by its name all the same.

Real ones are made of a message, and where they need more, without their constructor. Then they get the facts that the
trace has of them (`resilient.observe.evidence`): a status, a pause, a code, where the original had it.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

from resilient.groups import is_group
from resilient.known_errors import PUSHBACK
from resilient.observe.evidence import Evidence, Fact, class_named, module_of, qualified_name
from resilient.observe.traced import TracedKind

__all__ = ["RecordedError", "StandIns"]


class RecordedError(Exception):
    """Above all classes that stand in for one of a trace."""


class StandIns:
    """Makes the errors of a trace, by what is loaded now.

    Args:
        kinds: what the trace knows of their classes, by name.
    """

    def __init__(self, kinds: Mapping[str, TracedKind]) -> None:
        self._known = kinds
        self._classes: dict[str, type[Exception]] = {}

    def named(self, name: str) -> type[Exception]:
        """The class with this name in the trace: itself, or one that stands in for it."""
        if name not in self._classes:
            known = self._known.get(name, TracedKind())
            found = None if known.local else _raisable(name)
            self._classes[name] = found or _new_class(name, known)
        return self._classes[name]

    def stands_in(self, name: str) -> bool:
        """Whether the class with this name is not itself."""
        return issubclass(self.named(name), RecordedError)

    def error(self, name: str, evidence: Evidence | None = None) -> Exception:
        """A new error of this class, with what is known of it."""
        kind = self.named(name)
        facts, leaves = (evidence.facts, evidence.leaves) if evidence is not None else ((), ())
        if leaves or is_group(kind):
            return _group(kind, [self.error(leaf, about) for leaf, about in leaves] or [RecordedError(WORDS)])
        return with_facts(kind, dict(facts)) if facts else _plain(kind, WORDS)


WORDS = "recorded in a trace"


def _raisable(name: str) -> type[Exception] | None:
    """The class with this name, if it is loaded, and one that a future and a coroutine can end with."""
    kind = class_named(name)
    if kind is None or not issubclass(kind, Exception) or issubclass(kind, StopIteration):
        return None
    return None if module_of(kind).startswith("resilient.lab.") else kind  # the world would take them for its own


def _new_class(name: str, known: TracedKind) -> type[Exception]:
    """A class that stands in: below those above the original that are found, or below new ones with their names."""
    bases: tuple[type[Exception], ...] = (RecordedError,)
    for above in reversed(known.above):
        real = _raisable(above)
        if real is None:
            bases = (_subclass(above, bases),)
        elif not issubclass(bases[0], real):
            bases = (real, *(each for each in bases if not issubclass(real, each)))
    return _subclass(name, bases)


def _subclass(name: str, bases: tuple[type[Exception], ...], **attributes: Any) -> type[Exception]:
    module, _, qualified = name.rpartition(":")
    legible = "".join(each if each.isprintable() else "_" for each in qualified) or "_"
    names = {"__module__": module or RecordedError.__module__, "__qualname__": legible, **attributes}
    try:
        return type(legible.rpartition(".")[2] or "_", bases, names)
    except Exception:  # classes that do not go together, or that mind being inherited from
        return type(legible.rpartition(".")[2] or "_", (RecordedError,), names)


def _group(kind: type[Exception], errors: list[Exception]) -> Exception:
    """A group of its class, if that is one and made as groups are; else of Python's own."""
    try:
        made: Any = kind(WORDS, errors)
    except Exception:  # it has a constructor of its own
        made = None
    return made if isinstance(made, ExceptionGroup) else ExceptionGroup(WORDS, errors)


# -- with facts -----------------------------------------------------------------------------------------------------


def with_facts(kind: type[Exception], facts: Mapping[str, Fact]) -> Exception:
    """An error of a class, or of a subclass of it where it lets an attribute not be set, with facts."""
    first = facts.get("args.0")
    message = WORDS if first is None else f"{first} {WORDS}"
    attributes = _attributes(facts)
    made = _plain(kind, message)
    fixed = {name: value for name, value in attributes.items() if not _set(made, name, value)}
    if fixed:
        made = _plain(_subclass(qualified_name(kind), (kind,), **fixed), message)
        for name, value in attributes.items():
            _set(made, name, value)
    if "certificate" in facts:
        made.__cause__ = ssl.SSLCertVerificationError(WORDS)
    return made


def _plain(kind: type[Exception], message: str) -> Exception:
    try:
        made = kind(message)
        if type(made) is kind:
            return made
    except Exception:  # it is made of something else
        pass
    if "__getattr__" in {name for each in kind.__mro__ for name in vars(each)}:  # it may look for what is not there
        kind = _subclass(qualified_name(kind), (kind,), __getattr__=_has_none)
    base: Any = next(each for each in kind.__mro__ if module_of(each) == "builtins")
    bare: Exception = base.__new__(kind, message)
    return bare


def _has_none(error: Exception, name: str) -> Any:
    raise AttributeError(name)


def _set(error: Exception, name: str, value: Any) -> bool:
    """Whether the error has this attribute now, or had it already."""
    with suppress(Exception):
        setattr(error, name, value)
    with suppress(Exception):
        return bool(getattr(error, name) == value)
    return False


def _attributes(facts: Mapping[str, Fact]) -> dict[str, Any]:
    """Facts as attributes of an error, the parts of a response put together."""
    found: dict[str, Any] = {}
    about, answer = {}, {}
    for path, value in facts.items():
        if path == "response.Error.Code":
            about["Code"] = value
        elif path == "response.ResponseMetadata.HTTPStatusCode":
            answer["HTTPStatusCode"] = value
        elif path.startswith("response."):
            found.setdefault("response", SimpleNamespace(headers={}))
            setattr(found["response"], path.partition(".")[2], value)
        elif path == "code()":
            found["code"] = partial(_identity, _status_code(str(value)))
            found.setdefault("trailing_metadata", tuple)
        elif path == "pushback_ms":
            found["trailing_metadata"] = partial(_identity, ((PUSHBACK, str(value)),))
        elif path not in ("args.0", "certificate"):
            found[path] = value
    if about or answer:
        found["response"] = {"Error": about, "ResponseMetadata": answer}
    elif "response" in found and "retry_after" in found:
        found["response"].headers["retry-after"] = f"{found['retry_after']:g}"
    return found


def _identity(value: Any) -> Any:
    return value


def _status_code(name: str) -> Any:
    """grpc's own code, where grpc is loaded."""
    codes = getattr(sys.modules.get("grpc"), "StatusCode", None)
    return getattr(codes, name, None) or SimpleNamespace(name=name)
