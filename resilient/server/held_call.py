"""The call of a server's pipeline, suspended while the application handles the request.

A pipeline guards a function that it calls. But an ASGI server calls the application, in the server's own task, and a
request ends before the application returns, with a message that it sends. So the middleware starts the pipeline's
coroutine by hand. Where the coroutine would call its function, it awaits `HELD`, and stays suspended there until the
middleware resumes it with the result or the error of the request.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from typing import Any, Final

from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.layer import BoundLayer

__all__ = ["AWAITS_BODY", "ENDED", "HELD", "PipelineRun", "hold_observed", "hold_unobserved", "pass_queue"]

PipelineRun = Generator[Any, Any, Any]
"""The iterator of a pipeline's coroutine: `next`, `send` or `throw` runs it until it awaits again."""


class _Held:
    """An awaitable that suspends its coroutine once, and yields itself to the middleware. It never reaches the event
    loop."""

    __slots__ = ("_once",)

    def __init__(self) -> None:
        self._once = (self,)

    def __await__(self) -> Generator[Any, Any, Any]:
        return iter(self._once)  # type: ignore[return-value]  # the cheapest iterator that yields once


HELD: Final = _Held()
"""Awaited by the pipeline in place of the guarded function, while the application runs."""

ENDED: Final = object()
"""The default for `next(run, ENDED)`: catching the `StopIteration` of a coroutine that ends costs ten times as
much."""

AWAITS_BODY: Final = _Held()
"""Awaited by the pipeline, without a permit of its limit, until the request's body is complete."""


@types.coroutine
def pass_queue(run: PipelineRun, waits_for: Any) -> Generator[Any, Any, None]:
    """Run a pipeline through the queue of its limit until it awaits `HELD`. Used to wait for a permit before the
    application is called, and again after an upload.

    Args:
        run: the pipeline's coroutine, started.
        waits_for: the awaitable that it has yielded.

    Raises the rejection or `TimedOut` that ends the wait.
    """
    while waits_for is not HELD:
        try:
            sent = yield waits_for
        except BaseException as thrown:
            waits_for = run.throw(thrown)
        else:
            waits_for = run.send(sent)


def hold_observed(context: PipelineContext) -> Callable[[Call], Any]:
    """Return the attempt of the full path: it returns `HELD` to await, and emits the events of an attempt."""
    return lambda call: HELD


def hold_unobserved(context: PipelineContext) -> BoundLayer:
    """Return the attempt of the fast path: without events, which saves a frame. Used while there are no listeners."""

    def attempt(call: Call) -> Any:
        return HELD

    return BoundLayer(attempt, observes_itself=True)
