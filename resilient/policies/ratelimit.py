"""RateLimit: keeps calls within a quota, of the dependency or agreed with its other users.

A bucket holds up to `burst` tokens and gets `rate` new ones every `per` seconds; a call takes one. Without a token a
call is refused, or waits where `max_wait` allows.

No timer fills the bucket: the time of each token is known in advance (the generic cell rate algorithm, GCRA, of ATM and
of redis-cell). `taken` counts the tokens taken since the bucket was last full, at `anchor`, less the bucketful that was
there; the next token comes at

    anchor + taken * per / rate

That is one multiplication and one division, however long it has run, so rounding errors do not add up. Waiting calls
stand in one queue over all event loops and threads. Only the first one sleeps until its token comes; when it leaves, it
wakes the next one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from sys import modules
from typing import Any

from resilient import _validation
from resilient._atomic import atomic
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.facts import IN_SHADOW, shared_facts
from resilient.core.gate import Gate
from resilient.core.wait_queue import STALLED, Waiter, WaitQueue
from resilient.core.worst_case import Bound, InnerCost, Surroundings, WorstCase
from resilient.errors import RateLimited, Template, refusal
from resilient.events import Queued
from resilient.runtime import TRIO, VIRTUAL, Runtime, current
from resilient.runtime.clock import monotonic
from resilient.stats.window import CLOCK_CHANGE

__all__ = ["RateLimit"]

MOMENT = 1e-6
"""Seconds: a token that comes within this time counts as there, since sums of times and timers are exact to about this.
No call gains by it: later tokens come at their own times."""

COARSE = 0.001
"""Seconds to sleep at least after a timer came early: uvloop's timers count milliseconds, and shorter sleeps would
spin."""


USED_UP = Template("{} of {:g} per {} is used up; the next token comes in {:.3g} s", "no-token")


class RateLimit(Gate, example="10"):
    """Admits `rate` calls every `per` seconds, and up to `burst` at once after a pause.

    Args:
        rate: tokens that come in `per` seconds, above 0; need not be whole (0.5 per second is one every two seconds).
        per: seconds. Default 1.
        burst: tokens that can be saved up. Default: those of one second, and at least 1 (Guava's `SmoothBursty`).
        max_wait: seconds that a call may wait for its token. A call whose token would come later, or not before its
            deadline, is refused at once. Default 0: no call waits.
        shadow: count the calls that it would have refused or queued, and admit all.
        name: for events and errors; default "RateLimit".

    Raises `RateLimited` to refuse a call, with the seconds until its token would have come as `retry_after`.
    """

    def __init__(
        self,
        rate: float,
        *,
        per: float = 1.0,
        burst: int | None = None,
        max_wait: float = 0.0,
        shadow: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name, shadow=shadow)
        self.rate = _validation.amount("rate", rate)
        self.per = _validation.seconds("per", per)
        if not self.rate or not math.isfinite(self.rate / self.per) or not math.isfinite(self.per / self.rate):
            raise ValueError(f"rate must be a finite number > 0 of calls per per={per!r} seconds, got {rate!r}")
        a_second = math.floor(self.rate / self.per + MOMENT)
        self.burst = max(1, a_second) if burst is None else _validation.count("burst", burst)
        self.max_wait = _validation.seconds("max_wait", max_wait, zero=True)
        self.facts = shared_facts(
            timed=False,
            holds=False,
            waits=self.max_wait > 0,
            longest_wait=self.max_wait,
            metered=True,
            pace=(self.burst, self.rate / self.per),
            raises=(RateLimited,),
            inactive=IN_SHADOW if shadow else None,
        )
        self._first_taken = 2.0 - self.burst  # `_taken` after the first token of a full bucket
        self._full = (self.burst - 1.0) * self.per  # `_spare` of a full bucket
        self._nearly = -MOMENT * self.rate  # `_spare` of one with exactly one token, within MOMENT
        self._enough = self._nearly  # `_spare` from which a call takes a token at once; infinite while calls wait
        self._anchor = -math.inf
        self._taken = 0.0
        self._lock = threading.RLock()
        self._waiters = WaitQueue()

    def _renew(self) -> None:
        super()._renew()
        self._lock = threading.RLock()
        self._waiters.groups.clear()
        self._enough = self._nearly

    @atomic
    def admit(self, call: Call) -> object | None:
        now = call.begin().now() if TRIO in modules or VIRTUAL in modules else monotonic()
        spare = (now - self._anchor) * self.rate - self._taken * self.per
        if spare >= self._enough:
            if spare < self._full:
                self._taken += 1.0
            else:
                self._anchor = now
                self._taken = self._first_taken
            return self
        if now < self._anchor - CLOCK_CHANGE:
            return self._begin_anew(now)
        if not self.max_wait:
            raise self._refusal(self._ahead(now))
        return None

    async def wait(self, call: Call, context: PipelineContext) -> object:
        runtime = call.begin()
        with self._lock:
            self._enough = math.inf
            position = len(self._waiters) + 1
            waiter = self._waiters.join(runtime)
        try:
            expected = self._expected(call, position - 1)
            seconds = self._look(waiter, runtime, expected)
            if seconds is not None and context.channel.wants[Queued]:
                context.channel.emit(Queued(context.name, runtime.now(), self.name, position))
            while seconds is not None:
                woken = await waiter.parking.wait(seconds, call)
                seconds = self._look(waiter, runtime, expected)
                if seconds is not None and not woken:
                    seconds = max(seconds, COARSE)
        finally:
            self._leave(waiter)
        return self

    def _enqueue(self, call: Call, refused: Callable[..., None]) -> object:
        """In shadow mode: take the next token before it comes. The time of that token is known, and so is the end of
        the wait."""
        with self._lock:
            self._expected(call, 0)
            self._taken += 1.0
        return self

    def release(self, ticket: object) -> None:
        """Do nothing: a used token is not given back."""

    @atomic
    def undo(self, ticket: object) -> None:
        self._taken -= 1.0
        if self._waiters.groups:  # the first waiter may have the token
            with self._lock:
                self._call_first()

    def _withdraw(self, ticket: object) -> Callable[[], None]:
        """Keep the token taken: otherwise a call that is never made again would cost no token. Returns the function
        that gives the token back if the call is made again."""
        return partial(self.undo, ticket)

    # -- the queue ----------------------------------------------------------------------------------------------

    def _expected(self, call: Call, others: int) -> float:
        """The time of the token of a call behind `others` waiters. Raises `RateLimited` if that is too late."""
        with self._lock:
            now = call.runtime.now()
            ahead = self._ahead(now, others)
            late = call.deadline is not None and now + ahead >= call.deadline
            if ahead > MOMENT and (late or ahead > self.max_wait + MOMENT):
                raise self._refusal(ahead)
            return now + ahead

    def _look(self, waiter: Waiter, runtime: Runtime, expected: float) -> float | None:
        """Take the token for a waiter, and return None. Without a token, return the seconds after which the waiter
        looks again, unless it is woken."""
        waiters = self._waiters
        with self._lock:
            if waiter not in waiters:  # it was passed over
                waiters.insert(waiter)
                self._enough = math.inf
            now = runtime.now()
            ahead = self._ahead(now)
            waiter.parking = runtime.park()
            first = waiters.first()
            assert first is not None
            if first in waiter.unused and ahead <= MOMENT:
                if first.home != waiter.home:
                    waiters.pass_over(first.home)
                else:
                    waiters.remove(first)
                self._call_first()
                first = waiters.first()
            if first is waiter:
                if ahead > MOMENT:
                    return ahead
                self._take(now)
                return None
            waiter.unused = {first: 0.0} if first is not None and ahead <= MOMENT else {}
            return max(0.0, expected - now) + STALLED

    def _leave(self, waiter: Waiter) -> None:
        """Leave the queue, with a token or without, and wake the next one if this was the first."""
        with self._lock:
            was_first = self._waiters.first() is waiter
            self._waiters.remove(waiter)
            if was_first:
                self._call_first()
            elif not self._waiters.groups:
                self._enough = self._nearly

    def _call_first(self) -> None:
        """Wake the first waiter to look; waiters of closed or stopped event loops are passed over."""
        waiters = self._waiters
        while (first := waiters.first()) is not None and first.parking.wake() in ("stands still", "gone"):
            waiters.pass_over(first.home)
        if first is None:
            self._enough = self._nearly

    # -- the bucket ---------------------------------------------------------------------------------------------

    def _begin_anew(self, now: float) -> object:
        """Take a token of a full bucket: the time comes from another clock."""
        with self._lock:
            self._anchor, self._taken = now, self._first_taken
        return self

    def _spare(self, now: float) -> float:
        """Tokens that have come and were not taken, less one; in units of 1/`per` of a token."""
        return (now - self._anchor) * self.rate - self._taken * self.per

    def _ahead(self, now: float, others: int = 0) -> float:
        """Seconds until the next token after those of the `others`; 0 or less: there is one now."""
        return (others * self.per - self._spare(now)) / self.rate

    def _take(self, now: float) -> None:
        """Take a token for the first waiter, as `admit` does."""
        if self._spare(now) < self._full:
            self._taken += 1.0
        else:
            self._anchor, self._taken = now, self._first_taken

    # -- for people ---------------------------------------------------------------------------------------------

    def _refusal(self, ahead: float) -> RateLimited:
        message = (USED_UP, self.name, self.rate, self._time(), ahead)
        return refusal(RateLimited, message, self.name, ahead)

    def _time(self) -> str:
        """The period of the rate in words: "second", or "60 s"."""
        return "second" if self.per == 1 else f"{self.per:g} s"

    @property
    def _at_rest(self) -> bool:
        return not self._waiters.groups and self._spare(current().now()) >= self._full

    def snapshot(self) -> dict[str, Any]:
        """`tokens` there now, of `burst`; seconds until the next one; how many calls are `queued`."""
        now = current().now()
        spare = min(self._spare(now), self._full)
        return {
            "tokens": min(self.burst, max(0, math.floor((spare - self._nearly) / self.per) + 1)),
            "burst": self.burst,
            "rate_per_second": self.rate / self.per,
            "next_token_seconds": max(0.0, self._ahead(now)),
            "queued": len(self._waiters),
            "max_wait_seconds": self.max_wait,
            **self._shadow_counts(),
        }

    def describe(self) -> str:
        wait = f", waits up to {self.max_wait:g} s" if self.max_wait else ""
        return (
            f"RateLimit({self.rate:g} per {self._time()}, burst {self.burst}{wait}{', shadow' if self.shadow else ''})"
        )

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        if self.shadow:
            return inner(around)
        again = around.again
        around = replace(around, again=again or self.max_wait > 0)
        rest = inner(around)
        interval = self.per / self.rate
        # Other calls wait, too. A call that comes again finds the tokens in the same rhythm.
        wait = Bound(0.0 if again else self.max_wait, self.max_wait).up_to(around.within)
        why = rest.why
        if self.max_wait and math.isfinite(rest.seconds.most):
            why = f"{wait.most:.4g} s until {self} has a token, then {rest.seconds.most:.4g} s"
        patient = interval <= self.max_wait and math.isinf(around.within) and not around.pressed
        return replace(
            rest,
            seconds=Bound(
                max(rest.seconds.sure, wait.sure + inner(around.after(wait.sure)).seconds.sure),
                wait.most + rest.seconds.most,
            ),
            why=why,
            max_failing_runs=rest.max_failing_runs if patient else min(rest.max_failing_runs, self.burst),
            at_once=rest.at_once if patient else min(rest.at_once, self.burst),
        )
