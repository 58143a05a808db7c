"""The circuit's state machine: its table of states, generations, probes and leases, and the criteria that open it."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import pytest

from resilient.policies.breaker.circuit import (
    CLOSED,
    HALF_OPEN,
    ISOLATED,
    OPEN,
    Change,
    Circuit,
    Criteria,
    Probe,
    State,
)
from resilient.stats.window import CountWindow, TimeWindow, Window


def circuit(
    *,
    window: Window | None = None,
    fail_max: int | None = 1,
    failure_rate: float | None = None,
    slow_rate: float | None = None,
    min_calls: int = 1,
    **options: Any,
) -> Circuit:
    """A circuit that by default opens at the first failure for 10 seconds, and closes after one successful probe."""
    settings = {"break_duration": 10.0, "max_break": 80.0, "probes": 1, "success_threshold": 1, "lease": 30.0}
    criteria = Criteria(fail_max, failure_rate, slow_rate, min_calls)
    return Circuit(window or CountWindow(100), criteria, **{**settings, **options})


def admit(machine: Circuit, now: float) -> int | Probe:
    ticket, _ = machine.admit(now)
    assert ticket is not None
    return ticket


def feed(machine: Circuit, outcomes: str, now: float = 0.0) -> Change | None:
    """Admit and settle calls: "+" succeeded, "-" failed, "s" succeeded slowly. Returns the last change."""
    change = None
    for outcome in outcomes:
        change = machine.settle(admit(machine, now), outcome == "-", outcome == "s", now)
    return change


def opened(now: float = 0.0, **options: Any) -> Circuit:
    machine = circuit(**options)
    feed(machine, "-", now)
    assert machine.state is OPEN
    return machine


def fail_probe(machine: Circuit, now: float) -> float:
    """Let a probe fail once the break is over. Returns the next break in seconds."""
    begin = now + (machine.retry_after(now) or 0.0) + 1.0
    probe = admit(machine, begin)
    machine.settle(probe, True, False, begin)
    break_ = machine.retry_after(begin)
    assert break_ is not None
    return break_


# -- the table ----------------------------------------------------------------------------------------------------


def test_circuit_closed_admits_any_number_with_the_tickets_of_its_generation() -> None:
    """While the circuit is closed, the generation is the ticket."""
    machine = circuit()
    assert [machine.admit(0.0) for _ in range(3)] == [(machine.generation, None)] * 3


def test_circuit_closed_with_a_criterion_met_by_a_failure_opens() -> None:
    """The change has the reason."""
    machine = circuit(fail_max=2)
    assert feed(machine, "-") is None
    assert feed(machine, "-") == Change(CLOSED, OPEN, "2 failures in a row")
    assert machine.state is OPEN


def test_circuit_open_refuses_until_its_break_is_over() -> None:
    """Time alone changes no state: the next admission does."""
    machine = opened(break_duration=10.0)
    assert machine.admit(0.0) == (None, None)
    assert machine.admit(9.999) == (None, None)
    assert machine.state is OPEN
    ticket, change = machine.admit(10.0)
    assert isinstance(ticket, Probe)
    assert change == Change(OPEN, HALF_OPEN, "the break is over")


def test_circuit_open_admits_a_call_after_retry_after() -> None:
    """A call that comes after `retry_after` seconds is admitted."""
    machine = opened(now=3.0, break_duration=10.0)
    assert machine.retry_after(3.0) == 10.0
    assert machine.retry_after(12.0) == 1.0
    assert machine.retry_after(50.0) == 0.0
    assert admit(machine, 12.0 + 1.0)


def test_circuit_half_open_after_enough_successes_closes_with_empty_windows() -> None:
    """Calls from before count no more, neither for rates nor for failures in a row."""
    machine = opened(fail_max=2, failure_rate=0.5, min_calls=1, success_threshold=2)
    assert machine.settle(admit(machine, 10.0), False, False, 10.0) is None
    assert machine.state is HALF_OPEN
    change = machine.settle(admit(machine, 11.0), False, False, 11.0)
    assert change == Change(HALF_OPEN, CLOSED, "the probes succeeded")
    assert (machine.window.calls, machine.window.failures, machine.consecutive) == (0, 0, 0)


def test_circuit_half_open_with_a_failed_probe_opens_again() -> None:
    """One failed probe is enough, also after successful ones."""
    machine = opened(success_threshold=3)
    assert machine.settle(admit(machine, 10.0), False, False, 10.0) is None
    assert machine.settle(admit(machine, 11.0), True, False, 11.0) == Change(HALF_OPEN, OPEN, "a probe failed")
    assert machine.admit(12.0) == (None, None)


def test_circuit_half_open_counts_its_successes_from_nothing_in_each_episode() -> None:
    """A success before a failed probe does not count in the next half-open state."""
    machine = opened(success_threshold=2, max_break=10.0)
    machine.settle(admit(machine, 10.0), False, False, 10.0)
    machine.settle(admit(machine, 11.0), True, False, 11.0)
    machine.settle(admit(machine, 30.0), False, False, 30.0)
    assert machine.state is HALF_OPEN


def test_circuit_half_open_with_a_slow_probe_opens_again() -> None:
    """A slow probe is a failed one: the dependency has not recovered."""
    machine = opened()
    machine.settle(admit(machine, 10.0), False, True, 15.0)
    assert machine.state is OPEN


@pytest.mark.parametrize("state", [CLOSED, OPEN, HALF_OPEN])
def test_circuit_in_any_state_isolated_refuses_for_ever(state: State) -> None:
    """Neither time nor results end the isolation."""
    machine = circuit()
    early = admit(machine, 0.0)
    machine.force(state, 0.0, "by hand")
    assert machine.force(ISOLATED, 0.0, "by hand") == Change(state, ISOLATED, "by hand")
    machine.settle(early, False, False, 1.0)
    assert machine.admit(1e9) == (None, None)
    assert machine.state is ISOLATED
    assert machine.retry_after(1e9) is None


@pytest.mark.parametrize("state", [OPEN, HALF_OPEN, ISOLATED])
def test_circuit_isolated_is_ended_by_nothing_but_close(state: State) -> None:
    """Only `close()` ends `isolate()`: a tool that opens circuits must not make this one probe."""
    machine = circuit()
    machine.force(ISOLATED, 0.0, "by hand")
    assert machine.force(state, 1.0, "by hand") is None
    assert machine.admit(1e9) == (None, None)
    assert machine.force(CLOSED, 2.0, "by hand") == Change(ISOLATED, CLOSED, "by hand")
    assert admit(machine, 2.0) == machine.generation


@pytest.mark.parametrize("old", [CLOSED, OPEN, HALF_OPEN])
@pytest.mark.parametrize("new", [CLOSED, OPEN, HALF_OPEN])
def test_circuit_goes_by_hand_from_any_state_to_any(old: State, new: State) -> None:
    """A change is returned only where the state differs."""
    machine = circuit()
    machine.force(old, 0.0, "by hand")
    assert machine.force(new, 0.0, "by hand") == (None if new == old else Change(old, new, "by hand"))
    assert machine.state is new


def test_circuit_opened_by_hand_stays_so_for_the_given_seconds() -> None:
    """The default is its break."""
    machine = circuit(break_duration=10.0)
    machine.force(OPEN, 5.0, "by hand")
    assert machine.retry_after(5.0) == 10.0
    machine.force(OPEN, 5.0, "by hand", seconds=2.5)
    assert machine.retry_after(5.0) == 2.5


# -- what trips it ------------------------------------------------------------------------------------------------


def test_circuit_with_fail_max_counts_failures_in_a_row_only() -> None:
    """A success, slow or not, sets the count to 0."""
    machine = circuit(fail_max=3)
    feed(machine, "--+--s--")
    assert machine.state is CLOSED
    assert machine.consecutive == 2
    feed(machine, "-")
    assert machine.state is OPEN


@pytest.mark.parametrize("window", [CountWindow(20), TimeWindow(10.0)], ids=["count", "time"])
def test_circuit_with_failure_rate_opens_at_the_share_of_the_calls_in_the_window(window: Window) -> None:
    """It opens at exactly the share, and not a call before."""
    machine = circuit(window=window, fail_max=None, failure_rate=0.4)
    feed(machine, "++++++---")
    assert machine.state is CLOSED
    assert feed(machine, "-") == Change(CLOSED, OPEN, "4 of 10 calls failed")


@pytest.mark.parametrize(("criterion", "bad"), [("failure_rate", "-"), ("slow_rate", "s")])
def test_circuit_opens_at_exactly_its_rate_whatever_the_rounding(criterion: str, bad: str) -> None:
    """0.07 * 100 is more than 7 in floating point, yet 7 failures of 100 are 7%."""
    needed = {}
    for percent in range(1, 101):
        machine = circuit(window=CountWindow(100), fail_max=None, min_calls=100, **{criterion: percent / 100})
        feed(machine, "+" * 100)
        for number in range(1, 101):
            if machine.state is CLOSED:
                needed[percent] = number
                feed(machine, bad)
    assert needed == {percent: percent for percent in range(1, 101)}


def test_circuit_with_count_window_forgets_failures_that_left_it() -> None:
    """Only the last calls count."""
    machine = circuit(window=CountWindow(4), fail_max=None, failure_rate=0.5, min_calls=4)
    feed(machine, "---+++-")
    assert machine.state is CLOSED
    feed(machine, "-")
    assert machine.state is OPEN


def test_circuit_with_time_window_forgets_failures_that_left_it() -> None:
    """Only the last seconds count."""
    machine = circuit(window=TimeWindow(10.0), fail_max=None, failure_rate=0.5, min_calls=4)
    feed(machine, "---", now=0.0)
    feed(machine, "+++-", now=10.0)
    assert machine.state is CLOSED
    feed(machine, "--", now=11.0)
    assert machine.state is OPEN


def test_circuit_with_slow_rate_opens_on_slow_successes_and_slow_failures() -> None:
    """Slowness is a criterion by itself."""
    machine = circuit(fail_max=None, slow_rate=0.5, min_calls=4)
    feed(machine, "++s")
    change = machine.settle(admit(machine, 0.0), True, True, 0.0)
    assert change == Change(CLOSED, OPEN, "2 of 4 calls were slow")


def test_circuit_with_fewer_than_min_calls_knows_no_rate() -> None:
    """A failure of the first call would be a rate of 100%, and does not open it."""
    machine = circuit(fail_max=None, failure_rate=0.1, slow_rate=0.1, min_calls=5)
    feed(machine, "-s-s")
    assert machine.state is CLOSED
    feed(machine, "-")
    assert machine.state is OPEN


def test_circuit_is_never_opened_by_a_good_call() -> None:
    """A success that completes `min_calls` does not open it at any rate; the next failure does."""
    machine = circuit(fail_max=None, failure_rate=0.5, min_calls=4)
    feed(machine, "---+")
    assert machine.state is CLOSED
    feed(machine, "-")
    assert machine.state is OPEN


# -- generations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failed", [True, False])
def test_circuit_open_ignores_results_of_earlier_calls(failed: bool) -> None:
    """Late results neither close it nor prolong its break."""
    machine = circuit()
    late = admit(machine, 0.0)
    feed(machine, "-", now=0.0)
    assert machine.settle(late, failed, False, 5.0) is None
    assert machine.state is OPEN
    assert machine.retry_after(5.0) == 5.0


@pytest.mark.parametrize("failed", [True, False])
def test_circuit_half_open_ignores_results_of_earlier_calls(failed: bool) -> None:
    """Only its own probes count."""
    machine = circuit(success_threshold=1)
    late = admit(machine, 0.0)
    feed(machine, "-", now=0.0)
    probe = admit(machine, 10.0)
    assert machine.settle(late, failed, False, 11.0) is None
    assert machine.state is HALF_OPEN
    machine.settle(probe, False, False, 11.0)
    assert machine.state is CLOSED


def test_circuit_closed_again_ignores_results_of_earlier_calls() -> None:
    """A late failure from before does not open it again, and does not count."""
    machine = circuit()
    late = [admit(machine, 0.0) for _ in range(5)]
    feed(machine, "-", now=0.0)
    machine.settle(admit(machine, 10.0), False, False, 10.0)
    for ticket in late:
        assert machine.settle(ticket, True, True, 11.0) is None
    assert machine.state is CLOSED
    assert (machine.window.calls, machine.consecutive) == (0, 0)


def test_circuit_closed_by_hand_ignores_results_of_earlier_calls() -> None:
    """Closing a closed circuit also drops the results of calls in flight."""
    machine = circuit()
    late = admit(machine, 0.0)
    machine.force(CLOSED, 0.0, "by hand")
    assert machine.settle(late, True, False, 1.0) is None
    assert machine.state is CLOSED


@pytest.mark.parametrize("failed", [True, False])
def test_circuit_in_a_later_episode_ignores_probes_of_an_earlier_one(failed: bool) -> None:
    """Of two probes, one fails: the other's result belongs to an earlier generation."""
    machine = opened(probes=2, max_break=10.0, success_threshold=1)
    late, failing = admit(machine, 10.0), admit(machine, 10.0)
    machine.settle(failing, True, False, 11.0)
    assert machine.settle(late, failed, False, 12.0) is None
    assert machine.state is OPEN
    current = admit(machine, 30.0)
    assert machine.settle(late, failed, False, 31.0) is None
    assert machine.state is HALF_OPEN
    machine.settle(current, False, False, 32.0)
    assert machine.state is CLOSED


