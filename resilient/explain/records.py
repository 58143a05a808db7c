"""The records that an explanation consists of."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.core.worst_case import Bound, WorstCase

__all__ = ["Behind", "Idle", "LongRun", "Part", "Route", "Step"]


@dataclass(frozen=True)
class LongRun:
    """The requests that budgets allow over many calls.

    Attributes:
        requests_per_call: the most requests for each call, on average.
        burst: further requests at once, from saved-up tokens; 0 if no budget limits the requests.
        budgets: descriptions of the budgets that limit the requests.
    """

    requests_per_call: float
    burst: float
    budgets: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One policy in its place, and the worst case of the policy and everything inside it.

    Attributes:
        policy: the policy's name.
        kind: the name of its class.
        text: its settings.
        path: its place: its number in its pipeline, after the places of the pipelines around that, outermost first.
        pipelines: the names of these pipelines; that of the policy's own pipeline is the last.
        worst: at the first attempt; None if the policy is never reached.
        idle: why the policy does nothing; None: it acts.
    """

    policy: str
    kind: str
    text: str
    path: tuple[int, ...]
    pipelines: tuple[str, ...]
    worst: WorstCase | None
    idle: str | None


@dataclass(frozen=True)
class Step:
    """One step of an outcome on its way to the caller: a policy that it reaches, and what that policy does with it."""

    policy: str
    does: str


@dataclass(frozen=True)
class Route:
    """The way of one kind of outcome from its origin to the caller.

    Attributes:
        end: the kind of outcome.
        origin: the source of the outcome: the settings of a policy, or "the function".
        steps: of the policies that it reaches, innermost first; policies that do nothing are left out.
        caller: a text about the outcome that the caller gets.
    """

    end: str
    origin: str
    steps: tuple[Step, ...]
    caller: str


@dataclass(frozen=True)
class Idle:
    """A policy that never acts, and why."""

    policy: str
    why: str


@dataclass(frozen=True)
class Behind:
    """The outer pipeline, if its function makes the call through the pipeline that is explained.

    Attributes:
        name: of the outer pipeline.
        worst, long_run: of both pipelines together.
        alone: requests of the outer pipeline alone.
        once: whether the inner pipeline leaves retries to the outer one.
    """

    name: str
    worst: WorstCase
    long_run: LongRun
    alone: Bound
    once: bool
