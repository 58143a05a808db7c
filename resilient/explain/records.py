"""The records that an explanation consists of."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.foresight import Bound, Worst

__all__ = ["Behind", "Idle", "LongRun", "Part", "Route", "Step"]


@dataclass(frozen=True)
class LongRun:
    """What budgets do: over many calls, requests for each call, and on top of that a burst of what was saved up.

    Attributes:
        requests_per_call: at most, and
        burst: so many more requests at once; 0 where no budget bounds it.
        budgets: those that bound it, in words.
    """

    requests_per_call: float
    burst: float
    budgets: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One policy in its place, and what it and all inside it cost at worst.

    Attributes:
        policy: its name. kind: its class. text: its settings.
        path: its place: its number in its pipeline, and before that the places of the pipelines around it, outermost
            first. pipelines: the names of these pipelines, its own the last.
        worst: as the first attempt meets it; None where it is never asked.
        idle: why it does nothing, or None.
    """

    policy: str
    kind: str
    text: str
    path: tuple[int, ...]
    pipelines: tuple[str, ...]
    worst: Worst | None
    idle: str | None


@dataclass(frozen=True)
class Step:
    """What one policy does with an end that reaches it."""

    policy: str
    does: str


@dataclass(frozen=True)
class Route:
    """The way of one kind of end, from where it comes up to the caller.

    Attributes:
        end: what it is. origin: who raises it: a policy's settings, or "the function".
        steps: what the policies do that do anything, innermost first.
        caller: what the caller gets.
    """

    end: str
    origin: str
    steps: tuple[Step, ...]
    caller: str


@dataclass(frozen=True)
class Idle:
    """A policy that never acts."""

    policy: str
    why: str


@dataclass(frozen=True)
class Behind:
    """The pipeline as what another one guards.

    Attributes:
        name: of the other one. worst: of both together. long_run: of both together.
        alone: requests of the other one alone.
        once: whether the inner one leaves the repeating to the outer one.
    """

    name: str
    worst: Worst
    long_run: LongRun
    alone: Bound
    once: bool
