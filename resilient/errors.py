"""The errors that a guarded call can raise, in addition to the exceptions of the function itself.

    ResilientError
    ├── Rejected            a policy refused the call: nothing was sent
    │   ├── CircuitOpen     the circuit is open (also a `pybreaker.CircuitBreakerError`)
    │   ├── BulkheadFull    no permit, and no place or no more time in the queue
    │   ├── RateLimited     no token in the bucket, and none soon enough
    │   ├── LimitExceeded   an adaptive limit has no room for a call of this priority
    │   └── PipelineClosed  `aclose()` was called
    └── TimedOut            a Timeout's own limit was reached (also a `TimeoutError`)
    PipelineError           (a `ValueError`) a pipeline that cannot work, with `strict=True`
    PipelineWarning         (a `UserWarning`) the same, without
    Deadlock                (a `RuntimeError`) a wait that nothing could ever end
    VirtualTimeError        (a `BaseException`) real I/O, threads or signals in virtual time

The function's own exception is always raised itself, never wrapped. Everything here pickles, and carries what a
handler needs: the names of pipeline and policy, the key of the call, and where it is known `retry_after`, the seconds
(from the moment of the error) before which another try is pointless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, cast

import pybreaker

__all__ = [
    "BulkheadFull",
    "CircuitOpen",
    "Deadlock",
    "LimitExceeded",
    "PipelineClosed",
    "PipelineError",
    "PipelineWarning",
    "RateLimited",
    "Rejected",
    "ResilientError",
    "TimedOut",
    "VirtualTimeError",
]


class Reason(str):
    """A reason as a text for people, with a code for metrics.

    Attributes:
        code: one of few words, such as "full".
    """

    __slots__ = ("code",)

    code: str

    def __new__(cls, text: str, code: str) -> Self:
        reason = super().__new__(cls, text)
        reason.code = code
        return reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code)


NONE = Reason("", "")
"""No reason."""


class Template(Reason):
    """A format string, for messages that are formatted when they are first read. Until then the first argument of such
    an error is a tuple: the template, and the values to format."""

    __slots__ = ()


class ResilientError(Exception):
    """Base of the errors that the library itself raises for a call. Their text begins with the pipeline's name, if any.

    Attributes:
        pipeline: name of the pipeline, or "" outside one.
        policy: name of the policy, or "".
        key: the key of the call as text, where the pipeline keeps a gate for each key (`Keyed`), and for requests the
            key of the transport (by default the origin); else "".
    """

    key: str = ""
    _code = "refused"

    def __init__(self, message: str = "", *, pipeline: str = "", policy: str = "", key: str = "") -> None:
        super().__init__(message)
        self.pipeline = pipeline
        self.policy = policy
        if key:
            self.key = key

    def __str__(self) -> str:
        _format_message(self)
        message = super().__str__()
        return f"{self.pipeline}: {message}" if self.pipeline else message

    def __reduce__(self) -> str | tuple[Any, ...]:
        reduced: Any = super().__reduce__()
        found = None if explain is None else explain(self)
        if found is None:
            return reduced  # type: ignore[no-any-return]
        state = {name: value for name, value in vars(self).items() if name != "_recorded"}
        return (*reduced[:2], {**state, "_why": found})


explain: Callable[[ResilientError], dict[str, Any] | None] | None = None
"""Returns the data of `resilient.why(error)`, which an error takes with it when it is pickled or copied; None for an
error that no guarded call has raised. Set by `resilient`; the code is in
`resilient.observe.why`."""


def reason_of(error: ResilientError) -> Reason:
    """Return the text of an error without the name of its pipeline, for texts that have that already; with its code
    (`code_of`)."""
    code = code_of(error)
    _format_message(error)
    return Reason(Exception.__str__(error), code)


def place_of(error: ResilientError) -> str:
    """Return the name that events give to the policy of an error: with the key, if there is one, as
    "CircuitBreaker[eu-1]"."""
    return f"{error.policy}[{error.key}]" if error.key else error.policy


class Rejected(ResilientError):
    """A policy refused the call before anything was sent, so it is safe to try elsewhere.

    Attributes:
        retry_after: seconds until a retry can make sense, or None when unknown.
    """

    def __init__(
        self,
        message: str = "",
        *,
        pipeline: str = "",
        policy: str = "",
        key: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, pipeline=pipeline, policy=policy, key=key)
        self.retry_after = retry_after
        if type(message) is Reason:
            self._code = message.code

    if not TYPE_CHECKING:  # type checkers see the attribute of BaseException

        @property
        def args(self):
            """The message in a tuple, as every exception has it. Reading it formats the message."""
            _format_message(self)
            return _args.__get__(self)

        @args.setter
        def args(self, args):
            _args.__set__(self, args)

    @property
    def code(self) -> str:
        """The reason as one of few words, as in the metric `resilient.rejections`: "open", "half-open", "isolated",
        "full", "queue-timeout", "evicted", "no-token", "no-room", "closed", "abandoned"; "refused" for any other."""
        return code_of(self)

    def __repr__(self) -> str:
        _format_message(self)
        return super().__repr__()

    def __reduce__(self) -> str | tuple[Any, ...]:
        _format_message(self)
        return super().__reduce__()


_args: Any = BaseException.args
_new: Any = BaseException.__new__
R = TypeVar("R", bound=Rejected)


def refusal(kind: type[R], message: tuple[Any, ...], policy: str, retry_after: float | None = None) -> R:
    """Make the error that `kind(message, policy=policy, retry_after=retry_after)` makes, in a third of the time.

    `message` is a `Template` and its values, of which the first is the name of the policy. They are formatted when the
    text is first read: most refusals are handled without reading it, and formatting a number costs as much as two bare
    awaits. No `__init__` runs.
    """
    error: R = _new(kind, message)
    error.pipeline = ""
    error.policy = policy
    error.retry_after = retry_after
    error._code = message[0].code
    return error


def _format_message(error: Any) -> None:
    """Format the message of a refusal, if it has not been read before."""
    args = _args.__get__(error)
    message = args[0] if args else None
    if type(message) is tuple and message and type(message[0]) is Template:
        template, name, *values = message
        name = f"{error.policy} for {error.key}" if error.key else name
        _args.__set__(error, (template.format(name, *values), *args[1:]))


def add_key(error: Rejected, policy: str, key: str) -> None:
    """Add the key of its call to the refusal of one of the gates that a `Keyed` keeps. `policy`: the name of these
    gates without the key."""
    if error.key:  # a Keyed inside a Keyed
        error.key = f"{key}, {error.key}"
    else:
        error.policy = policy
        error.key = key


def code_of(error: ResilientError) -> str:
    """Return the code of the reason for which a call was refused; "refused" for an error without one."""
    return error._code


class Opening(NamedTuple):
    """The latest opening of a circuit.

    Attributes:
        reason: "7 of 10 calls failed", "a probe failed", "by hand", ...
        at: when it opened, in seconds on the clock of its pipeline.
        seconds: for how long; infinite for an isolated circuit.
    """

    reason: str
    at: float
    seconds: float


class CircuitOpen(Rejected, pybreaker.CircuitBreakerError):
    """The circuit is open, isolated, or half-open with all probes in use.

    Attributes:
        opening: the reason and the time of the circuit's latest opening; None in an error that no circuit has made.
    """

    opening: Opening | None = None


class BulkheadFull(Rejected):
    """All permits are taken and the call may not, or may no longer, wait for one."""


class RateLimited(Rejected):
    """The rate is used up; `retry_after` says when the next token comes."""


class LimitExceeded(Rejected):
    """More calls run than an `AdaptiveLimit` allows for a call of this priority, and its queue has no place."""


class PipelineClosed(Rejected):
    """The pipeline was closed and takes no more calls."""


class TimedOut(ResilientError, TimeoutError):
    """A Timeout of the pipeline ended the call. The callee's own `TimeoutError` is never converted to this error.

    Attributes:
        seconds: the limit that was reached.
        evidence: True when the dependency had that whole time; False when local queues used part of it up, which
            says nothing about the dependency (a breaker does not count it).
    """

    def __init__(
        self,
        message: str = "",
        *,
        pipeline: str = "",
        policy: str = "",
        key: str = "",
        seconds: float | None = None,
        evidence: bool = True,
    ) -> None:
        super().__init__(message, pipeline=pipeline, policy=policy, key=key)
        self.seconds = seconds
        self.evidence = evidence


class PipelineError(ValueError):
    """The order of the policies of a pipeline, or their times, cannot work, and it was built with `strict=True`."""


class PipelineWarning(UserWarning):
    """The order of the policies of a pipeline, or their times, cannot work as one would expect."""


class Deadlock(RuntimeError):
    """A wait that nothing could ever end: for something that only the waiting thread, or a task on its own event loop,
    could do; or, in virtual time, because every task waits. The message says what waits, and what to do instead."""


class VirtualTimeError(BaseException):
    """Code in virtual time requested real I/O, a thread, a subprocess or a signal handler, which no run could repeat.
    The message names the line that did, and what to use instead.

    It is no `Exception`: no policy repeats it or answers for it. The event loop raises it as well, out of
    `resilient.testing.run` or the test, so a handler that catches it or a task that is never awaited cannot hide it.
    """


# -- errors inside errors --------------------------------------------------------------------------------------------

_members: Callable[[BaseException], tuple[BaseException, ...]] = cast("Any", BaseExceptionGroup.exceptions).__get__
"""Returns the errors in a group itself, whatever a subclass defines."""


def is_group(kind: type[BaseException]) -> bool:
    """Whether errors of this type are groups of errors."""
    return issubclass(kind, BaseExceptionGroup)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in a group, and in the groups inside it; for any other error, the error itself."""
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if is_group(type(each)):
            waiting += reversed(_members(each))
        else:
            yield each


def is_cancellation(error: BaseException, cancelled: type[BaseException]) -> bool:
    """Whether an error is a cancellation of type `cancelled`. A group of a nursery or task group is one if it contains
    a cancellation, and else only `Exception`s (of the clean-up); with a KeyboardInterrupt in it, it is not."""
    if issubclass(type(error), cancelled):
        return True
    if not is_group(type(error)):
        return False
    found = [type(each) for each in leaves(error)]
    return any(issubclass(each, cancelled) for each in found) and all(
        issubclass(each, (Exception, cancelled)) for each in found
    )


class Stopped(Exception):
    """Carries a user's `StopIteration` out of a coroutine, which may not raise one (PEP 479)."""

    def __init__(self, error: StopIteration) -> None:
        super().__init__(error)
        self.error = error


def bare(error: Exception) -> Exception:
    """Return the error that the function raised: the one inside a `Stopped`, or the error itself."""
    return error.error if type(error) is Stopped else error
