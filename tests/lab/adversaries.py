"""Random pipelines, and adversaries who do their worst to a call through one, in virtual time.

An adversary plays the dependency (hangs, fails at once, late or just before a limit, asks for the longest pause), the
jitter (it draws what it likes), and everybody else: it holds permits, takes tokens, and pays into budgets.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tenacity

from resilient import (
    Budget,
    Bulkhead,
    CircuitBreaker,
    Fallback,
    FullJitter,
    Hedge,
    Keyed,
    Pipeline,
    PipelineWarning,
    RateLimit,
    Rejected,
    Retry,
    Timeout,
    current_call,
    quantile,
)
from resilient.call import new_call
from resilient.events import Event, Queued, Retrying
from resilient.lab.explain import Explanation
from resilient.policy import Policy
from resilient.runtime import current_async
from resilient.runtime.virtual import VirtualLoop

__all__ = ["HANG", "Drawn", "Found", "Part", "attack", "build", "random_stack"]

HANG = 1e6
"""Seconds: longer than any finite bound here."""

ENOUGH = 300
"""Requests of one call: then it is not repeated any more."""

LESS = 1 - 1e-7
"""Just before."""


OBSERVED = (
    quantile(0.9, warm_up=3),
    quantile(0.9, warm_up=3, initial=0.25, ceiling=1),
    quantile(0.9, warm_up=3, initial=1, floor=0.25, ceiling=2, growth=2),
)


class Drawn(FullJitter):
    """Jitter whose draws somebody chooses: `share` of the longest."""

    share = 1.0

    def __call__(self, attempt: int) -> float:
        return self.share * self.most(attempt)


Part = tuple[Any, ...]
"""How to make a policy or a pipeline: (class, arguments, options), or ("nest", parts)."""


def random_stack(dice: random.Random, most: int = 5) -> tuple[Part, ...]:
    """One to `most` policies of any kind, some of them in pipelines of their own."""
    parts = [dice.choice(_MAKERS)(dice) for _ in range(dice.randint(1, most))]
    if len(parts) > 2 and dice.random() < 0.3:
        at = dice.randint(0, len(parts) - 2)
        parts[at : at + 2] = [("nest", tuple(parts[at : at + 2]))]
    return tuple(parts)


def _timeout(dice: random.Random) -> Part:
    options = {"abandon": True} if dice.random() < 0.1 else {}
    return (Timeout, (dice.choice([0.5, 1.0, 2.0, 5.0, 12.0]),), options)


def _retry(dice: random.Random) -> Part:
    options: dict[str, Any] = {
        "wait": dice.choice([0, 0, 0.25, 1.0, 4.0, "drawn", "drawn"]),
        "max_retry_after": dice.choice([0.0, 0.0, 1.0, 6.0]),
    }
    if dice.random() < 0.3:
        options["on"] = dice.choice([OSError, (OSError, Rejected), (OSError, TimeoutError)])
    if dice.random() < 0.2:
        options["budget"] = "budget"
    if dice.random() < 0.1:
        options["shadow"] = True
    if dice.random() < 0.1:
        options["nested"] = "once"
    if dice.random() < 0.15:
        # Pauses that are not 0: rejections that are repeated without end would stop the clock.
        stop, wait = dice.choice(
            [
                (tenacity.stop_after_attempt(2), tenacity.wait_none()),
                (tenacity.stop_after_attempt(2), options["wait"]),
                (tenacity.stop_after_delay(1), tenacity.wait_fixed(0.5)),
                (tenacity.stop_after_delay(1), 0.25),
            ]
        )
        return (Retry, (), options | {"stop": stop, "wait": wait})
    return (Retry, (dice.randint(1, 4),), options)


def _bulkhead(dice: random.Random) -> Part:
    queue = dice.choice([0, 0, 1, 2, 5])
    options: dict[str, Any] = {"queue": queue} if queue else {}
    if queue and dice.random() < 0.6:
        options["queue_timeout"] = dice.choice([0.5, 3.0])
    if dice.random() < 0.1:
        options["shadow"] = True
    return (Bulkhead, (dice.randint(1, 3),), options)


def _breaker(dice: random.Random) -> Part:
    options = dice.choice(
        [
            {"fail_max": 2, "failure_rate": None},
            {"failure_rate": 0.5, "window_calls": 4, "min_calls": 2},
            {"slow": 1.0, "slow_rate": 0.5, "min_calls": 3},
            {},
            {"fail_max": 1, "shadow": True},
        ]
    )
    return (CircuitBreaker, (), options)


def _hedge(dice: random.Random) -> Part:
    delay = dice.choice([0.0, 0.25, 1.0, (0.25, 1.0), (1.0, 0.25), *OBSERVED])
    options: dict[str, Any] = {"inline": True} if dice.random() < 0.3 else {}
    if dice.random() < 0.1:
        options["shadow"] = True
    if dice.random() < 0.2:
        options["budget"] = "budget"
    if isinstance(delay, quantile) and dice.random() < 0.5:
        options["copies"] = 3
    return (Hedge, (delay,), options)


def _rate_limit(dice: random.Random) -> Part:
    return (
        RateLimit,
        (dice.choice([0.5, 4.0]),),
        {"burst": dice.randint(1, 3), "max_wait": dice.choice([0.0, 0.25, 3.0])},
    )


def _fallback(dice: random.Random) -> Part:
    return dice.choice(
        [(Fallback, ("stale",), {}), (Fallback, (), {"call": _elsewhere}), (Fallback, (1,), {"on": (OSError,)})]
    )


def _keyed(dice: random.Random) -> Part:
    return ("keyed", dice.choice([_bulkhead, _breaker, _rate_limit])(dice))


async def _elsewhere(error: Exception | None, *args: object) -> str:
    await current_async().sleep(HANG)
    return "elsewhere"


_MAKERS: tuple[Callable[[random.Random], Part], ...] = (
    *(_timeout,) * 5,
    *(_retry,) * 4,
    *(_bulkhead,) * 2,
    _breaker,
    *(_hedge,) * 2,
    _rate_limit,
    _fallback,
    _keyed,
)


def build(parts: Sequence[Part]) -> Pipeline:
    """A pipeline of fresh instances. What is warned of is built all the same: its bounds must hold too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return _built(parts, Budget(), iter(range(1000)))


