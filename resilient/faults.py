"""What can go wrong with a dependency: one vocabulary for the demo, for simulated worlds, and for chaos in real calls.

A fault is plain data: what happens, to which share of the calls, when, and to whom. It does nothing by itself.

    Errors(share=0.3, status=503)                 answers that are errors, or exceptions
    Results(share=0.1, value=[])                  answers that are not the dependency's
    Latency(share=0.02, low=0.5, high=3)          answers that come later
    Slowness(factor=5)                            work that takes longer
    Stall(start=30, end=40)                       nothing is begun; what comes in waits
    Crash(start=30, end=35, targets=2)            nobody is there, until the restart at `end`
    Partition(start=30, end=40)                   nothing gets through, in either direction
    PacketLoss(share=0.01)                        requests that never get an answer
    Reset(), TruncatedBody(), DrippingBody()      connections that break, bodies that break off or trickle (HTTP)

In files each is a table with its `kind`: `{"kind": "errors", "share": 0.3, "status": 503}`. `fault_from` reads it, and
says of a mistake which key it is in and what is allowed there; `as_json` writes it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias

from resilient import arguments

__all__ = [
    "KINDS",
    "Crash",
    "DrippingBody",
    "Errors",
    "Fault",
    "Latency",
    "PacketLoss",
    "Partition",
    "Reset",
    "Results",
    "Slowness",
    "Stall",
    "Target",
    "TruncatedBody",
    "fault_from",
    "faults_from",
]

Target: TypeAlias = int | str
"""The number of a server (from 1), or a key: a host, a path, a tenant, the name of a service."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Common to all.

    Args:
        start: seconds since the begin of the run when it begins. Default 0.
        end: seconds since the begin of the run when it is over. None (the default): it stays.
        targets: whom it hits: one `Target` or several. Default: everybody.
    """

    kind: ClassVar[str] = ""

    start: float = 0.0
    end: float | None = None
    targets: tuple[Target, ...] | Target = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _CHECKS[field.name](field.name, value))
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end must be after start={self.start:g}, got {self.end!r}")

    @property
    def targeted(self) -> tuple[Target, ...]:
        """Whom it hits; empty: everybody."""
        assert isinstance(self.targets, tuple)
        return self.targets

    @property
    def until(self) -> float:
        """When it is over, as a number: infinite where it stays."""
        return math.inf if self.end is None else self.end

    def is_on(self, at: float) -> bool:
        """Whether it happens `at` seconds after the begin of the run. At its end it is over."""
        return self.start <= at < self.until

    def hits(self, target: Target) -> bool:
        """Whether it happens to this one."""
        return not self.targets or target in self.targeted

    def describe(self) -> str:
        """What happens to whom, in a few words."""
        return self._what() + _where(self.targeted)

    def when(self) -> str:
        """The time of it, in a few words."""
        if self.end is not None:
            return f"{self.start:g}-{self.end:g} s"
        return f"from {self.start:g} s on" if self.start else "throughout"

    def as_json(self) -> dict[str, Any]:
        """Itself as plain data, without what has its default; `fault_from` makes an equal fault of it."""
        data: dict[str, Any] = {"kind": self.kind}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                data[field.name] = _plain(value)
        return data

    def _what(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors(Fault):
    """A share of the calls gets an error instead of an answer.

    Args:
        share: of the calls, from 0 to 1. Default 1.
        status: the HTTP status that they are answered with, from 400 to 599.
        error: or the exception that they raise: a class, or its name (`"ConnectionError"`, `"package.module:Name"`).
            Default: without either, it is left to whoever makes the error.
        retry_after: seconds for which the dependency asks to be left alone. Default: it does not ask.
    """

    kind: ClassVar[str] = "errors"

    share: float = 1.0
    status: int | None = None
    error: type[Exception] | str | None = None
    retry_after: float | None = None

    def __post_init__(self) -> None:
        Fault.__post_init__(self)
        if self.status is not None and self.error is not None:
            raise ValueError(f"error must not be given beside status={self.status}, got {_plain(self.error)!r}")

    @property
    def exception(self) -> type[Exception] | None:
        """The class of the exception, where there is one."""
        assert not isinstance(self.error, str)
        return self.error

    def _what(self) -> str:
        what = self.status or _plain(self.error) or "errors"
        return f"{_percent(self.share)} {what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Results(Fault):
    """A share of the calls gets a result that is not the dependency's: an empty list, a value of last year's.

    Args:
        share: of the calls, from 0 to 1. Default 1.
        value: the result. Default None.
        call: or the function that makes it, of the call's arguments: itself, or its name (`"package.module:name"`).
    """

    kind: ClassVar[str] = "results"

    share: float = 1.0
    value: Any = None
    call: Callable[..., Any] | str | None = None

    def __post_init__(self) -> None:
        Fault.__post_init__(self)
        if self.value is not None and self.call is not None:
            raise ValueError(f"call must not be given beside value={self.value!r}, got {_plain(self.call)!r}")

    def result(self, *args: Any, **kwargs: Any) -> Any:
        """What a call with these arguments gets."""
        return self.call(*args, **kwargs) if callable(self.call) else self.value

    def _what(self) -> str:
        return f"{_percent(self.share)} of answers replaced"  # not by what: it may be large or secret


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency(Fault):
    """A share of the answers comes `low` to `high` seconds later, all of these equally likely.

    Args:
        share: of the calls, from 0 to 1. Default 1.
        low: seconds at least. Default 0.
        high: seconds at most.
    """

    kind: ClassVar[str] = "latency"

    share: float = 1.0
    low: float = 0.0
    high: float

    def __post_init__(self) -> None:
        Fault.__post_init__(self)
        if self.high < self.low:
            raise ValueError(f"high must be at least low={self.low:g}, got {self.high!r}")

    def _what(self) -> str:
        span = f"{self.low:g}" if self.low == self.high else f"{self.low:g}-{self.high:g}"
        return f"{_percent(self.share)} of answers {span} s late"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slowness(Fault):
    """Work takes `factor` times as long (of a number below 1: it takes less)."""

    kind: ClassVar[str] = "slowness"

    factor: float

    def _what(self) -> str:
        return f"work takes {self.factor:g} times as long"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall(Fault):
    """No work is begun. What comes in waits, and is done afterwards; what had been begun goes on."""

    kind: ClassVar[str] = "stall"

    def _what(self) -> str:
        return "no work is begun"


@dataclass(frozen=True, kw_only=True, slots=True)
class Crash(Fault):
    """The process is gone, with all that it had taken in, and connections are refused; at `end` it has restarted."""

    kind: ClassVar[str] = "crash"

    def describe(self) -> str:
        return "crash" + _where(self.targeted).replace(" on ", " of ", 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition(Fault):
    """The network lets nothing through, neither requests nor answers, and says nothing."""

    kind: ClassVar[str] = "partition"

    def _what(self) -> str:
        return "nothing gets through"


@dataclass(frozen=True, kw_only=True, slots=True)
class PacketLoss(Fault):
    """A share of the requests is lost, or their answers are: whoever waits is told nothing.

    Args:
        share: of the calls, from 0 to 1.
    """

    kind: ClassVar[str] = "packet_loss"

    share: float

    def _what(self) -> str:
        return f"{_percent(self.share)} of requests are lost"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reset(Fault):
    """HTTP: the connection of a share of the requests breaks before the answer.

    Args:
        share: of the requests, from 0 to 1. Default 1.
        phase: "read" (the default): the request may have arrived; "connect": it provably has not.
    """

    kind: ClassVar[str] = "reset"

    share: float = 1.0
    phase: Literal["connect", "read"] = "read"

    def _what(self) -> str:
        return f"{_percent(self.share)} of connections reset ({self.phase})"


@dataclass(frozen=True, kw_only=True, slots=True)
class TruncatedBody(Fault):
    """HTTP: a share of the responses breaks off within the body.

    Args:
        share: of the responses, from 0 to 1. Default 1.
        keep: bytes of the body that still come, at most. Default 100.
    """

    kind: ClassVar[str] = "truncated_body"

    share: float = 1.0
    keep: int = 100

    def _what(self) -> str:
        return f"{_percent(self.share)} of bodies break off after {self.keep} bytes"


@dataclass(frozen=True, kw_only=True, slots=True)
class DrippingBody(Fault):
    """HTTP: the body of a share of the responses comes in pieces, with a pause before each.

    Args:
        share: of the responses, from 0 to 1. Default 1.
        piece: bytes at a time. Default 1.
        pause: seconds before each piece. Default 0.1.
    """

    kind: ClassVar[str] = "dripping_body"

    share: float = 1.0
    piece: int = 1
    pause: float = 0.1

    def _what(self) -> str:
        return f"{_percent(self.share)} of bodies drip, {self.piece} bytes every {self.pause:g} s"


KINDS: Mapping[str, type[Fault]] = {
    each.kind: each
    for each in (
        Errors,
        Results,
        Latency,
        Slowness,
        Stall,
        Crash,
        Partition,
        PacketLoss,
        Reset,
        TruncatedBody,
        DrippingBody,
    )
}
"""All kinds, by their names in files."""


def fault_from(data: object, where: str = "fault", kinds: Iterable[type[Fault]] = tuple(KINDS.values())) -> Fault:
    """A fault from plain data: a mapping with its `kind` and its arguments.

    `where` is what messages call it (`"faults[2]"`); `kinds` are those that make sense there. Raises `ValueError` or
    `TypeError`, in one line that names the key and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"{where} must be a table with a kind, got {data!r}")
    known = {each.kind: each for each in kinds}
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in known:
        got = f", got {kind!r}" if "kind" in data else ": it is missing"
        raise ValueError(f"{where}.kind must be one of {', '.join(sorted(known))}{got}")
    cls = known[kind]
    keys = {field.name: field for field in fields(cls)}
    values = {key: value for key, value in data.items() if key != "kind"}
    for key in values:
        if key not in keys:
            raise ValueError(f"{where} has no {key!r}: {kind} may have {', '.join(sorted(keys))}")
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
    """Several faults from plain data, a list of what `fault_from` reads; messages count them from 0."""
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise TypeError(f"{where} must be a list of tables, got {data!r}")
    kinds = tuple(kinds)
    return tuple(fault_from(each, f"{where}[{number}]", kinds) for number, each in enumerate(data))


