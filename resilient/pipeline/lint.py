"""Lint: finds, when a pipeline is built, settings that cannot work: a wrong order of policies, or a plan that does not
fit its total.

Each finding says what is wrong, why it matters, and what to write instead. The rules read the facts that policies state
about themselves (`Policy.facts`), not their classes, so they hold for users' policies, too.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from resilient.core.policy import Policy
from resilient.errors import PipelineError, PipelineWarning

__all__ = ["Finding", "examine", "examine_stack", "report"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One order or setting that cannot work: what is wrong, why, and what to write instead; all as parts of a
    sentence."""

    what: str
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. Instead: {self.instead}."


def examine(policies: Sequence[Policy]) -> list[Finding]:
    """The findings about the policies of a pipeline, which are given outermost first."""
    rules = (
        *(_limits, _by_evidence, _repeats, _twice, _plans, _evidence, _budgets),
        *(_quotas, _outliving, _lingering, _substitutes, _injections),
    )
    return [finding for rule in rules for finding in rule(policies)]


def examine_stack(outer: Sequence[Policy], inner: Sequence[Policy]) -> list[Finding]:
    """The findings that two decorators of one function have only together: `outer` is above `inner`."""
    if any(map(_repeats_calls, outer)):  # then a Retry with nested="once" makes one attempt
        inner = [policy for policy in inner if not policy.facts.leaves_repeating]
    known = {*examine(outer), *examine(inner)}
    return [finding for finding in examine([*outer, *inner]) if finding not in known]


def report(findings: Sequence[Finding], where: str, *, strict: bool) -> None:
    """Warn of findings (`PipelineWarning`), in one message that begins with `where`; with `strict` raise a
    `PipelineError`. Does nothing without findings."""
    if not findings:
        return
    message = where + "; ".join(str(finding) for finding in findings)
    if strict:
        raise PipelineError(message)
    warnings.warn(message, PipelineWarning, stacklevel=_level_of_the_user())


def _level_of_the_user() -> int:
    """The `stacklevel` with which a warning by this function's caller points at the user's line: the innermost frame
    outside this library."""
    frame, level = sys._getframe(1), 1
    while frame.f_globals.get("__name__", "").partition(".")[0] == "resilient" and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    return level


def _repeats_calls(policy: Policy) -> bool:
    return policy.facts.repeats


def _order(first: Policy, then: Policy) -> str:
    """The right order of two policies, as a text: the names of their classes, or, if the classes are the same, of
    their kinds (`Policy._noun`)."""
    if type(first) is type(then):
        return f"{first._noun} first, then {then._noun}"
    return f"{type(first).__name__} first, then {type(then).__name__}"


def _limits(policies: Sequence[Policy]) -> list[Finding]:
    """Finds inner limits that can never be reached."""
    found = []
    for at, outer in enumerate(policies):
        for inner in policies[at + 1 :]:
            most, limit = outer.facts.time_limit, inner.facts.time_limit
            if most is None or limit is None or limit < most:
                continue
            found.append(
                Finding(
                    f"{inner} stands inside {outer}",
                    "the outer limit ends the call first, so the inner one never acts",
                    f"an inner Timeout shorter than {most:g} s, or none",
                )
            )
    return found


def _by_evidence(policies: Sequence[Policy]) -> list[Finding]:
    """Finds gates that decide by evidence outside a queue or outside a retry."""
    found = []
    for at, gate in enumerate(policies):
        if not gate.facts.by_evidence:
            continue
        for inner in policies[at + 1 :]:
            if inner.facts.waits:
                found.append(
                    Finding(
                        f"{gate} stands outside {inner}",
                        "it admits calls that then wait in a queue, and are sent although the dependency may be known "
                        "to be dead by then",
                        _order(inner, gate),
                    )
                )
            if _repeats_calls(inner):
                found.append(
                    Finding(
                        f"{gate} stands outside {inner}",
                        "it sees one failure where several attempts failed, opens late, and cannot stop the attempts",
                        _order(inner, gate),
                    )
                )
    return found


