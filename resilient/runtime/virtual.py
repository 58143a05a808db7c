"""Virtual time: an asyncio event loop that jumps to the next timer when nothing else can run.

Ten minutes of backoff take milliseconds, and the same program runs the same way every time. It is plain asyncio: any
code that waits with `asyncio.sleep`, `asyncio.timeout`, futures and tasks works unchanged, tenacity included.

    from resilient.runtime import virtual
    virtual.run(main())

Operations that cannot be deterministic end the run with a `VirtualTimeError`: sockets, pipes, subprocesses, signals,
executors and calls from other threads. It is raised where the operation was called, and by the event loop too, so no
handler can hide it.

A run that cannot end raises `Deadlock`, which says where each task waits: at once, when every task waits and no timer
will wake one (idle timers of the library do not count); at a limit of virtual time, when something else repeats for
ever; and after a million steps in which the clock does not move.

Code that blocks (`time.sleep`, `requests`, files, a plain `def` that waits) blocks in real time, and takes no virtual
time.
"""

from __future__ import annotations

import asyncio
import math
import sys
import sysconfig
import threading
from asyncio import AbstractEventLoop, base_events
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from resilient import _validation
from resilient.errors import Deadlock, VirtualTimeError
from resilient.runtime.asyncio import AsyncioRuntime

__all__ = ["VirtualLoop", "VirtualRuntime", "run"]

T = TypeVar("T")

HOUR, MOVES = 3600.0, 100_000
"""The default limit of a run, in seconds of virtual time; and the number of moves of the clock before the limit ends a
run: a run whose clock moves seldom costs nothing, and goes on."""

STEPS, MOMENT = 1_000_000, 0.001
"""A run in which the clock moves by less than `MOMENT` seconds in `STEPS` steps of the event loop is a deadlock."""

PATIENCE = 0.01
"""Seconds of real time, once for each new thread, in which it may call the event loop."""

SHOWN = 50
"""The most tasks that a message lists."""


class VirtualRuntime(AsyncioRuntime):
    """The asyncio runtime whose clock is that of its event loop."""

    exact = True

    def __init__(self, loop: AbstractEventLoop) -> None:
        super().__init__(loop)
        self.now = loop.time

    def disarm_idle(self) -> None:
        """Cancel the shared timers without entries: they would move the clock, and hide a deadlock."""
        for timers in [timers for timers in self.timers.values() if not timers.entries]:
            timers.disarm()


