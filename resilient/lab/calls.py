"""The arguments of simulated calls, and their answers.

A world has keys and statuses. By default a call has one argument, its key (a string); a good answer is the string
"answer", and a bad one is a `ServiceError` with the status. Pipelines of production may look at more: a classifier at
results, a `Keyed` at arguments, a transport at requests. For them `Calls` says what both look like, by two functions of
the user's:

    def arguments(key):                   # of a call with this key: a tuple, or a dict of keyword arguments
        return User(tenant=key), "orders"

    def answer(status, retry_after):      # what the guarded function returns for this status; or raises
        return Response(status)

    Scenario(..., calls=Calls(arguments, answer))

`resilient.lab.http` has `HttpCalls`, whose calls are requests of an HTTP client, and whose answers are its responses.

An answer counts as a success of the service by its status: below 500, and not one of the failures of `HttpClassifier`
(408, 425, 429). The pipeline's own judgement decides what the pipeline does, not what is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from resilient import _validation
from resilient.core.callbacks import is_callback_error
from resilient.core.classify import PROGRAMMING_ERRORS
from resilient.core.policy import Policy
from resilient.errors import Rejected, TimedOut
from resilient.explain.error_location import located
from resilient.faults.exceptions import Exceptions
from resilient.lab.answers import ANSWER, OK, BadAnswer, CandidateError, ServiceError, is_good
from resilient.pipeline import Pipeline

__all__ = ["KEYED", "Calls", "Endpoint", "Exchange", "Wire", "current_exchange"]


class Endpoint(Protocol):
    """The service as its clients see it.

    Attributes:
        names: the exceptions that stand for broken connections.
        unreachable: requests that did not arrive at the service.
    """

    names: Exceptions
    unreachable: set[asyncio.Future[object]]

    def ask(self, key: str, deadline: float | None = None, seen: object = None) -> asyncio.Future[object]:
        """Send a request; the future ends with its answer."""
        ...


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls with the arguments and the answers of production.

    Args:
        arguments: is called with the key of a call; returns its arguments, as a tuple or as a dict of keyword
            arguments. Default: the key is the only argument.
        answer: is called with a status (200 for a success; 503, 429, ...) and the pause in seconds for which the
            service asks the client, or None; returns the answer of a request. An exception that it returns or raises is
            the error of the request. Default: "answer", or a `ServiceError`.
        statuses: the statuses of successful answers, each with its share: `{200: 0.95, 404: 0.05}`. Default: all 200.
    """

    arguments: Callable[[str], Any] | None = None
    answer: Callable[[int, float | None], Any] | None = None
    statuses: Mapping[int, float] = field(default_factory=lambda: {OK: 1.0})

    def __post_init__(self) -> None:
        for name in ("arguments", "answer"):
            given = getattr(self, name)
            if given is not None and (not callable(given) or _validation.is_async(given)):
                raise TypeError(f"{name} must be a plain function or a class, got {given!r}")
        shares("statuses", self.statuses, _status)

    # -- one call ---------------------------------------------------------------------------------------------------

    def made(self, key: str, luck: Callable[[], float]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments of a call with this key; `luck` draws a number from 0 to 1.

        Raises `CandidateError`, in one line, if the user's function does not return arguments.
        """
        if self.arguments is None:
            return (key,), {}
        try:
            given = self.arguments(key)
        except (Exception, SystemExit) as error:
            raise CandidateError(f"calls.arguments({key!r}) raised {located(error)}") from error
        if isinstance(given, Mapping):
            return (), given
        if not isinstance(given, tuple):
            raise CandidateError(
                f"calls.arguments({key!r}) must return a tuple, or a dict of keyword arguments, got {given!r}"
            )
        return given, {}

    def answered(self, status: int, retry_after: float | None) -> Any:
        """The answer of a request with this status: a result, or an exception."""
        if self.answer is not None:
            return self.answer(status, retry_after)
        return ANSWER if is_good(status) else ServiceError(status, retry_after)

    def check(self, key: str) -> None:
        """Try both functions, for a call with this key. Raises `ValueError`, in one line, if one of them fails or
        returns something unusable."""
        try:
            self.made(key, lambda: 0.0)
        except CandidateError as error:
            raise ValueError(str(error)) from error.__cause__
        for status, retry_after in ((OK, None), (503, 1.0)):
            asked = f"calls.answer({status}, {retry_after})"
            try:
                made = self.answered(status, retry_after)
            except (Exception, SystemExit) as error:
                if status == OK or isinstance(error, (SystemExit, *PROGRAMMING_ERRORS)):
                    raise ValueError(f"{asked} raised {located(error)}") from error
            else:
                if isinstance(made, BaseException) and not _can_end_a_call(made):
                    raise ValueError(_must_end_a_call(asked, made))
                if status == OK and isinstance(made, BaseException):
                    raise ValueError(f"{asked} must be the result of a successful call, got {made!r}")

    # -- what a candidate makes of them -----------------------------------------------------------------------------

    def check_classifier(self, pipeline: Pipeline) -> None:
        """Call the classifier of a pipeline with a successful answer. Raises `CandidateError` if the classifier raises,
        or returns a failure: then it expects answers of another kind."""
        classifier = pipeline.classify
        if classifier.judges_results and OK in self.statuses:
            answer = self.answered(OK, None)
            try:
                verdict = classifier.result(answer)
            except Exception as error:
                raise self._unfit(f"its classifier raised {located(error)}") from error
            if verdict.kind == "failure":
                raise self._unfit("its classifier judges a successful answer a failure")
        for policy in pipeline.policies:
            if isinstance(policy, Pipeline):
                self.check_classifier(policy)

    def mistake(self, error: Exception, key: str) -> CandidateError | None:
        """The error that ends a run because a call with this key has raised `error`; None if that is an ordinary
        failure."""
        if isinstance(error, FAILURES):
            return None
        if isinstance(error, CandidateError):
            return error
        if is_callback_error(error):
            blamed = self._unfit(f"its classifier, a key or a strategy raised {located(error)}", key)
        elif isinstance(error, PROGRAMMING_ERRORS):
            blamed = self._unfit(f"a call ended with {located(error)}", key)
        else:
            return None
        blamed.__cause__ = error
        return blamed

    def _unfit(self, why: str, key: str = "1") -> CandidateError:
        args, kwargs = self.made(str(key), lambda: 0.0)
        given = ", ".join([*map(_short, args), *(f"{name}={_short(value)}" for name, value in kwargs.items())])
        given += "," if len(args) == 1 and not kwargs else ""
        look = f"calls here have the arguments ({given}) and the answer {_short(self.answered(OK, None))}"
        if self is not KEYED:
            return CandidateError(f"{why}; as the scenario's [calls] says, {look}")
        return CandidateError(
            f"{why}; {look}: describe those of production, by --calls or in the scenario's [calls] "
            '(kind = "http"; or arguments and answer, each "MODULE:FUNCTION")'
        )

    # -- a client ---------------------------------------------------------------------------------------------------

    def guarded(self, guard: Any, wire: Wire) -> tuple[Callable[..., Any], Pipeline | None]:
        """The function that a client calls, and the pipeline around it, if any.

        Args:
            guard: what the candidate has made.
            wire: the way of its requests to the service.
        """

        async def request(*args: Any, **kwargs: Any) -> object:
            return await current_exchange().ask(None)

        if wire.client is not None:
            raise CandidateError('its transport sends HTTP requests: it needs [calls] of kind = "http"')
        if not isinstance(guard, Policy):
            return guard(request), None
        pipeline = guard if isinstance(guard, Pipeline) else Pipeline(guard)
        sends_deadline = wire.deadline_header

        def attempt(call: Any) -> Any:
            return current_exchange().ask(call.deadline if sends_deadline else None)

        return pipeline._derive(pipeline.policies, attempt=lambda context: attempt)(request), pipeline


FAILURES = ServiceError, Rejected, TimedOut, ConnectionError, BadAnswer
"""Errors of services and refusals of policies: never a mistake of the candidate."""


def _can_end_a_call(answer: BaseException) -> bool:
    """Whether an exception can end a coroutine without ending more than the coroutine."""
    return isinstance(answer, Exception) and not isinstance(answer, StopIteration)


def _must_end_a_call(asked: str, answer: BaseException) -> str:
    return f"{asked} must be a result or an exception that a call can end with, got {answer!r}"


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True, slots=True)
class Wire:
    """The connection of the clients of one run to its service.

    Attributes:
        calls: the arguments and answers of calls.
        service: receives the requests.
        luck: draws a number from 0 to 1.
        client: puts a pipeline under the candidate's transport; None without a transport.
        deadline_header: whether requests carry deadlines to the service.
        serves: whether servers have policies in front of them, which look at requests.
    """

    calls: Calls
    service: Endpoint
    luck: Callable[[], float]
    client: Callable[[Pipeline], Any] | None
    deadline_header: bool
    serves: bool

    def status(self) -> int:
        """The status of a successful answer: drawn by the shares of `Calls.statuses`."""
        status: int = drawn(self.calls.statuses, self.luck)
        return status

    def caller(self, guarded: Callable[..., Any]) -> Callable[[Any], Any]:
        """A function that makes a call, given its key. It returns `ANSWER` for a good answer.

        Args:
            guarded: is called with the arguments of the call.
        """
        calls, luck = self.calls, self.luck

        async def made(call: Any) -> object:
            args, kwargs = calls.made(str(call), luck)
            exchange = Exchange(call, self)
            _current.set(exchange)
            return exchange.ended(await guarded(*args, **kwargs))

        return made


class Exchange:
    """One call: its requests and their answers.

    Attributes:
        wire: the connection to the service.
    """

    __slots__ = ("_answers", "_call", "wire")

    def __init__(self, call: Any, wire: Wire) -> None:
        self._call = call
        self.wire = wire
        self._answers: list[tuple[object, int]] = []

    async def ask(
        self,
        deadline: float | None,
        seen: object = None,
        answered: Callable[[int, float | None], Any] | None = None,
        unreachable: Callable[[], object] | None = None,
    ) -> Any:
        """Send a request, and return its answer, or raise it.

        Args:
            deadline: that the request carries to the server, in seconds on the loop's clock.
            seen: what policies at the server get as their argument; None: the key.
            answered: makes the answer. Default: the `Calls` of the world.
            unreachable: is called at once if the request does not reach the server.
        """
        self._call.requests += 1
        wire = self.wire
        try:
            sent = wire.service.ask(self._call, deadline, seen)
            if unreachable is not None and sent in wire.service.unreachable:
                unreachable()
            await sent
        except ServiceError as error:
            status, retry_after = error.status, error.retry_after
        else:
            status, retry_after = wire.status(), None
        answer = (answered or wire.calls.answered)(status, retry_after)
        if isinstance(answer, BaseException):
            if not _can_end_a_call(answer):
                raise CandidateError(_must_end_a_call(f"calls.answer({status}, {retry_after})", answer))
            raise answer
        self._answers.append((answer, status))
        return answer

    def ended(self, result: object) -> object:
        """`ANSWER` if `result` is a good answer of the service; `result` itself if it comes from elsewhere.

        Raises `BadAnswer` for a bad answer.
        """
        for answer, status in reversed(self._answers):
            if answer is result:
                if is_good(status):
                    return ANSWER
                raise BadAnswer(status)
        return result


_current: ContextVar[Exchange] = ContextVar("resilient_lab_exchange")

current_exchange = _current.get
"""The `Exchange` of the call in whose context this runs."""


# -- shares ---------------------------------------------------------------------------------------------------------


def shares(argument: str, given: object, checked: Callable[[str, Any], object]) -> None:
    """Check a mapping of values to their shares. `checked(argument, value)` raises an error for a bad value.

    Raises `TypeError` or `ValueError`.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{argument} must be a mapping of each to its share, got {given!r}")
    for value, share in given.items():
        checked(argument, value)
        _validation.amount(f"{argument}[{value!r}]", share)
    if not sum(given.values()):
        raise ValueError(f"{argument} must have at least one share above 0, got {dict(given)!r}")


def drawn(given: Mapping[Any, float], luck: Callable[[], float]) -> Any:
    """One of the values of a mapping, drawn by share."""
    values = list(given)
    if len(values) == 1:
        return values[0]
    sums = list(accumulate(given.values()))
    at = luck() * sums[-1]
    return next(value for value, reached in zip(values, sums, strict=True) if at < reached)


def _status(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value <= 599:
        raise ValueError(f"{argument} must be whole numbers from 200 to 599, got {value!r}")


KEYED = Calls()
"""The calls of a scenario without `calls`: their only argument is the key."""
