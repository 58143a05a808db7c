"""The pipeline of a server, held while the application handles a request.

A pipeline guards a function that it calls; an ASGI application is called by its server, in the server's task, and its
request is over in the midst of it, with what it sends. So the pipeline's coroutine is started by hand. Where it would
call its function it awaits `HELD` instead, and stays there until it is told how the request has ended.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from typing import Any, Final

from resilient.core.call import Call
from resilient.core.layer import BoundLayer
from resilient.core.policy import PipelineContext

__all__ = ["AWAITS_BODY", "ENDED", "HELD", "Guard", "hold_told", "hold_untold", "stand_in_line"]

Guard = Generator[Any, Any, Any]
"""The iterator by which the pipeline's coroutine is driven: `next`, `send` or `throw` runs it a step further."""


class _Held:
    """An awaitable that suspends its coroutine once and yields itself, to whoever drives it. No event loop ever sees
    it."""

    __slots__ = ("_once",)

    def __init__(self) -> None:
        self._once = (self,)

    def __await__(self) -> Generator[Any, Any, Any]:
        return iter(self._once)  # type: ignore[return-value]  # the cheapest iterator that yields once


HELD: Final = _Held()
"""What the pipeline awaits in place of the guarded function, while the application runs."""

ENDED: Final = object()
"""The default for `next(guard, ENDED)`: catching the `StopIteration` of a coroutine that ends costs ten times as
much."""

AWAITS_BODY: Final = _Held()
"""What the pipeline awaits, without a permit of its limit, while the request's body is not complete."""


@types.coroutine
def stand_in_line(guard: Guard, waits_for: Any) -> Generator[Any, Any, None]:
    """Drive the pipeline through the queue of its limit until it awaits `HELD`. `waits_for`: what it awaits now."""
    while waits_for is not HELD:
        try:
            sent = yield waits_for
        except BaseException as thrown:
            waits_for = guard.throw(thrown)
        else:
            waits_for = guard.send(sent)


def hold_told(scope: PipelineContext) -> Callable[[Call], Any]:
    """What the pipeline's attempts call (`Pipeline._derive`): they await `HELD`, and listeners are told of them."""
    return lambda call: HELD


def hold_untold(scope: PipelineContext) -> BoundLayer:
    """The same without telling listeners, which saves a frame. Used only while there are none."""

    def attempt(call: Call) -> Any:
        return HELD

    return BoundLayer(attempt, observes_itself=True)
