"""One request that a server guards: its deadline, its body, what the application sends, and how it ends.

On asyncio its deadline is a timer that cancels the server's task; on trio it is a cancel scope around the application.
The pipeline that guards the request is held meanwhile (`resilient.server.held`), and is told how the request ended.

A request that waits for its body (`resilient.server.upload`) is withdrawn from the limit. Its pipeline awaits
`AWAITS_BODY` until the body is complete, and then asks the limit for a permit again.
"""

from __future__ import annotations

import math
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, Final

from resilient.core.call import Call
from resilient.core.gate import Withdrawn
from resilient.core.layer import Layer
from resilient.errors import Rejected, TimedOut, is_cut
from resilient.runtime import Runtime
from resilient.runtime.asyncio import current_task
from resilient.runtime.inherited_deadline import Deadline
from resilient.runtime.timers import DeadlineEntry, Entries
from resilient.server.held import ENDED, HELD, Guard, stand_in_line
from resilient.server.upload import Upload, resumed

__all__ = [
    "CALLERS",
    "OWN",
    "REQUEST",
    "START",
    "ErrorAnswer",
    "Message",
    "Request",
    "Send",
    "nowhere",
]

Message = Any  # a dict, which each framework has a type of its own for
Send = Callable[[Message], Awaitable[None]]

REQUEST: Final = "resilient.request"
"""The key under which the ASGI scope carries the `Request` to the pipeline."""

START: Final = "http.response.start"
OWN = "max_deadline"
CALLERS = "deadline"


