"""The policies around the limit of a server: they know a request's deadline, and whether its body has been read.

A request takes one of two paths through the same limit:

- Most have no body, and there is no listener: then an `Entrance` stands before the limit. It is a gate like the limit,
  so the pipeline is one coroutine.
- Else `UntilAnswered` wraps the limit. It reads the body first. If the deadline cuts a request short, it turns the
  cancellation into `TimedOut`, so that listeners are told of a timeout.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from resilient.core.call import Call
from resilient.core.classify import FATAL, IGNORED, Classifier, Verdict
from resilient.core.emit import count_request
from resilient.core.facts import Facts
from resilient.core.gate import Gate, Withdrawn
from resilient.core.layer import BoundLayer, Layer
from resilient.core.policy import PipelineContext, Wrap
from resilient.core.worst_case import InnerCost, Surroundings, WorstCase
from resilient.errors import TimedOut
from resilient.events import Channel
from resilient.server.held import AWAITS_BODY
from resilient.server.request import OWN, REQUEST, Request
from resilient.server.upload import Upload

__all__ = ["Entrance", "ServerClassifier", "UntilAnswered"]


class Entrance(Gate):
    """Sets the deadline of a request for the gates inside it, and refuses a request that is too late.

    It does what `UntilAnswered` does, for requests without a body and without listeners. As a gate it shares a gate
    layer with the limit; a wrap would need a coroutine of its own.
    """

    def __init__(self, limit: float | None) -> None:
        super().__init__(OWN)
        self.facts = Facts(timed=False, holds=False, time_limit=limit)

    def admit(self, call: Call) -> Request:
        request: Request = call.args[0].pop(REQUEST)
        if request.at < math.inf:
            if request.seconds <= 0:
                raise request.expired()
            call.deadline = request.at
        call.runtime = request.runtime
        return request

    def release(self, ticket: Any) -> None:
        """Does nothing, because admission takes no permit."""


class UntilAnswered(Wrap):
    """Reads the body of a request before the limit is asked, and applies the request's deadline to all that follows.

    Args:
        limit: the middleware's `max_deadline` in seconds, or None.
    """

    def __init__(self, limit: float | None) -> None:
        super().__init__(OWN)
        # A request with a deadline knows its runtime.
        self.facts = Facts(timed=False, time_limit=limit, raises=(TimedOut,))

    def _attach(self, channel: Channel) -> None:
        self.channel = channel

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        rest = inner.run

        def until_answered(call: Call) -> Coroutine[Any, Any, Any]:
            request: Request = call.args[0].pop(REQUEST)  # else scope and request would keep each other alive
            if request.seconds <= 0:
                raise request.expired()
            layer = rest if request.upload is None else _with_body(request, request.upload, rest)
            return layer(call) if request.at == math.inf else request.bound(call, layer)

        return BoundLayer(until_answered)

    def describe(self) -> str:
        limit = self.facts.time_limit
        own = "" if limit is None else f", {limit:g} s at the most"
        return f"the client's deadline{own}"

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, view: Surroundings) -> WorstCase:
        limit = self.facts.time_limit
        if limit is None:
            rest = inner(view)
            endless = "nothing ends the request: a client need not send a deadline, and there is no max_deadline"
            return replace(rest, why=endless if math.isinf(rest.seconds.most) else rest.why)
        rest = inner(view.sooner(limit))
        why = f"max_deadline of {limit:g} s ends it" if rest.seconds.most > limit else rest.why
        return replace(rest, seconds=rest.seconds.up_to(limit), why=why)


def _with_body(request: Request, upload: Upload, inner: Layer) -> Layer:
    """`inner`, run only while the request does not wait for its body: it is withdrawn from the limit when it has to."""

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


class ServerClassifier(Classifier):
    """Judges requests of a server: its own `max_deadline` is a failure; every other error says nothing."""

    def error(self, error: Exception) -> Verdict:
        return FATAL if isinstance(error, TimedOut) and error.policy == OWN else IGNORED
