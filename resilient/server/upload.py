"""The body of a request that a server guards: waiting for it is the client's time, not the server's.

A client decides how fast it sends. So a request that waits for its body holds no permit, and the wait counts neither as
work nor as evidence; else twenty connections that send one byte a second would take every permit of a limit.

- *Before the application is called* the body is read ahead: up to `READ_AHEAD` bytes where the client has said how long
  it is (most requests are then complete), else its first part (whose sender may be waiting for an answer to it). A
  client that asks to be told whether to send at all (`Expect: 100-continue`) has the application decide.
- *While the application waits for more*, the permit is given back. It asks for one again when the body is complete: not
  with each part, or a long upload to a busy server would be refused at one of its parts for certain. If it is refused
  then, or its deadline passes, the application is told that its client has left.
- *Parts that are there* are handed on as they are: nothing is given back for them.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, Protocol

__all__ = ["READ_AHEAD", "ClientLeft", "Receive", "Upload", "resumed"]

Receive = Callable[[], Awaitable[Any]]

READ_AHEAD: Final = 65_536
"""Bytes of a body that are read before its request asks for a permit: as many as uvicorn buffers for a connection."""

PART: Final = "http.request"
LEFT: Final = {"type": "http.disconnect"}


class ClientLeft(BaseException):
    """The client closed its connection before the request was complete. Nothing can be answered."""


class Holder(Protocol):
    """What an upload knows of its request: whether the application may go on, and how to give its permit back."""

    begun: bool
    over: bool
    awaits_body: bool

    def withdraw(self) -> None:
        """Give the permit back."""

    async def readmit(self) -> bool:
        """Ask for a permit again. False: the request is refused, or too late."""
        ...


class Upload:
    """Reads a request's body from `receive`, the server's.

    Args:
        receive: the server's.
        ahead: bytes to read before the application is called; 0: none.
    """

    __slots__ = ("_ahead", "_complete", "_read", "_receive", "_request")

    def __init__(self, request: Holder, receive: Receive, ahead: int) -> None:
        self._request = request
        self._receive = receive
        self._ahead = ahead
        self._read: Any = None  # the message that was read ahead
        self._complete = False

    async def read_ahead(self) -> None:
        """Wait for the first bytes of the body. Raises `ClientLeft`."""
        parts: list[bytes] = []
        size = 0
        while size < self._ahead and not self._complete:
            message = await self._receive()
            if message["type"] != PART:
                raise ClientLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            self._complete = not message.get("more_body", False)
        if parts:
            self._read = {"type": PART, "body": b"".join(parts), "more_body": not self._complete}

    async def receive(self) -> Any:
        """What the application receives through."""
        message, self._read = self._read, None
        if message is not None:
            return message
        request = self._request
        if request.over and not request.begun:
            return LEFT
        if self._complete or request.begun:
            return await self._receive()
        message = await self._next()
        if message["type"] == PART and not message.get("more_body", False):
            self._complete = True
            if request.awaits_body and not request.begun and not await request.readmit():
                return LEFT
        return message

    async def _next(self) -> Any:
        """The next message; the permit is given back where it is not there at once."""
        receiving = _as_coroutine(self._receive())
        try:
            waits_for = receiving.send(None)
        except StopIteration as end:
            return end.value
        self._request.withdraw()
        return await resumed(receiving, waits_for)


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def resumed(coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    """What a coroutine returns that has been started, and `waits_for` this."""
    return await _resumed(coroutine, waits_for)


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    try:
        while True:
            try:
                sent = yield waits_for
            except BaseException as thrown:
                waits_for = coroutine.throw(thrown)
            else:
                waits_for = coroutine.send(sent)
    except StopIteration as end:
        return end.value
