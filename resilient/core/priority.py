"""Priority: which calls are refused first when there is not room for all.

    with priority("sheddable"):
        await warm_cache()              # the first to be refused when a limit is reached
    with priority("critical"):
        await checkout()                # the last

There are three, as Google's servers have criticalities (Site Reliability Engineering, chapter 21): fewer classes are
used correctly more often. A priority, like a deadline, is a context variable: it holds for the guarded calls of called
functions and of tasks started inside. `AdaptiveLimit` uses it; other policies ignore it.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType
from typing import Literal, get_args

from resilient._atomic import in_forked_child

__all__ = ["CRITICAL", "NORMAL", "PRIORITIES", "RANKS", "SHEDDABLE", "Priority", "current_priority", "priority"]

Priority = Literal["critical", "normal", "sheddable"]
CRITICAL: Priority = "critical"
NORMAL: Priority = "normal"
SHEDDABLE: Priority = "sheddable"
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""The most important first."""
RANKS: dict[str, int] = {name: rank for rank, name in enumerate(PRIORITIES)}
"""The place of each priority in `PRIORITIES`: 0 is the most important."""

_current: ContextVar[Priority] = ContextVar("resilient_priority", default=NORMAL)

current_priority = _current.get
"""Return the priority of calls that are made here: that of the innermost `with priority(...)`, or "normal" without
one."""


@in_forked_child
def _begin_anew() -> None:
    """In a forked child: drop the priority at the fork, which was that of a call of the parent."""
    _current.set(NORMAL)


class priority:
    """`with priority("critical"):` calls made in the block have that priority, whatever the priority outside is.

    Each object serves one `with` at a time. Raises `ValueError` for any other name.
    """

    __slots__ = ("_name", "_token")

    def __init__(self, name: Priority) -> None:
        if name not in PRIORITIES:
            raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, got {name!r}")
        self._name: Priority = name

    def __enter__(self) -> None:
        self._token = _current.set(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _current.reset(self._token)
        except ValueError:
            pass  # a garbage-collected coroutine is closed in another context, where it was never set
