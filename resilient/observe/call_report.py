"""The report of one guarded call as plain data, from its history (`resilient.core.history`).

    {"pipeline": "users", "key": "eu-1",
     "function": "get_user",        of a request its method: "GET request"
     "ended": "failure",            "success", "failure", "timeout", "rejected", "cancelled", or "fallback"
     "attempts": 3,                 the number of attempts
     "policy": "Retry",             the policy that ended the attempts, and
     "reason": "attempts spent",    its reason, as text
     "code": "attempts",            and as a code of few values, as in `resilient.retries.ended`; "" for all three: none
     "deadline_left": 1.71,         seconds that were left then until the deadline of the call; None without one
     "seconds": 0.265,              from the first to the last step
     "left_out": 0,                 steps that are not in the list: it has the first 5 and the last 10
     "steps": [{"at": 0.0, "what": "attempt", "number": 1, "seconds": 0.012, ...}, ...]}

Times are seconds, `at` from the first step. Each step has what is known of it:

    what            the fields besides `at`
    success         number, seconds, queued: the attempt that succeeded
    attempt         number, seconds (without queues), queued, error (the name of its class), status, text, asked (the
                    pause that the dependency asked for)
    pause           seconds, policy, asked
    copy started    number, reason: "delay" or "failure"
    copy failed     number, error, status, text, asked
    copy won        number
    timeout         number (of the attempt), seconds, queued, policy
    fallback        policy

`text` is that of an error of this library. The text of other errors is not kept: it may quote what was sent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from resilient.core.history import Recorded
from resilient.observe.call_steps import Step, Steps, steps_of
from resilient.observe.evidence import qualified_name

__all__ = ["as_json", "report_of"]


def as_json(recorded: Recorded) -> dict[str, Any]:
    """Return the report of a call that has returned a result."""
    found = steps_of(recorded.history, recorded.elapsed)
    last = found.steps[-1].kind if found.steps else None
    ended = "fallback" if last == "fallback" else "failure" if found.reason and last != "success" else "success"
    return report_of(recorded, found, ended, max(1, found.attempts))


def report_of(recorded: Recorded, found: Steps, ended: str, attempts: int) -> dict[str, Any]:
    """Return the report of a call with the steps `found`."""
    shown = found.steps
    if not any(step.kind == "copy started" for step in shown):  # the failure of an only copy is that of the attempt
        shown = [step for step in shown if not step.kind.startswith("copy")]
    begin = min(map(_begin, shown), default=0.0)
    first = shown[0] if shown else None
    if first is not None and first.kind == "attempt" and first.seconds is None and begin < first.at - first.queued:
        shown[0] = replace(first, seconds=first.at - first.queued - begin)  # a Timeout knows when the call began
    return {
        "pipeline": recorded.pipeline,
        "function": recorded.function,
        "key": recorded.key,
        "ended": ended,
        "attempts": attempts,
        "policy": found.policy,
        "reason": str(found.reason),
        "code": getattr(found.reason, "code", ""),
        "deadline_left": None if found.left is None else _rounded(found.left),
        "seconds": _rounded(_end(shown[-1]) - begin) if shown else 0.0,
        "left_out": found.left_out,
        "steps": [_as_json(step, begin) for step in shown],
    }


def _begin(step: Step) -> float:
    """The time at which a step began, as far as it is known."""
    match step.kind:
        case "attempt" | "success":
            return step.at - (step.seconds or 0.0) - step.queued
        case "timeout":
            return step.at - (step.seconds or 0.0)
    return step.at


def _end(step: Step) -> float:
    """The time at which a step ended."""
    return step.at + (step.seconds or 0.0) if step.kind == "pause" else step.at


def _rounded(seconds: float) -> float:
    return round(seconds, 6)


def _as_json(step: Step, begin: float) -> dict[str, Any]:
    """One step, with the fields that its kind has."""
    at = step.at if step.kind == "timeout" else _begin(step)
    data: dict[str, Any] = {"at": _rounded(at - begin), "what": step.kind}
    seconds = None if step.seconds is None else _rounded(step.seconds)
    failure = {
        "error": None if step.error is None else qualified_name(step.error),
        "status": step.status,
        "text": step.text,
        "asked": step.asked,
    }
    match step.kind:
        case "attempt":
            return data | {"number": step.number, "seconds": seconds, "queued": _rounded(step.queued)} | failure
        case "success":
            return data | {"number": step.number, "seconds": seconds, "queued": _rounded(step.queued)}
        case "pause":
            return data | {"seconds": seconds, "policy": step.text, "asked": step.asked}
        case "copy started":
            return data | {"number": step.number, "reason": step.text}
        case "copy failed":
            return data | {"number": step.number} | failure
        case "timeout":
            limit = {"number": step.number, "seconds": seconds, "queued": _rounded(step.queued), "policy": step.text}
            return data | limit
        case "copy won":
            return data | {"number": step.number}
    return data | {"policy": step.text}  # a fallback
