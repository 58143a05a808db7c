"""The verbs of a runtime, and the small records that pass between a runtime and its callers, as protocols."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from contextvars import Context
from typing import Any, Literal, Protocol

from resilient.errors import TimedOut

__all__ = ["Limit", "Parking", "Runtime", "Timed", "Woken", "Work"]

Work = Callable[[], Coroutine[Any, Any, None]]

Woken = Literal["runs", "may run", "stands still", "gone"]
"""What a wake-up finds: a thread, or the event loop that runs here, which comes to it at once; another event loop that
runs, and comes to it unless it is held up; one that does not run now, and may later; or one that is closed."""


class Timed(Protocol):
    """What a runtime knows of a call."""

    deadline: float | None
    waited: float


class Limit(Protocol):
    """What a runtime knows of a Timeout."""

    seconds: float

    @property
    def total(self) -> bool:
        """Whether it is also a deadline of all that is called and begun inside it (`resilient.core.deadline`)."""
        ...

    @property
    def at(self) -> float | None:
        """The moment of a deadline; None: `seconds` from now."""
        ...

    def expired(self, call: Any, waited: float) -> TimedOut:
        """The error to raise, when `waited` of the seconds went by in local queues."""
        ...

    # A limit with a moment may also have `strikes() -> bool`. asyncio asks it when its time has come, in the tick in
    # which the call would be cancelled, and cancels it if that is so. Else it asks again at `limit.at`, where that is a
    # later moment by now. (trio cancels it all the same.)


class Parking(Protocol):
    """The place of one call that waits for its turn."""

    @property
    def home(self) -> Hashable:
        """The call's event loop; all threads have one in common."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether the call can run: not where its event loop is closed, or stopped between two runs."""
        ...

    def wake(self) -> Woken:
        """End the wait. From any thread; more than once does no harm; never raises."""
        ...

    async def wait(self, seconds: float | None, call: Timed, *, often: bool = False) -> bool:
        """Wait to be woken: True; or False after `seconds` (`often`: many wait for just as long).

        A deadline of the call ends it, as `within` says.
        """
        ...


class Runtime(Protocol):
    """How to wait."""

    cancelled: type[BaseException]
    """What a cancelled call raises here."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing goes on here any more: the event loop was closed."""
        ...

    def now(self) -> float:
        """The time in seconds."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""

    def park(self) -> Parking:
        """A place to wait until another call, perhaps in another thread, says so."""
        ...

    def spawn(self, work: Work, context: Context) -> Any:
        """Run `work()`, which raises nothing, beside the caller and in `context`. Keep what this returns meanwhile."""
        ...

    def cancel(self, spawned: Any, never_ran: Callable[[], None]) -> None:
        """Cancel what `spawn` has returned; when it has not begun yet, it never will: `never_ran` is called then. A
        thread cannot be cancelled: there this does nothing."""

    def caller(self) -> Any:
        """The task that runs now, or the number of the thread."""
        ...

    def tasks(self) -> Iterable[Any]:
        """All tasks of the event loop that runs in this thread; none in threads."""
        ...

    def within(self, call: Any, inner: Callable[[Any], Awaitable[Any]], limit: Limit) -> Coroutine[Any, Any, Any]:
        """Await `inner(call)`, for `limit.seconds` at the most; then raise `limit.expired(...)`.

        The call's deadline is lowered meanwhile. Only this limit's own expiry is converted: every other exception,
        the caller's cancellation first of all, passes. A result that comes although the time is over is returned.
        """
        ...