# -- probes and leases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [1, 3])
def test_circuit_half_open_admits_exactly_its_probes_at_a_time(probes: int) -> None:
    """200 concurrent admissions get no more, and a place that comes free serves exactly one of them."""
    machine = opened(probes=probes, success_threshold=100)
    tickets = [machine.admit(10.0)[0] for _ in range(200)]
    admitted = [ticket for ticket in tickets if ticket is not None]
    assert len(admitted) == machine.probes_out == probes
    machine.settle(admitted[0], False, False, 11.0)
    assert sum(machine.admit(11.0)[0] is not None for _ in range(200)) == 1


def test_circuit_half_open_gives_the_place_of_a_released_probe_to_another_and_learns_nothing() -> None:
    """A probe that was cancelled, or whose outcome is no evidence, has no effect."""
    machine = opened()
    probe = admit(machine, 10.0)
    assert machine.admit(10.0) == (None, None)
    machine.release(probe)
    assert machine.state is HALF_OPEN
    machine.settle(admit(machine, 11.0), False, False, 11.0)
    assert machine.state is CLOSED


def test_circuit_half_open_with_a_hung_probe_gives_its_place_away_when_the_lease_is_over() -> None:
    """Not before; and `retry_after` is that time, so a call that waits for it is admitted."""
    machine = opened(lease=5.0)
    admit(machine, 10.0)
    assert machine.admit(14.5) == (None, None)
    assert machine.retry_after(14.5) == 0.5
    assert isinstance(admit(machine, 15.0), Probe)


