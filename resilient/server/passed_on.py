"""A request that is only counted, because the middleware limits nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from resilient.core.endings import Endings
from resilient.pipeline.in_flight import InFlight
from resilient.server.request import START, ErrorAnswer, Send

__all__ = ["pass_on"]


async def pass_on(
    app: Callable[[Any, Any, Send], Awaitable[None]],
    in_flight: InFlight,
    endings: Endings,
    scope: Any,
    receive: Any,
    send: Send,
) -> None:
    """Call the application, and count the request and its only attempt as a guarded one is counted: an answer below 500
    is a success, whatever the application does after it; an error, no answer, or one of 500 or more, is not."""
    count, status, answered = in_flight.count, 500, False

    def watched(message: Any) -> Awaitable[None]:
        nonlocal status, answered
        if message["type"] == START:
            status = message["status"]
        else:
            answered = True
        return send(message)

    count.begun += 1
    try:
        await app(scope, receive, watched)
    except BaseException as error:
        if answered and status < 500:
            count.at_once += 1
        else:
            count.ended += 1
            _failed(endings, ErrorAnswer(status) if answered else error)
        raise
    else:
        if status < 500:
            count.at_once += 1
        else:
            count.ended += 1
            _failed(endings, ErrorAnswer(status))
    finally:
        if in_flight.needs_full_path:
            in_flight.wake()


def _failed(endings: Endings, error: BaseException) -> None:
    endings.attempt_failed(None, error, None)
    endings.call_failed(None, error)