class _ClockSelector:
    """The selector of a virtual event loop: instead of waiting for files, it moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._since = -math.inf
        self.steps = 0

    def select(self, timeout: float | None) -> list[Any]:
        self.steps += 1
        if self.steps > STEPS:
            self.check()
        if timeout is None or timeout > 0:
            self._loop.jump()
        return []

    def check(self) -> None:
        """Raise what ends the run: a refused operation, or a clock that stands still. Called after `STEPS` steps."""
        self._loop.raise_refusal()
        now = self._loop.time()
        if now < self._since + MOMENT:
            raise Deadlock(self._loop.what_waits(f"the clock has stood still for {STEPS:,} steps"))
        self._since, self.steps = now, 0

    def close(self) -> None:
        pass


class VirtualLoop(base_events.BaseEventLoop):
    """An event loop in virtual time.

    Args:
        start: seconds; where `time()` begins.
        limit: seconds of virtual time after which a run that has not ended is a `Deadlock`; `math.inf`: never. Default:
            an hour, but not before the clock has moved 100,000 times (a year of a few long sleeps is no deadlock).
    """

    _closed = True  # if `__init__` raises
    _ready: deque[Any]

    def __init__(self, start: float = 0.0, *, limit: float | None = None) -> None:
        limit = _limit(limit)
        super().__init__()
        self._selector = _ClockSelector(self)
        self.resilient_runtime = VirtualRuntime(self)
        self._settling: list[asyncio.Future[None]] = []
        self._limit = limit
        self._refusal: VirtualTimeError | None = None
        self._threads = set(threading.enumerate())
        self._begun: list[threading.Thread] = []
        self._called_back = threading.Event()
        self._set(start)
        self._begin_run()

    def _set(self, now: float) -> None:
        self._now = now
        self._clock_resolution = max(1e-9, math.ulp(now))  # otherwise no timer would be due on a clock far from zero

    def _begin_run(self) -> None:
        self._began = self._now
        self._end = self._now + (HOUR if self._limit is None else self._limit)
        self._moves, self._spared = 0, MOVES if self._limit is None else 0
        self._selector.steps = 0

    def time(self) -> float:
        return self._now

    def run_forever(self) -> None:
        self._begin_run()
        try:
            super().run_forever()
            self.raise_refusal()  # of a task that ran in the very last step
        except BaseException:  # a pending callback that stops the loop after `main` would stop the next run
            self._ready = deque(each for each in self._ready if each._callback is not _ENDED)
            raise

    def jump(self) -> None:
        """Go to the time of the next timer. Raises `Deadlock` when there is none, or none within the limit."""
        if self._settling:
            waiting, self._settling = self._settling, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
            return
        self.resilient_runtime.disarm_idle()
        self._refuse_threads()
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # a heap
        if scheduled and not scheduled[0].cancelled():
            next_timer = scheduled[0].when()
        else:
            next_timer = min((handle.when() for handle in scheduled if not handle.cancelled()), default=math.inf)
        if next_timer == math.inf:
            names = ", ".join(thread.name for thread in self._begun if thread.is_alive())
            raise Deadlock(
                self.what_waits(
                    "nothing can ever run again" + (names and f" (virtual time does not wait for threads: {names})")
                )
            )
        self._moves += 1
        if next_timer > self._end and self._moves > self._spared:
            moves = f" and {MOVES:,} moves of the clock" if self._limit is None else ""
            raise Deadlock(
                self.what_waits(
                    f"this has not ended within {self._end - self._began:.10g} s of virtual time{moves} (a higher "
                    "limit= of run, VirtualLoop or the virtual_time marker lets it go on)"
                )
            )
        self._set(max(self._now, next_timer))

    async def settled(self) -> None:
        """Wait until nothing else can run at the current time. The clock does not move."""
        future: asyncio.Future[None] = self.create_future()
        self._settling.append(future)
        await future

    def what_waits(self, why: str) -> str:
        """Return a message that begins with `why`, and lists in which line each task waits."""
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        lines = [f"{why} at t = {self._now:.10g} s; {len(tasks)} task(s) wait:"]
        lines += [f"  {task.get_name()}: {' > '.join(_where(task.get_coro()))}" for task in tasks[:SHOWN]]
        if len(tasks) > SHOWN:
            lines.append(f"  and {len(tasks) - SHOWN} more")
        return "\n".join(lines)

    # -- what it refuses ----------------------------------------------------------------------------------------

    def refuse(self, what: str, instead: str, frame: FrameType | None) -> VirtualTimeError:
        """End the run with an error that names the operation (`what`), its place in the user's code (from `frame`), and
        what to use `instead`. Returns the error."""
        place = _place(frame)
        where = f", which is used in {place}" if place else ""
        text = f"virtual time has no {what}{where}: that could not be repeated; {instead}, or use a real event loop"
        error = VirtualTimeError(text if place else self.what_waits(f"{text}. It was requested"))
        if self._refusal is None:
            self._refusal = error
            self._selector.steps = STEPS
        return error

    def raise_refusal(self) -> None:
        """Raise the error of the operation that was refused since the last call of this method, if any."""
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise refusal

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Handle an error as any loop does, except a refusal in a task that nothing awaits: it ends the run."""
        if not isinstance(context.get("exception"), VirtualTimeError):
            super().call_exception_handler(context)

    def _refuse_threads(self) -> None:
        """Refuse threads that will call back, because virtual time would pass before they do. A new thread that does
        not refer to this loop gets `PATIENCE` seconds of real time to call back."""
        for thread in threading.enumerate():
            if thread not in self._threads:
                self._threads.add(thread)
                self._begun.append(thread)
                if any(value is self for value in vars(thread).values()):
                    raise self.refuse(f"threads ({thread.name})", NO_THREADS, None)
                self._called_back.wait(PATIENCE)
                self.raise_refusal()

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Any:
        if self._thread_id is not None and threading.get_ident() != self._thread_id:  # type: ignore[attr-defined]
            error = self.refuse("call_soon_threadsafe from another thread", NO_THREADS, sys._getframe(1))
            self._called_back.set()
            raise RuntimeError(str(error))  # as on a closed loop: the run ends elsewhere, not in that thread
        return self.call_soon(callback, *args, context=context)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _limit(given: float | None) -> float | None:
    """Check a limit: seconds above 0, `math.inf` for none, or None for the default. Returns it."""
    return given if given is None or given == math.inf else _validation.seconds("limit", given)


