"""Adversaries: they make a call through a pipeline as bad as possible, in virtual time.

An adversary controls the dependency (it hangs, fails at once, late or just before a limit, asks for the longest pause,
returns results that take long to close), the jitter (any draw), and all other callers: they hold permits, take tokens,
and pay into budgets.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import tenacity

from resilient import (
    Hedge,
    Pipeline,
    PipelineWarning,
    Retry,
    current_call,
)
from resilient.core.call import new_call
from resilient.core.policy import Policy
from resilient.explain import Explanation
from resilient.pipeline import flat
from resilient.runtime.virtual import VirtualLoop
from tests.explain.crowd import LESS, Crowd, gate_of, limited, others
from tests.explain.stacks import HANG, Bad, Drawn, Odd

__all__ = ["ENOUGH", "Found", "attack"]

ENOUGH = 300
"""The most requests of one call; after them it is no longer repeated."""


@dataclass(frozen=True)
class Found:
    """The cost of one call."""

    seconds: float
    requests: int
    attempts: int


class _Asks(OSError):
    def __init__(self, retry_after: float) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


class Move(NamedTuple):
    """The fate of one request.

    Attributes:
        seconds: that it takes; below 0: until this long after the start of the call.
        asked: the pause that its failure asks for; None: it succeeds.
        draw: share of the longest jitter, from now on; None: as the adversary says.
        closing: it does not raise, but returns a bad result that takes this long to close.
        odd: it returns a result about which the classifier raises.
    """

    seconds: float
    asked: float | None = 0.0
    draw: float | None = None
    closing: float | None = None
    odd: bool = False


@dataclass(frozen=True)
class _Adversary:
    """Decides the fate of each request.

    It also chooses what hedges have observed before the call (`past`: seconds; None: nothing).

    Attributes:
        moves: request by request; the last one is repeated.
        draw: share of the longest jitter.
        crowd: the gates that other callers fill or empty, by the number of those that wait.
        early: seconds before the call at which the other callers start.
    """

    moves: tuple[Move, ...]
    draw: float
    crowd: frozenset[int] = frozenset()
    early: float = 0.0
    past: float | None = None


def attack(
    make: Callable[[], Sequence[Pipeline]], explanation: Explanation, dice: random.Random, tries: int
) -> Iterator[Found]:
    """The costs of a call, against one adversary after the other: first known ones, then variations of the worst ones,
    until they have nearly reached the possible worst case.

    Args:
        make: makes the pipelines, the outermost first, each of which guards a call through the next one.
    """
    choices = _Choices(make())
    worst = explanation.overall
    longest = busiest = None
    for adversary in choices.known():
        found = _play(make(), explanation, adversary)
        yield found
        if longest is None or found.seconds > longest[0].seconds:
            longest = found, adversary
        if busiest is None or found.requests > busiest[0].requests:
            busiest = found, adversary
    assert longest is not None
    assert busiest is not None
    for _ in range(tries):
        late = longest[0].seconds < 0.91 * min(worst.seconds.sure, HANG / 2)
        if not late and busiest[0].requests >= min(worst.requests.sure, ENOUGH):
            return
        best = longest if late else busiest
        adversary = choices.varied(best[1], dice)
        found = _play(make(), explanation, adversary)
        yield found
        if late and found.seconds >= longest[0].seconds:
            longest = found, adversary
        if found.requests >= busiest[0].requests:
            busiest = found, adversary


class _Choices:
    """The choices of adversaries of a pipeline."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        policies = flat(pipelines)
        limits = sorted({policy.facts.time_limit for policy in policies if policy.facts.time_limit is not None})
        hedges = [policy for policy in policies if isinstance(policy, Hedge)]
        delays = {delay for hedge in hedges for delay in (*hedge.delays, *hedge._longest, sum(hedge._longest)) if delay}
        left = {limit - delay for limit in limits for delay in delays if delay < limit}
        self.seconds = [0.0, HANG, *(each * LESS for each in sorted({*limits, *left}))]
        self.pasts = [0.0, 0.5, 1.0, 3.0, HANG] if any(hedge.observes for hedge in hedges) else []
        self.pauses = sorted({0.0, *(policy.max_retry_after for policy in policies if isinstance(policy, Retry))})
        self.draws = (0.0, 1.0) if any(_draws(policy) for policy in policies) else (1.0,)
        self.closings = [0.5, HANG] if any(_judging(pipeline) for pipeline in pipelines) else []
        ends = {each for policy in policies if isinstance(policy, Retry) for each in _ends(policy._schedule.stop)}
        self.ends = [-each * LESS for each in sorted(ends)]
        gates = range(sum(policy.facts.waits for policy in policies))
        every = frozenset(gates)
        self.crowds = list(dict.fromkeys([frozenset(), every, *(every - {each} for each in gates)]))
        paced = [limited(policies, at) for at, policy in enumerate(policies) if gate_of(policy).facts.pace is not None]
        self.heads = sorted({0.0, *(others(*each) * each[0] - each[1] for each in paced)})

    def known(self) -> Iterator[_Adversary]:
        """The obvious adversaries."""
        hang = Move(HANG)
        for crowd in self.crowds:
            for asked in self.pauses:
                for late in self.seconds:
                    for draw in self.draws:
                        for early in self.heads if crowd else (0.0,):
                            yield _Adversary((Move(late, asked),), draw, crowd, early)
                for number in range(1, 5):  # several immediate failures, then a hanging request
                    yield _Adversary((*[Move(0.0, asked)] * number, hang), 1.0, crowd)
            for one, other in itertools.permutations(self.pauses, 2):
                for late in self.seconds[2:]:
                    yield _Adversary((Move(late, one), Move(late, other)) * 8, 1.0, crowd)
            for closing in self.closings:
                for late in self.seconds:
                    bad = Move(late, closing=closing)
                    yield _Adversary((bad,), 1.0, crowd)
                    yield _Adversary((bad._replace(odd=True),), 1.0, crowd)
                    yield _Adversary((Move(0.0, closing=closing), bad, bad._replace(odd=True)), 1.0, crowd)
        for end in self.ends:  # several immediate failures, then one just in time to be repeated
            for asked in self.pauses:
                for number in (0, 1, 2, 3, 7):
                    for draw in self.draws:
                        few = [Move(0.0, asked, draw)] * number
                        yield _Adversary((*few, Move(end, asked, 1.0), hang), 1.0)
                        yield _Adversary((*few, Move(end, asked, 1.0), Move(0.0, asked), hang), 1.0)
            for closing, late, number in itertools.product(self.closings, self.seconds, (0, 1, 2)):
                for first, draw in itertools.product(self.draws, repeat=2):
                    few = [Move(0.0, draw=first, closing=closing)] * number
                    last = Move(late, draw=draw, closing=closing)
                    yield _Adversary((*few, Move(end, draw=draw, closing=closing), last), 1.0)
        for past in self.pasts:
            for late in self.seconds:
                yield _Adversary((Move(late),), 1.0, past=past)
        yield _Adversary((Move(0.0, None),), 1.0)

    def varied(self, one: _Adversary, dice: random.Random) -> _Adversary:
        """A slightly different adversary."""
        often = max(len(one.moves), dice.randint(1, 16))
        moves = [one.moves[min(number, len(one.moves) - 1)] for number in range(often)]
        for _ in range(dice.choice([1, 1, 2, 4])):
            at = dice.randrange(len(moves))
            move, chance = moves[at], dice.random()
            if chance < 0.5:
                late = dice.choice([*self.seconds, *self.ends, self.seconds[-1] * dice.random()])
                moves[at] = move._replace(seconds=late)
            elif self.closings and chance < 0.65:
                closing = None if dice.random() < 0.3 else dice.choice([0.0, *self.closings])
                moves[at] = move._replace(closing=closing, odd=dice.random() < 0.1)
            elif len(self.draws) > 1 and chance < 0.8:
                moves[at] = move._replace(draw=dice.choice([None, *self.draws, dice.random()]))
            else:
                asked = dice.choice([*self.pauses, self.pauses[-1] * dice.random()])
                moves[at] = move._replace(asked=asked)
        draw = one.draw if dice.random() < 0.7 else dice.choice([0.0, dice.random(), 1.0])
        crowd = one.crowd if dice.random() < 0.8 else dice.choice(self.crowds)
        early = one.early if dice.random() < 0.8 else dice.choice(self.heads)
        past = one.past if dice.random() < 0.7 else dice.choice([None, *self.pasts])
        return _Adversary(tuple(moves), draw, crowd, early, past)


