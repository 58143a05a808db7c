"""The data of `resilient.why(error)` as a text for people: plain, at most 80 columns wide.

    ConnectionError: get_user failed in pipeline users
      retries ended: attempts spent (Retry, 3 attempts in 265 ms)

          0 ms  attempt 1        12 ms  ConnectionError
         12 ms  pause            87 ms
         99 ms  attempt 2        11 ms  ConnectionError

The times on the left are those at which a step began, from the first one; those in the middle say how long it took. The
begin of a first attempt is known only where a gate measures calls, or a Timeout ended it.
"""

from __future__ import annotations

import textwrap
from functools import partial
from typing import Any

from resilient.core.history import FIRST

__all__ = ["WIDTH", "duration", "timeline"]

WIDTH = 80
"""Columns of a line."""

_INDENT = "  "

_WRAP = partial(textwrap.wrap, width=WIDTH, break_long_words=False, break_on_hyphens=False)
"""Names and URLs stay in one piece, even those that are longer than a line."""

Data = dict[str, Any]


def timeline(data: Data) -> str:
    """Return the text of the data of a `Why`."""
    return "\n".join(_lines(data))


def duration(seconds: float) -> str:
    """Return a duration as people write it: "12 ms", "1.5 s", "3 min 20 s"."""
    if seconds < 0.9995:
        milliseconds = seconds * 1000
        digits = 0 if milliseconds >= 9.95 or not milliseconds else 1 if milliseconds >= 0.095 else 2
        return f"{milliseconds:.{digits}f} ms"
    if seconds < 119.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def _lines(data: Data) -> list[str]:
    calls: list[Data] = data["calls"]
    lines = _folded(_headline(data, calls), "", _INDENT)
    for text in _explanations(data, calls):
        lines += _folded(text, _INDENT, _INDENT * 2)
    for at, call in enumerate(calls):
        if at:
            lines += ["", *_folded(f"inside it, {_sentence(call)}", _INDENT, _INDENT * 2)]
            lines += [line for text in _ended(call) for line in _folded(text, _INDENT, _INDENT * 2)]
        steps = _steps(call)
        if steps:
            lines += ["", *steps]
    for number, member in enumerate(data["members"], 1):
        first, *rest = _lines(member)
        lines += ["", *_folded(f"{number}. {first}", _INDENT, _INDENT * 2), *(_INDENT * 2 + line for line in rest)]
    if data["cause"]:
        lines += ["", f"{_INDENT}its cause:", *(_INDENT + line if line else "" for line in _lines(data["cause"]))]
    return [line.rstrip() for line in lines]


def _folded(text: str, first: str, rest: str) -> list[str]:
    return _WRAP(text, initial_indent=first, subsequent_indent=rest) or [first]


def _short(name: str) -> str:
    """The name of a class without its module."""
    return name.rpartition(":")[2]


# -- what happened ---------------------------------------------------------------------------------------------------

_ENDED = {
    "success": "succeeded",
    "failure": "failed",
    "timeout": "timed out",
    "rejected": "was refused",
    "cancelled": "was cancelled",
    "fallback": "failed and was answered by a Fallback",
}


def _headline(data: Data, calls: list[Data]) -> str:
    """The first line: what failed, and where."""
    name = data["error"]
    if not calls:
        if name is None:
            return "no failed attempt is recorded: it succeeded at its first attempt, or was not guarded"
        if data["cleared"]:
            return f"{_short(name)}: a guarded call raised this error, but the frames of its traceback were cleared"
        return f"{_short(name)}: no guarded call raised this error"
    sentence = _sentence(calls[0])
    return sentence if name is None else f"{_short(name)}: {sentence}"


def _sentence(call: Data) -> str:
    """The end of a call, in a sentence: which function, how it ended, in which pipeline, for which key."""
    pipeline = f" in pipeline {call['pipeline']}" if call["pipeline"] else ""
    key = f" for {call['key']}" if call["key"] else ""
    return f"{call['function'].rpartition('<locals>.')[2]} {_ENDED[call['ended']]}{pipeline}{key}"