def _built(parts: Sequence[Part], budget: Budget, numbers: Iterator[int]) -> Pipeline:
    made: list[Policy] = []
    for part in parts:
        if part[0] == "nest":
            made.append(_built(part[1], budget, numbers))
        elif part[0] == "keyed":
            kind, args, options = part[1]
            made.append(Keyed(lambda kind=kind, args=args, options=options: kind(*args, **options), key=_everybody))
        else:
            kind, args, given = part
            options = dict(given)
            if options.get("wait") == "drawn":
                options["wait"] = Drawn(0.5, 2.0)
            if "budget" in options:
                options["budget"] = budget
            made.append(kind(*args, name=f"{kind.__name__}-{next(numbers)}", **options))
    return Pipeline(*made)


def _everybody(*args: object) -> str:
    return "everybody"


# -- adversaries ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What one call came to."""

    seconds: float
    requests: int
    attempts: int


class _Asks(OSError):
    def __init__(self, retry_after: float) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


@dataclass(frozen=True)
class _Adversary:
    """Decides what each request meets.

    What hedges have observed before the call (`past`: seconds; None: nothing) is his choice, too.

    Attributes:
        moves: (seconds, pause that it asks for) request by request, the last one again and again; None instead of a
            pause: it answers.
        draw: share of the longest jitter.
        crowd: which gates others fill or empty: numbers of those that wait.
        early: seconds before the call at which they begin.
    """

    moves: tuple[tuple[float, float | None], ...]
    draw: float
    crowd: frozenset[int] = frozenset()
    early: float = 0.0
    past: float | None = None


