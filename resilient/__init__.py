"""resilient: remote calls that survive a world in which everything they depend on fails.

    policies       Retry, CircuitBreaker, Bulkhead, Timeout,    what to do about failure
                   Hedge, RateLimit, AdaptiveLimit,
                   Fallback, Keyed
                   Chaos, resilient.faults                      failure on purpose
                   quantile                                     how long to wait for an answer before asking again
                   FullJitter, Budget                           how long to wait before trying again, and how often
    composition    Pipeline, switch, registry                   several of them as one decorator
                   standard, standard_hedged                    the pipelines that most calls should have
    judgement      Classifier, Verdict                          what counts as a failure
    the call       deadline, remaining, detached                how long it has
                   priority, current_priority                   who goes first when there is not room for all
                   current_call, CurrentCall                    which attempt this is, of which call
    errors         Rejected, CircuitOpen, BulkheadFull, RateLimited, PipelineClosed, TimedOut, ...
                   why                                          the reason of an error, as a timeline
    observation    events, resilient.observe.logging            what happened, for logs and metrics
                   resilient.observe.trace                      real calls on record
    time           resilient.runtime.virtual                    try it all in virtual time
    tests          resilient.testing                            of your own resilience
    HTTP           resilient.http.httpx                         transports for httpx clients

Every policy is a decorator by itself, for `async def` and `def` alike; `Pipeline(...)` stacks them, outermost first.
"""

from typing import TYPE_CHECKING, Any

from resilient import errors, events, registry
from resilient.core.budget import Budget
from resilient.core.classify import Classifier, Verdict
from resilient.core.current_call import CurrentCall, current_call
from resilient.core.deadline import deadline, detached, remaining
from resilient.core.priority import current_priority, priority
from resilient.errors import (
    BulkheadFull,
    CircuitOpen,
    Deadlock,
    LimitExceeded,
    PipelineClosed,
    PipelineError,
    PipelineWarning,
    RateLimited,
    Rejected,
    ResilientError,
    TimedOut,
    VirtualTimeError,
)
from resilient.pipeline import Pipeline, switch
from resilient.policies.adaptive import AdaptiveLimit
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.chaos import Chaos
from resilient.policies.fallback import Fallback
from resilient.policies.hedge import Hedge
from resilient.policies.hedge.delay import quantile
from resilient.policies.keyed import Keyed
from resilient.policies.ratelimit import RateLimit
from resilient.policies.retry import Retry
from resilient.policies.retry.backoff import FullJitter
from resilient.policies.timeout import Timeout
from resilient.presets import standard, standard_hedged

if TYPE_CHECKING:
    from resilient.observe.why import why

__version__ = "0.1.0"

__all__ = [
    "AdaptiveLimit",
    "Budget",
    "Bulkhead",
    "BulkheadFull",
    "Chaos",
    "CircuitBreaker",
    "CircuitOpen",
    "Classifier",
    "CurrentCall",
    "Deadlock",
    "Fallback",
    "FullJitter",
    "Hedge",
    "Keyed",
    "LimitExceeded",
    "Pipeline",
    "PipelineClosed",
    "PipelineError",
    "PipelineWarning",
    "RateLimit",
    "RateLimited",
    "Rejected",
    "ResilientError",
    "Retry",
    "TimedOut",
    "Timeout",
    "Verdict",
    "VirtualTimeError",
    "current_call",
    "current_priority",
    "deadline",
    "detached",
    "events",
    "priority",
    "quantile",
    "registry",
    "remaining",
    "standard",
    "standard_hedged",
    "switch",
    "why",
]


def __getattr__(name: str) -> Any:
    """`why` is imported when it is first needed: most programs never need it."""
    if name != "why":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resilient.observe.why import why

    globals()["why"] = why
    return why


def _explain(error: errors.ResilientError) -> dict[str, Any] | None:
    from resilient.observe.why import kept_with

    return kept_with(error)


errors.explain = _explain