# -- checks of fields -----------------------------------------------------------------------------------------------


def _from_zero(argument: str, value: object) -> float:
    return arguments.seconds(argument, value, zero=True)


def _end(argument: str, value: object) -> float | None:
    return None if value is None else arguments.seconds(argument, value)


def _pause(argument: str, value: object) -> float | None:
    return None if value is None else _from_zero(argument, value)


def _share(argument: str, value: object) -> float:
    return arguments.share(argument, value, zero=True)


def _size(argument: str, value: object) -> int:
    return arguments.count(argument, value, least=0)


def _factor(argument: str, value: object) -> float:
    number = arguments.amount(argument, value)
    if not number:
        raise ValueError(f"{argument} must be a finite number > 0, got {value!r}")
    return number


def _targets(argument: str, value: object) -> tuple[Target, ...]:
    if isinstance(value, int | str):
        value = (value,)
    if not isinstance(value, tuple | list):
        raise TypeError(f"{argument} must be a number of a server, a key, or several of them, got {value!r}")
    return tuple(
        arguments.name(argument, each) if isinstance(each, str) else arguments.count(argument, each) for each in value
    )


def _status(argument: str, value: object) -> int | None:
    if value is None:
        return None
    status = arguments.count(argument, value)
    if not 400 <= status <= 599:
        raise ValueError(f"{argument} must be an HTTP status from 400 to 599, got {value!r}")
    return status


