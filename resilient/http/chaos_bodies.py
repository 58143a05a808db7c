"""Bodies of responses that a chaos transport spoils: they break off, or arrive slowly.

As in `resilient.http.bodies`, the classes are derived for each client library, whose module is passed in.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from resilient.http.delegate import DelegatingBody
from resilient.runtime import Runtime, current_async
from resilient.runtime.threads import THREADS, drive

__all__ = ["stream_classes"]


@functools.cache
def stream_classes(module: Any) -> tuple[Any, Any]:
    """Return the stream classes `Truncated` and `Dripping` for a client library (httpx or httpx2)."""
    both = (module.AsyncByteStream, module.SyncByteStream)
    return type("Truncated", (Truncated, *both), {}), type("Dripping", (Dripping, *both), {})


class Truncated(DelegatingBody):
    """A body that ends in an error after its first `keep` bytes, or at its end if it is shorter.

    Args:
        stream: the client's.
        keep: bytes that arrive.
        error: makes the error.
    """

    def __init__(self, stream: Any, keep: int, error: Callable[[], Exception]) -> None:
        self._stream = stream
        self._left = keep
        self._error = error

    def _kept(self, part: bytes) -> bytes:
        kept = part[: self._left]
        self._left -= len(part)
        return kept

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            if kept := self._kept(part):
                yield kept
            if self._left < 0:
                break
        raise self._error()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        while self._left >= 0 and (part := await anext(chunks, None)) is not None:
            if kept := self._kept(part):
                return kept
        raise self._error()


class Dripping(DelegatingBody):
    """A body that arrives in small pieces, each after a pause.

    Args:
        stream: the client's.
        piece: bytes of a piece.
        pause: seconds before each piece.
        error: makes the error that is raised after the first pause, in place of the first piece. None: there is no
            error.
    """

    def __init__(self, stream: Any, piece: int, pause: float, error: Callable[[], Exception] | None) -> None:
        self._stream = stream
        self._piece = piece
        self._pause = pause
        self._error = error
        self._left: Iterator[bytes] = iter(())

    def _pieces(self, part: bytes) -> Iterator[bytes]:
        for at in range(0, len(part), self._piece):
            yield part[at : at + self._piece]

    async def _wait(self, runtime: Runtime) -> None:
        await runtime.sleep(self._pause)
        if self._error is not None:
            raise self._error()

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            for piece in self._pieces(part):
                drive(self._wait(THREADS))
                yield piece

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        while (piece := next(self._left, None)) is None:
            self._left = self._pieces(await anext(chunks))
        await self._wait(current_async())
        return piece
