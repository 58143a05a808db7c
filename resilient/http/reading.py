"""Reading of the body of a response as a part of the attempt, so that the attempt fails if the body fails.

Up to a number of bytes are read; a longer body is handed over with what was read of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient.core.background import discard
from resilient.core.call import Call
from resilient.core.result import CLOSING_SECONDS
from resilient.http.streams import Streams
from resilient.runtime.threads import THREADS, drive

__all__ = ["read", "read_plainly"]


async def read(response: Any, streams: Streams, max_bytes: int, call: Call) -> bool:
    """Read the body of a response of an asynchronous client, up to `max_bytes`. Returns whether that was all of it; the
    rest is left to its reader. An error closes the response, and is raised."""
    stream, parts, size = response.stream, [], 0
    try:
        chunks = aiter(stream)
        async for part in chunks:
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                response.stream = streams.held(stream, parts, chunks)
                return False
    except BaseException as error:
        failed = isinstance(error, Exception)  # else it is cancelled, and its Timeout has no time left
        await discard(stream, call.begin(), patience=CLOSING_SECONDS if failed else 0.0)
        raise
    response.stream = streams.whole(b"".join(parts), stream)
    return True


def read_plainly(response: Any, streams: Streams, max_bytes: int, late: Callable[[], Exception | None]) -> bool:
    """Read the body of a response of a plain client, as `read` does. Nothing interrupts a plain read, so `late` is
    called after each part, and the error that it returns is raised."""
    stream, parts, size = response.stream, [], 0
    try:
        chunks = iter(stream)
        for part in chunks:
            parts.append(part)
            size += len(part)
            if (expired := late()) is not None:
                raise expired
            if size > max_bytes:
                response.stream = streams.held(stream, parts, chunks)
                return False
    except BaseException as error:
        drive(discard(stream, THREADS))
        if isinstance(error, Exception) and (expired := late()) is not None:
            raise expired from error
        raise
    response.stream = streams.whole(b"".join(parts), stream)
    return True
