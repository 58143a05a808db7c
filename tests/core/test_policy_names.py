"""The public names of policies: what a user calls, and what an author of a policy overrides. All else is private."""

from __future__ import annotations

import pytest

from resilient import (
    AdaptiveLimit,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
)
from resilient.core import Policy
from resilient.faults import Crash

POLICY = {"clone", "describe", "facts", "meets", "name", "snapshot", "worst"}
WRAP = POLICY | {"run"}
GATE = POLICY | {"admit", "release", "settle", "shadow", "undo", "wait"}

NAMES = [
    (Retry(), WRAP | {"attempts", "budget", "max_retry_after", "nested", "shadow"}),
    (Hedge(1), WRAP | {"budget", "copies", "delays", "inline", "observes", "shadow", "thread"}),
    (Timeout(1), WRAP | {"abandon", "seconds", "thread"}),
    (Fallback(None), WRAP),
    (Chaos(Crash()), WRAP | {"experiment", "halted", "resume"}),
    (
        CircuitBreaker(),
        GATE
        | {"close", "half_open", "isolate", "open", "state"}
        | {"current_state", "fail_counter", "fail_max", "pybreaker"}
        | {"add_listener", "listeners", "remove_listener"},
    ),
    (Bulkhead(), GATE | {"max_concurrent", "queue", "queue_timeout"}),
    (RateLimit(1), GATE | {"burst", "max_wait", "per", "rate"}),
    (
        AdaptiveLimit(),
        GATE
        | {"current_limit", "initial", "limiter", "max_limit", "min_limit"}
        | {"queue", "queue_timeout", "queued", "shares"},
    ),
    (Keyed(Bulkhead, key=len), GATE | {"forget", "gate_for", "idle", "max_keys"}),
    (
        Pipeline(Retry()),
        POLICY
        | {"aclose", "attempts", "call", "classify", "close", "findings", "policies", "with_"}
        | {"listen", "listeners", "mode", "own_mode", "switch"},
    ),
]


@pytest.mark.parametrize(("policy", "names"), NAMES, ids=lambda each: type(each).__name__)
def test_public_names_of_a_policy_are_these(policy: Policy, names: set[str]) -> None:
    """A new public name is a decision: it is documented, and it stands here."""
    assert {name for name in dir(policy) if not name.startswith("_")} == names


def test_policies_have_few_public_names() -> None:
    """A reader of `dir()` finds what is for users among at most 25 names."""
    assert max(len(names) for _, names in NAMES) <= 25
    assert len(NAMES[0][1]) <= 15
