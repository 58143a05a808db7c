"""Retry: repeats a call that failed. Most failures of a remote call are gone a moment later.

retry        the policy
settings     the checked arguments
predicate    which outcomes are repeated
state        the attempts of a call
schedule     how many attempts there may be, and how long the pauses between them are
backoff      our own waits: the same each time, or with full jitter
tenacity     tenacity's strategies: what they are given, and what is known of their answers
error_notes  the note on the error that the caller gets
"""

from resilient.policies.retry.retry import Nested, Retry

__all__ = ["Nested", "Retry"]
