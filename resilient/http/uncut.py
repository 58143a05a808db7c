"""Closing what must not be left half closed."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable

from resilient.runtime import current_async

__all__ = ["uncut"]

_log = logging.getLogger("resilient")


class _NoDeadline:
    deadline: float | None = None
    waited: float = 0.0


_closing: dict[object, object] = {}


async def uncut(close: Callable[[], Awaitable[object]]) -> None:
    """Await `close()`, which goes on when the caller is cancelled: httpcore forgets a connection for ever whose closing
    is cut short. The type of what it raises is logged: there is nobody who could do anything about it.
    """
    runtime = current_async()
    parking = runtime.park()

    async def work() -> None:
        try:
            await close()
        except Exception as error:  # whose message may quote what was sent
            _log.debug("resilient: closing a response failed with %s", type(error).__name__)
        finally:
            _closing.pop(parking, None)
            parking.wake()

    # An event loop keeps only weak references to its tasks.
    _closing[parking] = runtime.spawn(work, contextvars.copy_context())
    await parking.wait(None, _NoDeadline())
