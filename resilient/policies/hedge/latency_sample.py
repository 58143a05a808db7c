"""The latency of one call's first copy, measured for the observed delays of a Hedge.

    the first copy ...                                  is recorded with
    succeeded                                           its latency
    is ended by a Timeout (a failure)                   its age
    lost to another copy, or failed otherwise           its age, if that is beyond the hedge delay; else not at all
    was refused, or the caller was cancelled            nothing
    has a substitute of a Fallback inside as its result nothing

A copy without an answer has a latency that is longer than its age. So an age beyond the delay lies on the right side of
the quantile, and a shorter one would say nothing. Latencies and ages do not include seconds in local queues.
"""

from __future__ import annotations

from resilient.core.call import Call
from resilient.core.classify import WAITED, Verdict
from resilient.errors import TimedOut
from resilient.policies.hedge.delay import Observed

__all__ = ["LatencySample"]

ROUNDING = 1 - 1e-9
"""Share of the hedge delay that counts as the whole delay: sums of times are rounded."""


class LatencySample:
    """Measures the first copy of a call for the observed latencies.

    Attributes:
        observed: the latencies to add to; None: they are not wanted, or the copy has been recorded.
    """

    __slots__ = ("_late", "_now", "_waited", "began", "observed")

    observed: Observed | None

    def observe(self, call: Call, observed: Observed | None) -> None:
        """Begin to measure the copy for `observed`; None: do not measure it."""
        self.observed = observed
        if observed is None:
            return
        self._late = observed.delays[0]
        self._waited = call.waited
        self._now = now = call.runtime.now
        call.substituted_at = 0
        self.began = now()

    def age(self, call: Call) -> float:
        """Seconds since the copy began, without those in local queues."""
        now, since = self._now(), getattr(call, "queued_at", None)
        return now - self.began - (call.waited - self._waited) - (0.0 if since is None else now - since)

    def answered(self, call: Call) -> None:
        """Record the latency of a copy that has succeeded."""
        observed, self.observed = self.observed, None
        if observed is not None and call.substituted_at != call.attempt:
            observed.record(self._now() - self.began - call.waited + self._waited)

    def ended(self, error: BaseException | None, verdict: Verdict, call: Call) -> None:
        """Record the latency of a copy that was not cancelled by the race, if its outcome says something about it."""
        if verdict.kind == "success":
            self.answered(call)
        elif issubclass(type(error), TimedOut):
            if verdict.kind == "failure" and self.observed is not None:
                self.observed.record(self.age(call))
        elif (error is None or issubclass(type(error), Exception)) and not (verdict.refused or verdict == WAITED):
            self.unanswered(call)
        self.observed = None

    def unanswered(self, call: Call) -> None:
        """Record a copy that is given up without an answer: the copy's age so far counts if it is beyond the hedge
        delay."""
        observed, self.observed = self.observed, None
        if observed is not None and self._late is not None:
            age = self.age(call)
            if age >= self._late * ROUNDING:
                observed.record(max(age, self._late))