def _repeats(policies: Sequence[Policy]) -> list[Finding]:
    """Finds retries whose attempts multiply with each other."""
    repeating = [policy for policy in policies if _repeats_calls(policy) and not policy.facts.overlaps]
    if len(repeating) < 2:
        return []
    counts = [policy.facts.runs for policy in repeating]
    total = "without limit"
    if None not in counts:
        product = 1
        for each in counts:
            product *= each or 1
        total = f"{product} times"
    return [
        Finding(
            " and ".join(str(policy) for policy in repeating) + " stand in one pipeline",
            f"their attempts multiply: one call may be sent {total}",
            f"one {type(repeating[0]).__name__} with the number of attempts that you want",
        )
    ]


def _twice(policies: Sequence[Policy]) -> list[Finding]:
    """Finds one instance of a policy in two places."""
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
    """Finds attempts that do not fit into the total limit, or that are never made."""
    found = []
    for at, repeating in enumerate(policies):
        if not _repeats_calls(repeating):
            continue
        limit, pause = _longest(policies[at + 1 :]), repeating.facts.pause or 0.0
        totals = [policy.facts.time_limit for policy in policies[:at] if policy.facts.time_limit is not None]
        needed = repeating._takes(limit or 0.0)
        what = "copies" if repeating.facts.overlaps else "attempts"
        if totals and repeating.facts.least_pause >= min(totals):
            found.append(
                Finding(
                    f"{repeating} stands inside a limit of {min(totals):g} s",
                    "no pause between its attempts ends before that, so there is never a second one",
                    f"pauses well below {min(totals):g} s, or none of it",
                )
            )
        elif repeating.facts.runs is None:
            if totals and min(totals) <= repeating.facts.ends_after < math.inf:
                found.append(
                    Finding(
                        f"{repeating} stands inside a limit of {min(totals):g} s",
                        "that limit ends the call first, so the condition that is to end the attempts is never reached",
                        f"an end of the attempts well before {min(totals):g} s, or a number of them",
                    )
                )
        elif totals and needed > min(totals):
            each = f" with {limit:g} s an attempt" if limit else ""
            tries = f"{repeating.facts.runs} {what} that time out" if limit else f"{repeating.facts.runs} {what}"
            waits = f", with up to {pause:.3g} s between them," if pause else ""
            found.append(
                Finding(
                    f"{repeating}{each} does not fit into {min(totals):g} s",
                    f"{tries}{waits} take {needed:.3g} s, so the last of them are cut off or never made",
                    f"a total of at least {needed:.3g} s, fewer {what}, or shorter limits and waits",
                )
            )
        if repeating.facts.overlaps and limit is not None and repeating.facts.head_start >= limit:
            found.append(
                Finding(
                    f"{repeating} stands outside a limit of {limit:g} s",
                    "a copy has ended by the time that the next one is due, so nothing is ever hedged",
                    f"a delay well below {limit:g} s",
                )
            )
    return found


def _longest(policies: Sequence[Policy]) -> float | None:
    """The most seconds that a run of these policies can take; None if nothing limits it."""
    longest: float | None = None
    for policy in reversed(policies):
        facts = policy.facts
        if facts.time_limit is not None:
            longest = facts.time_limit if longest is None else min(longest, facts.time_limit)
        elif facts.inactive is None and longest is not None and facts.runs is not None and facts.pause is not None:
            longest = longest * (1 if facts.overlaps else facts.runs) + facts.pause
    return longest


def _evidence(policies: Sequence[Policy]) -> list[Finding]:
    """Finds gates that can never get the evidence that they need."""
    found = []
    for at, gate in enumerate(policies):
        limits = [policy.facts.time_limit for policy in policies[at + 1 :] if policy.facts.time_limit is not None]
        if gate.facts.slow_from is not None and limits and min(limits) < gate.facts.slow_from:
            found.append(
                Finding(
                    f"{gate} stands outside a limit of {min(limits):g} s",
                    "no call is ever as slow as it asks for, so it never opens",
                    f"slow= below {min(limits):g} s",
                )
            )
        if gate.facts.needs is None:
            continue
        calls, seconds = gate.facts.needs
        for pacer, most in _paces(policies, at, seconds):
            if most < calls:
                found.append(
                    Finding(
                        f"{gate} stands in one pipeline with {pacer}",
                        f"it needs {calls} calls in {seconds:g} s, and never gets more than {most:.4g}",
                        f"min_calls of at most {max(1, int(most))}, a longer window, or fail_max",
                    )
                )
    return found


