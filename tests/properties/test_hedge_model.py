"""Hedge against a model of it: what comes back, when, and which copies were sent when.

All times are exact in binary, and each copy's duration has a bit of its own; so no two things happen at one time.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from resilient import Budget, Classifier, Hedge, Pipeline
from resilient.runtime import virtual
from tests.hypothesis_settings import search

Ending = Literal["good", "bad", "error", "fatal", "ignored"]
OPEN: frozenset[Ending] = frozenset({"bad", "error"})


class Fatal(Exception):
    """A failure that repeating cannot change."""


class Ignored(Exception):
    """An error that says nothing about the dependency."""


@dataclass(frozen=True)
class Copy:
    """What one copy does: how long it takes, and how it ends."""

    seconds: float
    ending: Ending


@dataclass(frozen=True)
class Ended:
    """The outcome of a hedged call: its winner, its time, and the starts of its copies."""

    copy: int
    """Whose outcome the caller got."""
    at: float
    starts: tuple[float, ...]
    """When each copy was sent."""


def model(delays: Sequence[float], script: Sequence[Copy], tokens: float = math.inf) -> Ended:
    """The outcome that the documentation promises, computed event by event."""
    starts: list[float] = []
    running: list[tuple[float, int]] = []
    failed: list[int] = []
    due, now = 0.0, 0.0

    def begin() -> None:
        nonlocal due, tokens
        if starts:
            if tokens < 1:
                due = math.inf
                return
            tokens -= 1
        starts.append(now)
        heapq.heappush(running, (now + script[len(starts) - 1].seconds, len(starts) - 1))
        due = now + delays[len(starts) - 1] if len(starts) <= len(delays) else math.inf

    begin()
    while running:
        if due < running[0][0]:
            now = due
            begin()
            continue
        now, copy = heapq.heappop(running)
        if script[copy].ending not in OPEN:
            return Ended(copy, now, tuple(starts))
        failed.append(copy)
        if due < math.inf:
            begin()
    return Ended(min(failed), now, tuple(starts))


def observe(hedge: Hedge, script: Sequence[Copy]) -> Ended:
    """The outcome of a real Hedge in virtual time."""
    outcomes: dict[int, Any] = {}
    starts: list[float] = []

    async def fetch() -> Any:
        number = len(starts)
        starts.append(asyncio.get_running_loop().time())
        copy = script[number]
        await asyncio.sleep(copy.seconds)
        kind = {"error": OSError, "fatal": Fatal, "ignored": Ignored}.get(copy.ending)
        outcomes[number] = [copy.ending] if kind is None else kind()
        if kind is not None:
            raise outcomes[number]
        return outcomes[number]

    pipeline = Pipeline(hedge, classify=Classifier(results=lambda each: each == ["bad"], fatal=Fatal, ignore=Ignored))

    async def main() -> Ended:
        try:
            got: Any = await pipeline.call(fetch)
        except Exception as error:
            got = error
        at = asyncio.get_running_loop().time()
        await pipeline.aclose()
        assert asyncio.get_running_loop().time() == at  # all losers have ended
        (copy,) = (number for number, outcome in outcomes.items() if outcome is got)
        return Ended(copy, at, tuple(starts))

    return virtual.run(main())


@st.composite
def scripts(draw: st.DrawFn) -> tuple[Copy, ...]:
    """A strategy for up to five copies, of which no two end at one time, nor when another one is due."""
    copies = draw(st.integers(2, 5))
    endings = st.sampled_from(["good", "error", "bad", "error", "fatal", "ignored"])
    return tuple(Copy(draw(st.integers(0, 24)) / 8 + 2.0 ** -(5 + number), draw(endings)) for number in range(copies))


DELAYS = st.sampled_from([0.0, 0.125, 0.5, 0.5, 1.0, 2.0])


@search(300)
@given(script=scripts(), inline=st.booleans(), data=st.data())
def test_hedge_is_as_its_model(script: tuple[Copy, ...], inline: bool, data: st.DataObject) -> None:
    """The winner, the time of its outcome and the time of each start are those of the model."""
    delays = data.draw(st.lists(DELAYS, min_size=len(script) - 1, max_size=len(script) - 1), label="delays")
    assert observe(Hedge(delays, inline=inline), script) == model(delays, script)


@search(100)
@given(script=scripts(), inline=st.booleans(), tokens=st.integers(0, 3), delay=DELAYS)
def test_hedge_with_a_budget_is_as_its_model(script: tuple[Copy, ...], inline: bool, tokens: int, delay: float) -> None:
    """Without a token no further copy starts, now or later; running copies go on."""
    budget = Budget(reserve=tokens, ratio=0.001, cap=max(1, tokens))
    hedge = Hedge(delay, copies=len(script), inline=inline, budget=budget)
    expected = model([delay] * (len(script) - 1), script, tokens)
    assert observe(hedge, script) == expected
    assert budget.snapshot()["spent"] == len(expected.starts) - 1
    assert hedge.snapshot()["started"] == len(expected.starts) - 1