def _error(argument: str, value: object) -> type[Exception] | None:
    if value is None:
        return None
    found = _named(value) if isinstance(value, str) else value
    if not isinstance(found, type) or not issubclass(found, Exception) or issubclass(found, StopIteration):
        kind = 'an exception\'s class or its name ("ConnectionError", "package.module:Name")'
        raise ValueError(f"{argument} must be {kind}, got {value!r}")
    return found


def _call(argument: str, value: object) -> Callable[..., Any] | None:
    if value is None:
        return None
    found = _named(value) if isinstance(value, str) else value
    if not callable(found):
        raise ValueError(f'{argument} must be a function or its name ("package.module:name"), got {value!r}')
    return arguments.callback(argument, found)


def _named(name: str) -> object:
    """What has this name, or None."""
    module, _, attribute = name.rpartition(":")
    try:
        return getattr(importlib.import_module(module or "builtins"), attribute)
    except (ImportError, AttributeError, ValueError):
        return None


def _any(argument: str, value: object) -> object:
    return value


def _phase(argument: str, value: object) -> str:
    if value not in ("connect", "read"):
        raise ValueError(f'{argument} must be "connect" or "read", got {value!r}')
    return str(value)


_CHECKS: Mapping[str, Callable[[str, object], Any]] = {
    "start": _from_zero,
    "end": _end,
    "targets": _targets,
    "share": _share,
    "status": _status,
    "error": _error,
    "retry_after": _pause,
    "value": _any,
    "call": _call,
    "low": _from_zero,
    "high": _from_zero,
    "factor": _factor,
    "phase": _phase,
    "keep": _size,
    "piece": arguments.count,
    "pause": _from_zero,
}


# -- words ----------------------------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _where(targets: tuple[Target, ...]) -> str:
    if not targets:
        return ""
    names = [str(each) for each in targets]
    listed = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    servers = "" if any(isinstance(each, str) for each in targets) else "server " if len(names) == 1 else "servers "
    return f" on {servers}{listed}"


def _plain(value: Any) -> Any:
    """A field's value, as JSON and TOML have it."""
    if isinstance(value, tuple):
        return list(value)
    if callable(value):
        return value.__name__ if value.__module__ == "builtins" else f"{value.__module__}:{value.__qualname__}"
    return value
