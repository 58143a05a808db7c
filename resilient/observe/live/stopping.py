"""Finds out that the server of a stream shuts down.

uvicorn waits at its shutdown until all responses have ended, without limit by default, and says nothing to the
application before that: a request gets no disconnect message, and the message of the lifespan comes last, and never to
an application that is mounted in another one. So an open stream would keep the server from ending. Hypercorn waits too,
for 3 seconds by default, and then cancels.

The servers' own objects say it: `should_exit` of uvicorn's `Server`, and `context.terminated` in hypercorn's
`worker_serve`. Both are in the frames of a task of the same event loop. They are looked for once, when a stream begins.

Under any other server a stream ends by itself after `LONGEST` seconds, and the page opens the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient.runtime import current_async

__all__ = ["LONGEST", "shutdown_check"]

LONGEST = 20.0
"""Seconds after which a stream ends under a server that is not known."""

DEEPEST = 20
"""The most coroutines of a task that are examined, each awaited by the one before."""


def shutdown_check() -> Callable[[], bool] | None:
    """Return a function that returns whether the server of the running event loop shuts down, to be called from any
    thread; None if the server is not known."""
    for task in current_async().tasks():
        coroutine = task.get_coro() if hasattr(task, "get_coro") else getattr(task, "coro", None)
        for _ in range(DEEPEST):
            if coroutine is None:
                break
            found = _check_in(getattr(coroutine, "cr_frame", None))
            if found is not None:
                return found
            coroutine = getattr(coroutine, "cr_await", None)
    return None


def _check_in(frame: Any) -> Callable[[], bool] | None:
    """Return the function for the server that a frame runs, if it runs one."""
    if frame is None:
        return None
    module = str(frame.f_globals.get("__name__", ""))
    if module == "uvicorn.server":
        server = frame.f_locals.get("self")
        if isinstance(getattr(server, "should_exit", None), bool):
            return lambda: bool(server.should_exit)
    if module.startswith("hypercorn.") and frame.f_code.co_name == "worker_serve":
        terminated: Any = getattr(frame.f_locals.get("context"), "terminated", None)
        if callable(getattr(terminated, "is_set", None)):
            return lambda: bool(terminated.is_set())
    return None
