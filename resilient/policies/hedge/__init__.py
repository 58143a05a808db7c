"""Hedge: when an answer is late, send the call once more and take the first acceptable outcome.

hedge           the policy
race            the copies of one call: which run, when the next one starts, and whose outcome counts
inline          a race whose first copy runs in the caller's task
latency_sample  the latency of a first copy, measured for the observed delays
delay           the delays before further copies, fixed or observed
"""

from resilient.policies.hedge.hedge import Cancel, Hedge

__all__ = ["Cancel", "Hedge"]
