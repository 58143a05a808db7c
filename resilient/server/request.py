"""One request of a server: its deadline, its body, the messages that the application sends, and its end.

    state      on                                                  to         remark
    reading    the first part of the body is there                 queued     `max_deadline` counts from here
    reading    its deadline passes                                 late       the answer is 408
    reading    the client leaves                                   done       there is no answer
    queued     the limit admits it                                 working    the application is called, or goes on
    queued     the limit refuses it                                refused    the answer is 503
    queued     its deadline passes                                 late       the answer is 504
    working    the application waits for more of the body          uploading  the permit is released
    uploading  the body is complete                                queued     it asks for a permit again
    uploading  its deadline passes                                 late       the answer is 408
    working    its deadline passes                                 late       the application is cancelled; 504
    working    its response begins with 500 or more, after the     late       it is an error page about the deadline,
               deadline                                                       and is dropped; the answer is 504
    working    its response begins                                 answering  the deadline is lifted
    working    the application ends without a response             done       the limit learns nothing
    uploading  its response begins, or the application ends        as from working
    answering  its response is complete, a stream has begun, or    done       the permit is released, and the limit
               the application ends                                           learns the status
    answering  the client does not read the head of its response   done       the same, before the head is sent
    refused    the application sends a message                     refused    the message is dropped
    late       the application sends a message                     late       the message is dropped

A request without a body begins as queued. Each state as attributes of `Request`:

    reading    awaits_body
    queued     (none)
    working    pipeline_run
    uploading  pipeline_run, awaits_body
    answering  pipeline_run, response_begun
    done       neither pipeline_run nor is_over
    refused    is_over, refused
    late       is_over, not refused

On asyncio the deadline is a timer that cancels the server's task; on trio it is a cancel scope around the application.
The call of the pipeline is suspended meanwhile (`resilient.server.held_call`), and is resumed with the result or error
of the request. While a request is uploading, that call awaits `AWAITS_BODY`.
"""

from __future__ import annotations

import math
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, Final

from resilient.core.call import Call
from resilient.core.endings import CutByDeadline
from resilient.core.gate import Withdrawn
from resilient.core.layer import Layer
from resilient.errors import Rejected, TimedOut, is_cancellation
from resilient.runtime import Runtime
from resilient.runtime.asyncio import current_task
from resilient.runtime.inherited_deadline import Deadline
from resilient.runtime.timers import DeadlineEntry, Entries
from resilient.server.held_call import ENDED, HELD, PipelineRun, pass_queue
from resilient.server.upload import Upload, resumed

__all__ = [
    "CLIENT_DEADLINE",
    "MAX_DEADLINE",
    "REQUEST",
    "START",
    "ErrorAnswer",
    "Message",
    "Request",
    "Send",
    "drop_message",
]

Message = Any  # a dict; each framework has a type of its own for it
Send = Callable[[Message], Awaitable[None]]

REQUEST: Final = "resilient.request"
"""The key under which the ASGI scope carries the `Request` to the pipeline."""

START: Final = "http.response.start"
MAX_DEADLINE = "max_deadline"
CLIENT_DEADLINE = "deadline"


