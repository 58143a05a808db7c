"""The body of a request, while it arrives: the wait for it is the client's time, not the server's.

A client decides how fast it sends. So a request that waits for its body holds no permit, and the wait counts neither as
work nor as evidence. Otherwise twenty connections that send one byte a second would take every permit of a limit.

- *Before the application is called*, the body is read ahead: up to `READ_AHEAD` bytes if the client has given its
  length (most requests are then complete), else the first part (the client may wait for an answer to it). If the client
  asks whether to send at all (`Expect: 100-continue`), nothing is read ahead, and the application decides.
- *While the application waits for more*, the request has no permit. It asks for one again when the body is complete,
  not with each part: a long upload to a busy server would almost certainly be refused at some part. If the limit
  refuses it then, or its deadline passes, the application receives `http.disconnect`, as if its client had left.
- *Parts that have arrived* are passed on as they are; the permit is kept.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, Protocol

__all__ = ["READ_AHEAD", "ClientLeft", "Receive", "Upload", "resumed"]

Receive = Callable[[], Awaitable[Any]]

READ_AHEAD: Final = 65_536
"""Bytes of a body that are read before the request asks for a permit: as many as uvicorn buffers for a connection."""

BODY_PART: Final = "http.request"
DISCONNECT: Final = {"type": "http.disconnect"}


class ClientLeft(BaseException):
    """The client closed its connection before the request was complete. Nothing can be answered."""


class UploadingRequest(Protocol):
    """The part of a request that its upload uses (see `resilient.server.request.Request`)."""

    response_begun: bool
    is_over: bool
    awaits_body: bool

    def withdraw(self) -> None:
        """Release the permit of the limit, until `readmit`."""

    async def readmit(self) -> bool:
        """Ask for a permit again. Returns False if the request is refused, or too late."""
        ...


class Upload:
    """Reads the body of a request, before and while the application handles it.

    Args:
        request: gives its permit up while it waits for the body.
        receive: the `receive` of the ASGI server.
        ahead: bytes to read before the application is called; 0: none.
    """

    __slots__ = ("_ahead", "_complete", "_read", "_receive", "_request")

    def __init__(self, request: UploadingRequest, receive: Receive, ahead: int) -> None:
        self._request = request
        self._receive = receive
        self._ahead = ahead
        self._read: Any = None  # the message that was read ahead
        self._complete = False

    async def read_ahead(self) -> None:
        """Wait for the first bytes of the body. Raises `ClientLeft` if the connection is closed before."""
        parts: list[bytes] = []
        size = 0
        while size < self._ahead and not self._complete:
            message = await self._receive()
            if message["type"] != BODY_PART:
                raise ClientLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            self._complete = not message.get("more_body", False)
        if parts:
            self._read = {"type": BODY_PART, "body": b"".join(parts), "more_body": not self._complete}

    async def receive(self) -> Any:
        """Return the next message for the application: the `receive` that it is given."""
        message, self._read = self._read, None
        if message is not None:
            return message
        request = self._request
        if request.is_over and not request.response_begun:
            return DISCONNECT
        if self._complete or request.response_begun:
            return await self._receive()
        message = await self._next()
        if message["type"] == BODY_PART and not message.get("more_body", False):
            self._complete = True
            if request.awaits_body and not request.response_begun and not await request.readmit():
                return DISCONNECT
        return message

    async def _next(self) -> Any:
        """Return the server's next message; release the permit if it has not arrived yet."""
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
    """Await a coroutine that has been started, and that has yielded `waits_for`. Returns its result."""
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