def _paces(policies: Sequence[Policy], at: int, seconds: float) -> list[tuple[Policy, float]]:
    """The policies that limit the calls through the policy at place `at`, each with the most calls in these seconds."""
    found = []
    for place, pacer in enumerate(policies):
        if pacer.facts.pace is None or pacer.facts.inactive is not None:
            continue
        burst, rate = pacer.facts.pace
        most = burst + rate * seconds
        for between in policies[place + 1 : at]:  # where it stands outside
            most = math.inf if between.facts.runs is None else most * between.facts.runs
        found.append((pacer, most))
    return found


def _budgets(policies: Sequence[Policy]) -> list[Finding]:
    """Finds budgets that never have a whole token, or fewer tokens than their policy needs."""
    found = []
    for policy in policies:
        wanted = 2 * policy.facts.extra
        if policy.facts.budget is not None and policy.facts.budget.ratio < wanted - 1e-9:
            found.append(
                Finding(
                    f"{policy} is paid for by {policy.facts.budget}",
                    f"a further copy of {policy.facts.extra:.3g} of the calls needs twice that, because late calls "
                    "come in bursts: with less, the budget is empty when it is needed",
                    f"a ratio of at least {wanted:.3g}, or a higher quantile",
                )
            )
    for at, policy in enumerate(policies):
        budget = policy.facts.budget
        if budget is None or budget.reserve >= 1:
            continue
        for pacer, calls in _paces(policies, at, budget.ttl):
            tokens = budget.reserve + budget.ratio * calls
            if tokens < 1:
                found.append(
                    Finding(
                        f"{policy} is paid for by {budget} in one pipeline with {pacer}",
                        f"these few successes never earn more than {tokens:.2g} tokens before they fade, and a further "
                        "request costs 1",
                        "a reserve of at least 1, a larger ratio, or a longer ttl",
                    )
                )
    return found


def _quotas(policies: Sequence[Policy]) -> list[Finding]:
    """Finds quotas that do not count further attempts."""
    return [
        Finding(
            f"{quota} stands outside {inner}",
            "only the first attempt of a call is counted, so the others are sent beyond the quota",
            _order(inner, quota),
        )
        for at, quota in enumerate(policies)
        for inner in policies[at + 1 :]
        if quota.facts.metered and quota.facts.inactive is None and _repeats_calls(inner)
    ]


def _outliving(policies: Sequence[Policy]) -> list[Finding]:
    """Finds gates whose permit is released while work of the call continues. (A call has one permit, so it could not be
    kept for the work of each attempt.)"""
    return [
        Finding(
            f"{gate} stands outside {inner}",
            "work that the inner policy leaves running continues after the call's permit has been released, so more "
            "runs at a time than there are permits",
            _order(inner, gate),
        )
        for at, gate in enumerate(policies)
        for inner in policies[at + 1 :]
        if gate.facts.permits and gate.facts.inactive is None and inner.facts.outlived
    ]


def _lingering(policies: Sequence[Policy]) -> list[Finding]:
    """Finds policies that let losing copies run, without a limit that ends them."""
    return [
        Finding(
            f"{policy} leaves losers to end by themselves",
            "nothing inside it ends a loser that hangs, so in the end there is no room for more, and nothing is hedged",
            f"{policy}, then a Timeout for each copy",
        )
        for at, policy in enumerate(policies)
        if policy.facts.lingers and all(inner.facts.time_limit is None for inner in policies[at + 1 :])
    ]


def _substitutes(policies: Sequence[Policy]) -> list[Finding]:
    """Finds substitutes that hide failures from policies that act on failures."""
    return [
        Finding(
            f"{inner} stands inside {outer}",
            "it answers for every failure, so the policy outside it never sees one",
            _order(inner, outer),
        )
        for at, outer in enumerate(policies)
        for inner in policies[at + 1 :]
        if inner.facts.substitutes and (outer.facts.by_evidence or _repeats_calls(outer))
    ]


def _injections(policies: Sequence[Policy]) -> list[Finding]:
    """Finds injected faults that never reach some policies."""
    return [
        Finding(
            f"{chaos} stands outside {inner}",
            "it takes the place of the dependency, so its faults never reach the policy inside it",
            _order(inner, chaos) + ", innermost",
        )
        for at, chaos in enumerate(policies)
        for inner in policies[at + 1 :]
        if chaos.facts.injects and not inner.facts.injects
    ]
