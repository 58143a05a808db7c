"""The methods of a runtime, and the small records that pass between a runtime and its callers, as protocols."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from contextvars import Context
from typing import Any, Literal, Protocol

from resilient.errors import TimedOut

__all__ = ["Limit", "Parking", "Runtime", "Timed", "Woken", "Work"]

Work = Callable[[], Coroutine[Any, Any, None]]
"""Makes a coroutine that `Runtime.spawn` runs. The coroutine raises nothing."""

Woken = Literal["runs", "may run", "stands still", "gone"]
"""Where the woken call can continue:

"runs": in a thread, or on the event loop of the waker: it continues at once.
"may run": on another event loop that runs: it continues unless something blocks that loop.
"stands still": on an event loop that does not run now, and may run later.
"gone": nowhere: its event loop is closed.
"""


class Timed(Protocol):
    """The fields of a call that a runtime uses: its deadline on the runtime's clock (None: none), and the seconds that
    it has waited in local queues."""

    deadline: float | None
    waited: float


class Limit(Protocol):
    """The limit that a Timeout or a deadline puts on calls, as `Runtime.within` applies it: `seconds`, or a moment
    `at`."""

    seconds: float

    @property
    def total(self) -> bool:
        """Whether the limit is also an inherited deadline for all that is called or started inside it
        (`resilient.core.deadline`)."""
        ...

    @property
    def at(self) -> float | None:
        """For a deadline: the moment at which the limit expires. None: it expires `seconds` after `within` begins."""
        ...

    def expired(self, call: Any, waited: float) -> TimedOut:
        """Return the error to raise. `waited`: how many of the seconds the call spent in local queues."""
        ...

    # A limit with a moment may also have a method `strikes() -> bool`. The asyncio runtime calls it at that moment, in
    # the tick in which it would cancel the call, and cancels only if it returns True. Otherwise it calls it again at
    # `limit.at`, if that has become a later moment. (The trio runtime cancels in any case.)


class Parking(Protocol):
    """The wait of one call. The call awaits `wait`; another call, from any thread, ends that with `wake`."""

    @property
    def home(self) -> Hashable:
        """The event loop of the waiting call. All threads have one value in common."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether the call can continue: False if its event loop is closed, or stopped between two runs."""
        ...

    def wake(self) -> Woken:
        """End the wait, from any thread. Returns where the call can continue. A second call has no effect. Never
        raises."""
        ...

    async def wait(self, seconds: float | None, call: Timed, *, often: bool = False) -> bool:
        """Wait for `wake`. Returns True; or False after `seconds` (None: without a limit).

        `often`: many calls wait for the same number of seconds, so a shared timer pays. A deadline of the call ends the
        wait, as for `Runtime.within`.
        """
        ...


class Runtime(Protocol):
    """The services of an event loop or thread that policies use: its clock, its waits, its timeouts, its tasks."""

    cancelled: type[BaseException]
    """The exception by which a call is cancelled on this runtime."""

    @property
    def is_closed(self) -> bool:
        """Whether the event loop is closed, so that nothing on it continues."""
        ...

    def now(self) -> float:
        """Return the time in seconds on the monotonic clock of this runtime."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling coroutine for `seconds`; in threads, block the thread."""

    def park(self) -> Parking:
        """Return a new `Parking` for the running call, which then waits until another call wakes it."""
        ...

    def spawn(self, work: Work, context: Context) -> Any:
        """Start `work()`, which raises nothing, beside the caller and in `context`. Keep the returned handle until the
        work has ended: an event loop has only weak references to its tasks."""
        ...

    def cancel(self, spawned: Any, never_ran: Callable[[], None]) -> None:
        """Cancel the work that `spawn` returned. If it has not begun, it never begins, and `never_ran` is called.
        In threads this does nothing: a thread cannot be cancelled."""

    def caller(self) -> Any:
        """Return the running task, or, in threads, the number of the thread."""
        ...

    def tasks(self) -> Iterable[Any]:
        """Return all tasks of the event loop that runs in this thread; none in threads."""
        ...

    def within(self, call: Any, inner: Callable[[Any], Awaitable[Any]], limit: Limit) -> Coroutine[Any, Any, Any]:
        """Await `inner(call)` for `limit.seconds` at most, or until `limit.at`; then raise `limit.expired(...)`.

        Until then the call's deadline is lowered to this limit. Only the expiry of this limit is converted to its
        error: every other exception passes unchanged, above all the caller's cancellation. A result that comes late is
        returned.
        """
        ...
