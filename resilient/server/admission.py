"""The policies around the limit of a server: they apply a request's deadline, and read its body first.

A request takes one of two paths through the same limit:

- Fast path: the request has no body, and the pipeline has no listener. An `EntryGate` stands before the limit. It is a
  gate like the limit, so the pipeline is one coroutine.
- Full path: `UntilAnswered` wraps the limit. It reads the body first. If the deadline cancels a request, it turns the
  cancellation into `TimedOut`, so that events report a timeout.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from resilient.core.call import Call
from resilient.core.classify import FATAL, IGNORED, Classifier, Verdict
from resilient.core.context import PipelineContext
from resilient.core.emit import count_request
from resilient.core.facts import Facts
from resilient.core.gate import Gate, Withdrawn
from resilient.core.layer import BoundLayer, Layer
from resilient.core.policy import Wrap
from resilient.core.worst_case import InnerCost, Surroundings, WorstCase
from resilient.errors import TimedOut
from resilient.events import Channel
from resilient.server.held_call import AWAITS_BODY
from resilient.server.request import MAX_DEADLINE, REQUEST, Request
from resilient.server.upload import Upload

__all__ = ["EntryGate", "ServerClassifier", "UntilAnswered"]


class EntryGate(Gate):
    """Sets the deadline of a request for the gates inside it, and refuses a request that is too late.

    It replaces `UntilAnswered` for requests without a body, while there are no listeners. As a gate it shares a gate
    layer with the limit, where a wrap would need a coroutine of its own.

    Args:
        limit: the middleware's `max_deadline` in seconds, or None.
    """

    def __init__(self, limit: float | None) -> None:
        super().__init__(MAX_DEADLINE)
        self.facts = Facts(timed=False, holds=False, time_limit=limit)

    def admit(self, call: Call) -> Request:
        """Takes the request from the call. Raises `TimedOut`, which other gates do not, if its deadline has passed."""
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
    """Reads the body of a request before the request asks the limit for a permit, and applies the request's deadline to
    all that follows.

    Args:
        limit: the middleware's `max_deadline` in seconds, or None.
    """

    def __init__(self, limit: float | None) -> None:
        super().__init__(MAX_DEADLINE)
        # A request with a deadline knows its runtime.
        self.facts = Facts(timed=False, time_limit=limit, raises=(TimedOut,))

    def _attach(self, channel: Channel) -> None:
        self.channel = channel

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        rest = inner.run

        def until_answered(call: Call) -> Coroutine[Any, Any, Any]:
            request: Request = call.args[0].pop(REQUEST)  # else the scope and the request refer to each other
            if request.seconds <= 0:
                raise request.expired()
            layer = rest if request.upload is None else _with_body(request, request.upload, rest)
            return layer(call) if request.at == math.inf else request.run_until_deadline(call, layer)

        return BoundLayer(until_answered)

    def describe(self) -> str:
        limit = self.facts.time_limit
        own = "" if limit is None else f", {limit:g} s at the most"
        return f"the client's deadline{own}"

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        limit = self.facts.time_limit
        if limit is None:
            rest = inner(around)
            endless = "nothing ends the request: a client need not send a deadline, and there is no max_deadline"
            return replace(rest, why=endless if math.isinf(rest.seconds.most) else rest.why)
        rest = inner(around.sooner(limit))
        why = f"max_deadline of {limit:g} s ends it" if rest.seconds.most > limit else rest.why
        return replace(rest, seconds=rest.seconds.up_to(limit), why=why)


def _with_body(request: Request, upload: Upload, inner: Layer) -> Layer:
    """Return a layer that runs `inner` only while the request does not wait for its body.

    When the application waits for more of the body, `Withdrawn` ends `inner`, which releases the permit. When the body
    is complete, `inner` runs again, and needs a permit again.
    """

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
            if request.response_begun:
                return None
            for undo in again:
                undo()

    return with_body


class ServerClassifier(Classifier):
    """Classifies errors of a server: its own `max_deadline` is a failure; every other error is no evidence."""

    def error(self, error: Exception) -> Verdict:
        return FATAL if isinstance(error, TimedOut) and error.policy == MAX_DEADLINE else IGNORED
