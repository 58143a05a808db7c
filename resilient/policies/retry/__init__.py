"""Retry: most failures of a remote call are gone a moment later; the art is not to make the others worse.

retry          the policy
state          the attempts of one call
schedule       how many attempts there may be, and how long the pauses between them are
backoff        how long to wait before the next attempt
tenacity       tenacity's strategies: what they are given, and what they will say
error_notes    the note that a retried error carries
"""

from resilient.policies.retry.retry import Retry

__all__ = ["Retry"]
