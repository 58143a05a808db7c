"""The lifecycle of HTTP responses: a response is open until its body has ended."""

from __future__ import annotations

from typing import Any

from resilient.core.classify import Classifier
from resilient.core.lifecycle import EndObserver, ResultLifecycle
from resilient.core.result import CLOSING_SECONDS
from resilient.http.bodies import KEPT_SECONDS, Followed, Streams, set_aside
from resilient.runtime import Runtime

__all__ = ["ResponseLifecycle"]


class ResponseLifecycle(ResultLifecycle):
    """The lifecycle of the responses of one client library.

    Args:
        streams: of the client library.
        classifier: classifies the errors that break off a body.
    """

    may_be_open = True
    may_ask_to_wait = True
    aside_seconds = KEPT_SECONDS + CLOSING_SECONDS  # a body that takes longer is closed when the response is replaced
    closing_seconds = 0.0
    assumes = ("a call ends with what an attempt reads of the response: its body, or of a stream its head",)

    def __init__(self, streams: Streams, classifier: Classifier) -> None:
        self._streams = streams
        self._classifier = classifier
        self.is_open = streams.is_open  # type: ignore[method-assign]  # a frame less for each request

    def follow(self, result: Any, observer: EndObserver) -> None:
        """Notify `observer` when the body of a response has ended."""
        stream = result.stream
        if not (isinstance(stream, Followed) and stream.join(observer, self._classifier)):
            result.stream = self._streams.followed(stream, observer, self._classifier)

    async def set_aside(self, result: Any, runtime: Runtime) -> None:
        """Free the connection of a response that the next attempt may replace (see `bodies.set_aside`)."""
        await set_aside(result, self._streams, runtime)