def _explanations(data: Data, calls: list[Data]) -> list[str]:
    """The sentences below the first line."""
    found: list[str] = []
    if data["text"]:
        found.append(data["text"])
    circuit = data["circuit"]
    if circuit is not None:
        ago = "" if circuit["ago"] is None else f" {duration(circuit['ago'])} before"
        period = "" if circuit["for"] is None else f", for {duration(circuit['for'])}"
        found.append(f"the circuit opened{ago}{period}: {circuit['opened']}")
    if data["evidence"] is False:
        found.append("it counts as no evidence against the dependency, which did not have that whole time")
    if data["facts"]:
        found.append(", ".join(f"{path} {value}" for path, value in data["facts"].items()))
    if calls:
        left = calls[0]["deadline_left"]
        found += _ended(calls[0])
        if left is not None:
            found.append(f"{duration(left)} were left until its deadline" if left > 0 else "its deadline had passed")
        return found
    found += [f"the pipeline {name} was switched off".replace("  ", " ") for name in data["switched_off"]]
    return found + [note.removeprefix("resilient: ") for note in data["notes"]]


def _ended(call: Data) -> list[str]:
    """The reason for which the attempts of a call ended, as a sentence; none if there is no reason."""
    if not call["policy"]:
        return [f"not repeated: {call['reason']}"] if call["reason"] else []
    plural = "s"[: call["attempts"] != 1]
    after = f" in {duration(call['seconds'])}" if call["seconds"] else ""
    return [f"retries ended: {call['reason']} ({call['policy']}, {call['attempts']} attempt{plural}{after})"]


# -- the steps -------------------------------------------------------------------------------------------------------


def _steps(call: Data) -> list[str]:
    """The timeline of a call. None is shown for a single attempt of which no duration is known."""
    steps: list[Data] = call["steps"]
    if len(steps) == 1 and steps[0]["what"] == "attempt" and steps[0]["seconds"] is None and not steps[0]["queued"]:
        return []
    rows: list[str] = []
    for at, step in enumerate(steps):
        if call["left_out"] and at == _first(call):
            rows.append(f"{'...':>10}  {call['left_out']} more steps")
        rows += _row(step)
    return rows


def _first(call: Data) -> int:
    """The number of steps before those that are left out."""
    return min(FIRST, len(call["steps"]))


def _row(step: Data) -> list[str]:
    """One step as a line, or as several if its text is long."""
    seconds: float | None = step.get("seconds")
    took = "" if seconds is None else duration(seconds)
    what, text = _words(step)
    start = f"{duration(step['at']):>10}  {what:<14}  {took:>8}  "
    return _WRAP(text, initial_indent=start, subsequent_indent=" " * len(start)) or [start]


def _words(step: Data) -> tuple[str, str]:
    """The name of a step, and the words about it."""
    match step["what"]:
        case "success":
            return f"attempt {step['number']}", f"succeeded{_queued(step)}"
        case "attempt":
            return f"attempt {step['number']}", f"{_failure(step)}{_queued(step)}"
        case "pause":
            asked = step["asked"]
            return "pause", "" if asked is None else f"{duration(asked)} of it asked for by the dependency"
        case "copy started":
            late = "no answer yet" if step["reason"] == "delay" else "a copy failed"
            return f"copy {step['number']}", f"started: {late}"
        case "copy failed":
            return f"copy {step['number']}", _failure(step)
        case "copy won":
            return f"copy {step['number']}", "its outcome counts"
        case "timeout":
            queued = f", {duration(step['queued'])} of it in local queues" if step["queued"] else ""
            return f"{step['policy']}", f"expired during attempt {step['number']}{queued}"
    return str(step["policy"]), "answered in place of the call"


def _queued(step: Data) -> str:
    return f", after {duration(step['queued'])} in local queues" if step["queued"] else ""


def _failure(step: Data) -> str:
    """The failure of an attempt, or of a copy. An error of this library has a text that says more than its class."""
    status = "" if step["status"] is None else f"status {step['status']}"
    name = "" if step["error"] is None or step["text"] else _short(step["error"])
    asked = "" if step["asked"] is None else f"asked for {duration(step['asked'])}"
    shown = [part for part in (name, status, step["text"], asked) if part]
    return ", ".join(shown) or "a result that is a failure"
