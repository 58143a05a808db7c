"""A deadline: the moment by which something must be done; and the context variable that holds the current one.

It holds for everything that is called or started from where it is set. `resilient.core.deadline` is what users set it
by, and says why; runtimes set it for a total Timeout.
"""

from __future__ import annotations

import math
from contextvars import ContextVar, Token
from typing import Any

from resilient._atomic import in_forked_child
from resilient.errors import TimedOut

__all__ = ["LIFTED", "Deadline", "hold", "hold_total", "inherit", "inherited", "let_go", "restore", "seen", "swap"]

_current: ContextVar[Deadline | None] = ContextVar("resilient_deadline", default=None)

inherited, inherit, restore = _current.get, _current.set, _current.reset
"""`inherited()` is the deadline that holds here, or None. `inherit` and `restore` are `hold` and `let_go` without a
frame of their own: who calls `inherit` has set `seen.any`, and `restore` raises `ValueError` in another context."""


class _Seen:
    """What this process has seen so far, so that calls need not look for deadlines before there is one.

    Attributes:
        any: whether there ever was a deadline.
        limits: whether a function or block is guarded by a Timeout, which transports beneath have to keep, too.
    """

    __slots__ = ("any", "limits")

    def __init__(self) -> None:
        self.any = self.limits = False


seen = _Seen()


class Deadline:
    """A limit for runtimes (`runtime.Limit`): the moment `at` on a runtime's clock, which was set `seconds` before."""

    __slots__ = ("at", "seconds")

    name = "deadline"
    total = False

    def __init__(self, at: float, seconds: float) -> None:
        self.at = at
        self.seconds = seconds

    def expired(self, call: Any, waited: float) -> TimedOut:
        """The error of a call that this deadline ended."""
        return TimedOut(
            f"the deadline of {self.seconds:g} s, set by the caller, has passed",
            policy=self.name,
            seconds=self.seconds,
            evidence=False,
        )


LIFTED = Deadline(math.inf, math.inf)
"""Holding it lifts every deadline around."""


def hold(limit: Deadline) -> Token[Deadline | None]:
    """Set the current deadline. Returns a token for `let_go`."""
    seen.any = True
    return inherit(limit)


def hold_total(at: float, seconds: float) -> Token[Deadline | None] | None:
    """Set the current deadline to `at`, unless an earlier one holds. Returns a token for `let_go`, or None."""
    around = inherited()
    return hold(Deadline(at, seconds)) if around is None or at < around.at else None


def let_go(token: Token[Deadline | None] | None) -> None:
    """Set the deadline again that held before the `hold` which returned this token."""
    if token is not None:
        try:
            restore(token)
        except ValueError:
            pass  # a coroutine that was dropped is closed in another context, where it never held


def swap(limit: Deadline | None) -> Deadline | None:
    """Set the current deadline; None: there is none. Returns the one before."""
    before = inherited()
    if before is not limit:
        inherit(limit)
    return before


@in_forked_child
def _begin_without() -> None:
    """In a forked child: the deadline that held at the fork belongs to a call of the parent."""
    inherit(None)
