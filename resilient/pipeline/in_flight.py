"""The calls inside a pipeline: counted, so that it can be closed; bounded by the deadline that they inherited; and paid
for when they succeed.

A call takes one of two paths. The frame around its function (`resilient.pipeline.gate_layer`) handles the common case
by itself. Every other call takes the full path, which is here: it checks everything that can be special about a call. A
`InFlight` says, by a few flags that change rarely, which path calls take.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from types import FrameType
from typing import Any, NoReturn

from resilient._atomic import GIL
from resilient.core.background import discard, is_own
from resilient.core.budget import Budget
from resilient.core.call import Call, new_call
from resilient.core.callbacks import CallbackError, release
from resilient.core.classify import IGNORED
from resilient.core.deadline import under
from resilient.core.emit import Ends, told_call
from resilient.core.layer import Layer, Recovery, Watch
from resilient.core.policy import PipelineContext
from resilient.errors import PipelineClosed
from resilient.events import CallEnded, CallRejected
from resilient.runtime import Parking, Runtime
from resilient.runtime.inherited_deadline import inherited
from resilient.runtime.threads import THREADS

__all__ = ["Earn", "InFlight", "earning", "earnings", "raise_callback_error", "watched_earnings", "watched_recovery"]

Earn = Callable[[Call, Any], None]


def earnings(budgets: Sequence[Budget], context: PipelineContext, *, substitutes: bool) -> Earn | None:
    """A function that pays a call's result into the budgets of a pipeline, if it is a success of the dependency; None
    if there are no budgets.

    `substitutes`: whether a policy of the pipeline may answer in the dependency's place, which pays nothing.
    """
    if not budgets:
        return None

    options, verdict_on = context.options, context.on_result
    by_evidence, dependency_of = context.classifier.judges_results, options.dependency

    def earn(call: Call, result: Any) -> None:
        if substitutes and call.is_substituted:
            return
        if not by_evidence or verdict_on(call, result).kind == "success":
            for budget in budgets:
                budget.earn()

    def earn_each(call: Call, result: Any) -> None:
        if substitutes and call.is_substituted:
            return
        if not by_evidence or verdict_on(call, result).kind == "success":
            dependency = dependency_of(call)
            for budget in budgets:
                try:
                    budget.each[dependency].earned += 1  # as `earn`, without its frame
                except KeyError:
                    budget.of(dependency).earn()

    if options.has_dependencies:
        return earn_each
    if len(budgets) > 1 or by_evidence or substitutes:
        return earn
    return budgets[0].earn


def earning(recover: Recovery, earn: Earn) -> Recovery:
    """A `Recovery` that pays the results of `recover` into budgets."""

    async def paid(call: Call, recovery: Coroutine[Any, Any, Any]) -> Any:
        result = await recovery
        earn(call, result)
        return result

    def earned(call: Call, error: Exception) -> Coroutine[Any, Any, Any] | None:
        recovery = recover(call, error)
        return None if recovery is None else paid(call, recovery)

    return earned


def watched_earnings(earn: Earn | None, watches: Sequence[Watch]) -> Earn:
    """An `Earn` that also tells `watches` of each success."""

    def succeeded(call: Call, result: Any) -> None:
        if earn is not None:
            earn(call, result)
        for watch in watches:
            watch(call, result, None)

    return succeeded


def watched_recovery(recover: Recovery | None, watches: Sequence[Watch]) -> Recovery:
    """A `Recovery` that also tells `watches` how the call ended."""

    async def recovered(call: Call, error: Exception) -> Any:
        result: Any = None
        failure: Exception | None = error
        try:
            recovery = None if recover is None else recover(call, error)
            if recovery is not None:
                try:
                    result = await recovery
                except Exception as last:
                    failure = last
                else:
                    failure = None
            for watch in watches:
                watch(call, result, failure)
            if failure is not None:
                raise failure
            return result
        finally:
            del error, failure  # their tracebacks lead to this frame

    return recovered


async def raise_callback_error(
    call: Call,
    callback_error: CallbackError,
    context: PipelineContext,
    since: float | None = None,
    failed: Callable[[Call, float, BaseException], None] | None = None,
) -> NoReturn:
    """Raise the error that the user's own code (a classifier, a predicate) raised while the pipeline asked it.

    The outermost pipeline does so. The result that was being judged is closed in the background: no Timeout of the
    pipeline bounds what is done here.

    `failed`: emits `CallEnded` for a call that began at `since`; not called if `since` is None.
    """
    told = context.channel.wants[CallEnded]  # then `told_call` looks at the verdict
    call.verdict = (context.classifier, callback_error.error, IGNORED) if told else None
    if is_own(callback_error.about, call, context.classifier):
        await discard(callback_error.about, call.begin(), patience=0.0)
    if since is not None and failed is not None:
        failed(call, since, callback_error.error)
    release(callback_error)


class Count:
    """How many calls are inside. A forked child makes a new one, so a call that was in flight at the fork and ends in
    the child counts there in the old one."""

    __slots__ = ("inside",)

    def __init__(self) -> None:
        self.inside = 0


class InFlight:
    """Counts the calls inside a pipeline, so that it can be closed, and says which path they take.

    Attributes:
        closed: whether new calls are refused.
        special: whether frames must look closer before they handle a call themselves: because of listeners, a mode, a
            closed pipeline, or a Python without GIL, where counting takes a lock.
        tells_ends: whether a listener of `CallEnded` may be all that is special. Frames emit that event themselves.
        notes_exits: whether frames must call `exited` when their call has ended.
    """

    def __init__(self, context: PipelineContext) -> None:
        self.context = context
        self.closed = False
        self.needs_full_path = not GIL
        self.tells_ends = False
        self.notes_exits = False
        self.renew()
        context.channel.watch(self._choose_path)

    def renew(self) -> None:
        """In a forked child: count from zero, and take a new lock. The calls of the parent do not go on here."""
        self.count = Count()
        self._asked: dict[FrameType, Call] = {}
        self._lock = threading.RLock()
        self._waiting: set[Parking] = set()

    @property
    def inside(self) -> int:
        """How many calls are inside."""
        return self.count.inside

    def _choose_path(self) -> None:
        context = self.context
        with self._lock:
            unusual = self.closed or context.channel.wants.observed or context.mode == "off"
            self.notes_exits = self.closed or bool(self._asked)
            self.needs_full_path = not GIL or unusual or self.notes_exits
            self.tells_ends = GIL and bool(context.channel.wants.ended) and not self.closed and context.mode != "off"

    def begin(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], runtime: Runtime | None
    ) -> Call:
        """The `Call` of the calling frame: a new one, or the one that `current_call()` was given for this frame
        before."""
        if self._asked and (asked := self._asked.get(sys._getframe(1))) is not None:
            return asked
        call = Call()  # as `new_call`, without its frame
        call.fn = fn
        call.args = args
        call.kwargs = kwargs
        call.runtime = runtime  # type: ignore[assignment]
        call.attempt = 1
        call.deadline = None
        call.waited = 0.0
        call.error = None
        call.verdict = None
        return call

    def call_of(self, frame: FrameType, *, keep: bool) -> Call:
        """Make the `Call` of a frame that has made none, because nothing has failed yet.

        `keep`: `begin` and later calls of this method return the same one for the frame.
        """
        names = frame.f_locals
        call = self._asked.get(frame)
        if call is None:
            is_async = frame.f_code.co_flags & inspect.CO_COROUTINE
            call = new_call(names["fn"], names["args"], names["kwargs"], None if is_async else THREADS)
            if keep:
                with self._lock:
                    call = self._asked.setdefault(frame, call)
                    self._choose_path()
        return call

    def exited(self) -> None:
        """Note that the call of the calling frame has ended: forget its `Call`, and wake those who wait in `close`."""
        if self._asked:
            with self._lock:
                self._asked.pop(sys._getframe(1), None)
                self._choose_path()
        self.wake()

    def wake(self) -> None:
        """Wake those who wait in `close`, if no call is inside any more."""
        if self.inside <= 0:
            with self._lock:
                waiting = tuple(self._waiting)
            for parking in waiting:
                parking.wake()

    def _change(self, count: Count, change: int) -> None:
        with self._lock:
            count.inside += change

    def full_path(
        self, context: PipelineContext, entry: Layer, recover: Recovery | None, earn: Earn | None, ends: Ends | None
    ) -> Layer:
        """The layer of calls that frames do not handle themselves: it does what frames do, applies an inherited
        deadline and emits `CallEnded`.

        Args:
            scope: of the pipeline, or of its twin: its classifier judges.
            entry: the gates and all that is inside them.
            recover: handles failures of `entry`.
            earn: is given each success.
            ends: emits `CallEnded`; None in a nested pipeline, because only the outermost one tells of a call.
        """

        async def counted(call: Call) -> Any:
            if self.closed:
                raise self._refusal(call)
            count = self.count
            if GIL:
                count.inside += 1
            else:
                self._change(count, 1)
            try:
                try:
                    result = await entry(call)
                except Exception as error:
                    recovery = None if recover is None else recover(call, error)
                    if recovery is None:
                        raise
                else:
                    if earn is not None:
                        earn(call, result)
                    return result
                return await recovery
            except CallbackError as callback_error:
                if ends is None:
                    raise
                await raise_callback_error(call, callback_error, context)
            except BaseException:
                if ends is not None and not context.channel.wants[CallEnded]:
                    call.verdict = None
                raise
            finally:
                if GIL:
                    count.inside -= 1
                else:
                    self._change(count, -1)
                if self.closed:
                    self.wake()

        def full_path(call: Call) -> Coroutine[Any, Any, Any]:
            limit = inherited()
            if limit is None or limit.at == inf or (call.deadline is not None and call.deadline <= limit.at):
                run = counted(call)
            else:
                run = under(call, context, counted, limit)
            return told_call(call, ends, run) if ends and context.channel.wants[CallEnded] else run

        return full_path

    def _refusal(self, call: Call) -> PipelineClosed:
        context = self.context
        message = "the pipeline is closed"
        if context.channel.wants[CallRejected]:
            context.channel.emit(CallRejected(context.name, call.begin().now(), "", message, None))
        return PipelineClosed(message, pipeline=context.name)

    async def close(self, runtime: Any) -> None:
        self.closed = True
        self._choose_path()
        while self.inside > 0:
            parking = runtime.park()
            with self._lock:
                self._waiting.add(parking)
            try:
                if self.inside > 0:  # the last call may have ended before this one waited
                    await parking.wait(None, new_call(self.wake, (), {}, runtime))
            finally:
                with self._lock:
                    self._waiting.discard(parking)
        self.context.channel.catch_up()
