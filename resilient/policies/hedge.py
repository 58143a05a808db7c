"""Hedge: when an answer is late, ask once more and take the first good one.

Most slow answers are slow by bad luck (a pause, a queue, a lost packet), and a second copy seldom has the same. A hedge
that starts when 2% of calls are still out costs 2% more requests and takes the worst of the tail away (J. Dean,
L. Barroso, The Tail at Scale, 2013).

The first *acceptable* outcome wins. A fast failure does not: it starts the next copy at once, or none if it asks for a
pause (`retry_after`). An outcome that repeating cannot change (a fatal failure, an error that says nothing about the
dependency) ends all. Losers are cancelled, and awaited and closed off the winner's path.

Copies are tasks, each with a context of its own; the winner's is merged back. With `inline=True` the first copy runs in
the caller's own task, at a sixth of the cost, but with its clean-up on the winner's path (see `Hedge`).
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from resilient import arguments
from resilient.beside import Stragglers
from resilient.budget import Budget
from resilient.call import Call
from resilient.errors import Rejected
from resilient.events import Hedging
from resilient.foresight import Bound, End, Inside, Meeting, View, Worst, share
from resilient.policy import Layer, Scope, Wrap
from resilient.race import Race, wants_another
from resilient.runtime import Runtime
from resilient.runtime.asyncio import AsyncioRuntime

__all__ = ["Hedge"]


class Hedge(Wrap):
    """Starts further copies of a call that is late, and takes the first acceptable outcome.

    Args:
        delay: seconds after which the next copy starts; or a sequence, one for each further copy. No default: take a
            high percentile of the dependency's latency (p95 costs 5% more requests, p98 2%).
        copies: calls at the most, the first included. Default 2 (Microsoft's handler: one hedge), or one more than
            there are delays.
        inline: run the first copy in the caller's own task, context and clean-up path: cheap while it does not fire.
            Then the loser's clean-up delays the winner, it may swallow the cancellation, and what it has set in its
            context stays. For callers whose clean-up is known. asyncio only; elsewhere copies are tasks all the same.
        thread: around a plain `def`, run each copy in a thread (that cannot be stopped). No effect on `async def`.
        budget: what pays for further copies. Without a token for it none starts; what is running is left alone.
        max_stragglers: losers that may still be ending; with more, no further copies start. Default 100.
        shadow: run one copy, and count when another would have started.
        name: for events; default "Hedge".

    When all copies fail, what comes back is the error (or unacceptable result) of the one that asks for the longest
    pause, or else of the first one.
    """

    overlaps = True

    def __init__(
        self,
        delay: float | Sequence[float],
        *,
        copies: int | None = None,
        inline: bool = False,
        thread: bool = False,
        budget: Budget | None = None,
        max_stragglers: int = 100,
        shadow: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.delays = _delays(delay, copies)
        self.copies = self.runs = len(self.delays) + 1
        self.pause = sum(self.delays)
        self.inline = arguments.flag("inline", inline)
        self.thread = arguments.flag("thread", thread)
        if self.inline and self.thread:
            raise ValueError("inline=True has no meaning with thread=True: a thread cannot be stopped for the winner")
        self.budget = arguments.instance("budget", budget, Budget)
        self.shadow = arguments.flag("shadow", shadow)
        self.stragglers = Stragglers(arguments.count("max_stragglers", max_stragglers))
        self.started = self.won = self.would_have_started = 0

    def bind(self, inner: Layer, scope: Scope) -> Layer:
        async def watch(call: Call) -> Any:
            return await self._watch(call, inner, scope)

        def race(call: Call) -> Coroutine[Any, Any, Any]:
            if scope.mode == "once":
                return inner(call)
            copies = Race(self, call, inner, scope)
            if self.inline and isinstance(call.runtime, AsyncioRuntime):
                return copies.run_inline(call.runtime)
            return copies.decide()

        return watch if self.shadow else race

    async def _watch(self, call: Call, inner: Layer, scope: Scope) -> Any:
        """Shadow: run one copy and see whether it would have been hedged."""
        now = call.runtime.now
        begin, reason = now(), "delay"
        try:
            result = await inner(call)
            if scope.judge.judges_results and wants_another(scope.judge.result(result)):
                reason = "failure"
            return result
        except Exception as error:
            if wants_another(scope.judge.error(error), error):
                reason = "failure"
            raise
        finally:
            late = now() - begin >= self.delays[0]
            if late or reason == "failure":
                reason = "delay" if late else reason
                self.would_have_started += 1
                if scope.channel.listeners:
                    scope.channel.emit(Hedging(scope.name, now(), self.name, 2, reason, shadow=True))

    def worst(self, inner: Inside, view: View) -> Worst:
        if self.shadow:
            return inner(view)
        view = replace(view, again=True)
        one = inner(view)
        begins, _ = self._last_begins(one.seconds.most, self.copies)
        most = begins + one.seconds.most
        _, overlap = self._last_begins(one.seconds.sure, self.copies)
        sure = self._surely_lasts(inner, view, overlap=overlap)
        copies = self._surely(one, view)
        why = one.why
        if most < math.inf:
            why = f"{self.copies} copies of {one.seconds.most:.4g} s, the last of which begins after {begins:.4g} s"
        return replace(
            one,
            seconds=Bound(sure, most).up_to(view.within),
            requests=Bound(one.requests.sure * copies, one.requests.most * self.copies),
            why=why,
            quick=one.quick * copies,
            allowed=share(one.allowed, self.copies),
            at_once=share(one.at_once, self.copies),
            asks=one.asks and overlap,
        )

    def _last_begins(self, longest: float, copies: int) -> tuple[float, bool]:
        """When the last copy begins, if each takes its longest and fails; and whether none has failed by then."""
        begins, failed = [0.0], 0
        for delay in self.delays[: copies - 1]:
            due, failure = begins[-1] + delay, begins[failed] + longest
            begins.append(min(due, failure))
            failed += failure <= due
        return begins[-1], not failed

    def _surely_lasts(self, inner: Inside, view: View, *, overlap: bool) -> float:
        """Seconds that it can take."""
        one = inner(view)
        longest, room = one.seconds.sure, one.at_once if overlap else min(one.at_once, one.allowed)
        if not one.fails:  # the first copy answers, or one that found no room
            return longest if one.at_once >= self.copies else min(longest, self.delays[0])
        last, _ = self._last_begins(longest, int(min(self.copies, max(1, room))))
        if last >= view.within:
            return view.within
        return max(longest, last + inner(view.after(last)).seconds.sure)

    def _surely(self, one: Worst, view: View) -> int:
        """How many copies there can be: each begins when the one before it has failed, or later."""
        copies = min(self.copies, max(1, one.allowed))
        if not one.fails:
            copies = 1
        if one.quick:  # then they overlap, or it takes time
            copies = min(copies, max(1, one.at_once), max(1, view.within // one.quick))
        return int(copies)

    def meets(self, end: End) -> Meeting | None:
        if self.shadow:
            return None
        if end.error is not None and not isinstance(end.error, Exception):
            return Meeting("cancels its copies")
        if isinstance(end.error, Rejected) or end.helps_to_repeat:
            return Meeting("starts the next copy at once, and waits for the others; passes it on when all have failed")
        return Meeting("ends the race")

    @property
    def inactive(self) -> str | None:
        return "in shadow mode it only counts" if self.shadow else None

    def unfit(self, *, is_async: bool, block: bool) -> str | None:
        if block:
            return "a block runs once; hedge a function"
        if not is_async and not self.thread and not self.shadow:
            return "copies of a plain def need threads: say Hedge(..., thread=True)"
        return None

    async def drain(self, runtime: Runtime) -> None:
        await self.stragglers.drain(runtime)

    def snapshot(self) -> dict[str, Any]:
        """Further copies `started`, of which `won`; losers that are still ending; what shadow would have started."""
        return {
            "started": self.started,
            "won": self.won,
            "stragglers": self.stragglers.count,
            **({"would_have_started": self.would_have_started} if self.shadow else {}),
            **({} if self.budget is None else {"budget": self.budget.snapshot()}),
        }

    def describe(self) -> str:
        after = ", ".join(f"{delay:g}" for delay in dict.fromkeys(self.delays))
        flags = "".join(f", {flag}" for flag in ("inline", "thread", "shadow") if getattr(self, flag))
        return f"Hedge({self.copies} copies, after {after} s{flags})"


def _delays(delay: object, copies: object) -> tuple[float, ...]:
    if isinstance(delay, Sequence) and not isinstance(delay, str | bytes):
        delays = tuple(arguments.seconds(f"delay[{at}]", each, zero=True) for at, each in enumerate(delay))
        if not delays:
            raise ValueError(f"delay must have a number of seconds for each further copy, got {delay!r}")
        if copies is not None and arguments.count("copies", copies, least=2) != len(delays) + 1:
            raise ValueError(f"copies={copies!r} does not fit {len(delays)} delays: leave one of them out")
        return delays
    return (arguments.seconds("delay", delay, zero=True),) * (
        1 if copies is None else arguments.count("copies", copies, least=2) - 1
    )
