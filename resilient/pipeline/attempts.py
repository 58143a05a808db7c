"""The policies around a block of code instead of a function.

    async for attempt in pipeline.attempts():
        async with attempt:
            ...

The pipeline's coroutine starts when the block is entered, and runs up to the place where it would call the function.
There it is suspended while the block runs, in the same task, and it gets the block's result or error when the block
ends. So the same policies act in the same way. If the block is to be repeated, its error is swallowed, and the loop
goes round again. Without `async` the same holds for plain code.

    state      on                                                 to        remark
    new        the loop asks for an attempt                       waiting   `TypeError` if a policy cannot guard a block
    waiting    the attempt is entered                             entering  the pipeline starts, or goes on
    entering   the pipeline would call the function               inside    the block runs
    entering   the pipeline ends before that                      done      its error is raised: a rejection, a timeout
    inside     the block ends, and the pipeline repeats it        again     an error of the block is swallowed
    inside     the block ends, and so does the pipeline           done      an error is raised
    again      the loop asks for an attempt                       waiting
    done       the loop asks for an attempt                       done      the loop ends
    any other  the loop asks for an attempt                       done      `RuntimeError`: the block was not entered
    any        the loop is left, and the `Attempts` is collected  -         the pipeline is closed, its permits released

Between its blocks a loop is its user's own code, which nothing may cancel. So where a Retry is about to begin a further
attempt (`Call.again`), the coroutine is suspended until the next block is entered, and the Timeouts and deadlines
around the Retry are suspended with it (`_BlockRuntime`): they can cancel the user's task only inside blocks.
"""

from __future__ import annotations

import inspect
import sys
import types
import weakref
from collections.abc import Callable, Coroutine, Generator
from types import FrameType
from typing import Any, Literal

from resilient.core.call import Call, new_call
from resilient.core.classify import SUCCESS
from resilient.core.context import PipelineContext
from resilient.core.current_call import block_begins, block_ends
from resilient.core.emit import observed
from resilient.core.layer import BoundLayer
from resilient.core.surround import SuspendedSurrounds
from resilient.errors import Stopped, TimedOut
from resilient.runtime import Limit, Runtime
from resilient.runtime.inherited_deadline import Deadline, hold_total, inherited, let_go, swap
from resilient.runtime.threads import THREADS, drive

_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE

__all__ = ["Attempt", "Attempts", "block_call", "block_leaf", "block_of"]


class _Suspension:
    """Awaited by the pipeline of a block: suspends it, and is returned by `_advance`. No event loop ever sees it."""

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


class _UntilBlockEnds(_Suspension):
    """Awaited in place of the function's result: resumed with the result or the error of the block."""


class _UntilNextBlock(_Suspension):
    """Awaited before a further attempt: resumed when the user enters the next block."""


class _BlockCall(Call):
    """The call of a block: it waits for the next block before a further attempt."""

    __slots__ = ()

    async def again(self) -> None:
        await _UntilNextBlock()
        if self.runtime is THREADS and self.deadline is not None and THREADS.now() >= self.deadline:
            raise THREADS.cancelled