class ErrorAnswer(Exception):
    """The error, in events, of a request that the application answered with 500 or more, or not at all.

    Attributes:
        status: of the answer; 500 without an answer.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the application answered {status}")
        self.status = status


class Request(Deadline):
    """A request, which is also its own deadline: calls of the application inherit it until the response begins.

    Attributes:
        at, seconds: of the deadline; infinite without one.
        runtime: the runtime of the server's task.
        is_own: whether the deadline is the server's, not the client's.
        pass_on: the server's `send`. At the end it becomes `drop_message`: copied contexts (each timer of a server has
            one) refer to the deadline, and must not keep the connection alive with it.
        pipeline_run: the suspended call of the pipeline, or None.
        refused: whether the limit refused it.
        retry_after: seconds that the limit asks a refused client to wait, or None.
        response_begun: whether the response has begun.
        is_over: whether messages of the application are dropped, because the deadline had passed before the response
            began, or because the request got no permit.
        status: of the response; 500 before it begins.
        upload: its body, or None.
        awaits_body: whether it waits for its body, without a permit. The deadline is then that of the body.
        max_seconds: the server's own limit in seconds; only with an upload.
        client_deadline: the moment and the seconds of the client's deadline; only with an upload.
    """

    __slots__ = (
        "_base",
        "_entries",
        "_timer",
        "awaits_body",
        "client_deadline",
        "is_over",
        "is_own",
        "max_seconds",
        "pass_on",
        "pipeline_run",
        "refused",
        "response_begun",
        "retry_after",
        "runtime",
        "status",
        "upload",
    )

    pipeline_run: PipelineRun | None
    retry_after: float | None
    upload: Upload | None
    max_seconds: float
    client_deadline: tuple[float, float]
    runtime: Any  # a `Runtime`: of asyncio, where it is armed
    _timer: DeadlineEntry | None
    _entries: Entries
    _base: int

    def __init__(self, send: Send, runtime: Runtime) -> None:
        self.at = self.seconds = math.inf
        self.is_own = True
        self.pass_on = send
        self.runtime = runtime
        self.pipeline_run = self.upload = self.retry_after = self._timer = None
        self.refused = self.response_begun = self.is_over = self.awaits_body = False
        self.status = 500

    def take_earlier(self, outer: Deadline) -> None:
        """Take over `outer`, the deadline of a client in this process, if it is earlier."""
        if outer.at < self.at:
            now = self.at - self.seconds if self.seconds < math.inf else self.runtime.now()
            self.at, self.seconds, self.is_own = outer.at, max(0.0, outer.at - now), False

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the limit in errors and events: `MAX_DEADLINE` or `CLIENT_DEADLINE`."""
        return MAX_DEADLINE if self.is_own else CLIENT_DEADLINE

    def expired(self, call: Any = None, waited: float = 0.0) -> TimedOut:
        """Return the error of a call that this deadline ended. The error is no evidence: calls inside have inherited
        the deadline."""
        whose = f"{MAX_DEADLINE}={self.seconds:g} s" if self.is_own else f"the deadline of {self.seconds:g} s"
        doing = " while the request's body was awaited" if self.awaits_body else ""
        return TimedOut(f"{whose} has passed{doing}", policy=self.name, seconds=self.seconds, evidence=False)

    # -- the deadline -----------------------------------------------------------------------------------------------

    def start_deadline(self) -> None:
        """Start the timer of the deadline, if there is one: it cancels the current task."""
        if self.at < math.inf:
            task = current_task(self.runtime.loop)
            assert task is not None, "a deadline needs a task"
            self._base = task.cancelling()
            self._timer = timer = DeadlineEntry()
            timer.at, timer.limit, timer.task, timer.fired = self.at, self, task, False
            self._entries = self.runtime.until(timer)

    def end_deadline(self, error: BaseException | None) -> bool:
        """Stop the timer of the deadline. It may be called twice.

        Args:
            error: the error that ended the work, or None.

        Returns whether that error is the cancellation by the deadline. A cancellation by the server in the same tick
        takes precedence.
        """
        timer, self._timer = self._timer, None
        if timer is None:
            return False
        if timer.fired:
            assert timer.task is not None
            return timer.task.uncancel() <= self._base and error is not None and is_cancellation(error, CancelledError)
        if self._entries.pop(timer, None):
            timer.forget()
        return False

    def strikes(self) -> bool:
        """Whether to cancel the task now. Called by the timer of the deadline (see `Limit` in
        `resilient.runtime.protocol`). False if the response has begun, or if the body came in time, because that has
        moved the deadline."""
        if self.response_begun or not (self.awaits_body or self.has_passed()):
            return False
        self.is_over = True
        return True

    async def run_until_deadline(self, call: Call, inner: Layer) -> Any:
        """Await `inner(call)`, and raise `TimedOut` if the deadline cuts it short."""
        call.runtime, call.deadline = self.runtime, self.at
        try:
            result = await inner(call)
        except BaseException as error:
            if self.end_deadline(error):
                raise self.expired() from None
            raise
        self.end_deadline(None)
        return result

    # -- the body ---------------------------------------------------------------------------------------------------

    def expect_body(self, upload: Upload, max_seconds: float, client_deadline: tuple[float, float]) -> None:
        """Make the request wait for its body (state "reading"). The arguments are stored as the attributes of the same
        names."""
        self.upload = upload
        self.awaits_body = True
        self.max_seconds, self.client_deadline = max_seconds, client_deadline

    def begin_work(self) -> None:
        """Begin the work: the body is there, or the application reads it. `max_deadline` counts from now."""
        self.awaits_body = False
        own = self.runtime.now() + self.max_seconds, self.max_seconds
        self.is_own = own <= self.client_deadline
        self.at, self.seconds = min(own, self.client_deadline)

    def withdraw(self) -> None:
        """Release the permit, because the application waits for more of the body."""
        if self.pipeline_run is not None and not self.awaits_body and not self.response_begun:
            self.awaits_body = True
            self.pipeline_run.throw(Withdrawn())

    async def readmit(self) -> bool:
        """Ask for a permit again, because the body is complete. Returns False if the request is refused or too late."""
        run = self.pipeline_run
        if run is None or self.is_over:
            return not self.is_unanswered()
        self.pipeline_run = None  # so that nothing else resumes it meanwhile
        try:
            if (waits_for := next(run)) is not HELD:
                await pass_queue(run, waits_for)
        except (Rejected, TimedOut) as error:
            self.refuse(error)
            return False
        self.pipeline_run = run
        return True

    def refuse(self, error: Rejected | TimedOut) -> None:
        """Mark the request as refused or late, because this error ended its wait for a permit."""
        self.is_over = True
        if isinstance(error, Rejected):
            self.refused, self.retry_after = True, error.retry_after

    # -- messages of the application --------------------------------------------------------------------------------

    def send(self, message: Message) -> Awaitable[None]:
        """Handle a message of the application (this is its `send`): pass it on, or drop it if the request is over. The
        first message begins the response; the next one ends the guarded part."""
        if self.pipeline_run is not None and not self.is_over:
            if message["type"] == START:
                if self.begin_response(message["status"]):
                    return self.send_head(message)
            elif self.response_begun:  # complete, or a stream that has begun
                self.end_call()
        return drop_message(message) if self.is_over and not self.response_begun else self.pass_on(message)

    def begin_response(self, status: int) -> bool:
        """Begin the response. Returns False for 500 or more after the deadline: that is an error page about the
        deadline."""
        self.status = status
        if status >= 500 and self.has_passed():
            self.is_over = True
            return False
        self.response_begun, self.at = True, math.inf  # what has begun is not cut short
        return True

    async def send_head(self, message: Message) -> None:
        """Send the head of the response. If that has to wait, because the client has not read an earlier response on
        its connection, the permit is released first."""
        sending = self.pass_on(message)
        if type(sending) is CoroutineType:
            waits_for = next(sending.__await__(), ENDED)
            if waits_for is ENDED:
                return
            self.end_call()
            sending = resumed(sending, waits_for)
        await sending

    def is_unanswered(self) -> bool:
        """Whether the middleware has to answer, because the request is over before a response began.

        (Both `is_over` and `response_begun` are True if another thread, which has inherited the deadline, found it
        passed at the moment at which the response began.)
        """
        return self.is_over and not self.response_begun

    def has_passed(self) -> bool:
        """Whether the request has a deadline that has passed."""
        return self.at < math.inf and self.runtime.now() >= self.at

    # -- the end ----------------------------------------------------------------------------------------------------

    def end_call(self) -> None:
        """End the call of the pipeline with the status of the response."""
        run, self.pipeline_run = self.pipeline_run, None
        assert run is not None
        if self.status < 500:
            next(run, ENDED)
            return
        try:
            run.throw(ErrorAnswer(self.status))
        except (StopIteration, ErrorAnswer):
            pass

    def application_returned(self) -> None:
        """End the call of the pipeline: the application has returned before its response was complete."""
        if self.is_unanswered():
            self.application_raised(self.expired())
        else:
            self.end_call()

    def application_raised(self, error: BaseException) -> bool:
        """End the call of the pipeline with the error of the application. Returns whether the deadline caused it."""
        run, self.pipeline_run = self.pipeline_run, None
        if run is None:  # its upload was refused, and the application received `http.disconnect`
            return self.is_unanswered() and isinstance(error, Exception)
        is_from_deadline = self.is_from_deadline(error)
        timer = self._timer
        if timer is not None and timer.fired and is_cancellation(error, CancelledError):
            error = CutByDeadline(self.expired())
        if is_from_deadline:
            self.is_over = True
            error = self.expired()
        try:
            run.throw(error)
        except TimedOut as raised:
            return (
                is_from_deadline or raised is not error
            )  # the pipeline made a TimedOut of the deadline's cancellation
        except BaseException:
            pass  # the pipeline raises the application's own error again
        return False

    def is_from_deadline(self, error: BaseException) -> bool:
        """Whether an error is the `TimedOut` of calls that had no time left under this request's deadline."""
        if isinstance(error, ExceptionGroup):
            return all(self.is_from_deadline(each) for each in error.exceptions)
        return (
            isinstance(error, TimedOut)
            and error.policy in (CLIENT_DEADLINE, MAX_DEADLINE)
            and not self.response_begun
            and self.has_passed()
        )


async def drop_message(message: Message) -> None:
    """Drop a message: the `send` of a request that is over."""
