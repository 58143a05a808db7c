"""Chaos: injects faults into real calls, to show before an outage whether their policies hold.

It represents a dependency that fails, so it stands innermost: its faults are classified, counted and retried like the
dependency's own failures. After Polly's Simmy and Envoy's fault filter; the faults are those of `resilient.faults`.

    users = Pipeline(Timeout(10), Retry(attempts=3), CircuitBreaker(), Timeout(2),
                     Chaos(Latency(share=0.1, low=1, high=3), Errors(share=0.05, start=60, end=120)))

Nothing happens unless it is switched on: by `enabled=`, or where that is not given, by `RESILIENT_CHAOS=1` in the
environment. It stops by itself when too many calls of its pipeline fail *for their callers*, after all retries and
fallbacks: an experiment should cost no more than was agreed on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from resilient import _validation
from resilient.chaos.experiment import Enabled, Experiment
from resilient.core.background import discard, is_own
from resilient.core.call import Call
from resilient.core.callbacks import ask_about_call
from resilient.core.context import PipelineContext
from resilient.core.facts import Facts
from resilient.core.layer import BoundLayer, Layer, Watch
from resilient.core.policy import Wrap
from resilient.core.worst_case import Bound, InnerCost, Surroundings, WorstCase
from resilient.errors import Stopped
from resilient.events import ChaosHalted, FaultInjected
from resilient.events.channel import Emitter
from resilient.faults import (
    Crash,
    Errors,
    Fault,
    Latency,
    PacketLoss,
    Partition,
    Reset,
    Results,
    Slowness,
    Stall,
)
from resilient.runtime import Runtime, current
from resilient.runtime.threads import THREADS, finish

__all__ = ["SWITCHED_OFF", "Chaos", "objective"]

SWITCHED_OFF = "it is switched off"

KINDS = (Errors, Results, Latency, Slowness, Stall, Crash, Partition, PacketLoss, Reset)
SLOW = (Latency, Slowness, Stall, Partition, PacketLoss)


class Chaos(
    Emitter,
    Wrap,
    judgements=("by",),
    effects=("enabled", "faults"),  # the results of some faults are made by a function
):
    """Injects faults into calls, as if their dependency failed.

    Args:
        faults: what may happen (`resilient.faults`), each with its share, time and targets. A call meets them in this
            order, until one of them ends it:

            `Latency`              a wait before the call
            `Slowness`             a wait after it, in proportion
            `Stall`                a wait until the fault's end
            `Errors`               its exception (default `ConnectionError`); a status needs the HTTP transport
            `Results`              its result
            `Crash`                `ConnectionRefusedError`
            `Reset`                `ConnectionResetError`, or in the phase "connect" `ConnectionRefusedError`
            `Partition`, `PacketLoss`, a `Stall` without an end: no answer, and after 15 minutes `TimeoutError`
                                   (around a plain `def` at the call's deadline: a thread cannot be stopped)
        enabled: the switch: True, False, or a function, which is called for each attempt of a call and must be quick.
            None (the default): the environment variable `RESILIENT_CHAOS` (1, true, yes, on), read now.
        by: a function of the call's arguments that returns the call's key: faults with `targets` happen to those keys.
        rate: share of the calls that may meet a fault at all, from 0 to 1. Default 1.
        seed: with a seed, the same calls in the same order meet the same faults. Default: different ones each time.
        halt_rate, halt_calls: the objective: it stops when a larger share than this (default 0.1: at the 11th failure)
            of the last `halt_calls` calls (default 100) has failed. None: it never stops.
        name: for events; default "Chaos".

    Times of faults count from the first call while it is on. `resume()` starts it again after a halt.
    """

    def __init__(
        self,
        *faults: Fault,
        enabled: Enabled = None,
        by: Callable[..., Hashable] | None = None,
        rate: float = 1.0,
        seed: int | None = None,
        halt_rate: float | None = 0.1,
        halt_calls: int = 100,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        faults, enabled = self._effect("faults", faults), self._effect("enabled", enabled)
        self.experiment = Experiment(
            faults, KINDS, enabled=enabled, rate=rate, seed=seed, halt_rate=halt_rate, halt_calls=halt_calls
        )
        self._by = None if by is None else _validation.callback("by", by)
        for at, fault in enumerate(faults):
            if isinstance(fault, Errors) and fault.status is not None:
                raise ValueError(f"fault[{at}] has status={fault.status}, which only HTTP has: give it error= here")
            if fault.targets and self._by is None:
                raise ValueError(f"fault[{at}] has targets={fault.targets!r}: give by=, the key of a call")
        self.facts = Facts(timed=False, injects=True, inactive=SWITCHED_OFF)
        if self.experiment.possible:
            late = [fault.high if isinstance(fault, Latency) else None for fault in faults if isinstance(fault, SLOW)]
            ending = (fault for fault in faults if fault.ending not in (None, "result"))
            self.facts = Facts(
                injects=True,
                pause=None if None in late else sum(each or 0.0 for each in late),
                raises=tuple(dict.fromkeys(type(fault.failure()) for fault in ending)),
            )
        self._answers = any(isinstance(fault, Results) for fault in faults)

    # -- faults -----------------------------------------------------------------------------------------------------

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        if not self.experiment.possible:
            return inner
        is_on, disturb, rest, plainly = self.experiment.is_on, self._disturb, inner.run, inner.plainly

        def layer(call: Call) -> Any:
            return disturb(call, rest, context) if is_on() else rest(call)

        if plainly is None:
            return BoundLayer(layer, is_leaf=inner.is_leaf)

        def layer_plainly(call: Call) -> Any:
            if not is_on():
                return plainly(call)
            try:
                return finish(disturb(call, rest, context))
            except StopIteration as error:
                raise Stopped(error) from None  # it must pass the coroutines around it

        return BoundLayer(layer, layer_plainly, is_leaf=inner.is_leaf)

    @property
    def _is_transparent(self) -> bool:
        return not self.experiment.possible

    async def _disturb(self, call: Call, inner: Layer, context: PipelineContext) -> Any:
        runtime = call.begin()
        slowing = 1.0
        for fault, delay in self.experiment.draw(runtime.now(), self._hits(call)):
            self._tell(fault, delay if isinstance(fault, Latency) else 0.0, runtime.now(), context)
            slowing *= fault.slowing
            if delay:
                await runtime.sleep(delay if fault.ending is None else self._patience(call, delay, runtime))
            if isinstance(fault, Results):
                return fault.result(*call.args, **call.kwargs)
            if fault.ending is not None:
                raise fault.failure()
        if slowing == 1:
            return await inner(call)
        begin = runtime.now()
        try:
            result = await inner(call)
        except Exception:
            await runtime.sleep((slowing - 1) * (runtime.now() - begin))
            raise
        try:
            await runtime.sleep((slowing - 1) * (runtime.now() - begin))
        except BaseException:
            if is_own(result, call, context.classifier):
                await discard(result, runtime, patience=0.0)  # it is cancelled: no Timeout has time left
            raise
        return result

    def _patience(self, call: Call, seconds: float, runtime: Runtime) -> float:
        """Seconds that a call waits for an answer that never comes: in a thread, which cannot be stopped, at most until
        its deadline."""
        if runtime is THREADS and call.deadline is not None:
            return min(seconds, max(0.0, call.deadline - runtime.now()))
        return seconds

    def _hits(self, call: Call) -> Callable[[Fault], bool]:
        if self._by is None:
            return lambda fault: True
        key: Any = ask_about_call(call, self._by)
        return lambda fault: fault.hits(key)

    def _tell(self, fault: Fault, seconds: float, now: float, context: PipelineContext) -> None:
        self.experiment.count(fault.kind)
        context.counters.count("faults", self.name, fault.kind)
        if context.channel.wants[FaultInjected]:
            context.channel.emit(FaultInjected(context.name, now, self.name, fault.kind, fault.describe(), seconds))

    # -- the halt ---------------------------------------------------------------------------------------------------

    def _watch(self, context: PipelineContext) -> Watch | None:
        if not self.experiment.possible or self.experiment.halt_rate is None:
            return None
        return objective(self.experiment, context, self._halt)

    def _halt(self, reason: str) -> None:
        self._emit(ChaosHalted, current().now(), self.name, reason)

    def _renew(self) -> None:
        super()._renew()
        self.experiment.renew()

    def resume(self) -> None:
        """Continue after a halt, with an empty window; the times of faults start again."""
        self.experiment.resume()

    # -- for people -------------------------------------------------------------------------------------------------

    @property
    def halted(self) -> str | None:
        """The reason for which the experiment stopped by itself; None: it did not."""
        return self.experiment.halted

    def _unfit(self, *, is_async: bool, block: bool) -> str | None:
        return "a block has no result that could be injected; guard a function" if block and self._answers else None

    def snapshot(self) -> dict[str, Any]:
        """Plain data: whether the policy is `enabled` (or can be), why it `halted`, how many faults of each kind it has
        `injected`, and how many of the last `calls` have `failed`."""
        return self.experiment.snapshot()

    def describe(self) -> str:
        return f"Chaos({self.experiment.describe()})"

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        rest = inner(around)
        if not self.experiment.possible:
            return rest
        pause = self.facts.pause
        late = math.inf if pause is None else pause
        seconds, requests = rest.seconds, rest.requests
        why = rest.why
        if math.isfinite(seconds.most) and late:
            why = f"{self} is up to {late:.4g} s late, then {seconds.most:.4g} s"
            if math.isinf(late):
                why = f"nothing bounds how late {self} is"
        seconds = Bound(seconds.sure, seconds.most + late)
        return replace(rest, seconds=seconds, requests=Bound(0, requests.most), why=why)


def objective(experiment: Experiment, context: PipelineContext, halt: Callable[[str], None]) -> Watch:
    """A function that counts the calls of a pipeline for the objective of an experiment, while the experiment is on.

    A call counts as failed if the classifier says that it is a failure, or if its caller got no answer for another
    reason: a refusal, a timeout.

    Args:
        experiment: the experiment.
        context: of the pipeline.
        halt: called with the reason when one call too many has failed.
    """

    def watch(call: Call, result: Any, error: Exception | None) -> None:
        if experiment.began is None:
            return
        if error is not None:
            failed = context.on_error(call, error).unanswered
        else:
            failed = context.classifier.judges_results and context.on_result(call, result).kind == "failure"
        reason = experiment.saw(failed)
        if reason is not None:
            halt(reason)

    return watch