class _BlockRuntime:
    """The runtime of a block. Time limits act inside blocks only: each is suspended when a block ends, and acts again
    when the next one is entered."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.cancelled = runtime.cancelled
        self.now = runtime.now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    async def within(self, call: Any, inner: Callable[[Any], Any], limit: Limit) -> Any:
        """Run `inner(call)` within `limit`, as `Runtime.within` does. The time between blocks counts, too."""
        fixed = _FixedLimit(limit, call, self.now())
        rest = inner(call)
        held = hold_total(fixed.at, limit.seconds) if limit.total else None
        try:
            while True:
                stop = await self._runtime.within(call, lambda _: _advance(rest, None, None, _UntilNextBlock), fixed)
                if not isinstance(stop, _UntilNextBlock):
                    return stop.value
                await stop
                if self.now() >= fixed.at:
                    raise fixed.expired(call, 0.0) from call.error
        finally:
            rest.close()
            let_go(held)


class _FixedLimit:
    """A limit of a block that ends at one time, however often it is suspended."""

    total = False

    def __init__(self, limit: Limit, call: Call, now: float) -> None:
        self._limit = limit
        self._waited = call.waited
        self.seconds = limit.seconds
        self.at: float = now + limit.seconds if limit.at is None else limit.at

    def expired(self, call: Call, waited: float) -> TimedOut:
        """The error of a call that has reached the limit."""
        return self._limit.expired(call, call.waited - self._waited)


def block_call(block: Callable[..., Any], runtime: Runtime, *, repeats: bool) -> Call:
    """The call of a block. `repeats`: whether a policy of the pipeline may run it more than once."""
    where: Any = runtime if runtime is THREADS or not repeats else _BlockRuntime(runtime)
    return new_call(block, (), {}, where, _BlockCall)


def block_leaf(context: PipelineContext) -> BoundLayer:
    """The innermost layer of a block: it suspends the pipeline where it would call the function."""

    async def body(call: Call) -> Any:
        return await (
            observed(call, context, _UntilBlockEnds()) if context.channel.wants.observed else _UntilBlockEnds()
        )

    return BoundLayer(body, is_leaf=True, attempts=context.counters)


class Attempt:
    """One attempt: a context manager around one run of the block.

    Attributes:
        number: the number of the attempt, from 1.
        result: the result of the block, for a classifier that judges results. Set it in the block. A block that sets
            none and raises nothing is a success; the classifier is not called.
    """

    result: Any = None

    def __init__(self, attempts: Attempts, number: int) -> None:
        self._attempts = weakref.ref(attempts)  # weak: a loop that is left without entering it releases its permits
        self._entered: Attempts | None = None
        self.number = number

    async def __aenter__(self) -> Attempt:
        await self._enter(sys._getframe(1), True)
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        return await self._leave(error)

    def __enter__(self) -> Attempt:
        drive(self._enter(sys._getframe(1), False))
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        return drive(self._leave(error))

    async def _enter(self, frame: FrameType, is_async: bool) -> None:
        attempts = self._attempts()
        if attempts is None:
            raise RuntimeError("an attempt can be entered only in the loop that made it")
        if is_async is not attempts._is_async:
            write = ("async for", "async with") if attempts._is_async else ("for", "with")
            raise RuntimeError(f"write `{write[1]} attempt:` in a loop of `{write[0]} attempt in ...`")
        self.number = await attempts._enter(frame)
        self._entered = attempts

    async def _leave(self, error: BaseException | None) -> bool:
        attempts, self._entered = self._entered, None
        assert attempts is not None
        return await attempts._leave(self, error)


State = Literal["new", "waiting", "entering", "inside", "again", "done"]
"""The states of an `Attempts`: see the table at the top of this file."""


class Attempts:
    """The attempts of one block, as an iterator. Use each object for one loop."""

    def __init__(
        self,
        name: str,
        context: PipelineContext,
        start: Callable[[Callable[..., Any], bool], tuple[Call, Coroutine[Any, Any, Any]]],
        refuse: Callable[[bool], None],
    ) -> None:
        self._context = context
        self._start = start
        self._refuse = refuse
        self._number = 0
        self._frame: FrameType | None = None
        self._call: Call | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._state: State = "new"
        self._is_async = False
        self._outside: Deadline | None = None
        self._inside: Deadline | None = None
        self._surrounds: SuspendedSurrounds | None = None

        def block() -> None: ...

        block.__name__ = block.__qualname__ = name
        block.is_block = True  # type: ignore[attr-defined]  # it has no arguments that a key could be made of
        self._block = block

    def __aiter__(self) -> Attempts:
        return self._begin()

    def __iter__(self) -> Attempts:
        if sys._getframe(1).f_code.co_flags & _ASYNC:
            raise RuntimeError(
                "in an `async def` write `async for attempt in ...` and `async with attempt:`: a plain loop would "
                "block the event loop where it waits, and no Timeout could end its block"
            )
        return self._begin()

    def _begin(self) -> Attempts:
        if self._state != "new":
            raise RuntimeError("these attempts are used up: call attempts() again for each loop")
        return self

    async def __anext__(self) -> Attempt:
        attempt = self._next(True)
        if attempt is None:
            raise StopAsyncIteration
        return attempt

    def __next__(self) -> Attempt:
        attempt = self._next(False)
        if attempt is None:
            raise StopIteration
        return attempt

    def _next(self, is_async: bool) -> Attempt | None:
        if self._state == "done":
            return None
        if self._state not in ("new", "again"):
            self._close()
            raise RuntimeError("the block of the last attempt was not entered: write `with attempt:` in the loop")
        if self._state == "new":
            self._refuse(is_async)
        self._is_async = is_async
        self._state = "waiting"
        self._number += 1
        return Attempt(self, self._number)

    async def _enter(self, frame: FrameType) -> int:
        """Run the pipeline up to the block. Returns the number of the attempt."""
        if self._state != "waiting":
            raise RuntimeError("an attempt can be entered once, in its own round of the loop")
        self._state = "entering"
        if self._coroutine is None:
            self._outside = inherited()
            if surrounds := self._context.channel.wants.surrounds:
                self._surrounds = SuspendedSurrounds(surrounds)
            self._call, self._coroutine = self._start(self._block, self._is_async)
        else:
            self._outside = swap(self._inside)
            self._exchange_surrounds()
        assert self._call is not None
        try:
            while not isinstance(stop := await self._go_on(None, None), _UntilBlockEnds):
                if stop is None:
                    raise RuntimeError("a policy answered in place of the block, which cannot be skipped")
        finally:
            if self._state != "entering":
                swap(self._outside)
                self._exchange_surrounds()
        self._state = "inside"
        self._number = self._call.attempt
        self._frame = block_begins(frame, self._call, self._context)
        return self._number

    async def _leave(self, attempt: Attempt, error: BaseException | None) -> bool:
        """Resume the pipeline with the end of the block. Returns whether the error of the block is swallowed."""
        assert self._call is not None
        assert self._frame is not None
        block_ends(self._frame, self._call)
        self._frame = None
        if "result" not in vars(attempt):
            self._call.verdict = self._context.classifier, None, SUCCESS  # as if it had been classified
        try:
            if await self._go_on(attempt.result, error) is not None:
                self._state = "again"
        except BaseException as raised:
            if raised is error or (type(raised) is Stopped and raised.error is error):
                return False  # the `with` statement raises it, with its own traceback
            raise
        finally:
            self._inside = swap(self._outside)
            self._exchange_surrounds()
        return True

    def _exchange_surrounds(self) -> None:
        if self._surrounds is not None:
            self._surrounds.exchange()

    async def _go_on(self, result: Any, error: BaseException | None) -> _Suspension | None:
        """Run the pipeline until it is suspended again, and return by what; None: it has ended."""
        state, self._state = self._state, "done"
        assert self._coroutine is not None
        if issubclass(type(error), StopIteration):
            error = Stopped(error)  # type: ignore[arg-type]
        stop: _Suspension | StopIteration = await _advance(self._coroutine, result, error, _Suspension)
        if isinstance(stop, StopIteration):
            return None
        self._state = state
        return stop

    def _close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()
        self._state = "done"


@types.coroutine
def _advance(
    coroutine: Coroutine[Any, Any, Any], result: Any, error: BaseException | None, kind: type[_Suspension]
) -> Generator[Any, Any, Any]:
    """Resume `coroutine` with a result or an error, until it awaits a suspension of this `kind`. Returns that; if the
    coroutine ends, the `StopIteration` with its result. Everything else that it awaits is passed on to the event loop.
    """
    try:
        item = coroutine.send(result) if error is None else coroutine.throw(error)
        while not isinstance(item, kind):
            try:
                sent = yield item
            except BaseException as thrown:
                item = coroutine.throw(thrown)
            else:
                item = coroutine.send(sent)
    except StopIteration as done:
        return done
    return item


_RUNS = (Attempts._enter.__code__, Attempts._leave.__code__)
"""The code that runs the pipeline of a guarded block."""


def block_of(frame: FrameType) -> tuple[Call, PipelineContext] | None:
    """The call of the guarded block whose pipeline runs in this frame, and the context of the pipeline; None for any
    other frame."""
    block = frame.f_locals.get("self") if frame.f_code in _RUNS else None
    return None if block is None or block._call is None else (block._call, block._context)
