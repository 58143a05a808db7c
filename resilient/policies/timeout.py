"""Timeout: a limit of time, for a whole call or for each attempt.

An answer that comes when the caller cannot use it any more is worth nothing, and waiting for it holds permits and
connections. The outermost Timeout limits the whole call, waits and retries included; the innermost one limits each
attempt. The outer one is a deadline for inner policies: no backoff or queue wait starts that would outlive it.
"""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from resilient import _validation
from resilient.core.background import BackgroundCall, Stragglers
from resilient.core.call import Call
from resilient.core.call_key import key_of
from resilient.core.callbacks import CallbackError
from resilient.core.context import PipelineContext
from resilient.core.deadline import in_callers_time, lifted, total
from resilient.core.facts import Facts
from resilient.core.gate import NEARLY
from resilient.core.history import timed_out
from resilient.core.layer import BoundLayer, Layer
from resilient.core.policy import Wrap
from resilient.core.worst_case import InnerCost, Surroundings, WorstCase
from resilient.errors import Reason, Rejected, TimedOut
from resilient.events import AbandonedEnded, CallRejected, CallTimedOut
from resilient.runtime import Runtime
from resilient.runtime.inherited_deadline import Deadline, seen
from resilient.runtime.threads import THREADS

__all__ = ["Timeout"]


