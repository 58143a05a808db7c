"""RateLimit against an independent token bucket in exact fractions: over long runs, and with a queue in any order."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient import Pipeline, RateLimit, RateLimited, Rejected, TimedOut, Timeout
from resilient.core.call import Call, new_call
from resilient.core.gate import Gate
from resilient.runtime import virtual
from resilient.runtime.virtual import VirtualLoop
from tests.hypothesis_settings import search


class Bucket:
    """Tokens as a level that rises with time up to its capacity, without a schedule and without rounding."""

    def __init__(self, rate: Fraction, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self.level = Fraction(burst)
        self.at = Fraction(0)

    def look(self, now: Fraction) -> None:
        """Let time pass."""
        self.level = min(Fraction(self.burst), self.level + (now - self.at) * self.rate)
        self.at = now

    def take(self, now: Fraction) -> bool:
        """Take a token, if there is one."""
        self.look(now)
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def give_back(self, now: Fraction) -> None:
        """Put a token back."""
        self.look(now)
        self.level = min(Fraction(self.burst), self.level + 1)

    def comes_in(self, tokens: int = 1) -> Fraction:
        """Seconds from the last look until there are this many tokens."""
        return max(Fraction(0), (tokens - self.level) / self.rate)


GRID = 64
"""Times are multiples of 1/64 s, so that a call and a token meet in the same moment, or clearly do not."""

RATES = [
    (1, 1),
    (2, 1),
    (3, 1),
    (7, 1),
    (10, 1),
    (49, 1),
    (1, 2),
    (1, 3),
    (5, 3),
    (1, 60),
    (100, 60),
    (7, 0.5),
    (0.375, 1),
]


@search(60)
@given(
    rate=st.sampled_from(RATES),
    burst=st.sampled_from([1, 1, 2, 3, 5, 20]),
    seed=st.integers(0, 2**32),
    pace=st.sampled_from([0.25, 1.0, 4.0]),
)
def test_ratelimit_decides_like_an_exact_bucket_over_a_long_run(
    rate: tuple[float, float], burst: int, seed: int, pace: float
) -> None:
    """In bursts, pauses and ties it admits the same calls, and its refusals have the time of the next token."""
    calls, per = rate
    exact = Bucket(Fraction(calls) / Fraction(per), burst)
    limit = RateLimit(calls, per=per, burst=burst)
    chance = random.Random(seed)
    usual = max(1, round(GRID * per / calls * pace))

    async def main() -> None:
        guarded = limit(asyncio.sleep)
        loop = asyncio.get_running_loop()
        for _ in range(800):
            if chance.random() < 0.7:
                ticks = chance.choice([0, 1, usual, chance.randrange(2 * usual), chance.randrange(burst * usual + 1)])
                await asyncio.sleep(ticks / GRID)
            now = Fraction(loop.time())
            admits = exact.take(now)
            state = limit.snapshot()
            assert state["tokens"] == int(exact.level) + admits
            if admits:
                await guarded(0)
                continue
            with pytest.raises(RateLimited) as refused:
                await guarded(0)
            assert refused.value.retry_after == pytest.approx(float(exact.comes_in()), rel=1e-9, abs=1e-9)

    virtual.run(main())


class Ticking:
    """A runtime that only has a clock."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


def asked_at(clock: Ticking) -> Call:
    """A call that sees this time."""
    runtime: Any = SimpleNamespace(now=clock.now)
    return new_call(print, (), {}, runtime)


@pytest.mark.parametrize(("rate", "per"), [(7, 1.0), (7, 3.0)])
def test_million_calls_at_more_than_the_rate_get_exactly_the_tokens_that_came(rate: int, per: float) -> None:
    """Eight calls come in the time of seven tokens: at each common moment the count is exact."""
    clock = Ticking()
    limit, call = RateLimit(rate, per=per, burst=2), asked_at(clock)
    admitted = 0
    for number in range(150_000):
        for eighth in range(8):
            clock.time = (number + eighth / 8) * per
            try:
                limit.admit(call)
            except RateLimited:
                continue
            admitted += 1
            if number and not eighth:
                assert admitted == 2 + rate * number
    assert admitted == 2 + rate * 150_000 - 1
    assert admitted > 1_000_000


@pytest.mark.parametrize(("rate", "per"), [(10, 1.0), (0.3, 1.0), (3, 7.0)])
def test_million_calls_at_the_rate_are_all_admitted_and_one_more_never_is(rate: float, per: float) -> None:
    """The caller computes the times himself, with his own rounding, for a bucket of one."""
    clock = Ticking()
    limit, call = RateLimit(rate, per=per, burst=1), asked_at(clock)
    for number in range(1_000_000):
        clock.time = number * per / rate
        assert limit.admit(call) is not None
        if not number % 1000:
            clock.time = (number + 0.999) * per / rate
            with pytest.raises(RateLimited):
                limit.admit(call)


# -- the queue ------------------------------------------------------------------------------------------------------


class Door(Gate):
    """A gate behind the limit that can be closed: its refused calls are not sent."""

    def __init__(self) -> None:
        super().__init__()
        self.shut = False

    def admit(self, call: Call) -> object:
        if self.shut:
            raise Rejected("shut")
        return self

    def release(self, ticket: object) -> None:
        pass


