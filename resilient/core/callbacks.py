"""Errors of callbacks: of the user's own classifiers, predicates, strategies, hooks and key functions.

The dependency has no part in such an error. It is not classified, counted or repeated, and no Fallback answers for it.
So it leaves the callback as a `CallbackError`, which is no `Exception` and so passes all policies. The outermost
pipeline raises the error itself to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

__all__ = ["CallbackError", "ask", "ask_about_call", "is_callback_error", "raise_original"]

T = TypeVar("T")


class CallbackError(BaseException):
    """Carries the error of a callback past all policies. The outermost pipeline raises that error, by `raise_original`.

    Attributes:
        error: the error that the callback raised. If the callback was called with an error, its chain of contexts ends
            there.
        about: the outcome with which the callback was called: an error; a result, which no caller gets, and which the
            outermost pipeline closes; or None.
    """

    def __init__(self, error: Exception, about: object = None) -> None:
        super().__init__(error)
        self.error = error
        self.about = about
        if issubclass(type(about), Exception):
            _put_behind(error, about)  # type: ignore[arg-type]


LINKS = 20
"""The most contexts of an error that are followed."""


def _put_behind(error: BaseException, first: BaseException) -> None:
    """Make `first` the end of the chain of contexts of `error`, which was raised while `first` was handled."""
    for _ in range(LINKS):
        if error is first:
            return
        context = error.__context__
        if context is None:
            error.__context__ = first
            return
        error = context


def ask(callback: Callable[[Any], T], about: Any) -> T:
    """Return `callback(about)`, the answer of a callback. Raises `CallbackError` if the callback raises."""
    try:
        return callback(about)
    except Exception as error:
        raise CallbackError(error, about) from None


def ask_about_call(call: Any, callback: Callable[..., T]) -> T:
    """Return the answer of a callback that gets the arguments of a call. Raises `CallbackError` if it raises."""
    try:
        return callback(*call.args, **call.kwargs)
    except Exception as error:
        raise CallbackError(error) from None


def raise_original(callback_error: CallbackError) -> NoReturn:
    """Raise the error that a `CallbackError` carries, with the context that it had."""
    error = callback_error.error
    context, callback_error.about = error.__context__, None
    try:
        raise error
    finally:
        error.__context__ = context  # `raise` has set it to the `CallbackError`
        del error, context, callback_error  # the traceback leads to this frame


def is_callback_error(error: BaseException) -> bool:
    """Whether an error that was caught is that of a callback, which a pipeline raised by `raise_original`."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is raise_original.__code__:
            return True
        trace = trace.tb_next
    return False
