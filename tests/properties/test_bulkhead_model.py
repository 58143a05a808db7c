"""Bulkhead against an independent model: calls arrive, are cancelled, end and wait too long, in any order."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from resilient import Bulkhead, Pipeline, Timeout
from tests.hypothesis_settings import search
from tests.properties.queue_driver import Queue, QueueDriver


@dataclass(frozen=True)
class Call:
    """A call: when its time in the queue ends, and when its own Timeout ends."""

    number: int
    queue_ends: float
    deadline: float

    def next_end(self, inside: bool) -> tuple[float, str]:
        """When and how it ends without further events."""
        return min((self.deadline, "timed out"), (inf if inside else self.queue_ends, "full"))


class Model(Queue[Call]):
    """A bulkhead: a number of permits, and a queue of bounded length."""

    def arrive(self, call: Call) -> None:
        """Admit a call, queue it, or refuse it."""
        if self.room(call):
            self.inside.append(call)
        elif len(self.line) < self.places:
            self.line.append(call)
        else:
            self.ends[call.number] = "full"

    def pass_time(self, until: float) -> None:
        """End the calls whose time has come, one after another."""
        while True:
            ends = [(*call.next_end(inside=True), call.number) for call in self.inside]
            ends += [(*call.next_end(inside=False), call.number) for call in self.line]
            at, end, number = min(ends, default=(inf, "", 0))
            if at > until:
                return
            self.leave(number, end)


class BulkheadAgainstModel(QueueDriver):
    """Calls arrive at multiples of 1/2 s, where their times in the queue also end; their deadlines lie between."""

    model: Model

    @initialize(permits=st.integers(1, 3), places=st.integers(0, 4), queue_timeout=st.sampled_from([inf, 1.0, 2.5]))
    def begin(self, permits: int, places: int, queue_timeout: float) -> None:
        self.begin_driving(Model(permits, places))
        self.queue_timeout = queue_timeout if places else inf
        given = None if self.queue_timeout == inf else queue_timeout
        self.bulkhead = Bulkhead(permits, queue=places, queue_timeout=given)

    def counted(self) -> tuple[int, int]:
        state = self.bulkhead.snapshot()
        return state["in_use"], state["queued"]

    def start(self, patience: float | None = None) -> None:
        """Make a call, in the policy and in the model."""
        pipeline = Pipeline(self.bulkhead) if patience is None else Pipeline(Timeout(patience), self.bulkhead)
        number = self.begin_call(lambda number: pipeline.call(self.fetch, number))
        now = self.loop.time()
        self.model.arrive(Call(number, now + self.queue_timeout, inf if patience is None else now + patience))

    @rule(patiences=st.lists(st.sampled_from([None, None, 0.75, 1.75]), min_size=1, max_size=3))
    def calls_arrive(self, patiences: list[float | None]) -> None:
        """Several calls arrive in one tick; they are served in the order of arrival."""
        for patience in patiences:
            self.start(patience)
        self.settle()

    @precondition(lambda self: self.model.inside)
    @rule(data=st.data(), fails=st.booleans())
    def call_ends(self, data: st.DataObject, fails: bool) -> None:
        number = self.pick_inside(data)
        self.model.leave(number, self.end_call(number, fails))
        self.settle()

    @precondition(lambda self: self.model.line)
    @rule(data=st.data(), ticks=st.integers(0, 1), count=st.integers(1, 2))
    def waiters_are_cancelled_around_the_tick_of_their_permit(
        self, data: st.DataObject, ticks: int, count: int
    ) -> None:
        """Each is cancelled just before it is granted a permit, or before it runs with it: the next one gets the
        permit."""
        leaving = self.pick_inside(data)
        waiters = [call.number for call in self.model.line[:count]]
        self.cancel_around_the_tick_of_a_place(leaving, waiters, ticks)
        for waiter in reversed(waiters):
            self.model.leave(waiter, "cancelled")
        self.model.leave(leaving, "done")
        self.settle()
        assert not set(waiters) & set(self.begun)

    @precondition(lambda self: self.model.inside)
    @rule(data=st.data(), before=st.booleans())
    def newcomer_asks_in_the_tick_in_which_a_permit_comes_free(self, data: st.DataObject, before: bool) -> None:
        """A new call in the tick in which a permit comes free does not overtake the waiters."""
        leaving = self.pick_inside(data)
        if before:
            self.start()
        self.answers[leaving].set_result("done")
        self.model.leave(leaving, "done")
        if not before:
            self.start()
        self.settle()

    @invariant()
    def never_more_are_inside_than_there_are_permits(self) -> None:
        assert len(self.inside) <= self.model.limit


TestBulkheadAgainstModel = BulkheadAgainstModel.TestCase
TestBulkheadAgainstModel.settings = search(60, stateful_step_count=40)
