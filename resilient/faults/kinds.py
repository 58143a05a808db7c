"""What can go wrong with a dependency: one vocabulary for the demo, for simulated worlds, and for chaos in real calls.

A fault is plain data: what happens, to which share of the calls, when, and to whom. What it does to a request is said
here, once. The place where it happens (the policy `Chaos`, the chaos transports, a scenario's service, the servers of
the demo) waits, and says it in its own exceptions:

    strikes(draw)       whether a request that it hits is one of its share
    delay(at, draw)     the seconds for which it keeps a request that comes at a moment
    slowing             how many times as long work takes
    ending              what the request gets instead of an answer: nothing for ever, a refusal, an error, ...
    failure(names)      the exception that says so
    met(faults, ...)    the faults that one request meets, with their delays

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

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from resilient import _validation
from resilient.core import pushback
from resilient.errors import leaves
from resilient.faults.exceptions import LOST, PYTHON, Exceptions, FaultEnding
from resilient.faults.fields import CHECKS, Target

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
    "TruncatedBody",
    "met",
]

STATUS = 503
"""Of `Errors` that name neither a status nor an exception, where errors are statuses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What all faults have in common: when one begins and ends, and whom it hits.

    Args:
        start: seconds since the begin of the run when it begins. Default 0.
        end: seconds since the begin of the run when it is over. None (the default): it stays.
        targets: whom it hits: one `Target` or several. Default: everybody.
    """

    kind: ClassVar[str] = ""
    _ends: ClassVar[FaultEnding | None] = None

    start: float = 0.0
    end: float | None = None
    targets: tuple[Target, ...] | Target = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, CHECKS[field.name](field.name, value))
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end must be after start={self.start:g}, got {self.end:g}")

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
        """Whether this fault is meant for a server or a key."""
        return not self.targets or target in self.targeted

    @property
    def ending(self) -> FaultEnding | None:
        """What a request gets instead of an answer; None: an answer, if perhaps a late or a broken one."""
        return self._ends

    @property
    def slowing(self) -> float:
        """How many times as long the work on a request takes."""
        factor: float = getattr(self, "factor", 1.0)
        return factor

    def strikes(self, draw: random.Random) -> bool:
        """Whether a request that it hits is one of its share."""
        share: float = getattr(self, "share", 1.0)
        return share >= 1 or draw.random() < share

    def delay(self, at: float, draw: random.Random) -> float:
        """Seconds for which it keeps a request that comes `at` seconds after the begin of the run."""
        return LOST if self.ending in ("unreachable", "silent") else 0.0

    def failure(self, names: Exceptions = PYTHON) -> Exception:
        """A new exception for a request that it ends, by the names of a place."""
        assert self.ending not in (None, "result")
        made: Exception = getattr(names, self.ending)(self.words)
        return made

    @property
    def words(self) -> str:
        """The text of the exceptions and answers that this fault makes."""
        return f"injected by chaos: {self.describe()}"

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
        error: or the exception that they raise: a class whose instances are made of a message, a function that makes an
            exception of a message, or the name of either (`"ConnectionError"`, `"package.module:Name"`). One is made at
            once, and a `ValueError` says why that cannot be done. Default: without either, 503 where errors are
            statuses, else `ConnectionError`.
        retry_after: seconds for which the dependency asks to be left alone: an attribute of the exception (of each of
            those in a group), a header of the answer. Default: it does not ask.
    """

    kind: ClassVar[str] = "errors"
    _ends: ClassVar[FaultEnding | None] = "error"

    share: float = 1.0
    status: int | None = None
    error: type[Exception] | Callable[[str], Exception] | str | None = None
    retry_after: float | None = None

    def __post_init__(self) -> None:
        Fault.__post_init__(self)
        if self.error is None:
            return
        if self.status is not None:
            raise ValueError(f"error must not be given beside status={self.status}, got {_plain(self.error)!r}")
        try:
            made = self._make()
        except (Exception, SystemExit) as error:
            why = _validation.in_a_line(error)
        else:
            if issubclass(type(made), Exception) and not issubclass(type(made), StopIteration):
                self._ask(made)
                return
            why = f"it makes a {type(made).__name__}"
        needed = "an exception that is made of a message, or a function that makes one of it"
        raise ValueError(f"error must be {needed}, got {_plain(self.error)!r}: {why}")

    def failure(self, names: Exceptions = PYTHON) -> Exception:
        made = names.error(self.words) if self.error is None else self._make()
        self._ask(made)
        return made

    def _make(self) -> Exception:
        assert callable(self.error)
        return self.error(self.words)

    def _ask(self, made: Exception) -> None:
        """Have an exception ask for the pause; as a classifier does, a group is seen as the errors in it."""
        if self.retry_after is None:
            return
        for each in leaves(made):
            try:
                each.retry_after = self.retry_after  # type: ignore[attr-defined]
                taken = getattr(each, "retry_after", None) == self.retry_after
            except Exception:
                taken = False
            if not taken:
                raise ValueError(
                    f"retry_after must be left out beside error={_plain(self.error)!r}, got {self.retry_after:g}: "
                    f"a retry_after of a {type(each).__name__} cannot be set"
                )

    @property
    def answer(self) -> tuple[int, dict[str, str]]:
        """The status and the headers of the answer, where errors are answers."""
        asked = {} if self.retry_after is None else {"retry-after": pushback.header(self.retry_after)}
        return self.status or STATUS, asked

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
    _ends: ClassVar[FaultEnding | None] = "result"

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
            raise ValueError(f"high must be at least low={self.low:g}, got {self.high:g}")

    def delay(self, at: float, draw: random.Random) -> float:
        return draw.uniform(self.low, self.high)

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

    @property
    def ending(self) -> FaultEnding | None:
        return None if self.end is not None else "silent"

    def delay(self, at: float, draw: random.Random) -> float:
        return LOST if self.end is None else self.end - at

    def _what(self) -> str:
        return "no work is begun"