def _where(coroutine: Any) -> list[str]:
    """The chain of awaits of a suspended coroutine, outermost first."""
    chain = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        file = frame.f_code.co_filename.rpartition("/")[2]
        chain.append(f"{coroutine.__qualname__} ({file}:{frame.f_lineno})")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return chain or ["finished"]


LIBRARIES = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]), "<")
"""The begins of the paths of files that are not the user's code. Files of installed packages are not, either."""

_ENDED = base_events._run_until_complete_cb  # type: ignore[attr-defined]

_RUN = VirtualLoop.run_forever.__code__


def _place(frame: FrameType | None) -> str | None:
    """Return the innermost line of the user's code above `frame`, within the event loop's run or within a thread; None:
    there is none."""
    while frame is not None and frame.f_code is not _RUN:
        code = frame.f_code
        if not code.co_filename.startswith(LIBRARIES) and "-packages" not in code.co_filename:
            return f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})"
        frame = frame.f_back
    return None


NO_SOCKETS = (
    "call a resilient.testing.Dependency instead, or give the HTTP client a transport without a network "
    "(httpx.MockTransport, httpx.ASGITransport)"
)
NO_THREADS = "call the function directly, or a resilient.testing.Dependency in its place"
NO_PROCESSES = "call a resilient.testing.Dependency instead"
NO_SIGNALS = "call the handler directly"


def _refused(name: str, what: str, instead: str) -> Callable[..., NoReturn]:
    """Make a method of the event loop that refuses its operation."""

    def refuse(self: VirtualLoop, *args: Any, **kwargs: Any) -> NoReturn:
        raise self.refuse(f"{what} ({name})", instead, sys._getframe(1))

    refuse.__name__ = name
    return refuse


for _names, _what, _instead in (
    ("add_reader add_writer start_tls sendfile getaddrinfo getnameinfo", "sockets", NO_SOCKETS),
    ("sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto", "sockets", NO_SOCKETS),
    ("sock_connect sock_accept sock_sendfile connect_accepted_socket", "sockets", NO_SOCKETS),
    ("create_connection create_server create_unix_connection create_unix_server", "sockets", NO_SOCKETS),
    ("create_datagram_endpoint", "sockets", NO_SOCKETS),
    ("connect_read_pipe connect_write_pipe subprocess_shell subprocess_exec", "processes", NO_PROCESSES),
    ("add_signal_handler", "signals", NO_SIGNALS),
    ("run_in_executor", "threads", NO_THREADS),
):
    for _name in _names.split():
        setattr(VirtualLoop, _name, _refused(_name, _what, _instead))
for _name in ("remove_reader", "remove_writer", "remove_signal_handler"):
    setattr(VirtualLoop, _name, lambda self, which: False)  # none was ever added


def run(main: Coroutine[Any, Any, T], *, start: float = 0.0, limit: float | None = None) -> T:
    """Run `main` to its end in virtual time, on a new event loop, and return its result.

    Args:
        start: seconds; where its clock begins.
        limit: seconds of virtual time after which a run that has not ended is a `Deadlock`; see `VirtualLoop`.
    """
    start = _validation.seconds("start", start, zero=True)
    limit = _limit(limit)
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(start, limit=limit)) as runner:
        return runner.run(main)
