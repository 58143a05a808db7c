"""The gates: each limit at its edge."""

from __future__ import annotations

import pytest
from rich.console import Console

from resilient.demo.experiment import Experiment, Settings
from resilient.demo.gates import judge, machine
from resilient.demo.load import Record
from resilient.demo.report import as_json, verdict
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
    """99 %, 97 % and 1.2 themselves pass."""
    gates = judge(figures(plain), figures(resilient), requests_per_call)
    assert [gate.passed for gate in gates] == expected


def test_gates_fail_without_calls() -> None:
    """A run in which nothing happened has proved nothing."""
    nothing = Tally(calls=0, succeeded=0, errors={}, p50=None, p99=None, p999=None)
    assert not any(gate.passed for gate in judge(nothing, nothing, None))


def experiment(latency: float) -> Experiment:
    """A run in which the policies pass their gates, and every answered plain call takes `latency`."""
    made = Experiment(Settings(seed=1, duration=20, rate=100))
    made.plain.records = [Record(at, latency, None) for at in range(90)] + [Record(9, 0.001, "503")] * 10
    made.resilient.records = [Record(at, latency, None) for at in range(100)]
    made.resilient.requests = 100
    return made


def shown(run: Experiment) -> str:
    """The report as a wide terminal shows it."""
    console = Console(width=500)
    with console.capture() as captured:
        console.print(verdict(run))
    return captured.get()


@pytest.mark.parametrize(("late", "passed"), [(10, True), (11, False)])
def test_machine_keeps_up_until_more_than_a_tenth_is_late(late: int, passed: bool) -> None:
    """Late calls include timeouts, because on a slow machine there may be nothing else."""
    calls = [Record(0, 0.1, None)] * (100 - late) + [Record(0, 5.0, "ReadTimeout")] * late
    assert machine(calls).passed is passed


def test_machine_that_keeps_up_is_a_gate_among_the_others() -> None:
    """Four gates, all passed, in the text as in the data."""
    run = experiment(0.017)
    assert shown(run).count("pass  ") == 4
    assert as_json(run)["passed"] is True


def test_machine_that_cannot_keep_up_ends_with_that_reason_alone() -> None:
    """The report says neither that the policies passed nor that they failed, and the run does not pass."""
    run = experiment(3.1)
    text = shown(run)
    assert "This machine cannot keep up with 100 calls/s" in text
    assert "say nothing about the policies" in text
    assert ("pass  " in text, text.count("FAIL  ")) == (False, 1)
    assert as_json(run)["passed"] is False
