"""Bulkhead against an independent model: calls arrive, are cancelled, end and wait too long, in any order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient import Bulkhead, BulkheadFull, Pipeline, TimedOut, Timeout
from resilient.runtime.virtual import VirtualLoop


@dataclass(frozen=True)
class Call:
    """When its time in line ends, and when its own Timeout does."""

    number: int
    queue_ends: float
    deadline: float

    def next_end(self, inside: bool) -> tuple[float, str]:
        """When it ends if nobody does anything, and how."""
        return min((self.deadline, "timed out"), (inf if inside else self.queue_ends, "full"))


@dataclass
class Model:
    """What a bulkhead is: a number of permits, and a line of bounded length."""

    permits: int
    places: int
    inside: list[Call] = field(default_factory=list)
    line: list[Call] = field(default_factory=list)
    ends: dict[int, str] = field(default_factory=dict)

    @property
    def all(self) -> list[int]:
        """The numbers of all calls that have not ended."""
        return [call.number for call in (*self.inside, *self.line)]

    def arrive(self, call: Call) -> None:
        """Go in, get in line, or be refused."""
        if len(self.inside) < self.permits:
            self.inside.append(call)
        elif len(self.line) < self.places:
            self.line.append(call)
        else:
            self.ends[call.number] = "full"

    def leave(self, number: int, end: str) -> None:
        """From inside or from the line; whoever is first in line goes in."""
        self.ends[number] = end
        self.inside = [call for call in self.inside if call.number != number]
        self.line = [call for call in self.line if call.number != number]
        while self.line and len(self.inside) < self.permits:
            self.inside.append(self.line.pop(0))

    def pass_time(self, until: float) -> None:
        """One after another, those whose time has come."""
        while True:
            ends = [(*call.next_end(inside=True), call.number) for call in self.inside]
            ends += [(*call.next_end(inside=False), call.number) for call in self.line]
            at, end, number = min(ends, default=(inf, "", 0))
            if at > until:
                return
            self.leave(number, end)


class BulkheadAgainstModel(RuleBasedStateMachine):
    """The real one runs on a loop in virtual time that goes on only when a rule lets it.

    Calls come at multiples of 1/2 s, and so do the ends of their time in line; their deadlines lie between.
    """

    @initialize(permits=st.integers(1, 3), places=st.integers(0, 4), queue_timeout=st.sampled_from([inf, 1.0, 2.5]))
    def begin(self, permits: int, places: int, queue_timeout: float) -> None:
        self.loop = VirtualLoop()
        self.queue_timeout = queue_timeout if places else inf
        given = None if self.queue_timeout == inf else queue_timeout
        self.bulkhead = Bulkhead(permits, queue=places, queue_timeout=given)
        self.model = Model(permits, places)
        self.tasks: list[asyncio.Task[str]] = []
        self.answers: list[asyncio.Future[str]] = []
        self.inside: list[int] = []
        self.begun: list[int] = []

    # -- the real thing ---------------------------------------------------------------------------------------------

    async def fetch(self, number: int) -> str:
        self.inside.append(number)
        self.begun.append(number)
        try:
            return await self.answers[number]
        finally:
            self.inside.remove(number)

    async def call(self, number: int, patience: float | None) -> str:
        pipeline = Pipeline(self.bulkhead) if patience is None else Pipeline(Timeout(patience), self.bulkhead)
        try:
            return await pipeline.call(self.fetch, number)
        except BulkheadFull:
            return "full"
        except TimedOut:
            return "timed out"
        except OSError:
            return "failed"
        except asyncio.CancelledError:
            return "cancelled"

    def start(self, patience: float | None = None) -> None:
        """Make a call, and tell the model of it."""
        number = len(self.tasks)
        self.answers.append(self.loop.create_future())
        self.tasks.append(self.loop.create_task(self.call(number, patience)))
        now = self.loop.time()
        self.model.arrive(Call(number, now + self.queue_timeout, inf if patience is None else now + patience))

    def settle(self) -> None:
        """Let everything happen that can happen now; time stands still."""

        async def wait() -> None:
            for _ in range(3 * len(self.model.all) + 9):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    def pick(self, numbers: list[int], data: st.DataObject) -> int:
        return data.draw(st.sampled_from(numbers), label="call")

    def pick_inside(self, data: st.DataObject) -> int:
        return self.pick([call.number for call in self.model.inside], data)

    # -- what may happen --------------------------------------------------------------------------------------------

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
        if fails:
            self.answers[number].set_exception(OSError())
        else:
            self.answers[number].set_result("done")
        self.model.leave(number, "failed" if fails else "done")
        self.settle()

    @precondition(lambda self: self.model.all)
    @rule(data=st.data())
    def call_is_cancelled(self, data: st.DataObject) -> None:
        number = self.pick(self.model.all, data)
        self.tasks[number].cancel()
        self.model.leave(number, "cancelled")
        self.settle()

    @precondition(lambda self: self.model.line)
    @rule(data=st.data(), ticks=st.integers(0, 1), count=st.integers(1, 2))
    def waiters_are_cancelled_around_the_tick_of_their_permit(
        self, data: st.DataObject, ticks: int, count: int
    ) -> None:
        """Just before the first is granted it, or granted but not yet running: the permit passes on."""
        leaving = self.pick_inside(data)
        waiters = [call.number for call in self.model.line[:count]]

        async def end_and_cancel() -> None:
            self.answers[leaving].set_result("done")
            for _ in range(ticks):
                await asyncio.sleep(0)  # in which the one inside ends
            for waiter in waiters:
                assert self.tasks[waiter].cancel()

        self.loop.run_until_complete(end_and_cancel())
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

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.model.pass_time(self.loop.time())
        self.settle()

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def the_same_calls_are_inside_and_in_line(self) -> None:
        assert sorted(self.inside) == sorted(call.number for call in self.model.inside)
        assert len(self.inside) <= self.model.permits
        state = self.bulkhead.snapshot()
        assert (state["in_use"], state["queued"]) == (len(self.model.inside), len(self.model.line))

    @invariant()
    def calls_end_as_they_should(self) -> None:
        assert {number: task.result() for number, task in enumerate(self.tasks) if task.done()} == self.model.ends

    def teardown(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.settle()
        self.loop.close()
        state = self.bulkhead.snapshot()
        assert (state["in_use"], state["queued"]) == (0, 0)


TestBulkheadAgainstModel = BulkheadAgainstModel.TestCase
TestBulkheadAgainstModel.settings = settings(deadline=None, derandomize=True, max_examples=60, stateful_step_count=40)
