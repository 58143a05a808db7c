"""The circuit against a model that is as simple as possible: lists, no rings, no generations.

The model keeps every call since the circuit closed, and every call in flight. It cannot know the jitter of a break, so
it checks the bounds, and then takes the value from the circuit.
"""

from __future__ import annotations

import random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient.policies.breaker.circuit import CLOSED, HALF_OPEN, ISOLATED, OPEN, Circuit, Criteria, State
from resilient.stats.window import CountWindow
from tests.hypothesis_settings import search

WINDOW = 6
BREAK = 4.0
CAP = 20.0
LEASE = 3.0
GOOD, FAILED, SLOW, BOTH = (False, False), (True, False), (False, True), (True, True)
LATER = None
pauses = st.sampled_from([0, 0, 0, 1, 12, 16, 17, 80])
"""In quarters of a second: the lease is 12 of them, the first break 16."""


criteria = st.builds(
    Criteria,
    fail_max=st.none() | st.integers(1, 5),
    failure_rate=st.none() | st.sampled_from([0.25, 0.5, 1.0]),  # exact in binary
    slow_rate=st.sampled_from([0.25, 0.5, 1.0]),
    min_calls=st.sampled_from([2, 3, 4, 1, WINDOW]),
)


class Model:
    """The table of states in `resilient.policies.breaker.circuit`, in the simplest way."""

    def __init__(self, criteria: Criteria, probes: int, success_threshold: int) -> None:
        self.criteria = criteria
        self.probes = probes
        self.success_threshold = success_threshold
        self.state: State = CLOSED
        self.epoch = object()  # a new one with each change
        self.calls: list[tuple[bool, bool]] = []  # (failed, slow) since the epoch began
        self.out: dict[int, float] = {}  # probes on their way: when their lease is over
        self.successes = 0
        self.failed_probes = 0
        self.reopens_at = 0.0

    def go(self, state: State) -> None:
        self.state = state
        self.epoch = object()
        self.calls = []
        self.out = {}
        self.successes = 0
        if state is CLOSED:
            self.failed_probes = 0

    def may_admit(self, now: float) -> bool:
        if self.state is OPEN and now >= self.reopens_at:
            self.go(HALF_OPEN)
        if self.state is HALF_OPEN:
            self.out = {probe: end for probe, end in self.out.items() if now < end}
            return len(self.out) < self.probes
        return self.state is CLOSED

    def is_met(self) -> bool:
        criteria = self.criteria
        row = 0
        for failed, _ in reversed(self.calls):
            if not failed:
                break
            row += 1
        if criteria.fail_max is not None and row >= criteria.fail_max:
            return True
        window = self.calls[-WINDOW:]
        if len(window) < criteria.min_calls:
            return False
        failures = sum(failed for failed, _ in window)
        slows = sum(slow for _, slow in window)
        return bool(
            (criteria.failure_rate is not None and failures >= criteria.failure_rate * len(window))
            or (criteria.slow_rate is not None and slows >= criteria.slow_rate * len(window))
        )


