"""A fault: its effect, its share of the calls, its time, and its targets.

A fault is plain data, and describes here what it does to a request. The place where it happens (the policy `Chaos`, the
chaos transports, a scenario's service, the servers of the demo) does the waiting, and raises its own exceptions:

    strikes(draw)       whether a request to one of its targets is one of its share
    delay(at, draw)     the seconds by which it delays a request that arrives at a moment
    slowing             the factor by which work takes longer
    ending              what the request gets instead of an answer: nothing for ever, a refusal, an error, ...
    failure(names)      the exception of that ending
    met(faults, ...)    the faults that one request meets, with their delays (`resilient.faults.selection`)
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from resilient.faults.exceptions import LOST, PYTHON, Exceptions, FaultEnding
from resilient.faults.fields import CHECKS, Target

__all__ = ["Fault", "percent", "plain", "where"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """The base of all faults: when one begins and ends, and which targets it hits.

    Args:
        start: seconds from the start of the run at which it begins. Default 0.
        end: seconds from the start of the run at which it ends. None (the default): never.
        targets: the servers or keys that the fault hits: one `Target` or several. Default: all calls.
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
        """The targets, as a tuple; empty: the fault hits all."""
        assert isinstance(self.targets, tuple)
        return self.targets

    @property
    def until(self) -> float:
        """The end as a number: infinite without an end."""
        return math.inf if self.end is None else self.end

    def is_on(self, at: float) -> bool:
        """Whether the fault happens `at` seconds after the start of the run. At `until` it is over."""
        return self.start <= at < self.until

    def hits(self, target: Target) -> bool:
        """Whether the fault hits this server or key."""
        return not self.targets or target in self.targeted

    @property
    def ending(self) -> FaultEnding | None:
        """The end of a request that the fault hits; None: the request gets an answer, perhaps a late or a broken
        one."""
        return self._ends

    @property
    def slowing(self) -> float:
        """The factor by which the work on a request takes longer; 1: as long as without the fault."""
        factor: float = getattr(self, "factor", 1.0)
        return factor

    def strikes(self, draw: random.Random) -> bool:
        """Draw whether a request to a target of the fault is one of the share that it affects."""
        share: float = getattr(self, "share", 1.0)
        return share >= 1 or draw.random() < share

    def delay(self, at: float, draw: random.Random) -> float:
        """The seconds by which the fault delays a request that arrives `at` seconds after the start of the run."""
        return LOST if self.ending in ("unreachable", "silent") else 0.0

    def failure(self, names: Exceptions = PYTHON) -> Exception:
        """A new exception for a request that the fault ends, of the type that `names` has for the ending."""
        assert self.ending not in (None, "result")
        made: Exception = getattr(names, self.ending)(self.words)
        return made

    @property
    def words(self) -> str:
        """The text of injected exceptions and answers."""
        return f"injected by chaos: {self.describe()}"

    def describe(self) -> str:
        """The effect of the fault and its targets, in a few words."""
        return self._what() + where(self.targeted)

    def when(self) -> str:
        """The time of the fault, in a few words."""
        if self.end is not None:
            return f"{self.start:g}-{self.end:g} s"
        return f"from {self.start:g} s on" if self.start else "throughout"

    def as_json(self) -> dict[str, Any]:
        """The fault as plain data, without default values; `fault_from` makes an equal fault from it."""
        data: dict[str, Any] = {"kind": self.kind}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                data[field.name] = plain(value)
        return data

    def _what(self) -> str:
        raise NotImplementedError


def percent(share: float) -> str:
    """A share as a percentage, with three digits."""
    return f"{100 * share:.3g}%"


def where(targets: tuple[Target, ...]) -> str:
    """The targets of a fault for its description: " on servers 1 and 2"; without any: ""."""
    if not targets:
        return ""
    names = [str(each) for each in targets]
    listed = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    servers = "" if any(isinstance(each, str) for each in targets) else "server " if len(names) == 1 else "servers "
    return f" on {servers}{listed}"


def plain(value: Any) -> Any:
    """The value of a field for JSON or TOML: a list for a tuple, a name for a class or function."""
    if isinstance(value, tuple):
        return list(value)
    if callable(value):
        named = getattr(value, "func", value)  # a partial has the name of its function
        if not hasattr(named, "__qualname__"):
            named = type(named)
        return named.__qualname__ if named.__module__ == "builtins" else f"{named.__module__}:{named.__qualname__}"
    return value
