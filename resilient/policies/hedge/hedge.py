"""Hedge: when an answer is late, send the call once more and take the first acceptable outcome.

Most slow answers are slow by chance (a pause, a queue, a lost packet), and a second copy is seldom slow for the same
reason. A hedge that starts when 2% of the calls are still running costs 2% more requests and removes the worst of the
tail (J. Dean, L. Barroso, The Tail at Scale, 2013).

The first *acceptable* outcome wins. A fast failure does not win: it starts the next copy at once, or none if it asks
for a pause (`retry_after`). An outcome that repeating cannot change (a fatal failure, an error that says nothing about
the dependency) ends the race. Losers are cancelled; their clean-up does not delay the winner. The states of a copy
stand in `resilient.policies.hedge.race`.

The best delay follows the latest latencies of the dependency: `Hedge(delay=quantile(0.95))` observes how long calls
take and waits for the p95 (see `resilient.policies.hedge.delay`). Only first copies are observed, because the end of a
later one depends on the race (see `resilient.policies.hedge.latency_sample`).

Copies are tasks, each with its own context; the winner's context is merged back. With `inline=True` the first copy runs
in the caller's own task, at a sixth of the cost, but its clean-up delays the winner (see `Hedge`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Coroutine, Hashable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal, Self, get_args

from resilient import _validation
from resilient.core.background import Stragglers
from resilient.core.budget import Budget
from resilient.core.call import Call
from resilient.core.callbacks import ask_about_call
from resilient.core.context import PipelineContext
from resilient.core.deadline import in_callers_time
from resilient.core.facts import IN_SHADOW, Facts
from resilient.core.layer import BoundLayer, Layer
from resilient.core.policy import Wrap
from resilient.core.worst_case import Bound, Ending, InnerCost, Reaction, Surroundings, WorstCase, share
from resilient.events import Hedging
from resilient.policies.hedge.delay import Delays, Observed, PerKey, quantile
from resilient.policies.hedge.inline import InlineRace
from resilient.policies.hedge.latency_sample import LatencySample
from resilient.policies.hedge.race import Counts, Race, Settings, judged, wants_another
from resilient.runtime import Runtime
from resilient.runtime.asyncio import AsyncioRuntime
from resilient.runtime.threads import THREADS

__all__ = ["Hedge"]

Cancel = Literal["now", "late"]


class Hedge(Wrap, example="0.5", judgements=("key", "accept")):
    """Starts further copies of a late call and takes the first acceptable outcome.

    Args:
        delay: seconds after which the next copy starts; or a sequence, one number for each further copy; or
            `quantile(0.95)`, to take it from observed latencies. No default: p95 costs 5% more requests, p98 2%.
        copies: calls at the most, the first one included. Default 2 (Microsoft's handler: one hedge), or one more than
            there are delays.
        key: a function that returns the key of a call from its arguments, as for `Keyed`: the latencies of each key are
            observed separately. Default None: all together. (The HTTP transports observe each origin separately.)
        max_keys: the most keys whose latencies are kept. Default 1,024, of 9 KB each.
        accept: a predicate of a result, called with each result that the pipeline does not classify as a failure. A
            result that it refuses does not win, and starts the next copy. If it raises, the caller gets its error.
        cancel: what happens to losers. "now" (default): they are cancelled. "late": they run to their own end, or to
            that of a Timeout inside. Then they hold their permits until they have ended, and the dependency does their
            work for nothing; but an HTTP/1 connection can be used again, which a cancelled request closes. Losers above
            `max_stragglers`, and those of a cancelled caller, are cancelled all the same.
        inline: run the first copy in the caller's own task and context: cheap as long as no further copy starts. But
            the clean-up of a losing first copy delays the winner, it may swallow the cancellation, and what it has set
            in its context stays. For functions whose clean-up is known. asyncio only; elsewhere copies are tasks.
        thread: around a plain `def`, run each copy in a thread (which cannot be stopped). No effect on `async def`.
        budget: the `Budget` that pays for further copies. Without a token no further copy starts; running copies go on.
        max_stragglers: no further copies start while this many losers have not ended yet. Default 100.
        shadow: run one copy, and count the calls for which another one would have started.
        name: for events; default "Hedge".

    When all copies fail, the caller gets the outcome (an error, or a result that is not acceptable) of the copy that
    asks for the longest pause; where no copy asks for one, of the first copy.
    """

    def __init__(
        self,
        delay: float | Sequence[float] | quantile,
        *,
        copies: int | None = None,
        key: Callable[..., Hashable] | None = None,
        max_keys: int = 1024,
        accept: Callable[[Any], bool] | None = None,
        cancel: Cancel = "now",
        inline: bool = False,
        thread: bool = False,
        budget: Budget | None = None,
        max_stragglers: int = 100,
        shadow: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.observes = delay if isinstance(delay, quantile) else None
        """The quantile whose latencies are observed; None: the delays are fixed."""
        self.delays: Delays = _delays(delay, copies)
        """The delays of a call as long as nothing has been observed."""
        more = len(self.delays)
        self.copies = more + 1
        known = _known(self.delays)
        shortest, self._longest = (known, known) if self.observes is None else self.observes.bounds(more)
        self._alike = None if self.observes is None else Observed(self.observes, more)
        """The observed latencies of all calls; None: delays are fixed, or latencies are observed by key."""
        self._observed: Observed | PerKey | None = self._alike
        self._key: Callable[..., Hashable] | None = None
        if key is not None:
            if self.observes is None:
                raise ValueError(f"key= has no meaning with delays that are not observed, as {delay!r}")
            self._observe_by(key, max_keys)
        accept = None if accept is None else _validation.callback("accept", accept)
        self.inline = _validation.flag("inline", inline)
        self.thread = _validation.flag("thread", thread)
        if self.inline and self.thread:
            raise ValueError("inline=True has no meaning with thread=True: a thread cannot be stopped for the winner")
        if cancel not in get_args(Cancel):
            raise ValueError(f"cancel must be one of {', '.join(get_args(Cancel))}, got {cancel!r}")
        self._late = cancel == "late"
        if self.inline and self._late:
            raise ValueError("cancel='late' has no meaning with inline=True: the caller's own task is the loser then")
        self.budget = _validation.instance("budget", budget, Budget)
        self.shadow = _validation.flag("shadow", shadow)
        stragglers = Stragglers(_validation.count("max_stragglers", max_stragglers))
        self._race = Settings(
            name=self.name,
            copies=self.copies,
            delays=self.delays,
            accept=accept,
            late=self._late,
            budget=self.budget,
            stragglers=stragglers,
        )
        lingers = self._late and not self.shadow
        self.facts = Facts(
            runs=self.copies,
            overlaps=True,
            head_start=sum(shortest) / more,
            extra=0.0 if self.observes is None else 1 - self.observes.share,
            pause=sum(self._longest) if math.isfinite(self._longest[-1]) else None,
            budget=self.budget,
            lingers=lingers,
            outlived=lingers or (self.thread and not self.shadow),
            inactive=IN_SHADOW if self.shadow else None,
        )

    def _observe_by(self, key: Callable[..., Hashable], max_keys: int) -> None:
        assert self.observes is not None
        self._key = key if inspect.isclass(key) else _validation.callback("key", key)
        self._alike = None
        self._observed = PerKey(self.observes, len(self.delays), _validation.count("max_keys", max_keys))

    def _by(self, key: Callable[..., Hashable], max_keys: int) -> Self:
        """A Hedge with the same settings, budget and stragglers that observes the latencies of each key separately. For
        our HTTP transports."""
        derived = self._derived(key=key, max_keys=max_keys)
        derived._race = replace(self._race, counts=Counts())
        derived._observe_by(key, max_keys)
        return derived

    def _found_by(self, key: Callable[..., Hashable]) -> Self:
        """A Hedge that shares the observed latencies of each key with this one, and finds the key of a call by another
        function. For our HTTP transports."""
        if key is self._key:
            return self
        derived = self._derived(key=key)
        derived._race = replace(self._race, counts=copy(self._race.counts))
        derived._key = key
        return derived

    @property
    def _observes_all_alike(self) -> bool:
        """Whether the latencies of all calls are observed together, without keys."""
        return self._alike is not None

    def _latencies_of(self, call: Call) -> Observed | None:
        """The observed latencies for this call, by its key; None: its delays are fixed. Raises a `CallbackError` where
        the key function raises."""
        observed, key = self._observed, self._key
        if key is None or not isinstance(observed, PerKey):
            return observed  # type: ignore[return-value]
        return observed.of(ask_about_call(call, key))

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        rest, settings = inner.run, self._race

        async def watch(call: Call) -> Any:
            return await self._observe_alone(call, rest, context)

        def race(call: Call) -> Coroutine[Any, Any, Any]:
            if context.mode == "once":
                return rest(call) if self.observes is None else watch(call)
            observed = self._alike or (None if self.observes is None else self._latencies_of(call))
            if self.inline and isinstance(call.runtime, AsyncioRuntime):
                return InlineRace(settings, call, rest, context, observed).run(call.runtime)
            copies = Race(settings, call, rest, context, observed)
            if call.runtime is THREADS:
                return in_callers_time(call, context, lambda _: copies.decide())
            return copies.decide()

        return BoundLayer(watch if self.shadow else race)

    async def _observe_alone(self, call: Call, inner: Layer, context: PipelineContext) -> Any:
        """Run one copy only, and observe its latency. In shadow mode, count and report it if a further copy would have
        started."""
        observed, now = self._latencies_of(call), call.runtime.now
        delay = (self.delays if observed is None else observed.delays)[0]
        first = LatencySample()
        first.observe(call, observed)
        begin, again = now(), False
        try:
            result = await inner(call)
            verdict = judged(context, call, self._race.accept, result)
            again = wants_another(verdict)
            first.ended(None, verdict, call)
            return result
        except Exception as error:
            verdict = context.on_error(call, error)
            again = wants_another(verdict)
            first.ended(error, verdict, call)
            raise
        finally:
            late = delay is not None and now() - begin >= delay
            if self.shadow and (late or again):
                self._race.counts.would_have_started += 1
                context.counters.count("shadow.actions", self.name, "hedge")
                if context.channel.wants[Hedging]:
                    reason = "delay" if late else "failure"
                    context.channel.emit(Hedging(context.name, now(), self.name, 2, reason, shadow=True))

    def _unfit(self, *, is_async: bool, block: bool) -> str | None:
        if block:
            return "a block runs once; hedge a function"
        if not is_async and not self.thread and not self.shadow:
            return "copies of a plain def need threads: say Hedge(..., thread=True)"
        return None

    def _renew(self) -> None:
        super()._renew()
        self._race.stragglers.renew()
        if self._observed is not None:
            self._observed.renew()

    async def _drain(self, runtime: Runtime) -> None:
        await self._race.stragglers.drain(runtime)

    def snapshot(self) -> dict[str, Any]:
        """The counters and observed delays of the policy, as plain data: further copies `started`, how many of those
        have `won`, `stragglers` (losers that have not ended yet); in shadow mode, copies that it `would_have_started`.
        Where latencies are observed, the current `delays` (None: lateness does not start the next copy) and the number
        of `samples`; or, by key, the number of `keys`, and what was `observed` of the 100 used last."""
        counts = self._race.counts
        return {
            **({} if self._observed is None else self._observed.snapshot()),
            "started": counts.started,
            "won": counts.won,
            "stragglers": self._race.stragglers.count,
            **({"would_have_started": counts.would_have_started} if self.shadow else {}),
            **({} if self.budget is None else {"budget": self.budget.snapshot()}),
        }

    def describe(self) -> str:
        after = str(self.observes)
        if self.observes is None:
            after = ", ".join(f"{delay:g}" for delay in dict.fromkeys(self.delays)) + " s"
        if self._key is not None:
            after += " of each key"
        flags = {"inline": self.inline, "thread": self.thread, "late": self._late, "shadow": self.shadow}
        shown = "".join(f", {flag}" for flag, is_set in flags.items() if is_set)
        return f"Hedge({self.copies} copies, after {after}{shown})"

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        if self.shadow:
            return inner(around)
        around = replace(around, again=True)
        one = inner(around)
        # At the latest, a copy begins when it is due, or when the copy before it has failed. Failures of earlier copies
        # may have come at the moment at which another copy was due, and so have started none.
        begins = sum(min(delay, one.seconds.most) for delay in self._longest)
        most = begins + one.seconds.most
        _, overlap = self._last_begins(self._fresh, one.seconds.sure, self.copies)
        sure = self._sure_seconds(inner, around, overlap=overlap)
        copies = self._sure_copies(one, around)
        why = one.why
        if most < math.inf:
            why = f"{self.copies} copies of {one.seconds.most:.4g} s, the last of which begins after {begins:.4g} s"
        return replace(
            one,
            seconds=Bound(sure, most).up_to(around.within),
            requests=Bound(one.requests.sure * copies, one.requests.most * self.copies),
            why=why,
            quick=one.quick * copies,
            max_failing_runs=share(one.max_failing_runs, self.copies),
            at_once=share(one.at_once, self.copies),
            asks=one.asks and overlap,
        )

    @property
    def _fresh(self) -> tuple[float, ...]:
        """The delays of a new Hedge, which has observed nothing: infinite where only a failure starts the next copy."""
        return _known(self.delays)

    @staticmethod
    def _last_begins(delays: Sequence[float], longest: float, copies: int) -> tuple[float, bool]:
        """Seconds until the last copy begins, if each copy takes `longest` and fails; and whether no copy has failed by
        then."""
        begins, failed = [0.0], 0
        for delay in delays[: copies - 1]:
            due, failure = begins[-1] + delay, begins[failed] + longest
            begins.append(min(due, failure))
            failed += failure <= due
        return begins[-1], not failed

    def _sure_seconds(self, inner: InnerCost, around: Surroundings, *, overlap: bool) -> float:
        """The seconds that a call is certain to take in the worst case: the lower bound of `WorstCase.seconds`."""
        one = inner(around)
        longest, room = one.seconds.sure, one.at_once if overlap else min(one.at_once, one.max_failing_runs)
        if not one.fails:  # the first copy answers, or one for which the gates have no room
            return longest if one.at_once >= self.copies else min(longest, self._fresh[0])
        last, _ = self._last_begins(self._fresh, longest, int(min(self.copies, max(1, room))))
        if last >= around.within:
            return around.within
        return max(longest, last + inner(around.after(last)).seconds.sure)

    def _sure_copies(self, one: WorstCase, around: Surroundings) -> int:
        """The number of copies that are certain to start in the worst case, each after a failure of the one before."""
        copies = min(self.copies, max(1, one.max_failing_runs))
        if not one.fails:
            copies = 1
        if one.quick or not min(self._fresh):  # copies run at the same time, or each takes time
            copies = min(copies, max(1, one.at_once), max(1, around.within // one.quick if one.quick else math.inf))
        return int(copies)

    def meets(self, end: Ending) -> Reaction | None:
        if self.shadow:
            return None
        if end.error is not None and not isinstance(end.error, Exception):
            return Reaction("cancels its copies")
        if (end.verdict is not None and end.verdict.refused) or end.worth_repeating:
            return Reaction("starts the next copy at once, and waits for the others; passes it on when all have failed")
        return Reaction("ends the race")


def _delays(delay: object, copies: object) -> Delays:
    if isinstance(delay, Sequence) and not isinstance(delay, str | bytes):
        delays = tuple(_validation.seconds(f"delay[{at}]", each, zero=True) for at, each in enumerate(delay))
        if not delays:
            raise ValueError(f"delay must have a number of seconds for each further copy, got {delay!r}")
        if copies is not None and _validation.count("copies", copies, least=2) != len(delays) + 1:
            raise ValueError(f"copies={copies!r} does not fit {len(delays)} delays: leave one of them out")
        return delays
    more = 1 if copies is None else _validation.count("copies", copies, least=2) - 1
    if isinstance(delay, quantile):
        return delay.first(more)
    return (_validation.seconds("delay", delay, zero=True),) * more


def _known(delays: Delays) -> tuple[float, ...]:
    return tuple(math.inf if delay is None else delay for delay in delays)
