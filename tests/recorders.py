"""Recorders of what a policy learns and of what listeners get: the verdicts of both must be the same."""

from __future__ import annotations

from typing import Any

from resilient import Pipeline, events
from resilient.core.facts import Facts
from resilient.core.gate import Gate

__all__ = ["EventRecorder", "LearningRecorder"]


class LearningRecorder(Gate):
    """A gate that admits every call, and records what it learns of each: "success", "failure" or "nothing"."""

    facts = Facts(learns=True)

    def __init__(self) -> None:
        super().__init__()
        self.learned: list[str] = []

    def admit(self, call: Any) -> object:
        return self

    def settle(self, ticket: object, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        self.learned.append("failure" if failed else "success")

    def release(self, ticket: object) -> None:
        self.learned.append("nothing")


class EventRecorder:
    """A listener of one pipeline that records its events.

    Attributes:
        events: all events, or those of the given `kinds`, in order.
    """

    def __init__(self, pipeline: Pipeline, *kinds: type[events.Event]) -> None:
        self.events: list[Any] = []
        pipeline.listen(self.events.append, *kinds)

    @property
    def calls(self) -> list[events.CallEnded]:
        """The CallEnded events, one for each call that has ended."""
        return [event for event in self.events if isinstance(event, events.CallEnded)]

    @property
    def verdicts(self) -> list[str]:
        """The verdict of each attempt, in the words of a `LearningRecorder`."""
        found = []
        for event in self.events:
            if isinstance(event, events.AttemptReturned):
                found.append("failure" if event.failed else "success")
            elif isinstance(event, events.AttemptFailed):
                found.append(event.verdict)
        return found
