"""The verdict: what a run must show for `resilient demo` to exit with 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resilient.demo.tally import Tally

__all__ = ["Gate", "judge"]

RESILIENT_SUCCESS = 0.99
PLAIN_SUCCESS = 0.97  # a plain client that does better met no faults, and the run has shown nothing
REQUESTS_PER_CALL = 1.2  # more would take from the service's other users what it gives to us


@dataclass(frozen=True, slots=True)
class Gate:
    """A figure and the limit it must keep; None, when there were no calls, keeps none."""

    name: str
    value: float | None
    comparison: Literal[">=", "<="]
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the limit is kept."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.comparison == ">=" else self.value <= self.limit


def judge(plain: Tally, resilient: Tally, requests_per_call: float | None) -> list[Gate]:
    """The three gates."""
    return [
        Gate("resilient_success_rate", resilient.success_rate, ">=", RESILIENT_SUCCESS),
        Gate("plain_success_rate", plain.success_rate, "<=", PLAIN_SUCCESS),
        Gate("resilient_requests_per_call", requests_per_call, "<=", REQUESTS_PER_CALL),
    ]