@dataclass
class Model:
    """A bucket, and a queue of calls in order of arrival."""

    bucket: Bucket
    max_wait: float
    line: list[int] = field(default_factory=list)
    ends: dict[int, tuple[str, float]] = field(default_factory=dict)
    shut: bool = False

    def arrive(self, number: int, now: float, patience: float) -> None:
        """Admit a call, queue it, or refuse it."""
        self.bucket.look(Fraction(now))
        wait = self.bucket.comes_in(len(self.line) + 1)
        if wait and (wait > self.max_wait or wait >= patience):
            self.ends[number] = ("refused", float(wait))
        else:
            self.line.append(number)
            self.serve(Fraction(now))

    def serve(self, now: Fraction) -> None:
        """Admit waiters in order, as long as there are tokens."""
        while self.line and self.bucket.take(now):
            number = self.line.pop(0)
            self.ends[number] = ("shut" if self.shut else "served", float(now))
            if self.shut:
                self.bucket.give_back(now)

    def pass_time(self, until: float) -> None:
        """Let time pass, token by token."""
        while self.line and self.bucket.at + self.bucket.comes_in() <= until:
            self.serve(self.bucket.at + self.bucket.comes_in())
        self.bucket.look(Fraction(until))


class LimitAgainstModel(RuleBasedStateMachine):
    """The real limit runs on a loop in virtual time that goes on only when a rule lets it.

    Tokens and calls come at moments that floats represent exactly.
    """

    @initialize(
        rate=st.sampled_from([(1, 1.0), (2, 1.0), (8, 1.0), (1, 4.0), (1, 2.5)]),
        burst=st.integers(1, 3),
        max_wait=st.sampled_from([1.0, 3.5, 100.0]),
    )
    def begin(self, rate: tuple[int, float], burst: int, max_wait: float) -> None:
        self.loop = VirtualLoop()
        self.limit = RateLimit(rate[0], per=rate[1], burst=burst, max_wait=max_wait)
        self.door = Door()
        self.model = Model(Bucket(Fraction(rate[0]) / Fraction(rate[1]), burst), max_wait)
        self.tasks: list[asyncio.Task[None]] = []
        self.ends: dict[int, tuple[str, float]] = {}

    async def call(self, number: int, patience: float) -> None:
        inner = (self.limit, self.door)
        pipeline = Pipeline(*inner) if patience == inf else Pipeline(Timeout(patience), *inner)

        async def fetch() -> None:
            self.ends[number] = ("served", self.loop.time())

        try:
            await pipeline.call(fetch)
        except RateLimited as error:
            self.ends[number] = ("refused", error.retry_after or 0.0)
        except Rejected:
            self.ends[number] = ("shut", self.loop.time())
        except TimedOut:
            self.ends[number] = ("timed out", self.loop.time())

    def settle(self) -> None:
        """Run the loop until no call can go on; time stands still."""

        async def wait() -> None:
            for _ in range(4 * len(self.model.line) + 12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    @rule(patiences=st.lists(st.sampled_from([inf, inf, inf, 0.5, 1.75]), min_size=1, max_size=3))
    def calls_arrive(self, patiences: list[float]) -> None:
        """Several calls arrive in one tick."""
        for patience in patiences:
            number = len(self.tasks)
            self.tasks.append(self.loop.create_task(self.call(number, patience)))
            self.model.arrive(number, self.loop.time(), patience)
        self.settle()

    @precondition(lambda self: self.model.line)
    @rule(data=st.data())
    def waiter_is_cancelled(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.model.line), label="call")
        assert self.tasks[number].cancel()
        self.model.line.remove(number)
        self.settle()
        assert self.tasks[number].cancelled()

    @precondition(lambda self: self.model.line)
    @rule(count=st.integers(1, 2))
    def those_in_front_are_cancelled_in_the_tick_of_the_token(self, count: int) -> None:
        """Waiters whose timer is due are cancelled before they run: the next one gets the token."""
        bucket = self.model.bucket
        at = float(bucket.at + bucket.comes_in())
        leaving = self.model.line[:count]

        async def cancel() -> None:
            self.loop.call_at(at, over.set)  # after the timer of the first waiter
            await over.wait()
            for number in leaving:
                self.tasks[number].cancel()

        over = asyncio.Event()
        self.loop.run_until_complete(cancel())
        self.settle()
        served = [number for number in leaving if number in self.ends]
        assert served == leaving[: len(served)]
        for number in leaving:
            if number not in served:
                self.model.line.remove(number)
        self.model.pass_time(self.loop.time())
        self.settle()

    @rule(shut=st.booleans())
    def gate_behind_opens_or_shuts(self, shut: bool) -> None:
        """Calls that it refuses give their tokens back."""
        self.door.shut = self.model.shut = shut

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 3.0, 17.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.settle()
        self.model.pass_time(self.loop.time())

    @invariant()
    def calls_end_as_they_should(self) -> None:
        assert {number: end for number, (end, _) in self.ends.items()} == {
            number: end for number, (end, _) in self.model.ends.items()
        }
        for number, (_, at) in self.ends.items():
            assert at == pytest.approx(self.model.ends[number][1], abs=1e-6)

    @invariant()
    def as_many_are_in_line(self) -> None:
        async def look() -> dict[str, Any]:
            return self.limit.snapshot()

        state = self.loop.run_until_complete(look())
        assert state["queued"] == len(self.model.line)
        assert state["tokens"] == int(self.model.bucket.level)

    def teardown(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.settle()
        self.loop.close()
        assert self.limit.snapshot()["queued"] == 0


TestLimitAgainstModel = LimitAgainstModel.TestCase
TestLimitAgainstModel.settings = search(60, stateful_step_count=40)
