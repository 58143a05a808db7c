"""One judgement of what an outcome was, shared by every policy of a pipeline.

Retry, breaker, hedge and fallback must not disagree about what a failure is; so a pipeline has one `Classifier`, and
each outcome gets one `Verdict`: what it says about the dependency (success, failure, or nothing), whether repeating
can help, and how long the dependency asked to be left alone.

By default every `Exception` is a failure worth repeating, except

- programming errors (`TypeError`, `AttributeError`, ...): they are ours, so they trip nothing and are not repeated;
- `Rejected`: a local refusal is no evidence about the dependency, and repeating it at once cannot help;
- a `TimedOut` whose time went by in local queues: no evidence, though a new try may help.

`BaseException` (cancellation, `KeyboardInterrupt`) is never judged. Results are successes unless `results=` says not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, replace
from numbers import Real
from types import UnionType
from typing import Any, Literal, NoReturn, Protocol, TypeVar, get_args

from resilient import arguments
from resilient.errors import Deadlock, Rejected, TimedOut
from resilient.result import is_of_one_use

T = TypeVar("T")

__all__ = [
    "DEFAULT",
    "FAILURE",
    "FATAL",
    "IGNORED",
    "PROGRAMMING_ERRORS",
    "SUCCESS",
    "Classifier",
    "ErrorFilter",
    "Mistake",
    "Stopped",
    "Unsettled",
    "Verdict",
    "ask",
    "asked_of",
    "asked_to_wait",
    "bare",
    "error_filter",
    "error_types",
    "release",
]

PROGRAMMING_ERRORS: tuple[type[Exception], ...] = (
    TypeError,
    AttributeError,
    NameError,
    AssertionError,
    ImportError,
    NotImplementedError,
    SyntaxError,
    ReferenceError,
    Deadlock,
)
"""Errors of the code itself, which no dependency causes and no repetition cures."""


Kind = Literal["success", "failure", "nothing"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one outcome means.

    Attributes:
        kind: what it says about the dependency: "success", "failure", or "nothing".
        retryable: whether the same call may do better later.
        retry_after: seconds the dependency asked to wait before that, or None: also for what cannot be meant (it comes
            from outside: NaN, infinite, negative, no number).
        final: repeating would be unsafe: nobody may, whatever he was told (`Retry(on=...)`).
    """

    kind: Kind
    retryable: bool = False
    retry_after: float | None = None
    final: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        arguments.flag("retryable", self.retryable)
        arguments.flag("final", self.final)
        object.__setattr__(self, "retry_after", _pause(self.retry_after))


def _pause(asked: object) -> float | None:
    """`asked` as seconds, or None when it makes no sense."""
    if isinstance(asked, bool) or not isinstance(asked, Real):
        return None
    try:
        seconds = float(asked)
    except OverflowError:  # an int beyond all floats
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


SUCCESS = Verdict("success")
FAILURE = Verdict("failure", retryable=True)
FATAL = Verdict("failure")
IGNORED = Verdict("nothing")

ErrorTypes = type[BaseException] | Collection[type[BaseException]] | UnionType
ErrorFilter = ErrorTypes | Callable[[Exception], bool]


def error_types(value: object) -> tuple[type[BaseException], ...] | None:
    """Exception types as a tuple: of one, of a tuple, list or set of them, or of `A | B`; None: it is none of these."""
    types: Any = get_args(value) if isinstance(value, UnionType) else value
    found = tuple(types) if isinstance(types, tuple | list | set | frozenset) else (types,)
    fit = all(isinstance(each, type) and issubclass(each, BaseException) for each in found)
    return found if fit else None


def error_filter(argument: str, value: ErrorFilter) -> Callable[[Exception], bool]:
    """`value` (exception types, or a predicate of the exception) as a predicate.

    Raises `TypeError` when it is neither.
    """
    types = error_types(value)
    if types is not None:
        return lambda error: isinstance(error, types)
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{argument} must be exception types or a predicate of an exception, got {value!r}")
    return arguments.callback(argument, value)


def asked_to_wait(error: BaseException) -> float | None:
    """The `retry_after` (seconds) that an exception carries, or None when it has none that makes sense."""
    return _pause(getattr(error, "retry_after", None))


class Stopped(Exception):
    """Carries a user's `StopIteration` out of a coroutine, which may not raise one (PEP 479)."""

    def __init__(self, error: StopIteration) -> None:
        super().__init__(error)
        self.error = error


def bare(error: Exception) -> Exception:
    """What the function raised."""
    return error.error if isinstance(error, Stopped) else error


class Mistake(BaseException):
    """Carries what the caller's own code raised (a classifier, a predicate, a strategy, a key function) past all
    policies, which neither judge nor repeat it; the pipeline's outermost frame raises it to the caller, by `release`.

    Attributes:
        error: what was raised. Its context leads to the error that was being judged, if it was one.
        about: what was being judged: an error; or a result, which nobody gets, and which that frame closes.
    """

    def __init__(self, error: Exception, about: object = None) -> None:
        super().__init__(error)
        self.error = error
        self.about = about
        if isinstance(about, Exception):
            _put_behind(error, about)


LINKS = 20
"""Contexts of an error that are followed."""


def _put_behind(error: BaseException, first: BaseException) -> None:
    """Make `first` the end of the chain of contexts of `error`, which was raised because of it."""
    for _ in range(LINKS):
        if error is first:
            return
        context = error.__context__
        if context is None:
            error.__context__ = first
            return
        error = context


