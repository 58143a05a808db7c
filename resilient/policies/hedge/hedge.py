"""Hedge: when an answer is late, ask once more and take the first good one.

Most slow answers are slow by bad luck (a pause, a queue, a lost packet), and a second copy seldom has the same. A hedge
that starts when 2% of calls are still out costs 2% more requests and takes the worst of the tail away (J. Dean,
L. Barroso, The Tail at Scale, 2013).

The first *acceptable* outcome wins. A fast failure does not: it starts the next copy at once, or none if it asks for a
pause (`retry_after`). An outcome that repeating cannot change (a fatal failure, an error that says nothing about the
dependency) ends all. Losers are cancelled, and awaited and closed off the winner's path.

The best delay is the dependency's own, as of lately: `Hedge(delay=quantile(0.95))` observes how long calls take and
waits for the p95 (see `resilient.policies.hedge.delay`). Only first copies are observed, for how a later one ends
depends on the race. A success tells its latency. One that was superseded, timed out, or failed although it was late,
had no answer at an age that is beyond the delay, and this age is on the right side of the quantile. A failure that came
before the delay tells nothing; nor does a refusal, a caller's cancellation or an inherited deadline. Time in local
queues is no latency.

Copies are tasks, each with a context of its own; the winner's is merged back. With `inline=True` the first copy runs in
the caller's own task, at a sixth of the cost, but with its clean-up on the winner's path (see `Hedge`).
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
from resilient.core.deadline import in_callers_time
from resilient.core.facts import Facts
from resilient.core.layer import BoundLayer, Layer
from resilient.core.policy import IN_SHADOW, PipelineContext, Wrap
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
    """Starts further copies of a call that is late, and takes the first acceptable outcome.

    Args:
        delay: seconds after which the next copy starts; or a sequence, one for each further copy; or `quantile(0.95)`,
            to take it from the latencies that are observed. No default: p95 costs 5% more requests, p98 2%.
        copies: calls at the most, the first included. Default 2 (Microsoft's handler: one hedge), or one more than
            there are delays.
        key: the key of a call, by its arguments, as for `Keyed`: then the latencies of each key are observed by
            themselves. Default None: all together. (The HTTP transports observe each origin by itself.)
        max_keys: keys that are remembered. Default 1,024, of 9 KB each.
        accept: asked about every result that the pipeline does not judge a failure. One that it refuses does not win,
            and starts the next copy. What it raises is an error of the caller.
        cancel: what becomes of those that lose: "now" (default) they are cancelled; "late" they are left to end by
            themselves, or by a Timeout inside. Then they hold their permits until they have ended, and the dependency
            does their work for nothing; but an HTTP/1 connection can be used again, which a cancelled request closes.
            With more than `max_stragglers` of them, and where the caller is cancelled, they are cancelled all the same.
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
        """The quantile that is observed, if one is."""
        self.delays: Delays = _delays(delay, copies)
        """Those of a call, while nothing has been observed."""
        more = len(self.delays)
        self.copies = more + 1
        known = _known(self.delays)
        shortest, self.longest = (known, known) if self.observes is None else self.observes.bounds(more)
        self.alike = None if self.observes is None else Observed(self.observes, more)
        """What is known of all calls, if they have no keys."""
        self._observed: Observed | PerKey | None = self.alike
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
        self.late = cancel == "late"
        if self.inline and self.late:
            raise ValueError("cancel='late' has no meaning with inline=True: the caller's own task is the loser then")
        self.budget = _validation.instance("budget", budget, Budget)
        self.shadow = _validation.flag("shadow", shadow)
        stragglers = Stragglers(_validation.count("max_stragglers", max_stragglers))
        self._race = Settings(self.name, self.copies, self.delays, accept, self.late, self.budget, stragglers)
        lingers = self.late and not self.shadow
        self.facts = Facts(
            runs=self.copies,
            overlaps=True,
            head_start=sum(shortest) / more,
            extra=0.0 if self.observes is None else 1 - self.observes.share,
            pause=sum(self.longest) if math.isfinite(self.longest[-1]) else None,
            budget=self.budget,
            lingers=lingers,
            outlived=lingers or (self.thread and not self.shadow),
            inactive=IN_SHADOW if self.shadow else None,
        )

    def _observe_by(self, key: Callable[..., Hashable], max_keys: int) -> None:
        assert self.observes is not None
        self._key = key if inspect.isclass(key) else _validation.callback("key", key)
        self.alike = None
        self._observed = PerKey(self.observes, len(self.delays), _validation.count("max_keys", max_keys))

    def _by(self, key: Callable[..., Hashable], max_keys: int) -> Self:
        """One like it that observes each key by itself, with the same budget and stragglers. (For our transports.)"""
        derived = self._derived(key=key, max_keys=max_keys)
        derived._race = replace(self._race, counts=Counts())
        derived._observe_by(key, max_keys)
        return derived

    def _found_by(self, key: Callable[..., Hashable]) -> Self:
        """One like it that knows the same latencies of each key, by the keys of another function."""
        if key is self._key:
            return self
        derived = self._derived(key=key)
        derived._race = replace(self._race, counts=copy(self._race.counts))
        derived._key = key
        return derived

    @property
    def _observes_all_alike(self) -> bool:
        """Whether latencies are observed, and nobody has said of which key."""
        return self.alike is not None

    def observed(self, call: Call) -> Observed | None:
        """What is known of the latencies of calls like this one; None: its delays are fixed."""
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
            observed = self.alike or (None if self.observes is None else self.observed(call))
            if self.inline and isinstance(call.runtime, AsyncioRuntime):
                return InlineRace(settings, call, rest, context, observed).run(call.runtime)
            copies = Race(settings, call, rest, context, observed)
            if call.runtime is THREADS:
                return in_callers_time(call, context, lambda _: copies.decide())
            return copies.decide()

        return BoundLayer(watch if self.shadow else race)

    async def _observe_alone(self, call: Call, inner: Layer, context: PipelineContext) -> Any:
        """One copy alone: observe it, and in shadow see whether it would have been hedged."""
        observed, now = self.observed(call), call.runtime.now
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
                if context.channel.wants[Hedging]:
                    reason = "delay" if late else "failure"
                    context.channel.emit(Hedging(context.name, now(), self.name, 2, reason, shadow=True))

    def worst(self, inner: InnerCost, view: Surroundings) -> WorstCase:
        if self.shadow:
            return inner(view)
        view = replace(view, again=True)
        one = inner(view)
        # At the latest, each begins when it is due, or the one before it has failed; those before that may have failed
        # in the very moment in which another one was due.
        begins = sum(min(delay, one.seconds.most) for delay in self.longest)
        most = begins + one.seconds.most
        _, overlap = self._last_begins(self._fresh, one.seconds.sure, self.copies)
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

    @property
    def _fresh(self) -> tuple[float, ...]:
        """Delays that there surely can be: as long as nothing has been observed."""
        return _known(self.delays)

    @staticmethod
    def _last_begins(delays: Sequence[float], longest: float, copies: int) -> tuple[float, bool]:
        """When the last copy begins, if each takes its longest and fails; and whether none has failed by then."""
        begins, failed = [0.0], 0
        for delay in delays[: copies - 1]:
            due, failure = begins[-1] + delay, begins[failed] + longest
            begins.append(min(due, failure))
            failed += failure <= due
        return begins[-1], not failed

    def _surely_lasts(self, inner: InnerCost, view: Surroundings, *, overlap: bool) -> float:
        """Seconds that it can take."""
        one = inner(view)
        longest, room = one.seconds.sure, one.at_once if overlap else min(one.at_once, one.allowed)
        if not one.fails:  # the first copy answers, or one that found no room
            return longest if one.at_once >= self.copies else min(longest, self._fresh[0])
        last, _ = self._last_begins(self._fresh, longest, int(min(self.copies, max(1, room))))
        if last >= view.within:
            return view.within
        return max(longest, last + inner(view.after(last)).seconds.sure)

    def _surely(self, one: WorstCase, view: Surroundings) -> int:
        """How many copies there can be: each begins when the one before it has failed, or later."""
        copies = min(self.copies, max(1, one.allowed))
        if not one.fails:
            copies = 1
        if one.quick or not min(self._fresh):  # then they overlap, or it takes time
            copies = min(copies, max(1, one.at_once), max(1, view.within // one.quick if one.quick else math.inf))
        return int(copies)

    def meets(self, end: Ending) -> Reaction | None:
        if self.shadow:
            return None
        if end.error is not None and not isinstance(end.error, Exception):
            return Reaction("cancels its copies")
        if (end.verdict is not None and end.verdict.refused) or end.worth_repeating:
            return Reaction("starts the next copy at once, and waits for the others; passes it on when all have failed")
        return Reaction("ends the race")

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
        """Further copies `started`, of which `won`; losers that are still ending; what shadow would have started. Where
        latencies are observed, the `delays` of now (None: the next copy does not start for being late) and the number
        of `samples`; or, by key, how many `keys` there are, and what was `observed` of the 100 used last."""
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
        flags = "".join(f", {flag}" for flag in ("inline", "thread", "late", "shadow") if getattr(self, flag))
        return f"Hedge({self.copies} copies, after {after}{flags})"


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
