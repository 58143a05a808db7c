"""When a plan of repeated runs ends: what bounds it, be that their number, the time since the first one began, or both.

A `Stop` is asked after each run for the latest moment at which the next one may begin. So one walk over the runs of a
plan tells how many there can be, and how long they take together. `resilient.policies.retry.tenacity` reads tenacity's
strategies as such; a deadline is one too, for no pause begins that would outlive it.
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
        earliest, latest: between which it can have ended.
        least, most: seconds between which the pause after it can be.
        sure: whether the answer must be one that can happen, rather than one that cannot be exceeded.
        slack: what limits are multiplied by: it is a matter of rounding whether what ends at the very limit counts.
    """

    run: int
    earliest: float
    latest: float
    least: float
    most: float
    sure: bool = False
    slack: float = 1.0


class Stop(Protocol):
    """When a plan of repeated runs ends."""

    @property
    def runs(self) -> float:
        """The runs that it allows at most, whatever time they take."""
        ...

    @property
    def horizon(self) -> float:
        """Seconds after which it allows no further run, however many there were."""
        ...

    @property
    def timed(self) -> bool:
        """Whether it makes a difference how long runs take."""
        ...

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names of the functions of users that take part."""
        ...

    def latest(self, end: RunEnd) -> float:
        """The latest moment at which another run may begin; `ENDED`: none may."""
        ...

    def describe(self) -> str:
        """In words: a number of attempts, or what follows "attempts"."""
        ...


@dataclass(frozen=True, slots=True)
class Never:
    """The plan has no end of its own: it goes on for ever, or until an event that may never come."""

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
    """A function of the user's may end the plan after any run, or never.

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
    """The plan ends after `most` runs."""

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
    """The plan ends with the first run that ends so many seconds after the first one began, or later."""

    __slots__ = ()

    def latest(self, end: RunEnd) -> float:
        if end.earliest >= self.seconds * end.slack:
            return ENDED
        return min(end.latest, self.seconds) + end.most

    def describe(self) -> str:
        return f"until {self.seconds:g} s have passed"


class Before(_Limit):
    """No pause begins that would end so many seconds after the first run began, or later."""

    __slots__ = ()

    def latest(self, end: RunEnd) -> float:
        if end.earliest + end.least >= self.seconds * end.slack:
            return ENDED
        return min(end.latest + end.most, self.seconds)

    def describe(self) -> str:
        return f"begun within {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class _Several:
    """What several stops have in common."""

    parts: tuple[Stop, ...]

    @property
    def timed(self) -> bool:
        return any(part.timed for part in self.parts)

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.unknown)


class AnyOf(_Several):
    """A plan ends as soon as one of these stops ends it."""

    __slots__ = ()

    @property
    def runs(self) -> float:
        return min((part.runs for part in self.parts), default=math.inf)

    @property
    def horizon(self) -> float:
        return min((part.horizon for part in self.parts), default=math.inf)

    def latest(self, end: RunEnd) -> float:
        # Each lets the next run begin up to some moment, and before that at any: so does the one that is strictest.
        return min((part.latest(end) for part in self.parts), default=end.latest + end.most)

    def describe(self) -> str:
        return ", ".join(_words(self.parts, min)) or NEVER.describe()


class AllOf(_Several):
    """A plan ends when all of these stops end it."""

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
    """The parts in words: one number of attempts first, and what never ends a plan left out."""
    numbers = [part.most for part in parts if isinstance(part, Runs)]
    said = [Runs(of(numbers)).describe()] if numbers else []
    return [*said, *(part.describe() for part in parts if part != NEVER and not isinstance(part, Runs))]
