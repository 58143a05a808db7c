"""What the caller's own code raises while a pipeline asks it something is the caller's error, on every path.

A classifier, a predicate, a strategy, a key function may raise. That is no doing of the dependency: it is neither
judged, counted nor repeated, and nothing stands in for it. So it travels as a `CallbackError`, which is no `Exception`,
past all policies to the outermost frame of the pipeline, which raises the error itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

__all__ = ["CallbackError", "ask", "asked_of", "is_callback_error", "release"]

T = TypeVar("T")


class CallbackError(BaseException):
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
        if issubclass(type(about), Exception):
            _put_behind(error, about)  # type: ignore[arg-type]


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
    """`question(about)`; what it raises leaves as a `CallbackError`."""
    try:
        return question(about)
    except Exception as error:
        raise CallbackError(error, about) from None


def asked_of(call: Any, question: Callable[..., T]) -> T:
    """`question` of the arguments of a call; what it raises leaves as a `CallbackError`."""
    try:
        return question(*call.args, **call.kwargs)
    except Exception as error:
        raise CallbackError(error) from None


def release(callback_error: CallbackError) -> NoReturn:
    """Raise what a `CallbackError` carries, with the context that it had."""
    error = callback_error.error
    context, callback_error.about = error.__context__, None
    try:
        raise error
    finally:
        error.__context__ = context  # which `raise` has made the mistake
        del error, context, callback_error  # the traceback leads to this frame


def is_callback_error(error: BaseException) -> bool:
    """Whether an error that was caught was raised by the caller's own code, and left a pipeline by `release`."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is release.__code__:
            return True
        trace = trace.tb_next
    return False
