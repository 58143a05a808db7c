"""The calls in flight inside a pipeline: how many there are, so that it can be closed, and which path they take.

A call takes one of two paths (`resilient.pipeline.call_path`). The outermost gate layer handles the common case by
itself. Every other call takes the full path, which does all that a call can need. A few flags of `InFlight`, which
change rarely, say which path calls take now.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from resilient._atomic import GIL, locked
from resilient.core.call import Call, new_call
from resilient.core.context import PipelineContext
from resilient.errors import PipelineClosed, Reason
from resilient.events import CallRejected
from resilient.events.counters import CallCount
from resilient.runtime import Parking, Runtime
from resilient.runtime.threads import THREADS

__all__ = ["InFlight"]


class InFlight:
    """Counts the calls inside a pipeline, and says which path they take.

    Attributes:
        closed: whether new calls are refused.
        needs_full_path: whether calls may have to take the full path: because of listeners, recorded durations, the
            mode "off", a closed pipeline, or a Python without a GIL, where counting takes a lock.
        tells_ends: whether listeners of `CallEnded` or recorded durations may be the only reason for that. The
            outermost gate layer handles both itself.
        notes_exits: whether the outermost gate layer must call `exited` when its call has ended.
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
        """In a forked child: count from zero, and make a new lock. The parent's calls do not continue in the child."""
        self.count = CallCount()
        self.context.counters.enter(self, self.count)
        self._asked: dict[FrameType, Call] = {}
        self._lock = threading.RLock()
        self._waiting: set[Parking] = set()

    @property
    def inside(self) -> int:
        """The number of calls in flight inside the pipeline."""
        return self.count.inside

    def _choose_path(self) -> None:
        context = self.context
        with self._lock:
            timed = context.counters.records
            unusual = self.closed or timed or context.channel.wants.observed or context.mode == "off"
            self.notes_exits = self.closed or bool(self._asked)
            self.needs_full_path = not GIL or unusual or self.notes_exits
            wants = context.channel.wants
            tells_ends = (timed or bool(wants.ended)) and not wants.surrounds
            self.tells_ends = GIL and tells_ends and not self.closed and context.mode != "off"

    def begin(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], runtime: Runtime | None
    ) -> Call:
        """The `Call` of the calling frame: the one that `current_call()` has already returned for this frame, or else a
        new one."""
        if self._asked and (asked := self._asked.get(sys._getframe(1))) is not None:
            return asked
        call = Call()  # `new_call`, inlined
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
        """The `Call` of a frame that has made none so far, because nothing has failed.

        `keep`: `begin`, and further calls of this method, return the same one for this frame.
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
        """Forget the `Call` of the calling frame, whose call has ended. If no call is in flight any more, wake the
        callers that wait in `close`."""
        if self._asked:
            with self._lock:
                self._asked.pop(sys._getframe(1), None)
                self._choose_path()
        self.wake()

    def wake(self) -> None:
        """Wake the callers that wait in `close`, if no call is in flight any more."""
        if self.inside <= 0:
            with self._lock:
                waiting = tuple(self._waiting)
            for parking in waiting:
                parking.wake()

    @locked
    def begun(self, count: CallCount) -> None:
        """Count a call that begins, for a Python without a GIL."""
        count.begun += 1

    @locked
    def ended(self, count: CallCount) -> None:
        """Count a call that has ended, for a Python without a GIL."""
        count.ended += 1

    def refusal(self, call: Call) -> PipelineClosed:
        """The error of a call to a closed pipeline; the event `CallRejected` is emitted."""
        context = self.context
        message = Reason("the pipeline is closed", "closed")
        context.counters.count("rejections", "", message.code)
        if context.channel.wants[CallRejected]:
            context.channel.emit(CallRejected(context.name, call.begin().now(), "", message, None))
        return PipelineClosed(message, pipeline=context.name)

    async def close(self, runtime: Any) -> None:
        """Refuse new calls, and wait until those in flight have ended."""
        self.closed = True
        self._choose_path()
        while self.inside > 0:
            parking = runtime.park()
            with self._lock:
                self._waiting.add(parking)
            try:
                if self.inside > 0:  # the last call may have ended meanwhile
                    await parking.wait(None, new_call(self.wake, (), {}, runtime))
            finally:
                with self._lock:
                    self._waiting.discard(parking)
        self.context.channel.catch_up()
