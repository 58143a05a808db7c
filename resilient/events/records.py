"""The events that happen to calls: a frozen record for each kind of event.

The records have no slots, so that code that makes one for each call can fill its dictionary at once
(`resilient.core.emit`). The `__init__` of a frozen dataclass calls `object.__setattr__` for each field, which takes
four times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "AbandonedEnded",
    "AnyEvent",
    "AttemptFailed",
    "AttemptReturned",
    "AttemptStarted",
    "BudgetExhausted",
    "CallEnded",
    "CallEnding",
    "CallRejected",
    "CallTimedOut",
    "ChaosHalted",
    "CircuitChanged",
    "Event",
    "FaultInjected",
    "FellBack",
    "GaveUp",
    "HedgeWon",
    "Hedging",
    "LimitChanged",
    "Queued",
    "Retrying",
    "VerdictKind",
    "Waited",
]


@dataclass(frozen=True)
class Event:
    """The fields of all events: the pipeline's name ("" when unnamed), and the time in seconds."""

    pipeline: str
    at: float


VerdictKind = Literal["success", "failure", "nothing"]
"""The verdict of the classifier on an outcome, the same for all policies: the evidence about the dependency. "nothing":
an error that the classifier ignores, a refusal, a cancellation, an answer of a Fallback, a mistake of the caller."""


@dataclass(frozen=True)
class AttemptStarted(Event):
    """The function itself is called, for the `attempt`-th time (from 1)."""

    attempt: int
    function: str


@dataclass(frozen=True)
class AttemptFailed(Event):
    """The function raised, after `elapsed` seconds; also by cancellation (`error` is then no `Exception`).

    `verdict`: the evidence about the dependency. For a cancelled attempt it is not known here: "nothing".
    """

    attempt: int
    function: str
    error: BaseException
    elapsed: float
    verdict: VerdictKind = "nothing"


@dataclass(frozen=True)
class AttemptReturned(Event):
    """The function returned, after `elapsed` seconds. `failed`: the classifier classifies the result as a failure. Then
    `status` is the HTTP status of the result, if it has one, and `retry_after` the pause in seconds that the result
    asks for, if any.

    For a streamed response the event comes when the body has ended, with the times of its head; `failed` if the body
    broke off.
    """

    attempt: int
    function: str
    elapsed: float
    failed: bool
    status: int | None = None
    retry_after: float | None = None


CallEnding = Literal["success", "failure", "timeout", "rejected", "cancelled"]
"""How a call ended for its caller:

"success": with a good result.
"failure": with an exception of the function, or a result that is classified as a failure.
"timeout": with `TimedOut`. "rejected": with a `Rejected`.
"cancelled": with something that is no `Exception`.
"""


@dataclass(frozen=True)
class CallEnded(Event):
    """A call of the guarded function is over, `elapsed` seconds after it began, with all that its policies did.

    `requests`: how often the function itself was called, hedges included; 0 when it was refused before. `error`: the
    error that the caller gets, or None. `verdict`: the evidence about the dependency.

    For a streamed response the event comes when the body has ended, with the times of its head: a "failure", with its
    error, if the body broke off; "cancelled" if its reader was cancelled, or did not read it.
    """

    function: str
    requests: int
    elapsed: float
    ending: CallEnding
    error: BaseException | None
    verdict: VerdictKind = "nothing"


@dataclass(frozen=True)
class Retrying(Event):
    """Attempt number `attempt` failed and another will follow after `wait` seconds. `error` is None for a result.

    With `shadow` True the policy is in shadow mode, and no other attempt follows.
    """

    policy: str
    attempt: int
    wait: float
    error: BaseException | None
    shadow: bool = False


@dataclass(frozen=True)
class GaveUp(Event):
    """Retries ended without success after `attempts`, because of `reason`."""

    policy: str
    attempts: int
    reason: str
    error: BaseException | None


@dataclass(frozen=True)
class Hedging(Event):
    """Copy number `copy` (from 2) of a call begins, because of `reason`: "delay" or "failure".

    With `shadow` True the policy is in shadow mode, and the copy does not begin.
    """

    policy: str
    copy: int
    reason: str
    shadow: bool = False


@dataclass(frozen=True)
class HedgeWon(Event):
    """Of the `copies` of a call, copy number `copy` (from 1, the primary) had the outcome that the caller gets."""

    policy: str
    copy: int
    copies: int


@dataclass(frozen=True)
class BudgetExhausted(Event):
    """An extra request (`what`: "retry" or "hedge") was not made, because the budget has no token for it."""

    policy: str
    what: str


@dataclass(frozen=True)
class FellBack(Event):
    """A Fallback answered in place of a call that failed with `error` (None: with a result that was classified as a
    failure)."""

    policy: str
    error: BaseException | None


@dataclass(frozen=True)
class AbandonedEnded(Event):
    """Work that its caller no longer waits for (`Timeout(abandon=True)`) ended, `elapsed` seconds after it began."""

    policy: str
    error: BaseException | None
    elapsed: float


@dataclass(frozen=True)
class Queued(Event):
    """The call waits for a permit, as number `position` (from 1) in the queue."""

    policy: str
    position: int


@dataclass(frozen=True)
class Waited(Event):
    """A wait ended after `seconds`: in a queue (`why="queue"`) or between attempts (`why="backoff"`)."""

    policy: str
    why: str
    seconds: float


@dataclass(frozen=True)
class CallRejected(Event):
    """A policy refused the call.

    With `shadow` True the policy is in shadow mode, and the call went on. `went_well`: whether it succeeded, if it has
    ended already (the policy would have refused it later, in a queue); else None. `would_wait`: the policy would not
    have refused the call, but made it wait.
    """

    policy: str
    reason: str
    retry_after: float | None
    shadow: bool = False
    went_well: bool | None = None
    would_wait: bool = False


@dataclass(frozen=True)
class CallTimedOut(Event):
    """A Timeout of `seconds` ended the call."""

    policy: str
    seconds: float


@dataclass(frozen=True)
class CircuitChanged(Event):
    """A circuit went from state `old` to `new`. Sent to every pipeline that shares the circuit."""

    policy: str
    old: str
    new: str
    reason: str


@dataclass(frozen=True)
class LimitChanged(Event):
    """An `AdaptiveLimit` found a new limit. Sent to every pipeline that shares it, once a window at the most."""

    policy: str
    old: int
    new: int
    reason: str


@dataclass(frozen=True)
class FaultInjected(Event):
    """Chaos injects a fault of this `kind` ("latency", "errors", ...) into a call; `fault` describes it.

    `seconds`: the delay of a latency; 0 for the other kinds.
    """

    policy: str
    kind: str
    fault: str
    seconds: float


@dataclass(frozen=True)
class ChaosHalted(Event):
    """Chaos stopped by itself, because more calls failed than its limit allows. Sent to every pipeline that contains
    the Chaos."""

    policy: str
    reason: str


AnyEvent: TypeAlias = (
    AttemptStarted
    | AttemptFailed
    | AttemptReturned
    | CallEnded
    | Retrying
    | GaveUp
    | Hedging
    | HedgeWon
    | BudgetExhausted
    | FellBack
    | AbandonedEnded
    | Queued
    | Waited
    | CallRejected
    | CallTimedOut
    | CircuitChanged
    | LimitChanged
    | FaultInjected
    | ChaosHalted
)
"""Every kind of event, for a `match` statement that a type checker examines for completeness."""