class CircuitAgainstModel(RuleBasedStateMachine):
    """Calls begin, end, hang and are cancelled, time passes, and operators change the state."""

    @initialize(criteria=criteria, probes=st.integers(1, 3), success_threshold=st.integers(1, 3), seed=st.integers(0))
    def begin(self, criteria: Criteria, probes: int, success_threshold: int, seed: int) -> None:
        random.seed(seed)
        self.machine = Circuit(
            CountWindow(WINDOW),
            criteria,
            break_duration=BREAK,
            max_break=CAP,
            probes=probes,
            success_threshold=success_threshold,
            lease=LEASE,
        )
        self.model = Model(criteria, probes, success_threshold)
        self.now = 1000.0
        self.calls: dict[int, tuple[object, object]] = {}  # on their way: the machine's ticket, the model's epoch
        self.number = 0

    def pass_time(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule(pause=pauses, times=st.integers(1, 8))
    def admit_many(self, pause: int, times: int) -> None:
        self.pass_time(pause)
        for _ in range(times):
            self.admit()

    def admit(self) -> int | None:
        old = self.machine.state
        ticket, change = self.machine.admit(self.now)
        expected = self.model.may_admit(self.now)
        assert (ticket is not None) is expected
        assert (change is not None) is (old is not self.model.state)
        if ticket is None:
            return None
        self.number += 1
        self.calls[self.number] = (ticket, self.model.epoch)
        if self.model.state is HALF_OPEN:
            self.model.out[self.number] = self.now + LEASE
        return self.number

    @rule(
        pause=pauses, ends=st.lists(st.sampled_from([GOOD, GOOD, FAILED, SLOW, BOTH, LATER]), min_size=1, max_size=10)
    )
    def come_and_go(self, pause: int, ends: list[tuple[bool, bool] | None]) -> None:
        self.pass_time(pause)
        for end in ends:
            number = self.admit()
            if number is not None and end is not LATER:
                self.settle(number, *end)
                self.agrees()

    @rule(pause=pauses, ends=st.lists(st.sampled_from([GOOD, FAILED, SLOW, BOTH]), min_size=1, max_size=10))
    def news_of_the_oldest(self, pause: int, ends: list[tuple[bool, bool]]) -> None:
        self.pass_time(pause)
        for number, end in zip(sorted(self.calls), ends, strict=False):
            self.settle(number, *end)
            self.agrees()

    @precondition(lambda self: self.calls)
    @rule(pause=pauses, which=st.integers(0, 20), end=st.sampled_from([GOOD, FAILED, SLOW, BOTH]))
    def settle_one_on_its_way(self, pause: int, which: int, end: tuple[bool, bool]) -> None:
        self.pass_time(pause)
        self.settle(sorted(self.calls)[which % len(self.calls)], *end)

    def settle(self, number: int, failed: bool, slow: bool) -> None:
        ticket, epoch = self.calls.pop(number)
        old = self.machine.state
        change = self.machine.settle(ticket, failed, slow, self.now)  # type: ignore[arg-type]
        model = self.model
        if epoch is model.epoch:
            if model.state is CLOSED:
                model.calls.append((failed, slow))
                if (failed or slow) and model.is_met():
                    model.go(OPEN)
                    model.reopens_at = self.now + BREAK
            elif number in model.out and self.now <= model.out[number]:
                del model.out[number]
                self._probe_ended(failed or slow)
        assert (change is not None) is (old is not model.state)

    def _probe_ended(self, failed: bool) -> None:
        model = self.model
        if failed:
            model.go(OPEN)
            model.failed_probes += 1
            whole = min(CAP, BREAK * 2**model.failed_probes)
            break_ = self.machine.retry_after(self.now)
            assert break_ is not None
            assert max(BREAK, whole / 2) <= break_ + 1e-9
            assert break_ - 1e-9 <= whole
            model.reopens_at = self.now + break_
            return
        model.successes += 1
        if model.successes >= model.success_threshold:
            model.go(CLOSED)

    @precondition(lambda self: self.calls)
    @rule(pause=pauses, which=st.integers(0, 20))
    def release_one_on_its_way(self, pause: int, which: int) -> None:
        self.pass_time(pause)
        number = sorted(self.calls)[which % len(self.calls)]
        ticket, _ = self.calls.pop(number)
        self.machine.release(ticket)  # type: ignore[arg-type]
        self.model.out.pop(number, None)

    @rule(pause=pauses, state=st.sampled_from([CLOSED, CLOSED, OPEN, HALF_OPEN, ISOLATED]), mood=st.integers(0, 2))
    def meddle(self, pause: int, state: State, mood: int) -> None:
        self.pass_time(pause)
        if mood:  # leave the machine to itself for the most part
            return
        model = self.model
        old = model.state
        change = self.machine.force(state, self.now, "by hand")
        if old is not ISOLATED or state is CLOSED:
            model.go(state)
            model.reopens_at = self.now + BREAK
        assert (change is not None) is (old is not model.state)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        machine, model = self.machine, self.model
        assert machine.state is model.state
        assert machine.probes_out <= model.probes
        if model.state is CLOSED:
            window = model.calls[-WINDOW:]
            assert machine.window.calls == len(window)
            assert machine.window.failures == sum(failed for failed, _ in window)
            assert machine.window.slows == sum(slow for _, slow in window)
        if model.state is OPEN:
            assert abs((machine.retry_after(self.now) or 0.0) - max(0.0, model.reopens_at - self.now)) < 1e-9
        if model.state is ISOLATED:
            assert machine.retry_after(self.now) is None


CircuitAgainstModel.TestCase.settings = search(120, stateful_step_count=50)
TestCircuitAgainstModel = CircuitAgainstModel.TestCase
