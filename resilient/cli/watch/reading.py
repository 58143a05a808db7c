"""The state of pipelines at one moment, as every source gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Line", "Permits", "PipelineState", "Reading", "SourceError", "number", "printable"]


class SourceError(Exception):
    """What an address answers is neither a live page nor metrics of pipelines, or it does not answer.

    Attributes:
        final: whether another try would get the same answer.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


@dataclass(slots=True)
class Permits:
    """The permits of one Bulkhead or AdaptiveLimit (of all keys together, if it has keys)."""

    policy: str
    in_use: int
    limit: int
    queued: int = 0


@dataclass(slots=True)
class PipelineState:
    """One pipeline. A figure that its source does not give is None.

    Attributes:
        mode: "on", "off", "once" or "instant"; closed: whether it refuses new calls for good.
        rate: calls that ended, for each second.
        bad: the share of these that failed, timed out or were rejected.
        p50, p99: durations of calls, in seconds.
        retries, hedges: extra requests so far; `retry_rate`, `hedge_rate`: for each second.
        circuits: the number of circuits in each state.
        tokens: in the budget for extra requests; of several budgets, in the emptiest.
        rate_limits: the tokens of each RateLimit, by the name of the policy; of several keys, of the emptiest.
        error: why the state could not be read; "" if it could.
    """

    mode: str = "on"
    closed: bool = False
    in_flight: int | None = None
    calls: int | None = None
    rate: float | None = None
    bad: float | None = None
    p50: float | None = None
    p99: float | None = None
    retries: int | None = None
    hedges: int | None = None
    retry_rate: float | None = None
    hedge_rate: float | None = None
    circuits: dict[str, int] = field(default_factory=dict)
    permits: list[Permits] = field(default_factory=list)
    tokens: float | None = None
    rate_limits: dict[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(slots=True)
class Line:
    """One event, or `count` events of one kind at about the same time (seconds since 1970). `level`: "warning" or
    "info"; `kind`: the class of the event, as "CircuitChanged"."""

    at: float
    level: str
    kind: str
    pipeline: str
    policy: str
    text: str
    count: int = 1

    @property
    def is_change(self) -> bool:
        """Whether it is a change of state, which is shown one by one."""
        return self.kind in ("CircuitChanged", "ChaosHalted")


@dataclass(slots=True)
class Reading:
    """The state of all pipelines of a process.

    Attributes:
        at: when it was read, in seconds since 1970.
        fresh: whether the figures are new since the reading before.
        pid: of the process; None: not known.
        lines: events since the reading before, oldest first.
    """

    at: float
    pipelines: dict[str, PipelineState]
    fresh: bool = True
    pid: int | None = None
    lines: list[Line] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """This reading as plain data, for JSON. What is not known is left out."""
        found = {name: _known(asdict(each)) for name, each in self.pipelines.items()}
        pid = {} if self.pid is None else {"pid": self.pid}
        return {"at": self.at, **pid, "pipelines": found, "events": [asdict(each) for each in self.lines]}


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value not in ("", {}, [])}


def number(value: object) -> float | None:
    """Return a number that came from the watched process, if it is finite; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return value


LONGEST = 300
"""The most characters of a text of the watched process. Names are shorter (`_validation.legible`)."""


def printable(text: str) -> str:
    """Return a text of the watched process as it can be shown in a terminal: in one line, without control characters,
    and of bounded length."""
    line = " ".join(text[: 4 * LONGEST].split())
    safe = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
    return safe if len(safe) <= LONGEST else f"{safe[: LONGEST - 3]}..."