def _ends(stop: Any) -> Iterator[float]:
    """The seconds at which retries end."""
    for part in getattr(stop, "parts", (stop,)):
        if part is not stop:
            yield from _ends(part)
        elif part.horizon < HANG:
            yield part.horizon


def _judging(pipeline: Pipeline) -> bool:
    inside = (policy for policy in pipeline.policies if isinstance(policy, Pipeline))
    return pipeline.classify.judges_results or any(map(_judging, inside))


def _draws(policy: Policy) -> bool:
    """Whether pauses are random."""
    return _jitter(policy) is not None or (isinstance(policy, Retry) and policy._settings.wait is not None)


class _Chance:
    """Replaces the module `random` for tenacity's wait strategies: it draws a given share of the range."""

    def __init__(self) -> None:
        self.share = 1.0

    def random(self) -> float:
        return self.share

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.share


def _jitter(policy: Policy) -> Drawn | None:
    backoff = policy._settings.backoff if isinstance(policy, Retry) else None
    return backoff if isinstance(backoff, Drawn) else None


def _play(pipelines: Sequence[Pipeline], explanation: Explanation, adversary: _Adversary) -> Found:
    policies = flat(pipelines)
    for policy in policies:
        if isinstance(policy, Hedge) and policy.observes and adversary.past is not None:
            observed = policy._latencies_of(new_call(print, (), {}, None))
            assert observed is not None
            for _ in range(policy.observes.samples):
                observed.record(adversary.past)
    budgets = {policy.facts.budget for policy in policies if policy.facts.budget is not None}
    jitters = [jitter for jitter in map(_jitter, policies) if jitter is not None]
    requests = attempts = 0
    began = 0.0
    chance = _Chance()
    # The further copies of an inline hedge count on from where the first one has got to.
    counted = not any(getattr(policy, "inline", False) for policy in policies)

    def draw(share: float) -> None:
        for each in (chance, *jitters):
            each.share = share

    async def fetch() -> Any:
        nonlocal requests, attempts
        if counted:
            around = current_call()
            assert around is not None
            attempts = max(attempts, around.attempt)
        move = adversary.moves[min(requests, len(adversary.moves) - 1)]
        requests += 1
        for budget in budgets:  # other calls succeed meanwhile
            for _ in range(200):
                budget.earn()
        if requests > ENOUGH:
            raise TypeError("enough")
        seconds = move.seconds
        if seconds < 0:
            seconds = max(0.0, began - seconds - asyncio.get_running_loop().time())
        if seconds:
            await asyncio.sleep(seconds)
        draw(adversary.draw if move.draw is None else move.draw)
        if move.closing is not None:
            return Odd(move.closing) if move.odd else Bad(move.closing)
        if move.asked is None:
            return "answer"
        raise _Asks(move.asked) if move.asked else OSError("down")

    draw(adversary.draw)
    guarded = fetch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        for pipeline in reversed(pipelines):
            guarded = pipeline(guarded)

    async def call() -> float:
        nonlocal began
        loop = asyncio.get_running_loop()
        if adversary.crowd:
            Crowd(pipelines, policies, explanation, adversary.crowd).gather()
            await asyncio.sleep(adversary.early)
        began = loop.time()
        try:
            await guarded()
        except Exception:
            pass
        seconds = loop.time() - began
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for each in others:
                each.cancel()
            await asyncio.wait(others)
        return seconds

    with asyncio.Runner(loop_factory=VirtualLoop) as runner, mock.patch.object(tenacity.wait, "random", chance):
        return Found(runner.run(call()), requests, attempts)
