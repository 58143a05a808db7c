"""Keyed against a list: calls of many keys begin, end and are cancelled, and time goes by, in any order."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient import Keyed, Pipeline
from resilient.core.call import Call
from resilient.core.facts import Facts
from resilient.core.gate import Gate
from resilient.runtime.virtual import VirtualLoop
from tests.hypothesis_settings import search

KEYS = st.sampled_from("abcdef")


class Slot(Gate):
    """A gate that is at rest when the test says so."""

    facts = Facts(learns=True)

    def __init__(self, number: int) -> None:
        super().__init__("slot")
        self.number = number
        self.restless = False
        self.inside = 0

    @property
    def _at_rest(self) -> bool:
        return not self.restless

    def admit(self, call: Call) -> object:
        self.inside += 1
        return self

    def release(self, ticket: object) -> None:
        self.inside -= 1

    def snapshot(self) -> dict[str, int]:
        return {"number": self.number, "inside": self.inside}


@dataclass
class Known:
    """One key in the model. `last` is the time of its last use; infinity: until the next new key comes."""

    key: str
    number: int
    last: float
    inside: int = 0
    restless: bool = False


@dataclass
class Model:
    """Keys in a list, the least recently used first."""

    max_keys: int
    idle: float
    known: list[Known] = field(default_factory=list)
    made: int = 0

    def find(self, key: str) -> Known | None:
        return next((each for each in self.known if each.key == key), None)

    def use(self, key: str, now: float, last: float) -> Known:
        """Move a key to the end; a new one makes room first. `last` is the known time of this use."""
        known = self.find(key)
        if known is None:
            self.make_room(now)
            for each in self.known:
                each.last = min(each.last, now)
            self.made += 1
            known = Known(key, self.made, now)
        else:
            self.known.remove(known)
            known.last = last
        self.known.append(known)
        return known

    def make_room(self, now: float) -> None:
        """Evict keys at rest, and of the others no more than necessary. A key that stays because calls are inside, or
        because
        there is room again, goes to the end."""
        spared = []
        for eldest in list(self.known):
            if len(self.known) < self.max_keys and now - eldest.last < self.idle:
                break
            if eldest.inside:
                self.to_the_end(eldest)
            elif eldest.restless:
                spared.append(eldest)
            else:
                self.known.remove(eldest)
        if len(self.known) < self.max_keys:
            for each in spared:
                self.to_the_end(each)
        else:
            for each in spared[: len(self.known) + 1 - self.max_keys]:
                self.known.remove(each)

    def to_the_end(self, known: Known) -> None:
        self.known.remove(known)
        self.known.append(known)


class KeyedAgainstModel(RuleBasedStateMachine):
    """The real policy runs on a loop in virtual time that goes on only when a rule lets it."""

    @initialize(max_keys=st.integers(1, 4), idle=st.sampled_from([2.0, 5.0, 1000.0]))
    def begin(self, max_keys: int, idle: float) -> None:
        self.loop = VirtualLoop()
        self.made: list[Slot] = []
        self.keyed = Keyed(self.make, key=lambda key, *rest: key, max_keys=max_keys, idle=idle)
        self.guarded = Pipeline(self.keyed)(self.fetch)
        self.model = Model(max_keys, idle)
        self.running: list[tuple[asyncio.Task[None], asyncio.Future[None], Known]] = []

    def make(self) -> Slot:
        self.made.append(Slot(len(self.made)))
        return self.made[-1]

    async def fetch(self, key: str, answer: asyncio.Future[None]) -> None:
        await answer

    def start(self, key: str) -> None:
        answer: asyncio.Future[None] = self.loop.create_future()
        known = self.model.use(key, self.loop.time(), math.inf)
        known.inside += 1
        self.running.append((self.loop.create_task(self.guarded(key, answer)), answer, known))
        self.settle()

    def settle(self) -> None:
        async def wait() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    def end(self, at: int, how: str) -> None:
        task, answer, known = self.running.pop(at)
        if how == "cancelled":
            task.cancel()
        elif how == "failed":
            answer.set_exception(OSError())
        else:
            answer.set_result(None)
        known.inside -= 1
        known.last = self.loop.time()
        self.settle()
        assert task.done()
        if how == "failed":
            assert isinstance(task.exception(), OSError)

    @rule(key=KEYS)
    def call_begins(self, key: str) -> None:
        self.start(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["done", "failed", "cancelled"]))
    def call_ends(self, data: st.DataObject, how: str) -> None:
        self.end(data.draw(st.integers(0, len(self.running) - 1), label="call"), how)

    @rule(keys=st.lists(KEYS, min_size=1, max_size=5))
    def quick_calls_come(self, keys: list[str]) -> None:
        for key in keys:
            self.start(key)
            self.end(len(self.running) - 1, "done")

    @rule(key=KEYS)
    def gate_is_looked_at(self, key: str) -> None:
        async def look() -> Gate:
            return self.keyed.gate_for(key)

        gate = self.loop.run_until_complete(look())
        assert isinstance(gate, Slot)
        now = self.loop.time()
        assert gate.number == self.model.use(key, now, now).number

    @precondition(lambda self: self.model.known)
    @rule(data=st.data(), restless=st.booleans())
    def gate_comes_to_rest_or_not(self, data: st.DataObject, restless: bool) -> None:
        known = data.draw(st.sampled_from(self.model.known), label="key")
        known.restless = self.made[known.number].restless = restless

    @rule(key=KEYS)
    def key_is_forgotten(self, key: str) -> None:
        known = self.model.find(key)
        if known is not None:
            self.model.known.remove(known)
        assert self.keyed.forget(key) == (known is not None)

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @invariant()
    def same_keys_are_known_in_the_same_order_with_the_same_gates(self) -> None:
        state = self.keyed.snapshot()
        assert list(state["gates"].items()) == [
            (f"slot[{known.key}]", {"number": known.number, "inside": known.inside})
            for known in reversed(self.model.known)
        ]
        assert state["keys"] == len(self.model.known)
        assert state["in_use"] == sum(known.inside for known in self.model.known)

    def teardown(self) -> None:
        while self.running:
            self.end(0, "cancelled")
        assert self.keyed.snapshot()["in_use"] == 0
        self.loop.close()


TestKeyedAgainstModel = KeyedAgainstModel.TestCase
TestKeyedAgainstModel.settings = search(80, stateful_step_count=40)
