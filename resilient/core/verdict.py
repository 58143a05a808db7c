"""What one outcome means: the answer of a classifier, and those that it mostly gives."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

from resilient import _validation

__all__ = ["FAILURE", "FATAL", "IGNORED", "REFUSED", "SUCCESS", "UNTRUSTED", "WAITED", "Kind", "Verdict", "together"]

Kind = Literal["success", "failure", "nothing"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one outcome means.

    Attributes:
        kind: what it says about the dependency: "success", "failure", or "nothing".
        retryable: whether the same call may do better later.
        retry_after: seconds the dependency asked to wait before that, or None: also for what cannot be meant (it comes
            from outside: NaN, infinite, negative, no number).
        final: repeating would be unsafe or pointless: nobody may, whatever he was told (`Retry(on=...)`).
        refused: a refusal on this side, by a policy or another library: nothing was sent. A Retry does not repeat it
            and keeps the failure that came before, a Hedge goes on elsewhere, a Fallback answers.
    """

    kind: Kind
    retryable: bool = False
    retry_after: float | None = None
    final: bool = False
    refused: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        _validation.flag("retryable", self.retryable)
        _validation.flag("final", self.final)
        _validation.flag("refused", self.refused)
        object.__setattr__(self, "retry_after", pause_of(self.retry_after))


def pause_of(asked: object) -> float | None:
    """`asked` as seconds, or None when it makes no sense."""
    if asked is None or isinstance(asked, bool) or not isinstance(asked, Real):
        return None
    try:
        seconds = float(asked)
    except Exception:  # an int beyond all floats, or no number after all
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


SUCCESS = Verdict("success")
FAILURE = Verdict("failure", retryable=True)
FATAL = Verdict("failure")
IGNORED = Verdict("nothing")
REFUSED = Verdict("nothing", refused=True)
WAITED = Verdict("nothing", retryable=True)
"""The time went by in a queue of ours, or another transaction was quicker: no evidence, though a new try may help."""
UNTRUSTED = Verdict("nothing", final=True)
"""A certificate that does not verify."""


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a group of errors, by those on its members.

    The whole is done again, or not at all, and a part that cannot do better fails it again. So a group is worth
    repeating if all its members are, after the longest pause that one of them asks for. It is a failure of the
    dependency if one of them is; a refusal only if all are; and final if one is.
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
