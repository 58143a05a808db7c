"""One guarded call: what is called, where it runs, and how far it has got."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilient.runtime import Runtime

__all__ = ["Call", "name_of"]


class Call:
    """Travels inward through the policies of a pipeline, one object for all attempts of a logical call.

    Attributes:
        fn, args, kwargs: the user's function and arguments.
        runtime: the only thing that may wait.
        attempt: number of the current attempt, from 1.
        deadline: when the innermost surrounding Timeout expires (seconds on `runtime.now()`), or None.
        waited: seconds spent in local queues so far. They are no evidence about the dependency.
        error: the last failure of an earlier attempt, for the one who must report why there was another.
    """

    __slots__ = ("args", "attempt", "deadline", "error", "fn", "kwargs", "runtime", "waited")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], runtime: Runtime) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.runtime = runtime
        self.attempt = 1
        self.deadline: float | None = None
        self.waited = 0.0
        self.error: Exception | None = None

    def fork(self) -> Call:
        """A copy that goes its own way from here (another thread, another copy of a request)."""
        twin = Call(self.fn, self.args, self.kwargs, self.runtime)
        twin.attempt = self.attempt
        twin.deadline = self.deadline
        twin.waited = self.waited
        return twin


def name_of(fn: Callable[..., Any]) -> str:
    """What to call a callable in events and messages."""
    inner = getattr(fn, "func", fn)  # a partial is known by its function
    return getattr(inner, "__qualname__", None) or type(inner).__qualname__
