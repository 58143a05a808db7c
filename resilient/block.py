"""The policies around a block of code instead of a function.

    async for attempt in pipeline.attempts():
        async with attempt:
            ...

The pipeline's coroutine is started, runs up to where it would call the function, and is held there while the block
runs, in the same task; how the block ends is then told to it. So the same policies act in the same way: an attempt that
fails and is to be repeated is swallowed, and the loop goes round again. Without `async`, the same in plain code.
"""

from __future__ import annotations

import sys
import types
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from resilient.call import Call
from resilient.current import block_begins, block_ends
from resilient.guard import told
from resilient.outcome import Stopped
from resilient.policy import Layer, Scope
from resilient.runtime.threads import drive

__all__ = ["Attempt", "Attempts", "block_leaf"]


class _Body:
    """What the pipeline awaits in place of a function's result; seen by `_advance`, never by an event loop."""

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


def block_leaf(scope: Scope) -> Layer:
    """Stands where the function would be called."""

    async def body(call: Call) -> Any:
        return await (told(call, scope, _Body()) if scope.channel.listeners else _Body())

    body.is_leaf = True  # type: ignore[attr-defined]
    return body


class Attempt:
    """One run of the block.

    Attributes:
        number: from 1.
        result: what the block made of it, for a classifier that judges results. Set it in the block; default None.
    """

    def __init__(self, attempts: Attempts, number: int) -> None:
        self._attempts = weakref.ref(attempts)  # so a loop that is left without entering it gives its permits back
        self.number = number
        self.result: Any = None

    async def __aenter__(self) -> Attempt:
        self._owner()._enter()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        return await self._owner()._leave(self, error)

    def __enter__(self) -> Attempt:
        self._owner()._enter()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        return drive(self._owner()._leave(self, error))

    def _owner(self) -> Attempts:
        attempts = self._attempts()
        if attempts is None:
            raise RuntimeError("an attempt can be entered only in the loop that made it")
        return attempts


class Attempts:
    """Iterates over the attempts of one block. Use each object once."""

    def __init__(
        self,
        name: str,
        scope: Scope,
        start: Callable[[Callable[..., Any], bool], tuple[Call, Coroutine[Any, Any, Any]]],
    ) -> None:
        self._scope = scope
        self._start = start
        self._frame = 0
        self._call: Call | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._state = "new"  # -> waiting (for its body) -> inside -> waiting ... -> done

        def block() -> None: ...

        block.__name__ = block.__qualname__ = name
        self._block = block

    def __aiter__(self) -> Attempts:
        return self._begin()

    def __iter__(self) -> Attempts:
        return self._begin()

    def _begin(self) -> Attempts:
        if self._state != "new":
            raise RuntimeError("these attempts are used up: call attempts() anew for each block")
        return self

    async def __anext__(self) -> Attempt:
        attempt = await self._next(True)
        if attempt is None:
            raise StopAsyncIteration
        return attempt

    def __next__(self) -> Attempt:
        attempt = drive(self._next(False))
        if attempt is None:
            raise StopIteration
        return attempt

    async def _next(self, is_async: bool) -> Attempt | None:
        if self._state == "done":
            return None
        if self._state == "new":
            self._call, self._coroutine = self._start(self._block, is_async)
            await self._go_on(None, None)
        elif self._state != "again":
            self._close()
            raise RuntimeError("the block of the attempt before was not entered: write `with attempt:` in the loop")
        self._state = "waiting"
        assert self._call is not None
        return Attempt(self, self._call.attempt)

    def _enter(self) -> None:
        if self._state != "waiting":
            raise RuntimeError("an attempt can be entered once, in its own turn of the loop")
        self._state = "inside"
        assert self._call is not None
        self._frame = block_begins(sys._getframe(2), self._call, self._scope)

    async def _leave(self, attempt: Attempt, error: BaseException | None) -> bool:
        """Tell the pipeline how the block ended. True: its error is dealt with (there is another attempt)."""
        assert self._call is not None
        block_ends(self._frame, self._call)
        try:
            await self._go_on(attempt.result, error)
        except BaseException as raised:
            if raised is error or (isinstance(raised, Stopped) and raised.error is error):
                return False  # let it go on by itself, with its own traceback
            raise
        return True

    async def _go_on(self, result: Any, error: BaseException | None) -> None:
        """Let the pipeline run until it waits for the block again, or ends."""
        self._state = "done"
        assert self._coroutine is not None
        if isinstance(error, StopIteration):
            error = Stopped(error)
        if await _advance(self._coroutine, result, error):
            self._state = "again"

    def _close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()
        self._state = "done"


@types.coroutine
def _advance(
    coroutine: Coroutine[Any, Any, Any], result: Any, error: BaseException | None
) -> Generator[Any, Any, bool]:
    """Run `coroutine` on: True when it waits for the block, False when it has ended. What it awaits is passed on."""
    try:
        item = coroutine.send(result) if error is None else coroutine.throw(error)
        while not isinstance(item, _Body):
            try:
                sent = yield item
            except BaseException as thrown:
                item = coroutine.throw(thrown)
            else:
                item = coroutine.send(sent)
    except StopIteration:
        return False
    return True
