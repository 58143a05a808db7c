"""Virtual time: an asyncio event loop that jumps to the next timer when nothing else can run.

Ten minutes of backoff take milliseconds, and the same program runs the same way every time. It is plain asyncio: any
code that waits with `asyncio.sleep`, `asyncio.timeout`, futures and tasks works unchanged, tenacity included.

    from resilient.runtime import virtual
    virtual.run(main())

What could not be deterministic is refused with a `RuntimeError` that says so: sockets, pipes, subprocesses, signals,
executors and calls from other threads. When every task waits for something that no timer will ever bring, `Deadlock`
is raised at once, with what waits where; timers that the library keeps armed for nobody do not count.
"""

from __future__ import annotations

import asyncio
import math
import threading
from asyncio import AbstractEventLoop, base_events
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from resilient import arguments
from resilient.errors import Deadlock
from resilient.runtime.asyncio import AsyncioRuntime

__all__ = ["VirtualLoop", "VirtualRuntime", "run"]

T = TypeVar("T")


class VirtualRuntime(AsyncioRuntime):
    """The asyncio runtime on virtual time."""

    exact = True

    def __init__(self, loop: AbstractEventLoop) -> None:
        super().__init__(loop)
        self.now = loop.time

    def disarm_idle(self) -> None:
        """Drop the shared timers that wait for nobody: they would move time, and hide a deadlock."""
        for timers in [timers for timers in self.timers.values() if not timers.entries]:
            timers.disarm()


class _NothingToWaitFor:
    """Stands where an event loop keeps its selector: instead of waiting for files, it moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None or timeout > 0:
            self._loop.jump()
        return []

    def close(self) -> None:
        pass


class VirtualLoop(base_events.BaseEventLoop):
    """An event loop in virtual time. `time()` begins at `start` seconds."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self._selector = _NothingToWaitFor(self)
        self.resilient_runtime = VirtualRuntime(self)
        self._settling: list[asyncio.Future[None]] = []
        self._set(start)

    def _set(self, now: float) -> None:
        self._now = now
        self._clock_resolution = max(1e-9, math.ulp(now))  # else no timer would ever be due on a clock far from zero

    def time(self) -> float:
        return self._now

    def jump(self) -> None:
        """Go to the time of the next timer. Raises `Deadlock` when there is none."""
        if self._settling:
            waiting, self._settling = self._settling, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
            return
        self.resilient_runtime.disarm_idle()
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # a heap
        if scheduled and not scheduled[0].cancelled():
            next_timer = scheduled[0].when()
        else:
            next_timer = min((handle.when() for handle in scheduled if not handle.cancelled()), default=math.inf)
        if next_timer == math.inf:
            raise Deadlock(self._what_waits_where())
        self._set(max(self._now, next_timer))

    async def settled(self) -> None:
        """Wait, without any time going by, until nothing else can run."""
        future: asyncio.Future[None] = self.create_future()
        self._settling.append(future)
        await future

    def _what_waits_where(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        lines = [f"nothing can ever run again at t = {self._now:g} s; {len(tasks)} task(s) wait:"]
        lines += [f"  {task.get_name()}: {' > '.join(_where(task.get_coro()))}" for task in tasks]
        return "\n".join(lines)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Any:
        if self._thread_id is not None and threading.get_ident() != self._thread_id:  # type: ignore[attr-defined]
            _refuse("call_soon_threadsafe from another thread")
        return self.call_soon(callback, *args, context=context)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


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


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(f"virtual time has no {what}: it could not be repeated; use a real event loop for this")


def _refused(what: str) -> Callable[..., Any]:
    def refuse(self: VirtualLoop, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse(what)

    return refuse


for _name in (
    *("add_reader", "remove_reader", "add_writer", "remove_writer"),
    *("sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendall", "sock_sendto"),
    *("sock_connect", "sock_accept", "sock_sendfile", "sendfile", "start_tls", "getaddrinfo", "getnameinfo"),
    *("create_connection", "create_server", "create_unix_connection", "create_unix_server"),
    *("create_datagram_endpoint", "connect_accepted_socket"),
):
    setattr(VirtualLoop, _name, _refused(f"sockets ({_name})"))
for _name in ("connect_read_pipe", "connect_write_pipe", "subprocess_shell", "subprocess_exec"):
    setattr(VirtualLoop, _name, _refused(f"processes ({_name})"))
for _name in ("add_signal_handler", "remove_signal_handler"):
    setattr(VirtualLoop, _name, _refused(f"signals ({_name})"))
VirtualLoop.run_in_executor = _refused("threads (run_in_executor)")  # type: ignore[method-assign, assignment]


def run(main: Coroutine[Any, Any, T], *, start: float = 0.0) -> T:
    """Run `main` to its end in virtual time, on a new loop whose clock begins at `start` seconds."""
    start = arguments.seconds("start", start, zero=True)
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(start)) as runner:
        return runner.run(main)
