"""AdaptiveLimit against an independent model: calls of every class arrive, end, are cancelled and wait too long, in any
order, while the limit moves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient import AdaptiveLimit, LimitExceeded, Pipeline, priority
from resilient.limiters import Limiter, Window
from resilient.priority import PRIORITIES, Priority
from resilient.runtime.virtual import VirtualLoop

SHARES: dict[Priority, float] = {"critical": 1.0, "normal": 0.75, "sheddable": 0.5}


class Wishing(Limiter):
    """The limit is what the test wishes, from the end of a window on."""

    window = 0.5
    samples = 1
    wish = 4.0

    def update(self, limit: float, window: Window) -> float:
        return self.wish


@dataclass(frozen=True)
class Call:
    """Its rank, 0 for critical, and when its time in line ends."""

    number: int
    rank: int
    queue_ends: float


@dataclass
class Model:
    """A number of places, of which each class may fill its share, and a line by class and arrival."""

    limit: int
    places: int
    inside: list[Call] = field(default_factory=list)
    line: list[Call] = field(default_factory=list)
    ends: dict[int, str] = field(default_factory=dict)

    @property
    def all(self) -> list[int]:
        """The numbers of all calls that have not ended."""
        return [call.number for call in (*self.inside, *self.line)]

    def room(self, rank: int) -> bool:
        """Whether one of a class may go in."""
        return len(self.inside) < max(1, int(self.limit * SHARES[PRIORITIES[rank]]))

    def arrive(self, call: Call) -> None:
        """Go in, get in line, perhaps in the place of one who is less important, or be refused."""
        if self.room(call.rank) and all(call.rank < other.rank for other in self.line):
            self.inside.append(call)
            return
        self.line = sorted([*self.line, call], key=lambda each: (each.rank, each.number))
        if len(self.line) > self.places:
            self.ends[self.line.pop().number] = "full"

    def let_in(self) -> None:
        """Whoever is first in line, while there is room for his class."""
        while self.line and self.room(self.line[0].rank):
            self.inside.append(self.line.pop(0))

    def leave(self, number: int, end: str) -> None:
        """From inside or from the line."""
        self.ends[number] = end
        self.inside = [call for call in self.inside if call.number != number]
        self.line = [call for call in self.line if call.number != number]
        self.let_in()

    def pass_time(self, until: float) -> None:
        """One after another, those whose time in line is over."""
        while self.line:
            first = min(self.line, key=lambda call: (call.queue_ends, call.number))
            if first.queue_ends > until:
                return
            self.leave(first.number, "full")


class AdaptiveLimitAgainstModel(RuleBasedStateMachine):
    """The real one runs on a loop in virtual time that goes on only when a rule lets it."""

    @initialize(first=st.integers(1, 5), places=st.integers(0, 4), queue_timeout=st.sampled_from([inf, 1.0, 2.5]))
    def begin(self, first: int, places: int, queue_timeout: float) -> None:
        self.loop = VirtualLoop()
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
        self.model = Model(first, places)
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

    async def call(self, number: int, name: Priority) -> str:
        try:
            with priority(name):
                return await self.pipeline.call(self.fetch, number)
        except LimitExceeded:
            return "full"
        except OSError:
            return "failed"
        except asyncio.CancelledError:
            return "cancelled"

    def start(self, rank: int) -> None:
        """Make a call, and tell the model of it."""
        number = len(self.tasks)
        self.answers.append(self.loop.create_future())
        self.tasks.append(self.loop.create_task(self.call(number, PRIORITIES[rank])))
        self.model.arrive(Call(number, rank, self.loop.time() + self.queue_timeout))

    def settle(self) -> None:
        """Let everything happen that can happen now; time stands still."""

        async def wait() -> None:
            for _ in range(3 * len(self.model.all) + 9):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    def pick(self, numbers: list[int], data: st.DataObject) -> int:
        return data.draw(st.sampled_from(numbers), label="call")

    # -- what may happen --------------------------------------------------------------------------------------------

    @rule(ranks=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def calls_arrive(self, ranks: list[int]) -> None:
        """In one tick."""
        for rank in ranks:
            self.start(rank)
        self.settle()

    @rule(wish=st.sampled_from([1, 2, 3, 4, 5.9, 8]))
    def limit_is_to_be_another(self, wish: float) -> None:
        """When a window ends: with a call, after half a second."""
        self.rule.wish = wish

    @precondition(lambda self: self.model.inside)
    @rule(data=st.data(), fails=st.booleans())
    def call_ends(self, data: st.DataObject, fails: bool) -> None:
        """It may bring a new limit, under which those in line are let in."""
        number = self.pick([call.number for call in self.model.inside], data)
        if fails:
            self.answers[number].set_exception(OSError())
        else:
            self.answers[number].set_result("done")
        self.settle()
        self.model.limit = self.limit.current_limit
        self.model.leave(number, "failed" if fails else "done")
        self.settle()

    @precondition(lambda self: self.model.all)
    @rule(data=st.data())
    def call_is_cancelled(self, data: st.DataObject) -> None:
        number = self.pick(self.model.all, data)
        self.tasks[number].cancel()
        self.model.leave(number, "cancelled")
        self.settle()

    @precondition(lambda self: self.model.line and self.model.inside)
    @rule(data=st.data(), ticks=st.integers(0, 1))
    def first_in_line_is_cancelled_around_the_tick_of_its_place(self, data: st.DataObject, ticks: int) -> None:
        """Just before it is granted one, or granted but not yet running: the place passes on."""
        leaving = self.pick([call.number for call in self.model.inside], data)
        waiter = self.model.line[0].number

        async def end_and_cancel() -> None:
            self.answers[leaving].set_result("done")
            for _ in range(ticks):
                await asyncio.sleep(0)  # in which the one inside ends
            assert self.tasks[waiter].cancel()

        self.loop.run_until_complete(end_and_cancel())
        self.settle()
        self.model.limit = self.limit.current_limit
        self.model.leave(waiter, "cancelled")
        self.model.leave(leaving, "done")
        assert waiter not in self.begun

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.model.pass_time(self.loop.time())
        self.settle()

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def the_same_calls_are_inside_and_in_line(self) -> None:
        assert sorted(self.inside) == sorted(call.number for call in self.model.inside)
        state = self.limit.snapshot()
        assert (state["in_flight"], state["queued"]) == (len(self.model.inside), len(self.model.line))

    @invariant()
    def calls_end_as_they_should(self) -> None:
        assert {number: task.result() for number, task in enumerate(self.tasks) if task.done()} == self.model.ends

    @invariant()
    def refusals_are_counted(self) -> None:
        refused = list(self.model.ends.values()).count("full")
        assert sum(self.limit.snapshot()["refused"].values()) == refused

    def teardown(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.settle()
        self.loop.close()
        state = self.limit.snapshot()
        assert (state["in_flight"], state["queued"]) == (0, 0)


TestAdaptiveLimitAgainstModel = AdaptiveLimitAgainstModel.TestCase
TestAdaptiveLimitAgainstModel.settings = settings(
    deadline=None, derandomize=True, max_examples=60, stateful_step_count=40
)
