"""One open stream: the state that its page has, and what it sends next.

The feed's thread makes what is sent, so that the event loop of the request only sends. It makes the next part only when
the last one has been taken: a stream whose client reads slowly has one part waiting, and misses states, because the
next difference is from the state that its client has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient.runtime import Parking, current_async
from resilient.runtime.clock import monotonic

__all__ = ["Reader"]


class NoLimit:
    """A wait that has no deadline."""

    deadline: float | None = None
    waited = 0.0
    error: BaseException | None = None


class Reader:
    """An open stream.

    Args:
        stops: returns whether the server shuts down; None: it is not known.
        seconds: how long the stream lasts at most.

    Attributes:
        state: the state that the client has after what was last offered; None: none yet.
        number: of the last line that it has.
        over: whether the stream is to end.
    """

    def __init__(self, stops: Callable[[], bool] | None, seconds: float) -> None:
        self.state: dict[str, Any] | None = None
        self.number = 0
        self.over = False
        self._runtime = current_async()
        self._stops = stops
        self._until = monotonic() + seconds
        self._part: bytes | None = None
        self._parking: Parking | None = None

    @property
    def is_free(self) -> bool:
        """Whether it takes another part."""
        return self._part is None and not self.over

    @property
    def ends(self) -> bool:
        """Whether the server shuts down, or the stream has had its time."""
        return monotonic() >= self._until or (self._stops is not None and self._stops())

    def offer(self, part: bytes) -> None:
        """Let the stream send `part`, from any thread."""
        self._part = part
        self._wake()

    def end(self) -> None:
        """Let the stream end, from any thread."""
        self.over = True
        self._wake()

    def _wake(self) -> None:
        parking = self._parking
        if parking is not None:
            parking.wake()

    async def next(self) -> bytes | None:
        """Return the next part to send, when there is one; None at the end of the stream."""
        while True:
            self._parking = self._runtime.park()  # before the look: a wake in between ends the wait
            if self.over:
                return None
            if self._part is not None:
                part, self._part = self._part, None
                return part
            await self._parking.wait(None, NoLimit())
