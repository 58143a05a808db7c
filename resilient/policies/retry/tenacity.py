"""tenacity's strategies: the state that they are called with, and what is known of their answers without a call.

A strategy is known by its `__call__`, so an instance of a subclass that only changes settings is known, too. Of a
user's own function nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import tenacity
import tenacity.asyncio

from resilient import _validation
from resilient.core.stop import NEVER, After, AllOf, AnyOf, Before, Never, Runs, Stop, Unknown

__all__ = [
    "Span",
    "State",
    "Strategy",
    "answer_to",
    "awaits",
    "controller",
    "looks_at_errors_only",
    "span",
    "stop_of",
    "words_of",
]

Strategy = Callable[[tenacity.RetryCallState], Any]


def controller(
    *,
    is_async: bool,
    retry: Strategy | None,
    wait: Strategy | None,
    stop: Strategy | None,
    attempts: int | None,
    hooks: Mapping[str, Strategy],
) -> Any:
    """A tenacity controller with these settings, for strategies and hooks that look at it."""
    make: Any = tenacity.AsyncRetrying if is_async else tenacity.Retrying
    settings: dict[str, Any] = dict(hooks)
    if retry is not None:
        settings["retry"] = retry
    if wait is not None:
        settings["wait"] = wait
    stops: list[Any] = [stop] if stop is not None else []
    if attempts is not None:
        stops.append(tenacity.stop_after_attempt(attempts))
    return make(stop=tenacity.stop_any(*stops), reraise=True, **settings)


class State(tenacity.RetryCallState):
    """The state of a call that tenacity's strategies and hooks are called with.

    Its `retry_object` and `outcome` are made when they are first read, which is rare: they cost as much as the rest.

    Args:
        control: makes the `retry_object`.
        fn, args, kwargs: the function that is called, and its arguments.
    """

    def __init__(
        self, control: Callable[[], Any], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        super().__init__(None, fn, args, kwargs)  # type: ignore[arg-type]
        del self.retry_object
        self._control = control
        self._ended: tuple[int, Any, bool] = 0, None, False

    def ended(self, value: Any, failed: bool, now: float) -> None:
        """Record the end of an attempt at the time `now`: `value` is its error if it has `failed`, else its result."""
        self._ended = self.attempt_number, value, failed
        self.outcome_timestamp = now
        del self.outcome

    def __getattr__(self, name: str) -> Any:
        if name == "retry_object":
            self.retry_object = self._control()
            return self.retry_object
        if name == "outcome":
            self.outcome = tenacity.Future.construct(*self._ended)
            return self.outcome
        raise AttributeError(f"a {type(self).__name__} has no attribute {name!r}")


_ERRORS_ONLY = {
    tenacity.retry_if_exception,
    tenacity.retry_if_exception_type,
    tenacity.retry_if_not_exception_type,
    tenacity.retry_if_exception_cause_type,
    tenacity.retry_if_exception_message,
    type(tenacity.retry_never),
    tenacity.asyncio.retry_if_exception,
}


def looks_at_errors_only(strategy: Strategy) -> bool:
    """Whether a tenacity retry strategy repeats no call for its result, so that it need not be called with results."""
    if isinstance(strategy, tenacity.retry_any | tenacity.retry_all):
        return all(looks_at_errors_only(each) for each in strategy.retries)
    return type(strategy) in _ERRORS_ONLY


_PARTS = ("retries", "stops", "wait_funcs", "strategies", "predicate")
"""The attributes in which tenacity's strategies hold the strategies and predicates that they call."""


def awaits(strategy: Strategy) -> bool:
    """Whether a strategy or hook, or one that is combined into it, is a coroutine function."""
    if _validation.is_async(strategy):
        return True
    found = (getattr(strategy, name, ()) for name in _PARTS if type(strategy).__module__.startswith("tenacity"))
    asked = (each for part in found for each in (part if isinstance(part, list | tuple) else (part,)))
    return any(awaits(each) for each in asked if callable(each))


# -- known answers ---------------------------------------------------------------------------------------------------


def _name(strategy: Strategy) -> str:
    """The name of a strategy: the name of its class, or of the function."""
    return getattr(strategy, "__qualname__", None) or type(strategy).__name__


def stop_of(strategy: Strategy) -> Stop:
    """The stop condition that a tenacity stop strategy stands for; `Unknown` for a strategy that is not tenacity's."""
    try:
        return _stop_of(strategy)
    except Exception:  # settings that are no numbers
        return Unknown(_name(strategy))