class ErrorAnswer(Exception):
    """The application answered with 500 or more. Events have this as the error of such a call.

    Attributes:
        status: of the answer; 500 where there was none.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the application answered {status}")
        self.status = status


class Request(Deadline):
    """A request. It is also its deadline, which holds until its response begins and is then lifted for all that have
    inherited it.

    Attributes:
        at, seconds: of the deadline; infinite where there is none.
        runtime: the runtime of the server's task.
        own: whether the deadline is the server's own, and not the client's.
        pass_on: the server's `send`. It becomes `nowhere` at the end: copied contexts (each timer of a server has one)
            keep the deadline alive, and should not keep the connection alive with it.
        guard: drives the pipeline's coroutine while that is held; else None.
        refused: whether the limit refused it. `retry_after`: seconds after which it may come again, or None.
        begun: whether the response has begun.
        over: whether what the application sends is dropped, because the deadline had passed before the response began,
            or because the request got no permit.
        status: of the response.
        upload: its body, if it has one.
        awaits_body: whether it waits for its body, without a permit. The deadline is then that of the body.
        most: the server's own limit in seconds, where there is an upload.
        clients: the moment and the seconds of the client's deadline, where there is an upload.
    """

    __slots__ = (
        "_base",
        "_entries",
        "_timer",
        "awaits_body",
        "begun",
        "clients",
        "guard",
        "most",
        "over",
        "own",
        "pass_on",
        "refused",
        "retry_after",
        "runtime",
        "status",
        "upload",
    )

    guard: Guard | None
    retry_after: float | None
    upload: Upload | None
    most: float
    clients: tuple[float, float]
    runtime: Any  # a `Runtime`: of asyncio, where it is armed
    _timer: DeadlineEntry | None
    _entries: Entries
    _base: int

    def __init__(self, send: Send, runtime: Runtime) -> None:
        self.at = self.seconds = math.inf
        self.own = True
        self.pass_on = send
        self.runtime = runtime
        self.guard = self.upload = self.retry_after = self._timer = None
        self.refused = self.begun = self.over = self.awaits_body = False
        self.status = 500

    def yield_to(self, outer: Deadline) -> None:
        """Take over the deadline of a client in this process, if it is earlier."""
        if outer.at < self.at:
            now = self.at - self.seconds if self.seconds < math.inf else self.runtime.now()
            self.at, self.seconds, self.own = outer.at, max(0.0, outer.at - now), False

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the limit in errors and events: `OWN` or `CALLERS`."""
        return OWN if self.own else CALLERS

    def expired(self, call: Any = None, waited: float = 0.0) -> TimedOut:
        """The error of a call that this deadline ended. It is no evidence: calls inside have inherited the deadline."""
        whose = f"{OWN}={self.seconds:g} s" if self.own else f"the deadline of {self.seconds:g} s"
        doing = " while the request's body was awaited" if self.awaits_body else ""
        return TimedOut(f"{whose} has passed{doing}", policy=self.name, seconds=self.seconds, evidence=False)

    # -- its end by the deadline ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Arm the deadline, if there is one: from now on it cancels this task."""
        if self.at < math.inf:
            task = current_task(self.runtime.loop)
            assert task is not None, "a deadline needs a task"
            self._base = task.cancelling()
            self._timer = timer = DeadlineEntry()
            timer.at, timer.limit, timer.task, timer.fired = self.at, self, task, False
            self._entries = self.runtime.until(timer)

    def close(self, error: BaseException | None) -> bool:
        """Disarm the deadline; `error` is what the work inside it ended with, or None. Returns whether that is the
        cancellation by the deadline; a cancellation by the server in the same tick goes first. It may be called twice.
        """
        timer, self._timer = self._timer, None
        if timer is None:
            return False
        if timer.fired:
            assert timer.task is not None
            return timer.task.uncancel() <= self._base and error is not None and is_cut(error, CancelledError)
        if self._entries.pop(timer, None):
            timer.forget()
        return False

    def strikes(self) -> bool:
        """Called when the timer fires. Returns whether to cancel the task: not if the response has begun, nor if the
        body came in time, which has moved the deadline."""
        if self.begun or not (self.awaits_body or self.has_passed()):
            return False
        self.over = True
        return True

    async def bound(self, call: Call, inner: Layer) -> Any:
        """Await `inner(call)`, and raise `TimedOut` if the deadline cuts it short."""
        call.runtime, call.deadline = self.runtime, self.at
        try:
            result = await inner(call)
        except BaseException as error:
            if self.close(error):
                raise self.expired() from None
            raise
        self.close(None)
        return result

    # -- its body ---------------------------------------------------------------------------------------------------

    def expect_body(self, upload: Upload, most: float, clients: tuple[float, float]) -> None:
        """Note that the request has a body that has not come yet."""
        self.upload = upload
        self.awaits_body = True
        self.most, self.clients = most, clients

    def begin_work(self) -> None:
        """Begin the work, which has all of `max_deadline` from now: the body is there, or the application reads it."""
        self.awaits_body = False
        own = self.runtime.now() + self.most, self.most
        self.own = own <= self.clients
        self.at, self.seconds = min(own, self.clients)

    def withdraw(self) -> None:
        """Give the permit back, because the application waits for more of the body."""
        if self.guard is not None and not self.awaits_body and not self.begun:
            self.awaits_body = True
            self.guard.throw(Withdrawn())

    async def readmit(self) -> bool:
        """Ask for a permit again, because the body is complete. Returns False if the request is refused or too late."""
        guard = self.guard
        if guard is None or self.over:
            return not self.is_late()
        self.guard = None  # so that nothing else drives it meanwhile
        try:
            if (waits_for := next(guard)) is not HELD:
                await stand_in_line(guard, waits_for)
        except (Rejected, TimedOut) as error:
            self.turned_away(error)
            return False
        self.guard = guard
        return True

    def turned_away(self, error: Rejected | TimedOut) -> None:
        """Note that the request got no permit, because of this error."""
        self.over = True
        if isinstance(error, Rejected):
            self.refused, self.retry_after = True, error.retry_after

    # -- what the application sends ---------------------------------------------------------------------------------

    def send(self, message: Message) -> Awaitable[None]:
        """The `send` of the application: passes a message on, begins or ends the guarded part, or drops what is
        late."""
        if self.guard is not None and not self.over:
            if message["type"] == START:
                if self.begins(message["status"]):
                    return self.send_head(message)
            elif self.begun:  # complete, or a stream that has begun
                self.end()
        return nowhere(message) if self.over and not self.begun else self.pass_on(message)

    def begins(self, status: int) -> bool:
        """Begin the response. Returns False if it is only an error page that follows from a deadline that has
        passed."""
        self.status = status
        if status >= 500 and self.has_passed():
            self.over = True
            return False
        self.begun, self.at = True, math.inf  # what has begun is not cut short
        return True

    async def send_head(self, message: Message) -> None:
        """Send the head of the response. Where sending has to wait, because the client has not read an earlier response
        on its connection, the permit is given back first."""
        sending = self.pass_on(message)
        if type(sending) is CoroutineType:
            waits_for = next(sending.__await__(), ENDED)
            if waits_for is ENDED:
                return
            self.end()
            sending = resumed(sending, waits_for)
        await sending

    def is_late(self) -> bool:
        """Whether the client gets an answer of the middleware, because the request is over before a response began.
        (Both `over` and `begun` are True if another thread, which has inherited the deadline, found it passed at the
        moment at which the response began.)"""
        return self.over and not self.begun

    def has_passed(self) -> bool:
        return self.at < math.inf and self.runtime.now() >= self.at

    # -- how it ends ------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Tell the pipeline the status of the response, which ends its call."""
        guard, self.guard = self.guard, None
        assert guard is not None
        if self.status < 500:
            next(guard, ENDED)
            return
        try:
            guard.throw(ErrorAnswer(self.status))
        except (StopIteration, ErrorAnswer):
            pass

    def returned(self) -> None:
        """Tell the pipeline that the application has returned without completing its response."""
        if self.is_late():
            self.failed(self.expired())
        else:
            self.end()

    def failed(self, error: BaseException) -> bool:
        """Tell the pipeline what the application has raised. Returns whether the deadline was the reason."""
        guard, self.guard = self.guard, None
        if guard is None:  # its upload was refused, and the application was told that the client has left
            return self.is_late() and isinstance(error, Exception)
        struck = self.struck(error)
        if struck:
            self.over = True
            error = self.expired()
        try:
            guard.throw(error)
        except TimedOut as raised:
            return struck or raised is not error  # the pipeline made a TimedOut of the deadline's cancellation
        except BaseException:
            pass  # the pipeline raises the application's own error again
        return False

    def struck(self, error: BaseException) -> bool:
        """Whether an error says that calls of the application had no time left under this request's deadline."""
        if isinstance(error, ExceptionGroup):
            return all(self.struck(each) for each in error.exceptions)
        return isinstance(error, TimedOut) and error.policy in (CALLERS, OWN) and not self.begun and self.has_passed()


async def nowhere(message: Message) -> None:
    """A `send` that drops the message: it comes too late."""
