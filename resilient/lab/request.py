"""A request on its way through the service of a world."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any, Protocol

from resilient.core.priority import Priority, priority

__all__ = ["Receiver", "Request", "with_priority"]


class Receiver(Protocol):
    """The server that a request is sent to.

    Attributes:
        number: of the server, from 1.
    """

    number: int

    def arrive(self, request: Request) -> None:
        """Take a request that has come over the network."""

    def given_up(self, request: Request) -> None:
        """Learn that the client no longer waits for the answer."""


class Request:
    """One request: the future that its sender waits on, and its state.

    Attributes:
        future: ends with the answer.
        key: of the call.
        deadline: in seconds on the loop's clock, or None.
        server: to which it is sent.
        gone: whether the client has given up.
        late: seconds by which the answer will be delayed; infinite if it will be lost.
        state: the generation of the server that executes it; None while no worker has it.
        priority, seen, work: set only if the servers have an admission: the priority of the call; what the policies
            get as its argument (None: the key); and the future that ends when a worker has finished.
    """

    __slots__ = ("deadline", "future", "gone", "key", "late", "priority", "seen", "server", "state", "work")

    priority: Priority
    seen: object
    work: asyncio.Future[object] | None

    def __init__(self, future: asyncio.Future[object], key: str, deadline: float | None, server: Receiver) -> None:
        self.future = future
        self.key = key
        self.deadline = deadline
        self.server = server
        self.gone = False
        self.late = 0.0
        self.state: Any = None


def with_priority(context: Context, name: Priority) -> Context:
    """Set the priority in a context; returns the context."""
    context.run(priority(name).__enter__)
    return context
