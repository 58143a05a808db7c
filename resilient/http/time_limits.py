"""Time limits of a request: of its attempts, of the whole, and the client's own timeouts."""

from __future__ import annotations

from typing import Any

from resilient.errors import TimedOut
from resilient.pipeline import Pipeline, flat
from resilient.policies.timeout import Timeout
from resilient.runtime.inherited_deadline import Deadline

__all__ = ["NO_LIMITS", "RequestDeadline", "attempt_limit", "is_in_time", "nearer", "total_limit"]

NO_LIMITS: dict[str, float | None] = dict.fromkeys(("connect", "read", "write", "pool"))
"""The client's timeouts of a request that has none."""


class RequestDeadline(Deadline):
    """The deadline of a total Timeout, for a request whose body has to be read first: reading it takes a part of the
    time."""

    def expired(self, call: Any, waited: float) -> TimedOut:
        """Return the error of a request that this deadline ended. The error is no evidence about the server."""
        message = f"the {self.seconds:g} s for the request and its body are over"
        return TimedOut(message, policy=self.name, seconds=self.seconds, evidence=False)


def attempt_limit(pipeline: Pipeline) -> float | None:
    """Return the seconds of the innermost Timeout of a pipeline, which ends each attempt; None without a Timeout."""
    limits = [policy.seconds for policy in flat(pipeline.policies) if isinstance(policy, Timeout)]
    return limits[-1] if limits else None


def total_limit(pipeline: Pipeline) -> tuple[float | None, bool]:
    """Return the seconds that a whole request may take, and whether a policy repeats requests.

    The seconds are those of the shortest Timeout outside the first policy that repeats requests, because Timeouts
    inside that are for its attempts; None without such a Timeout.
    """
    total: float | None = None
    for policy in flat(pipeline.policies):
        limit = policy.facts.time_limit
        if limit is not None:
            total = limit if total is None else min(total, limit)
        if policy.facts.runs != 1:
            return total, True
    return total, False


def is_in_time(request: Any, left: float) -> bool:
    """Whether the client's own timeouts end a request within `left` seconds.

    An asynchronous attempt is ended by its Timeout in any case. So there a hundredth more is allowed: a client's
    timeouts that are as long as the attempt (the default of `AsyncClient`) need not be changed.
    """
    try:
        limit = request.extensions["timeout"]
        in_time: bool = limit["connect"] <= left and limit["read"] <= left  # (`max` takes twice as long)
        return in_time and limit["write"] <= left and limit["pool"] <= left
    except (KeyError, TypeError):  # one of them is missing or None
        return False


def nearer(limit: float | None, left: float) -> float:
    """Return the shorter of a limit, which may be None, and the seconds that are left."""
    return left if limit is None else min(limit, left)
