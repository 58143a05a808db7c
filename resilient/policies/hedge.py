"""Hedge: when an answer is late, ask once more and take the first good one.

Most slow answers are slow by bad luck (a pause, a queue, a lost packet), and a second copy seldom has the same. A hedge
that starts when 2% of calls are still out costs 2% more requests and takes the worst of the tail away (J. Dean,
L. Barroso, The Tail at Scale, 2013).

The first *acceptable* outcome wins. A fast failure does not: it starts the next copy at once. An outcome that repeating
cannot change (a fatal failure, an error that says nothing about the dependency) ends all. Losers are cancelled, and
awaited and closed off the winner's path.

Copies are tasks, each with a context of its own; the winner's is merged back. With `inline=True` the first copy runs in
the caller's own task, at a quarter of the cost, but with its clean-up on the winner's path (see `Hedge`).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from resilient import arguments
from resilient.beside import Beside, Stragglers, close_beside
from resilient.budget import Budget
from resilient.call import Call
from resilient.current import around, beside
from resilient.errors import Rejected
from resilient.events import BudgetExhausted, HedgeWon, Hedging
from resilient.outcome import Verdict
from resilient.policy import Layer, Scope, Wrap
from resilient.runtime import Parking, Runtime
from resilient.runtime.asyncio import AsyncioRuntime, Callback

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

    When all copies fail, the first one's error (or unacceptable result) is what comes back.
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

    async def run(self, call: Call, inner: Layer, scope: Scope) -> Any:
        if scope.mode == "once":
            return await inner(call)
        if self.shadow:
            return await self._watch(call, inner, scope)
        if self.inline and isinstance(call.runtime, AsyncioRuntime):
            return await _InlineRace(self, call, inner, scope, call.runtime).run()
        return await _Race(self, call, inner, scope).run()

    async def _watch(self, call: Call, inner: Layer, scope: Scope) -> Any:
        """Shadow: run one copy and see whether it would have been hedged."""
        now = call.runtime.now
        begin, reason = now(), "delay"
        try:
            result = await inner(call)
            if scope.judge.judges_results and _goes_on(scope.judge.result(result)):
                reason = "failure"
            return result
        except Exception as error:
            if _goes_on(scope.judge.error(error), error):
                reason = "failure"
            raise
        finally:
            late = now() - begin >= self.delays[0]
            if late or reason == "failure":
                reason = "delay" if late else reason
                self.would_have_started += 1
                if scope.channel.listeners:
                    scope.channel.emit(Hedging(scope.name, now(), self.name, 2, reason, shadow=True))

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


def _goes_on(verdict: Verdict, error: BaseException | None = None) -> bool:
    """Whether an outcome leaves the race open: another copy may do better. (A refused one may be sent elsewhere.)"""
    if isinstance(error, Rejected):
        return True
    return verdict.retryable and verdict.kind != "success"


class _Primary:
    """The outcome of a first copy that ran in the caller's own task; otherwise like a `Beside`."""

    number = 1

    def __init__(self, error: BaseException | None, result: Any) -> None:
        self.error = error
        self.result = result

    def take(self) -> Any:
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            del error  # its traceback leads to this frame


Copy = Beside | _Primary