@dataclass(frozen=True, kw_only=True, slots=True)
class Crash(Fault):
    """The process is gone, with all that it had taken in, and connections are refused; at `end` it has restarted."""

    kind: ClassVar[str] = "crash"
    _ends: ClassVar[FaultEnding | None] = "refused"

    def describe(self) -> str:
        return "crash" + _where(self.targeted).replace(" on ", " of ", 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition(Fault):
    """The network lets nothing through, neither requests nor answers, and says nothing."""

    kind: ClassVar[str] = "partition"
    _ends: ClassVar[FaultEnding | None] = "unreachable"

    def _what(self) -> str:
        return "nothing gets through"


@dataclass(frozen=True, kw_only=True, slots=True)
class PacketLoss(Fault):
    """A share of the requests is lost, or their answers are: whoever waits is told nothing.

    Args:
        share: of the calls, from 0 to 1.
    """

    kind: ClassVar[str] = "packet_loss"
    _ends: ClassVar[FaultEnding | None] = "silent"

    share: float

    def _what(self) -> str:
        return f"{_percent(self.share)} of requests are lost"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reset(Fault):
    """The connection of a share of the requests breaks before the answer.

    Args:
        share: of the requests, from 0 to 1. Default 1.
        phase: "read" (the default): the request may have arrived; "connect": it provably has not, the connection is
            refused.
    """

    kind: ClassVar[str] = "reset"

    share: float = 1.0
    phase: Literal["connect", "read"] = "read"

    @property
    def ending(self) -> FaultEnding | None:
        return "refused" if self.phase == "connect" else "reset"

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


def met(
    faults: Iterable[Fault], at: float, hits: Callable[[Fault], bool], draw: random.Random
) -> list[tuple[Fault, float]]:
    """The faults that a request meets which comes `at` seconds after the begin of the run, in their order, each with
    the seconds for which it keeps the request. `hits` says whether a fault is meant for it.
    """
    found: list[tuple[Fault, float]] = []
    stalled = 0.0
    for fault in faults:
        if not (fault.is_on(at) and hits(fault) and fault.strikes(draw)):
            continue
        delay = fault.delay(at, draw)
        if isinstance(fault, Stall) and fault.end is not None:  # two at a time end when the later one does
            delay = max(0.0, delay - stalled)
            stalled += delay
        found.append((fault, delay))
    return found


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
        named = getattr(value, "func", value)  # a partial is known by its function
        if not hasattr(named, "__qualname__"):
            named = type(named)
        return named.__qualname__ if named.__module__ == "builtins" else f"{named.__module__}:{named.__qualname__}"
    return value
