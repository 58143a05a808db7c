"""resilient: remote calls that survive a world in which everything they depend on fails.

    policies       Retry, CircuitBreaker, Bulkhead, Timeout     what to do about failure
                   FullJitter                                   how long to wait before trying again
    composition    Pipeline, switch, registry                   several of them as one decorator
    judgement      Classifier, Verdict                          what counts as a failure
    errors         Rejected, CircuitOpen, BulkheadFull, PipelineClosed, TimedOut, ...
    observation    events, resilient.observe.logging            what happened, for logs and metrics
    time           resilient.runtime.virtual                    try it all in virtual time

Every policy is a decorator by itself, for `async def` and `def` alike; `Pipeline(...)` stacks them, outermost first.
"""

from resilient import events, registry
from resilient.errors import (
    BulkheadFull,
    CircuitOpen,
    Deadlock,
    PipelineClosed,
    PipelineError,
    PipelineWarning,
    Rejected,
    ResilientError,
    TimedOut,
)
from resilient.outcome import Classifier, Verdict
from resilient.pipeline import Pipeline, switch
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.retry import FullJitter, Retry
from resilient.policies.timeout import Timeout

__version__ = "0.1.0"

__all__ = [
    "Bulkhead",
    "BulkheadFull",
    "CircuitBreaker",
    "CircuitOpen",
    "Classifier",
    "Deadlock",
    "FullJitter",
    "Pipeline",
    "PipelineClosed",
    "PipelineError",
    "PipelineWarning",
    "Rejected",
    "ResilientError",
    "Retry",
    "TimedOut",
    "Timeout",
    "Verdict",
    "events",
    "registry",
    "switch",
]
