"""Steps that a cancellation cannot tear, for the connections of httpcore under asyncio.

anyio, on which httpcore runs, lets the event loop turn once at each lock, each write and each close, although nothing
is waited for. A task that is cancelled in such a turn has changed one half of a connection's state and not the other:
frames are encoded and not sent, a connection is given up and not free. `Whole` runs a coroutine without these turns, so
that a cancellation arrives only where something is really waited for. (On trio, whose tasks are shielded by httpcore,
it changes nothing.)
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Coroutine, Generator
from typing import Any

from resilient.runtime import current_async
from resilient.runtime.asyncio import AsyncioRuntime

__all__ = ["Socket", "Whole", "hurry"]

TURNS = 200
"""Turns in a row that are left out at the most: httpcore takes 99 when it opens an HTTP/2 connection. With more, the
coroutine does wait for the event loop: as anyio does in a scope whose time is over, until it is cancelled."""


class Whole:
    """Awaits a coroutine, without the turns of the event loop in which it waits for nothing."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, turns = self._coroutine, 0
        try:
            awaited = coroutine.send(None)
            while True:
                if awaited is None and turns < TURNS:
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


def hurry(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine of asyncio as far as it goes without waiting, and end it there. Raises no `Exception`."""
    try:
        for _ in range(TURNS):
            awaited = coroutine.send(None)
            if awaited is not None:
                awaited.cancel()  # its lock asks the future whether it was
                break
        coroutine.throw(CancelledError())
    except (StopIteration, CancelledError):
        pass
    except Exception:  # the connection has noted it
        pass
    finally:
        coroutine.close()


class Socket:
    """The writes of one connection: replaces `write` of httpcore's network stream.

    `torn`: whether a write was cut short so that a part of it may be lost. Nothing can be sent on the connection then.
    """

    def __init__(self, stream: Any) -> None:
        self._write = stream.write
        self._pending = False
        self.torn = False
        stream.write = self.write

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await Whole(self._write(buffer, timeout))
        except Exception:
            raise
        except BaseException:
            # It waits for the peer to read. On asyncio all of it is in the transport's buffer by then, unless it still
            # waits for what a write that was cut short before has left there.
            self.torn = self._pending or not isinstance(current_async(), AsyncioRuntime)
            self._pending = True
            raise
        self._pending = False
