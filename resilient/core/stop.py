"""Stop conditions of repeated runs: their number, the time since the first one began, or combinations of both.

After each run a `Stop` says at which moment the next run may begin at the latest. So one pass over the runs of a plan
gives how many there can be, and how long they take together. `resilient.policies.retry.tenacity` makes such conditions
of tenacity's strategies. A deadline is one too (`Before`), because no pause begins that would outlive it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["NEVER", "After", "AllOf", "AnyOf", "Before", "Never", "RunEnd", "Runs", "Stop", "Unknown"]

ENDED = -math.inf
"""The answer where no further run may begin."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run; seconds count from the begin of the first one.

    Attributes:
        run: its number, from 1.
        earliest, latest: the seconds between which it can have ended.
        least, most: the seconds between which the pause after it can last.
        sure: True: the answer must be a moment that can really occur; False: one that cannot be exceeded.
        slack: a factor on limits, near 1, for rounding: it decides about what ends exactly at a limit.
    """

    run: int
    earliest: float
    latest: float
    least: float
    most: float
    sure: bool = False
    slack: float = 1.0


class Stop(Protocol):
    """A condition that ends a plan of repeated runs."""

    @property
    def runs(self) -> float:
        """The most runs that it allows, whatever time they take."""
        ...

    @property
    def horizon(self) -> float:
        """Seconds after which it allows no further run, whatever their number."""
        ...

    @property
    def timed(self) -> bool:
        """Whether the condition depends on how long runs take."""
        ...

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names of the user's functions that it depends on."""
        ...

    def latest(self, end: RunEnd) -> float:
        """Return the latest moment at which another run may begin; `ENDED`: no run may."""
        ...

    def describe(self) -> str:
        """Return a text for people: a number of attempts, or words that follow "attempts"."""
        ...


@dataclass(frozen=True, slots=True)
class Never:
    """No end: the plan goes on for ever, or until an event that may never happen."""

    words: str = "without end"
    runs = horizon = math.inf
    timed = False
    unknown = ()

    def latest(self, end: RunEnd) -> float:
        return end.latest + end.most

    def describe(self) -> str:
        return self.words


NEVER = Never()


@dataclass(frozen=True, slots=True)
class Unknown:
    """A function of the user may end the plan after any run, or never.

    Attributes:
        name: of that function.
    """

    name: str
    runs = horizon = math.inf
    timed = True

    @property
    def unknown(self) -> tuple[str, ...]:
        return (self.name,)

    def latest(self, end: RunEnd) -> float:
        return ENDED if end.sure else end.latest + end.most

    def describe(self) -> str:
        return f"until {self.name} says stop"


@dataclass(frozen=True, slots=True)
class Runs:
    """A limit on the number of runs: the plan ends after `most`."""

    most: float
    horizon = math.inf
    timed = False
    unknown = ()

    @property
    def runs(self) -> float:
        return self.most

    def latest(self, end: RunEnd) -> float:
        return ENDED if end.run >= self.most else end.latest + end.most

    def describe(self) -> str:
        return f"{self.most:g} attempt{'' if self.most == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class _Limit:
    """A number of seconds since the first run began."""

    seconds: float
    runs = math.inf
    timed = True
    unknown = ()

    @property
    def horizon(self) -> float:
        return self.seconds


class After(_Limit):
    """The plan ends with the first run that ends `seconds` or more after the first run began."""

    __slots__ = ()

    def latest(self, end: RunEnd) -> float:
        if end.earliest >= self.seconds * end.slack:
            return ENDED
        return min(end.latest, self.seconds) + end.most

    def describe(self) -> str:
        return f"until {self.seconds:g} s have passed"


class Before(_Limit):
    """No pause begins that would end `seconds` or more after the first run began."""

    __slots__ = ()

    def latest(self, end: RunEnd) -> float:
        if end.earliest + end.least >= self.seconds * end.slack:
            return ENDED
        return min(end.latest + end.most, self.seconds)

    def describe(self) -> str:
        return f"begun within {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class _Several:
    """The base of combinations of several stop conditions."""

    parts: tuple[Stop, ...]

    @property
    def timed(self) -> bool:
        return any(part.timed for part in self.parts)

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.unknown)


class AnyOf(_Several):
    """The plan ends as soon as one of these conditions ends it."""

    __slots__ = ()

    @property
    def runs(self) -> float:
        return min((part.runs for part in self.parts), default=math.inf)

    @property
    def horizon(self) -> float:
        return min((part.horizon for part in self.parts), default=math.inf)

    def latest(self, end: RunEnd) -> float:
        # Each allows the next run at any time up to a moment; the earliest of these moments meets all conditions.
        return min((part.latest(end) for part in self.parts), default=end.latest + end.most)

    def describe(self) -> str:
        return ", ".join(_words(self.parts, min)) or NEVER.describe()


class AllOf(_Several):
    """The plan ends when all of these conditions end it."""

    __slots__ = ()

    @property
    def runs(self) -> float:
        return max((part.runs for part in self.parts), default=1)

    @property
    def horizon(self) -> float:
        return max((part.horizon for part in self.parts), default=0.0)

    def latest(self, end: RunEnd) -> float:
        return max((part.latest(end) for part in self.parts), default=ENDED)

    def describe(self) -> str:
        return " and ".join(_words(self.parts, max)) or Runs(1).describe()


def _words(parts: Sequence[Stop], of: Callable[[list[float]], float]) -> list[str]:
    """Return the texts of the parts: one number of attempts first, and no parts that never end a plan."""
    numbers = [part.most for part in parts if isinstance(part, Runs)]
    said = [Runs(of(numbers)).describe()] if numbers else []
    return [*said, *(part.describe() for part in parts if part != NEVER and not isinstance(part, Runs))]
