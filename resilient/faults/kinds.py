"""The kinds of faults, one class each.

    Errors(share=0.3, status=503)                 error responses, or exceptions
    Results(share=0.1, value=[])                  answers that are not the dependency's
    Latency(share=0.02, low=0.5, high=3)          answers that come later
    Slowness(factor=5)                            work that takes longer
    Stall(start=30, end=40)                       no work begins; requests wait
    Crash(start=30, end=35, targets=2)            connections are refused, until the restart at `end`
    Partition(start=30, end=40)                   nothing gets through, in either direction
    PacketLoss(share=0.01)                        requests that never get an answer
    Reset(), TruncatedBody(), DrippingBody()      connections that break, bodies that break off or trickle (HTTP)

In files each is a table with its `kind`: `{"kind": "errors", "share": 0.3, "status": 503}`. `fault_from` reads it, and
names the wrong key in its message, and what is allowed there; `as_json` writes it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from resilient import _validation
from resilient.core import pushback
from resilient.errors import leaves
from resilient.faults.exceptions import LOST, PYTHON, Exceptions, FaultEnding
from resilient.faults.fault import Fault, percent, plain, where

__all__ = [
    "KINDS",
    "Crash",
    "DrippingBody",
    "Errors",
    "Latency",
    "PacketLoss",
    "Partition",
    "Reset",
    "Results",
    "Slowness",
    "Stall",
    "TruncatedBody",
]

STATUS = 503
"""The status of `Errors` that name neither a status nor an exception, where errors are responses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors(Fault):
    """A share of the calls gets an error instead of an answer.

    Args:
        share: of the calls, from 0 to 1. Default 1.
        status: the HTTP status of the response, from 400 to 599.
        error: or the exception that the calls raise: a class that takes a message, a function that makes an exception
            from a message, or the name of either (`"ConnectionError"`, `"package.module:Name"`). The constructor makes
            one as a check; `ValueError` if that fails. Default: without either, 503 where errors are responses, else
            `ConnectionError`.
        retry_after: seconds after which the dependency asks callers to retry: an attribute of the exception (of each
            one in a group), or a header of the response. Default: none.
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
            raise ValueError(f"error must not be given beside status={self.status}, got {plain(self.error)!r}")
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
        raise ValueError(f"error must be {needed}, got {plain(self.error)!r}: {why}")

    def failure(self, names: Exceptions = PYTHON) -> Exception:
        made = names.error(self.words) if self.error is None else self._make()
        self._ask(made)
        return made

    def _make(self) -> Exception:
        assert callable(self.error)
        return self.error(self.words)

    def _ask(self, made: Exception) -> None:
        """Set `retry_after` on an exception; on each error of a group, as a classifier looks there."""
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
                    f"retry_after must be left out beside error={plain(self.error)!r}, got {self.retry_after:g}: "
                    f"a retry_after of a {type(each).__name__} cannot be set"
                )

    @property
    def answer(self) -> tuple[int, dict[str, str]]:
        """The status and the headers of the response, where errors are responses."""
        asked = {} if self.retry_after is None else {"retry-after": pushback.header(self.retry_after)}
        return self.status or STATUS, asked

    def _what(self) -> str:
        what = self.status or plain(self.error) or "errors"
        return f"{percent(self.share)} {what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Results(Fault):
    """A share of the calls gets a result that is not the dependency's: an empty list, an outdated value.

    Args:
        share: of the calls, from 0 to 1. Default 1.
        value: the result. Default None.
        call: or the function that makes it from the call's arguments: itself, or its name (`"package.module:name"`).
    """

    kind: ClassVar[str] = "results"
    _ends: ClassVar[FaultEnding | None] = "result"

    share: float = 1.0
    value: Any = None
    call: Callable[..., Any] | str | None = None

    def __post_init__(self) -> None:
        Fault.__post_init__(self)
        if self.value is not None and self.call is not None:
            raise ValueError(f"call must not be given beside value={self.value!r}, got {plain(self.call)!r}")

    def result(self, *args: Any, **kwargs: Any) -> Any:
        """The result of a call with these arguments."""
        return self.call(*args, **kwargs) if callable(self.call) else self.value

    def _what(self) -> str:
        return f"{percent(self.share)} of answers replaced"  # not by what: it may be large or secret


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency(Fault):
    """A share of the answers comes `low` to `high` seconds later, evenly distributed.

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
        return f"{percent(self.share)} of answers {span} s late"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slowness(Fault):
    """Work takes `factor` times as long; with a factor below 1, less time."""

    kind: ClassVar[str] = "slowness"

    factor: float

    def _what(self) -> str:
        return f"work takes {self.factor:g} times as long"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall(Fault):
    """No work begins. Requests wait, and are processed after the end; work that had begun goes on."""

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
    """The process is gone, with all requests that it had accepted, and connections are refused until it restarts at
    `end`."""

    kind: ClassVar[str] = "crash"
    _ends: ClassVar[FaultEnding | None] = "refused"

    def describe(self) -> str:
        return "crash" + where(self.targeted).replace(" on ", " of ", 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition(Fault):
    """The network loses all requests and answers, and reports no error."""

    kind: ClassVar[str] = "partition"
    _ends: ClassVar[FaultEnding | None] = "unreachable"

    def _what(self) -> str:
        return "nothing gets through"


@dataclass(frozen=True, kw_only=True, slots=True)
class PacketLoss(Fault):
    """A share of the requests or of their answers is lost, and no error is reported.

    Args:
        share: of the calls, from 0 to 1.
    """

    kind: ClassVar[str] = "packet_loss"
    _ends: ClassVar[FaultEnding | None] = "silent"

    share: float

    def _what(self) -> str:
        return f"{percent(self.share)} of requests are lost"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reset(Fault):
    """The connection of a share of the requests breaks before the answer.

    Args:
        share: of the requests, from 0 to 1. Default 1.
        phase: "read" (the default): the request may have arrived; "connect": the connection is refused, so the request
            cannot have arrived.
    """

    kind: ClassVar[str] = "reset"

    share: float = 1.0
    phase: Literal["connect", "read"] = "read"

    @property
    def ending(self) -> FaultEnding | None:
        return "refused" if self.phase == "connect" else "reset"

    def _what(self) -> str:
        return f"{percent(self.share)} of connections reset ({self.phase})"


@dataclass(frozen=True, kw_only=True, slots=True)
class TruncatedBody(Fault):
    """HTTP: a share of the responses breaks off within the body.

    Args:
        share: of the responses, from 0 to 1. Default 1.
        keep: bytes of the body that still arrive, at most. Default 100.
    """

    kind: ClassVar[str] = "truncated_body"

    share: float = 1.0
    keep: int = 100

    def _what(self) -> str:
        return f"{percent(self.share)} of bodies break off after {self.keep} bytes"


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
        return f"{percent(self.share)} of bodies drip, {self.piece} bytes every {self.pause:g} s"


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
"""The kinds by their names in files."""