class _Race:
    """The copies of one call, all of them beside the caller."""

    begun = 0
    may_start = True
    first: Copy | None = None  # of those that failed; its outcome comes back when all do
    _over = False
    _parking: Parking | None = None

    def __init__(self, hedge: Hedge, call: Call, inner: Layer, scope: Scope) -> None:
        self.hedge = hedge
        self.call = call
        self.inner = inner
        self.scope = scope
        self.prepare()

    def prepare(self) -> None:
        """For copies beside the caller."""
        self.running: list[Copy] = []
        self._lock = threading.Lock()  # copies in threads end when they like
        self._ended: deque[Copy] = deque()

    # -- copies -------------------------------------------------------------------------------------------------

    def start(self, reason: str) -> None:
        """Begin the next copy, if there may be one. The first is free."""
        hedge, scope = self.hedge, self.scope
        if self.begun:
            if hedge.stragglers.full:
                self.may_start = False
            if not self.may_start or self.begun >= hedge.copies:
                return
            now = self.call.runtime.now()
            if hedge.budget is not None and not hedge.budget.spend(now):
                self.may_start = False
                if scope.channel.listeners:
                    scope.channel.emit(BudgetExhausted(scope.name, now, hedge.name, "hedge"))
                return
            hedge.started += 1
            if scope.channel.listeners:
                scope.channel.emit(Hedging(scope.name, now, hedge.name, self.begun + 1, reason))
        self.begun += 1
        self.running.append(Beside(self.call, self.inner, hedge.stragglers, self._copy_ended, self.begun))

    @property
    def wait(self) -> float | None:
        """Seconds until the next copy is due, or None when there is none."""
        more = self.may_start and self.begun < self.hedge.copies
        return self.hedge.delays[self.begun - 1] if more else None

    def _copy_ended(self, copy: Copy) -> bool:
        """In the copy's own task or thread."""
        with self._lock:
            if self._over:
                return True
            self._ended.append(copy)
            if self._parking is not None:
                self._parking.wake()
            return False

    def drop(self, copy: Copy) -> None:
        """Close its result, if it has one, beside the caller."""
        if copy.error is None:
            self.hedge.stragglers.add()
            close_beside(None, copy.result, self.call.runtime, self.hedge.stragglers)

    def end(self, winner: Copy | None) -> None:
        """It is over: cancel the others, and do not wait for them."""
        with self._lock:
            self._over = True
            ended = list(self._ended)  # in the same tick as the winner
            losers = [copy for copy in self.running if copy is not winner and copy not in ended]
            for _ in losers:
                self.hedge.stragglers.add()
        if winner is None and self.first is None and losers and isinstance(losers[0], Beside):
            self.call.waited = max(self.call.waited, losers[0].waited())  # its Timeout outside asks for it
        for loser in losers:
            if isinstance(loser, Beside):
                loser.cancel()
        for copy in (*ended, self.first):
            if copy is not None and copy is not winner:
                self.drop(copy)

    def leaves_open(self, copy: Copy) -> bool:
        """Whether the race goes on after this copy's outcome."""
        error, judge = copy.error, self.scope.judge
        try:
            if error is None:
                return judge.judges_results and _goes_on(judge.result(copy.result))
            return isinstance(error, Exception) and _goes_on(judge.error(error), error)
        except Exception as mistake:  # of the user's predicate: the caller shall hear of it
            if error is None:
                self.drop(_Primary(None, copy.result))
            copy.error = mistake
            return False

    def failed(self, copy: Copy) -> None:
        """A copy was of no use: keep the first one's outcome, and start the next at once."""
        if self.first is None or copy.number < self.first.number:
            self.first, copy = copy, self.first or copy
        if copy is not self.first:
            self.drop(copy)
        self.start("failure")

    # -- the race -----------------------------------------------------------------------------------------------

    async def run(self) -> Any:
        """What the caller gets."""
        self.start("")
        return self.take(await self.decide())

    async def decide(self) -> Copy:
        """Wait for the copy whose outcome counts, and start further ones when they are due."""
        winner: Copy | None = None
        try:
            while winner is None:
                while winner is None and self._ended:
                    copy = self._ended.popleft()
                    self.running.remove(copy)
                    if self.leaves_open(copy):
                        self.failed(copy)
                    else:
                        winner = copy
                if winner is None and not self.running:
                    winner = self.first
                if winner is None:
                    with self._lock:
                        self._parking = self.call.runtime.park()
                        waiting = not self._ended
                    if waiting and not await self._parking.wait(self.wait, self.call):
                        self.start("delay")
        finally:
            self.end(winner)
        assert winner is not None
        return winner

    def take(self, winner: Copy) -> Any:
        """The outcome that counts."""
        hedge, scope = self.hedge, self.scope
        if self.begun > 1:
            hedge.won += winner.number > 1 and winner is not self.first
            if scope.channel.listeners and winner is not self.first:
                at = self.call.runtime.now()
                scope.channel.emit(HedgeWon(scope.name, at, hedge.name, winner.number, self.begun))
        return winner.take()


class _InlineRace(_Race):
    """The first copy runs here, in the caller's task; further ones beside it."""

    begun = 1
    winner: Copy | None = None  # for whom the first copy is cancelled
    inside = True  # the first copy runs

    def __init__(self, hedge: Hedge, call: Call, inner: Layer, scope: Scope, runtime: AsyncioRuntime) -> None:
        # Not `super().__init__`: what most calls never need is prepared when it is.
        self.hedge = hedge
        self.call = call
        self.inner = inner
        self.scope = scope
        task = asyncio.current_task(runtime.loop)
        assert task is not None
        self.task = task
        self.runtime = runtime
        self.context = contextvars.copy_context()  # a timer runs in that of whoever armed it
        self.timer: Callback | None = runtime.after(hedge.delays[0], self.due)

    def due(self) -> None:
        self.begin("delay")

    def begin(self, reason: str) -> None:
        """Begin the next copy while the first one runs."""
        if self.winner is not None:
            return
        if self.timer is not None:
            self.timer.cancel()
        if self.begun == 1:
            self.prepare()
        self.context.run(self._begin, reason)
        self.timer = None if self.wait is None else self.runtime.after(self.wait, self.due)

    def _begin(self, reason: str) -> None:
        beside.set(around(self, self.task.get_coro()))
        self.start(reason)

    def _copy_ended(self, copy: Copy) -> bool:
        if not self.inside:
            return super()._copy_ended(copy)
        self.running.remove(copy)
        if self.leaves_open(copy):
            self.drop(copy)
            self.begin("failure")
        elif self.winner is None:
            self.winner = copy
            self.task.cancel()
        else:
            self.drop(copy)
        return False

    async def run(self) -> Any:
        base = self.task.cancelling()
        primary: _Primary | None = None
        try:
            result = await self.inner(self.call)
            if self.begun == 1 and not self.scope.judge.judges_results:
                return result
            primary = _Primary(None, result)
        except BaseException as error:
            winner = self.winner
            if winner is None or self.task.uncancel() > base or not isinstance(error, asyncio.CancelledError):
                if not isinstance(error, Exception):
                    if winner is not None:
                        self.drop(winner)
                    if self.begun > 1:
                        self.end(None)
                    raise
                primary = _Primary(error, None)
        else:
            if self.winner is not None:
                self.task.uncancel()  # the callee swallowed the cancel and has a result all the same
        finally:
            self.inside = False
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
        if self.begun == 1:
            self.prepare()
        winner = self.winner
        if primary is not None:
            if not self.leaves_open(primary):
                if winner is not None:
                    self.drop(winner)  # both in one tick
                winner = primary
            elif winner is None:
                self.failed(primary)
                return self.take(await self.decide())
            else:
                self.drop(primary)  # it answered the cancellation with a failure
        assert winner is not None
        self.end(winner)
        return self.take(winner)
