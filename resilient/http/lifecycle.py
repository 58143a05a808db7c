"""The lifecycle of HTTP responses: a response is open until its body has ended, and holds its connection until then.

Before a further attempt, a response that may be replaced is set aside: its body is read, so that its connection is free
for that attempt. Only a limited number of bytes is read, because a long body costs more than a new connection: such a
body keeps its connection.
"""

from __future__ import annotations

from typing import Any

from resilient.core.background import discard
from resilient.core.call import new_call
from resilient.core.classify import Classifier
from resilient.core.history import Recorded
from resilient.core.lifecycle import EndObserver, ResultLifecycle
from resilient.core.result import CLOSING_SECONDS
from resilient.http.bodies import Followed
from resilient.http.delegate import iterate, next_part
from resilient.http.streams import Streams
from resilient.observe.call_report import as_json
from resilient.runtime import Runtime

__all__ = ["KEPT_BYTES", "KEPT_BYTES_HTTP2", "KEPT_SECONDS", "ResponseLifecycle"]

KEPT_BYTES = 65536
"""The most bytes of a body that are read when its response is set aside."""

KEPT_BYTES_HTTP2 = 1 << 20
"""The most bytes that are read of a body over HTTP/2 when its response is set aside. There, a body that is not read to
its end costs the connection, which goes on, as many bytes of its flow-control window (16 MiB) forever: httpcore neither
resets the stream nor gives credit for what still comes."""

KEPT_SECONDS = 1.0
"""The most seconds that reading such a body takes."""


class ResponseLifecycle(ResultLifecycle):
    """The lifecycle of the responses of one client library.

    Args:
        streams: the classes of bodies for the library.
        classifier: of the errors that break off a body.
    """

    may_be_open = True
    explains = True
    may_ask_to_wait = True
    aside_seconds = KEPT_SECONDS + CLOSING_SECONDS  # a body that takes longer is closed when its response is replaced
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

    def explain(self, result: Any, recorded: Recorded) -> None:
        """Add the history of the request to its response, as `extensions["resilient"]`."""
        if isinstance(result.extensions, dict):
            result.extensions = {**result.extensions, "resilient": as_json(recorded)}

    async def set_aside(self, result: Any, runtime: Runtime) -> None:
        """Read the body of a response that the next attempt may replace, and free its connection.

        If the caller gets this response after all, its body is as it was; but a body that took longer than
        `KEPT_SECONDS` ends with `TimedOut`. A body of more than `KEPT_BYTES` (`KEPT_BYTES_HTTP2`) keeps its connection
        until the response is closed.
        """
        streams = self._streams
        if not streams.is_open(result):
            return
        stream, read = result.stream, []
        max_bytes = KEPT_BYTES_HTTP2 if result.http_version == "HTTP/2" else KEPT_BYTES
        chunks = iterate(stream, runtime)
        limit = streams.limit(runtime.now() + KEPT_SECONDS, KEPT_SECONDS)

        async def reading(_: Any) -> bool:
            size = 0
            while (part := await next_part(chunks)) is not None:
                read.append(part)
                size += len(part)
                if size > max_bytes or runtime.now() >= limit.at:
                    return False
            return True

        error: Exception | None = None
        try:
            whole = await runtime.within(new_call(reading, (), {}, runtime), reading, limit)
        except Exception as caught:
            whole, error = False, caught.with_traceback(None)  # it leads to this frame, which has it
        if not whole:
            result.stream = streams.held(stream, read, chunks, error)
            return
        await discard(stream, runtime)
        result.stream = streams.bytes(b"".join(read))
