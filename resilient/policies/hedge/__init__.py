"""Hedge: when an answer is late, ask once more and take the first good one.

hedge    the policy
race     the copies of one call: which run, when the next one starts, and whose outcome counts
delay    the delay before the next copy, by observed latencies
"""

from resilient.policies.hedge.hedge import Cancel, Hedge

__all__ = ["Cancel", "Hedge"]
