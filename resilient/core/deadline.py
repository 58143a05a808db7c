"""Deadline: one moment by which all guarded calls in a block must end.

    with deadline(2):
        user = await get_user(7)        # every guarded call in the block keeps the earliest of all limits
        await get_orders(user)

A deadline is a context variable, so it holds for the guarded calls of called functions, of tasks started inside, and of
threads that are given a copy of the context (`asyncio.to_thread`). It bounds their queues, rate-limit waits, pauses
between attempts, attempts and hedges; it does not end code that no pipeline guards. A total `Timeout` (one with other
policies inside it) sets one too.

Every other `Timeout` is a deadline for the calls inside it, too. To set a variable would double the cost of each of its
calls, so none is set: code that needs the deadline (`remaining()`, a Retry before a pause, a plain `def` in a queue, a
transport that sends it) finds the guarded calls on the stack.

A background task that is started inside inherits the deadline, which cuts it short. To start one without the deadline
and the priority:

    with detached():
        task = asyncio.create_task(refresh_cache())

A call that an inherited deadline ends is cut short for the caller's reasons: that is never evidence about the
dependency.

Between processes a deadline is sent as text, the milliseconds that are left: clocks differ, remaining times do not.

    queue.send(job, headers={"X-Deadline-Ms": deadline.to_header()})      # where the caller is

    with deadline.from_header(headers.get("X-Deadline-Ms"), most=30):     # where the work is done
        await do(job)
"""

from __future__ import annotations

import math
import re
from contextvars import ContextVar
from sys import modules
from types import TracebackType
from typing import Any

from resilient import _validation
from resilient._atomic import in_forked_child
from resilient.core.call import Call
from resilient.core.call_key import key_of
from resilient.core.context import PipelineContext
from resilient.core.current_call import enclosing
from resilient.core.history import timed_out
from resilient.core.layer import Layer
from resilient.core.priority import NORMAL, priority
from resilient.errors import TimedOut
from resilient.events import CallTimedOut
from resilient.runtime import TRIO, VIRTUAL, current, current_async
from resilient.runtime.asyncio import running
from resilient.runtime.clock import monotonic
from resilient.runtime.inherited_deadline import (
    LIFTED,
    Deadline,
    hold,
    hold_total,
    inherit,
    inherited,
    let_go,
    restore,
    seen,
)
from resilient.runtime.threads import THREADS

__all__ = [
    "deadline",
    "detached",
    "holding",
    "in_callers_time",
    "lifted",
    "milliseconds",
    "remaining",
    "total",
    "under",
]

_PLAIN = frozenset((float, int))
_MILLISECONDS = re.compile(r"[ \t]*[0-9]{1,11}(\.[0-9]{0,9})?[ \t]*", re.ASCII)
_LONGEST = 366 * 86400e3  # more than a year is a mistake

_lifted: ContextVar[tuple[Call | None, float]] = ContextVar("resilient_lifted", default=(None, 0.0))
"""A guarded call and a moment. The deadline of the call holds here only if it is earlier than the moment. Deadlines of
calls around that call do not count at all."""


class _Until(Deadline):
    """A deadline whose attributes are set by the code that makes it: an `__init__` would cost as much as a call."""

    __slots__ = ()

    __init__: Any = object.__init__


class deadline:
    """`with deadline(seconds):` guarded calls in the block end within `seconds`, or raise `TimedOut`.

    An outer deadline that comes earlier still holds. Each object serves one `with` at a time.
    """

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        if type(seconds) in _PLAIN and 0 < seconds < 1e9:  # else every `with` would cost a third more
            self._seconds = seconds
        else:
            self._seconds = _validation.seconds("seconds", seconds)

    @classmethod
    def from_header(
        cls, value: str | bytes | float | None, *, most: float | None = None, elapsed: float = 0.0
    ) -> deadline:
        """Make the deadline that a caller in another process has sent, for a `with`.

        Args:
            value: the milliseconds that were left, as a header has them. An invalid value (no number, a sign, several
                values, more than a year) counts as None: none was sent. 0: it has passed, and guarded calls end at
                once.
            most: the most seconds that the work may take from now, whatever was sent. Default: no limit of our own.
            elapsed: seconds since the value was sent (in a queue). A negative number, from clocks that differ, counts
                as 0.

        Without a value and without `most` the `with` does nothing.
        """
        left = math.inf if most is None else _validation.seconds("most", most)
        if not isinstance(elapsed, float | int):
            raise TypeError(f"elapsed must be a number of seconds, got {elapsed!r}")
        sent = milliseconds(value)
        if sent is not None:
            left = min(left, max(0.0, sent / 1000 - max(0.0, elapsed)))
        elif math.isinf(left):
            return _NONE
        made = object.__new__(cls)
        made._seconds = left
        return made

    @staticmethod
    def to_header() -> str | None:
        """Return the milliseconds that are left here, as `from_header` takes them; None without a deadline.

        For queues, and for clients without a transport of ours (our transports send it with `deadline_header=True`).
        """
        left = remaining()
        return None if left is None else str(int(left * 1000))

    def __enter__(self) -> None:
        now = current().now() if TRIO in modules or VIRTUAL in modules else monotonic()
        at = now + self._seconds
        limit = inherited()
        if limit is None or at < limit.at:
            limit = _Until()
            limit.at = at
            limit.seconds = self._seconds
        if not seen.any:
            seen.any = True
        self._token = inherit(limit)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            restore(self._token)
        except ValueError:
            pass  # as in `let_go`