def attack(
    make: Callable[[], Sequence[Pipeline]], explanation: Explanation, dice: random.Random, tries: int
) -> Iterator[Found]:
    """What a call comes to, by adversary after adversary: some that are known, and then the best ones, varied, until
    they have all but reached what is said to be possible.

    `make`: the pipelines anew, the outermost first, each of which guards a call through the next one.
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
        if not late and busiest[0].requests >= worst.requests.sure:
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
    """What adversaries of a pipeline choose from."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        policies = list(_flat(pipelines))
        limits = sorted({policy.limit for policy in policies if policy.limit is not None})
        hedges = [policy for policy in policies if isinstance(policy, Hedge)]
        delays = {delay for hedge in hedges for delay in (*hedge.delays, *hedge.longest, sum(hedge.longest)) if delay}
        left = {limit - delay for limit in limits for delay in delays if delay < limit}
        self.seconds = [0.0, HANG, *(each * LESS for each in sorted({*limits, *left}))]
        self.pasts = [0.0, 0.5, 1.0, 3.0, HANG] if any(hedge.observes for hedge in hedges) else []
        self.pauses = sorted({0.0, *(policy.max_retry_after for policy in policies if isinstance(policy, Retry))})
        self.draws = (0.0, 1.0) if any(_jitter(policy) for policy in policies) else (1.0,)
        gates = range(sum(policy.waits for policy in policies))
        every = frozenset(gates)
        self.crowds = list(dict.fromkeys([frozenset(), every, *(every - {each} for each in gates)]))
        limited = [_limited(policies, at) for at, policy in enumerate(policies) if _gate(policy).pace is not None]
        self.heads = sorted({0.0, *(_others(*each) * each[0] - each[1] for each in limited)})

    def known(self) -> Iterator[_Adversary]:
        """Those that everybody would think of."""
        for crowd in self.crowds:
            for asked in self.pauses:
                for late in self.seconds:
                    for draw in self.draws:
                        for early in self.heads if crowd else (0.0,):
                            yield _Adversary(((late, asked),), draw, crowd, early)
                for number in range(1, 5):  # fail so often at once, then hang
                    yield _Adversary((*[(0.0, asked)] * number, (HANG, 0.0)), 1.0, crowd)
            for one, other in itertools.permutations(self.pauses, 2):
                for late in self.seconds[2:]:
                    yield _Adversary(((late, one), (late, other)) * 8, 1.0, crowd)
        for past in self.pasts:
            for late in self.seconds:
                yield _Adversary(((late, 0.0),), 1.0, past=past)
        yield _Adversary(((0.0, None),), 1.0)

    def varied(self, one: _Adversary, dice: random.Random) -> _Adversary:
        """One that is a little different."""
        often = max(len(one.moves), dice.randint(1, 16))
        moves = [one.moves[min(number, len(one.moves) - 1)] for number in range(often)]
        for _ in range(dice.choice([1, 1, 2, 4])):
            at = dice.randrange(len(moves))
            late, asked = moves[at]
            if dice.random() < 0.5:
                late = dice.choice([*self.seconds, self.seconds[-1] * dice.random()])
            else:
                asked = dice.choice([*self.pauses, self.pauses[-1] * dice.random()])
            moves[at] = late, asked
        draw = one.draw if dice.random() < 0.7 else dice.choice([0.0, dice.random(), 1.0])
        crowd = one.crowd if dice.random() < 0.8 else dice.choice(self.crowds)
        early = one.early if dice.random() < 0.8 else dice.choice(self.heads)
        past = one.past if dice.random() < 0.7 else dice.choice([None, *self.pasts])
        return _Adversary(tuple(moves), draw, crowd, early, past)


def _flat(policies: Sequence[Policy]) -> Iterator[Policy]:
    for policy in policies:
        if isinstance(policy, Pipeline):
            yield from _flat(policy.policies)
        else:
            yield policy


def _jitter(policy: Policy) -> Drawn | None:
    backoff = getattr(policy, "_backoff", None)
    return backoff if isinstance(backoff, Drawn) else None


