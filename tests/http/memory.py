"""A network in memory, for httpcore under asyncio: each step takes one tick of the event loop, so that a test can count
ticks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

__all__ = ["BAD", "GOOD", "Network"]

BAD = b"HTTP/1.1 503 Status\r\nContent-Length: 3\r\n\r\nbad"
GOOD = b"HTTP/1.1 200 Status\r\nContent-Length: 4\r\n\r\ngood"


class Network:
    """httpcore's backend. Each request gets the next response of the script, in three parts, and a successful one after
    the last. None: there is no response."""

    def __init__(self) -> None:
        self.script: deque[bytes | None] = deque()
        self.seen = 0
        """Requests."""
        self.open = 0
        """Connections."""

    async def connect_tcp(self, *args: Any, **options: Any) -> _Connection:
        await asyncio.sleep(0)
        self.open += 1
        return _Connection(self)


class _Connection:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._is_open = True

    async def read(self, most: int, timeout: float | None = None) -> bytes:
        await asyncio.sleep(0)
        return await self._answers.get()

    async def write(self, data: bytes, timeout: float | None = None) -> None:
        await asyncio.sleep(0)
        if not data.endswith(b"\r\n\r\n"):
            return
        self._network.seen += 1
        answer = self._network.script.popleft() if self._network.script else GOOD
        if answer is not None:
            for part in (answer[:20], answer[20:-2], answer[-2:]):
                self._answers.put_nowait(part)

    async def aclose(self) -> None:
        self._network.open -= self._is_open
        self._is_open = False
        await asyncio.sleep(0)

    def get_extra_info(self, info: str) -> Any:
        return None
