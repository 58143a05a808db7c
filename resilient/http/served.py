"""One request that a server guards: its deadline, and the pipeline that is held while the application handles it.

A pipeline guards a function that it calls; an ASGI application is called by its server, in the server's task, and its
request is over in the midst of it, with what it sends. So the pipeline's coroutine is started by hand. Where it would
call its function it awaits `HELD` instead, and stays there until it is told how the request has ended.

A request that waits for its body (`resilient.http.upload`) is taken back out of the limit, and stays at `AWAITS_BODY`
until it may ask for a permit again.
"""

from __future__ import annotations

import math
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import replace
from types import CoroutineType
from typing import Any, Final

from resilient.call import Call
from resilient.deadlines import Deadline
from resilient.errors import Rejected, TimedOut
from resilient.events import Channel
from resilient.foresight import Inside, View, Worst
from resilient.http.upload import Upload, resumed
from resilient.outcome import FATAL, IGNORED, Classifier, Verdict
from resilient.policy import Layer, Scope, Withdrawn, Wrap
from resilient.runtime import Runtime
from resilient.telling import count_request

__all__ = [
    "HELD",
    "REQUEST",
    "START",
    "ErrorAnswer",
    "Guard",
    "Message",
    "Request",
    "RequestOnTrio",
    "Send",
    "ServerJudge",
    "UntilAnswered",
    "nowhere",
    "stand_in_line",
]

Message = Any  # a dict, which each framework has a type of its own for
Send = Callable[[Message], Awaitable[None]]
Guard = Generator[Any, Any, Any]

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

    def __init__(self, send: Send, runtime: Runtime) -> None:
        self.at = self.seconds = math.inf
        self.own = True
        self.pass_on = send
        self.runtime = runtime
        self.guard = self.upload = self.retry_after = None
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

    def bound(self, call: Call, inner: Layer) -> Coroutine[Any, Any, Any]:
        """Await `inner(call)` until the deadline strikes."""
        call.runtime = self.runtime
        return self.runtime.within(call, inner, self)

    def strikes(self) -> bool:
        """The deadline has come: whether what it bounds is to be cancelled. The body may have come in time for it, and
        the work then has a later one."""
        if self.begun or not (self.awaits_body or self.has_passed()):
            return False
        self.over = True
        return True

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
                self.begin(message["status"])
                if self.begun:
                    return self.send_head(message)
            elif self.begun:  # complete, or a stream that has begun
                self.end()
        return nowhere(message) if self.over and not self.begun else self.pass_on(message)

    def begin(self, status: int) -> None:
        """The response begins, unless it is but what came of a deadline that has passed."""
        self.status = status
        if status >= 500 and self.has_passed():
            self.over = True
        else:
            self.begun, self.at = True, math.inf

    def send_head(self, message: Message) -> Awaitable[None]:
        """Send the head. A client that does not take it (for it has not read an earlier response on its connection)
        must not hold a permit for that. So it is sent right away, and where that has to wait the permit goes back."""
        sending = self.pass_on(message)
        if type(sending) is not CoroutineType:
            return sending
        waits_for = next(sending.__await__(), ENDED)
        if waits_for is ENDED:
            return nowhere(message)
        self.end()
        return resumed(sending, waits_for)

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
            return struck or raised is not error  # a cancellation by `within` has become one
        except BaseException:
            pass  # it comes back
        return False

    def struck(self, error: BaseException) -> bool:
        """Whether it is an error of calls that had no time left."""
        if isinstance(error, ExceptionGroup):
            return all(self.struck(each) for each in error.exceptions)
        return isinstance(error, TimedOut) and error.policy in (CALLERS, OWN) and not self.begun and self.has_passed()


class RequestOnTrio(Request):
    """The same on trio, where scopes must nest: so it is not the pipeline that has the one of the deadline, but who
    calls the application.

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

    def begin(self, status: int) -> None:
        if self.scope.cancel_called:
            self.over = True
            return
        super().begin(status)

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


# -- the pipeline's coroutine ---------------------------------------------------------------------------------------


class _Held:
    """Seen by those who drive the coroutine, never by an event loop."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, Any]:
        return iter((self,))  # type: ignore[return-value]  # the cheapest that comes to a halt once


HELD: Final = _Held()
"""What the pipeline awaits in place of a function."""

ENDED: Final = object()
"""For `next`, where a coroutine has come to its end: to catch what ends an iteration costs ten times as much."""

AWAITS_BODY: Final = _Held()
"""What the pipeline awaits, outside its limit, while the request's body is not complete."""


@types.coroutine
def stand_in_line(guard: Guard, waits_for: Any) -> Generator[Any, Any, None]:
    """Let the pipeline wait in a queue of its limit until it comes to where it is held."""
    while waits_for is not HELD:
        try:
            sent = yield waits_for
        except BaseException as thrown:
            waits_for = guard.throw(thrown)
        else:
            waits_for = guard.send(sent)


class UntilAnswered(Wrap):
    """Ends what is inside it at the deadline of the request, which is never later than the server's own.

    Args:
        limit: seconds of that; None: there is none.
    """

    timed = False  # where there is a deadline it asks for itself
    raises = (TimedOut,)

    def __init__(self, limit: float | None) -> None:
        super().__init__(OWN)
        self.limit = limit

    def attach(self, channel: Channel) -> None:
        self.channel = channel

    def bind(self, inner: Layer, scope: Scope) -> Layer:
        def until_answered(call: Call) -> Coroutine[Any, Any, Any]:
            request: Request = call.args[0].pop(REQUEST)  # who kept it there would be kept by it
            if request.seconds <= 0:
                raise request.expired()
            layer = inner if request.upload is None else _with_body(request, request.upload, inner)
            return layer(call) if request.at == math.inf else request.bound(call, layer)

        return until_answered

    def worst(self, inner: Inside, view: View) -> Worst:
        if self.limit is None:
            rest = inner(view)
            endless = "nothing ends the request: a client need not send a deadline, and there is no max_deadline"
            return replace(rest, why=endless if math.isinf(rest.seconds.most) else rest.why)
        rest = inner(view.sooner(self.limit))
        why = f"max_deadline of {self.limit:g} s ends it" if rest.seconds.most > self.limit else rest.why
        return replace(rest, seconds=rest.seconds.up_to(self.limit), why=why)

    def describe(self) -> str:
        own = "" if self.limit is None else f", {self.limit:g} s at the most"
        return f"the client's deadline{own}"


def _with_body(request: Request, upload: Upload, inner: Layer) -> Layer:
    """`inner`, which is only entered while the request does not wait for its body."""

    async def with_body(call: Call) -> Any:
        await upload.read_ahead()
        while True:
            request.begin_work()
            if call.deadline is not None:
                call.deadline = request.at
            try:
                return await inner(call)
            except Withdrawn as withdrawn:
                again = withdrawn.again
                count_request(call, -1)
            await AWAITS_BODY
            if request.begun:
                return None
            for undo in again:
                undo()

    return with_body


class ServerJudge(Classifier):
    """The server's own deadline is all that speaks against it."""

    def error(self, error: Exception) -> Verdict:
        return FATAL if isinstance(error, TimedOut) and error.policy == OWN else IGNORED
