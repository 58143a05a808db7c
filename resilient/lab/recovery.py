"""Recovery: when a service has recovered from its faults.

*Recovery* is the time from the end of the last fault that ends to the start of the first five seconds in which at least
92% of the calls succeed; *never* if there are no such five seconds. A call counts in the second in which it is made:
late answers to calls made during the fault do not show that new calls succeed. Five seconds count only if at least ten
calls are made in them. If the calls end too early after the fault, or are too few, recovery is *not measurable*.
"""

from __future__ import annotations

from dataclasses import dataclass

from resilient.lab.run import Run

__all__ = ["Recovery", "recovery"]

ENOUGH, SECONDS, CALLS = 0.92, 5, 10
"""A service has recovered when this share of calls succeeds for this many seconds (N. Bronson et al., HotOS '21); and
the number of calls that these seconds need, for the share to be meaningful."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """The recovery of a run from its faults.

    Attributes:
        seconds: after the end of the last fault that ends; None: never, or not measurable.
        unmeasurable: why it cannot be measured, and what is needed; empty if it can.
    """

    seconds: float | None = None
    unmeasurable: str = ""

    @property
    def state(self) -> str:
        """The kind of this result: "measured", "never" or "not measurable"."""
        if self.unmeasurable:
            return "not measurable"
        return "never" if self.seconds is None else "measured"


def recovery(run: Run) -> Recovery:
    """The recovery of a run; the module's docstring says how it is measured."""
    duration, (_, over) = run.scenario.duration, run.scenario.calm
    if not over:
        return Recovery(unmeasurable="no fault of the scenario ends")
    count = int(duration - over + 1e-9)
    if count < SECONDS:
        return Recovery(
            unmeasurable=f"the last fault ends at {over:g} s and calls are made until {duration:g} s, which must be "
            f"{over + SECONDS:g} s at least"
        )
    made, good = [0] * count, [0] * count
    for begin, outcome in zip(run.begins, run.outcomes, strict=True):
        if over <= begin < over + count:
            made[int(begin - over)] += 1
            good[int(begin - over)] += outcome == 0
    most = 0
    for at in range(count - SECONDS + 1):
        calls = sum(made[at : at + SECONDS])
        most = max(most, calls)
        if calls >= CALLS and sum(good[at : at + SECONDS]) >= ENOUGH * calls:
            return Recovery(float(at))
    if most >= CALLS:
        return Recovery()
    return Recovery(
        unmeasurable=f"there are {most} calls at most in any {SECONDS} s after the last fault, and {CALLS} are needed"
    )
