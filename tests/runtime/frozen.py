"""A program that uses policies in frozen time.

`python tests/runtime/frozen.py` prints a JSON object: for each way to freeze time what each check found, None if all
was well. It is a process of its own, since frozen time reaches the event loops of all threads: a server that sets a
timer meanwhile waits for years.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import freezegun
import time_machine

from resilient import (
    Budget,
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    Keyed,
    Pipeline,
    RateLimit,
    RateLimited,
    Retry,
    deadline,
    remaining,
)
from resilient.runtime import current
from resilient.runtime.clock import monotonic

Freeze = Callable[[], AbstractContextManager[Any]]
Check = Callable[[Freeze], None]

WAYS: dict[str, Freeze] = {
    "freezegun": lambda: freezegun.freeze_time("2030-01-01"),
    "freezegun, in the past": lambda: freezegun.freeze_time("1970-01-02"),
    "freezegun, ticking": lambda: freezegun.freeze_time("2030-01-01", tick=True),
    "time-machine": lambda: time_machine.travel("2030-01-01", tick=False),
}

checks: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a function as a check."""
    checks[function.__name__] = function
    return function


def failing() -> None:
    """A dependency that is down."""
    raise OSError


def answer(*args: object) -> int:
    """A dependency that answers."""
    return 7


def raised(function: Callable[[], object], kind: type[Any]) -> Any:
    """The error that a call ends with."""
    try:
        result = function()
    except kind as error:
        return error
    raise AssertionError(f"{result!r} instead of {kind.__name__}")


@contextmanager
def no_change() -> Iterator[None]:
    """Leaves time as it is."""
    yield


@check
def clock_goes_on_in_frozen_time(freeze: Freeze) -> None:
    """The `now` of every runtime goes on in frozen time, from the same value."""
    before = monotonic()
    with freeze():
        inside, now = monotonic(), current().now()
    assert before <= inside <= now <= monotonic() < before + 60


@check
def rate_limit_used_in_frozen_time_is_as_full_after_it(freeze: Freeze) -> None:
    """Neither refused for decades nor let through all at once."""
    guarded = RateLimit(1, per=3600, burst=2)(answer)
    with freeze():
        assert guarded() == 7
    assert guarded() == 7
    assert 3000 < raised(guarded, RateLimited).retry_after <= 3600
    with freeze():
        raised(guarded, RateLimited)


@check
def circuit_opened_in_frozen_time_stays_open_for_its_break(freeze: Freeze) -> None:
    """A circuit that opens in frozen time closes after its break, not in the year to which time was frozen."""
    breaker = CircuitBreaker(fail_max=1, failure_rate=None, break_duration=50)
    with freeze():
        raised(breaker(failing), OSError)
    assert 0 < raised(breaker(answer), CircuitOpen).retry_after <= 50


@check
def deadline_set_in_frozen_time_holds_for_its_seconds(freeze: Freeze) -> None:
    """Inside and outside of the calls that it is for."""
    with freeze(), deadline(50):
        assert 0 < (remaining() or 0) <= 50
        assert 0 < (Pipeline(Retry(attempts=2))(remaining)() or 0) <= 50
    with deadline(50), freeze():
        assert 0 < (remaining() or 0) <= 50


@check
def budget_and_keys_used_in_frozen_time_are_kept(freeze: Freeze) -> None:
    """What was saved has not faded, and no key was idle for decades."""
    budget = Budget(1.0, reserve=0, cap=10, ttl=3600)
    keyed = Keyed(lambda: Bulkhead(1), key=lambda key: key, idle=3600)
    guarded = Pipeline(Retry(attempts=1, budget=budget), keyed)(answer)
    for frozen in (False, True, False):
        with freeze() if frozen else no_change():
            for key in range(3):
                guarded(key + 10 * frozen)
            assert budget.balance(current().now()) > 2
    assert keyed.snapshot()["keys"] == 6


def found(function: Check, freeze: Freeze) -> str | None:
    """Return what a check found; None: nothing wrong."""
    try:
        function(freeze)
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    print(
        json.dumps({way: {name: found(each, freeze) for name, each in checks.items()} for way, freeze in WAYS.items()})
    )