def test_circuit_half_open_says_to_come_back_when_the_first_lease_is_over() -> None:
    """The first of several probes whose lease ends makes room."""
    machine = opened(lease=5.0, probes=2)
    admit(machine, 10.0)
    admit(machine, 12.0)
    assert machine.retry_after(13.0) == 2.0
    assert isinstance(admit(machine, 15.0), Probe)
    assert machine.admit(15.0) == (None, None)


@pytest.mark.parametrize("failed", [True, False])
def test_circuit_half_open_drops_the_result_of_a_probe_whose_lease_is_over(failed: bool) -> None:
    """It is dropped also where no other call has taken its place."""
    machine = opened(lease=5.0)
    late = admit(machine, 10.0)
    assert machine.settle(late, failed, False, 15.5) is None
    successor = admit(machine, 15.5)
    assert machine.settle(late, failed, False, 16.0) is None
    assert machine.state is HALF_OPEN
    assert machine.admit(16.0) == (None, None)
    machine.settle(successor, False, False, 17.0)
    assert machine.state is CLOSED


def test_circuit_half_open_counts_one_result_of_a_probe() -> None:
    """A ticket counts once."""
    machine = opened(success_threshold=2)
    probe = admit(machine, 10.0)
    machine.settle(probe, False, False, 11.0)
    assert machine.settle(probe, False, False, 11.0) is None
    assert machine.state is HALF_OPEN


