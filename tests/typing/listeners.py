"""A listener of everything can match all kinds of events, and a type checker sees whether it does."""

from __future__ import annotations

from typing import assert_never

from resilient import Bulkhead, Pipeline
from resilient.events import AnyEvent, CallEnded, CallRejected, CircuitChanged


def short(event: AnyEvent) -> str:
    match event:
        case CallEnded():
            return event.ending
        case CircuitChanged(new=state):
            return state
        case _:
            return event.pipeline


def complete(event: CallEnded | CallRejected) -> str:
    match event:
        case CallEnded():
            return event.ending
        case CallRejected():
            return event.reason
        case _:
            assert_never(event)


def incomplete(event: AnyEvent) -> str:
    match event:
        case CallEnded():
            return event.ending
        case _:
            assert_never(event)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


Pipeline(Bulkhead(1), name="users").listen(short)
