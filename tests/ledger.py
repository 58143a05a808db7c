"""What a policy learns, beside what is told: the two have to be the same."""

from __future__ import annotations

from typing import Any

from resilient import Pipeline, events
from resilient.core.facts import Facts
from resilient.core.gate import Gate

__all__ = ["Ledger", "Told"]


class Ledger(Gate):
    """Admits everybody, and notes what it learns: "success", "failure", or "nothing"."""

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


class Told:
    """What is told of a pipeline.

    Attributes:
        events: all of it, or those of the `kinds` that are wanted.
    """

    def __init__(self, pipeline: Pipeline, *kinds: type[events.Event]) -> None:
        self.events: list[Any] = []
        pipeline.listen(self.events.append, *kinds)

    @property
    def calls(self) -> list[events.CallEnded]:
        """The calls that have ended."""
        return [event for event in self.events if isinstance(event, events.CallEnded)]

    @property
    def verdicts(self) -> list[str]:
        """What was told of each attempt, in words of the ledger."""
        found = []
        for event in self.events:
            if isinstance(event, events.AttemptReturned):
                found.append("failure" if event.failed else "success")
            elif isinstance(event, events.AttemptFailed):
                found.append(event.verdict)
        return found
