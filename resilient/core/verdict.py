"""Verdicts: what one outcome means for the policies of a pipeline, and the verdicts that most outcomes have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal, get_args

from resilient import _validation

__all__ = [
    "FAILURE",
    "FATAL",
    "IGNORED",
    "REFUSED",
    "SUCCESS",
    "UNTRUSTED",
    "WAITED",
    "Kind",
    "Verdict",
    "failure_after",
    "together",
]

Kind = Literal["success", "failure", "nothing"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The meaning of one outcome.

    Attributes:
        kind: the evidence about the dependency: "success", "failure", or "nothing".
        retryable: whether the same call may end better later.
        retry_after: seconds that the dependency asked to wait before that; None if it did not ask. A value that makes
            no sense (NaN, infinite, negative, not a number) becomes None, because it comes from outside.
        final: whether repeating is unsafe or pointless. No policy repeats the call then, not even `Retry(on=...)`.
        refused: whether the call was refused on this side, by a policy or another library: nothing was sent. A Retry
            does not repeat it and keeps the failure that came before, a Hedge goes on elsewhere, a Fallback answers.
        worth_repeating: whether another attempt may end better than this one. (Policies also look at `final`.) Derived
            from the fields above, as is the next.
        unanswered: whether the caller of an attempt that raised has no answer of the dependency: it failed, was
            refused, or may end better later. An error that is none of these (a "not found") is an answer.
    """

    kind: Kind
    retryable: bool = False
    retry_after: float | None = None
    final: bool = False
    refused: bool = False
    worth_repeating: bool = field(init=False, repr=False, compare=False)
    unanswered: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        _validation.flag("retryable", self.retryable)
        _validation.flag("final", self.final)
        _validation.flag("refused", self.refused)
        object.__setattr__(self, "retry_after", pause_of(self.retry_after))
        object.__setattr__(self, "worth_repeating", self.retryable and self.kind != "success")
        object.__setattr__(self, "unanswered", self.kind == "failure" or self.retryable or self.refused)


def pause_of(asked: object) -> float | None:
    """`asked` as seconds; None if `asked` is not a finite number of at least 0."""
    if asked is None or isinstance(asked, bool) or not isinstance(asked, Real):
        return None
    try:
        seconds = float(asked)
    except Exception:  # an int beyond all floats, or no number after all
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


SUCCESS = Verdict("success")
"""The dependency answered."""
FAILURE = Verdict("failure", retryable=True)
"""The dependency failed, and another attempt may succeed."""
FATAL = Verdict("failure")
"""The dependency failed, and would fail again."""
IGNORED = Verdict("nothing")
"""No evidence, and nothing to repeat: an error of the caller, or an answer that the client raises as an error."""
REFUSED = Verdict("nothing", refused=True)
"""The call was refused on this side: nothing was sent."""
WAITED = Verdict("nothing", retryable=True)
"""No evidence, though another attempt may succeed: the time passed in a local queue, or another transaction was first.
"""
UNTRUSTED = Verdict("nothing", final=True)
"""A certificate that does not verify: no evidence, and never repeated."""


def failure_after(pause: float | None) -> Verdict:
    """The verdict on a failure worth repeating after `pause` seconds; None: after the usual wait."""
    return FAILURE if pause is None else Verdict("failure", retryable=True, retry_after=pause)


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a group of errors, from the verdicts on its members.

    Repeating a group repeats all of it, and a member that cannot end better makes it fail again. So a group is worth
    repeating only if all its members are, after the longest pause that a member asks for. It is a failure of the
    dependency if one member is; a refusal only if all are; and final if one is.
    """
    found = list(verdicts)
    pauses = [each.retry_after for each in found if each.retry_after is not None]
    return Verdict(
        "failure" if any(each.kind == "failure" for each in found) else "nothing",
        retryable=all(each.retryable for each in found),
        retry_after=max(pauses, default=None),
        final=any(each.final for each in found),
        refused=all(each.refused for each in found),
    )
