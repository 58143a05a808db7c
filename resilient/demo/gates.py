"""The verdict: what a run must show for `resilient demo` to exit with 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resilient.demo.load import Record
from resilient.demo.tally import Tally

__all__ = ["LATE_SECONDS", "Gate", "judge", "machine"]

RESILIENT_SUCCESS = 0.99
PLAIN_SUCCESS = 0.97  # a plain client that does better met no faults, and the run has shown nothing
REQUESTS_PER_CALL = 1.2  # more would take from the service's other users what it gives to us
LATE_SECONDS = 0.1  # a server of the demo answers in some 15 ms, errors sooner
LATE_SHARE = 0.1  # the faults alone make 2 in 100 late


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


def machine(plain: Sequence[Record]) -> Gate:
    """Whether this machine keeps up with the load: the share of the plain client's calls that end late.

    No policy touches these calls, and the faults make few of them late. So where many are, the machine is too slow for
    the schedule, and the figures of both sides are about its queues.
    """
    late = sum(record.latency > LATE_SECONDS for record in plain)
    return Gate("plain_late_share", late / len(plain) if plain else None, "<=", LATE_SHARE)
