"""The steps of a call, computed from its history: its attempts, pauses and copies with their times."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from resilient.core.history import (
    ATTEMPT,
    ENDED,
    FAILED,
    FALLBACK,
    FIRST,
    LAST,
    LEFT_OUT,
    PAUSE,
    STARTED,
    SUCCESS,
    TIMEOUT,
    WON,
    History,
    StepKind,
)

__all__ = ["Step", "Steps", "steps_of"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a call.

    Attributes:
        kind: what happened.
        at: when, in seconds on the clock of the call's runtime: at its end; a pause, at its begin.
        number: of the attempt, or of the copy (from 1).
        seconds: how long it took, without the time in local queues; None: not known.
        queued: the seconds in local queues before it.
        error: the class of the error; None: there was a result, or it is no failure.
        status: the HTTP status of a response, or of an error that has one; else None.
        text: the text of an error of this library; the reason of a copy; the name of the policy for the other kinds.
        asked: of a failure, the pause in seconds that the dependency asked for; else None.
    """

    kind: StepKind
    at: float
    number: int = 0
    seconds: float | None = None
    queued: float = 0.0
    error: type[BaseException] | None = None
    status: int | None = None
    text: str = ""
    asked: float | None = None


@dataclass(slots=True)
class Steps:
    """The steps of a call, oldest first, and the end of its retries.

    Attributes:
        steps: the first and the last ones.
        left_out: the number of steps between these.
        attempts: the number of the last attempt that was recorded.
        policy, reason: of the Retry that ended the attempts; "" while none has.
        left: the seconds until the deadline of the call at that time; None: it had none.
    """

    steps: list[Step] = field(default_factory=list)
    left_out: int = 0
    attempts: int = 0
    policy: str = ""
    reason: str = ""
    left: float | None = None


def steps_of(history: History, elapsed: float | None = None) -> Steps:
    """Return the steps of a history. `elapsed`: the duration of the first attempt, if it is known."""
    found, waited = Steps(), 0.0
    steps = found.steps
    gap: int | None = None
    for record in list(history):
        kind = record[0]
        if kind is LEFT_OUT:
            gap = len(steps)
            found.left_out += record[2]
        elif kind is ENDED:
            _, _, found.policy, found.reason, found.left = record
        elif kind in (ATTEMPT, SUCCESS):
            step = _attempt(record, waited)
            waited, found.attempts = record[4], step.number
            if step.seconds is None and step.number == 1:
                step = replace(step, seconds=elapsed)
            if steps and steps[-1].kind is TIMEOUT and kind is ATTEMPT:  # of this attempt
                limit = steps.pop()
                if step.seconds is None:
                    step = replace(step, seconds=limit.seconds)
            steps.append(step)
        else:
            steps.append(_other(record))
    _bound(found, gap)
    return found


def _attempt(record: tuple[Any, ...], waited: float) -> Step:
    """The step of an attempt. `waited`: `Call.waited` at its begin."""
    if record[0] is SUCCESS:
        _, at, number, begin, waited_now = record
        queued = max(0.0, waited_now - waited)
        return Step(SUCCESS, at, number, max(0.0, at - begin - queued), queued)
    _, at, number, begin, waited_now, error, status, text, asked = record
    queued = max(0.0, waited_now - waited)
    seconds = None if begin is None else max(0.0, at - begin - queued)
    return Step(ATTEMPT, at, number, seconds, queued, error, status, text, asked)


def _other(record: tuple[Any, ...]) -> Step:
    """The step of a record that is no attempt."""
    kind, at, *rest = record
    match kind:
        case "pause":
            policy, seconds, asked = rest
            return Step(PAUSE, at, seconds=seconds, text=policy, asked=asked)
        case "copy failed":
            number, error, status, text, asked = rest
            return Step(FAILED, at, number, error=error, status=status, text=text, asked=asked)
        case "timeout":
            number, policy, seconds, queued = rest
            return Step(TIMEOUT, at, number, seconds, queued, text=policy)
        case "copy started":
            return Step(STARTED, at, rest[0], text=rest[1])
        case "copy won":
            return Step(WON, at, rest[0])
    return Step(FALLBACK, at, text=rest[0])


def _bound(found: Steps, gap: int | None) -> None:
    """Leave out all steps but the first and the last. `gap`: the place of those that the history has dropped."""
    steps = found.steps
    if gap is None and len(steps) <= FIRST + LAST:
        return
    kept = [*steps[: min(FIRST, len(steps) if gap is None else gap)], *steps[max(FIRST, gap or 0) :][-LAST:]]
    found.left_out += len(steps) - len(kept)
    found.steps = kept
