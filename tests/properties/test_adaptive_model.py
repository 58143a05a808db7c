"""AdaptiveLimit against an independent model: calls of every class arrive, end, are cancelled and wait too long, in any
order, while the limit changes."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from resilient import AdaptiveLimit, Pipeline, priority
from resilient.core.priority import PRIORITIES, Priority
from resilient.limiters import Limiter, Window
from tests.hypothesis_settings import search
from tests.properties.queue_driver import Queue, QueueDriver

SHARES: dict[Priority, float] = {"critical": 1.0, "normal": 0.75, "sheddable": 0.5}


class Wishing(Limiter):
    """A limiter that returns the limit that the test sets."""

    window = 0.5
    samples = 1
    wish = 4.0

    def update(self, limit: float, window: Window) -> float:
        return self.wish


@dataclass(frozen=True)
class Call:
    """A call: its rank, 0 for critical, and the end of its time in the queue."""

    number: int
    rank: int
    queue_ends: float


class Model(Queue[Call]):
    """Each class may fill its share of the limit; more important calls go first in the queue."""

    def room(self, call: Call) -> bool:
        return len(self.inside) < max(1, int(self.limit * SHARES[PRIORITIES[call.rank]]))

    def arrive(self, call: Call) -> None:
        """Admit a call, queue it, perhaps in the place of a less important one, or refuse it."""
        if self.room(call) and all(call.rank < other.rank for other in self.line):
            self.inside.append(call)
            return
        self.line = sorted([*self.line, call], key=lambda each: (each.rank, each.number))
        if len(self.line) > self.places:
            self.ends[self.line.pop().number] = "full"

    def pass_time(self, until: float) -> None:
        while self.line:
            first = min(self.line, key=lambda call: (call.queue_ends, call.number))
            if first.queue_ends > until:
                return
            self.leave(first.number, "full")


class AdaptiveLimitAgainstModel(QueueDriver):
    """The limit changes when a call ends; the model gets the new one."""

    model: Model

    @initialize(first=st.integers(1, 5), places=st.integers(0, 4), queue_timeout=st.sampled_from([inf, 1.0, 2.5]))
    def begin(self, first: int, places: int, queue_timeout: float) -> None:
        self.begin_driving(Model(first, places))
        self.rule = Wishing()
        self.rule.wish = first
        self.queue_timeout = queue_timeout if places else inf
        self.limit = AdaptiveLimit(
            first,
            limiter=lambda: self.rule,
            queue=places,
            queue_timeout=None if self.queue_timeout == inf else queue_timeout,
            shares=SHARES,
        )
        self.pipeline = Pipeline(self.limit)

    def counted(self) -> tuple[int, int]:
        state = self.limit.snapshot()
        return state["in_flight"], state["queued"]

    def start(self, rank: int) -> None:
        """Make a call, in the policy and in the model."""

        async def call(number: int) -> str:
            with priority(PRIORITIES[rank]):
                return await self.pipeline.call(self.fetch, number)

        number = self.begin_call(call)
        self.model.arrive(Call(number, rank, self.loop.time() + self.queue_timeout))

    @rule(ranks=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def calls_arrive(self, ranks: list[int]) -> None:
        """Several calls arrive in one tick."""
        for rank in ranks:
            self.start(rank)
        self.settle()

    @rule(wish=st.sampled_from([1, 2, 3, 4, 5.9, 8]))
    def limit_is_to_be_another(self, wish: float) -> None:
        """The new limit holds when a window ends: with a call, after half a second."""
        self.rule.wish = wish

    @precondition(lambda self: self.model.inside)
    @rule(data=st.data(), fails=st.booleans())
    def call_ends(self, data: st.DataObject, fails: bool) -> None:
        """A call ends; a window may end with it, and waiters are admitted under the new limit."""
        number = self.pick_inside(data)
        end = self.end_call(number, fails)
        self.settle()
        self.model.limit = self.limit._limit  # with its fraction: each class has a share of it, too
        self.model.leave(number, end)

    @precondition(lambda self: self.model.line and self.model.inside)
    @rule(data=st.data(), ticks=st.integers(0, 1))
    def first_in_line_is_cancelled_around_the_tick_of_its_place(self, data: st.DataObject, ticks: int) -> None:
        """The first waiter is cancelled just before it is granted a permit, or before it runs with it: the next one
        gets the permit."""
        leaving, waiter = self.pick_inside(data), self.model.line[0].number
        self.cancel_around_the_tick_of_a_place(leaving, [waiter], ticks)
        self.settle()
        self.model.limit = self.limit._limit  # with its fraction: each class has a share of it, too
        self.model.leave(waiter, "cancelled")
        self.model.leave(leaving, "done")
        assert waiter not in self.begun

    @invariant()
    def refusals_are_counted(self) -> None:
        refused = list(self.model.ends.values()).count("full")
        assert sum(self.limit.snapshot()["refused"].values()) == refused


TestAdaptiveLimitAgainstModel = AdaptiveLimitAgainstModel.TestCase
TestAdaptiveLimitAgainstModel.settings = search(60, stateful_step_count=40)
