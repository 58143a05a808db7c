"""One request that a server guards, under trio: a cancel scope around the application ends it at its deadline.

The middleware opens and closes the scope by hand, and the request moves it along with its deadline.
"""

from __future__ import annotations

import math
from typing import Any

from resilient.core.call import Call
from resilient.core.layer import Layer
from resilient.runtime import Runtime
from resilient.server.request import Message, Request, Send

__all__ = ["RequestOnTrio"]


class RequestOnTrio(Request):
    """A request under trio, where a cancel scope ends it at the deadline.

    Attributes:
        scope: the cancel scope.
        body_by: when the body has to be there, on trio's clock.
    """

    __slots__ = ("body_by", "scope")

    scope: Any
    body_by: float | None

    def __init__(self, send: Send, runtime: Runtime) -> None:
        super().__init__(send, runtime)
        self.body_by = None

    async def bound(self, call: Call, inner: Layer) -> Any:
        call.runtime = self.runtime  # the gates inside a limit read its clock
        call.deadline = self.at
        try:
            return await inner(call)
        except self.runtime.cancelled:
            if self.scope.cancel_called and not self.begun:  # in a queue, or before the body has come
                raise self.expired() from None
            raise

    def open(self) -> None:
        import trio

        self.scope = trio.move_on_after(self.seconds)
        self.scope.__enter__()

    def close(self, error: BaseException | None) -> bool:
        swallowed = self.scope.__exit__(
            None if error is None else type(error), error, None if error is None else error.__traceback__
        )
        if self.scope.cancelled_caught:
            self.over = True
        return bool(swallowed)

    def begin_work(self) -> None:
        from trio import current_time

        super().begin_work()
        if self.body_by is None:
            self.body_by = self.scope.deadline
        self.scope.deadline = current_time() + (self.at - self.runtime.now())

    def withdraw(self) -> None:
        from trio import current_time

        super().withdraw()
        if self.awaits_body and self.body_by is not None and current_time() < self.body_by:
            self.scope.deadline = self.body_by

    def begins(self, status: int) -> bool:
        if self.scope.cancel_called:
            self.over = True
            return False
        return super().begins(status)

    async def send_head(self, message: Message) -> None:
        """Send the head of the response. Sending always suspends under trio, so here the deadline ends a head that the
        client does not take, and the limit learns nothing from it."""
        try:
            await self.pass_on(message)
        except BaseException:
            if self.guard is not None and self.scope.cancel_called:
                self.guard.close()
                self.guard = None
            raise
        self.scope.deadline = math.inf

    def failed(self, error: BaseException) -> bool:
        if self.guard is not None and not self.begun and self.scope.cancel_called:
            self.over = True
            if not isinstance(error, Exception):
                super().failed(self.expired())
                return False  # the cancel scope swallows it
        return super().failed(error)
