"""Atomic updates: the locks of builds without a global interpreter lock."""

from __future__ import annotations

import subprocess
import sys

from resilient import _atomic

WITHOUT_A_GIL = """
import asyncio, sys
sys._is_gil_enabled = lambda: False

from resilient import AdaptiveLimit, Bulkhead, CircuitBreaker, Keyed, Pipeline, RateLimit, _atomic

assert not _atomic.GIL
gates = CircuitBreaker, lambda: CircuitBreaker(window_calls=2), Bulkhead, lambda: RateLimit(99), AdaptiveLimit

def double(number):
    return 2 * number

async def double_later(number):
    await asyncio.sleep(0)
    return 2 * number

async def main():
    for make in gates:
        for gate in make(), Keyed(make, key=lambda number: number % 2):
            guarded, later = Pipeline(gate)(double), Pipeline(gate)(double_later)
            assert [guarded(number) for number in range(6)] == [0, 2, 4, 6, 8, 10]
            assert [await later(number) for number in range(6)] == [0, 2, 4, 6, 8, 10]

asyncio.run(main())
print("all gates have let calls through")
"""


def test_every_gate_works_where_there_is_no_gil() -> None:
    """There it takes the lock of its own that the GIL spares it elsewhere; by itself and for each key."""
    ran = subprocess.run([sys.executable, "-c", WITHOUT_A_GIL], capture_output=True, text=True, check=False)
    assert (ran.stderr, ran.stdout) == ("", "all gates have let calls through\n")


def test_instances_have_one_rare_lock_in_common_where_threads_take_turns_anyway() -> None:
    """The shared lock may be taken again while it is held, as by a signal handler."""
    first, second = _atomic.rare_lock(), _atomic.rare_lock()
    assert (first is second) == _atomic.GIL
    with first, first, second:
        pass
