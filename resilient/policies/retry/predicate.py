"""The predicate of a Retry: which outcomes of an attempt are repeated.

    the attempt ended with ...                      is repeated
    a verdict that is final                         never
    a rejection                                     if `on` names its type
    errors in a group, or a `tenacity.TryAgain`     as without the group, unless `on` leaves out a rejection among them
    another error                                   by `on`; by the classifier where `on` is not given
    a result                                        by the classifier, and by a strategy of tenacity's that asks for it

A rejection is repeated only where its type is named, because an open circuit or a full bulkhead is no failure of the
dependency, and a base class such as `Exception` is not meant to include it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import tenacity

from resilient.core.callbacks import ask
from resilient.core.classify import REFUSALS, ErrorFilter, Verdict, error_filter, error_types, is_refusal
from resilient.errors import bare, leaves
from resilient.policies.retry.tenacity import Strategy, looks_at_errors_only

__all__ = ["Predicate"]

_RARE = (BaseExceptionGroup, tenacity.TryAgain)
"""Errors that may contain others, or stand for others: each error behind them is looked at."""


class Predicate:
    """Decides whether an outcome is worth repeating.

    Args:
        on: as for `Retry`: exception types, a predicate of an exception, a tenacity retry strategy, or None.

    Attributes:
        on: the predicate of an exception; None: there is a strategy, or the classifier decides.
        strategy: the tenacity retry strategy, or None.
        asks_results: whether the strategy may ask to repeat a call for its result.
    """

    __slots__ = ("_named", "asks_results", "on", "strategy")

    def __init__(self, on: ErrorFilter | Strategy | None) -> None:
        self.on: Callable[[Exception], bool] | None = None
        self.strategy: Strategy | None = None
        self._named: tuple[type[BaseException], ...] = ()
        if isinstance(on, tenacity.retry_base):
            self.strategy = on
        elif on is not None:
            self.on = error_filter("on", on)  # type: ignore[arg-type]
            self._named = error_types(on) or ()
        self.asks_results = self.strategy is not None and not looks_at_errors_only(self.strategy)

    def repeats(self, error: Exception | None, verdict: Verdict) -> bool | None:
        """Whether to repeat an attempt that ended with this error (None: with a result). Returns None where the
        strategy must be asked, and raises a `CallbackError` where `on` raises."""
        if verdict.final:
            return False
        if error is None:
            if self.asks_results and not (verdict.retryable and verdict.kind == "failure"):
                return None
            return verdict.worth_repeating
        if verdict.refused:
            return bool(self._named) and self._names_all(leaves(error))
        if issubclass(type(error), _RARE):
            refusals = [each for each in leaves(error) if is_refusal(each)]
            if refusals and not self._names_all(refusals):
                return False
            if issubclass(type(error), tenacity.TryAgain):
                return True
        if self.strategy is not None:
            return None
        if self.on is not None:
            return ask(self.on, bare(error))
        return verdict.worth_repeating

    def names(self, rejection: BaseException) -> bool:
        """Whether `on` names the type of a rejection: the same type, or a base class that has rejections only."""
        kind = type(rejection)
        return any(each is kind or (issubclass(kind, each) and issubclass(each, REFUSALS)) for each in self._named)

    def _names_all(self, rejections: Iterable[BaseException]) -> bool:
        return all(map(self.names, rejections))