class _NoDeadline(deadline):
    """A `with` that does nothing, where neither the caller nor `most` sets a limit."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


_NONE = _NoDeadline()


def milliseconds(value: object) -> float | None:
    """Return the number of milliseconds in the value of a header, or None for an invalid value."""
    if isinstance(value, bytes):
        if value.isdigit() and len(value) < 11:  # the usual case, fast: a server reads one with each request
            return int(value)
        value = value.decode("latin-1")
    if isinstance(value, str):
        value = float(value) if _MILLISECONDS.fullmatch(value) else None
    if type(value) in _PLAIN and 0 <= value <= _LONGEST:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    return None


@in_forked_child
def _begin_without() -> None:
    """In a forked child: the call whose deadline was lifted at the fork belongs to the parent."""
    _lifted.set((None, 0.0))


def total(inner: Layer, seconds: float) -> Layer:
    """Return a layer that makes the deadline of its call the inherited one of all that `inner` calls. For a total
    Timeout that runs its inner layer in the background; other total Timeouts leave that to the runtime
    (`Limit.total`)."""

    async def bounded(call: Call) -> Any:
        assert call.deadline is not None
        token = hold_total(call.deadline, seconds)
        try:
            return await inner(call)
        finally:
            let_go(token)

    return bounded


def lifted(inner: Layer) -> Layer:
    """Return a layer that runs `inner` without the deadlines of its callers. They apply these themselves while they
    wait for it."""

    async def freed(call: Call) -> Any:
        token = hold(LIFTED)
        mark = _lifted.set((call, math.inf if call.deadline is None else call.deadline))
        try:
            return await inner(call)
        finally:
            let_go(token)
            try:
                _lifted.reset(mark)
            except ValueError:
                pass  # as in `let_go`

    return freed


class detached:
    """`with detached():` tasks that are started in the block inherit neither the deadline nor the priority of the calls
    around it. For work that continues after its caller has its answer, on asyncio and trio:

        with detached():
            task = asyncio.create_task(refresh())      # or nursery.start_soon(refresh)

    Code that is awaited in the block itself is still cancelled with its caller. Each object serves one `with` at a
    time.
    """

    __slots__ = ("_mark", "_priority", "_token")

    def __enter__(self) -> None:
        around = enclosing(2)
        self._token = hold(LIFTED)
        self._mark = _lifted.set((around[0][0] if around else None, -math.inf))
        self._priority = priority(NORMAL)
        self._priority.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._priority.__exit__(kind, error, trace)
        try:
            _lifted.reset(self._mark)
        except ValueError:
            pass  # as in `let_go`
        let_go(self._token)


def remaining() -> float | None:
    """Return the seconds until the earliest of the deadlines and Timeouts that hold here (0 when it has passed); None
    without one.

    A plain function can pass them to its client: `requests.get(url, timeout=remaining())`. They are found on the stack,
    which costs a microsecond or two.
    """
    limit = holding()
    return None if limit is None else max(0.0, limit.at - current().now())


def holding(inner: Call | None = None) -> Deadline | None:
    """Return the earliest of the deadlines and Timeouts that hold here, on the clock of the running runtime; or None.
    Those of the call `inner` itself do not count."""
    limit = inherited()
    earliest = None if limit is None or limit.at == math.inf else limit
    free, unless = _lifted.get()
    for call, _ in enclosing(2):
        at = getattr(call, "deadline", None)  # a signal handler may run before the call is complete
        if at is not None and (call is not free or at < unless) and (inner is None or call.origin is not inner.origin):
            clock, here = call.begin().now, current()
            if clock != here.now:
                at += here.now() - clock()
            if earliest is None or at < earliest.at:
                earliest = Deadline(at, max(0.0, at - here.now()))
        if call is free:
            break
    return earliest


async def in_callers_time(call: Call, context: PipelineContext, inner: Layer) -> Any:
    """Await `inner(call)`, in which the call waits, until the deadline of a guarded call around it at the latest. That
    matters in plain code only: on an event loop the outer call cancels the wait, in a thread nothing else ends it."""
    limit = None if call.runtime is not THREADS else holding(call)
    if limit is None or (call.deadline is not None and call.deadline <= limit.at):
        return await inner(call)
    return await under(call, context, inner, limit)


async def under(call: Call, context: PipelineContext, inner: Layer, limit: Deadline) -> Any:
    """Await `inner(call)` until `limit`, a deadline of the callers. Then raises `TimedOut`, and emits
    `CallTimedOut`."""
    try:
        runtime = call.runtime
        if runtime is None:
            runtime = call.runtime = running() or current_async()
        if runtime.now() >= limit.at:
            raise limit.expired(call, 0.0)
        return await runtime.within(call, inner, limit)
    except TimedOut as error:
        if error.policy == limit.name and not error.pipeline:
            error.pipeline = context.name
            if not error.key and (key := key_of(call, context)):
                error.key = key
                error.args = (f"{error.args[0]} for {key}",)
            context.counters.count("timeouts", limit.name)
            timed_out(call, context, error, 0.0)
            if context.channel.wants[CallTimedOut]:
                at = call.runtime.now()
                context.channel.emit(CallTimedOut(context.name, at, limit.name, limit.seconds))
        raise
