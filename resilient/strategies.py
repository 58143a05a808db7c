"""tenacity's strategies: what they are told, and which of them have to be asked about results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tenacity
import tenacity.asyncio

from resilient import arguments

__all__ = ["Strategy", "awaits", "controller", "looks_at_errors_only"]

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
    """Whether a tenacity strategy is sure to say no to every result, so that none needs to be asked about."""
    if isinstance(strategy, tenacity.retry_any | tenacity.retry_all):
        return all(looks_at_errors_only(each) for each in strategy.retries)
    return type(strategy) in _ERRORS_ONLY


_PARTS = ("retries", "stops", "wait_funcs", "strategies", "predicate")
"""Where tenacity's strategies keep those that they ask."""


def awaits(strategy: Strategy) -> bool:
    """Whether a strategy or hook, or one that it asks, is a coroutine function."""
    if arguments.is_async(strategy):
        return True
    found = (getattr(strategy, name, ()) for name in _PARTS if type(strategy).__module__.startswith("tenacity"))
    asked = (each for part in found for each in (part if isinstance(part, list | tuple) else (part,)))
    return any(awaits(each) for each in asked if callable(each))