def test_circuit_release_of_an_ordinary_ticket_changes_nothing() -> None:
    """A closed circuit has nothing to take back, and learns nothing."""
    machine = circuit()
    machine.release(admit(machine, 0.0))
    assert (machine.state, machine.window.calls, machine.consecutive) == (CLOSED, 0, 0)


# -- the break ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("cap", [75.0, 12.0, 10.0])
def test_circuit_break_doubles_with_jitter_after_each_failed_probe_up_to_the_cap(cap: float, seed: int) -> None:
    """The n-th break lies between half of its doubling and all of it, never below the first, never above the cap."""
    random.seed(seed)
    machine = opened(break_duration=10.0, max_break=cap)
    now, whole = 0.0, 10.0
    for _ in range(8):
        before = machine.retry_after(now) or 0.0
        break_ = fail_probe(machine, now)
        now += before + 1.0
        whole = min(cap, whole * 2)
        assert max(10.0, whole / 2) - 1e-9 <= break_ <= whole + 1e-9


def test_circuit_breaks_of_circuits_that_broke_together_differ() -> None:
    """Otherwise all instances of a service would probe at the same moment."""
    random.seed(1)
    machines = [opened(break_duration=10.0) for _ in range(20)]
    assert len({fail_probe(machine, 0.0) for machine in machines}) > 15


