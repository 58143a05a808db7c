"""The load of a world: the calls of its clients, and their times. A world may have several loads.

Poisson     many independent users: a given rate of calls, whatever happens (an open loop)
Closed      users that wait for their answer, think, and call again: they slow down as the service does
Burst       many calls at once, one time or repeatedly
Replay      calls at given moments, with given keys, for example those of a trace
"""

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from resilient import _validation
from resilient.core.priority import NORMAL, PRIORITIES, Priority
from resilient.lab.distributions import Constant, Distribution
from resilient.lab.event_loop import WorldLoop

__all__ = ["Burst", "Callers", "Closed", "Load", "Poisson", "Replay"]


class Callers(Protocol):
    """The clients of a world, as a load sees them."""

    loop: WorldLoop
    duration: float
    clients: int

    def call(self, client: int, key: str | None = None, urgency: Priority = NORMAL) -> None:
        """Start a call of a client (from 0). Without a key, one is drawn."""

    async def await_call(self, client: int, urgency: Priority = NORMAL) -> None:
        """Make a call of a client, and wait for its end."""

    def expect(self) -> None:
        """Announce one more source of calls. The world runs until each has called `done`."""

    def done(self) -> None:
        """End one source of calls. The world ends when all sources and all calls have ended."""


class Load:
    """A source of calls. Its calls are made under `resilient.core.priority(...)`."""

    kind = ""
    priority: Priority

    def _check_priority(self) -> None:
        if self.priority not in PRIORITIES:
            hint = _validation.meant(self.priority, PRIORITIES)
            raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, got {self.priority!r}{hint}")

    def check(self, duration: float) -> None:
        """Raise `ValueError`, naming the argument, if a part of the load never comes within `duration` seconds."""

    def start(self, callers: Callers, seed: str) -> None:
        """Schedule the calls of this load; `seed` is for all that is random in it."""
        raise NotImplementedError

    def expected(self, duration: float, latency: float) -> float:
        """The expected number of calls within `duration` seconds, where each call takes `latency` seconds."""
        raise NotImplementedError

    def at_once(self, duration: float, latency: float) -> float:
        """The expected number of calls of this load in flight at a time."""
        return self.expected(duration, latency) * min(1.0, latency / duration)


