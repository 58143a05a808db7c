"""`Deadline`, a moment by which calls must end, and the context variable that holds the current one.

All that is called or started where the variable is set inherits the deadline. Users set it with
`resilient.core.deadline`, which says why it exists; runtimes set it for a total Timeout.
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
"""`inherited()` returns the current deadline, or None. `inherit` and `restore` are `hold` and `let_go` without the cost
of a Python call: code that calls `inherit` sets `seen.any` first, and `restore` raises `ValueError` in another context.
"""


class _Seen:
    """Flags of this process. Because of them, calls look for deadlines only after one was set.

    Attributes:
        any: whether a deadline was ever set.
        limits: whether a Timeout guards a function or block: then a Retry (before a pause) and transports look for its
            limit on the stack, too.
    """

    __slots__ = ("any", "limits")

    def __init__(self) -> None:
        self.any = self.limits = False


seen = _Seen()


class Deadline:
    """A limit for runtimes (`runtime.Limit`): the moment `at` on a runtime's clock, which was `seconds` ahead when it
    was set."""

    __slots__ = ("at", "seconds")

    name = "deadline"
    total = False

    def __init__(self, at: float, seconds: float) -> None:
        self.at = at
        self.seconds = seconds

    def expired(self, call: Any, waited: float) -> TimedOut:
        """Return the `TimedOut` of a call that this deadline ended. The error is no evidence: the caller set the
        limit."""
        return TimedOut(
            f"the deadline of {self.seconds:g} s, set by the caller, has passed",
            policy=self.name,
            seconds=self.seconds,
            evidence=False,
        )


LIFTED = Deadline(math.inf, math.inf)
"""A deadline that never comes. As the current deadline it cancels the effect of all deadlines of callers."""


def hold(limit: Deadline) -> Token[Deadline | None]:
    """Set the current deadline. Returns a token for `let_go`."""
    seen.any = True
    return inherit(limit)


def hold_total(at: float, seconds: float) -> Token[Deadline | None] | None:
    """Set the current deadline to `at`, unless an earlier one holds. Returns a token for `let_go`, or None."""
    around = inherited()
    return hold(Deadline(at, seconds)) if around is None or at < around.at else None


def let_go(token: Token[Deadline | None] | None) -> None:
    """Restore the deadline that was current before the `hold` that returned this token. None: nothing was set."""
    if token is not None:
        try:
            restore(token)
        except ValueError:
            pass  # a garbage-collected coroutine is closed in another context, where this deadline was never set


def swap(limit: Deadline | None) -> Deadline | None:
    """Set the current deadline (None: no deadline). Returns the previous one."""
    before = inherited()
    if before is not limit:
        inherit(limit)
    return before


@in_forked_child
def _begin_without() -> None:
    """In a forked child: clear the deadline of the fork, which belongs to a call of the parent."""
    inherit(None)