def _play(pipelines: Sequence[Pipeline], explanation: Explanation, adversary: _Adversary) -> Found:
    policies = list(_flat(pipelines))
    for policy in policies:
        if isinstance(policy, Hedge) and policy.observes and adversary.past is not None:
            observed = policy.observed(new_call(print, (), {}, None))
            assert observed is not None
            for _ in range(policy.observes.samples):
                observed.record(adversary.past)
    budgets = {policy.budget for policy in policies if policy.budget is not None}
    for policy in policies:
        jitter = _jitter(policy)
        if jitter is not None:
            jitter.share = adversary.draw
    requests = attempts = 0
    # The further copies of an inline hedge count on from where the first one has got to.
    counted = not any(getattr(policy, "inline", False) for policy in policies)

    async def fetch() -> str:
        nonlocal requests, attempts
        if counted:
            around = current_call()
            assert around is not None
            attempts = max(attempts, around.attempt)
        seconds, asked = adversary.moves[min(requests, len(adversary.moves) - 1)]
        requests += 1
        for budget in budgets:  # others succeed all the while
            for _ in range(200):
                budget.earn()
        if requests > ENOUGH:
            raise TypeError("enough")
        if seconds:
            await asyncio.sleep(seconds)
        if asked is None:
            return "answer"
        raise _Asks(asked) if asked else OSError("down")

    guarded = fetch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        for pipeline in reversed(pipelines):
            guarded = pipeline(guarded)

    async def call() -> float:
        loop = asyncio.get_running_loop()
        if adversary.crowd:
            _Crowd(pipelines, policies, explanation, adversary.crowd).gather()
            await asyncio.sleep(adversary.early)
        begin = loop.time()
        try:
            await guarded()
        except Exception:
            pass
        return loop.time() - begin

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return Found(runner.run(call()), requests, attempts)


def _gate(policy: Policy) -> Policy:
    """Itself, or of many the one that all calls here have to do with."""
    return policy.gate_for("everybody") if isinstance(policy, Keyed) else policy


def _limited(policies: Sequence[Policy], at: int) -> tuple[float, float]:
    """Seconds between the tokens of a rate limit, and how long a call can wait for one."""
    limits = [policy.limit for policy in policies[:at] if policy.limit is not None]
    gate = _gate(policies[at])
    assert gate.pace is not None
    assert gate.longest_wait is not None
    return 1 / gate.pace[1], min(gate.longest_wait, *limits, HANG) * LESS


def _others(interval: float, wait: float) -> int:
    """How many tokens come until somebody has waited so long: one for each of those before him, and his own."""
    return max(1, math.ceil(wait / interval))


class _Crowd:
    """Everybody else: they hold all permits until the caller in line has waited its longest, and take every token."""

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        policies: Sequence[Policy],
        explanation: Explanation,
        chosen: frozenset[int],
    ) -> None:
        self.pipelines = pipelines
        self.waits: dict[str, tuple[Any, float]] = {}
        self.limits: list[tuple[RateLimit, int]] = []
        self.tickets: dict[Any, Any] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        after = [part.worst for part in explanation.parts[1:]]
        policies = policies[-len(explanation.parts) :]
        waiting = [policy for policy in policies if policy.waits]
        mine = [policy for number, policy in enumerate(waiting) if number in chosen]
        for policy, rest in zip(policies, [*after, None], strict=True):
            if policy not in mine:
                continue
            gate = _gate(policy)
            if gate.inactive is not None:
                continue
            if isinstance(gate, Bulkhead) and gate.queue:
                hold = HANG if rest is None else rest.seconds.most
                rounds = -(-gate.queue // gate.max_concurrent)
                longest = min(gate.queue_timeout or HANG, hold * rounds)
                self.waits[gate.name] = gate, longest
            if isinstance(gate, RateLimit):
                self.limits.append((gate, _others(*_limited(policies, policies.index(policy)))))

    def gather(self) -> None:
        """Be there before the call."""
        _listen(self.pipelines, self.hear)
        self.push()
        for gate, others in self.limits:
            for _ in range(others - 1):
                self.tasks.append(asyncio.create_task(Pipeline(gate)(_elsewhere)(None)))

    def hear(self, event: Event) -> None:
        if isinstance(event, Queued) and event.policy in self.waits:
            gate, seconds = self.waits[event.policy]
            # Those before it in line have come and gone by then: that is more permits than were held.
            asyncio.get_running_loop().call_later(seconds * LESS, gate.release, self.tickets[gate])
        if isinstance(event, Retrying):
            self.push()

    def push(self) -> None:
        """Take what is free."""
        call = new_call(len, (), {}, current_async())
        for gate in [*(gate for gate, _ in self.waits.values()), *(gate for gate, _ in self.limits)]:
            try:
                while (ticket := gate.admit(call)) is not None:
                    self.tickets[gate] = ticket
            except Rejected:
                pass


def _listen(policies: Sequence[Policy], listener: Callable[[Event], None]) -> None:
    for policy in policies:
        if isinstance(policy, Pipeline):
            policy.listen(listener)
            _listen(policy.policies, listener)
