"""The race of an inline hedge: the first copy runs in the caller's task, further ones as background calls.

    the first copy           on                            to          remark
    running                  it wins                       won         further copies are lost
    running                  it fails, another may win     failed      the race goes on as a plain `Race`
    running                  a further copy wins           cancelled   the caller's task is cancelled, once
    running                  others cancel its task        lost        the CancelledError gets through, copies are lost
    cancelled                ends with the cancellation    lost        the caller gets the winner's outcome
    cancelled                fails, another may win        lost        the caller gets the winner's outcome
    cancelled                returns an acceptable result, won         the caller gets its outcome, and the other copy's
                             or its failure is final                   result is closed
    cancelled                others cancel its task, too   lost        the CancelledError gets through

The states of further copies are in `resilient.policies.hedge.race`. The first copy needs no task, no context and no
wake-up, so a call that is not late costs a sixth of a call in a plain `Race`. But the clean-up of a first copy that
loses delays the winner. asyncio only.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from resilient._atomic import atomic
from resilient.core.background import BackgroundCall
from resilient.core.call import Call
from resilient.errors import is_cancellation
from resilient.policies.hedge.race import Race
from resilient.runtime.asyncio import AsyncioRuntime
from resilient.runtime.timers import Entries

__all__ = ["InlineRace"]


class InlineCopy:
    """A first copy that ran in the caller's task, with its outcome: a `Copy`."""

    __slots__ = ("call", "error", "pause", "result")

    number = 1

    def __init__(self, call: Call, error: BaseException | None, result: Any) -> None:
        self.call = call
        self.error = error
        self.result = result
        self.pause = 0.0

    def take(self) -> Any:
        """Return the result of this copy, or raise its error, as the outcome of the hedged call."""
        error = self.error
        if error is None:
            return self.result
        self.error = None
        try:
            raise error
        finally:
            del error  # its traceback leads to this frame

    def forget(self) -> None:
        """Drop the references to the outcome of this copy."""
        self.result = self.error = self.call.verdict = None


class InlineRace(Race):
    """The copies of one call, the first of which runs in the caller's task.

    Attributes, set by `run`:
        inline: the runtime while the first copy runs, then None. Likewise:
        task: the caller's.
        base: how often that had been cancelled before.
        context_vars: the caller's context, which further copies get a copy of.
        deadline: the caller's. (The first copy may be within a Timeout of its own, which uses the same `Call`.)
        at: when the next copy is due, if `_timers`, the timers of its duration, has this race.
    """

    __slots__ = ("_timers", "at", "base", "context_vars", "deadline", "inline", "task")

    inline: AsyncioRuntime | None
    task: asyncio.Task[Any] | None
    base: int
    context_vars: contextvars.Context | None
    deadline: float | None
    at: float
    _timers: Entries | None

    async def run(self, runtime: AsyncioRuntime) -> Any:
        """Run the first copy in this task, and further ones as background calls. Returns the result of the winner, or
        raises its error."""
        task = asyncio.current_task(runtime.loop)
        assert task is not None
        base = self.base = task.cancelling()
        self.begun = 1
        self.inline, self.task, self.context_vars = runtime, task, contextvars.copy_context()
        self.deadline = self.call.deadline
        self._timers = None if self.delays[0] is None else runtime.after(self.delays[0], self)
        try:
            result = await self.inner(self.call)
        except BaseException as error:
            self._stop_inline()
            if self.winner is not None:
                cancelled_by_others = task.uncancel() > base
                if not cancelled_by_others and is_cancellation(error, asyncio.CancelledError):
                    self.end()
                    return self.take()  # it was cancelled for the winner
                if cancelled_by_others and isinstance(error, Exception):
                    self._end_without_winner()
                    raise asyncio.CancelledError from error  # a failure of the clean-up does not hide the cancellation
            if not isinstance(error, Exception) or task.cancelling() > base:  # the caller has left: no further copies
                self._end_without_winner()
                raise
            first = InlineCopy(self.call, error, None)
        else:
            self._stop_inline()
            if self.winner is not None:
                task.uncancel()  # the callee swallowed the cancel and has a result all the same
            elif self.begun == 1 and not self.context.classifier.judges_results and self.settings.accept is None:
                if self.observed is not None:
                    self.answered(self.call)
                return result
            first = InlineCopy(self.call, None, result)
        if not self.leaves_open(first):
            beaten, self.winner = self.winner, first
            self.drop(beaten)  # both in one tick
        elif self.winner is not None:
            self.drop(first)  # it answered the cancellation with a failure
        else:
            self.failed(first)
            return await self.decide()
        self.end()
        return self.take()

    def run_copy(self, copy: BackgroundCall) -> None:
        """Run a copy in the background. While the first one runs, this is called by a timer or another copy, whose
        task and context are not the caller's."""
        if self.inline is None:
            super().run_copy(copy)
            return
        copy.call.deadline = self.deadline
        copy.run(self.task, self.context_vars)

    @atomic
    def _copy_ended(self, copy: BackgroundCall) -> bool:
        if self.inline is None:
            return super()._copy_ended(copy)
        self._ended_while_inline(copy)
        return False

    def fire(self) -> None:
        """Called by the timer when the next copy is due."""
        self._begin("delay")

    def _begin(self, reason: str) -> None:
        """Start the next copy while the first one runs, and the timer of the copy after it."""
        if self.winner is not None or self.inline is None:
            return
        self._forget_timer()
        assert self.context_vars is not None
        self.context_vars.copy().run(self.start, reason)  # for listeners: a timer has another context
        wait = self.wait
        if wait is not None:
            self._timers = self.inline.after(wait, self)

    def _forget_timer(self) -> None:
        if self._timers is not None:
            self._timers.pop(self, None)
            self._timers = None

    def _ended_while_inline(self, copy: BackgroundCall) -> None:
        """Judge a further copy that has ended while the first one runs. A winner cancels the caller's task, but only
        once, and not if others have cancelled it: a second cancel would cut the clean-up short."""
        self.running.remove(copy)
        if self.leaves_open(copy):
            self.drop(copy)
            self._begin("failure")
        elif self.winner is None and self.task is not None and self.task.cancelling() <= self.base:
            self.winner = copy
            self.unanswered(self.call)
            self.task.cancel()
        else:
            self.drop(copy)

    def _stop_inline(self) -> None:
        """The first copy has ended: from now on, `decide` looks at the copies that end."""
        self.inline = self.task = self.context_vars = None
        self._forget_timer()

    def _end_without_winner(self) -> None:
        """End the race of a caller that has left."""
        self.drop(self.winner)
        self.winner = None
        self.end()
