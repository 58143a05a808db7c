"""Finds, when a pipeline is built, what could never work: a wrong order, or a plan that does not fit its total.

Each finding says what is wrong, why it matters, and what to write instead. The rules go by the facts that policies
state about themselves (`Policy.judges`, `waits`, `runs`, `limit`, `pause`), not by their classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resilient.policy import Policy

__all__ = ["Finding", "examine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that cannot work as one would expect."""

    what: str
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. Instead: {self.instead}."


def examine(policies: Sequence[Policy]) -> list[Finding]:
    """The findings about a pipeline's policies, outermost first."""
    return [*_limits(policies), *_judges(policies), *_repeats(policies), *_twice(policies), *_plans(policies)]


def _repeats_calls(policy: Policy) -> bool:
    return policy.runs != 1


def _limits(policies: Sequence[Policy]) -> list[Finding]:
    """An inner limit that can never be reached."""
    found = []
    for at, outer in enumerate(policies):
        for inner in policies[at + 1 :]:
            if outer.limit is None or inner.limit is None or inner.limit < outer.limit:
                continue
            found.append(
                Finding(
                    f"{inner} stands inside {outer}",
                    "the outer limit ends the call first, so the inner one never acts",
                    f"an inner Timeout shorter than {outer.limit:g} s, or none",
                )
            )
    return found


def _judges(policies: Sequence[Policy]) -> list[Finding]:
    """Judges in the wrong place: outside a queue, outside a retry."""
    found = []
    for at, judge in enumerate(policies):
        if not judge.judges:
            continue
        for inner in policies[at + 1 :]:
            if inner.waits:
                found.append(
                    Finding(
                        f"{judge} stands outside {inner}",
                        "it admits calls that then wait in a queue, and go on to a dependency that may be known to be "
                        "dead by then",
                        f"{type(inner).__name__} first, then {type(judge).__name__}",
                    )
                )
            if _repeats_calls(inner):
                found.append(
                    Finding(
                        f"{judge} stands outside {inner}",
                        "it sees one failure where several attempts failed, opens late, and cannot stop the attempts",
                        f"{type(inner).__name__} first, then {type(judge).__name__}",
                    )
                )
    return found


def _repeats(policies: Sequence[Policy]) -> list[Finding]:
    """Retries that multiply."""
    repeating = [policy for policy in policies if _repeats_calls(policy)]
    if len(repeating) < 2:
        return []
    counts = [policy.runs for policy in repeating]
    total = "without end"
    if None not in counts:
        product = 1
        for each in counts:
            product *= each or 1
        total = f"{product} times"
    return [
        Finding(
            " and ".join(str(policy) for policy in repeating) + " stand in one pipeline",
            f"their attempts multiply: one call may be sent {total}",
            f"one {type(repeating[0]).__name__} with the attempts that you mean",
        )
    ]


def _twice(policies: Sequence[Policy]) -> list[Finding]:
    """One instance in two places."""
    found = []
    seen: set[int] = set()
    for policy in policies:
        if id(policy) in seen:
            found.append(
                Finding(
                    f"the same {policy} stands in the pipeline twice",
                    "an instance is its state: a call would hold two of its permits, or be counted twice",
                    "two instances, or one place",
                )
            )
        seen.add(id(policy))
    return found


def _plans(policies: Sequence[Policy]) -> list[Finding]:
    """Retry plans that cannot be carried out within their total."""
    found = []
    for at, retry in enumerate(policies):
        totals = [policy.limit for policy in policies[:at] if policy.limit is not None]
        limits = [policy.limit for policy in policies[at + 1 :] if policy.limit is not None]
        if not _repeats_calls(retry) or retry.runs is None or not totals:
            continue
        total, limit, pause = min(totals), min(limits, default=0.0), retry.pause or 0.0
        needed = retry.runs * limit + pause
        if needed > total:
            each = f" with {limit:g} s an attempt" if limits else ""
            tries = f"{retry.runs} attempts that time out" if limits else f"{retry.runs} attempts"
            waits = f", with up to {pause:.3g} s between them," if pause else ""
            found.append(
                Finding(
                    f"{retry}{each} does not fit into {total:g} s",
                    f"{tries}{waits} take {needed:.3g} s, so the last of them are never made or cut off",
                    f"a total of at least {needed:.3g} s, fewer attempts, or shorter limits and waits",
                )
            )
    return found
