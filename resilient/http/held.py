"""The pipeline of a server, held while the application handles a request.

A pipeline guards a function that it calls; an ASGI application is called by its server, in the server's task, and its
request is over in the midst of it, with what it sends. So the pipeline's coroutine is started by hand. Where it would
call its function it awaits `HELD` instead, and stays there until it is told how the request has ended.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from typing import Any, Final

from resilient.call import Call
from resilient.policy import Scope

__all__ = ["AWAITS_BODY", "ENDED", "HELD", "Guard", "hold_told", "hold_untold", "stand_in_line"]

Guard = Generator[Any, Any, Any]
"""What drives the pipeline's coroutine."""


class _Held:
    """Seen by those who drive the coroutine, never by an event loop."""

    __slots__ = ("_once",)

    def __init__(self) -> None:
        self._once = (self,)

    def __await__(self) -> Generator[Any, Any, Any]:
        return iter(self._once)  # type: ignore[return-value]  # the least that comes to a halt once


HELD: Final = _Held()
"""What the pipeline awaits in place of a function."""

ENDED: Final = object()
"""For `next`, where a coroutine has come to its end: to catch what ends an iteration costs ten times as much."""

AWAITS_BODY: Final = _Held()
"""What the pipeline awaits, outside its limit, while the request's body is not complete."""


@types.coroutine
def stand_in_line(guard: Guard, waits_for: Any) -> Generator[Any, Any, None]:
    """Let the pipeline wait in a queue of its limit until it comes to where it is held."""
    while waits_for is not HELD:
        try:
            sent = yield waits_for
        except BaseException as thrown:
            waits_for = guard.throw(thrown)
        else:
            waits_for = guard.send(sent)


def hold_told(scope: Scope) -> Callable[[Call], Any]:
    """The attempts of the pipeline: it is held."""
    return lambda call: HELD


def hold_untold(scope: Scope) -> Callable[[Call], Any]:
    """The same where nobody hears of them."""

    def attempt(call: Call) -> Any:
        return HELD

    attempt.tells = True  # type: ignore[attr-defined]
    return attempt
