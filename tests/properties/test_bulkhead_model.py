"""Bulkhead against an independent model: calls arrive, are cancelled, end and wait too long, in any order."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from resilient import Bulkhead, Pipeline, Timeout
from tests.properties.line_driver import Line, LineDriver
from tests.searches import search


@dataclass(frozen=True)
class Call:
    """When its time in line ends, and when its own Timeout does."""

    number: int
    queue_ends: float
    deadline: float

    def next_end(self, inside: bool) -> tuple[float, str]:
        """When it ends if nobody does anything, and how."""
        return min((self.deadline, "timed out"), (inf if inside else self.queue_ends, "full"))


class Model(Line[Call]):
    """What a bulkhead is: a number of permits, and a line of bounded length."""

    def arrive(self, call: Call) -> None:
        """Go in, get in line, or be refused."""
        if self.room(call):
            self.inside.append(call)
        elif len(self.line) < self.places:
            self.line.append(call)
        else:
            self.ends[call.number] = "full"

    def pass_time(self, until: float) -> None:
        """One after another, those whose time has come."""
        while True:
            ends = [(*call.next_end(inside=True), call.number) for call in self.inside]
            ends += [(*call.next_end(inside=False), call.number) for call in self.line]
            at, end, number = min(ends, default=(inf, "", 0))
            if at > until:
                return
            self.leave(number, end)


class BulkheadAgainstModel(LineDriver):
    """Calls come at multiples of 1/2 s, and so do the ends of their time in line; their deadlines lie between."""

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
        """Make a call, and tell the model of it."""
        pipeline = Pipeline(self.bulkhead) if patience is None else Pipeline(Timeout(patience), self.bulkhead)
        number = self.begin_call(lambda number: pipeline.call(self.fetch, number))
        now = self.loop.time()
        self.model.arrive(Call(number, now + self.queue_timeout, inf if patience is None else now + patience))

    @rule(patiences=st.lists(st.sampled_from([None, None, 0.75, 1.75]), min_size=1, max_size=3))
    def calls_arrive(self, patiences: list[float | None]) -> None:
        """In one tick; they are served in the order in which they came."""
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
        """Just before the first is granted it, or granted but not yet running: the permit passes on."""
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
        """It does not overtake those in line."""
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
