"""The guarded side of the demo in the background, without end, with its live page: for `resilient watch --demo`.

    with Background() as demo:
        print(demo.url())           # of the live page, once the servers answer

It runs in a thread, so that what is shown in the foreground does not delay its calls.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

import uvicorn

from resilient.demo.faults import SERVERS
from resilient.demo.fleet import Fleet
from resilient.demo.load import Counted, Load, arrivals
from resilient.demo.service import get_item, resilient_client
from resilient.observe.live import LiveView

__all__ = ["Background"]

LONGEST = 3600.0
"""Seconds of load. The faults are drawn for as long: bursts of 503 every few seconds."""

BETWEEN_CRASHES, DOWN = 20.0, 3.0
"""Seconds between two crashes of a server process, and from a crash to the restart."""


class Background:
    """A context: the demo runs inside it.

    Args:
        seed: of the faults and the arrivals.
        rate: calls a second.
    """

    def __init__(self, *, seed: int = 1, rate: float = 50.0) -> None:
        self._seed = seed
        self._rate = rate
        self._url: Future[str] = Future()
        self._stopping = False
        self._run: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        # A daemon, so that a Ctrl-C at any moment can end the program. The server processes end with it.
        self._thread = threading.Thread(target=self._run_loop, name="resilient-demo", daemon=True)

    def url(self) -> str:
        """Wait until the demo runs, and return the address of its live page. Raises `NotReady` if a server process does
        not start."""
        return self._url.result()

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        if self._run is not None:
            loop, task = self._run
            with suppress(RuntimeError):  # it is closed already
                loop.call_soon_threadsafe(task.cancel)
        self._thread.join()

    def _run_loop(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            if self._url.done():
                raise
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self._url.set_exception(error)

    async def _main(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._run = (asyncio.get_running_loop(), task)
        if not self._stopping:
            await self._serve()

    async def _serve(self) -> None:
        load = Load("resilient")
        async with (
            Fleet(seed=self._seed, duration=LONGEST) as fleet,
            resilient_client(fleet.urls, Counted(load), self._rate, lambda event: None) as client,
            asyncio.TaskGroup() as group,
        ):
            server, listener = _page()
            group.create_task(_until_cancelled(server, listener))
            fleet.begin(time.time())
            schedule = arrivals(self._seed, LONGEST, self._rate)
            group.create_task(load.run(schedule, partial(get_item, client), time.monotonic()))
            group.create_task(_crash(fleet))
            self._url.set_result(f"http://127.0.0.1:{listener.getsockname()[1]}")


def _page() -> tuple[uvicorn.Server, socket.socket]:
    """A server of the live page, with its buttons, on a free port of this machine."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = uvicorn.Config(
        LiveView(controls=True), log_config=None, log_level="critical", access_log=False, timeout_graceful_shutdown=2
    )
    return uvicorn.Server(config), listener


async def _until_cancelled(server: uvicorn.Server, listener: socket.socket) -> None:
    serving = asyncio.ensure_future(server.serve([listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving
        listener.close()


async def _crash(fleet: Fleet) -> None:
    """Kill a server process from time to time, each in turn, and restart it."""
    for number in itertools.cycle(range(1, SERVERS + 1)):
        await asyncio.sleep(BETWEEN_CRASHES)
        fleet.kill(number)
        await asyncio.sleep(DOWN)
        await fleet.restart(number)
