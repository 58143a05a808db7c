"""A moment by which all has to be done, and the one that holds here.

It is a context variable: what is set holds for all that is called or begun from there. What sets it, and why, is told
in `resilient.deadlines`; runtimes set it for a total Timeout.
"""

from __future__ import annotations

import math
from contextvars import ContextVar, Token
from typing import Any

from resilient.errors import TimedOut
from resilient.forks import in_forked_child

__all__ = ["LIFTED", "Deadline", "hold", "hold_total", "inherit", "inherited", "let_go", "restore", "seen", "swap"]

_current: ContextVar[Deadline | None] = ContextVar("resilient_deadline", default=None)

inherited, inherit, restore = _current.get, _current.set, _current.reset
"""The deadline that holds here, or None. And what is in `hold` and in `let_go`, for those who count frames: one takes a
deadline, once `seen.any` is set; the other what that has returned, with a `ValueError` where another context runs."""


class _Seen:
    """Whether there ever was a deadline in this process: until then guarded calls need not look for one. And whether
    any function or block is guarded by a Timeout, which is a deadline for what is beneath: the same for transports."""

    __slots__ = ("any", "limits")

    def __init__(self) -> None:
        self.any = self.limits = False


seen = _Seen()


class Deadline:
    """A moment, as a runtime's limit: `at` on its clock, set `seconds` before. A lifted one is infinitely far."""

    __slots__ = ("at", "seconds")

    name = "deadline"
    total = False

    def __init__(self, at: float, seconds: float) -> None:
        self.at = at
        self.seconds = seconds

    def expired(self, call: Any, waited: float) -> TimedOut:
        """The error of a call that it ended."""
        return TimedOut(
            f"the deadline of {self.seconds:g} s, set by the caller, has passed",
            policy=self.name,
            seconds=self.seconds,
            evidence=False,
        )


LIFTED = Deadline(math.inf, math.inf)
"""Where it is held, none is in force, whatever is around."""


def hold(limit: Deadline) -> Token[Deadline | None]:
    """From here on `limit` holds. Returns what `let_go` needs."""
    seen.any = True
    return inherit(limit)


def hold_total(at: float, seconds: float) -> Token[Deadline | None] | None:
    """From here on all has to be done by `at`, if that is not so already. Returns what `let_go` needs."""
    around = inherited()
    return hold(Deadline(at, seconds)) if around is None or at < around.at else None


def let_go(token: Token[Deadline | None] | None) -> None:
    """What held before holds again."""
    if token is not None:
        try:
            restore(token)
        except ValueError:
            pass  # a coroutine that was dropped is closed in another context, where it never held


def swap(limit: Deadline | None) -> Deadline | None:
    """From here on `limit` holds, or none. Returns what held before."""
    before = inherited()
    if before is not limit:
        inherit(limit)
    return before


@in_forked_child
def _begin_without() -> None:
    """The deadline that held at the fork was that of a call of the parent. (A spawned child has none either.)"""
    inherit(None)
