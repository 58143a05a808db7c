"""What models of policies with a queue have in common: a model of the queue, and a driver of the real policy.

The real policy runs on a virtual event loop, which runs only inside the rules of the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient import Rejected, TimedOut
from resilient.runtime.virtual import VirtualLoop


class Numbered(Protocol):
    """A call with a number."""

    @property
    def number(self) -> int:
        """The number of the call, in order of arrival."""
        ...


C = TypeVar("C", bound=Numbered)


@dataclass
class Queue(Generic[C]):
    """A model: calls inside, up to a limit, and a queue of bounded length."""

    limit: int
    places: int
    inside: list[C] = field(default_factory=list)
    line: list[C] = field(default_factory=list)
    ends: dict[int, str] = field(default_factory=dict)

    @property
    def all(self) -> list[int]:
        """The numbers of all calls that have not ended."""
        return [call.number for call in (*self.inside, *self.line)]

    def room(self, call: C) -> bool:
        """Whether the call can go inside."""
        return len(self.inside) < self.limit

    def leave(self, number: int, end: str) -> None:
        """Remove a call that is inside or queued; then let the first waiters in while there is room."""
        self.ends[number] = end
        self.inside = [call for call in self.inside if call.number != number]
        self.line = [call for call in self.line if call.number != number]
        while self.line and self.room(self.line[0]):
            self.inside.append(self.line.pop(0))

    def pass_time(self, until: float) -> None:
        """End the calls whose time has come, one after another."""
        raise NotImplementedError


class QueueDriver(RuleBasedStateMachine):
    """Calls begin, end and are cancelled, and time passes, for the policy and for its model."""

    model: Queue[Any]

    def begin_driving(self, model: Queue[Any]) -> None:
        """Start without calls."""
        self.model = model
        self.loop = VirtualLoop()
        self.tasks: list[asyncio.Task[str]] = []
        self.answers: list[asyncio.Future[str]] = []
        self.inside: list[int] = []
        self.begun: list[int] = []

    async def fetch(self, number: int) -> str:
        """The guarded function."""
        self.inside.append(number)
        self.begun.append(number)
        try:
            return await self.answers[number]
        finally:
            self.inside.remove(number)

    async def end_of(self, call: Awaitable[str]) -> str:
        """How a call ended, in one word."""
        try:
            return await call
        except Rejected:
            return "full"
        except TimedOut:
            return "timed out"
        except OSError:
            return "failed"
        except asyncio.CancelledError:
            return "cancelled"

    def begin_call(self, call: Any) -> int:
        """Make a call by `call(number)`. Returns its number."""
        number = len(self.tasks)
        self.answers.append(self.loop.create_future())
        self.tasks.append(self.loop.create_task(self.end_of(call(number))))
        return number

    def end_call(self, number: int, fails: bool) -> str:
        """Let a call inside end; return how."""
        if fails:
            self.answers[number].set_exception(OSError())
            return "failed"
        self.answers[number].set_result("done")
        return "done"

    def settle(self) -> None:
        """Run the loop until no call can go on; time stands still."""

        async def wait() -> None:
            for _ in range(3 * len(self.model.all) + 9):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    def pick(self, numbers: list[int], data: st.DataObject) -> int:
        """Draw one of these calls."""
        return data.draw(st.sampled_from(numbers), label="call")

    def pick_inside(self, data: st.DataObject) -> int:
        """Draw one of the calls inside."""
        return self.pick([call.number for call in self.model.inside], data)

    def cancel_around_the_tick_of_a_place(self, leaving: int, waiters: list[int], ticks: int) -> None:
        """Cancel waiters just before one inside ends, or some ticks later: granted a permit, but not yet running."""

        async def end_and_cancel() -> None:
            self.answers[leaving].set_result("done")
            for _ in range(ticks):
                await asyncio.sleep(0)  # in which the one inside ends
            for waiter in waiters:
                assert self.tasks[waiter].cancel()

        self.loop.run_until_complete(end_and_cancel())

    @precondition(lambda self: self.model.all)
    @rule(data=st.data())
    def call_is_cancelled(self, data: st.DataObject) -> None:
        """A call inside or queued is cancelled."""
        number = self.pick(self.model.all, data)
        self.tasks[number].cancel()
        self.model.leave(number, "cancelled")
        self.settle()

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        """Waits end, and so do calls with a timeout."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.model.pass_time(self.loop.time())
        self.settle()

    @invariant()
    def calls_end_as_they_should(self) -> None:
        """Each call ends as its model does."""
        assert {number: task.result() for number, task in enumerate(self.tasks) if task.done()} == self.model.ends

    @invariant()
    def same_calls_are_inside_and_in_line(self) -> None:
        """The policy's own counts agree."""
        assert sorted(self.inside) == sorted(call.number for call in self.model.inside)
        assert self.counted() == (len(self.model.inside), len(self.model.line))

    def counted(self) -> tuple[int, int]:
        """The numbers of calls inside and queued, as the policy counts them."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Assert that all permits are back."""
        for task in self.tasks:
            task.cancel()
        self.settle()
        self.loop.close()
        assert self.counted() == (0, 0)
