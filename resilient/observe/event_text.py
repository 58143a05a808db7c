"""An event as one line of text with a level, for logs and reports: `users: CircuitBreaker: closed -> open: 5 failures
in a row`."""

from __future__ import annotations

import logging

from resilient import events
from resilient.events import Event

__all__ = ["level_of", "text_of"]


def text_of(event: Event) -> str:
    """Return one line about an event: the names of its pipeline and its policy, and a few words.

    Characters that are not printable are escaped: a line break in a name would end the line.
    """
    match event:
        case events.AttemptStarted():
            what = f"attempt {event.attempt} of {event.function}"
        case events.AttemptFailed():
            what = f"attempt {event.attempt} of {event.function} failed after {event.elapsed:.3g} s{_by(event.error)}"
        case events.AttemptReturned():
            bad = ", with a result that is a failure" if event.failed else ""
            what = f"attempt {event.attempt} of {event.function} returned after {event.elapsed:.3g} s{bad}"
        case events.CallEnded():
            plural = "s"[: event.requests != 1]
            what = (
                f"{event.function} ended after {event.elapsed:.3g} s and {event.requests} request{plural}"
                f"{_by(event.error)}: {event.ending}"
            )
        case events.Retrying():
            follows = "would have followed" if event.shadow else "follows"
            what = f"attempt {event.attempt} failed{_by(event.error)}, the next {follows} in {event.wait:.3g} s"
        case events.GaveUp():
            what = (
                f"gave up after {event.attempts} attempt{'s'[: event.attempts != 1]}{_by(event.error)}: {event.reason}"
            )
        case events.Hedging():
            what = f"copy {event.copy} of a call {'would have begun' if event.shadow else 'begins'} ({event.reason})"
        case events.HedgeWon():
            what = f"copy {event.copy} of {event.copies} won"
        case events.BudgetExhausted():
            what = f"no {event.what}: the budget for extra requests is exhausted"
        case events.FellBack():
            what = f"answered in place of a call that failed{_by(event.error)}"
        case events.AbandonedEnded():
            what = f"abandoned work ended after {event.elapsed:.3g} s{_by(event.error)}"
        case events.Queued():
            what = f"a call waits as number {event.position} in the queue"
        case events.Waited():
            what = f"a call waited {event.seconds:.3g} s ({event.why})"
        case events.CallRejected():
            what = f"{'would have ' if event.shadow else ''}refused a call: {event.reason}"
        case events.CallTimedOut():
            what = f"a call timed out after {event.seconds:g} s"
        case events.FaultInjected():
            what = f"injected a fault: {event.fault}"
        case events.ChaosHalted():
            what = f"halted: {event.reason}"
        case events.LimitChanged():
            what = f"limit {event.old} -> {event.new}: {event.reason}"
        case events.CircuitChanged():
            what = f"{event.old} -> {event.new}: {event.reason}"
        case _:
            what = type(event).__name__
    text = ": ".join(part for part in (event.pipeline, getattr(event, "policy", ""), what) if part)
    return text if text.isprintable() else _escaped(text)


def level_of(event: Event) -> int:
    """Return the level of an event, of the standard library's `logging`: what is a warning (the table is in
    `resilient.observe.logging`)."""
    match event:
        case events.AttemptStarted() | events.AttemptFailed() | events.HedgeWon() | events.LimitChanged():
            return logging.DEBUG
        case events.CircuitChanged(new="open" | "isolated") | events.GaveUp() | events.CallTimedOut():
            return logging.WARNING
        case events.ChaosHalted():
            return logging.WARNING
        case events.CallRejected(shadow=False) | events.BudgetExhausted() | events.FellBack():
            return logging.WARNING
        case events.AbandonedEnded(error=BaseException()):
            return logging.WARNING
    return logging.INFO


def _by(error: BaseException | None) -> str:
    return "" if error is None else f" with {type(error).__name__}"


def _escaped(text: str) -> str:
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