def test_circuit_break_that_has_grown_for_a_thousand_probes_is_the_cap() -> None:
    """The doubling does not overflow."""
    machine = opened(break_duration=1.0, max_break=60.0)
    now = 0.0
    for _ in range(1100):
        before = machine.retry_after(now) or 0.0
        break_ = fail_probe(machine, now)
        now += before + 1.0
    assert 30.0 - 1e-9 <= break_ <= 60.0 + 1e-9


def test_circuit_break_is_short_again_once_the_circuit_has_closed() -> None:
    """The first break of the next outage is the configured one."""
    machine = opened(break_duration=10.0, max_break=1000.0)
    now = 0.0
    for _ in range(4):
        before = machine.retry_after(now) or 0.0
        fail_probe(machine, now)
        now += before + 1.0
    now += 1000.0
    machine.settle(admit(machine, now), False, False, now)
    assert machine.state is CLOSED
    feed(machine, "-", now=now)
    assert machine.retry_after(now) == 10.0
    assert fail_probe(machine, now) <= 20.0 + 1e-9


def test_circuit_probe_that_succeeds_among_others_does_not_shorten_the_next_break() -> None:
    """Only closing the circuit does."""
    machine = opened(break_duration=10.0, max_break=1000.0, success_threshold=2)
    fail_probe(machine, 0.0)
    now = 100.0
    machine.settle(admit(machine, now), False, False, now)
    break_ = fail_probe(machine, now)
    assert break_ >= 20.0 - 1e-9


# -- bounded ------------------------------------------------------------------------------------------------------


def containers_and_bytes(root: object) -> tuple[int, int]:
    """The number of objects that `root` holds, without numbers, and their total size."""
    seen: set[int] = set()
    stack, size = [root], 0
    while stack:
        each = stack.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType | int | float | None):
            continue
        seen.add(id(each))
        size += sys.getsizeof(each)
        stack += gc.get_referents(each)
    return len(seen), size


@pytest.mark.parametrize("make", [lambda: CountWindow(100), lambda: TimeWindow(10.0)], ids=["count", "time"])
def test_circuit_holds_no_more_after_100_000_calls_than_after_a_thousand(make: Callable[[], Window]) -> None:
    """Its memory stays the same through ten openings and closings, also with probes that hang."""
    machine = circuit(window=make(), fail_max=50, failure_rate=0.9, slow_rate=0.9, min_calls=90, lease=1.0)
    now = 0.0

    def episode(calls: int) -> None:
        nonlocal now
        for number in range(calls):
            now += 0.01
            machine.settle(admit(machine, now), number % 3 == 0, number % 5 == 0, now)
        feed(machine, "-" * 50, now)
        assert machine.state is OPEN
        now += 10.0
        admit(machine, now)  # hangs
        now += 2.0
        machine.settle(admit(machine, now), False, False, now)
        assert machine.state is CLOSED
        for number in range(1000):
            now += 0.01
            machine.settle(admit(machine, now), number % 3 == 0, number % 5 == 0, now)

    episode(0)
    before = containers_and_bytes(machine)
    for _ in range(10):
        episode(9_000)
    assert containers_and_bytes(machine) == before


# -- when it may be forgotten ---------------------------------------------------------------------------------------


def test_circuit_closed_is_not_wanted() -> None:
    """A closed circuit need not be kept."""
    assert not circuit().wanted(0.0)


