"""One request of a server under trio: a cancel scope ends it at its deadline.

Cancel scopes must nest. So the middleware, not the pipeline, opens and closes the scope around the application, and the
request moves the scope's deadline together with its own.
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
    """A request under trio. Its states are those of `Request`.

    Attributes:
        scope: the cancel scope.
        body_by: the deadline of its body, on trio's clock; None before the work has begun.
    """

    __slots__ = ("body_by", "scope")

    scope: Any
    body_by: float | None

    def __init__(self, send: Send, runtime: Runtime) -> None:
        super().__init__(send, runtime)
        self.body_by = None

    async def run_until_deadline(self, call: Call, inner: Layer) -> Any:
        call.runtime = self.runtime  # the gates inside a limit read its clock
        call.deadline = self.at
        try:
            return await inner(call)
        except self.runtime.cancelled:
            if self.scope.cancel_called and not self.response_begun:  # in a queue, or before the body has come
                raise self.expired() from None
            raise

    def start_deadline(self) -> None:
        import trio

        self.scope = trio.move_on_after(self.seconds)
        self.scope.__enter__()

    def end_deadline(self, error: BaseException | None) -> bool:
        swallowed = self.scope.__exit__(
            None if error is None else type(error), error, None if error is None else error.__traceback__
        )
        if self.scope.cancelled_caught:
            self.is_over = True
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

    def begin_response(self, status: int) -> bool:
        if self.scope.cancel_called:
            self.is_over = True
            return False
        return super().begin_response(status)

    async def send_head(self, message: Message) -> None:
        """Send the head of the response. Sending always suspends under trio, so a wait for the client cannot be
        distinguished from sending. The deadline ends a head that the client does not read, and the limit learns nothing
        from it."""
        try:
            await self.pass_on(message)
        except BaseException:
            if self.pipeline_run is not None and self.scope.cancel_called:
                self.pipeline_run.close()
                self.pipeline_run = None
            raise
        self.scope.deadline = math.inf

    def application_raised(self, error: BaseException) -> bool:
        if self.pipeline_run is not None and not self.response_begun and self.scope.cancel_called:
            self.is_over = True
            if not isinstance(error, Exception):
                super().application_raised(self.expired())
                return False  # the cancel scope swallows it
        return super().application_raised(error)