class Timeout(Wrap, example="2"):
    """Ends what is inside it after `seconds`, with `TimedOut`.

    Only its own expiry becomes `TimedOut`: the callee's own `TimeoutError` passes unchanged, and so does the caller's
    cancellation, even in the same tick. If the callee swallows the cancellation and returns a result after the limit,
    the result is returned. Around a plain `def` it is a cooperative deadline (see `resilient.runtime.threads`).

    Args:
        seconds: the limit, above 0. No default: the right limit depends on the dependency; p99.9 of its latency is a
            usual choice for one attempt. (Microsoft's standard handler: 10 s an attempt, 30 s in total.)
        thread: around a plain `def`, run the inner layers in a thread of their own, and stop waiting for it at the
            limit. The thread cannot be stopped: it runs to its end, and holds the permits of gates inside it until
            then, so bulkheads belong inside. No effect on `async def`.
        abandon: for work that must not be cancelled (a commit): at the limit, and when the caller is cancelled, it goes
            on in a task of its own (around a `def` in its thread: `thread=True` is needed, too), and its end becomes an
            event. Guarded calls in it do not inherit the caller's deadlines, which do not limit this work.
        max_abandoned: how many abandoned calls may run at a time; while so many run, further calls are refused
            (`Rejected`). Default 100.
        name: for events and errors; default "Timeout".
    """

    def __init__(
        self,
        seconds: float,
        *,
        thread: bool = False,
        abandon: bool = False,
        max_abandoned: int = 100,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.seconds = _validation.seconds("seconds", seconds)
        self.thread = _validation.flag("thread", thread)
        self.abandon = _validation.flag("abandon", abandon)
        self._abandoned = Stragglers(_validation.count("max_abandoned", max_abandoned))
        outlived = self.abandon or self.thread
        self.facts = Facts(
            time_limit=self.seconds,
            outlived=outlived,
            raises=(TimedOut, Rejected) if outlived else (TimedOut,),
        )

    def run(self, call: Call, inner: Layer, context: PipelineContext) -> Coroutine[Any, Any, Any]:
        raise NotImplementedError  # `_bind` returns the runtime's own coroutine: one frame less

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        is_leaf = inner.is_leaf
        limit = _Limit(self, context, total=not (is_leaf or self.abandon or self.thread))
        seen.any = seen.any or limit.total
        rest = inner.run
        if self.abandon:
            rest = lifted(rest)
        elif self.thread and not is_leaf:
            rest = total(rest, self.seconds)

        def within(call: Call) -> Coroutine[Any, Any, Any]:
            return call.runtime.within(call, rest, limit)

        def in_background(call: Call) -> Coroutine[Any, Any, Any]:
            if self.abandon or call.runtime is THREADS:
                return in_callers_time(call, context, lambda _: self._run_in_background(call, rest, limit))
            return within(call)

        if self.abandon or self.thread:
            return BoundLayer(in_background)
        plainly = None if inner.plainly is None else THREADS.plainly_within(inner.plainly, limit)
        return BoundLayer(within, plainly, limited=(rest, limit), attempts=inner.attempts)

    @property
    def _is_transparent(self) -> bool:
        return not (self.abandon or self.thread)

    async def _run_in_background(self, call: Call, inner: Layer, limit: _Limit) -> Any:
        """Run `inner` in the background, wait for it until the limit, and let it go on after that. Raises `TimedOut` at
        the limit, `Rejected` while too much abandoned work is running."""
        abandoned, runtime, context = self._abandoned, call.runtime, limit.context
        if abandoned.full:
            why = Reason(f"{abandoned.cap} calls that {self.name} abandoned are still running", "abandoned")
            context.counters.count("rejections", self.name, why.code)
            if context.channel.wants[CallRejected]:
                context.channel.emit(CallRejected(context.name, runtime.now(), self.name, why, None))
            raise Rejected(why, pipeline=context.name, policy=self.name, key=key_of(call, context))
        lock, parking, left = threading.Lock(), runtime.park(), False

        def emit_end(work: BackgroundCall) -> None:
            now, error = runtime.now(), work.error
            if context.channel.wants[AbandonedEnded]:
                error = error.error if type(error) is CallbackError else error
                context.channel.emit(AbandonedEnded(context.name, now, self.name, error, now - began))

        def ended(work: BackgroundCall) -> bool:
            with lock:
                if not left:
                    parking.wake()
                    return False
            emit_end(work)
            return True

        def leave() -> bool:
            if not work.done:
                work.leave()
                if self.abandon:
                    work.call.deadline = None  # the caller's deadline does not limit abandoned work
            return not work.done

        outer, waited, began = call.deadline, call.waited, runtime.now()
        at = began + limit.seconds
        mine = outer is None or at < outer
        if mine:
            call.deadline = at
        try:
            work = BackgroundCall(call, inner, context, abandoned, ended)
            work.run()
        finally:
            call.deadline = outer
        try:
            await parking.wait(limit.seconds, call)
        except BaseException:
            with lock:
                left = leave()
            if not left:  # it ended in the tick in which its caller was cancelled
                emit_end(work)
                work.close()
            raise
        with lock:
            left = leave()
        expired_inside = mine and runtime is THREADS and _is_ours(work.error, runtime, at)
        if not left and not expired_inside:  # its wait in a queue may end at the deadline before ours does
            return work.take()
        before = call.error if work.call.error is None else work.call.error
        raise limit.expired(call, work.waited() - waited) from before

    def _renew(self) -> None:
        super()._renew()
        self._abandoned.renew()

    async def _drain(self, runtime: Runtime) -> None:
        await self._abandoned.drain(runtime)

    def snapshot(self) -> dict[str, Any]:
        """Plain data: the number of `abandoned` calls that are still running, if there can be any."""
        return {"abandoned": self._abandoned.count} if self.abandon or self.thread else {}

    def _unfit(self, *, is_async: bool, block: bool) -> str | None:
        if self.thread and block and not is_async:
            return "a block runs in its own thread, so its time can be bounded by Timeout(...) without thread=True only"
        if self.abandon and block:
            return "a block cannot run on without its caller"
        if self.abandon and not is_async and not self.thread:
            return "a plain def can only run on in a thread of its own: say thread=True too"
        return None

    def describe(self) -> str:
        return f"Timeout({self.seconds:g} s{', thread' if self.thread else ''}{', abandon' if self.abandon else ''})"

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        rest = inner(around.sooner(self.seconds))
        if self.abandon or self.thread:
            rest = replace(rest, max_failing_runs=min(rest.max_failing_runs, self._abandoned.cap))
        if not (around.is_async or self.thread):
            return rest  # a plain def cannot be stopped
        why = f"{self} ends it" if rest.seconds.most > self.seconds else rest.why
        return replace(rest, seconds=rest.seconds.up_to(self.seconds), why=why)


def _is_ours(error: BaseException | None, runtime: Runtime, at: float) -> bool:
    """Whether work in a thread was ended by the limit `at`: in its own wait, or in the wait of a nested guarded call,
    which inherited the limit."""
    if isinstance(error, TimedOut):
        return error.policy == Deadline.name and runtime.now() >= at
    return issubclass(type(error), runtime.cancelled)


class _Limit:
    """The limit of a Timeout in one pipeline, for `Runtime.within`."""

    __slots__ = ("at", "context", "policy", "seconds", "total")

    def __init__(self, policy: Timeout, context: PipelineContext, *, total: bool) -> None:
        self.policy = policy
        self.context = context
        self.seconds = policy.seconds
        self.at = None
        self.total = total

    def expired(self, call: Call, waited: float) -> TimedOut:
        policy, context, seconds = self.policy, self.context, self.seconds
        context.counters.count("timeouts", policy.name)
        if context.channel.wants[CallTimedOut]:
            context.channel.emit(CallTimedOut(context.name, call.runtime.now(), policy.name, seconds))
        key = key_of(call, context)
        error = TimedOut(
            f"{policy.name} of {seconds:g} s{f' for {key}' if key else ''} expired",
            pipeline=context.name,
            policy=policy.name,
            key=key,
            seconds=seconds,
            evidence=call.error is not None or seconds - waited >= seconds * NEARLY,
        )
        timed_out(call, context, error, waited)
        return error
