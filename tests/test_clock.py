"""One clock: what tests do to `time` changes no policy, and an instance may go from one clock to another and back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import freezegun
import pytest
import time_machine

from resilient import (
    AdaptiveLimit,
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
from resilient.clock import ANOTHER, monotonic
from resilient.policy import Gate
from resilient.runtime import current, virtual
from resilient.window import TimeWindow

FREEZE: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "freezegun": lambda: freezegun.freeze_time("2030-01-01"),
    "freezegun, in the past": lambda: freezegun.freeze_time("1970-01-02"),
    "freezegun, ticking": lambda: freezegun.freeze_time("2030-01-01", tick=True),
    "time-machine": lambda: time_machine.travel("2030-01-01", tick=False),
}


@pytest.fixture(params=FREEZE.values(), ids=FREEZE)
def freeze(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[Any]]:
    """Each way to freeze time."""
    return request.param  # type: ignore[no-any-return]


def failing() -> None:
    """The dependency is down."""
    raise OSError


def answer(*args: object) -> int:
    """The dependency is well."""
    return 7


def test_clock_goes_on_in_frozen_time(freeze: Callable[[], AbstractContextManager[Any]]) -> None:
    """By the same seconds as before, in every runtime's `now`."""
    before = monotonic()
    with freeze():
        inside, now = monotonic(), current().now()
    assert before <= inside <= now <= monotonic() < before + 60


def test_rate_limit_used_in_frozen_time_is_as_full_after_it(freeze: Callable[[], AbstractContextManager[Any]]) -> None:
    """Neither refused for decades nor let through all at once."""
    guarded = RateLimit(1, per=3600, burst=2)(answer)
    with freeze():
        assert guarded() == 7
    assert guarded() == 7
    with pytest.raises(RateLimited) as refused:
        guarded()
    assert 3000 < (refused.value.retry_after or 0) <= 3600
    with freeze(), pytest.raises(RateLimited):
        guarded()


def test_circuit_opened_in_frozen_time_stays_open_for_its_break(
    freeze: Callable[[], AbstractContextManager[Any]],
) -> None:
    """And not until the year to which it was frozen."""
    breaker = CircuitBreaker(fail_max=1, failure_rate=None, break_duration=50)
    with freeze(), pytest.raises(OSError):
        breaker(failing)()
    with pytest.raises(CircuitOpen) as refused:
        breaker(answer)()
    assert 0 < (refused.value.retry_after or 0) <= 50


def test_deadline_set_in_frozen_time_holds_for_its_seconds(freeze: Callable[[], AbstractContextManager[Any]]) -> None:
    """Inside and outside of the calls that it is for."""
    with freeze(), deadline(50):
        assert 0 < (remaining() or 0) <= 50
        assert 0 < (Pipeline(Retry(attempts=2))(remaining)() or 0) <= 50
    with deadline(50), freeze():
        assert 0 < (remaining() or 0) <= 50


def test_budget_and_keys_used_in_frozen_time_are_kept(freeze: Callable[[], AbstractContextManager[Any]]) -> None:
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


@contextmanager
def no_change() -> Iterator[None]:
    """Time as it is."""
    yield


def test_clock_is_the_real_one_when_it_is_imported_in_frozen_time() -> None:
    """A test module may import the library late."""
    program = """
import time
real = time.monotonic
import freezegun
with freezegun.freeze_time("2030-01-01"):
    from resilient import RateLimit
    from resilient.runtime import current
    inside = current().now()
assert real() - 60 < inside <= real(), inside
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


GATES: dict[str, Callable[[], Gate]] = {
    "RateLimit": lambda: RateLimit(10, burst=1),
    "CircuitBreaker": lambda: CircuitBreaker(fail_max=1, failure_rate=None, break_duration=1),
    "AdaptiveLimit": lambda: AdaptiveLimit(2),
    "Keyed": lambda: Keyed(lambda: RateLimit(10, burst=1), key=lambda: 1),
}


@pytest.mark.parametrize("make", GATES.values(), ids=GATES)
def test_gate_used_in_real_and_then_in_virtual_time_and_back_does_not_stay_shut(make: Callable[[], Gate]) -> None:
    """It was made for one clock; on another it begins anew, and serves calls within its own times."""
    gate = make()
    outcomes: list[Any] = []

    @gate
    async def call_then() -> int:
        return 7

    def use() -> None:
        try:
            gate(failing)()
        except (OSError, RateLimited, CircuitOpen) as error:
            outcomes.append(type(error))

    async def serve() -> None:
        await asyncio.sleep(0.2)
        try:
            await call_then()
        except CircuitOpen:
            await asyncio.sleep(1.5)
            await call_then()

    use()
    for start in (0, 5, 1e7, 1):
        virtual.run(serve(), start=start)
    use()
    assert outcomes == [OSError, OSError]


def test_time_window_told_by_another_clock_begins_anew() -> None:
    """It would never forget until that time comes again."""
    window = TimeWindow(10)
    window.record(True, False, 5000.0)
    window.record(True, False, 5000.0 - ANOTHER / 2)  # a thread that has read the clock earlier
    assert window.failures == 2
    window.record(False, False, 0.0)
    assert (window.calls, window.failures) == (1, 0)
    window.record(False, False, 20.0)
    assert window.calls == 1
