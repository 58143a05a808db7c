"""Classifiers of the outcomes of requests, which also decide whether a request may be sent again.

`HttpClassifier` is the default of pipelines without a classifier of their own. `TransportClassifier` makes the verdicts
of any classifier final for requests that are not safe to repeat.

The exceptions have the same names in every client library, so the library's module is passed in, not imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, ClassVar, Literal

from resilient.core import pushback
from resilient.core.classify import FAILURE, IGNORED, SUCCESS, WAITED, Classifier, Verdict
from resilient.core.verdict import failure_after
from resilient.errors import Rejected, bare
from resilient.http import semantics

__all__ = ["HttpClassifier", "Proof", "TransportClassifier", "unsent", "untouched"]

_GOOD = Verdict("success", final=True)

Proof = Literal["unsent", "untouched"]
"""The proof that a failed attempt must give before a request that is not safe to repeat is sent again.

    unsent       the server has not acted upon the request
    untouched    nothing has read the body of the request, which is a stream
"""


class HttpClassifier(Classifier):
    """The classifier of pipelines under a transport that have no classifier of their own.

    Args:
        statuses: of responses that are failures worth repeating, after the pause that the response asks for
            (`Retry-After`, `retry-after-ms`; for 429 also `RateLimit-Reset` and `x-ratelimit-reset`). Default 408, 425,
            429, 500, 502, 503 and 504. Responses with other statuses are successes, 400 and above included: the server
            did its part.

    Exceptions are failures worth repeating, except these:

    - No evidence, and not repeated: errors of the caller (`UnsupportedProtocol`, `LocalProtocolError`, `InvalidURL`, a
      stream that is used twice, a proxy's 4xx), rejections, and programming errors.
    - No evidence, and repeated: `PoolTimeout`, a wait for one of our own connections; and a request that was not sent
      because its HTTP/2 connection had no stream left.
    """

    library: ClassVar[Any]
    """The module of the client library."""

    def __init__(self, *, statuses: Collection[int] = pushback.FAILURE_STATUSES) -> None:
        library = self.library
        super().__init__(
            ignore=(
                library.UnsupportedProtocol,
                library.LocalProtocolError,
                library.InvalidURL,
                library.StreamError,
            )
        )
        self.filters = {}
        self.statuses = _statuses(statuses)

    @property
    def judges_results(self) -> bool:
        """True: the status of a response can make it a failure."""
        return True

    def error(self, error: Exception) -> Verdict:
        """The verdict on an exception that the client raised for a request."""
        cause = bare(error)
        if isinstance(cause, Rejected):
            return super().error(error)
        if isinstance(cause, self.library.PoolTimeout) or _had_no_stream(cause):
            return WAITED
        if isinstance(cause, self.library.LocalProtocolError) and type(_event(cause)).__name__ == "StreamClosedError":
            return FAILURE  # h2's: the server has reset the stream, and the reader of another request saw it first
        if isinstance(cause, self.library.ProxyError) and semantics.is_refusal(str(cause)):
            return IGNORED
        return super().error(error)

    def result(self, result: Any) -> Verdict:
        """The verdict on a response, from its status and the pause that it asks for."""
        if result.status_code not in self.statuses:
            return SUCCESS
        return failure_after(pushback.pause(dict(result.headers.items()), result.status_code, time.time()))

    def on_result(self, ask: Callable[[Any, Any], Verdict]) -> Callable[[Any, Any], Verdict]:
        """A faster form of `result`: a function that recognises good responses by their status, and calls `ask` for the
        others."""
        if getattr(self.result, "__func__", None) is not HttpClassifier.result:  # overridden by the user
            return ask

        def on_result(call: Any, result: Any) -> Verdict:
            try:
                good = result.status_code not in self.statuses
            except Exception:  # it is no response: `ask` raises the error
                good = False
            return SUCCESS if good else ask(call, result)

        return on_result


def _statuses(statuses: Collection[int]) -> frozenset[int]:
    for status in statuses:
        if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
            raise ValueError(f"statuses must be whole numbers from 100 to 599, got {status!r}")
    return frozenset(statuses)


class TransportClassifier(Classifier):
    """The classifier of a pipeline under a transport: the verdicts of the pipeline's own classifier, marked as final
    where the request must not be sent again.

    Args:
        given: the pipeline's own classifier.
        is_proof: for requests that are not safe to repeat: whether an error proves that this one may be repeated all
            the same. None: the requests are safe to repeat.
    """

    def __init__(self, given: Classifier, is_proof: Callable[[Exception], bool] | None = None) -> None:
        super().__init__()
        self.given = given
        self._is_proof = is_proof
        if is_proof is None:
            self.result = given.result  # type: ignore[method-assign]  # a frame less

    def for_unsafe_requests(self, is_proof: Callable[[Exception], bool]) -> TransportClassifier:
        """A copy of this classifier for requests that are not safe to repeat."""
        return TransportClassifier(self.given, is_proof)

    @property
    def judges_results(self) -> bool:
        """True: a response can ask for a pause, and its body can fail."""
        return True

    def error(self, error: Exception) -> Verdict:
        """The verdict of the given classifier on an exception; final if the request must not be sent again."""
        verdict = self.given.error(error)
        return verdict if self._is_proof is None or self._is_proof(bare(error)) else _unrepeatable(verdict)

    def result(self, result: Any) -> Verdict:
        """The verdict on a response to a request that is not safe to repeat. The verdict on a good response is final,
        too, because a Retry can be set to repeat good results."""
        verdict = self.given.result(result)
        return _GOOD if verdict.kind == "success" else _unrepeatable(verdict)

    def on_result(self, ask: Callable[[Any, Any], Verdict]) -> Callable[[Any, Any], Verdict]:
        """The function of the given classifier, which recognises good responses; `ask` calls `result`."""
        known = self.given.on_result(ask)
        if self._is_proof is None or known is ask:
            return known

        def on_result(call: Any, result: Any) -> Verdict:
            verdict = known(call, result)
            return _GOOD if verdict is SUCCESS else verdict

        return on_result

    def closes(self, result: Any) -> bool:
        """Whether a result that no caller gets is closed, by the given classifier."""
        return self.given.closes(result)


def _unrepeatable(verdict: Verdict) -> Verdict:
    """`verdict` for a request that must not be sent again: not retryable, and final."""
    return replace(verdict, retryable=False, final=True)


def untouched(library: Any) -> Callable[[Exception], bool]:
    """A predicate of errors: whether no connection had the request yet, so that its body has not been read."""
    kinds = (Rejected, library.ConnectError, library.ConnectTimeout, library.PoolTimeout, library.ProxyError)
    return lambda error: isinstance(error, kinds) or _had_no_stream(error)


def unsent(library: Any) -> Callable[[Exception], bool]:
    """A predicate of errors: whether the server has not acted upon the request. Either it was not sent, or an HTTP/2
    server refused its stream or went away before it (RFC 9113, sections 8.7 and 6.8)."""
    is_untouched = untouched(library)

    def is_unsent(error: Exception) -> bool:
        return is_untouched(error) or _refused(error)

    return is_unsent


def _event(error: Exception) -> Any:
    """The event or error of h2 that httpcore raised this error for; None: there is none."""
    cause = error.__cause__
    return cause.args[0] if cause is not None and cause.args else None


def _had_no_stream(error: Exception) -> bool:
    """Whether h2 refused to open a stream for a request, so that nothing of it was sent."""
    return type(_event(error)).__name__ == "TooManyStreamsError"


REFUSED_STREAM = 7
"""The error code of HTTP/2 by which a server refuses a stream before it acts upon it."""


def _refused(error: Exception) -> bool:
    """Whether an HTTP/2 server refused the stream of a request, or closed the connection before it."""
    event = _event(error)
    if type(event).__name__ == "StreamReset":  # h2's, which httpcore raises
        return bool(getattr(event, "remote_reset", False)) and getattr(event, "error_code", None) == REFUSED_STREAM
    # Where `last_stream_id` is not 0, httpcore itself repeats the requests of later streams.
    return type(event).__name__ == "ConnectionTerminated" and getattr(event, "last_stream_id", None) == 0
