"""The requests that the policies add to a load, and what became of them, as their events tell."""

from __future__ import annotations

from dataclasses import dataclass, field

from resilient import events

__all__ = ["Extras"]


@dataclass(slots=True)
class Extras:
    """When each of them was, in seconds into the run.

    Attributes:
        hedges: second copies that were started, because the first was late or had failed.
        won: calls for which the second copy had the answer that counted.
        retries: further attempts.
        refused: hedges and retries that the budget had no token for.
    """

    hedges: list[float] = field(default_factory=list)
    won: list[float] = field(default_factory=list)
    retries: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    @property
    def spent(self) -> int:
        """Tokens of the budget: each hedge and each retry costs one."""
        return len(self.hedges) + len(self.retries)

    def hear(self, event: events.Event, at: float) -> None:
        """Count an event, `at` seconds into the run, if it is about them."""
        match event:
            case events.Hedging():
                self.hedges.append(at)
            case events.HedgeWon(copy=copy) if copy > 1:
                self.won.append(at)
            case events.Retrying():
                self.retries.append(at)
            case events.BudgetExhausted():
                self.refused.append(at)
