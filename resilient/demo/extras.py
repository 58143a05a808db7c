"""The requests that the policies add to a load, and their outcomes, from the events of the policies."""

from __future__ import annotations

from dataclasses import dataclass, field

from resilient import events

__all__ = ["Extras"]


@dataclass(slots=True)
class Extras:
    """The moments of extra requests, in seconds into the run.

    Attributes:
        hedges: second copies that were started, because the first was late or had failed.
        won: calls whose result came from the second copy.
        retries: further attempts.
        refused: hedges and retries for which the budget had no token.
    """

    hedges: list[float] = field(default_factory=list)
    won: list[float] = field(default_factory=list)
    retries: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    @property
    def spent(self) -> int:
        """Tokens that the budget spent: each hedge and each retry costs one."""
        return len(self.hedges) + len(self.retries)

    def hear(self, event: events.Event, at: float) -> None:
        """Count an event, `at` seconds into the run, if it is one of these."""
        match event:
            case events.Hedging():
                self.hedges.append(at)
            case events.HedgeWon(copy=copy) if copy > 1:
                self.won.append(at)
            case events.Retrying():
                self.retries.append(at)
            case events.BudgetExhausted():
                self.refused.append(at)
