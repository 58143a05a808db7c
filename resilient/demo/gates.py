"""The gates: conditions for `resilient demo` to exit with 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resilient.demo.load import Record
from resilient.demo.tally import Tally

__all__ = ["LATE_SECONDS", "Gate", "judge", "machine"]

RESILIENT_SUCCESS = 0.99
PLAIN_SUCCESS = 0.97  # a plain client with more success met no faults, so the run has shown nothing
REQUESTS_PER_CALL = 1.2  # more requests would be at the cost of other users of the service
LATE_SECONDS = 0.1  # a server of the demo answers in some 15 ms, errors sooner
LATE_SHARE = 0.1  # the faults alone make 2 in 100 late


@dataclass(frozen=True, slots=True)
class Gate:
    """A figure and its limit. A figure of None, without calls, does not pass."""

    name: str
    value: float | None
    comparison: Literal[">=", "<="]
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the figure is within the limit."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.comparison == ">=" else self.value <= self.limit


def judge(plain: Tally, resilient: Tally, requests_per_call: float | None) -> list[Gate]:
    """The three gates about the two sides."""
    return [
        Gate("resilient_success_rate", resilient.success_rate, ">=", RESILIENT_SUCCESS),
        Gate("plain_success_rate", plain.success_rate, "<=", PLAIN_SUCCESS),
        Gate("resilient_requests_per_call", requests_per_call, "<=", REQUESTS_PER_CALL),
    ]


def machine(plain: Sequence[Record]) -> Gate:
    """Whether this machine is fast enough for the load: the share of the plain client's calls that end late.

    No policy affects these calls, and the faults make few of them late. So if many are late, the machine is too slow
    for the schedule, and the figures of both sides show only its queues.
    """
    late = sum(record.latency > LATE_SECONDS for record in plain)
    return Gate("plain_late_share", late / len(plain) if plain else None, "<=", LATE_SHARE)
