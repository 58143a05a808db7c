"""The classes of bodies for one client library, whose clients take only streams of their own classes.

`Streams` derives them from the classes of `resilient.http.bodies` (of responses) and `resilient.http.request_bodies`.
The library's module is passed in, not imported.
"""

from __future__ import annotations

from typing import Any

from resilient.errors import TimedOut
from resilient.http.bodies import BodyLimit, Bounded, Followed, Held, Whole
from resilient.http.request_bodies import RewoundFile, SingleUse, TimeLimited

__all__ = ["Streams"]


class Streams:
    """The classes of bodies for one client library.

    Args:
        library: the module of the library.
        timed_out: the class of the error of a body that takes too long.

    Attributes:
        bytes: the library's own class, for a body in memory.
        rewound, single_use, time_limited: for requests, as in `resilient.http.request_bodies`.
        followed, bounded, held, whole: for responses, as in `resilient.http.bodies`.
    """

    def __init__(self, library: Any, timed_out: type[TimedOut]) -> None:
        self.timed_out = timed_out
        self.bytes = library.ByteStream
        both = (library.AsyncByteStream, library.SyncByteStream)
        self.rewound = type("RewoundFile", (RewoundFile, *both), {})
        self.single_use = type("SingleUse", (SingleUse, *both), {"consumed": library.StreamConsumed})
        self.followed = type("Followed", (Followed, *both), {})
        self.bounded = type("Bounded", (Bounded, *both), {})
        self.held = type("Held", (Held, *both), {})
        self.time_limited = type("TimeLimited", (TimeLimited, library.SyncByteStream), {})
        self.whole = type("Whole", (Whole, library.ByteStream), {})

    def limit(self, at: float, seconds: float, *, evidence: bool = True) -> BodyLimit:
        """The time `at` which a body must be complete, for `bounded` (see `BodyLimit`)."""
        return BodyLimit(at, seconds, self.timed_out, evidence)

    def is_open(self, result: Any) -> bool:
        """Whether a part of the body of a response has not been read yet."""
        return not (isinstance(result.stream, self.bytes) or result.is_closed or result.is_stream_consumed)