Steps = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Poisson(Load):
    """`rate` calls a second, of all clients together. A rate that changes is a list of steps, each from its second on:
    `((0, 100), (60, 300))`."""

    kind = "poisson"
    rate: float | Steps
    priority: Priority = NORMAL

    def __post_init__(self) -> None:
        self._check_priority()
        if not isinstance(self.rate, tuple | list):
            _validation.amount("rate", self.rate)
            return
        before = -1.0
        for at, step in enumerate(self.rate):
            if not isinstance(step, tuple | list) or len(step) != 2:
                raise ValueError(f"rate[{at}] must be [seconds, calls a second], got {step!r}")
            _validation.seconds(f"rate[{at}][0]", step[0], zero=True)
            _validation.amount(f"rate[{at}][1]", step[1])
            if step[0] <= before:
                raise ValueError(f"rate[{at}][0] must be later than {before:g}, got {step[0]!r}")
            before = step[0]
        if not self.rate:
            raise ValueError("rate must have at least one step, got none")
        object.__setattr__(self, "rate", tuple((float(at), float(rate)) for at, rate in self.rate))

    @property
    def steps(self) -> Steps:
        """The steps of the rate, as (from this second on, calls a second)."""
        return self.rate if isinstance(self.rate, tuple) else ((0.0, self.rate),)

    def at(self, moment: float) -> float:
        """The rate at a moment, in calls a second."""
        step = bisect_right(self.steps, (moment, math.inf)) - 1
        return self.steps[step][1] if step >= 0 else 0.0

    def check(self, duration: float) -> None:
        for at, (begin, _) in enumerate(self.steps):
            if begin >= duration:
                raise ValueError(f"rate[{at}][0] must be before duration={duration:g}, got {begin:g}")
        if not any(rate for _, rate in self.steps):
            raise ValueError("rate must be more than 0 at some time, got 0: no calls are made")

    def start(self, callers: Callers, seed: str) -> None:
        draw = random.Random(f"{seed} poisson").random
        who = random.Random(f"{seed} clients").random
        loop, clients, call = callers.loop, callers.clients, callers.call
        steps = list(zip(self.steps, [at for at, _ in self.steps[1:]] + [math.inf], strict=True))
        log = math.log
        passed = 0  # number of steps that are over

        def upcoming(now: float) -> float:
            """The moment of the next call after `now`."""
            nonlocal passed
            while passed < len(steps):
                (begin, rate), end = steps[passed]
                if now < end:
                    now = max(now, begin)
                    if rate:
                        now -= log(1.0 - draw()) / rate
                        if now < end:
                            return now
                    now = end  # the process has no memory, so the next call after a change of rate is drawn anew
                passed += 1
            return math.inf

        def arrive(moment: float) -> None:
            call(int(clients * who()), None, self.priority)
            plan(moment)

        def plan(moment: float) -> None:
            moment = upcoming(moment)
            if moment < callers.duration:
                loop.at(moment, arrive, moment)
            else:
                callers.done()

        callers.expect()
        plan(0.0)

    def expected(self, duration: float, latency: float) -> float:
        ends = [at for at, _ in self.steps[1:]] + [math.inf]
        return math.fsum(
            rate * max(0.0, min(end, duration) - begin) for (begin, rate), end in zip(self.steps, ends, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Closed(Load):
    """`users` that each wait for an answer, and then think for a time drawn from `think`."""

    kind = "closed"
    users: int
    think: Distribution = field(default_factory=lambda: Constant(0.0))
    priority: Priority = NORMAL

    def __post_init__(self) -> None:
        self._check_priority()
        _validation.count("users", self.users)

    def check(self, duration: float) -> None:
        if isinstance(self.think, Constant) and self.think.expected >= duration:
            raise ValueError(
                f"think must be less than duration={duration:g}, got {self.think.expected:g}: "
                "a user thinks before the first call"
            )

    def start(self, callers: Callers, seed: str) -> None:
        think = self.think.sampler(random.Random(f"{seed} think"))
        loop = callers.loop
        idle = self.think.expected == 0

        async def user(client: int) -> None:
            try:
                if not idle:
                    await asyncio.sleep(think())
                while loop.time() < callers.duration:
                    before = loop.time()
                    await callers.await_call(client, self.priority)
                    pause = think()
                    if pause or loop.time() == before:  # a user that is refused at once would call without end
                        await asyncio.sleep(pause or LEAST_PAUSE)
            finally:
                callers.done()

        for number in range(self.users):
            callers.expect()
            task = loop.create_task(user(number % callers.clients))
            loop.kept.add(task)
            task.add_done_callback(loop.kept.discard)

    def expected(self, duration: float, latency: float) -> float:
        return self.users * max(1.0, duration / max(self.think.expected + latency, LEAST_PAUSE))

    def at_once(self, duration: float, latency: float) -> float:
        return float(self.users)


LEAST_PAUSE = 0.001
"""Seconds between two calls of a user whose call is refused at once."""


@dataclass(frozen=True, slots=True)
class Burst(Load):
    """`calls` calls within `spread` seconds from `at` on, and again every `every` seconds until the end of the
    duration."""

    kind = "burst"
    calls: int
    at: float = 0.0
    every: float | None = None
    spread: float = 0.0
    priority: Priority = NORMAL

    def __post_init__(self) -> None:
        self._check_priority()
        _validation.count("calls", self.calls)
        _validation.seconds("at", self.at, zero=True)
        _validation.seconds("spread", self.spread, zero=True)
        if self.every is not None:
            _validation.seconds("every", self.every)

    def check(self, duration: float) -> None:
        if self.at >= duration:
            raise ValueError(f"at must be before duration={duration:g}, got {self.at:g}")
        if self.every is not None and self.at + self.every >= duration:
            raise ValueError(
                f"every must be less than {duration - self.at:g}, from at={self.at:g} to duration={duration:g}, "
                f"got {self.every:g}: there is only one burst"
            )

    def start(self, callers: Callers, seed: str) -> None:
        draw = random.Random(f"{seed} burst").random
        loop = callers.loop

        def arrive(client: int) -> None:
            callers.call(client, None, self.priority)
            callers.done()

        begin = self.at
        while begin < callers.duration:
            for number in range(self.calls):
                moment = begin + self.spread * draw()
                if moment < callers.duration:
                    callers.expect()
                    loop.at(moment, arrive, number % callers.clients)
            if self.every is None:
                break
            begin += self.every

    def expected(self, duration: float, latency: float) -> float:
        times = 1.0 if self.every is None else 1.0 + max(0.0, duration - self.at) / self.every
        return self.calls * times

    def at_once(self, duration: float, latency: float) -> float:
        return self.expected(duration, latency)  # all of them are scheduled at the start of the run


@dataclass(frozen=True, slots=True)
class Replay(Load):
    """Calls at given seconds, in ascending order. `keys` has one key for each call; without keys, they are drawn."""

    kind = "replay"
    moments: tuple[float, ...]
    keys: tuple[str, ...] = ()
    priority: Priority = NORMAL

    def __post_init__(self) -> None:
        self._check_priority()
        object.__setattr__(self, "moments", tuple(self.moments))
        object.__setattr__(self, "keys", tuple(self.keys))
        if self.keys and len(self.keys) != len(self.moments):
            raise ValueError(f"keys must be as many as moments ({len(self.moments)}), got {len(self.keys)}")
        if any(later < earlier for earlier, later in zip(self.moments, self.moments[1:], strict=False)):
            raise ValueError("moments must be in order")

    def check(self, duration: float) -> None:
        if not self.moments or self.moments[0] >= duration:
            first = f"got {self.moments[0]:g} first" if self.moments else "got none"
            raise ValueError(f"moments must begin before duration={duration:g}, {first}")

    def start(self, callers: Callers, seed: str) -> None:
        who = random.Random(f"{seed} clients").random
        moments: Sequence[float] = self.moments

        def arrive(at: int) -> None:
            callers.call(int(callers.clients * who()), self.keys[at] if self.keys else None, self.priority)
            plan(at + 1)

        def plan(at: int) -> None:
            if at < len(moments) and moments[at] < callers.duration:
                callers.loop.at(moments[at], arrive, at)
            else:
                callers.done()

        callers.expect()
        plan(0)

    def expected(self, duration: float, latency: float) -> float:
        return float(len(self.moments))