def test_circuit_open_is_wanted_until_no_call_has_come_for_its_longest_break() -> None:
    """The time counts from the end of its break, or from the last call that it refused or let probe."""
    machine = opened(break_duration=10.0, max_break=80.0)
    assert machine.wanted(89.0)
    assert not machine.wanted(90.0)
    assert machine.admit(50.0)[0] is not None  # a probe whose lease ends at 80
    assert machine.admit(75.0)[0] is None
    assert machine.wanted(159.0)
    assert not machine.wanted(160.0)


def test_circuit_half_open_by_hand_is_wanted_from_then_on() -> None:
    """An operator expects it to stay half-open for a while."""
    machine = circuit(max_break=80.0)
    machine.force(HALF_OPEN, 100.0, "by hand")
    assert machine.wanted(179.0)
    assert not machine.wanted(180.0)


def test_circuit_isolated_is_wanted_for_ever() -> None:
    """Only `close()` ends it."""
    machine = circuit()
    machine.force(ISOLATED, 0.0, "by hand")
    assert machine.wanted(1e9)


# -- what the gate reads without the lock ---------------------------------------------------------------------------


@pytest.mark.parametrize("now", [0.0, 5.0, 9.999])
def test_open_circuit_says_without_its_lock_for_how_long_it_refuses(now: float) -> None:
    """The seconds are those that `retry_after` finds under the lock."""
    machine = opened()
    assert machine.refuses_for(now) == machine.retry_after(now) > 0
    assert admit_or_none(machine, now) is None


@pytest.mark.parametrize("now", [10.0, 1e6])
def test_open_circuit_whose_break_is_over_leaves_it_to_admit(now: float) -> None:
    """A call may then be admitted as a probe."""
    machine = opened()
    assert machine.refuses_for(now) == 0.0
    assert isinstance(admit_or_none(machine, now), Probe)


def test_open_circuit_on_another_clock_leaves_it_to_admit() -> None:
    """On another clock its break begins again, which only `admit` may do."""
    machine = opened(now=1000.0)
    assert machine.refuses_for(0.0) == 0.0
    assert admit_or_none(machine, 0.0) is None
    assert machine.refuses_for(0.0) == 10.0


@pytest.mark.parametrize("state", [CLOSED, HALF_OPEN, ISOLATED])
def test_circuit_in_any_other_state_leaves_it_to_admit(state: State) -> None:
    """Only an open circuit has a break."""
    machine = opened()
    machine.force(state, 1.0, "by hand")
    assert machine.refuses_for(1.0) == 0.0


def test_circuit_that_refuses_without_its_lock_counts_as_asked_for() -> None:
    """It must be kept while calls come."""
    machine = opened()
    assert not machine.wanted(95.0)
    machine.refuses_for(9.0)
    assert machine.wanted(88.0)


@pytest.mark.parametrize("state", [OPEN, HALF_OPEN, ISOLATED])
def test_circuit_has_a_ticket_for_ordinary_calls_while_it_is_closed(state: State) -> None:
    """Each closed state has another ticket, and other states have none."""
    machine = circuit()
    first = machine.ticket
    assert first == admit(machine, 0.0)
    machine.force(state, 0.0, "by hand")
    assert machine.ticket is None
    machine.force(CLOSED, 0.0, "by hand")
    assert machine.ticket == admit(machine, 0.0) != first


def test_watched_circuit_has_no_ticket_before_admit_is_asked() -> None:
    """Whoever watches sees each call, whatever changes meanwhile; afterwards there is a ticket again."""
    machine = circuit()
    machine.watch(True)
    assert machine.ticket is None
    before = admit(machine, 0.0)
    machine.force(OPEN, 0.0, "by hand")
    machine.force(CLOSED, 0.0, "by hand")
    assert machine.ticket is None
    machine.watch(False)
    assert machine.ticket == admit(machine, 0.0) != before


def test_circuit_that_is_not_watched_any_more_has_no_ticket_while_open() -> None:
    """It goes on to refuse."""
    machine = opened()
    machine.watch(True)
    machine.watch(False)
    assert machine.ticket is None


def admit_or_none(machine: Circuit, now: float) -> int | Probe | None:
    ticket, _ = machine.admit(now)
    return ticket
