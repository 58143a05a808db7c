"""One request that a server guards: its deadline, its body, what the application sends, and how it ends.

Its deadline is a timer of its own, which cancels the server's task (on trio a scope, which has to be opened around what
it ends). The pipeline that guards it is held meanwhile (`resilient.http.held`), and is told of its end.

A request that waits for its body (`resilient.http.upload`) is taken back out of the limit, and stays at `AWAITS_BODY`
until it may ask for a permit again.
"""

from __future__ import annotations

import math
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, Final

from resilient.call import Call
from resilient.errors import Rejected, TimedOut
from resilient.groups import is_cut
from resilient.http.held import ENDED, HELD, Guard, stand_in_line
from resilient.http.upload import Upload, resumed
from resilient.moment import Deadline
from resilient.policy import Layer, Withdrawn
from resilient.runtime import Runtime
from resilient.runtime.asyncio import current_task
from resilient.runtime.timers import DeadlineEntry, Entries

__all__ = [
    "CALLERS",
    "OWN",
    "REQUEST",
    "START",
    "ErrorAnswer",
    "Message",
    "Request",
    "RequestOnTrio",
    "Send",
    "nowhere",
]

Message = Any  # a dict, which each framework has a type of its own for
Send = Callable[[Message], Awaitable[None]]

REQUEST: Final = "resilient.request"
"""Where a scope has it, on its way to the pipeline."""

START: Final = "http.response.start"
OWN = "max_deadline"
CALLERS = "deadline"


