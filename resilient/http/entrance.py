"""What stands before the limit of a server: it knows when a request has to be answered, and whether its body is there.

A request has one of two ways through the same gates:

- most have neither a body nor somebody who listens: then an `Entrance` stands before the limit, and the pipeline is one
  coroutine;
- else `UntilAnswered` is around the limit. It reads the body first, and sees to it that a request which the deadline
  has cut is told of as `TimedOut`, not as cancelled.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from resilient.call import Call
from resilient.errors import TimedOut
from resilient.events import Channel
from resilient.foresight import Inside, View, Worst
from resilient.http.held import AWAITS_BODY
from resilient.http.served import OWN, REQUEST, Request
from resilient.http.upload import Upload
from resilient.outcome import FATAL, IGNORED, Classifier, Verdict
from resilient.policy import Gate, Layer, Scope, Withdrawn, Wrap
from resilient.telling import count_request

__all__ = ["Entrance", "ServerJudge", "UntilAnswered"]


class Entrance(Gate):
    """Tells the gates inside it when the request has to be answered, and refuses one that is too late.

    It is all that is needed of `UntilAnswered` for a request without a body, of which nobody hears: a gate among gates,
    which cost it one coroutine together.
    """

    timed = holds = False

    def __init__(self, limit: float | None) -> None:
        super().__init__(OWN)
        self.limit = limit

    def admit(self, call: Call) -> Request:
        request: Request = call.args[0].pop(REQUEST)
        if request.at < math.inf:
            if request.seconds <= 0:
                raise request.expired()
            call.deadline = request.at
        call.runtime = request.runtime
        return request

    def release(self, ticket: Any) -> None:
        """Takes nothing back: nothing was given."""


class UntilAnswered(Wrap):
    """What the deadline of the request is to the limit: it reads the body before, and says what has ended the request.

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
