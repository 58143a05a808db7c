"""The policies around a block of code instead of a function.

    async for attempt in pipeline.attempts():
        async with attempt:
            ...

The pipeline's coroutine is started when the block is entered, runs up to where it would call the function, and is held
there while the block runs, in the same task; how the block ends is then told to it. So the same policies act in the
same way: an attempt that fails and is to be repeated is swallowed, and the loop goes round again. Without `async`, the
same in plain code.

Between its blocks a loop is its user's own code, which nothing may cancel. So where a Retry is about to begin a further
attempt (`Call.again`), the coroutine is held until the next block is entered, and the Timeouts and deadlines around the
Retry are let go until then (`_Runtime`): only in blocks do they have the user's task in their hands.
"""

from __future__ import annotations

import inspect
import sys
import types
import weakref
from collections.abc import Callable, Coroutine, Generator
from types import FrameType
from typing import Any

from resilient.core.call import Call, new_call
from resilient.core.classify import SUCCESS
from resilient.core.current_call import block_begins, block_ends
from resilient.core.emit import observed
from resilient.core.layer import BoundLayer
from resilient.core.policy import PipelineContext
from resilient.errors import Stopped, TimedOut
from resilient.runtime import Limit, Runtime
from resilient.runtime.inherited_deadline import Deadline, hold_total, inherited, let_go, swap
from resilient.runtime.threads import THREADS, drive

_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE

__all__ = ["Attempt", "Attempts", "block_call", "block_leaf"]


class _Mark:
    """What the pipeline of a block awaits; seen by `_advance`, never by an event loop."""

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


class _Body(_Mark):
    """It awaits the block, in place of a function's result."""


class _Turn(_Mark):
    """It awaits that the user enters the next block."""


class _BlockCall(Call):
    """The call of a block."""

    __slots__ = ()

    async def again(self) -> None:
        await _Turn()
        if self.runtime is THREADS and self.deadline is not None and THREADS.now() >= self.deadline:
            raise THREADS.cancelled


class _Runtime:
    """A block's runtime, whose limits hold in the blocks only: each is let go when the block has ended, and holds again
    when the next one is entered."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.cancelled = runtime.cancelled
        self.now = runtime.now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    async def within(self, call: Any, inner: Callable[[Any], Any], limit: Limit) -> Any:
        """As `Runtime.within`; time goes on between the blocks."""
        moment = _Moment(limit, call, self.now())
        rest = inner(call)
        held = hold_total(moment.at, limit.seconds) if limit.total else None
        try:
            while True:
                stop = await self._runtime.within(call, lambda _: _advance(rest, None, None, _Turn), moment)
                if not isinstance(stop, _Turn):
                    return stop.value
                await stop
                if self.now() >= moment.at:
                    raise moment.expired(call, 0.0) from call.error
        finally:
            rest.close()
            let_go(held)


class _Moment:
    """When a limit of a block ends, whatever the number of its parts."""

    total = False

    def __init__(self, limit: Limit, call: Call, now: float) -> None:
        self._limit = limit
        self._waited = call.waited
        self.seconds = limit.seconds
        self.at: float = now + limit.seconds if limit.at is None else limit.at

    def expired(self, call: Call, waited: float) -> TimedOut:
        """The error of the limit."""
        return self._limit.expired(call, call.waited - self._waited)


def block_call(block: Callable[..., Any], runtime: Runtime, *, repeats: bool) -> Call:
    """The call of a block, of a pipeline that may repeat it or not."""
    where: Any = runtime if runtime is THREADS or not repeats else _Runtime(runtime)
    return new_call(block, (), {}, where, _BlockCall)


def block_leaf(context: PipelineContext) -> BoundLayer:
    """Stands where the function would be called."""

    async def body(call: Call) -> Any:
        return await (observed(call, context, _Body()) if context.channel.wants.observed else _Body())

    return BoundLayer(body, is_leaf=True)


class Attempt:
    """One run of the block.

    Attributes:
        number: from 1.
        result: what the block made of it, for a classifier that judges results. Set it in the block. One that sets none
            and raises nothing is a success, which no classifier is asked about.
    """

    result: Any = None

    def __init__(self, attempts: Attempts, number: int) -> None:
        self._attempts = weakref.ref(attempts)  # so a loop that is left without entering it gives its permits back
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


class Attempts:
    """Iterates over the attempts of one block. Use each object once."""

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
        self._state = "new"  # -> waiting (for its block) -> entering -> inside -> again -> waiting ... -> done
        self._is_async = False
        self._outside: Deadline | None = None
        self._inside: Deadline | None = None

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
            raise RuntimeError("these attempts are used up: call attempts() anew for each block")
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
            raise RuntimeError("the block of the attempt before was not entered: write `with attempt:` in the loop")
        if self._state == "new":
            self._refuse(is_async)
        self._is_async = is_async
        self._state = "waiting"
        self._number += 1
        return Attempt(self, self._number)

    async def _enter(self, frame: FrameType) -> int:
        """Let the pipeline run up to the block. The number of the attempt."""
        if self._state != "waiting":
            raise RuntimeError("an attempt can be entered once, in its own turn of the loop")
        self._state = "entering"
        if self._coroutine is None:
            self._outside = inherited()
            self._call, self._coroutine = self._start(self._block, self._is_async)
        else:
            self._outside = swap(self._inside)
        assert self._call is not None
        try:
            while not isinstance(stop := await self._go_on(None, None), _Body):
                if stop is None:
                    raise RuntimeError("a policy answered for a block, which cannot be skipped")
        finally:
            if self._state != "entering":
                swap(self._outside)
        self._state = "inside"
        self._number = self._call.attempt
        self._frame = block_begins(frame, self._call, self._context)
        return self._number

    async def _leave(self, attempt: Attempt, error: BaseException | None) -> bool:
        """Tell the pipeline how the block ended. True: its error is dealt with (there is another attempt)."""
        assert self._call is not None
        assert self._frame is not None
        block_ends(self._frame, self._call)
        self._frame = None
        if "result" not in vars(attempt):
            self._call.verdict = self._context.classifier, None, SUCCESS  # as if it had been judged
        try:
            if await self._go_on(attempt.result, error) is not None:
                self._state = "again"
        except BaseException as raised:
            if raised is error or (type(raised) is Stopped and raised.error is error):
                return False  # let it go on by itself, with its own traceback
            raise
        finally:
            self._inside = swap(self._outside)
        return True

    async def _go_on(self, result: Any, error: BaseException | None) -> _Mark | None:
        """Let the pipeline run until it waits for the block or for its turn; None: it has ended."""
        state, self._state = self._state, "done"
        assert self._coroutine is not None
        if issubclass(type(error), StopIteration):
            error = Stopped(error)  # type: ignore[arg-type]
        stop: _Mark | StopIteration = await _advance(self._coroutine, result, error, _Mark)
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
    coroutine: Coroutine[Any, Any, Any], result: Any, error: BaseException | None, kind: type[_Mark]
) -> Generator[Any, Any, Any]:
    """Run `coroutine` on until it awaits a mark of a kind, which is returned; or else the `StopIteration` that has its
    result. What else it awaits is passed on."""
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
