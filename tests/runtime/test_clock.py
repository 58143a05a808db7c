"""One clock: what tests do to `time` changes no policy, and an instance may go from one clock to another and back.

What is done in frozen time is in `tests/runtime/frozen.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resilient import AdaptiveLimit, CircuitBreaker, CircuitOpen, Keyed, RateLimit, RateLimited
from resilient.core.gate import Gate
from resilient.runtime import virtual
from resilient.stats.window import CLOCK_CHANGE, TimeWindow

PROGRAM = Path(__file__).with_name("frozen.py")
WAYS = ("freezegun", "freezegun, in the past", "freezegun, ticking", "time-machine")
CHECKS = re.findall(r"^@check\ndef (\w+)", PROGRAM.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str | None]]:
    """What the checks found in frozen time, by the way in which it was frozen."""
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parent.parent)}
    command = [sys.executable, str(PROGRAM)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    result: dict[str, dict[str, str | None]] = json.loads(ran.stdout)
    return result


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CHECKS)
def test_policy_in_frozen_time(found: dict[str, dict[str, str | None]], way: str, name: str) -> None:
    """A policy counts the seconds that really pass, in frozen time and after it."""
    assert found[way][name] is None, found[way][name]


def test_every_check_was_made_in_frozen_time(found: dict[str, dict[str, str | None]]) -> None:
    """No more and no fewer, in each way to freeze it."""
    assert {way: list(found[way]) for way in found} == dict.fromkeys(WAYS, CHECKS)


def failing() -> None:
    """A dependency that is down."""
    raise OSError


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
    """A gate that is used on another clock begins anew there, and serves calls within its own times."""
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
    """A time window on an earlier clock begins anew, because it would drop nothing until that time comes again."""
    window = TimeWindow(10)
    window.record(True, False, 5000.0)
    window.record(True, False, 5000.0 - CLOCK_CHANGE / 2)  # a thread that has read the clock earlier
    assert window.failures == 2
    window.record(False, False, 0.0)
    assert (window.calls, window.failures) == (1, 0)
    window.record(False, False, 20.0)
    assert window.calls == 1
