"""The classifier of a pipeline: what each outcome of a call means.

Retry, breaker, hedge and fallback must agree on what a failure is. So a pipeline has one `Classifier`, and each outcome
gets one `Verdict`: the evidence about the dependency (success, failure, or nothing), whether another attempt may help,
and how long the dependency asked to wait. (When the end of a result is known is the subject of
`resilient.core.lifecycle`.)

By default every `Exception` is a failure worth repeating, except

- programming errors (`TypeError`, `AttributeError`, ...): the dependency does not cause them, so they open no circuit
  and are not repeated;
- `Rejected`, and pybreaker's `CircuitBreakerError`: a local refusal is no evidence about the dependency, and repeating
  it at once cannot help;
- a `TimedOut` whose time passed in local queues: no evidence, though another attempt may help;
- a certificate that does not verify: no evidence, and never repeated;
- errors of well-known clients that say something else (`resilient.core.known_errors`): a 404 is an answer.

A group of errors is classified by its members.

A `BaseException` that is no `Exception` (a cancellation, `KeyboardInterrupt`) is never classified. Results are
successes unless `results=` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import UnionType
from typing import Any, get_args

import pybreaker

from resilient import _validation
from resilient.core.known_errors import has_only_message, is_untrusted, read_of, reader_of
from resilient.core.pushback import FAILURE_STATUSES
from resilient.core.result import is_of_one_use
from resilient.core.verdict import (
    FAILURE,
    FATAL,
    IGNORED,
    REFUSED,
    SUCCESS,
    UNTRUSTED,
    WAITED,
    Verdict,
    pause_of,
    together,
)
from resilient.errors import Deadlock, Rejected, TimedOut, is_group, leaves

__all__ = [
    "DEFAULT",
    "FAILURE",
    "FATAL",
    "IGNORED",
    "PROGRAMMING_ERRORS",
    "REFUSALS",
    "REFUSED",
    "SUCCESS",
    "WAITED",
    "Classifier",
    "ErrorFilter",
    "Verdict",
    "asked_to_wait",
    "error_filter",
    "error_types",
    "is_refusal",
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
"""Errors in the code of the caller: no dependency causes them, and no further attempt cures them."""

ErrorTypes = type[BaseException] | Collection[type[BaseException]] | UnionType
ErrorFilter = ErrorTypes | Callable[[Exception], bool]


def error_types(value: object) -> tuple[type[BaseException], ...] | None:
    """`value` (an exception type, several in a tuple, list or set, or `A | B`) as a tuple of types; None: it is none of
    these."""
    types: Any = get_args(value) if isinstance(value, UnionType) else value
    found = tuple(types) if isinstance(types, tuple | list | set | frozenset) else (types,)
    fit = all(isinstance(each, type) and issubclass(each, BaseException) for each in found)
    return found if fit else None


def error_filter(argument: str, value: ErrorFilter) -> Callable[[Exception], bool]:
    """`value` (exception types, or a predicate of an exception) as a predicate. It is true of a group of errors if it
    is true of each member, or if `value` names the group's own type.

    Raises `TypeError` if `value` is neither; `argument` is its name in the message.
    """
    types = error_types(value)
    if types is not None:

        def is_named(error: BaseException) -> bool:
            if _is_of(error, types):
                return True
            return is_group(type(error)) and all(_is_of(leaf, types) for leaf in leaves(error))

        return is_named
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{argument} must be exception types or a predicate of an exception, got {value!r}")
    predicate = _validation.callback(argument, value)

    def holds(error: Exception) -> bool:
        return all(map(predicate, leaves(error))) if is_group(type(error)) else predicate(error)

    return holds


def _is_of(error: BaseException, types: tuple[type[BaseException], ...]) -> bool:
    try:
        return isinstance(error, types)
    except Exception:  # an error whose `__class__` raises
        return issubclass(type(error), types)


def asked_to_wait(error: BaseException) -> float | None:
    """The attribute `retry_after` of an exception, in seconds; None: the exception has no valid one."""
    try:
        return pause_of(getattr(error, "retry_after", None))
    except Exception:  # a property that raises, as where the response has no such header
        return None


REFUSALS: tuple[type[Exception], ...] = (Rejected, pybreaker.CircuitBreakerError)
"""Errors that every classifier takes for a refusal on this side."""


def is_refusal(error: BaseException) -> bool:
    """Whether an error is one of the `REFUSALS`."""
    return issubclass(type(error), REFUSALS)


class _ErrorType:
    """The facts about an error that follow from its type.

    Attributes:
        group: whether it is a group of errors.
        refused: whether it is a refusal on this side.
        timed_out: whether it is a `TimedOut`.
        programming: whether it is one of the `PROGRAMMING_ERRORS`.
        builtin: whether the type is one of Python's own, which have no attributes to read.
        reader: reads the attributes of the error; None: nothing special is known about the type.
        plain: whether there is nothing to read in an error that `has_only_message`.
    """

    __slots__ = ("builtin", "group", "plain", "programming", "reader", "refused", "timed_out")

    def __init__(self, kind: type[BaseException]) -> None:
        self.group = is_group(kind)
        self.refused = issubclass(kind, REFUSALS)
        self.timed_out = issubclass(kind, TimedOut)
        self.programming = issubclass(kind, PROGRAMMING_ERRORS)
        self.builtin = kind.__module__ == "builtins"
        self.reader = None if self.builtin or self.timed_out else reader_of(kind)
        self.plain = self.reader is None and not issubclass(kind, OSError)

    def usual(self, kind: type[BaseException]) -> Verdict | None:
        """The verdict on all errors of this type that have nothing but a message (`has_only_message`), where no filters
        are given; None: the type alone does not decide."""
        names = {name for each in kind.__mro__ if each not in _ROOTS for name in vars(each)}
        if self.group or self.refused or self.timed_out or not (self.builtin or self.plain) or names & _ANSWERS:
            return None
        return IGNORED if self.programming else FAILURE


_ROOTS = (BaseException, object)
_ANSWERS = frozenset(("retry_after", "__getattr__", "__getattribute__"))
"""Names by which a type can give its errors a `retry_after`, although the instances have no attributes."""

_known_types: dict[type[BaseException], _ErrorType] = {}
_usual: dict[type[BaseException], Verdict] = {}
_MOST_TYPES = 1000
"""The most types that are remembered. When there are more, all are removed."""


def _known(error: BaseException) -> _ErrorType:
    """The facts about an error that follow from its type, found once for each type."""
    kind = type(error)
    try:
        return _known_types[kind]
    except KeyError:
        if len(_known_types) >= _MOST_TYPES:
            _known_types.clear()
            _usual.clear()
        known = _known_types[kind] = _ErrorType(kind)
        usual = known.usual(kind)
        if usual is not None:
            _usual[kind] = usual
        return known


class Classifier:
    """Decides what the outcomes of a pipeline mean.

    Args:
        failures: exceptions that are failures of the dependency: types (one, several in a tuple or list, or `A | B`),
            or a predicate. Other exceptions are no evidence and are not repeated. A `TimedOut` of the pipeline's own
            Timeout is a failure in any case, unless `ignore` names it. Default: every `Exception` except programming
            errors, and except errors of well-known clients that say otherwise (`resilient.core.known_errors`).
        fatal: failures that another attempt cannot cure (types or a predicate): they count, and are not repeated.
        ignore: exceptions that are no evidence about the dependency (for example a "not found"), and are not repeated.
        rejections: exceptions that mean a refusal on this side (types or a predicate), such as those of another
            library's circuit breaker or rate limiter: nothing was sent. They are treated like a `Rejected`, as
            pybreaker's always are.
        results: called with every result: returns True for a failure worth repeating, or a `Verdict`. None (the
            default): every result is a success, at no cost.

    The `retry_after` attribute of an exception (seconds) becomes that of its verdict if it is finite and not negative.
    A certificate that does not verify is final and no evidence, whatever the arguments say.

    A group of errors is classified by its members. It is a failure if one of them is; worth repeating if all of them
    are, after the longest pause that one asks for; and a rejection only if all of them are.

    An error that a predicate raises is raised to the caller; the call is not repeated, and no permit or probe is lost.
    The classifier is called once for each outcome; the call keeps the verdict.
    """

    statuses: Collection[int] = FAILURE_STATUSES
    """The HTTP statuses of exceptions that are failures worth repeating."""

    def __init__(
        self,
        *,
        failures: ErrorFilter | None = None,
        fatal: ErrorFilter = (),
        ignore: ErrorFilter = (),
        rejections: ErrorFilter = (),
        results: Callable[[Any], bool | Verdict] | None = None,
    ) -> None:
        self.filters: dict[str, ErrorFilter | None] = {
            "failures": failures,
            "fatal": fatal,
            "ignore": ignore,
            "rejections": rejections,
        }
        """The filters of exceptions, as they were given."""
        self._failures = None if failures is None else error_filter("failures", failures)
        self._fatal = _filter_or_none("fatal", fatal)
        self._ignore = _filter_or_none("ignore", ignore)
        self._rejections = _filter_or_none("rejections", rejections)
        self._results = None if results is None else _validation.callback("results", results)

    @property
    def judges_results(self) -> bool:
        """Whether results are classified. If not, every result is a success."""
        return self._results is not None

    @property
    def usual(self) -> Mapping[type[BaseException], Verdict]:
        """The verdicts on errors whose type alone decides, if they have nothing but a message (`has_only_message`). It
        fills while errors are classified, and is always empty if there are filters or if `error` is overridden."""
        if getattr(self.error, "__func__", None) is not Classifier.error:
            return {}
        filters = (self._failures, self._fatal, self._ignore, self._rejections)
        return _usual if filters == (None,) * 4 else {}

    def error(self, error: Exception) -> Verdict:
        """The verdict on an exception, from its type and attributes, and the filters. Raises what a filter raises."""
        known = _known(error)
        only_message = error.__cause__ is None if known.builtin else known.plain and has_only_message(error)
        if known.group:
            return together(self.error(leaf) for leaf in leaves(error))  # type: ignore[arg-type]
        if known.refused or (self._rejections is not None and self._rejections(error)):
            return REFUSED
        if self._ignore is not None and self._ignore(error):
            return IGNORED
        if known.timed_out:
            if not error.evidence:  # type: ignore[attr-defined]
                return WAITED
        elif not only_message and is_untrusted(error):
            return UNTRUSTED
        elif (known.programming and self._failures is None) or (
            self._failures is not None and not self._failures(error)
        ):
            return IGNORED
        verdict: Verdict | None = None
        if self._fatal is not None and self._fatal(error):
            verdict = FATAL
        elif self._failures is None and not (only_message or known.builtin):
            verdict = read_of(known.reader, error, self.statuses)
        if verdict is None:
            verdict = FAILURE
        if verdict.kind == "nothing":
            return verdict
        asked = asked_to_wait(error)
        return verdict if asked is None else replace(verdict, retry_after=asked)

    def result(self, result: Any) -> Verdict:
        """The verdict on a result: the answer of `results`, or a success. Raises what `results` raises."""
        if self._results is None:
            return SUCCESS
        answer = self._results(result)
        if isinstance(answer, Verdict):
            return answer
        return FAILURE if answer else SUCCESS

    def on_result(self, ask: Callable[[Any, Any], Verdict]) -> Callable[[Any, Any], Verdict]:
        """The function that a pipeline calls for the verdict on a result, with the call and the result.

        Default: `ask`, which calls `result` and keeps the verdict on the call. A classifier that recognises good
        results quickly, without code of users, can return a function that answers for these, and calls `ask` for the
        others."""
        return ask

    def closes(self, result: Any) -> bool:
        """Whether a result that no caller gets is closed, by its `aclose` or `close`: the result of a hedge's loser, of
        an attempt that another one has replaced, of a call whose caller has left.

        By default responses (recognised by their HTTP status) and streams (iterators, files), which only their caller
        can use. Sessions, connections and other objects may come from a pool or a cache, so they are not closed;
        override this method to close those that your function makes for each call.
        """
        return is_of_one_use(result)


def _filter_or_none(argument: str, value: ErrorFilter) -> Callable[[Exception], bool] | None:
    """`value` as a predicate of exceptions; None: it names no exceptions."""
    return None if isinstance(value, Collection) and not value else error_filter(argument, value)


DEFAULT = Classifier()
"""The classifier of pipelines that were given none."""
