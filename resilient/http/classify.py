"""What the outcome of a request was, and whether the request may be sent again after it.

The same exceptions have the same names in every client, so the client's module is given, not imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, ClassVar, Literal

from resilient.core import pushback
from resilient.core.classify import FAILURE, IGNORED, SUCCESS, WAITED, Classifier, Verdict
from resilient.errors import Rejected, bare
from resilient.http import semantics

__all__ = ["HttpClassifier", "Proof", "TransportClassifier", "untouched"]

_GOOD = Verdict("success", final=True)

Proof = Literal["unsent", "untouched"]
"""What must be known of a failed attempt of a request that is not safe to repeat: that the server has not acted upon
it; or that even its body, a stream, has not been begun."""


class HttpClassifier(Classifier):
    """What a failure is, for pipelines under a transport; the judgement of those that are given none.

    Args:
        statuses: of answers that are failures worth repeating. Default 408, 425, 429, 500, 502, 503 and 504, with the
            pause that the answer asks for (`Retry-After`, `retry-after-ms`; for 429 also `RateLimit-Reset` and
            `x-ratelimit-reset`). Other answers are successes, those of 400 and above too: the server did its part.

    Exceptions are failures worth repeating, except these:

    - Nothing about the server, and not repeated: mistakes of the caller (`UnsupportedProtocol`, `LocalProtocolError`,
      `InvalidURL`, a stream used twice, a proxy's 4xx), rejections, and programming errors.
    - Nothing about the server, and repeated: `PoolTimeout`, a wait for one of our own connections; and a request for
      which its HTTP/2 connection had no stream left, which was not sent.
    """

    library: ClassVar[Any]

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
        """True: a status can make a response a failure."""
        return True

    def error(self, error: Exception) -> Verdict:
        """The verdict on an exception."""
        cause = bare(error)
        if isinstance(cause, Rejected):
            return super().error(error)
        if isinstance(cause, self.library.PoolTimeout) or _had_no_stream(cause):
            return WAITED
        if isinstance(cause, self.library.LocalProtocolError) and type(_event(cause)).__name__ == "StreamClosedError":
            return FAILURE  # h2's: the server has reset the stream, and another request's reader has heard it first
        if isinstance(cause, self.library.ProxyError) and semantics.is_refusal(str(cause)):
            return IGNORED
        return super().error(error)

    def result(self, result: Any) -> Verdict:
        """The verdict on a response."""
        if result.status_code not in self.statuses:
            return SUCCESS
        pause = pushback.pause(dict(result.headers.items()), result.status_code, time.time())
        return FAILURE if pause is None else Verdict("failure", retryable=True, retry_after=pause)

    def on_result(self, ask: Callable[[Any, Any], Verdict]) -> Callable[[Any, Any], Verdict]:
        """Good responses are known by their status, in one frame."""
        if getattr(self.result, "__func__", None) is not HttpClassifier.result:  # a user's own
            return ask

        def on_result(call: Any, result: Any) -> Verdict:
            try:
                good = result.status_code not in self.statuses
            except Exception:  # it is no response: `ask` has the error
                good = False
            return SUCCESS if good else ask(call, result)

        return on_result


def _statuses(statuses: Collection[int]) -> frozenset[int]:
    for status in statuses:
        if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
            raise ValueError(f"statuses must be whole numbers from 100 to 599, got {status!r}")
    return frozenset(statuses)


class TransportClassifier(Classifier):
    """The classifier of a pipeline under a transport: the pipeline's own, and what may be repeated.

    Args:
        given: the pipeline's own classifier.
        is_proof: for requests that are not safe to repeat: whether an error shows that this one may be repeated all the
            same. None: requests are safe to repeat.
    """

    def __init__(self, given: Classifier, is_proof: Callable[[Exception], bool] | None = None) -> None:
        super().__init__()
        self.given = given
        self._is_proof = is_proof
        if is_proof is None:
            self.result = given.result  # type: ignore[method-assign]

    def careful(self, is_proof: Callable[[Exception], bool]) -> TransportClassifier:
        """The same, for requests that are not safe to repeat."""
        return TransportClassifier(self.given, is_proof)

    @property
    def judges_results(self) -> bool:
        """Always: of bad ones the server's wishes have to be known, and of good ones how they end."""
        return True

    def error(self, error: Exception) -> Verdict:
        """The verdict on an exception."""
        verdict = self.given.error(error)
        if self._is_proof is None or self._is_proof(bare(error)):
            return verdict
        return replace(verdict, retryable=False, final=True)

    def result(self, result: Any) -> Verdict:
        """The verdict on a response. A good one is final, too: a Retry may be told to repeat it."""
        verdict = self.given.result(result)
        return _GOOD if verdict.kind == "success" else replace(verdict, retryable=False, final=True)

    def on_result(self, ask: Callable[[Any, Any], Verdict]) -> Callable[[Any, Any], Verdict]:
        """As the given one does. `ask` asks this one."""
        known = self.given.on_result(ask)
        if self._is_proof is None or known is ask:
            return known

        def on_result(call: Any, result: Any) -> Verdict:
            verdict = known(call, result)
            return _GOOD if verdict is SUCCESS else verdict

        return on_result

    def closes(self, result: Any) -> bool:
        """As the given one says."""
        return self.given.closes(result)


def untouched(library: Any) -> Callable[[Exception], bool]:
    """Whether an error shows that no connection had the request yet: it has not been sent, not even begun."""
    kinds = (Rejected, library.ConnectError, library.ConnectTimeout, library.PoolTimeout, library.ProxyError)
    return lambda error: isinstance(error, kinds) or _had_no_stream(error)


def unsent(library: Any) -> Callable[[Exception], bool]:
    """Whether an error shows that the server has not acted upon the request: it was not sent, or an HTTP/2 server
    refused its stream or went away before it (RFC 9113, sections 8.7 and 6.8)."""
    is_untouched = untouched(library)

    def is_unsent(error: Exception) -> bool:
        return is_untouched(error) or _refused(error)

    return is_unsent


def _event(error: Exception) -> Any:
    """What httpcore has from h2."""
    cause = error.__cause__
    return cause.args[0] if cause is not None and cause.args else None


def _had_no_stream(error: Exception) -> bool:
    """Whether h2 has refused to open a stream for a request, before anything of it was sent."""
    return type(_event(error)).__name__ == "TooManyStreamsError"


REFUSED_STREAM = 7


def _refused(error: Exception) -> bool:
    event = _event(error)
    if type(event).__name__ == "StreamReset":  # h2's, which httpcore raises
        return bool(getattr(event, "remote_reset", False)) and getattr(event, "error_code", None) == REFUSED_STREAM
    # What it says of later streams httpcore repeats by itself.
    return type(event).__name__ == "ConnectionTerminated" and getattr(event, "last_stream_id", None) == 0
