"""The errors of a trace as exceptions: instances of the classes that were raised, if these are loaded.

A trace names classes, `module:Qualified.Name`. A name is looked up among the imported modules, such as those of a
candidate's code; a trace never causes an import, and no attribute of an object is read. If the name is not found, or
belongs to another class (the original was made in a function, or its `__module__` was changed), a new class is the
substitute. It has the same name and module, and inherits from those base classes of the original that are found, so
`on=(OSError,)` matches an `app:Busy` that was an `OSError`. `resilient.core.known_errors` still recognises it, by its
name.

An original class is called with a message, or bypasses its constructor if that needs more. Its instances then get the
facts that the trace has of the error (`resilient.observe.evidence`): a status, a pause, a code, at the same attributes
as in the original.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

from resilient.core.known_errors import PUSHBACK
from resilient.errors import is_group
from resilient.observe.evidence import Evidence, Fact, class_named, module_of, qualified_name
from resilient.observe.trace_records import TracedKind

__all__ = ["ErrorClasses", "RecordedError"]


class RecordedError(Exception):
    """The base class of all substitutes for classes of a trace."""


class ErrorClasses:
    """The classes of the errors of a trace, and new instances of them.

    Args:
        kinds: the recorded facts about the classes, by name.
    """

    def __init__(self, kinds: Mapping[str, TracedKind]) -> None:
        self._known = kinds
        self._classes: dict[str, type[Exception]] = {}

    def named(self, name: str) -> type[Exception]:
        """The class with this name in the trace, or its substitute."""
        if name not in self._classes:
            known = self._known.get(name, TracedKind())
            found = None if known.local else _raisable(name)
            self._classes[name] = found or _new_class(name, known)
        return self._classes[name]

    def is_substitute(self, name: str) -> bool:
        """Whether the class with this name is a substitute."""
        return issubclass(self.named(name), RecordedError)

    def error(self, name: str, evidence: Evidence | None = None) -> Exception:
        """A new error of the class with this name, with the recorded evidence."""
        kind = self.named(name)
        facts, leaves = (evidence.facts, evidence.leaves) if evidence is not None else ((), ())
        if leaves or is_group(kind):
            return _group(kind, [self.error(leaf, about) for leaf, about in leaves] or [RecordedError(WORDS)])
        return with_facts(kind, dict(facts)) if facts else _plain(kind, WORDS)


WORDS = "recorded in a trace"


def _raisable(name: str) -> type[Exception] | None:
    """The class with this name, if it is loaded and can end a future and a coroutine; else None."""
    kind = class_named(name)
    if kind is None or not issubclass(kind, Exception) or issubclass(kind, StopIteration):
        return None
    return None if module_of(kind).startswith("resilient.lab.") else kind  # the world treats these as its own


def _new_class(name: str, known: TracedKind) -> type[Exception]:
    """A substitute: it inherits from the base classes of the original that are found, and from new ones in place of the
    others."""
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
    except Exception:  # bases that cannot be combined or inherited from
        return type(legible.rpartition(".")[2] or "_", (RecordedError,), names)


def _group(kind: type[Exception], errors: list[Exception]) -> Exception:
    """An exception group of this class, or Python's own `ExceptionGroup` if the class cannot be made as groups are."""
    try:
        made: Any = kind(WORDS, errors)
    except Exception:  # it has a constructor of its own
        made = None
    return made if isinstance(made, ExceptionGroup) else ExceptionGroup(WORDS, errors)


# -- with facts -----------------------------------------------------------------------------------------------------


def with_facts(kind: type[Exception], facts: Mapping[str, Fact]) -> Exception:
    """An error of a class, with facts as attributes. If the class does not allow an attribute to be set, the error is
    of a subclass."""
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
    except Exception:  # it takes other arguments
        pass
    if "__getattr__" in {
        name for each in kind.__mro__ for name in vars(each)
    }:  # it may read attributes that are missing
        kind = _subclass(qualified_name(kind), (kind,), __getattr__=_has_none)
    base: Any = next(each for each in kind.__mro__ if module_of(each) == "builtins")
    bare: Exception = base.__new__(kind, message)
    return bare


def _has_none(error: Exception, name: str) -> Any:
    raise AttributeError(name)


def _set(error: Exception, name: str, value: Any) -> bool:
    """Whether the error has this attribute with this value now."""
    with suppress(Exception):
        setattr(error, name, value)
    with suppress(Exception):
        return bool(getattr(error, name) == value)
    return False


def _attributes(facts: Mapping[str, Fact]) -> dict[str, Any]:
    """Facts as attributes of an error. The parts of a response become one object."""
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
    """The status code of grpc with this name if grpc is loaded, else an object with the name."""
    codes = getattr(sys.modules.get("grpc"), "StatusCode", None)
    return getattr(codes, name, None) or SimpleNamespace(name=name)