def _stop_of(strategy: Any) -> Stop:
    match type(strategy).__call__:
        case tenacity.stop_after_attempt.__call__:
            number = strategy.max_attempt_number
            return Runs(max(1, math.ceil(number))) if number < math.inf else NEVER
        case tenacity.stop_after_delay.__call__:
            return After(strategy.max_delay) if strategy.max_delay < math.inf else NEVER
        case tenacity.stop_before_delay.__call__:
            return Before(strategy.max_delay) if strategy.max_delay < math.inf else NEVER
        case tenacity.stop_when_event_set.__call__:
            return Never("until an event is set")
        case tenacity.stop_any.__call__:
            return AnyOf(tuple(map(stop_of, strategy.stops)))
        case tenacity.stop_all.__call__:
            return AllOf(tuple(map(stop_of, strategy.stops)))
        case does if does == type(tenacity.stop_never).__call__:
            return NEVER
    return Unknown(_name(strategy))


Span = tuple[float, float]
"""The shortest and the longest pause, in seconds."""


class _Attempt:
    """Has the attributes of a `RetryCallState` that tenacity's own strategies read."""

    def __init__(self, number: int) -> None:
        self.attempt_number = number


def span(strategy: Strategy, attempt: int) -> Span | None:
    """The pauses that a wait strategy may return after attempt number `attempt` (from 1); None: they are not known."""
    try:
        found = _span(strategy, attempt)
    except Exception:  # settings that are no numbers
        return None
    if found is None or any(map(math.isnan, found)):
        return None
    return max(0.0, min(found)), max(0.0, *found)


def words_of(wait: Strategy) -> str:
    """A wait strategy in words: the seconds of `wait_fixed`, else its name."""
    known = span(wait, 1)
    if isinstance(wait, tenacity.wait_fixed) and known is not None:
        return f"{known[0]:g} s"
    return f"tenacity {_name(wait)}" if type(wait).__module__.startswith("tenacity") else _name(wait)


def _in_floats(strategy: Any) -> Any:
    """A copy of an exponential strategy that computes in floats: powers of whole numbers take all memory for late
    attempts."""
    strategy = copy(strategy)
    strategy.exp_base = float(strategy.exp_base)
    return strategy


def _span(strategy: Any, attempt: int) -> Span | None:
    asked: Any = _Attempt(attempt)
    match type(strategy).__call__:
        case tenacity.wait_fixed.__call__ | tenacity.wait_incrementing.__call__:
            seconds = strategy(asked)
            return seconds, seconds
        case tenacity.wait_random.__call__:
            return strategy.wait_random_min, strategy.wait_random_max
        case tenacity.wait_exponential.__call__:
            seconds = _in_floats(strategy)(asked)
            return seconds, seconds
        case tenacity.wait_random_exponential.__call__:
            return strategy.min, tenacity.wait_exponential.__call__(_in_floats(strategy), asked)
        case tenacity.wait_exponential_jitter.__call__:
            regular = _in_floats(strategy)
            regular.jitter = 0.0
            least = regular(asked)
            regular.min = 0.0
            raised = min(regular(asked) + strategy.jitter, strategy.max)
            return least, max(raised, getattr(strategy, "min", 0.0))  # `min` came with tenacity 9.1
        case tenacity.wait_chain.__call__:
            return span(strategy.strategies[min(attempt, len(strategy.strategies)) - 1], attempt)
        case tenacity.wait_combine.__call__:
            parts = [_span(each, attempt) for each in strategy.wait_funcs]
            if None in parts:
                return None
            return sum(min(part) for part in parts if part), sum(max(part) for part in parts if part)
    return None


_WITHOUT_PREDICATES = {
    type(tenacity.retry_never),
    type(tenacity.retry_always),
    tenacity.retry_if_exception_type,
    tenacity.retry_if_not_exception_type,
    tenacity.retry_unless_exception_type,
    tenacity.retry_if_exception_cause_type,
    tenacity.retry_if_exception_message,
    tenacity.retry_if_not_exception_message,
}


def answer_to(strategy: Strategy, error: BaseException | None) -> bool | None:
    """Whether a retry strategy repeats an attempt that raised `error` (None: that returned a result). Returns None if a
    predicate of the user decides."""
    if isinstance(strategy, tenacity.retry_any | tenacity.asyncio.retry_any):
        answers = {answer_to(each, error) for each in strategy.retries}
        return True if True in answers else None if None in answers else False
    if isinstance(strategy, tenacity.retry_all | tenacity.asyncio.retry_all):
        answers = {answer_to(each, error) for each in strategy.retries}
        return False if False in answers else None if None in answers else True
    if type(strategy) not in _WITHOUT_PREDICATES:
        return False if error is None and looks_at_errors_only(strategy) else None
    asked: Any = _Attempt(1)
    asked.outcome = tenacity.Future.construct(1, error, error is not None)
    return bool(strategy(asked))
