"""`clone` makes another policy with the same settings; a derived one shares the state of its original."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
    registry,
)
from resilient.core import Policy
from resilient.faults import Crash

BUDGET = Budget()
POLICIES = [
    Retry(5, wait=0.1, budget=BUDGET, name="again"),
    Hedge([0.1, 0.2], budget=BUDGET),
    Timeout(2, thread=True),
    Fallback(7, on=OSError),
    Chaos(Crash(), enabled=True, rate=0.5),
    CircuitBreaker(fail_max=3, slow=1, slow_rate=0.5, window_calls=20),
    Bulkhead(5, queue=3, queue_timeout=1, shadow=True),
    RateLimit(5, per=2, burst=3, max_wait=1),
    AdaptiveLimit(7, min_limit=2, queue=3),
    Keyed(lambda: Bulkhead(3), key=str, max_keys=9),
    Pipeline(Timeout(9), Pipeline(Retry(2)), classify=Classifier(ignore=KeyError)),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda each: type(each).__name__)
def test_clone_has_the_settings_and_facts_of_its_original(policy: Policy) -> None:
    """It is another object of the same class."""
    clone = policy.clone()
    assert clone is not policy
    assert type(clone) is type(policy)
    assert (clone.name, clone.describe(), clone.facts) == (policy.name, policy.describe(), policy.facts)


def test_clone_is_in_the_first_state() -> None:
    """A clone of an open circuit is closed; opening the clone does not open the original."""
    breaker = CircuitBreaker(fail_max=3)
    breaker.open()
    clone = breaker.clone()
    assert (breaker.state, clone.state) == ("open", "closed")
    breaker.close()
    clone.isolate()
    assert breaker.state == "closed"


def test_clone_shares_the_budget() -> None:
    """Objects that a policy was given are shared: a budget pays for all retries of a dependency."""
    assert Retry(budget=BUDGET).clone().budget is BUDGET


def test_clone_changes_the_arguments_that_it_is_asked_to() -> None:
    """`change` gets every argument, defaults included."""
    seen: list[str] = []

    def change(argument: str, value: Any) -> Any:
        seen.append(argument)
        return 9 if argument == "queue" else value

    assert Bulkhead(5).clone(change).describe() == Bulkhead(5, queue=9).describe()
    assert seen == ["max_concurrent", "queue", "queue_timeout", "shadow", "name"]


class Twice(Retry):
    """A policy with a constructor of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(2, **options)


def test_clone_of_a_subclass_is_made_by_its_constructor() -> None:
    """With the arguments that this constructor got, the collected ones too."""
    assert Twice(wait=1).clone().describe() == Twice(wait=1).describe()
    assert Twice(wait=1).clone(lambda _, value: value * 3).describe() == Twice(wait=3).describe()


def test_clone_of_a_pipeline_has_clones_of_its_policies() -> None:
    """A policy in two places is one policy in the clone, too; name, classifier and mode are the same."""
    inner = Pipeline(CircuitBreaker(), name="inner")
    pipeline = Pipeline(Retry(2), inner, name="cloned", classify=Classifier(ignore=KeyError))
    pipeline.switch("instant")
    clone = pipeline.clone()
    assert (clone.name, clone.mode, clone.classify) == ("cloned", "instant", pipeline.classify)
    assert not {*map(id, clone.policies)} & {*map(id, pipeline.policies)}
    assert clone.policies[1].name == "inner"
    assert clone.policies[1].policies[0] is not inner.policies[0]  # type: ignore[attr-defined]
    assert registry.pipeline("cloned") is pipeline


def test_clone_of_a_variation_is_made_of_its_policies() -> None:
    """A variation was not made by the constructor."""
    varied = Pipeline(Retry(2), Timeout(2)).with_(Timeout(1))
    assert repr(varied.clone()) == repr(varied)


def test_derived_policy_shares_state_and_is_cloned_with_its_own_arguments() -> None:
    """A `Keyed` with another key function finds the same gates."""
    keyed = Keyed(lambda: Bulkhead(3), key=str)
    derived = keyed._derived(key=repr)
    assert derived.gate_for("a") is keyed.gate_for("a")
    assert derived.clone()._init_args[1]["key"] is repr
    assert derived._as_pipeline() is not keyed._as_pipeline()


def test_policy_for_the_keys_of_a_table_is_made_once() -> None:
    """Each table has its own."""
    breaker = CircuitBreaker()

    def keyed() -> Keyed:
        return Keyed(breaker.clone, key=str)

    assert breaker._per_key("origin", keyed) is breaker._per_key("origin", keyed)
    assert breaker._per_key("origin", keyed) is not breaker._per_key("host", keyed)


class Notifying(Bulkhead, judgements=("choose",), effects=("notify",)):
    """A policy that names the roles of its arguments."""


def test_roles_of_arguments_are_inherited_unless_a_class_states_its_own() -> None:
    """They are arguments of the class statement."""
    assert (Notifying._judgements, Notifying._effects) == ({"choose"}, {"notify"})
    assert Notifying._example == Bulkhead._example
    assert (Twice._judgements, Twice._effects) == (Retry._judgements, Retry._effects)