def ask(question: Callable[[Any], T], about: Any) -> T:
    """`question(about)`; what it raises leaves as a `Mistake`."""
    try:
        return question(about)
    except Exception as error:
        raise Mistake(error, about) from None


def asked_of(call: Any, question: Callable[..., T]) -> T:
    """`question` of the arguments of a call; what it raises leaves as a `Mistake`."""
    try:
        return question(*call.args, **call.kwargs)
    except Exception as error:
        raise Mistake(error) from None


def release(mistake: Mistake) -> NoReturn:
    """Raise what a `Mistake` carries, with the context that it had."""
    error = mistake.error
    context, mistake.about = error.__context__, None
    try:
        raise error
    finally:
        error.__context__ = context  # which `raise` has made the mistake
        del error, context, mistake  # the traceback leads to this frame


class Unsettled(Protocol):
    """Those who learn from a result whose end is open. One of the two is called, once."""

    def learn(self, error: Exception | None) -> None:
        """It has ended well; or it has failed after all."""

    def drop(self, *, collected: bool = False) -> None:
        """Its end says nothing. `collected`: the garbage collector has found it, so no code of users may run."""


class Classifier:
    """Judges the outcomes of a pipeline.

    Args:
        failures: exceptions that are the dependency's failures: types (one, several in a tuple or list, or `A | B`), or
            a predicate. Default: every `Exception` that is neither a programming error nor a rejection. Exceptions
            outside it say nothing and are not repeated.
        fatal: failures that repeating cannot cure (types or a predicate): they count, and are not retried.
        ignore: exceptions that say nothing about the dependency (a "not found", say), and are not repeated.
        results: asked about every result: True means that this result is a retryable failure; or returns a `Verdict`.
            None (the default) judges every result a success, at no cost.

    An exception's `retry_after` attribute (seconds; finite and not negative, else it is disregarded) is taken over.
    A predicate that raises is the caller's error: it is raised to the caller, and no permit or probe is lost.
    """

    def __init__(
        self,
        *,
        failures: ErrorFilter | None = None,
        fatal: ErrorFilter = (),
        ignore: ErrorFilter = (),
        results: Callable[[Any], bool | Verdict] | None = None,
    ) -> None:
        self._failures = None if failures is None else error_filter("failures", failures)
        self._fatal = error_filter("fatal", fatal)
        self._ignore = error_filter("ignore", ignore)
        self._results = None if results is None else arguments.callback("results", results)

    @property
    def judges_results(self) -> bool:
        """Whether results are looked at; when not, every result is a success."""
        return self._results is not None

    def error(self, error: Exception) -> Verdict:
        """The verdict on an exception."""
        error = bare(error)
        if isinstance(error, Rejected) or self._ignore(error):
            return IGNORED
        if isinstance(error, TimedOut) and not error.evidence:
            return Verdict("nothing", retryable=True)
        if self._failures is None:
            failed = not isinstance(error, PROGRAMMING_ERRORS)
        else:
            failed = self._failures(error)
        if not failed:
            return IGNORED
        verdict = FATAL if self._fatal(error) else FAILURE
        asked = asked_to_wait(error)
        return verdict if asked is None else replace(verdict, retry_after=asked)

    def result(self, result: Any) -> Verdict:
        """The verdict on a result."""
        if self._results is None:
            return SUCCESS
        judged = self._results(result)
        if isinstance(judged, Verdict):
            return judged
        return FAILURE if judged else SUCCESS

    def closes(self, result: Any) -> bool:
        """Whether a result that nobody gets is closed, by its `aclose` or `close`: that of a hedge's loser, of an
        attempt that another one has superseded, of work whose caller has left.

        By default responses (by their HTTP status) and streams (iterators, files), which only their caller can use.
        Sessions, connections and other objects may come from a pool or a cache and are left alone; override this to
        have those closed that your function makes anew for each call.
        """
        return is_of_one_use(result)

    # -- for results that go on after they have been returned, as streams do --------------------------------------

    leaves_repeating: bool = False
    """Whether nothing is to be repeated that is part of a call which is itself repeated."""

    follows: bool = False
    """Whether successful results may have an open end, so that gates must not learn of a success too soon."""

    def is_open(self, result: Any) -> bool:
        """Whether it is still unknown how this result ends. Asked if the classifier `follows`."""
        return False

    def follow(self, result: Any, unsettled: Unsettled) -> None:
        """Tell them how an open result has ended, once it has."""
        raise NotImplementedError

    async def set_aside(self, result: Any, runtime: Any) -> None:
        """Have a result hold nothing while there is another attempt. It may come back all the same, as the last one."""

    # -- for calls that say something for themselves, as requests do -----------------------------------------------

    def repeated(self, call: Any) -> bool:
        """Whether whoever made this call repeats it himself, so that we must not."""
        return False

    def dependency(self, call: Any) -> Hashable | None:
        """Which dependency a call asks, where one pipeline serves several that fail by themselves: each has a budget
        of its own. None: there is one."""
        return None

    def attempts(self, call: Any) -> int | None:
        """How many attempts this call may have, instead of those of the Retry; None: as many as the Retry says."""
        return None


DEFAULT = Classifier()
"""The judgement of pipelines that were given none."""
