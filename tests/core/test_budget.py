"""A budget pays for extra requests: from a share of recent successes, and from a small reserve."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient import Budget
from tests.hypothesis_settings import search

# -- earning and spending -------------------------------------------------------------------------------------------


def successes(budget: Budget, number: int) -> None:
    for _ in range(number):
        budget.earn()


def spent(budget: Budget, now: float = 0.0, tries: int = 1000) -> int:
    """Return how many of these extra requests are paid for at one moment."""
    return sum(budget.spend(now) for _ in range(tries))


@pytest.mark.parametrize("reserve", [0, 1, 3])
def test_new_budget_has_its_reserve(reserve: int) -> None:
    """A new budget has its reserve, and no more."""
    assert spent(Budget(reserve=reserve)) == reserve


@pytest.mark.parametrize("now", [0.0, 1e9, 0.1])
def test_ten_successes_at_a_tenth_are_one_token(now: float) -> None:
    """Ten successes at a ratio of 0.1 are one token, in spite of rounding, and nine are none."""
    budget = Budget(0.1, reserve=0)
    successes(budget, 9)
    assert not budget.spend(now)
    budget.earn()
    assert budget.spend(now)
    assert not budget.spend(now)


def test_tenths_that_come_one_by_one_add_up() -> None:
    """Each looked at, so that ten additions are made."""
    budget = Budget(0.1, reserve=0, ttl=1e9)
    for _ in range(9):
        budget.earn()
        assert not budget.spend(0.0)
    budget.earn()
    assert budget.spend(0.0)
    assert not budget.spend(0.0)


@pytest.mark.parametrize(("ratio", "needed"), [(0.1, 10), (0.2, 5), (0.05, 20), (0.3, 4), (1.0, 1), (1 / 3, 3)])
def test_ratio_is_what_a_success_earns(ratio: float, needed: int) -> None:
    """This number of successes pays for one extra request, and one less does not."""
    budget = Budget(ratio, reserve=0)
    successes(budget, needed - 1)
    assert not budget.spend(0.0)
    budget.earn()
    assert budget.spend(0.0)


def test_cap_is_all_that_can_be_saved() -> None:
    """A million successes are ten extra requests."""
    budget = Budget(cap=10)
    successes(budget, 1_000_000)
    assert budget.balance(0.0) == 10
    assert spent(budget) == 10


def test_refusal_takes_nothing() -> None:
    """What there is goes on adding up."""
    budget = Budget(0.1, reserve=0)
    successes(budget, 5)
    assert not budget.spend(0.0)
    successes(budget, 5)
    assert budget.spend(0.0)


def test_reserve_comes_back_by_successes_only() -> None:
    """A spent reserve does not come back by time alone."""
    budget = Budget(0.1, reserve=2)
    assert spent(budget, 0.0) == 2
    assert spent(budget, 1e6) == 0
    successes(budget, 20)
    assert spent(budget, 2e6) == 2


def test_reserve_does_not_fade() -> None:
    """What is kept for an idle client is there after a year."""
    budget = Budget(reserve=2)
    successes(budget, 50)
    assert budget.balance(0.0) == pytest.approx(7)
    assert not spent(budget, 0.0, tries=0)
    budget.spend(0.0)
    assert budget.balance(3e7) == pytest.approx(2)


def test_savings_fade_to_the_eth_part_in_ttl() -> None:
    """After `ttl` seconds 0.3679 of the saved tokens are left."""
    budget = Budget(reserve=1, ttl=10)
    successes(budget, 90)
    budget.spend(100.0)
    assert budget.balance(100.0) == pytest.approx(9)
    assert budget.balance(110.0) == pytest.approx(1 + 8 * 0.36788, abs=1e-3)
    assert budget.balance(120.0) == pytest.approx(1 + 8 * 0.13534, abs=1e-3)


def test_looking_changes_nothing() -> None:
    """`balance` is a question, however often and for whatever time it is asked."""
    budget = Budget(reserve=1)
    successes(budget, 50)
    assert {budget.balance(now) for now in (0.0, 5.0, 0.0, 5.0)} == {6.0}
    budget.spend(0.0)
    assert budget.balance(10.0) == budget.balance(10.0) < budget.balance(0.0) == 5.0


def test_clock_that_goes_back_brings_and_takes_nothing() -> None:
    """Another event loop in virtual time may have another clock."""
    budget = Budget(reserve=0)
    successes(budget, 50)
    assert budget.spend(1000.0)
    assert budget.balance(0.0) == pytest.approx(4)
    assert spent(budget, 0.0) == 4


# -- an independent simulation --------------------------------------------------------------------------------------


class Simulated:
    """The same by small steps: each success earns at its own moment, and what is above the reserve fades meanwhile."""

    def __init__(self, ratio: float, reserve: float, cap: float, ttl: float) -> None:
        self.ratio, self.reserve, self.cap, self.ttl = ratio, reserve, cap, ttl
        self.tokens = reserve

    def pass_time(self, seconds: float, successes: int, steps: int = 4000) -> None:
        """Add `successes` evenly over `seconds`; the first ones refill the reserve and count as saved."""
        earned = successes * self.ratio
        refill = min(earned, max(0.0, self.reserve - self.tokens))
        self.tokens += refill
        earned -= refill
        step = seconds / steps
        for _ in range(steps):
            above = self.tokens - self.reserve
            if above > 0:
                # half a step's earnings before it fades and half after it (the trapezoidal rule)
                above = (above + earned / steps / 2) * 2.718281828459045 ** (-step / self.ttl) + earned / steps / 2
                self.tokens = self.reserve + above
            else:
                self.tokens += earned / steps
        self.tokens = min(self.cap, self.tokens)

    def spend(self) -> bool:
        if self.tokens < 1 - 1e-9:
            return False
        self.tokens -= 1
        return True


moments = st.lists(
    st.tuples(st.floats(0.01, 30), st.integers(0, 300), st.integers(1, 4)),
    min_size=1,
    max_size=6,
)


@search(60)
@given(
    ratio=st.sampled_from([0.05, 0.1, 0.25, 1.0]),
    reserve=st.sampled_from([0.0, 1.0, 3.0]),
    ttl=st.sampled_from([1.0, 10.0, 60.0]),
    story=moments,
)
@example(ratio=0.1, reserve=1.0, ttl=10.0, story=[(1.0, 100, 1), (10.0, 0, 1), (0.01, 50, 3)])
def test_balance_is_that_of_a_simulation(
    ratio: float, reserve: float, ttl: float, story: list[tuple[float, int, int]]
) -> None:
    """Whatever happened when, there are as many tokens as in a simulation in small steps."""
    cap = 10.0
    budget = Budget(ratio, reserve=reserve, cap=cap, ttl=ttl)
    simulated = Simulated(ratio, reserve, cap, ttl)
    now = 0.0
    budget.spend(now)
    simulated.spend()
    for seconds, number, extra in story:
        now += seconds
        successes(budget, number)
        simulated.pass_time(seconds, number)
        for _ in range(extra):
            balance = budget.balance(now)
            assert balance == pytest.approx(simulated.tokens, abs=1e-3)
            if abs(balance - 1) > 1e-3:  # where the two could round to different sides
                assert budget.spend(now) == simulated.spend()


@search(100)
@given(story=moments, ratio=st.sampled_from([0.05, 0.1, 0.3]), reserve=st.sampled_from([0.0, 1.0, 2.5]))
def test_more_than_the_ratio_of_successes_and_the_reserve_is_never_paid(
    story: list[tuple[float, int, int]], ratio: float, reserve: float
) -> None:
    """Over any time, in any order, no more is paid than the reserve and the ratio of successes."""
    budget = Budget(ratio, reserve=reserve)
    now = paid = earned = 0.0
    for seconds, number, extra in story:
        now += seconds
        successes(budget, number)
        earned += number * ratio
        paid += spent(budget, now, tries=extra * 5)
        assert paid <= reserve + earned + 1e-6
        assert 0 <= budget.balance(now) <= budget.cap


def test_steady_traffic_pays_for_a_steady_share() -> None:
    """50 successes a second at a tenth, and 3 retries a second asked for: all are paid."""
    budget = Budget(0.1)
    now, paid = 0.0, 0
    for number in range(3000):
        now += 0.02
        budget.earn()
        if number % 17 == 0:
            paid += budget.spend(now)
    assert paid == 3000 // 17 + 1


# -- several dependencies -------------------------------------------------------------------------------------------


def test_each_dependency_has_a_budget_of_the_same_figures() -> None:
    """What one has earned, no other one spends."""
    budget = Budget(0.5, reserve=2, cap=7, ttl=3)
    one, other = budget.of("one"), budget.of("other")
    successes(one, 4)
    assert spent(other) == 2
    assert one.balance(0.0) == 4
    assert budget.balance(0.0) == 2
    assert [(each.ratio, each.reserve, each.cap, each.ttl) for each in (one, other)] == [(0.5, 2, 7, 3)] * 2


def test_dependency_is_known_again_and_none_is_the_budget_itself() -> None:
    """Pipelines that share a budget share the budgets of its dependencies, too."""
    budget = Budget()
    assert budget.of("one") is budget.of("one")
    assert budget.of("one") is not budget.of("other")
    assert budget.of(None) is budget


def test_extra_requests_of_all_dependencies_are_counted_together() -> None:
    """The counts of all dependencies are added up, and each is shown as well."""
    budget = Budget(reserve=1)
    spent(budget.of("http://a:80"), tries=3)
    spent(budget.of("http://b:80"), tries=2)
    assert (budget.spent, budget.refused) == (2, 3)
    assert budget.snapshot() == {
        "spent": 2,
        "refused": 3,
        "tokens": 1.0,
        "each": {
            "http://b:80": {"spent": 1, "refused": 1, "tokens": 0.0},
            "http://a:80": {"spent": 1, "refused": 2, "tokens": 0.0},
        },
    }


def test_dependencies_that_are_remembered_are_bounded() -> None:
    """Ever new dependencies, as from outside input, take bounded memory; 100 are shown."""
    budget = Budget()
    for number in range(3000):
        budget.of(number).earn()
    assert len(budget.each) == 1024
    assert budget.of(2999).earned == 1
    assert len(budget.snapshot()["each"]) == 100
    assert budget.of(0).earned == 0


# -- what it tells --------------------------------------------------------------------------------------------------


def test_snapshot_tells_spent_refused_and_tokens() -> None:
    """A snapshot has the counts, and the tokens after the last `spend`."""
    budget = Budget(0.5, reserve=1)
    assert budget.snapshot() == {"spent": 0, "refused": 0, "tokens": 1.0}
    successes(budget, 3)
    assert spent(budget, 0.0, tries=5) == 2
    assert budget.snapshot() == {"spent": 2, "refused": 3, "tokens": 0.5}


def test_repr_names_the_figures() -> None:
    """The repr names the figures in words."""
    assert repr(Budget()) == "Budget(10% of successes, reserve 1, cap 10)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cap": 0.5, "reserve": 0}, "cap=0.5 must be at least 1 token and at least the reserve of 0"),
        ({"cap": 5, "reserve": 6}, "cap=5 must be at least 1 token and at least the reserve of 6"),
        ({"reserve": 11}, "cap=10.0 must be at least 1 token and at least the reserve of 11"),
    ],
)
def test_cap_that_is_too_small_is_refused(options: Any, words: str) -> None:
    """Below one token nothing could ever be spent; below the reserve there would be no reserve."""
    with pytest.raises(ValueError, match=words):
        Budget(**options)


# -- threads --------------------------------------------------------------------------------------------------------


def test_threads_spend_no_token_twice_and_lose_none() -> None:
    """Eight threads earn and spend at once; then every token is accounted for."""
    budget = Budget(0.25, reserve=0, cap=1e9, ttl=1e9)
    rounds, threads = 4000, 8
    paid = [0] * threads
    begin = threading.Barrier(threads)

    def work(number: int) -> None:
        begin.wait()
        for _ in range(rounds):
            budget.earn()
            paid[number] += budget.spend(0.0)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total = rounds * threads * 0.25
    assert sum(paid) + budget.balance(0.0) == pytest.approx(total, abs=1e-6)
    assert sum(paid) == budget.spent
    assert budget.spent + budget.refused == rounds * threads
    assert sum(paid) + spent(budget, 0.0, tries=10**5) == total
