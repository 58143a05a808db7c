"""The calls inside a pipeline: counted, so that it can be closed; bounded by the deadline that they inherited; and paid
for when they succeed.

`Pipeline` writes the common case out in the frames that it puts around functions; what it leaves out is here.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from types import FrameType
from typing import Any, NoReturn

from resilient.atomic import GIL
from resilient.beside import discard, is_own
from resilient.budget import Budget
from resilient.call import Call, new_call
from resilient.deadlines import inherited, under
from resilient.errors import PipelineClosed
from resilient.events import CallEnded, CallRejected
from resilient.mistakes import Mistake, release
from resilient.outcome import IGNORED, Classifier
from resilient.policy import Layer, Recovery, Scope, Watch
from resilient.runtime import Parking, Runtime
from resilient.runtime.threads import THREADS
from resilient.telling import Ends, told_call

__all__ = ["Earn", "Flow", "earning", "earnings", "own_up", "watched_earnings", "watched_recovery"]

Earn = Callable[[Call, Any], None]


def earnings(budgets: Sequence[Budget], scope: Scope, *, stood_in: bool) -> Earn | None:
    """Pays a call's result into the budgets of a pipeline, if it is a success of the dependency.

    `stood_in`: a policy of the pipeline may have answered instead.
    """
    if not budgets:
        return None

    judge, verdict_on = scope.judge, scope.on_result
    judges, dependency_of = judge.judges_results, judge.dependency

    def earn(call: Call, result: Any) -> None:
        if stood_in and call.is_stood_in_for:
            return
        if not judges or verdict_on(call, result).kind == "success":
            for budget in budgets:
                budget.earn()

    def earn_each(call: Call, result: Any) -> None:
        if stood_in and call.is_stood_in_for:
            return
        if not judges or verdict_on(call, result).kind == "success":
            dependency = dependency_of(call)
            for budget in budgets:
                try:
                    budget.each[dependency].earned += 1  # as `earn`, without its frame
                except KeyError:
                    budget.of(dependency).earn()

    if type(judge).dependency is not Classifier.dependency:
        return earn_each
    if len(budgets) > 1 or judges or stood_in:
        return earn
    return budgets[0].earn


def earning(recover: Recovery, earn: Earn) -> Recovery:
    """`recover`, which earns when it succeeds."""

    async def paid(call: Call, recovery: Coroutine[Any, Any, Any]) -> Any:
        result = await recovery
        earn(call, result)
        return result

    def earned(call: Call, error: Exception) -> Coroutine[Any, Any, Any] | None:
        recovery = recover(call, error)
        return None if recovery is None else paid(call, recovery)

    return earned


def watched_earnings(earn: Earn | None, watches: Sequence[Watch]) -> Earn:
    """`earn`, and those who watch are told of the success."""

    def succeeded(call: Call, result: Any) -> None:
        if earn is not None:
            earn(call, result)
        for watch in watches:
            watch(call, result, None)

    return succeeded


def watched_recovery(recover: Recovery | None, watches: Sequence[Watch]) -> Recovery:
    """`recover`, and those who watch are told how it ended."""

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


async def own_up(
    call: Call,
    mistake: Mistake,
    scope: Scope,
    since: float | None = None,
    failed: Callable[[Call, float, BaseException], None] | None = None,
) -> NoReturn:
    """Raise to the caller what code of the caller's raised, as the outermost frame of a pipeline does. The result that
    was being judged is closed, beside the caller: no Timeout of the pipeline bounds what is done here.

    `failed`: tells that the call, which began at `since`, has ended so; if it has a begin.
    """
    told = scope.channel.wants[CallEnded]  # then `told_call` looks at the verdict
    call.verdict = (scope.judge, mistake.error, IGNORED) if told else None
    if is_own(mistake.about, call, scope.judge):
        await discard(mistake.about, call.begin(), patience=0.0)
    if since is not None and failed is not None:
        failed(call, since, mistake.error)
    release(mistake)


class Count:
    """How many calls are inside. A call that is in flight at a fork ends, if it does so in the child, in the parent's
    count, which the child has put aside."""

    __slots__ = ("inside",)

    def __init__(self) -> None:
        self.inside = 0


class Flow:
    """Counts the calls inside a pipeline, so that it can be closed."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.closed = False
        self.special = not GIL
        """Whether calls may take another way: that of `whole`."""
        self.tells = False
        """Whether their ends are told, and nothing else is special."""
        self.leaves = False
        """Whether they tell when they have `left`."""
        self.renew()
        scope.channel.watch(self._choose_way)

    def renew(self) -> None:
        """In a forked child: no call is inside, and nobody waits."""
        self.count = Count()
        self._asked: dict[FrameType, Call] = {}
        self._lock = threading.RLock()
        self._waiting: set[Parking] = set()

    @property
    def inside(self) -> int:
        """How many calls are inside."""
        return self.count.inside

    def _choose_way(self) -> None:
        scope = self.scope
        with self._lock:
            unusual = self.closed or scope.channel.wants.observed or scope.mode == "off"
            self.leaves = self.closed or bool(self._asked)
            self.special = not GIL or unusual or self.leaves
            self.tells = GIL and bool(scope.channel.wants.ended) and not self.closed and scope.mode != "off"

    def begin(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], runtime: Runtime | None
    ) -> Call:
        """The call of the frame that asks: a new one, unless somebody has asked for it before."""
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
        """The call of a frame that has none, since all went well so far. `keep`: it is the same one from now on, also
        for the frame."""
        names = frame.f_locals
        call = self._asked.get(frame)
        if call is None:
            is_async = frame.f_code.co_flags & inspect.CO_COROUTINE
            call = new_call(names["fn"], names["args"], names["kwargs"], None if is_async else THREADS)
            if keep:
                with self._lock:
                    call = self._asked.setdefault(frame, call)
                    self._choose_way()
        return call

    def left(self) -> None:
        """The call of the frame that tells this has ended, where not all is as usual."""
        if self._asked:
            with self._lock:
                self._asked.pop(sys._getframe(1), None)
                self._choose_way()
        self.wake()

    def wake(self) -> None:
        """Tell those who wait in `close`, if no call is inside any more."""
        if self.inside <= 0:
            with self._lock:
                waiting = tuple(self._waiting)
            for parking in waiting:
                parking.wake()

    def _change(self, count: Count, change: int) -> None:
        with self._lock:
            count.inside += change

    def whole(
        self, scope: Scope, entry: Layer, recover: Recovery | None, earn: Earn | None, ends: Ends | None
    ) -> Layer:
        """What the frames around functions do, for calls that come another way; and what they leave out. `scope` is
        that of the pipeline, or the twin, whose classifier the policies ask.

        The end of a call is told, by `ends`, by the pipeline that its function is guarded with; not by those nested in
        it, which have none.
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
            except Mistake as mistake:
                if ends is None:
                    raise
                await own_up(call, mistake, scope)
            except BaseException:
                if ends is not None and not scope.channel.wants[CallEnded]:
                    call.verdict = None
                raise
            finally:
                if GIL:
                    count.inside -= 1
                else:
                    self._change(count, -1)
                if self.closed:
                    self.wake()

        def whole(call: Call) -> Coroutine[Any, Any, Any]:
            limit = inherited()
            if limit is None or limit.at == inf or (call.deadline is not None and call.deadline <= limit.at):
                run = counted(call)
            else:
                run = under(call, scope, counted, limit)
            return told_call(call, ends, run) if ends and scope.channel.wants[CallEnded] else run

        return whole

    def _refusal(self, call: Call) -> PipelineClosed:
        scope = self.scope
        message = "the pipeline is closed"
        if scope.channel.wants[CallRejected]:
            scope.channel.emit(CallRejected(scope.name, call.begin().now(), "", message, None))
        return PipelineClosed(message, pipeline=scope.name)

    async def close(self, runtime: Any) -> None:
        self.closed = True
        self._choose_way()
        while self.inside > 0:
            parking = runtime.park()
            with self._lock:
                self._waiting.add(parking)
            try:
                if self.inside > 0:  # it may have ended before we stood in line
                    await parking.wait(None, new_call(self.wake, (), {}, runtime))
            finally:
                with self._lock:
                    self._waiting.discard(parking)
        self.scope.channel.catch_up()