class ErrorAnswer(Exception):
    """The application answered with 500 or more: what events have as the error of such a call.

    Attributes:
        status: of the answer; 500 where there was none.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the application answered {status}")
        self.status = status


class Request(Deadline):
    """A request, and the deadline until its response begins: then it is lifted, for all that have inherited it.

    Attributes:
        at, seconds: infinite where nobody has limited it.
        runtime: the one that it is served on.
        own: whether the deadline is the server's own, and not the client's.
        pass_on: the server's `send`; `nowhere` in the end: contexts that were copied meanwhile (by each timer that a
            server sets) have the deadline for as long as they live, and need not have all the rest of the request.
        guard: what drives the pipeline's coroutine, while it is held.
        refused: it did not get so far; it may come again after `retry_after` seconds, where they are known.
        begun: the response has.
        over: the application can say no more: the deadline has struck before that, or the request came to no permit.
        status: of the answer.
        upload: its body, where it has one.
        awaits_body: the deadline is the one by which the body has to be there, and no permit is held.
        most: seconds of the server's own limit, where there is an upload.
        clients: the moment of the client's deadline, and its seconds, where there is an upload.
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
        """The client is in this process, and has a deadline."""
        if outer.at < self.at:
            now = self.at - self.seconds if self.seconds < math.inf else self.runtime.now()
            self.at, self.seconds, self.own = outer.at, max(0.0, outer.at - now), False

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the limit: the middleware's own, or the client's."""
        return OWN if self.own else CALLERS

    def expired(self, call: Any = None, waited: float = 0.0) -> TimedOut:
        """For all that have inherited it, it is the caller's."""
        whose = f"{OWN}={self.seconds:g} s" if self.own else f"the deadline of {self.seconds:g} s"
        doing = " while the request's body was awaited" if self.awaits_body else ""
        return TimedOut(f"{whose} has passed{doing}", policy=self.name, seconds=self.seconds, evidence=False)

    # -- its end by the deadline ------------------------------------------------------------------------------------

    def open(self) -> None:
        """From here on the deadline, if there is one, cancels this task."""
        if self.at < math.inf:
            task = current_task(self.runtime.loop)
            assert task is not None, "a deadline needs a task"
            self._base = task.cancelling()
            self._timer = timer = DeadlineEntry()
            timer.at, timer.limit, timer.task, timer.fired = self.at, self, task, False
            self._entries = self.runtime.until(timer)

    def close(self, error: BaseException | None) -> bool:
        """It does no longer; what was open ended with this error. Whether that is the cancellation by the deadline: one
        by the server in the same tick goes first. It may be said again."""
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
        """The deadline has come: whether what it bounds is to be cancelled. The body may have come in time for it, and
        the work then has a later one."""
        if self.begun or not (self.awaits_body or self.has_passed()):
            return False
        self.over = True
        return True

    async def bound(self, call: Call, inner: Layer) -> Any:
        """`inner(call)`, which ends as a `TimedOut` where the deadline cuts it."""
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
        """It has a body, which is still to come."""
        self.upload = upload
        self.awaits_body = True
        self.most, self.clients = most, clients

    def begin_work(self) -> None:
        """The body is there, or the application is to decide about it: the work has all of `max_deadline` from now."""
        self.awaits_body = False
        own = self.runtime.now() + self.most, self.most
        self.own = own <= self.clients
        self.at, self.seconds = min(own, self.clients)

    def withdraw(self) -> None:
        """The application waits for more of the body: give the permit back."""
        if self.guard is not None and not self.awaits_body and not self.begun:
            self.awaits_body = True
            self.guard.throw(Withdrawn())

    async def readmit(self) -> bool:
        """The body is complete: ask for a permit again. False: the request is refused, or too late."""
        guard = self.guard
        if guard is None or self.over:
            return not self.is_late()
        self.guard = None  # nothing else may drive it meanwhile
        try:
            if (waits_for := next(guard)) is not HELD:
                await stand_in_line(guard, waits_for)
        except (Rejected, TimedOut) as error:
            self.turned_away(error)
            return False
        self.guard = guard
        return True

    def turned_away(self, error: Rejected | TimedOut) -> None:
        """It came to no permit."""
        self.over = True
        if isinstance(error, Rejected):
            self.refused, self.retry_after = True, error.retry_after

    # -- what the application sends ---------------------------------------------------------------------------------

    def send(self, message: Message) -> Awaitable[None]:
        """What the application sends through."""
        if self.guard is not None and not self.over:
            if message["type"] == START:
                if self.begins(message["status"]):
                    return self.send_head(message)
            elif self.begun:  # complete, or a stream that has begun
                self.end()
        return nowhere(message) if self.over and not self.begun else self.pass_on(message)

    def begins(self, status: int) -> bool:
        """The response begins; False: it is but what came of a deadline that has passed."""
        self.status = status
        if status >= 500 and self.has_passed():
            self.over = True
            return False
        self.begun, self.at = True, math.inf  # what has begun is not cut short
        return True

    async def send_head(self, message: Message) -> None:
        """Send the head. A client that does not take it (for it has not read an earlier response on its connection)
        must not hold a permit for that: where sending has to wait, the permit goes back."""
        sending = self.pass_on(message)
        if type(sending) is CoroutineType:
            waits_for = next(sending.__await__(), ENDED)
            if waits_for is ENDED:
                return
            self.end()
            sending = resumed(sending, waits_for)
        await sending

    def is_late(self) -> bool:
        """Whether its answer is not the application's. (Both, `over` and `begun`: another thread, which has inherited
        the deadline, came to its end in that very moment.)"""
        return self.over and not self.begun

    def has_passed(self) -> bool:
        return self.at < math.inf and self.runtime.now() >= self.at

    # -- how it ends ------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Let the pipeline know the answer."""
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
        """The application has returned, and not said all: let the pipeline know."""
        if self.is_late():
            self.failed(self.expired())
        else:
            self.end()

    def failed(self, error: BaseException) -> bool:
        """The application has raised this: let the pipeline know. Whether it did so because the deadline struck."""
        guard, self.guard = self.guard, None
        if guard is None:  # it was told that its client has left, where its upload was turned away
            return self.is_late() and isinstance(error, Exception)
        struck = self.struck(error)
        if struck:
            self.over = True
            error = self.expired()
        try:
            guard.throw(error)
        except TimedOut as raised:
            return struck or raised is not error  # a cancellation by the deadline has become one
        except BaseException:
            pass  # it comes back
        return False

    def struck(self, error: BaseException) -> bool:
        """Whether it is an error of calls that had no time left."""
        if isinstance(error, ExceptionGroup):
            return all(self.struck(each) for each in error.exceptions)
        return isinstance(error, TimedOut) and error.policy in (CALLERS, OWN) and not self.begun and self.has_passed()


class RequestOnTrio(Request):
    """The same on trio, which has scopes for such an end.

    Attributes:
        scope: that one.
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
        """There sending always waits a moment. So it is the deadline that ends a head that is not taken, and what is
        learnt of it is nothing."""
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
                return False  # the scope takes it
        return super().failed(error)


async def nowhere(message: Message) -> None:
    """Where messages go that are too late."""
