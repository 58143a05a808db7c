"""The verdict: three limits, each at its very edge."""

from __future__ import annotations

import pytest

from resilient.demo.gates import judge
from resilient.demo.tally import Tally


def figures(succeeded: int) -> Tally:
    return Tally(calls=1000, succeeded=succeeded, errors={}, p50=None, p99=None, p999=None)


@pytest.mark.parametrize(
    ("plain", "resilient", "requests_per_call", "expected"),
    [
        (970, 990, 1.2, [True, True, True]),
        (970, 989, 1.2, [False, True, True]),
        (971, 990, 1.2, [True, False, True]),
        (970, 990, 1.201, [True, True, False]),
    ],
)
def test_gates_hold_at_their_limit_and_fail_just_beyond(
    plain: int, resilient: int, requests_per_call: float, expected: list[bool]
) -> None:
    """99 %, 97 % and 1.2 themselves are good enough."""
    gates = judge(figures(plain), figures(resilient), requests_per_call)
    assert [gate.passed for gate in gates] == expected


def test_gates_fail_without_calls() -> None:
    """A run in which nothing happened has proved nothing."""
    nothing = Tally(calls=0, succeeded=0, errors={}, p50=None, p99=None, p999=None)
    assert not any(gate.passed for gate in judge(nothing, nothing, None))
