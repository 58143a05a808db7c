"""Coroutines of httpcore's connections without needless turns of the event loop, so that a cancellation cannot split
them.

anyio, on which httpcore runs, lets the event loop turn once at each lock, each write and each close, although there is
nothing to wait for. A task that is cancelled in such a turn has changed one half of a connection's state and not the
other: frames are encoded but not sent, a connection is given up but not free. `WithoutTurns` runs a coroutine without
these turns, so that a cancellation arrives only where the coroutine really waits. (On trio it changes nothing, because
httpcore shields its tasks there.)
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Coroutine, Generator
from typing import Any

from resilient.runtime import current_async
from resilient.runtime.asyncio import AsyncioRuntime

__all__ = ["Socket", "WithoutTurns", "run_until_blocked"]

MAX_TURNS = 200
"""The longest run of turns that is left out: httpcore takes 99 when it opens an HTTP/2 connection. A coroutine with
more turns really waits for the event loop: so does anyio, in a scope whose time is over, until it is cancelled."""


class WithoutTurns:
    """An awaitable that runs a coroutine without giving a turn to the event loop where there is nothing to wait for."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, turns = self._coroutine, 0
        try:
            awaited = coroutine.send(None)
            while True:
                if awaited is None and turns < MAX_TURNS:
                    turns += 1
                    awaited = coroutine.send(None)
                    continue
                turns = 0
                try:
                    sent = yield awaited
                except BaseException as error:
                    awaited = coroutine.throw(error)
                else:
                    awaited = coroutine.send(sent)
        except StopIteration as end:
            return end.value


def run_until_blocked(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine of asyncio until it has to wait, and cancel it there. Raises no `Exception`."""
    try:
        for _ in range(MAX_TURNS):
            awaited = coroutine.send(None)
            if awaited is not None:
                awaited.cancel()  # asyncio's lock looks whether its future was cancelled
                break
        coroutine.throw(CancelledError())
    except (StopIteration, CancelledError):
        pass
    except Exception:  # the connection has recorded it
        pass
    finally:
        coroutine.close()


class Socket:
    """The writes of one connection: replaces `write` of httpcore's network stream.

    Attributes:
        torn: whether a write was cancelled, so that a part of it may be lost. Then nothing more can be sent on the
            connection.
    """

    def __init__(self, stream: Any) -> None:
        self._write = stream.write
        self._pending = False
        self.torn = False
        stream.write = self.write

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await WithoutTurns(self._write(buffer, timeout))
        except Exception:
            raise
        except BaseException:
            # The write waits for the peer to read. On asyncio all of it is in the transport's buffer by then, unless it
            # waits for the rest of an earlier write that was cancelled.
            self.torn = self._pending or not isinstance(current_async(), AsyncioRuntime)
            self._pending = True
            raise
        self._pending = False
